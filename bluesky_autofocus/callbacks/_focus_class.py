"""Tell the class of focus of colour frames of a stained smear in the document stream."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError
from bluesky_autofocus.callbacks._light import recorded_optics
from bluesky_autofocus.models.hh_net import ClassEstimate
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason

__all__ = ["FocusClassAnalysis"]


class _Model(Protocol):
    """What tells the class: an `HHNetModel`."""

    @property
    def range_um(self) -> tuple[float, float]: ...

    @property
    def model_hash(self) -> str: ...

    @property
    def parameters(self) -> dict[str, Any]: ...

    def check(self, optics: LightOptics) -> None: ...

    def estimate(self, frame: np.ndarray) -> ClassEstimate: ...


@dataclasses.dataclass(frozen=True)
class _ClassReading(Reading):
    """A reading that brings with it what it was made of."""

    estimate: ClassEstimate | None = None

    def recorded(self) -> dict[str, Any]:
        """Return also the distance index of the class, NaN where there is none, and its certainty."""
        index, certainty = math.nan, math.nan
        if self.estimate is not None and self.estimate.index is not None:
            index, certainty = float(self.estimate.index), self.estimate.certainty
        return {**super().recorded(), "index": index, "certainty": certainty}


class FocusClassAnalysis(Analysis):
    """Give the defocus of every colour frame as its reading, in um.

    A frame that is farther from focus than the model measures is not accepted, with the reason
    ``out_of_range``: the sign of its value is right, and its size is the least that it can be. What the model
    refuses has no value. Frames of other optics than the model is made for, or without colours, are an error.

    Parameters
    ----------
    model : HHNetModel
        Tells the class.
    name : str
        Of the analysis.
    optics : LightOptics, optional
        Objective and pixels, as far as the documents do not say them.
    image_key, executor
        As for `Analysis`.
    """

    unit = "um"

    def __init__(
        self,
        model: _Model,
        *,
        name: str = "focus_class",
        optics: LightOptics | None = None,
        **options: Any,
    ) -> None:
        self.model = model
        self.optics = optics
        self.model_hash = model.model_hash
        super().__init__(name, **options)

    @property
    def parameters(self) -> dict[str, Any]:
        """The model's parameters and the settings."""
        return {
            "name": self.name,
            "model": self.model.parameters,
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
        }

    @property
    def range_um(self) -> float:
        """Defocus to either side that it can measure."""
        low_um, high_um = self.model.range_um
        return min(-low_um, high_um)

    def analyse_exposure(self, frame: np.ndarray, recorded: Mapping[str, Any]) -> Reading:
        """Return the defocus of a frame, or why it has none.

        Raises
        ------
        AnalysisError
            If the documents do not say enough of the optics.
        ModelMismatchError
            If these are not those that the model was made for.
        ValueError
            If the frame has no colours, or is smaller than a patch.
        """
        self.model.check(recorded_optics(recorded, self.optics))
        estimate = self.model.estimate(frame)
        if not estimate.accepted:
            return _reading(estimate, math.nan, math.nan, estimate.reason)
        reason = Reason.OK if estimate.measured else Reason.OUT_OF_RANGE
        return _reading(estimate, estimate.defocus_um, estimate.sigma_um, reason)

    def newest(self, stream: str) -> ClassEstimate:
        """Return what the newest reading of a stream was made of: class, certainty, probabilities.

        Raises
        ------
        AnalysisError
            If there is none, it is not ready, or the analysis failed; naming the analysis.
        """
        reading = self.reading(stream)
        if not isinstance(reading, _ClassReading) or reading.estimate is None:
            raise AnalysisError(f"analysis {self.name!r} has no class for the frame of {stream!r}")
        return reading.estimate


def _reading(estimate: ClassEstimate, value_um: float, sigma_um: float, reason: Reason) -> Reading:
    return _ClassReading(
        "", float(value_um), float(sigma_um), "um", reason is Reason.OK, reason, estimate=estimate
    )
