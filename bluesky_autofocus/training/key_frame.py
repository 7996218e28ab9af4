"""Train the key-frame weights that the package ships: ``bluesky-autofocus train key-frame``.

Simulates focal stacks of living cells, several under each field of view, that are not in the cache yet,
trains on the CPU, calibrates on other fields, and gives the model with its card.
"""

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.key_frame._model import KeyFrameModel
from bluesky_autofocus.models.key_frame.cells import MOST_CELLS, crops, find_cells, relative
from bluesky_autofocus.models.key_frame.train import CellStacks, TrainingOptions, train_key_frame
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, Condenser, LightCamera, specimen
from bluesky_autofocus.training._simulating import CACHE, key_of, simulated

__all__ = ["CALIBRATION", "OPTICS", "TRAINING", "CellRecipe", "cell_stacks", "field_stack", "train"]

OPTICS = LightOptics(
    numerical_aperture=1.3, wavelength_um=0.55, pixel_size_um=0.108, magnification=60, refractive_index=1.4
)
PATCH_PX = 128
STORED_PX = 144
"""Side of the patches that are kept: there is room to shift what is seen of them."""
_OBJECTIVES = ((1.2, 1.33), (1.3, 1.4), (1.4, 1.515))
"""Numerical aperture and refractive index of the immersion."""


@dataclasses.dataclass(frozen=True)
class CellRecipe:
    """Some fields of living cells; fields of different recipes are different if their seeds are.

    Parameters
    ----------
    first_seed, count : int
        Their seeds are consecutive.
    planes : int
        Of each stack.
    step_um : tuple of float
        Smallest and largest distance of the planes.
    frame_px : int
        Side of the frames.
    electrons : tuple of float
        Lowest and highest exposure.
    condenser_na : tuple of float
        Narrowest and widest light.
    spherical_waves : float
        Largest spherical aberration.
    """

    first_seed: int
    count: int
    planes: int = 37
    step_um: tuple[float, float] = (0.225, 0.295)
    frame_px: int = 384
    electrons: tuple[float, float] = (2000.0, 20_000.0)
    condenser_na: tuple[float, float] = (0.25, 0.6)
    spherical_waves: float = 0.02

    @property
    def key(self) -> str:
        """A name for the cache."""
        return key_of("living", self, dataclasses.asdict(self))


TRAINING = CellRecipe(200_000, 1400)
CALIBRATION = CellRecipe(240_000, 150)


def field_stack(recipe: CellRecipe, seed: int) -> tuple[NDArray[Any], float, float, list[tuple[float, ...]]]:
    """Simulate the focal stack of a field.

    Returns
    -------
    frames : ndarray of uint16, shape (planes, frame_px, frame_px)
    focus : float
        Position of the field's focus, in planes from the first one.
    step_um : float
        Between the planes.
    cells : list of (row, column, radius, focus)
        Where the nuclei are, in pixels and planes.
    """
    rng = np.random.default_rng((seed, 13))
    na, index = _OBJECTIVES[rng.integers(len(_OBJECTIVES))]
    optics = dataclasses.replace(OPTICS, numerical_aperture=na, refractive_index=index)
    light = Condenser(rng.uniform(*recipe.condenser_na), angle_deg=rng.uniform(0, 360))
    spherical, *others = rng.uniform(-1, 1, 3) * (recipe.spherical_waves, 0.01, 0.01)
    formation = AbbeImageFormation(
        optics,
        (recipe.frame_px, recipe.frame_px),
        Aberrations(spherical, *others),
        steepest_na=light.numerical_aperture,
    )
    made = specimen("live_cells", (seed,), formation)
    view = formation.view(made)
    step_um = rng.uniform(*recipe.step_um)
    middle = (recipe.planes - 1) / 2 + rng.uniform(-0.5, 0.5)
    heights = view.focus_um + (np.arange(recipe.planes) - middle) * step_um
    camera = LightCamera(electrons=rng.uniform(*recipe.electrons), vignetting=rng.uniform(0, 0.35), seed=seed)
    frames = camera.frame(view.intensity(light.na_xy, heights, light.weights), rng)
    pixel_um = optics.pixel_size_um
    cells = [
        (
            one.y_um / pixel_um,
            one.x_um / pixel_um,
            one.radius_um / pixel_um,
            middle + (one.focus_um - view.focus_um) / step_um,
        )
        for one in made.cells
    ]
    return frames, float(middle), float(step_um), cells


