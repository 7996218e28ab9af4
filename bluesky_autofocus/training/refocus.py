"""Train the ReFocus weights that the package ships: ``bluesky-autofocus train refocus``.

Simulates focal stacks of fluorescent nuclei, like those of BBBC006, and of stained smears, that are not in
the cache yet; trains on the CPU on every plane on both sides of focus, and gives the model with its card.
"""

import dataclasses
import time
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.refocus._model import UNetModel
from bluesky_autofocus.models.refocus.pairs import FocalPairs
from bluesky_autofocus.models.refocus.train import TrainingOptions, train_refocus
from bluesky_autofocus.simulation import (
    HOECHST_20X,
    FluorescentNuclei,
    LightCamera,
    Smear,
    SmearCamera,
    SmearOptics,
)
from bluesky_autofocus.training._simulating import CACHE, key_of, simulated
from bluesky_autofocus.widefield import Widefield

__all__ = ["DEFOCUS_UM", "OPTICS", "TRAINING", "VALIDATION", "StackRecipe", "focal_pairs", "train"]

OPTICS = HOECHST_20X
"""Of both kinds of frames, but for the wavelength."""
DEFOCUS_UM = np.linspace(30.0, -32.0, 32)
"""Of the planes z = 1 to 32: z = 16 is in focus, z = 1 the highest."""
_MADE = {"fluorescence": 1, "brightfield": 2}
"""Versions of how stacks are simulated: what is in the cache of an older one is not used."""
_OBJECTIVES = 16
"""So many objectives, each a little different, take the stacks of nuclei."""


@dataclasses.dataclass(frozen=True)
class StackRecipe:
    """Some fields and their focal stacks; fields of different recipes are different if their seeds are.

    Parameters
    ----------
    modality : str
        "fluorescence": nuclei. "brightfield": stained smears, each of the three colours a stack.
    first_seed, count : int
        Their seeds are consecutive.
    shape_px : tuple of int
        Of the frames.
    electrons : tuple of float
        Lowest and highest exposure: electrons a pixel in a nucleus, or where a smear is bare.
    spherical_waves : tuple of float
        Least and largest spherical aberration, in waves RMS.
    """

    modality: str
    first_seed: int
    count: int
    shape_px: tuple[int, int] = (256, 256)
    electrons: tuple[float, float] = (250.0, 2500.0)
    spherical_waves: tuple[float, float] = (0.04, 0.13)

    @property
    def key(self) -> str:
        """A name for the cache."""
        return key_of(
            f"refocus-{self.modality}",
            self,
            [dataclasses.asdict(self), DEFOCUS_UM.tolist(), _MADE[self.modality]],
        )


TRAINING = (
    StackRecipe("fluorescence", 600_000, 800),
    StackRecipe("brightfield", 610_000, 260, electrons=(4000.0, 16_000.0)),
)
VALIDATION = (
    StackRecipe("fluorescence", 605_000, 60),
    StackRecipe("brightfield", 615_000, 20, electrons=(4000.0, 16_000.0)),
)


@lru_cache(maxsize=_OBJECTIVES)
def _objective(number: int, spherical_waves: tuple[float, float]) -> Widefield:
    rng = np.random.default_rng((number, 31))
    na = OPTICS.numerical_aperture * rng.uniform(0.95, 1.05)
    optics = dataclasses.replace(OPTICS, numerical_aperture=na)
    return Widefield(optics, float(rng.uniform(*spherical_waves)))


