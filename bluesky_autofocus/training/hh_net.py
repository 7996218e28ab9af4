"""Train the HH-Net weights that the package ships: ``bluesky-autofocus train hh-net``.

Simulates frames of stained smears, several of each field at random distances from focus, of which only the
features are kept; trains on the CPU, calibrates on other fields, and gives the model with its card.
"""

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.hh_net._model import HHNetModel
from bluesky_autofocus.models.hh_net.classes import ClassTable
from bluesky_autofocus.models.hh_net.features import NAMES, EmptyRegionError, handcrafted
from bluesky_autofocus.models.hh_net.patches import coarse_of, patches_of, problem_of
from bluesky_autofocus.models.hh_net.train import FrameSet, TrainingOptions, train_hh_net
from bluesky_autofocus.models.hh_net.vectors import KINDS, PatchVectors
from bluesky_autofocus.simulation import CLASS_WIDTH_UM, Smear, SmearCamera, SmearOptics
from bluesky_autofocus.training._simulating import CACHE, key_of, simulated

__all__ = ["CALIBRATION", "PIXEL_UM", "TABLE", "TEST", "TRAINING", "SmearRecipe", "SmearFrames", "train"]

PIXEL_UM = 0.33
PATCH_PX = 300
TABLE = ClassTable.of_width(CLASS_WIDTH_UM)


@dataclasses.dataclass(frozen=True)
class SmearRecipe:
    """Some fields of stained smears; fields of different recipes are different if their seeds are.

    Parameters
    ----------
    first_seed, count : int
        Their seeds are consecutive.
    frames : int
        Of each field, each at a defocus, an exposure and a white balance of its own.
    frame_px : int
        Side of the frames.
    defocus_um : tuple of float
        Lowest and highest, equally likely in between.
    tails_um : tuple of float
        Lowest and highest of those few that lie outside `defocus_um`.
    tail_share : float
        Share of these.
    electrons : tuple of float
        Lowest and highest exposure.
    white : tuple of float
        Lowest and highest grey level of what is bare, full scale being 1.
    white_balance : float
        Deviation of red and blue from it, as a share.
    """

    first_seed: int
    count: int
    frames: int = 10
    frame_px: int = 900
    defocus_um: tuple[float, float] = (-16.5, 25.5)
    tails_um: tuple[float, float] = (-60.0, 60.0)
    tail_share: float = 0.3
    electrons: tuple[float, float] = (4000.0, 16_000.0)
    white: tuple[float, float] = (0.75, 0.93)
    white_balance: float = 0.02

    @property
    def key(self) -> str:
        """A name for the cache."""
        return key_of("smear", self, [dataclasses.asdict(self), _KEPT])

    def draw_um(self, rng: np.random.Generator) -> float:
        """Return a defocus."""
        (low, high), (lowest, highest) = self.defocus_um, self.tails_um
        if rng.random() >= self.tail_share:
            return float(rng.uniform(low, high))
        at = rng.uniform(0, low - lowest + highest - high)
        return float(lowest + at if at < low - lowest else high + at - (low - lowest))


TRAINING = tuple(SmearRecipe(400_000 + 200 * part, 200) for part in range(5))
"""10,000 frames, about a thousand of each class. A third lies farther out, so that the networks know the side
also of what is nearer to the specimen than has a class."""
CALIBRATION = (SmearRecipe(440_000, 100),)
TEST = tuple(
    SmearRecipe(450_000 + 300 * part, 300, defocus_um=(-15.0, 27.0), tail_share=0.0) for part in range(10)
)
"""By which nothing is ever chosen: as many of each class, the totally blurred ones as wide as the others."""

_KEPT = (*KINDS, "defocus_um", "field")


@dataclasses.dataclass(frozen=True, eq=False)
class SmearFrames:
    """What is kept of simulated frames, without those that show nothing stained.

    Parameters
    ----------
    spectra : ndarray of float32, shape (n_frames, n_patches, size)
        Of the patches.
    energies : ndarray of float32, shape (n_frames, n_patches, 12)
        Band energies of the patches.
    handcrafted : ndarray of float32, shape (n_frames, 18)
        Features of the frames.
    defocus_um : ndarray, shape (n_frames,)
        How far from focus they were taken.
    field : ndarray of int, shape (n_frames,)
        Seed of the field that they show.
    empty : int
        How many showed nothing.
    """

    spectra: NDArray[np.float32]
    energies: NDArray[np.float32]
    handcrafted: NDArray[np.float32]
    defocus_um: NDArray[np.float64]
    field: NDArray[np.int_]
    empty: int = 0

    def __len__(self) -> int:
        return len(self.defocus_um)

    def frame_set(self, kinds: Sequence[str]) -> FrameSet:
        """Return what `train_hh_net` takes, with vectors of these kinds of features."""
        shape = self.spectra.shape[:2]
        of_patches = {
            "spectra": self.spectra,
            "energies": self.energies,
            "handcrafted": np.broadcast_to(self.handcrafted[:, None], (*shape, len(NAMES))),
        }
        vectors = np.concatenate([of_patches[kind] for kind in kinds], axis=2)
        return FrameSet.of(
            vectors.reshape(-1, vectors.shape[2]),
            np.repeat(np.arange(len(self)), shape[1]),
            defocus_um=self.defocus_um,
            field=self.field,
        )


