"""A simulated microscope over a stained smear, in colour: `ipython --profile-dir=profiles/smear`."""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("smear")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
