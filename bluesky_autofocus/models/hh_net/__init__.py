"""HH-Net (Ge et al.): which of seven classes of focus one colour frame of a stained smear belongs to."""

from bluesky_autofocus.models.hh_net._frame_model import ClassEstimate
from bluesky_autofocus.models.hh_net._loading import load_model
from bluesky_autofocus.models.hh_net._model import HHNetModel
from bluesky_autofocus.models.hh_net.classes import ClassTable

__all__ = ["ClassEstimate", "ClassTable", "HHNetModel", "load_model"]