def field_frames(recipe: SmearRecipe, seed: int) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Simulate the frames of a field; return them with their defoci in um."""
    rng = np.random.default_rng((seed, 17))
    smear = Smear((seed,), (recipe.frame_px, recipe.frame_px), PIXEL_UM)
    frames, defoci = [], []
    for _ in range(recipe.frames):
        defoci.append(recipe.draw_um(rng))
        level = rng.uniform(*recipe.white)
        red, blue = np.clip(level * (1 + rng.normal(0, recipe.white_balance, 2)), 0.5, 0.97)
        camera = SmearCamera(
            electrons=math.exp(rng.uniform(*np.log(recipe.electrons))),
            white=(float(red), float(level), float(blue)),
        )
        frames.append(camera.frame(smear.image_formation(defoci[-1]), rng))
    return frames, defoci


def _features_of_field(job: tuple[SmearRecipe, int]) -> dict[str, Any]:
    """Return what is kept of the frames of a field, NaN where they show nothing, and the seconds spent."""
    started = time.process_time()
    frames, defoci = field_frames(*job)
    kept: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for frame in frames:
        corners = patches_of(frame, PATCH_PX)
        for kind in KINDS[:2]:
            kept[kind].append(PatchVectors(PATCH_PX, (kind,)).of(frame, corners))
        try:
            if problem_of(frame, coarse_of(frame)) is not None:
                raise EmptyRegionError
            kept["handcrafted"].append(handcrafted(frame))
        except EmptyRegionError:
            kept["handcrafted"].append(np.full(len(NAMES), np.nan, np.float32))
    return {**kept, "defocus_um": defoci, "seconds": time.process_time() - started}


def smear_frames(*recipes: SmearRecipe, show: bool = True) -> SmearFrames:
    """Return what is kept of the frames of recipes, from the disk where they were made before."""
    parts = []
    for recipe in recipes:
        path = CACHE / f"{recipe.key}.npz"
        if not path.exists():
            _make(recipe, path, show)
        with np.load(path) as kept:
            parts.append([kept[name] for name in _KEPT])
    arrays = dict(zip(_KEPT, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    found = np.isfinite(arrays["handcrafted"]).all(axis=1)
    return SmearFrames(**{name: one[found] for name, one in arrays.items()}, empty=int((~found).sum()))


def simulation_minutes(*recipes: SmearRecipe) -> float:
    """Return how long it took to simulate recipes that are in the cache, in minutes of the processor."""
    return sum(float(np.load(CACHE / f"{one.key}.npz")["seconds"]) for one in recipes) / 60


def _make(recipe: SmearRecipe, path: os.PathLike[str], show: bool) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    kept: dict[str, list[Any]] = {}
    seeds = []
    for seed, found in simulated(_features_of_field, recipe, chunksize=4, show=show):
        seeds.append(seed)
        for name, values in found.items():
            kept.setdefault(name, []).append(values)
    seconds = sum(kept.pop("seconds"))
    arrays: dict[str, Any] = {
        name: np.concatenate([np.asarray(one) for one in values]) for name, values in kept.items()
    }
    np.savez(path, **arrays, field=np.repeat(seeds, recipe.frames), seconds=seconds)


def smear_inputs() -> ModelInputs:
    """Return what networks take that are trained on these frames, for their cards."""
    optics = SmearOptics()
    return ModelInputs(
        illumination="",
        patch_px=PATCH_PX,
        pixel_size_um=PIXEL_UM,
        numerical_aperture=optics.numerical_aperture,
        magnification=optics.magnification,
        bit_depth=8,
        colour="rgb",
    )


def train(
    options: TrainingOptions | None = None, *, kinds: Sequence[str] = ("spectra",), show: bool = True
) -> HHNetModel:
    """Train and calibrate the default model from its seeds, or one that is told other kinds of features."""
    options = options or TrainingOptions()
    training, calibration = (smear_frames(*of, show=show) for of in (TRAINING, CALIBRATION))
    minutes = simulation_minutes(*TRAINING, *CALIBRATION)
    fields, others = (sum(one.count for one in of) for of in (TRAINING, CALIBRATION))
    with shown_progress(show) as progress:
        return train_hh_net(
            training.frame_set(kinds),
            vectors=PatchVectors(PATCH_PX, tuple(kinds)),
            table=TABLE,
            inputs=smear_inputs(),
            options=options,
            validation=calibration.frame_set(kinds),
            data=(
                f"simulated: {len(training)} frames of {fields} stained smears at random distances from "
                f"focus, {training.empty} more that show nothing left out; calibrated on "
                f"{len(calibration)} frames of {others} others; simulating took {minutes:.1f} min of a core"
            ),
            valid_for=(
                "simulated stained smears in bright field, 20x/0.4, with the chromatic and spherical "
                "aberration of that objective; classes of focus that are "
                f"{CLASS_WIDTH_UM:g} um wide"
            ),
            name="hh-net, simulated smear",
            progress=progress,
        )
