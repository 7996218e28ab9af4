"""A simulated microscope with an LED array: `ipython --profile-dir=profiles/microscope`."""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("microscope")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
