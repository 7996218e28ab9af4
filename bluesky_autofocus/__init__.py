"""Autofocus for light and electron microscopes: ophyd devices, bluesky plans and document callbacks."""

# TensorFlow carries an SQLite without full-text search: loaded before this one, no catalogue would open.
import sqlite3  # noqa: F401

from bluesky_autofocus.records import Reading, Reason, Verdict

__all__ = ["Reading", "Reason", "Verdict", "__version__"]

__version__ = "0.1.0"
