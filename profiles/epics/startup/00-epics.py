"""A microscope behind EPICS: `ipython --profile-dir=profiles/epics`.

As it stands it is the one that `python -m bluesky_autofocus.simulation.ioc microscope` serves in another
terminal; put the PVs of yours in their place.
"""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive(
    "epics",
    camera="SIM:",
    positioner="SIM:Z",
    limits_um=[-60.0, 60.0],
    leds="SIM:Leds:",
    led_rotation_deg=0.0,
    lamp="SIM:Lamp",
)
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
