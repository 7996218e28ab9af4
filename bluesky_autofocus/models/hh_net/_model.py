"""The default HH-Net: which class of focus a frame of a stained smear belongs to, and when to believe it.

Small enough for real time: no convolutions, but a few dense networks that see the band energies of a patch
and the hand-crafted features of its frame. Patches vote (`voting`), and the card's table tells which defocus
a class means (`classes`).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models._dense import DenseNetwork
from bluesky_autofocus.models.card import ModelCard, ModelFileError, read_model, write_model
from bluesky_autofocus.models.hh_net.classes import INDICES, ClassTable, name_of
from bluesky_autofocus.models.hh_net.features import (
    GREY,
    NAMES,
    EmptyRegionError,
    as_colour,
    energies_of,
    handcrafted,
    patches_of,
)
from bluesky_autofocus.models.hh_net.voting import WAYS, certainty, vote, winner
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["ARCHITECTURE", "SHIPPED", "ClassEstimate", "HHNetModel", "PatchFacts"]

ARCHITECTURE = "hh-net-features-1"
SHIPPED = "weights/simulated-smear.h5"
"""The weights that come with the package, beside this module."""

INPUT_LIMIT = 4.0
"""Of the networks' inputs, in deviations: the shape of a region lies far out in frames of another size."""

_DARK_LEVEL = 3.0
"""Grey level: a bright field is never that dark on average in any colour."""
_MOST_CLIPPED = 0.5
"""Share of the pixels of a colour that may be at the highest grey level. Where what is bare is clipped the
cells are still as sharp as they are."""
_LOOKED_AT = 256
"""About as many rows and columns are looked at to tell black, saturated and uniform frames."""
_COARSE_PX = 8
"""Side of the squares by whose mean the content of patches is told, as on the last level of energies."""
_PIXEL_TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class ClassEstimate:
    """What a model makes of a frame.

    Parameters
    ----------
    index : int or None
        Distance index of the class, 4 to -2. None where the frame was refused unseen.
    name : str
        Of the class.
    probabilities : tuple of float
        Of the classes, index 4 first.
    certainty : float
        Of these, from 0 to 1.
    expected_index : float
        Mean index by the probabilities.
    sigma_index : float
        Deviation of the index by the probabilities.
    defocus_um : float
        Mean defocus by the probabilities, each class taken to be at its middle: image plane minus focus.
        Index 4 has no middle; its figure tells the side.
    sigma_um : float
        Its standard uncertainty: between the classes, and within each.
    patches : int
        How many were looked at.
    accepted : bool
        Whether the figures are to be believed.
    reason : Reason
        Why not, where they are not.
    """

    index: int | None
    name: str
    probabilities: tuple[float, ...]
    certainty: float
    expected_index: float
    sigma_index: float
    defocus_um: float
    sigma_um: float
    patches: int
    accepted: bool = True
    reason: Reason = Reason.OK

    @classmethod
    def refused(cls, reason: Reason) -> "ClassEstimate":
        """Return the estimate that is none, with the reason."""
        nan = math.nan
        return cls(None, "", (), nan, nan, nan, nan, nan, 0, False, reason)


@dataclasses.dataclass(frozen=True, eq=False)
class PatchFacts:
    """What the networks say of the patches of a frame, before they vote.

    Parameters
    ----------
    probabilities : ndarray, shape (n_patches, 7)
        Of the classes.
    strangeness : float
        Distance of the patches from what the training set explains; up to 1 for patches like those.
    """

    probabilities: NDArray[np.float64]
    strangeness: float


