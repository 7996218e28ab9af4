"""Tell the defocus from two frames on either side of a position, in the document stream."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.callbacks._light import recorded_optics
from bluesky_autofocus.defocus import ModelMismatchError, check_light
from bluesky_autofocus.defocus.two_exposure import BeamTransfer, LightTransfer, TwoExposureEstimate
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["TwoExposureAnalysis"]

CONVERGENCE_TOLERANCE = 0.02
"""Relative difference of the convergence of a beam: the defocus that is read is wrong by twice that."""


class _Estimator(Protocol):
    """What compares the two frames: a `TwoExposureEstimator`."""

    model_hash: str
    transfer: Any
    astigmatism: bool
    range_dof: float
    dark_level: float
    full_scale: float | None

    @property
    def parameters(self) -> dict[str, Any]: ...

    def estimate(
        self, first: np.ndarray, second: np.ndarray, *, separation_um: float, pixel_size_um: float
    ) -> TwoExposureEstimate: ...


@dataclasses.dataclass(frozen=True)
class _PairReading(Reading):
    """A reading that brings with it how astigmatic the frames are."""

    straight_um: float = math.nan
    straight_sigma_um: float = math.nan
    diagonal_um: float = math.nan
    diagonal_sigma_um: float = math.nan
    misfit: float = math.nan

    def recorded(self) -> dict[str, Any]:
        """Return also the astigmatism and the misfit, NaN where there are none."""
        return {
            **super().recorded(),
            "straight_um": self.straight_um,
            "straight_sigma_um": self.straight_sigma_um,
            "diagonal_um": self.diagonal_um,
            "diagonal_sigma_um": self.diagonal_sigma_um,
            "misfit": self.misfit,
        }


class TwoExposureAnalysis(Analysis):
    """Give, for the second of two frames some way apart along the axis, its distance from focus.

    Frames belong together by what the stub `two_exposure_focus` records in each Event: ``pair_operation``,
    ``pair_last``, ``pair_axis``, ``pair_position_um`` and ``pair_axis_sign``. How far apart they are is what
    the axis read back. The reading of the first says that it is ``incomplete``; that of the second is its
    defocus in um, with its uncertainty, or why there is none, and where the estimator fits it the
    astigmatism.

    Parameters
    ----------
    estimator : TwoExposureEstimator
        Compares the two frames.
    name : str
        Of the analysis.
    pixel_size_um : float, optional
        Side of a pixel in the specimen, where no document says it (``*_pixel_size_um``).
    optics : LightOptics, optional
        Of a light microscope, as far as the documents do not say them.
    image_key, executor
        As for `Analysis`. It takes some tenths of a second for frames of 512 x 512 px.
    """

    unit = "um"

    def __init__(
        self,
        estimator: _Estimator,
        *,
        name: str = "two_exposure",
        pixel_size_um: float | None = None,
        optics: LightOptics | None = None,
        **options: Any,
    ) -> None:
        if pixel_size_um is not None and not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
            raise ValueError(f"pixel_size_um must be positive and finite, got {pixel_size_um!r}")
        self.estimator = estimator
        self.pixel_size_um, self.optics = pixel_size_um, optics
        self.model_hash = estimator.model_hash
        super().__init__(name, **options)

    def _forget(self) -> None:
        super()._forget()
        self._firsts: dict[tuple[str, str], tuple[str, float, np.ndarray]] = {}

    def _on_stop(self, doc: dict[str, Any]) -> None:
        super()._on_stop(doc)
        self._firsts = {of: first for of, first in self._firsts.items() if of[0] != doc["run_start"]}

    @property
    def astigmatism(self) -> bool:
        """Whether it tells the astigmatism too."""
        return self.estimator.astigmatism

    @property
    def range_dof(self) -> float:
        """Defocus to either side that it can measure, in depths of field."""
        return self.estimator.range_dof

    @property
    def parameters(self) -> dict[str, Any]:
        """The estimator's parameters and the settings."""
        return {
            "name": self.name,
            "estimator": self.estimator.parameters,
            "pixel_size_um": self.pixel_size_um,
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
        }

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading of a frame, with the one before if it is the second of a pair.

        Raises
        ------
        AnalysisError
            If the documents do not say to which pair it belongs, where it was taken, or how large its pixels
            are; or if it is in colour.
        ModelMismatchError
            If the optics are not those that the estimator was made for.
        """
        recorded, frame = exposure.recorded, exposure.frame
        if frame.ndim != 2:
            raise AnalysisError(f"expected a grey frame, got one of shape {frame.shape}")
        pair = _pair(recorded)
        position_um = _position_um(recorded, pair)
        pixel_um = self._pixel_size_um(recorded)
        of = exposure.start["uid"], exposure.stream
        if not pair["last"]:
            # after a pause perhaps once more
            self._firsts[of] = pair["operation"], position_um, frame
        problem = examine_frame(
            frame, full_scale=self.estimator.full_scale, dark_level=self.estimator.dark_level
        ).problem
        if problem is not None:
            return lambda: _refused(Reason(problem))
        operation, first_um, first = self._firsts.get(of, ("", math.nan, frame))
        if not pair["last"] or operation != pair["operation"]:
            return lambda: _refused(Reason.INCOMPLETE)
        separation_um = pair["axis_sign"] * (position_um - first_um)

        def compare() -> Reading:
            if separation_um == 0:
                return _refused(Reason.INCOMPLETE)  # it is one position
            estimate = self.estimator.estimate(
                first, frame, separation_um=separation_um, pixel_size_um=pixel_um
            )
            return _PairReading(
                "",
                estimate.defocus_um + separation_um / 2,
                estimate.sigma_um,
                self.unit,
                estimate.accepted,
                estimate.reason,
                straight_um=estimate.straight_um,
                straight_sigma_um=estimate.straight_sigma_um,
                diagonal_um=estimate.diagonal_um,
                diagonal_sigma_um=estimate.diagonal_sigma_um,
                misfit=estimate.misfit,
            )

        return compare

    def _pixel_size_um(self, recorded: Mapping[str, Any]) -> float:
        """Return the size of a pixel, having made sure that the optics are those of the estimator."""
        transfer = self.estimator.transfer
        if isinstance(transfer, LightTransfer):
            optics = recorded_optics(recorded, self.optics)
            # any size of pixels will do
            expected = dataclasses.replace(transfer.optics, pixel_size_um=optics.pixel_size_um)
            check_light(expected, (), optics, ())
            return optics.pixel_size_um
        if isinstance(transfer, BeamTransfer):
            _check_convergence(_only(recorded, "_convergence_mrad"), transfer.convergence_mrad)
        pixel_um = _only(recorded, "_pixel_size_um") or self.pixel_size_um
        if pixel_um is None:
            raise AnalysisError(
                "no document says how large a pixel is in the specimen: record it as 'NAME_pixel_size_um', "
                "or give the analysis pixel_size_um"
            )
        return pixel_um


_KEYS: dict[str, type] = {
    "operation": str, "last": bool, "axis": str, "position_um": float, "axis_sign": int,
}  # fmt: skip


def _pair(recorded: Mapping[str, Any]) -> dict[str, Any]:
    missing = [f"pair_{key}" for key in _KEYS if f"pair_{key}" not in recorded]
    if missing:
        raise AnalysisError(
            f"no document says to which pair the frame belongs ({', '.join(missing)}): frames are compared "
            "that two_exposure_focus exposed"
        )
    return {key: kind(recorded[f"pair_{key}"]) for key, kind in _KEYS.items()}


def _position_um(recorded: Mapping[str, Any], pair: Mapping[str, Any]) -> float:
    """Return where the axis was read back; where it was sent, if the Event does not hold that."""
    return float(recorded.get(pair["axis"], pair["position_um"]))


def _only(recorded: Mapping[str, Any], suffix: str) -> float | None:
    values = {key: float(recorded[key]) for key in recorded if key.endswith(suffix)}
    if len(values) > 1:
        raise AnalysisError(
            f"the frame was recorded with several keys *{suffix}: {', '.join(sorted(values))}"
        )
    return next(iter(values.values()), None)


def _check_convergence(found_mrad: float | None, expected_mrad: float) -> None:
    if found_mrad is not None and abs(found_mrad - expected_mrad) > CONVERGENCE_TOLERANCE * expected_mrad:
        raise ModelMismatchError(
            f"convergence_mrad is {found_mrad:g}: this estimator was made for {expected_mrad:g}"
        )


def _refused(reason: Reason) -> _PairReading:
    return _PairReading("", math.nan, math.nan, "um", False, reason)
