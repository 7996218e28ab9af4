"""Read whichever model there is."""

from pathlib import Path

from bluesky_autofocus.models._model import load_one_of
from bluesky_autofocus.models.refocus._frame_model import RefocusModel
from bluesky_autofocus.models.refocus._model import UNetModel
from bluesky_autofocus.models.refocus.published import PublishedRefocusModel

__all__ = ["load_model"]


def load_model(path: Path | str | None = None) -> RefocusModel:
    """Read a model that refocuses, the default one or the published one.

    Parameters
    ----------
    path : path, optional
        By default the weights that come with the package.

    Raises
    ------
    ModelFileError
        If it is none of them, damaged, or newer than this version.
    """
    return load_one_of((UNetModel, PublishedRefocusModel), path, "what a frame looks like in focus")
