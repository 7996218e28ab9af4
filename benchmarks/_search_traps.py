"""Traps: what looks like a focus and is none, or hides it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._search_cases import DUST_DOF, SEED, Case, placed, with_room
from benchmarks._search_fields import KINDS, Planes, dusty, empty, faint, field, layered, phase_object
from benchmarks._search_microscope import Conditions
from benchmarks._search_scenes import Simulated

__all__ = ["TRAPS", "TRAP_RANGE_DOF", "trap"]

TRAP_RANGE_DOF = 40


def trap(name: str, trial: int) -> Case:
    """Return a trap."""
    rng = np.random.default_rng((SEED, trial, 2, tuple(TRAPS).index(name)))
    at, start = with_room(rng.random(), TRAP_RANGE_DOF), rng.random()
    made = {"at": at, "start": start, **TRAPS[name](rng)}
    scene, dose = made.pop("scene"), made.pop("dose")
    number = (trial, 2, tuple(TRAPS).index(name))
    return placed(name, scene, dose, TRAP_RANGE_DOF, number=number, **made)


def _any(rng: np.random.Generator, kinds: list[str] | None = None) -> Planes:
    chosen = kinds or list(KINDS)
    return field(chosen[int(rng.integers(len(chosen)))], int(rng.integers(10_000)))


# Each returns scene, dose, and what else is unusual of the case.


def _no_specimen(rng: np.random.Generator) -> dict[str, Any]:
    name = ("brightfield", "fluorescence", "sem", "oblique")[int(rng.integers(4))]
    return {"scene": Simulated(empty(name)), "dose": "high", "any_focus": False}


def _only_noise(rng: np.random.Generator) -> dict[str, Any]:
    """The light is off, or nearly, over a specimen: the frames are readout noise."""
    return {"scene": Simulated(_any(rng), exposure=1e-3), "dose": "low", "any_focus": False}


def _saturated(rng: np.random.Generator) -> dict[str, Any]:
    kinds = [kind for kind, (name, _) in KINDS.items() if name == "brightfield"]
    scene = Simulated(_any(rng, kinds), exposure=40.0)
    return {"scene": scene, "dose": "high", "any_focus": False}


def _beyond_the_edge(rng: np.random.Generator) -> dict[str, Any]:
    """Focus lies 2 to 10 depths of field beyond one end of the range."""
    outside = float(rng.uniform(2, 10)) / TRAP_RANGE_DOF
    return {"scene": Simulated(_any(rng)), "dose": "high", "at": float(rng.choice((-outside, 1 + outside)))}


def _dust_and_little_else(rng: np.random.Generator) -> dict[str, Any]:
    planes = faint(_any(rng), float(rng.uniform(0.1, 0.3)))
    side = float(rng.choice((-1, 1)))
    return {
        "scene": Simulated(dusty(planes, int(rng.integers(10_000)), side * DUST_DOF)),
        "dose": "medium",
        # both within the range
        "at": 0.3 if side > 0 else 0.7,
    }


def _two_layers(rng: np.random.Generator) -> dict[str, Any]:
    """Two layers 8 to 20 depths of field apart, as strong as each other: neither is the focus."""
    kinds = [kind for kind, (name, _) in KINDS.items() if name == "fluorescence"]
    planes = layered(_any(rng, kinds), float(rng.uniform(8, 20)))
    return {"scene": Simulated(planes), "dose": "high", "any_focus": False, "at": 0.5}


def _dead_frame(rng: np.random.Generator) -> dict[str, Any]:
    conditions = Conditions(dead_frame=int(rng.integers(12)))
    return {"scene": Simulated(_any(rng)), "dose": "medium", "conditions": conditions}


def _dead_frame_of_nothing(rng: np.random.Generator) -> dict[str, Any]:
    return {**_no_specimen(rng), "conditions": Conditions(dead_frame=int(rng.integers(12)))}


def _lamp_drift(rng: np.random.Generator) -> dict[str, Any]:
    """The light of a faint specimen fades by 2 % from frame to frame, as by bleaching."""
    planes = faint(_any(rng), float(rng.uniform(0.3, 1.0)))
    return {"scene": Simulated(planes), "dose": "medium", "conditions": Conditions(lamp_drift=-0.02)}


def _lamp_drift_of_nothing(rng: np.random.Generator) -> dict[str, Any]:
    return {**_no_specimen(rng), "conditions": Conditions(lamp_drift=-0.02)}


def _phase_object(rng: np.random.Generator) -> dict[str, Any]:
    return {"scene": Simulated(phase_object(int(rng.integers(10_000)))), "dose": "high"}


TRAPS: dict[str, Callable[[np.random.Generator], dict[str, Any]]] = {
    "empty field": _no_specimen,
    "only noise": _only_noise,
    "saturated": _saturated,
    "focus beyond the edge": _beyond_the_edge,
    "dust, faint specimen": _dust_and_little_else,
    "two layers": _two_layers,
    "dead frame": _dead_frame,
    "dead frame, empty field": _dead_frame_of_nothing,
    "lamp drift": _lamp_drift,
    "lamp drift, empty field": _lamp_drift_of_nothing,
    "phase object": _phase_object,
}
"""Where something looks like a focus that is none, or hides it."""
