"""Focus searches along one axis: pure decisions, without messages or devices."""

from bluesky_autofocus.search._blur import BlurTrigger
from bluesky_autofocus.search._brent import LEAST_BRENT_EXPOSURES, ScalarSolver, bounded_brent, brent_search
from bluesky_autofocus.search._inverted import inverted
from bluesky_autofocus.search._peak import FocusCurve, judge
from bluesky_autofocus.search._samples import Conclusion, Sample, Search
from bluesky_autofocus.search._sweep import LEAST_SWEEP_EXPOSURES, sweep_search

__all__ = [
    "LEAST_BRENT_EXPOSURES",
    "LEAST_SWEEP_EXPOSURES",
    "BlurTrigger",
    "Conclusion",
    "FocusCurve",
    "Sample",
    "ScalarSolver",
    "Search",
    "bounded_brent",
    "brent_search",
    "inverted",
    "judge",
    "sweep_search",
]