class HHNetModel:
    """Tells which class of focus a colour frame belongs to.

    Made by `load`, or by training and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is. ``features.parameters`` has ``patch_px``, ``levels``, ``binning`` and ``seed``;
        ``architecture_parameters`` has ``classes`` (a `ClassTable` as dict), ``networks``, ``most_patches``,
        ``temperature``, ``strangeness_limit``, ``least_certainty`` and ``most_disagreement``.
    arrays : mapping of str to ndarray
        ``network0.NAME``, ``network1.NAME`` ...: of dense networks. ``mean``, ``deviation`` (size,) of the
        inputs: the energies, then the hand-crafted features. ``familiar.mean`` (7, n_energies) and
        ``familiar.axes`` (7, n_energies, n_energies): of the training set's standardised energies in each
        class, principal axes in columns, each divided by the deviation along it.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        if card.architecture != ARCHITECTURE:
            raise ModelFileError(f"{card.name} is a {card.architecture!r} network: expected {ARCHITECTURE!r}")
        self.card, self.arrays = card, dict(arrays)
        known = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        try:
            said, options = card.architecture_parameters, card.features.parameters
            self.table = ClassTable.from_dict(said["classes"])
            self.patch_px, self.levels = int(options["patch_px"]), int(options["levels"])
            self._binning, self._seed = int(options["binning"]), int(options["seed"])
            self._networks = [
                DenseNetwork.from_arrays(_part_of(known, f"network{number}"))
                for number in range(int(said["networks"]))
            ]
            self.most_patches = int(said["most_patches"])
            self._temperature, self._limit = float(said["temperature"]), float(said["strangeness_limit"])
            self._least_certainty = float(said["least_certainty"])
            self._most_disagreement = float(said["most_disagreement"])
            self._mean, self._deviation = known["mean"], known["deviation"]
            self._centres, self._axes = known["familiar.mean"], known["familiar.axes"]
            energies, size = 3 * self.levels, 3 * self.levels + len(NAMES)
            if not self._networks or any(
                (network.inputs, network.outputs) != (size, len(INDICES)) for network in self._networks
            ):
                raise ValueError(f"expected networks of {size} inputs and {len(INDICES)} outputs")
            for name, shape in (
                ("mean", (size,)),
                ("deviation", (size,)),
                ("familiar.mean", (len(INDICES), energies)),
                ("familiar.axes", (len(INDICES), energies, energies)),
            ):
                if known[name].shape != shape:
                    raise ValueError(f"{name} has shape {known[name].shape}: expected {shape}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{card.name} is incomplete: {error}") from error
        self.full_scale: float | None = None
        self._vote, self._grey = "certainty", "refuse"
        # class 4 is taken for as wide as its neighbour, in its width as in its middle
        edges = np.array(self.table.edges_um)
        widths = np.append(np.diff(edges), edges[-1] - edges[-2])[::-1]
        self._middles_um = np.array([self.table.defocus_of(index) for index in INDICES])
        self._within_um2 = widths**2 / 12

    # From and to files

    @classmethod
    def load(cls, path: Path | str | None = None) -> "HHNetModel":
        """Read a model.

        Parameters
        ----------
        path : path, optional
            By default the weights that come with the package, for simulated stained smears at 20x.

        Raises
        ------
        ModelFileError
            If it is no model of this kind, damaged, or newer than this version.
        """
        return cls(*(_shipped() if path is None else read_model(path)))

    def save(self, path: Path | str) -> ModelCard:
        """Write the model to one file and return its card with its hash."""
        self.card = write_model(path, self.card, self.arrays)
        return self.card

    # What it is, and what may be chosen

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {
            "model": self.card.name,
            "version": self.card.version,
            "vote": self.vote,
            "grey": self.grey,
            "most_patches": self.most_patches,
            "full_scale": self.full_scale,
        }

    @property
    def model_hash(self) -> str:
        """Of card and weights."""
        return self.card.hash

    @property
    def vote(self) -> str:
        """How patches vote: "hard", "linear" or, by default, "certainty"."""
        return self._vote

    @vote.setter
    def vote(self, way: str) -> None:
        if way not in WAYS:
            raise ValueError(f"vote is {way!r}: expected one of {', '.join(WAYS)}")
        self._vote = way

    @property
    def grey(self) -> str:
        """What is done with a grey frame: by default "refuse"; "repeat" takes it for one of colours."""
        return self._grey

    @grey.setter
    def grey(self, what: str) -> None:
        if what not in GREY:
            raise ValueError(f"grey is {what!r}: expected one of {', '.join(GREY)}")
        self._grey = what

    def check(self, optics: LightOptics) -> None:
        """Make sure that frames of these optics are what the model was trained for.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        names = ("pixel_size_um", "magnification", "numerical_aperture")
        self.check_values({name: getattr(optics, name) for name in names})

    def check_values(self, optics: Mapping[str, float]) -> None:
        """Make sure of those figures of the optics that are known, by their names in `LightOptics`.

        Raises
        ------
        ModelMismatchError
            Naming what differs.
        """
        for name, found in optics.items():
            expected = getattr(self.card.inputs, name)
            tolerance = float(self.card.architecture_parameters.get(f"{name}_tolerance", _PIXEL_TOLERANCE))
            # also where it is not a number
            if expected is not None and not abs(found - expected) <= tolerance * expected:
                raise ModelMismatchError(
                    f"{name} is {found:g}: {self.card.name} was made for {expected:g} "
                    f"(within {100 * tolerance:.0f} %)"
                )

    # What it says

    def estimate(self, frame: NDArray[Any]) -> ClassEstimate:
        """Return the class of a frame, and whether to believe it.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
            RGB as the camera gave it.

        Raises
        ------
        ValueError
            If it is not one frame of colours, or smaller than a patch.
        """
        colour = as_colour(frame, self.grey)
        corners = patches_of(colour, self.patch_px).reshape(-1, 2)  # refuses frames that are too small
        problem = problem_of_colours(colour, self.full_scale)
        if problem is not None:
            return ClassEstimate.refused(problem)
        try:
            of_frame = handcrafted(colour, seed=self._seed, binning=self._binning)
        except EmptyRegionError:
            return ClassEstimate.refused(Reason.EMPTY)
        if len(corners) > self.most_patches:
            corners = corners[busiest(colour, corners, self.patch_px, self.most_patches)]
        return self.judge(self.facts(self.energies(colour, corners), of_frame))

    # In parts, for training and benchmarks

    def energies(self, frame: NDArray[np.uint8], corners: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the band energies of patches with these top left corners, shape (n_patches, levels * 3)."""
        side = self.patch_px
        return np.stack(
            [energies_of(frame[y : y + side, x : x + side], self.levels) for y, x in corners.tolist()]
        )

    def facts(self, energies: NDArray[np.floating], of_frame: NDArray[np.floating]) -> PatchFacts:
        """Return what the networks say.

        Parameters
        ----------
        energies : ndarray, shape (n_patches, levels * 3)
            Of the patches of a frame.
        of_frame : ndarray, shape (18,)
            Its hand-crafted features; or those of the frame of each patch, shape (n_patches, 18).
        """
        both = np.broadcast_to(of_frame, (len(energies), len(NAMES)))
        x = (np.concatenate([energies, both], axis=1) - self._mean) / self._deviation
        inputs = np.clip(x, -INPUT_LIMIT, INPUT_LIMIT)
        p = np.mean([_softmax(network(inputs) / self._temperature) for network in self._networks], axis=0)
        strange = self.strange_parts(energies)
        return PatchFacts(p, float(np.median(strange) / self._limit))

    def strange_parts(self, energies: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how far the energies of patches lie from what the training set explains, (n_patches,).

        Along the principal axes of a class, in deviations (root mean square), of the class that they are
        nearest to. Of all classes together the axes would tell less: to the eye of these a frame whose red
        and blue are swapped is one on the other side of focus.
        """
        n = energies.shape[1]
        x = (energies - self._mean[:n]) / self._deviation[:n]
        along = np.einsum("cpi,cij->cpj", x - self._centres[:, None], self._axes)
        return np.sqrt(np.mean(along**2, axis=2).min(axis=0))

    def judge(self, facts: PatchFacts) -> ClassEstimate:
        """Let the patches vote, and decide whether to believe the outcome."""
        p = vote(facts.probabilities, self.vote)
        number, sure = int(winner(p)), float(certainty(p))
        index = np.array(INDICES)
        expected, defocus_um = float(p @ index), float(p @ self._middles_um)
        sigma_um = math.sqrt(p @ ((self._middles_um - defocus_um) ** 2 + self._within_um2))
        reason = Reason.OK
        if not facts.strangeness <= 1:
            reason = Reason.UNFAMILIAR
        elif sure < self._least_certainty or disagreement(facts.probabilities, number) > (
            self._most_disagreement
        ):
            reason = Reason.UNCERTAIN
        return ClassEstimate(
            index=INDICES[number],
            name=name_of(INDICES[number]),
            probabilities=tuple(map(float, p)),
            certainty=sure,
            expected_index=expected,
            sigma_index=math.sqrt(p @ (index - expected) ** 2),
            defocus_um=defocus_um,
            sigma_um=sigma_um,
            patches=len(facts.probabilities),
            accepted=reason is Reason.OK,
            reason=reason,
        )


def disagreement(p: NDArray[np.float64], number: int) -> float:
    """Return which share of the patches, weighted by certainty, is more than one class off a class.

    Parameters
    ----------
    p : ndarray, shape (n_patches, 7)
        Probabilities.
    number : int
        Place of the class among them.
    """
    weight = certainty(p) + 1e-6  # so that patches without any count as one another
    return float(weight @ (np.abs(winner(p) - number) > 1) / weight.sum())


def problem_of_colours(frame: NDArray[np.uint8], full_scale: float | None = None) -> Reason | None:
    """Return why no focus can be told from a frame, or None: each of its colours has to be usable.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    full_scale : float, optional
        Grey level at which the camera saturates, by default 255.
    """
    every = max(1, min(frame.shape[:2]) // _LOOKED_AT)
    for colour in range(3):
        some = np.ascontiguousarray(frame[::every, ::every, colour])
        quality = examine_frame(some, full_scale=full_scale, dark_level=_DARK_LEVEL)
        if quality.problem is not None:
            return Reason(quality.problem)
        if quality.saturated_fraction > _MOST_CLIPPED:
            return Reason.SATURATED
    return None


def busiest(frame: NDArray[np.uint8], corners: NDArray[np.intp], side: int, most: int) -> NDArray[np.intp]:
    """Return which patches have the most stained content, the one with most first.

    As `features.choose` does by the energies of the coarsest level, of the frame made smaller beforehand: a
    tenth of the time of the energies of all patches.

    Parameters
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
    corners : ndarray of int, shape (n, 2)
        Top left corners of the patches.
    side : int
        Of a patch.
    most : int
        How many.
    """
    height, width = (max(n // _COARSE_PX, 1) for n in frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    x = np.log(small + 8)
    energy = ((x - cv2.blur(x, (3, 3))) ** 2).sum(axis=2)
    sums: Any = cv2.integral(energy)
    scale = np.array([height / frame.shape[0], width / frame.shape[1]])
    (top, left), (bottom, right) = (np.rint(at * scale).astype(np.intp).T for at in (corners, corners + side))
    content = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.argsort(-content, kind="stable")[:most]


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _part_of(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    start = f"{name}."
    return {key.removeprefix(start): one for key, one in arrays.items() if key.startswith(start)}


@functools.cache
def _shipped() -> tuple[ModelCard, dict[str, NDArray[np.floating]]]:
    with resources.as_file(resources.files("bluesky_autofocus.models.hh_net") / SHIPPED) as path:
        return read_model(path)
