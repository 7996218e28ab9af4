"""The startup module of a queueserver: ``start-re-manager --startup-module=bluesky_autofocus.startup``.

Which instrument it connects says the environment variable ``BLUESKY_AUTOFOCUS_INSTRUMENT``, by default
``sem``; ``BLUESKY_AUTOFOCUS_OPTIONS`` may hold its options as JSON. In place of the name
``BLUESKY_AUTOFOCUS_CONFIG`` may be the file that describes it. Importing it opens a session.
"""

import json
import os

from bluesky_autofocus.queueing import queue_namespace
from bluesky_autofocus.session import open_session

globals().update(
    queue_namespace(
        open_session(
            os.environ.get("BLUESKY_AUTOFOCUS_INSTRUMENT"),
            config=os.environ.get("BLUESKY_AUTOFOCUS_CONFIG"),
            show=None,
            **json.loads(os.environ.get("BLUESKY_AUTOFOCUS_OPTIONS", "{}")),
        )
    )
)
