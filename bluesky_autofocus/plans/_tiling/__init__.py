"""Tile scans and time-lapses: many tiles or times, a focus that is foreseen, few exposures to find it."""

from bluesky_autofocus.plans._tiling._records import Visited
from bluesky_autofocus.plans._tiling._tile_scan import tile_scan
from bluesky_autofocus.plans._tiling._time_lapse import time_lapse

__all__ = ["Visited", "tile_scan", "time_lapse"]
