"""A simulated 60x microscope over living cells: `ipython --profile-dir=profiles/cells`."""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("cells")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