def field_stacks(recipe: StackRecipe, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Simulate the focal stack of a field, or those of its three colours.

    Returns
    -------
    planes : ndarray, shape (n, 32, H, W)
        n is 1, or 3 for the colours of a smear.
    targets : ndarray, shape (n, H, W)
        The field in focus, without noise. Of a smear each colour's distances are those from its own focus.
    """
    rng = np.random.default_rng((seed, 29))
    electrons = float(np.exp(rng.uniform(*np.log(recipe.electrons))))
    if recipe.modality == "fluorescence":
        widefield = _objective(int(rng.integers(_OBJECTIVES)), recipe.spherical_waves)
        nuclei = FluorescentNuclei((seed,), recipe.shape_px, widefield)
        camera = LightCamera(
            electrons=electrons,
            gain=float(rng.uniform(0.3, 1.0)),
            vignetting=float(rng.uniform(0, 0.2)),
            dust_per_mpx=0.0,
        )
        planes = np.stack([camera.frame(nuclei.image(z_um), rng) for z_um in DEFOCUS_UM])
        return planes[None], camera.noiseless(nuclei.image(0.0))[None]
    optics = SmearOptics(
        numerical_aperture=OPTICS.numerical_aperture, spherical_waves=float(recipe.spherical_waves[1] / 2)
    )
    smear = Smear((seed,), recipe.shape_px, OPTICS.pixel_size_um, optics=optics)
    level = rng.uniform(0.75, 0.93)
    camera = SmearCamera(electrons=electrons, white=(level, level, level))
    planes, targets = [], []
    for colour, focus_um in enumerate(optics.colour_focus_um):
        stack = [camera.frame(smear.image_formation(focus_um + z_um), rng) for z_um in DEFOCUS_UM]
        planes.append([frame[..., colour] for frame in stack])
        in_focus = smear.image_formation(focus_um)[..., colour]
        targets.append(np.clip(255 * level * in_focus + 0.5, 0, 255).astype(np.uint8))
    return np.array(planes), np.array(targets)


def _stacks_of_field(job: tuple[StackRecipe, int]) -> tuple[NDArray[Any], NDArray[Any], float]:
    started = time.process_time()
    planes, targets = field_stacks(*job)
    return planes, targets, time.process_time() - started


def focal_pairs(recipe: StackRecipe, *, show: bool = True) -> FocalPairs:
    """Return the stacks of a recipe, which lie in files of the cache and are made where they do not."""
    folder = CACHE / recipe.key
    if not (folder / "facts.npz").exists():
        _make(recipe, folder, show)
    with np.load(folder / "facts.npz") as facts:
        return FocalPairs(
            np.load(folder / "planes.npy", mmap_mode="r"),
            np.load(folder / "targets.npy", mmap_mode="r"),
            DEFOCUS_UM,
            facts["field"],
            recipe.modality,
        )


def simulation_minutes(*recipes: StackRecipe) -> float:
    """Return how long it took to simulate recipes that are in the cache, in minutes of the processor."""
    return sum(float(np.load(CACHE / one.key / "facts.npz")["seconds"]) for one in recipes) / 60


def _make(recipe: StackRecipe, folder: Any, show: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    each = 1 if recipe.modality == "fluorescence" else 3
    kind = np.uint16 if recipe.modality == "fluorescence" else np.uint8
    n = recipe.count * each
    planes, targets = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (n, *shape))
        for name, shape in (
            ("planes", (len(DEFOCUS_UM), *recipe.shape_px)),
            ("targets", recipe.shape_px),
        )
    )
    seconds = 0.0
    for at, (_, (stack, in_focus, spent)) in enumerate(simulated(_stacks_of_field, recipe, show=show)):
        here = slice(at * each, (at + 1) * each)
        planes[here], targets[here] = stack, in_focus
        seconds += spent
    planes.flush()
    targets.flush()
    field = np.repeat(np.arange(recipe.first_seed, recipe.first_seed + recipe.count), each)
    np.savez(folder / "facts.npz", field=field, seconds=seconds)


def inputs(colour: str = "each") -> ModelInputs:
    """Return what networks take that are trained on these stacks, for their cards."""
    return ModelInputs.of(OPTICS, illumination="", patch_px=0, colour=colour)


def train(options: TrainingOptions | None = None, *, show: bool = True) -> UNetModel:
    """Train and calibrate the default model from its seeds."""
    sets, validation = ([focal_pairs(one, show=show) for one in of] for of in (TRAINING, VALIDATION))
    minutes = simulation_minutes(*TRAINING, *VALIDATION)
    nuclei, smears = TRAINING
    with shown_progress(show) as progress:
        return train_refocus(
            sets,
            inputs=inputs(),
            validation=validation,
            options=options,
            spherical_waves=sum(nuclei.spherical_waves) / 2,
            data=(
                f"simulated: {nuclei.count} fields of fluorescent nuclei and {smears.count} of stained "
                f"smears in three colours, {len(DEFOCUS_UM)} planes 2 um apart on both sides of focus; "
                f"calibrated on {sum(one.count for one in VALIDATION)} other fields; simulating took "
                f"{minutes:.1f} min of a core"
            ),
            valid_for=(
                "simulated fluorescent nuclei, and stained smears in bright field each colour by itself; "
                "20x/0.45, pixels of 0.656 um, up to 32 um from focus"
            ),
            name="refocus, simulated 20x",
            progress=progress,
        )
