"""Tell from the planes of a scan, in the document stream, where the focus is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.callbacks._light import recorded_optics
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = ["KeyFrameAnalysis"]

_SAME = 0.25
"""Part of the spacing by which a plane may be off."""


class _Estimate(Protocol):
    focus_um: float
    sigma_um: float
    accepted: bool
    reason: Reason


class _Model(Protocol):
    """What compares the planes: a `KeyFrameModel`."""

    model_hash: str
    parameters: dict[str, Any]

    def check(self, optics: LightOptics) -> None: ...

    def scan_of(self, spacing_um: float, n_planes: int) -> Any: ...

    def estimate(self, frames: Any, spacing_um: float, *, mask: Any = None) -> Any: ...


@dataclasses.dataclass
class _Planes:
    """The frames of one operation, by position."""

    operation: str
    frames: dict[float, NDArray[Any]] = dataclasses.field(default_factory=dict)

    def about(self, position_um: float, spacing_um: float, most: int) -> list[float]:
        """Return the positions of an unbroken row of planes that this one belongs to, ascending.

        Where there are more than `most`, those nearest to it.
        """
        row = [position_um]
        for side in (1, -1):
            at = position_um
            while (next_ := self._near(at + side * spacing_um, _SAME * spacing_um)) is not None:
                row.append(next_)
                at = next_
        return sorted(sorted(row, key=lambda one: abs(one - position_um))[:most])

    def _near(self, position_um: float, tolerance_um: float) -> float | None:
        at = min(self.frames, key=lambda one: abs(one - position_um))
        return at if abs(at - position_um) <= tolerance_um else None


class KeyFrameAnalysis(Analysis):
    """Give, for the last plane of each scan, its distance from focus.

    Frames belong together by what the stubs `key_frame_focus` and `coarse_fine_focus` record in each Event:
    ``scan_operation``, ``scan_position_um``, ``scan_spacing_um``, ``scan_planes``, ``scan_last`` and
    ``scan_axis_sign``. A plane of one scan takes part in another one of the same operation if it fits in.
    The readings of other planes say that they are ``incomplete``; that of the last one is its defocus in um,
    with its uncertainty, or why there is none. Where the reason is ``edge`` its value has the right sign.

    Parameters
    ----------
    model : KeyFrameModel
        Compares the planes.
    name : str
        Of the analysis.
    mask : callable or ndarray of shape (H, W), optional
        Where cells are, see `KeyFrameModel.estimate`.
    optics : LightOptics, optional
        Objective and pixels, as far as the documents do not say them.
    full_scale, dark_level : float
        As for `SingleShotAnalysis`.
    image_key, executor
        As for `Analysis`.
    """

    unit = "um"

    def __init__(
        self,
        model: _Model,
        *,
        name: str = "key_frame",
        mask: Any = None,
        optics: LightOptics | None = None,
        full_scale: float | None = None,
        dark_level: float = 0.0,
        **options: Any,
    ) -> None:
        self.model = model
        self.mask = mask
        self.optics = optics
        self.full_scale = full_scale
        self.dark_level = dark_level
        self.model_hash = model.model_hash
        super().__init__(name, **options)

    def _forget(self) -> None:
        super()._forget()
        self._planes: dict[tuple[str, str], _Planes] = {}

    def _on_stop(self, doc: dict[str, Any]) -> None:
        super()._on_stop(doc)
        self._planes = {of: planes for of, planes in self._planes.items() if of[0] != doc["run_start"]}

    @property
    def parameters(self) -> dict[str, Any]:
        """The model's parameters and the settings."""
        return {
            "name": self.name,
            "model": self.model.parameters,
            "mask": None if self.mask is None else getattr(self.mask, "__name__", "array"),
            "optics": None if self.optics is None else dataclasses.asdict(self.optics),
            "full_scale": self.full_scale,
            "dark_level": self.dark_level,
        }

    def check_scan(self, spacing_um: float, planes: int) -> None:
        """Make sure that the model knows scans of that many planes so far apart.

        Raises
        ------
        ModelMismatchError
            Naming those that it knows.
        """
        self.model.scan_of(spacing_um, planes)

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading of a plane, with the others of its scan if it is the last.

        Raises
        ------
        AnalysisError
            If the documents do not say to which scan it belongs, or not enough of the optics.
        ModelMismatchError
            If these are not those that the model was made for.
        """
        recorded = exposure.recorded
        place = _place(recorded)
        if exposure.frame.ndim != 2:
            raise AnalysisError(f"expected a grey frame, got one of shape {exposure.frame.shape}")
        self.model.check(recorded_optics(recorded, self.optics))
        of = exposure.start["uid"], exposure.stream
        planes = self._planes.get(of)
        if planes is None or planes.operation != place["operation"]:
            planes = self._planes[of] = _Planes(place["operation"])
        position_um, spacing_um = place["position_um"], place["spacing_um"]
        planes.frames[position_um] = exposure.frame  # after a pause perhaps once more
        problem = examine_frame(
            exposure.frame, full_scale=self.full_scale, dark_level=self.dark_level
        ).problem
        if problem is not None:
            return lambda: Reading.refused(Reason(problem), "um")
        most = self.model.scan_of(spacing_um, place["planes"]).planes[1]
        row = planes.about(position_um, spacing_um, most)
        if not place["last"] or len(row) < place["planes"]:
            return lambda: Reading.refused(Reason.INCOMPLETE, "um")
        frames = np.stack([planes.frames[one] for one in row[:: place["axis_sign"]]])
        above_first_um = abs(position_um - row[:: place["axis_sign"]][0])

        def compare() -> Reading:
            estimate = self.model.estimate(frames, spacing_um, mask=self.mask)
            return Reading(
                "",
                above_first_um - float(estimate.focus_um),
                float(estimate.sigma_um),
                self.unit,
                bool(estimate.accepted),
                estimate.reason,
            )

        return compare


_KEYS: dict[str, type] = {
    "operation": str, "position_um": float, "spacing_um": float, "planes": int, "last": bool,
    "axis_sign": int,
}  # fmt: skip


def _place(recorded: Mapping[str, Any]) -> dict[str, Any]:
    missing = [f"scan_{key}" for key in _KEYS if f"scan_{key}" not in recorded]
    if missing:
        raise AnalysisError(
            f"no document says to which scan the frame belongs ({', '.join(missing)}): planes are compared "
            "that key_frame_focus or coarse_fine_focus exposed"
        )
    return {key: kind(recorded[f"scan_{key}"]) for key, kind in _KEYS.items()}
