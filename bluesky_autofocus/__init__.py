"""Autofocus for light and electron microscopes: ophyd devices, bluesky plans and document callbacks."""

from bluesky_autofocus.records import Reading, Reason, Verdict

__all__ = ["Reading", "Reason", "Verdict", "__version__"]

__version__ = "0.1.0"
