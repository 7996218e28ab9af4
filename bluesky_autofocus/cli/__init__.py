"""The command line: ``bluesky-autofocus VERB``."""

from bluesky_autofocus.cli._main import main

__all__ = ["main"]
