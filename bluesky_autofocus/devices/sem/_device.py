"""A vendor's scanning electron microscope as a device, with the names of `SimulatedSEM`."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import Status

from bluesky_autofocus.devices._camera import Camera, HoldsCamera
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.devices.sem._calls import ANSWER_S, Calls, Reconnecting, SEMError
from bluesky_autofocus.devices.sem._control import SEMControl, SEMLimits
from bluesky_autofocus.devices.sem._working_distance import UM_PER_M, WorkingDistance

__all__ = ["VendorSEM"]

PICTURE_WIDTH_MM = 127.0
"""What magnifications refer to: the width of a Polaroid 545 print, as on most instruments."""

_TAKEN = 0.01
"""Of the range of a stigmator, and of the field's width: how far from what was asked for it may end."""


class _MadeBy(Cpt):
    """A component whose keyword arguments its device gives when it is made."""

    def create_component(self, instance: Any) -> Any:
        made = copy.copy(self)
        made.kwargs = {**self.kwargs, **instance.component_options[self.attr]}
        return Cpt.create_component(made, instance)


class _Setting(BoundedSignal):
    """A setting of the microscope: read from it whenever it is read, set on the vendor's thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, limits=(-math.inf, math.inf), **kwargs)

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd: (0, 0)
        """What the microscope takes."""
        return self._range(self._sem.limits)

    @property
    def _sem(self) -> Any:
        return self.parent

    def get(self, **kwargs: Any) -> float:
        """Ask the microscope."""
        super(BoundedSignal, self).put(
            float(self._sem.calls.run(f"reading {self.name}", self._ask)), force=True
        )
        return super().get(**kwargs)

    def put(self, value: float, **kwargs: Any) -> None:
        """Set it and wait."""
        self.set(value).wait()

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a value that is not finite or beyond the limits."""
        self._limits = self.limits
        super().check_value(value)

    def set(self, value: float, **kwargs: Any) -> Any:
        """Set it; the status is done when the vendor's call has returned and was seen to work."""
        self.check_value(value)
        status = Status(self)

        def work(control: SEMControl) -> None:
            try:
                self._tell(control, float(value))
                taken = self._ask(control)
                if not abs(taken - value) <= self._slack(value):
                    raise SEMError(f"{self.name}: {value!r} {self.egu} was asked for, it is at {taken:.6g}")
            except Exception as error:
                status.set_exception(error)
                raise
            status.set_finished()

        self._sem.calls.submit(f"setting {self.name} to {value!r}", work)
        return status

    def describe(self) -> dict[str, Any]:
        """Describe the signal with its unit and limits."""
        self._limits = self.limits
        return super().describe()

    def _range(self, limits: SEMLimits) -> tuple[float, float]:
        raise NotImplementedError

    def _ask(self, control: SEMControl) -> float:
        raise NotImplementedError

    def _tell(self, control: SEMControl, value: float) -> None:
        raise NotImplementedError

    def _slack(self, value: float) -> float:
        raise NotImplementedError


