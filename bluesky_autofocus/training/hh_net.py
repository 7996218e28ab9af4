"""Train the HH-Net weights that the package ships: ``bluesky-autofocus train hh-net``.

Simulates frames of stained smears, several of each field at random distances from focus, of which only the
features are kept; trains on the CPU, calibrates on other fields, and gives the model with its card.
"""

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import time

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.hh_net._model import HHNetModel
from bluesky_autofocus.models.hh_net.classes import ClassTable
from bluesky_autofocus.models.hh_net.features import EmptyRegionError, band_energies, handcrafted
from bluesky_autofocus.models.hh_net.train import TrainingOptions, train_hh_net
from bluesky_autofocus.simulation import CLASS_WIDTH_UM, Smear, SmearCamera, SmearOptics
from bluesky_autofocus.training.fields import CACHE

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
        How many these are.
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
    tails_um: tuple[float, float] = (-30.0, 60.0)
    tail_share: float = 0.1
    electrons: tuple[float, float] = (4000.0, 16_000.0)
    white: tuple[float, float] = (0.75, 0.93)
    white_balance: float = 0.02

    @property
    def key(self) -> str:
        """A name for the cache."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"smear-{self.first_seed}-{self.count}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def draw_um(self, rng: np.random.Generator) -> float:
        """Return a defocus."""
        (low, high), (lowest, highest) = self.defocus_um, self.tails_um
        if rng.random() >= self.tail_share:
            return float(rng.uniform(low, high))
        at = rng.uniform(0, low - lowest + highest - high)
        return float(lowest + at if at < low - lowest else high + at - (low - lowest))


TRAINING = tuple(SmearRecipe(300_000 + 70 * part, 70) for part in range(4))
"""2,800 frames: at least 350 of each class, as the paper has. Those beyond the limit, nearer to the specimen
than there is a class for, are there as examples of the last one, so that the network knows their side too."""
CALIBRATION = (SmearRecipe(340_000, 40),)
TEST = (SmearRecipe(350_000, 104, defocus_um=(-15.0, 27.0), tail_share=0.0),)
"""By which nothing is ever chosen: as many of each class, the totally blurred ones as wide as the others."""


_KEPT = ("energies", "handcrafted", "defocus_um", "field")


@dataclasses.dataclass(frozen=True, eq=False)
class SmearFrames:
    """What is kept of simulated frames, without those in which no region of interest was found.

    Parameters
    ----------
    energies : ndarray of float32, shape (n_frames, n_patches, 12)
        Band energies.
    handcrafted : ndarray of float32, shape (n_frames, 18)
        Features of the frames.
    defocus_um : ndarray, shape (n_frames,)
        How far from focus they were taken.
    field : ndarray of int, shape (n_frames,)
        Seed of the field that they show.
    empty : int
        How many had no region of interest.
    """

    energies: NDArray[np.float32]
    handcrafted: NDArray[np.float32]
    defocus_um: NDArray[np.float64]
    field: NDArray[np.int_]
    empty: int = 0

    def __len__(self) -> int:
        return len(self.defocus_um)

    @property
    def patches(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64], NDArray[np.intp]]:
        """What `train_hh_net` takes: the energies patch by patch, and which frame each patch belongs to."""
        frames = np.repeat(np.arange(len(self)), self.energies.shape[1])
        return self.energies.reshape(-1, self.energies.shape[2]), self.handcrafted, self.defocus_um, frames


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


def _features_of_field(
    job: tuple[SmearRecipe, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[float], float]:
    """Return energies, hand-crafted features (NaN where there is no region), defoci and seconds spent."""
    started = time.process_time()
    frames, defoci = field_frames(*job)
    energies, features = [], []
    for frame in frames:
        energies.append(band_energies(frame, PATCH_PX).reshape(-1, 12))
        try:
            features.append(handcrafted(frame))
        except EmptyRegionError:
            features.append(np.full(18, np.nan, np.float32))
    return np.stack(energies), np.stack(features), defoci, time.process_time() - started


def smear_frames(*recipes: SmearRecipe, show: bool = True) -> SmearFrames:
    """Return what is kept of the frames of recipes, from the disk where they were made before."""
    parts = []
    for recipe in recipes:
        path = CACHE / f"{recipe.key}.npz"
        if not path.exists():
            _make(recipe, path, show)
        with np.load(path) as kept:
            parts.append([kept[name] for name in _KEPT])
    energies, features, defocus_um, field = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = np.isfinite(features).all(axis=1)
    return SmearFrames(energies[found], features[found], defocus_um[found], field[found], int((~found).sum()))


def simulation_minutes(*recipes: SmearRecipe) -> float:
    """Return how long it took to simulate recipes that are in the cache, in minutes of the processor."""
    return sum(float(np.load(CACHE / f"{one.key}.npz")["seconds"]) for one in recipes) / 60


def _make(recipe: SmearRecipe, path: os.PathLike[str], show: bool) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    jobs = [(recipe, recipe.first_seed + index) for index in range(recipe.count)]
    energies, features, defoci, seconds = [], [], [], 0.0
    # "spawn": a library that has started threads cannot be forked
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        results = pool.imap(_features_of_field, jobs, chunksize=4)
        for found in tqdm(results, recipe.key, recipe.count, disable=not show, mininterval=5):
            *arrays, spent = found
            for kept, one in zip((energies, features, defoci), arrays, strict=True):
                kept.extend(one)
            seconds += spent
    np.savez(
        path,
        energies=np.array(energies),
        handcrafted=np.array(features),
        defocus_um=np.array(defoci),
        field=np.repeat([seed for _, seed in jobs], recipe.frames),
        seconds=seconds,
    )


def train(options: TrainingOptions | None = None, *, show: bool = True) -> HHNetModel:
    """Train and calibrate the default model from its seeds."""
    options = options or TrainingOptions()
    training, calibration = (smear_frames(*of, show=show) for of in (TRAINING, CALIBRATION))
    minutes = simulation_minutes(*TRAINING, *CALIBRATION)
    fields, others = (sum(one.count for one in of) for of in (TRAINING, CALIBRATION))
    optics = SmearOptics()
    with shown_progress(show) as progress:
        return train_hh_net(
            *training.patches,
            fields=training.field,
            table=TABLE,
            inputs=ModelInputs(
                illumination="",
                patch_px=PATCH_PX,
                pixel_size_um=PIXEL_UM,
                numerical_aperture=optics.numerical_aperture,
                magnification=optics.magnification,
                bit_depth=8,
                colour="rgb",
            ),
            options=options,
            validation=calibration.patches,
            validation_fields=calibration.field,
            data=(
                f"simulated: {len(training)} frames of {fields} stained smears at random distances "
                f"from focus, {training.empty} more without a region of interest left out; calibrated on "
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
