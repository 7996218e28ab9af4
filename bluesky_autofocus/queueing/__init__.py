"""What bluesky-queueserver needs: plans whose arguments are JSON, and a namespace for its worker."""

from bluesky_autofocus.queueing._namespace import queue_namespace
from bluesky_autofocus.queueing._plans import queued

__all__ = ["queue_namespace", "queued"]
