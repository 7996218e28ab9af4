"""Tell the defocus of frames under off-axis LEDs in the document stream."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.callbacks._light import recorded_direction, recorded_optics
from bluesky_autofocus.defocus import DefocusEstimator
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["SingleShotAnalysis", "TwoLEDAnalysis"]

SAME_PLACE = 0.5
"""Two frames were taken at one place if no scanned axis read back a difference above this, mostly um: more
than a stage that stands still says of itself, less than the step of a focal stack."""


class _DefocusAnalysis(Analysis):
    """What the analyses of this module share: an estimator, and what it must know of a frame.

    The reading is the defocus in um, with its uncertainty. A frame that is black, saturated, uniform or
    not finite is not accepted, with the reason; nor is what the estimator refuses. Frames of other optics or
    under another LED than the estimator is made for are an error.
    """

    unit = "um"
    frames_needed = 1

    def __init__(
        self,
        estimator: DefocusEstimator,
        *,
        name: str,
        optics: LightOptics | None = None,
        full_scale: float | None = None,
        dark_level: float = 0.0,
        **options: Any,
    ) -> None:
        if not isinstance(estimator, DefocusEstimator) or estimator.frames_needed != self.frames_needed:
            raise ValueError(
                f"{type(self).__name__} takes an estimator of defocus from {self.frames_needed} frame(s), "
                f"got {estimator!r}"
            )
        self.estimator = estimator
        self.optics = optics
        self.full_scale = full_scale
        self.dark_level = dark_level
        self.model_hash = estimator.model_hash
        self.leds = tuple(estimator.leds)
        self.range_um = float(estimator.range_um)
        super().__init__(name, **options)

    @property
    def parameters(self) -> dict[str, Any]:
        """The estimator's parameters and the settings."""
        return {
            "name": self.name,
            "estimator": self.estimator.parameters,
            "leds": [str(led) for led in self.leds],
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
            "full_scale": self.full_scale,
            "dark_level": self.dark_level,
        }

    def _problem(self, frame: np.ndarray) -> Reason | None:
        if frame.ndim != 2:
            raise AnalysisError(f"expected a grey frame, got one of shape {frame.shape}")
        problem = examine_frame(frame, full_scale=self.full_scale, dark_level=self.dark_level).problem
        return None if problem is None else Reason(problem)

    def _estimate(
        self, frames: list[np.ndarray], optics: LightOptics, directions: list[tuple[float, float]]
    ) -> Reading:
        """Return the reading of as many frames as are needed, in the order of `leds`."""
        self.estimator.check(optics, directions)
        for frame in frames:
            problem = self._problem(frame)
            if problem is not None:
                return Reading.refused(problem, "um")
        estimate = self.estimator.estimate(*frames)
        if not estimate.accepted:
            return Reading.refused(estimate.reason, "um")
        if not (math.isfinite(estimate.defocus_um) and math.isfinite(estimate.sigma_um)):
            return Reading.refused(Reason.NOT_FINITE, "um")
        return Reading("", float(estimate.defocus_um), float(estimate.sigma_um), self.unit)


class SingleShotAnalysis(_DefocusAnalysis):
    """Give the defocus of every frame under one off-axis LED as its reading.

    Parameters
    ----------
    estimator : DefocusEstimator
        Tells the defocus from one frame, such as a trained `SingleShotModel`.
    name : str
        Of the analysis.
    optics : LightOptics, optional
        Objective, light and pixels, as far as the documents do not say them (``*_numerical_aperture``,
        ``*_wavelength_um``, ``*_pixel_size_um``, ``*_magnification``, ``*_refractive_index``).
    full_scale : float, optional
        Grey level at which the camera saturates; by default the largest of its type.
    dark_level : float
        Mean grey level without light, the camera's offset: at or below it a frame is black.
    image_key, executor
        As for `Analysis`.

    Raises
    ------
    ValueError
        If the estimator needs another number of frames.
    """

    def __init__(self, estimator: DefocusEstimator, *, name: str = "single_shot", **options: Any) -> None:
        super().__init__(estimator, name=name, **options)

    def analyse_exposure(self, frame: np.ndarray, recorded: Mapping[str, Any]) -> Reading:
        """Return the defocus of a frame, or why it has none.

        Raises
        ------
        AnalysisError
            If the documents do not say enough of light and optics.
        ModelMismatchError
            If they are not those that the estimator is made for.
        """
        return self._estimate([frame], recorded_optics(recorded, self.optics), [recorded_direction(recorded)])


@dataclasses.dataclass(frozen=True)
class _Half:
    """The first of two frames."""

    exposure: RecordedExposure
    led: int
    direction: tuple[float, float]
    optics: LightOptics

    def completes(self, first: "_Half") -> bool:
        """Whether this frame and the one before make a pair: under the other LED, at the same place."""
        return (
            self.exposure.seq_num == first.exposure.seq_num + 1
            and self.led != first.led
            and self.optics == first.optics
            and all(
                abs(here - there) <= SAME_PLACE
                for here, there in zip(_place(self.exposure), _place(first.exposure), strict=True)
            )
        )


class TwoLEDAnalysis(_DefocusAnalysis):
    """Give the defocus of every pair of frames under two opposite LEDs as a reading.

    Two Events of one stream make a pair if they follow each other, each under one of the two LEDs, in either
    order, and no axis that the run scans has moved in between. The reading of the first says that it is
    ``incomplete``; that of the second has the defocus. A frame takes part in one pair only.

    Parameters
    ----------
    estimator : DefocusEstimator
        Tells the defocus from two frames, such as a `TwoLEDFilter`.
    name : str
        Of the analysis.
    optics, full_scale, dark_level, image_key, executor
        As for `SingleShotAnalysis`.

    Raises
    ------
    ValueError
        If the estimator needs another number of frames.
    """

    frames_needed = 2

    def __init__(self, estimator: DefocusEstimator, *, name: str = "two_led", **options: Any) -> None:
        super().__init__(estimator, name=name, **options)

    def _forget(self) -> None:
        super()._forget()
        # by run and stream, so that a run replayed alone gives the same pairs
        self._firsts: dict[tuple[str, str], _Half] = {}

    def _on_stop(self, doc: dict[str, Any]) -> None:
        super()._on_stop(doc)
        self._firsts = {of: half for of, half in self._firsts.items() if of[0] != doc["run_start"]}

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading of a frame, with the one before if they are a pair.

        Raises
        ------
        AnalysisError
            If the documents do not say enough of light and optics.
        """
        direction = recorded_direction(exposure.recorded)
        away = [math.dist(direction, led.na_xy) for led in self.leds]
        half = _Half(
            exposure, away.index(min(away)), direction, recorded_optics(exposure.recorded, self.optics)
        )
        place = exposure.start["uid"], exposure.stream
        first = self._firsts.get(place)
        if first is None or not half.completes(first):
            self._firsts[place] = half
            return lambda: Reading.refused(self._problem(exposure.frame) or Reason.INCOMPLETE, "um")
        # The first is kept: after a pause the second may be taken again, under the same number. For the
        # Event that follows it is too old.
        pair = sorted((first, half), key=lambda one: one.led)
        frames, directions = [one.exposure.frame for one in pair], [one.direction for one in pair]
        return lambda: self._estimate(frames, half.optics, directions)


def _place(exposure: RecordedExposure) -> list[float]:
    """Return where the axes stood that the run says it scans."""
    dimensions = exposure.start.get("hints", {}).get("dimensions", ())
    values = [exposure.recorded.get(field) for fields, _ in dimensions for field in fields]
    return [float(value) for value in values if isinstance(value, int | float | np.number)]
