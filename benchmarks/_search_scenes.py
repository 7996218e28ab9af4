"""What is in front of a camera, and the camera: simulated fields and recorded stacks."""

import dataclasses
import math
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from benchmarks._search_fields import Planes
from benchmarks._search_instruments import DOSES, Image, Instrument
from bluesky_autofocus.stacks import FocusStack

__all__ = ["Recorded", "Scene", "Simulated"]


class Scene(Protocol):
    """What is in front of the camera, and the camera."""

    @property
    def instrument(self) -> Instrument:
        """That looks at it."""
        ...

    def frame(
        self, defocus_um: float, dose: str, brightness: float, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return one exposure, shape (H, W)."""
        ...


class Simulated:
    """A simulated field seen by its instrument's camera.

    Parameters
    ----------
    planes : Planes
        The field without noise.
    exposure : float
        How much longer than right it is exposed.
    """

    def __init__(self, planes: Planes, exposure: float = 1.0) -> None:
        self.planes, self.exposure = planes, exposure

    @property
    def instrument(self) -> Instrument:
        """That looks at it."""
        return self.planes.instrument

    def frame(
        self, defocus_um: float, dose: str, brightness: float, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return one exposure with shot noise and readout noise."""
        instrument = self.instrument
        light = self.planes(defocus_um / instrument.depth_of_field_um)
        return detected(light, instrument, DOSES.index(dose), brightness * self.exposure, rng)


class Recorded:
    """A recorded stack: the plane nearest to where the axis stands, whatever the dose.

    Parameters
    ----------
    stack : FocusStack
        Grey, with a label.
    depth_of_field_um : float
        Of its microscope.
    like : Instrument
        Whose mechanics and timing it has.
    """

    def __init__(self, stack: FocusStack, depth_of_field_um: float, like: Instrument) -> None:
        if stack.focus_index is None:
            raise ValueError(f"{stack.name} has no label")
        self.stack = stack
        self.focus_um = float(stack.positions_um[stack.focus_index])
        top = float(stack.frames.max())
        self.instrument = dataclasses.replace(
            like,
            name="recorded",
            depth_of_field_um=depth_of_field_um,
            bits=8 * stack.frames.dtype.itemsize,
            offset=0.0,
            white=top,
        )

    def frame(
        self, defocus_um: float, dose: str, brightness: float, rng: np.random.Generator
    ) -> np.ndarray[Any, Any]:
        """Return what was recorded there."""
        return self.stack.frames[self.stack.plane_at(self.focus_um + defocus_um)]


def detected(
    light: Image, instrument: Instrument, dose: int, brightness: float, rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    """Return what a camera or an electron detector makes of the light, in grey levels.

    Counts are the squares of normal deviates about the square root of their mean, less a quarter: of the
    right mean and variance and nearly the right skewness (Anscombe 1948), in a tenth of the time.
    """
    electrons = np.sqrt(light * np.float32(instrument.electrons[dose] * brightness))
    electrons += 0.5 * _normal(light.shape, rng)
    np.square(electrons, out=electrons)
    electrons -= 0.25
    np.maximum(np.rint(electrons, out=electrons), 0, out=electrons)
    electrons += np.float32(instrument.read_noise_e) * _normal(light.shape, rng)
    # a SEM integrates a current: its grey level does not depend on the dose
    full = instrument.electrons[dose if instrument.name == "sem" else 0]
    electrons *= np.float32(instrument.white / full)
    electrons += np.float32(instrument.offset + 0.5)
    np.clip(electrons, 0, instrument.full_scale, out=electrons)
    return electrons.astype(np.uint8 if instrument.bits == 8 else np.uint16)


def _normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return normal deviates cut at random from a long store."""
    store, count = _store(), math.prod(shape)
    start = int(rng.integers(store.size - count))
    return store[start : start + count].reshape(shape)


@lru_cache(maxsize=1)
def _store() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(1 << 23, np.float32)
