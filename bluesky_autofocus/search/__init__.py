"""Focus searches along one axis: pure decisions, without messages or devices."""

from bluesky_autofocus.search._approach import ROOM, ApproachLaw
from bluesky_autofocus.search._blur import BlurTrigger
from bluesky_autofocus.search._brent import LEAST_BRENT_EXPOSURES, ScalarSolver, bounded_brent, brent_search
from bluesky_autofocus.search._grid import LEAST_GRID_EXPOSURES, grid_search
from bluesky_autofocus.search._inverted import inverted
from bluesky_autofocus.search._key_frames import (
    KeyFrameSearch,
    Plane,
    Sighting,
    key_frame_search,
    spacing_of,
)
from bluesky_autofocus.search._octaves import LEAST_OCTAVE_EXPOSURES, octave_search
from bluesky_autofocus.search._passage import Passage
from bluesky_autofocus.search._peak import FocusCurve, judge
from bluesky_autofocus.search._samples import Conclusion, Sample, Search
from bluesky_autofocus.search._sweep import LEAST_SWEEP_EXPOSURES, passing_search, sweep_search
from bluesky_autofocus.search._tracking import FocusTracker, TrackingLaw

__all__ = [
    "LEAST_BRENT_EXPOSURES",
    "LEAST_GRID_EXPOSURES",
    "LEAST_OCTAVE_EXPOSURES",
    "LEAST_SWEEP_EXPOSURES",
    "ROOM",
    "ApproachLaw",
    "BlurTrigger",
    "Conclusion",
    "FocusCurve",
    "FocusTracker",
    "KeyFrameSearch",
    "Passage",
    "Plane",
    "Sample",
    "ScalarSolver",
    "Search",
    "Sighting",
    "TrackingLaw",
    "bounded_brent",
    "brent_search",
    "grid_search",
    "inverted",
    "judge",
    "key_frame_search",
    "octave_search",
    "passing_search",
    "spacing_of",
    "sweep_search",
]
