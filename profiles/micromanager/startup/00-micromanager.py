"""A microscope behind Micro-Manager: `ipython --profile-dir=profiles/micromanager`.

As it is, the simulated one. For yours replace the options by those of
`bluesky_autofocus.backends.micromanager.instrument`: cfg="MyScope.cfg", focus_limits_um=(0, 200), ...
"""

from bluesky_autofocus.session import start_interactive

namespace, banner = start_interactive("micromanager", cfg="simulated")
globals().update(namespace)
print(banner)  # noqa: T201 - the person at the shell reads it
