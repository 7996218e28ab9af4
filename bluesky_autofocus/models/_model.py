"""What all models share: a card, arrays, the file that holds both, and the optics of the frames they take."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.card import ModelCard, ModelFileError, read_model, write_model
from bluesky_autofocus.optics import LightOptics

__all__ = ["Model", "TolerantModel", "load_one_of", "part_of", "strange_parts"]

ModelT = TypeVar("ModelT", bound="Model")

_TOLERANCE = 0.05
_CHECKED = ("pixel_size_um", "magnification", "numerical_aperture")


class Model:
    """A network that can be used.

    Parameters
    ----------
    card : ModelCard
        What it is.
    arrays : mapping of str to ndarray
        Its weights, and what else it has learnt. They are kept in single precision.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture.
    """

    architecture: ClassVar[str]
    """Which cards it takes."""
    shipped: ClassVar[tuple[str, str] | None] = None
    """The package and the file in it of the weights that come with it."""

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        if card.architecture != self.architecture:
            raise ModelFileError(
                f"{card.name} is a {card.architecture!r} network: expected {self.architecture!r}"
            )
        self.card = card
        self.arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        self.full_scale: float | None = None

    @classmethod
    def load(cls, path: Path | str | None = None) -> Self:
        """Read a model.

        Parameters
        ----------
        path : path, optional
            By default the weights that come with the package.

        Raises
        ------
        ModelFileError
            If it is no model of this kind, damaged, or newer than this version, or if no weights of this
            kind come with the package.
        """
        if path is not None:
            return cls(*read_model(path))
        if cls.shipped is None:
            raise ModelFileError(f"no weights of {cls.architecture!r} come with the package: expected a file")
        return cls(*_read_shipped(*cls.shipped))

    def save(self, path: Path | str) -> ModelCard:
        """Write the model to one file and return its card with its hash."""
        self.card = write_model(path, self.card, self.arrays)
        return self.card

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {"model": self.card.name, "version": self.card.version, "full_scale": self.full_scale}

    @property
    def model_hash(self) -> str:
        """Of card and weights; empty before it has been saved."""
        return self.card.hash

    @contextmanager
    def _complete(self) -> Iterator[None]:
        """Tell what is raised while card and arrays are taken apart as what it is: something is missing."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{self.card.name} is incomplete: {error}") from error

    def _expect_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise a KeyError if an array is missing, or a ValueError if it has another shape."""
        for name, shape in shapes.items():
            if self.arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {self.arrays[name].shape}: expected {shape}")


class TolerantModel(Model):
    """A network for frames of the optics on its card and, within tolerances, of others.

    ``architecture_parameters`` may have ``pixel_size_um_tolerance``, ``magnification_tolerance`` ...:
    relative differences, by default 0.05. What the card leaves open does not matter.
    """

    def check(self, optics: LightOptics) -> None:
        """Make sure that frames of these optics are what the model was trained for.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        self.check_values({name: getattr(optics, name) for name in _CHECKED})

    def check_values(self, optics: Mapping[str, float]) -> None:
        """Make sure of those figures of the optics that are known, by their names in `LightOptics`.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        for name, found in optics.items():
            expected = getattr(self.card.inputs, name)
            tolerance = float(self.card.architecture_parameters.get(f"{name}_tolerance", _TOLERANCE))
            # also where it is not a number
            if expected is not None and not abs(found - expected) <= tolerance * expected:
                raise ModelMismatchError(
                    f"{name} is {found:g}: {self.card.name} was made for {expected:g} "
                    f"(within {100 * tolerance:.0f} %)"
                )


def part_of(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with that of a part and a point, by what follows."""
    start = f"{name}."
    return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}


def strange_parts(
    x: NDArray[np.floating],
    mean: NDArray[np.floating],
    axes: NDArray[np.floating],
    spread: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return how far features lie from what a training set explains: along its axes, or beside them.

    Parameters
    ----------
    x : ndarray, shape (n, size)
    mean, axes, spread : ndarray
        Of `principal_axes`.

    Returns
    -------
    ndarray, shape (n,)
        In deviations, root mean square; the larger of the two.
    """
    x = x - mean
    along = x @ axes.T
    rest = x - along @ axes
    inside = np.mean((along / spread) ** 2, axis=1)
    return np.sqrt(np.maximum(inside, np.mean(rest**2, axis=1) / spread[-1] ** 2))


@functools.cache
def _read_shipped(package: str, name: str) -> tuple[ModelCard, dict[str, NDArray[np.floating]]]:
    with resources.as_file(resources.files(package) / name) as path:
        return read_model(path)


def load_one_of(kinds: Sequence[type[ModelT]], path: Path | str | None, tells: str) -> ModelT:
    """Read a model of whichever kind.

    Parameters
    ----------
    kinds : sequence of type
        Subclasses of `Model`, the one whose weights come with the package first.
    path : path, optional
        By default those.
    tells : str
        What these models tell, for the error.

    Raises
    ------
    ModelFileError
        If it is none of them, damaged, or newer than this version.
    """
    if path is None:
        return kinds[0].load()
    card, arrays = read_model(path)
    for kind in kinds:
        if kind.architecture == card.architecture:
            return kind(card, arrays)
    raise ModelFileError(
        f"{path}: {card.name} is a {card.architecture!r} network: expected one that tells {tells}, "
        f"{' or '.join(repr(kind.architecture) for kind in kinds)}"
    )
