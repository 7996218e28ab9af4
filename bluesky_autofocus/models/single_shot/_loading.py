"""Read a single-shot model of whichever kind."""

from pathlib import Path

from bluesky_autofocus.models.card import ModelFileError, read_model
from bluesky_autofocus.models.single_shot._model import SingleShotModel
from bluesky_autofocus.models.single_shot.published import PublishedModel

__all__ = ["load_model"]

_KINDS = {kind.architecture: kind for kind in (SingleShotModel, PublishedModel)}


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
    if path is None:
        return SingleShotModel.load()
    card, arrays = read_model(path)
    if card.architecture not in _KINDS:
        raise ModelFileError(
            f"{path}: {card.name} is a {card.architecture!r} network: expected one that tells the defocus "
            f"from one frame, {' or '.join(map(repr, _KINDS))}"
        )
    return _KINDS[card.architecture](card, arrays)
