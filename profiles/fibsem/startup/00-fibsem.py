"""A SEM that fibsem drives: `ipython --profile-dir=profiles/fibsem`.

As it is, fibsem's demonstration microscope with a simulated specimen. For yours give the options of
`bluesky_autofocus.backends.sem.instrument`: vendor="thermo", ip_address="192.168.0.1", safe limits_um.
"""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("fibsem")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