class _Stigmator(_Setting):
    """One of the two stigmators, in the vendor's unit."""

    def __init__(self, *args: Any, index: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._index = index

    def _range(self, limits: SEMLimits) -> tuple[float, float]:
        return limits.stigmator

    def _ask(self, control: SEMControl) -> float:
        return control.get_stigmator()[self._index]

    def _tell(self, control: SEMControl, value: float) -> None:
        both = list(control.get_stigmator())
        both[self._index] = value
        control.set_stigmator(*both)

    def _slack(self, value: float) -> float:
        low, high = self.limits
        return _TAKEN * (high - low)


class _DwellTime(_Setting):
    """Time of the beam on a pixel, in us. Some have a few to choose from: it reads the one that is set."""

    def _range(self, limits: SEMLimits) -> tuple[float, float]:
        low, high = limits.dwell_s
        return 1e6 * low, 1e6 * high

    def _ask(self, control: SEMControl) -> float:
        return 1e6 * control.get_dwell_time()

    def _tell(self, control: SEMControl, value: float) -> None:
        control.set_dwell_time(1e-6 * value)

    def _slack(self, value: float) -> float:
        return math.inf


class _FieldWidth(_Setting):
    """Width of the scanned field, in um."""

    def _range(self, limits: SEMLimits) -> tuple[float, float]:
        low, high = limits.field_width_m
        return UM_PER_M * low, UM_PER_M * high

    def _ask(self, control: SEMControl) -> float:
        return UM_PER_M * control.get_field_width()

    def _tell(self, control: SEMControl, value: float) -> None:
        control.set_field_width(value / UM_PER_M)

    def _slack(self, value: float) -> float:
        return _TAKEN * abs(value)


class _Magnification(_FieldWidth):
    """The same as a magnification, of a picture of `PICTURE_WIDTH_MM`."""

    def _range(self, limits: SEMLimits) -> tuple[float, float]:
        low, high = super()._range(limits)
        return _magnified(high), _magnified(low)

    def _ask(self, control: SEMControl) -> float:
        return _magnified(super()._ask(control))

    def _tell(self, control: SEMControl, value: float) -> None:
        super()._tell(control, _magnified(value))


def _magnified(value: float) -> float:
    """Return the magnification of a field's width in um, or the width of a magnification."""
    return 1e3 * PICTURE_WIDTH_MM / value


class _VendorCamera(Reconnecting, Camera):
    """The image that the microscope scans. Its exposure time is that of the beam on the field."""

    exposure_s = Cpt(ComputedSignal, attribute="scan_s", egu="s", value=0.0, kind="normal")  # pyright: ignore

    def __init__(self, prefix: str = "", *, calls: Calls, **kwargs: Any) -> None:
        self.calls = calls
        super().__init__(prefix, **kwargs)

    @property
    def scan_s(self) -> float:
        """Dwell time times pixels."""
        dwell_s = self.calls.run(f"reading {self.name}", lambda control: control.get_dwell_time())
        return dwell_s * float(np.prod(self.frame_shape))

    def expose(self, deliver: Callable[[Callable[[], np.ndarray]], None]) -> None:
        """Scan a frame on the vendor's thread, after what was asked for before."""

        def scan(control: SEMControl) -> None:
            failed: list[SEMError] = []

            def fetch() -> np.ndarray:
                try:
                    return np.asarray(control.acquire())
                except SEMError as error:
                    failed.append(error)
                    raise

            deliver(fetch)
            if failed:
                raise failed[0]

        self.calls.submit("a frame", scan)


class VendorSEM(HoldsCamera, Device):
    """A SEM that a vendor's interface drives. As a detector it gives one frame a trigger.

    Signals have the names and units of `SimulatedSEM`, and are asked of the microscope whenever they are
    read: what somebody changed at its panel is in the next Event. A setting that the microscope does not take
    fails its status, and so the plan.

    Whatever a call raises is a `SEMError` that names the call. The next plan that stages the device, its
    camera or its working distance connects again, and so does `reconnect`.

    Parameters
    ----------
    control : SEMControl
        The vendor's interface. It is connected from the thread that all calls are made from.
    frame_directory : path
        Where frames are written.
    limits_um : tuple of float
        Allowed working distances, where that is less than what the microscope takes. The lower one is the
        safe floor below which the lens may touch the specimen, so it must be said.
    convergence_mrad : float, optional
        Half angle of the beam, which no vendor tells; NaN in Events if it is not given.
    answer_s : float
        Longest wait for what the microscope answers at once. A reading is a `SEMError` that names the call
        under way, if that has not returned by then.

    Raises
    ------
    SEMError
        If it cannot be connected.
    ValueError
        If a number makes no sense, or the microscope can reach none of `limits_um`.
    """

    working_distance = _MadeBy(WorkingDistance, kind="hinted")
    magnification = Cpt(_Magnification, value=0.0, egu="x", kind="normal")
    field_width = Cpt(_FieldWidth, value=0.0, egu="um", kind="normal")
    stigmator_x = Cpt(_Stigmator, index=0, value=0.0, egu="unit", kind="normal")
    stigmator_y = Cpt(_Stigmator, index=1, value=0.0, egu="unit", kind="normal")
    dwell_time = Cpt(_DwellTime, value=0.0, egu="us", kind="normal")
    pixel_size_um = Cpt(ComputedSignal, attribute="_pixel_um", egu="um", value=0.0, kind="normal")
    convergence_mrad = Cpt(
        ComputedSignal, attribute="_convergence_mrad", egu="mrad", value=math.nan, kind="normal"
    )
    camera = _MadeBy(_VendorCamera, kind="hinted")

    def __init__(
        self,
        prefix: str = "",
        *,
        control: SEMControl,
        frame_directory: Path | str,
        limits_um: tuple[float, float],
        convergence_mrad: float | None = None,
        answer_s: float = ANSWER_S,
        name: str,
        **kwargs: Any,
    ) -> None:
        if convergence_mrad is not None and not (math.isfinite(convergence_mrad) and convergence_mrad > 0):
            raise ValueError(f"convergence_mrad is {convergence_mrad!r}: expected a positive, finite number")
        self._convergence_mrad = math.nan if convergence_mrad is None else float(convergence_mrad)
        self.calls = Calls(name, control, answer_s=answer_s)
        try:
            self.calls.connect()
            self.limits: SEMLimits = control.limits
            reached = [UM_PER_M * metres for metres in self.limits.working_distance_m]
            low_um, high_um = max(limits_um[0], reached[0]), min(limits_um[1], reached[1])
            if not low_um < high_um:
                raise ValueError(
                    f"limits_um is {tuple(limits_um)!r}: it reaches {reached[0]:g} .. {reached[1]:g} um"
                )
            self.component_options = {
                "working_distance": {"calls": self.calls, "limits": (low_um, high_um)},
                "camera": {
                    "calls": self.calls,
                    "frame_directory": frame_directory,
                    "frame_shape": control.frame_shape,
                    "dtype": control.dtype,
                },
            }
            super().__init__(prefix, name=name, **kwargs)
        except BaseException:
            self.calls.close()
            raise

    @property
    def _pixel_um(self) -> float:
        return self.field_width.get() / self.camera.frame_shape[1]

    def reconnect(self) -> None:
        """Connect again. The microscope stays as it is.

        Raises
        ------
        SEMError
            If it cannot be connected.
        """
        self.calls.reconnect()

    def destroy(self) -> None:
        """Let go of the microscope for good, and end the thread of its calls."""
        self.calls.close()
        super().destroy()
