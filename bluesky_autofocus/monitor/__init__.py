"""A page that shows a run while it goes on, to people in another room."""

from bluesky_autofocus.monitor._server import Monitor

__all__ = ["Monitor"]
