"""``python -m bluesky_autofocus`` is the command line."""

import sys

from bluesky_autofocus.cli import main

sys.exit(main())
