"""A simulated fluorescence microscope over nuclei: `ipython --profile-dir=profiles/nuclei`."""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("nuclei")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
