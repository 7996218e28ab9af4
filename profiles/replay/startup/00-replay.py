"""Your own focus stack as an instrument: `STACK=a.tif STEP_UM=0.3 ipython --profile-dir=profiles/replay`."""

import os

from bluesky_autofocus.session import start_interactive

step_um = os.environ.get("STEP_UM")
namespace, banner = start_interactive(
    "replay", stack=os.environ["STACK"], step_um=float(step_um) if step_um else None
)
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
