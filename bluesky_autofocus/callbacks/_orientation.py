"""Tell from pairs of frames where the light of an LED comes from."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.callbacks._light import recorded_optics
from bluesky_autofocus.defocus.orientation import LEDDirection, find_circles, led_direction
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["OrientationAnalysis"]

LED_KEY, OFFSET_KEY = "led_calibration_led", "led_calibration_offset_um"
"""What the plan `calibrate_leds` records beside each frame: the number of the LED, and where the axis is."""


class OrientationAnalysis(Analysis):
    """Measure directions of LEDs for the plan `calibrate_leds`.

    The plan exposes each LED at a lower and at a higher position of the axis. The reading of the first frame
    is the line along which the light comes (in degrees, from 0 to 180), that of the second its direction.

    Parameters
    ----------
    name : str
        Of the analysis.
    optics : LightOptics, optional
        Objective, light and pixels, as far as the documents do not say them.
    full_scale : float, optional
        Grey level at which the camera saturates; by default the largest of its type.
    image_key, executor
        As for `Analysis`.
    """

    unit = "deg"

    def __init__(
        self,
        name: str = "orientation",
        *,
        optics: LightOptics | None = None,
        full_scale: float | None = None,
        **options: Any,
    ) -> None:
        self.optics = optics
        self.full_scale = full_scale
        super().__init__(name, **options)

    def _forget(self) -> None:
        super()._forget()
        self._first: RecordedExposure | None = None
        self._directions: dict[int, LEDDirection] = {}

    def _on_start(self, doc: dict[str, Any]) -> None:
        super()._on_start(doc)
        self._first, self._directions = None, {}

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings."""
        return {
            "name": self.name,
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
            "full_scale": self.full_scale,
        }

    def direction(self, led: int) -> LEDDirection:
        """Return what was measured of an LED in this run, if the axis is one whose sign is +1.

        Raises
        ------
        AnalysisError
            If nothing was.
        """
        if led not in self._directions:
            raise AnalysisError(f"analysis {self.name!r} has seen no pair of frames under LED {led}")
        return self._directions[led]

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading of a frame, with the one before if it is under the same LED.

        Raises
        ------
        AnalysisError
            If the frame was not taken by `calibrate_leds`, or the documents do not say enough of the optics.
        """
        if LED_KEY not in exposure.recorded or OFFSET_KEY not in exposure.recorded:
            raise AnalysisError(
                f"analysis {self.name!r} is for the plan calibrate_leds, which records {LED_KEY!r} and "
                f"{OFFSET_KEY!r} with each frame"
            )
        optics = recorded_optics(exposure.recorded, self.optics)
        if exposure.frame.ndim != 2:
            raise AnalysisError(f"expected a grey frame, got one of shape {exposure.frame.shape}")
        first = self._first
        led = int(exposure.recorded[LED_KEY])
        pair = first is not None and int(first.recorded[LED_KEY]) == led
        span_um = _offset(exposure) - _offset(first) if first is not None and pair else 0.0
        if first is not None and span_um > 0:
            # The first is kept: after a pause the second may be taken again.
            return partial(self._direction_of, led, first.frame, exposure.frame, optics, span_um)
        self._first = exposure
        return partial(self._line, exposure.frame, optics)

    def _line(self, frame: np.ndarray, optics: LightOptics) -> Reading:
        problem = examine_frame(frame, full_scale=self.full_scale).problem
        if problem is not None:
            return Reading.refused(Reason(problem), self.unit)
        circles = find_circles(frame, optics)
        if not circles.accepted:
            return Reading.refused(circles.reason, self.unit)
        return Reading("", circles.angle_deg, unit=self.unit)

    def _direction_of(
        self, led: int, low: np.ndarray, high: np.ndarray, optics: LightOptics, span_um: float
    ) -> Reading:
        for frame in (low, high):
            problem = examine_frame(frame, full_scale=self.full_scale).problem
            if problem is not None:
                return Reading.refused(Reason(problem), self.unit)
        found = led_direction(low, high, optics, span_um=span_um)
        self._directions[led] = found
        if not found.accepted:
            return Reading.refused(found.reason, self.unit)
        return Reading("", math.degrees(math.atan2(found.na_y, found.na_x)), unit=self.unit)


def _offset(exposure: RecordedExposure) -> float:
    return float(exposure.recorded[OFFSET_KEY])
