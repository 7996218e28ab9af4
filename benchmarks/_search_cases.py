"""What is searched: ordinary fields, the same where not all is ideal, and recorded stacks.

A case is keyed by a seed and a number, so all competitors get the same field, focus, start and noise.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks._search_fields import KINDS, dusty, field
from benchmarks._search_instruments import instruments
from benchmarks._search_microscope import CONDITIONS, Conditions, Microscope
from benchmarks._search_scenes import Recorded, Scene, Simulated
from bluesky_autofocus.stacks import read_stack

__all__ = [
    "DUST_DOF",
    "RECORDED_TRAPS",
    "ROBUST_RANGE_DOF",
    "SEED",
    "STACKS",
    "Case",
    "ordinary",
    "placed",
    "recorded",
    "recorded_names",
    "robust",
    "with_room",
]

SEED = 20261122

STACKS = Path(__file__).resolve().parents[2] / "shared" / "focus-stacks"

ROOM = 0.1
"""Focus lies at least this fraction of the range, and a depth of field, from its ends."""

BEYOND = 0.1
BEYOND_DOF = 5.0
"""The axis may go this fraction of the range, or so many depths of field where that is more, beyond it."""

DUST_DOF = 15.0
"""How far above the specimen, or below, the dust on a cover glass is in focus."""

DUSTY = "dust"
"""A condition that is none of the microscope but of the field."""

ROBUST_RANGE_DOF = 20

RECORDED_DOF = {
    "cell-smear-rgb": 1.2,
    "circuit-board": 1.0,
    "grid-centre": 100.0,
    "phase-object-coherent": 20.0,
    "yeast-phase-object": 0.6,
}
"""Depth of field of recorded stacks in their unit. Where nobody knows the optics it is a fifth of the width
of the sharpness curve, as it is elsewhere, and no less than planes lie apart."""

WAFER_DOF_UM = 3.4
"""Of the stacks of wafers: 20x/0.45, pixels of 0.29 um."""

RECORDED_TRAPS = ("phase-object-coherent", "yeast-phase-object")


@dataclasses.dataclass(frozen=True)
class Case:
    """One search.

    Parameters
    ----------
    kind : str
        What is looked at.
    scene : Scene
        Field and camera.
    dose : str
        One of high, medium, low.
    bounds_um : tuple of float
        Where to search.
    start_um : float
        Where the axis stands.
    focus_um : float
        Where focus is at the beginning.
    any_focus : bool
        Whether there is a focus to be found at all.
    conditions : Conditions
        What is not ideal.
    number : tuple of int
        Seeds the noise.
    """

    kind: str
    scene: Scene
    dose: str
    bounds_um: tuple[float, float]
    start_um: float
    focus_um: float = 0.0
    any_focus: bool = True
    conditions: Conditions = CONDITIONS["none"]
    number: tuple[int, ...] = (0,)

    def microscope(self) -> Microscope:
        """Return the microscope as it is before the search, the same each time."""
        low_um, high_um = self.bounds_um
        beyond_um = max(BEYOND * (high_um - low_um), BEYOND_DOF * self.scene.instrument.depth_of_field_um)
        return Microscope(
            self.scene,
            self.dose,
            focus_um=self.focus_um,
            limits_um=(low_um - beyond_um, high_um + beyond_um),
            start_um=self.start_um,
            range_um=high_um - low_um,
            conditions=self.conditions,
            seed=(SEED, *self.number),
        )

    def right(self, position_um: float, defocus_um: float) -> bool:
        """Return whether an axis that stands there is in focus: within a depth of field, or one plane."""
        if not self.any_focus:
            return False
        if isinstance(self.scene, Recorded):
            stack = self.scene.stack
            label: Any = stack.focus_index
            if abs(stack.plane_at(position_um) - label) <= 1:
                return True
        return abs(defocus_um) <= self.scene.instrument.depth_of_field_um


def ordinary(trial: int, ranges_dof: tuple[int, ...], doses: tuple[str, ...]) -> Iterator[tuple[int, Case]]:
    """Yield one field in all ranges and doses, each with its range."""
    rng = np.random.default_rng((SEED, trial))
    kind = tuple(KINDS)[trial % len(KINDS)]
    scene = Simulated(field(kind, int(rng.integers(10_000))))
    place, start = rng.random(2)
    for range_dof in ranges_dof:
        at = with_room(place, range_dof)
        for dose in doses:
            yield range_dof, placed(kind, scene, dose, range_dof, at, start, number=(trial, range_dof))


def robust(trial: int) -> Iterator[tuple[str, Case]]:
    """Yield one field at medium dose under each condition, each with its name."""
    rng = np.random.default_rng((SEED, trial, 1))
    kind = tuple(KINDS)[trial % len(KINDS)]
    planes = field(kind, int(rng.integers(10_000)))
    at, start = with_room(rng.random(), ROBUST_RANGE_DOF), rng.random()
    side = float(rng.choice((-1, 1)))
    scenes = dict.fromkeys(CONDITIONS, Simulated(planes))
    scenes[DUSTY] = Simulated(dusty(planes, trial, side * DUST_DOF))
    for name, scene in scenes.items():
        case = placed(kind, scene, "medium", ROBUST_RANGE_DOF, at, start, number=(trial, 1))
        yield name, dataclasses.replace(case, conditions=CONDITIONS.get(name, CONDITIONS["none"]))


def with_room(place: float, range_dof: float) -> float:
    """Return where in the range focus lies, as a fraction of it, for a random number from 0 to 1."""
    room = max(ROOM, 1 / range_dof)
    return room + (1 - 2 * room) * place


def placed(
    kind: str,
    scene: Scene,
    dose: str,
    range_dof: float,
    at: float,
    start: float,
    *,
    number: tuple[int, ...],
    **options: Any,
) -> Case:
    """Return a case whose focus lies at 0, the range about it."""
    dof_um = scene.instrument.depth_of_field_um
    low_um = -at * range_dof * dof_um
    high_um = low_um + range_dof * dof_um
    start_um = low_um + start * (high_um - low_um)
    return Case(kind, scene, dose, (low_um, high_um), start_um, number=number, **options)


# Recorded stacks


def recorded_names() -> list[str]:
    """Return the recorded stacks that have a label; empty where there are none."""
    return [path.stem for path in sorted(STACKS.glob("*.tif")) if _recorded(path.stem) is not None]


def recorded(name: str) -> Iterator[Case]:
    """Yield one case for each plane of a recorded stack as the start, the whole of it the range."""
    scene = _recorded(name)
    if scene is None:
        raise ValueError(f"{name} has no label")
    positions_um = scene.stack.positions_um.tolist()
    bounds_um = (positions_um[0], positions_um[-1])
    for start_um in positions_um:
        yield Case(name, scene, "high", bounds_um, start_um, scene.focus_um)


@cache
def _recorded(name: str) -> Recorded | None:
    stack = read_stack(STACKS / f"{name}.tif")
    if stack.focus_index is None:
        return None
    if stack.frames.ndim == 4:
        grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in stack.frames])
        stack = dataclasses.replace(stack, frames=grey)
    dof_um = WAFER_DOF_UM if name.startswith("wafer") else RECORDED_DOF[name]
    return Recorded(stack, dof_um, instruments()["brightfield"])
