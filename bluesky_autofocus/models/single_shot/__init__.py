"""Single-shot autofocus (Pinkard et al. 2019): defocus from one frame under one off-axis LED."""

from bluesky_autofocus.models.single_shot._loading import load_model
from bluesky_autofocus.models.single_shot._model import SingleShotModel
from bluesky_autofocus.models.single_shot.features import FEATURES, make_features

__all__ = ["FEATURES", "SingleShotModel", "load_model", "make_features"]
