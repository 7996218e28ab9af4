"""Read a model of focus classes of whichever kind."""

from pathlib import Path

from bluesky_autofocus.models._model import load_one_of
from bluesky_autofocus.models.hh_net._model import HHNetModel
from bluesky_autofocus.models.hh_net.published import PublishedModel

__all__ = ["load_model"]


def load_model(path: Path | str | None = None) -> HHNetModel | PublishedModel:
    """Read a model.

    Parameters
    ----------
    path : path, optional
        By default the weights that come with the package.

    Raises
    ------
    ModelFileError
        If it is no model of focus classes, damaged, or newer than this version.
    """
    return load_one_of((HHNetModel, PublishedModel), path, "the class of focus")
