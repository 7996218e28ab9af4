"""A simulated SEM, ready to be focused: `ipython --profile-dir=profiles/sem`."""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("sem")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