def _cells_of_field(job: tuple[CellRecipe, int]) -> tuple[NDArray[np.int8], list[float], float]:
    recipe, seed = job
    frames, focus, step_um, cells = field_stack(recipe, seed)
    planes = relative(frames)
    # cells are found by the few planes of a scan, which is anywhere about the focus
    rng = np.random.default_rng((seed, 14))
    first = int(rng.integers(recipe.planes - 7))
    centres = find_cells(planes[first : first + 7], STORED_PX)
    known = []
    for row, column in centres:
        near = [one for one in cells if np.hypot(one[0] - row, one[1] - column) < max(one[2], 40)]
        nearest = min(near, key=lambda one: np.hypot(one[0] - row, one[1] - column), default=None)
        known.append(focus if nearest is None else nearest[3])
    return CellStacks.stored(crops(planes, centres, STORED_PX)), known, step_um


def cell_stacks(recipe: CellRecipe, *, show: bool = True) -> CellStacks:
    """Return the cells of the fields of a recipe, from the disk where they were made before."""
    folder = CACHE / recipe.key
    if not (folder / "facts.npz").exists():
        _make(recipe, folder, show)
    with np.load(folder / "facts.npz") as facts:
        n = len(facts["focus"])
        patches = np.load(folder / "patches.npy", mmap_mode="r")[:n]
        return CellStacks(patches, facts["focus"], facts["step_um"], facts["field"])


def simulation_minutes(*recipes: CellRecipe) -> float:
    """Return how long it took to simulate recipes that are in the cache."""
    return sum(float(np.load(CACHE / one.key / "facts.npz")["seconds"]) for one in recipes) / 60


def _make(recipe: CellRecipe, folder: Any, show: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    patches = np.lib.format.open_memmap(
        folder / "patches.npy",
        "w+",
        np.int8,
        (recipe.count * MOST_CELLS, recipe.planes, STORED_PX, STORED_PX),
    )
    focus: list[float] = []
    steps: list[float] = []
    field: list[int] = []
    for seed, (found, known, step_um) in simulated(_cells_of_field, recipe, chunksize=2, show=show):
        patches[len(focus) : len(focus) + len(found)] = found
        focus += known
        steps += [step_um] * len(found)
        field += [seed] * len(found)
    patches.flush()
    np.savez(
        folder / "facts.npz",
        focus=np.array(focus, np.float32),
        step_um=np.array(steps, np.float32),
        field=np.array(field),
        seconds=time.monotonic() - started,
    )


def train(options: TrainingOptions | None = None, *, show: bool = True) -> KeyFrameModel:
    """Train and calibrate the default model from its seeds."""
    options = options or TrainingOptions()
    stacks, calibration = cell_stacks(TRAINING, show=show), cell_stacks(CALIBRATION, show=show)
    minutes = simulation_minutes(TRAINING, CALIBRATION)
    with shown_progress(show) as progress:
        return train_key_frame(
            stacks,
            inputs=ModelInputs(
                illumination="",
                patch_px=PATCH_PX,
                pixel_size_um=OPTICS.pixel_size_um,
                numerical_aperture=OPTICS.numerical_aperture,
                magnification=OPTICS.magnification,
                bit_depth=16,
            ),
            options=options,
            validation=calibration,
            data=(
                f"simulated: {len(stacks)} living cells in {TRAINING.count} fields, {TRAINING.planes} planes "
                f"0.225 to 0.295 um apart; calibrated on {CALIBRATION.count} other fields; simulating took "
                f"{minutes:.0f} min"
            ),
            valid_for=(
                "simulated living cells in transmitted light, 60x, NA 1.2 to 1.4, condenser NA 0.25 to 0.6; "
                "the focus is the mid-plane of the nuclei"
            ),
            name="key-frame, simulated 60x",
            tolerances={"numerical_aperture": 0.08, "pixel_size_um": 0.05, "magnification": 0.02},
            progress=progress,
        )
