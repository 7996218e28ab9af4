"""Where each tile of a frame is in focus: tilt, curvature and astigmatism from the exposures of a search."""

from bluesky_autofocus.focus_map._astigmatism import Astigmatism
from bluesky_autofocus.focus_map._map import FocusMap
from bluesky_autofocus.focus_map._peaks import LEAST_POSITIONS
from bluesky_autofocus.focus_map._surface import FocusSurface

__all__ = ["LEAST_POSITIONS", "Astigmatism", "FocusMap", "FocusSurface"]
