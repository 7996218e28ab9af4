"""Read a single-shot model of whichever kind."""

from pathlib import Path

from bluesky_autofocus.models._model import load_one_of
from bluesky_autofocus.models.single_shot._model import SingleShotModel
from bluesky_autofocus.models.single_shot.published import PublishedModel

__all__ = ["load_model"]


def load_model(path: Path | str | None = None) -> SingleShotModel | PublishedModel:
    """Read a model.

    Parameters
    ----------
    path : path, optional
        By default the weights that come with the package.

    Raises
    ------
    ModelFileError
        If it is no single-shot model, damaged, or newer than this version.
    """
    return load_one_of((SingleShotModel, PublishedModel), path, "the defocus from one frame")
