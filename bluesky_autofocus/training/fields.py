"""What networks see of simulated fields: computed in parallel, kept on disk under a name that says it all.

A field of a specimen, planes through its focus, illumination patterns, and of each frame its features. Frames
themselves are not kept.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.defocus import TwoLEDFilter
from bluesky_autofocus.models.single_shot.features import ContourFeatures, make_features
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.simulation import AbbeImageFormation, Aberrations, LightCamera, specimen
from bluesky_autofocus.training._simulating import CACHE, key_of, simulated

__all__ = ["ABERRATIONS", "CACHE", "LED_NA", "OPTICS", "Recipe", "field_frames", "fields"]

OPTICS = LightOptics()
ABERRATIONS = Aberrations()
LED_NA = 0.4
TWO_LED = "two_led"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Some fields and what is wanted of them.

    Parameters
    ----------
    kind : str
        Of the specimens.
    first_seed, count : int
        Their seeds are consecutive: fields of different recipes are different if these ranges are.
    planes_um : tuple of float
        Heights (first, last, step) of a stack about the specimen's centre, or
    random_planes : int
        as many random ones within the first and the last of `planes_um`.
    frame_px : int
        Side of the frames.
    patch_px : int
        Side of the patches that features are computed of.
    features : tuple of str
        Kinds; ``contours`` are kept as powers, which can be averaged. ``two_led`` is what `TwoLEDFilter` says
        of the first two patterns, which are to be opposite LEDs; other features are then of the first only.
    patterns : tuple
        Illumination patterns, each a tuple of LED directions (x, y). Features are those of the first LED.
    electrons : tuple of float
        Lowest and highest exposure.
    optics : LightOptics
        Of the microscope.
    features_for : tuple of float, optional
        LED direction that features are made for, where it is not the true one.
    aberrations_vary : float
        Relative range by which the aberrations differ from field to field.
    specimen_options : tuple of pairs
        Of the kind of specimen.
    """

    kind: str
    first_seed: int
    count: int
    planes_um: tuple[float, float, float] = (-33.0, 33.0, 1.0)
    random_planes: int = 0
    frame_px: int = 512
    patch_px: int = 512
    features: tuple[str, ...] = ("contours",)
    patterns: tuple[tuple[tuple[float, float], ...], ...] = (((LED_NA, 0.0),),)
    electrons: tuple[float, float] = (1500.0, 9000.0)
    optics: LightOptics = OPTICS
    features_for: tuple[float, float] | None = None
    features_optics: LightOptics | None = None
    aberrations_vary: float = 0.2
    specimen_options: tuple[tuple[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """A name for the cache."""
        return key_of(self.kind, self, dataclasses.asdict(self))

    def heights_um(self, rng: np.random.Generator) -> np.ndarray:
        """Return the heights of the planes of one field."""
        first, last, step = self.planes_um
        if self.random_planes:
            return rng.uniform(first, last, self.random_planes)
        return np.arange(first, last + step / 2, step)


def field_frames(recipe: Recipe, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate one field.

    Returns
    -------
    frames : ndarray of uint16, shape (n_patterns, n_planes, frame_px, frame_px)
    defoci_um : ndarray, shape (n_planes,)
    """
    rng = np.random.default_rng((seed, 9))
    vary = 1 + recipe.aberrations_vary * rng.uniform(-1, 1, 3)
    aberrations = dataclasses.replace(
        ABERRATIONS,
        spherical_waves=ABERRATIONS.spherical_waves * vary[0],
        coma_waves=ABERRATIONS.coma_waves * vary[1],
        astigmatism_waves=ABERRATIONS.astigmatism_waves * vary[2],
    )
    formation = AbbeImageFormation(recipe.optics, (recipe.frame_px, recipe.frame_px), aberrations)
    made = specimen(recipe.kind, (seed,), formation, **dict(recipe.specimen_options))
    view = formation.view(made)
    heights = recipe.heights_um(rng) + made.centre_um
    camera = LightCamera(electrons=rng.uniform(*recipe.electrons), vignetting=rng.uniform(0, 0.3), seed=seed)
    frames = [
        camera.frame(view.intensity(leds, heights), rng, exposure=1 / len(leds)) for leds in recipe.patterns
    ]
    return np.array(frames), heights - view.focus_um


def _features_of_field(job: tuple[Recipe, int]) -> dict[str, np.ndarray]:
    recipe, seed = job
    frames, defoci = field_frames(recipe, seed)
    found: dict[str, np.ndarray] = {"defocus_um": defoci.astype(np.float32)}
    if TWO_LED in recipe.features:
        found[TWO_LED] = _two_led(recipe, frames)
    for name in recipe.features:
        if name == TWO_LED:
            continue
        per_pattern = []
        patterns = recipe.patterns[:1] if TWO_LED in recipe.features else recipe.patterns
        for leds, stack in zip(patterns, frames, strict=False):
            features = make_features(
                name, recipe.features_optics or recipe.optics, recipe.features_for or leds[0], recipe.patch_px
            )
            of: Callable[[np.ndarray], np.ndarray] = (
                features.powers if isinstance(features, ContourFeatures) else features
            )
            dtype = np.float32 if name == "contours" else np.float16
            per_pattern.append([of(frame).astype(dtype) for frame in stack])
        found[name] = np.array(per_pattern)  # (patterns, planes, patches, size)
    return found


def _two_led(recipe: Recipe, frames: np.ndarray) -> np.ndarray:
    """Return (defocus, sigma, accepted) of the first two patterns, without training, shape (planes, 3)."""
    ((x, y),) = recipe.patterns[0]
    two = TwoLEDFilter(recipe.optics, math.hypot(x, y), math.degrees(math.atan2(y, x)))
    estimates = [two.estimate(*pair) for pair in zip(frames[0], frames[1], strict=True)]
    return np.array([(one.defocus_um, one.sigma_um, one.accepted) for one in estimates], np.float32)


def fields(recipe: Recipe, *, show: bool = True) -> dict[str, np.ndarray]:
    """Return defoci and features of all fields of a recipe, from the disk where they were made before.

    Returns
    -------
    dict
        ``defocus_um``, shape (fields, planes), and under the name of each kind of features an array of
        shape (fields, patterns, planes, patches, size), mapped from the disk.
    """
    folder = CACHE / recipe.key
    if not (folder / "seconds").exists():
        _make(recipe, folder, show)
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def seconds_of(recipes: Sequence[Recipe]) -> float:
    """Return how long it took to simulate fields that are in the cache."""
    return sum(float((CACHE / recipe.key / "seconds").read_text()) for recipe in recipes)


def _make(recipe: Recipe, folder: Path, show: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    arrays: dict[str, np.ndarray] = {}
    for seed, found in simulated(_features_of_field, recipe, show=show):
        for name, array in found.items():
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy", "w+", array.dtype, (recipe.count, *array.shape)
                )
            arrays[name][seed - recipe.first_seed] = array
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined] - a memory map
    (folder / "seconds").write_text(str(time.monotonic() - started))
