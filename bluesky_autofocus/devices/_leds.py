"""LED arrays: programmable illumination that is set by pattern and read into every Event."""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.status import DeviceStatus, Status
from ophyd.utils.errors import InvalidState

from bluesky_autofocus.clock import Clock, VirtualClock
from bluesky_autofocus.devices._signals import BoundedSignal, ComputedSignal
from bluesky_autofocus.leds import (
    NAMES,
    LEDGeometry,
    LEDs,
    Orientation,
    Pattern,
    PatternError,
    Single,
    parse_pattern,
    quasi_dome,
)

__all__ = ["CalibrationError", "LEDArray", "SimulatedLEDArray"]

_FORMAT = "bluesky_autofocus LED array orientation"
_VERSION = 1


class CalibrationError(ValueError):
    """A calibration of an LED array's orientation that is none."""


@dataclasses.dataclass(frozen=True)
class _Light:
    """What an array shows, or was asked to show."""

    indices: tuple[int, ...] = ()
    brightness: float = 1.0
    text: str = "off"


class _Pattern(Signal):
    """The pattern that is shown, as text; set through the array."""

    def get(self, **kwargs: Any) -> str:
        array: Any = self.parent
        array.learn_light()
        return str(super().get(**kwargs))

    def set(self, value: Any, **kwargs: Any) -> Any:
        array: Any = self.parent
        return array.set(value)


class _Calibrated(Signal):
    """Whether the array's orientation is known."""

    def get(self, **kwargs: Any) -> bool:
        array: Any = self.parent
        super().put(array.is_calibrated, force=True)
        return bool(super().get(**kwargs))

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = super().describe()
        described[self.name].update(dtype="boolean", dtype_numpy="|b1")
        return described


class _Brightness(BoundedSignal):
    """Brightness of the LEDs; setting it shows the pattern anew."""

    def get(self, **kwargs: Any) -> float:
        array: Any = self.parent
        array.learn_light()
        return super().get(**kwargs)

    def set(self, value: float, **kwargs: Any) -> Any:
        self.check_value(value)
        array: Any = self.parent
        return array.show_at(float(value))

    def put(self, value: float, **kwargs: Any) -> None:
        self.set(value).wait()


class _Calibration(Signal):
    """The array's orientation as JSON text, empty where it is unknown. Settable: see `LEDArray.calibrate`."""

    def set(self, value: Any, **kwargs: Any) -> Status:
        array: Any = self.parent
        array.calibrate(value)
        status = Status(self)
        status.set_finished()
        return status

    def put(self, value: Any, **kwargs: Any) -> None:
        self.set(value).wait()


class LEDArray(Device):
    """An array of LEDs whose pattern is set with ``bps.mv(leds, "half_annulus_top")``.

    Anything that `parse_pattern` understands is a pattern: a name, the text of a pattern, a `Pattern`
    (``bps.mv(leds, Single(na=0.4, angle_deg=0))``). Subclasses say in `show` how LEDs are switched, and in
    `ask_light` which are on at first, where the hardware can tell; else they are taken to be off.

    Directions are in the axes of the camera frame, through the array's `orientation`. That is measured once
    by the plan `calibrate_leds`, which sets `calibration`, and kept in the file `calibration_path`. Until
    then the array's own axes are taken for those of the frame, and ``NAME_calibrated`` is false.

    The Event has the pattern under the array's own name, the mean direction of the light in ``NAME_na_x``
    and ``NAME_na_y`` (NaN when all LEDs are off), ``NAME_brightness`` and ``NAME_calibrated``.

    Parameters
    ----------
    geometry : LEDGeometry, optional
        Where the LEDs are, in the array's own axes (its orientation is not used); `quasi_dome` by default.
    numerical_aperture : float
        Of the objective: what brightfield, darkfield and the named rings go by.
    orientation : Orientation, optional
        How the array lies, where that is known without calibration.
    calibration_path : path, optional
        Where the calibration is kept. Read if it exists, and then it wins over `orientation`.
    timeout_s : float
        Longest time that switching may take.

    Raises
    ------
    CalibrationError
        If the file holds no calibration.
    ValueError
        If a number makes no sense.
    """

    pattern = Cpt(_Pattern, value="off", kind="hinted")
    na_x = Cpt(ComputedSignal, attribute="mean_na_x", egu="", value=math.nan, kind="normal")
    na_y = Cpt(ComputedSignal, attribute="mean_na_y", egu="", value=math.nan, kind="normal")
    brightness = Cpt(_Brightness, value=1.0, egu="", limits=(0.0, 1.0), kind="normal")
    calibrated = Cpt(_Calibrated, value=False, kind="normal")
    calibration = Cpt(_Calibration, value="", kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        geometry: LEDGeometry | None = None,
        numerical_aperture: float = 0.5,
        orientation: Orientation | None = None,
        calibration_path: Path | str | None = None,
        timeout_s: float = 10.0,
        **kwargs: Any,
    ) -> None:
        if not 0 < numerical_aperture < 2:
            raise ValueError(f"numerical_aperture is {numerical_aperture!r}: expected a positive number")
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise ValueError(f"timeout_s is {timeout_s!r}: expected a positive, finite number")
        known = {} if orientation is None else _as_calibration(orientation)
        if calibration_path is not None and Path(calibration_path).exists():
            known = _read_calibration(Path(calibration_path))
        self.numerical_aperture = numerical_aperture
        self.calibration_path = None if calibration_path is None else Path(calibration_path)
        self.timeout_s = timeout_s
        self._array = geometry or quasi_dome()
        self._light = self._asked = _Light()
        self._is_light_known = False
        self._lock = threading.Lock()
        self._know(known)
        super().__init__(prefix, **kwargs)
        self.pattern.name = self.name  # the hinted readback carries the device's name, as with EpicsMotor
        Signal.put(self.calibration, _as_text(known))

    # What subclasses implement

    def show(self, indices: tuple[int, ...], brightness: float) -> Status | None:
        """Switch these LEDs on, all others off.

        Parameters
        ----------
        indices : tuple of int
            Numbers of the LEDs, ascending; none switches all off.
        brightness : float
            From 0 to 1, of the largest.

        Returns
        -------
        Status or None
            None if the light is as asked on return; else what is done when it is.
        """
        raise NotImplementedError("an LED array says how its LEDs are switched")

    def ask_light(self) -> tuple[tuple[int, ...], float] | None:
        """Ask the hardware which LEDs are on: another session may have left them so.

        Returns
        -------
        tuple or None
            Numbers of the LEDs, ascending, and their brightness from 0 to 1; None where it cannot tell.
        """
        return None

    def learn_light(self) -> None:
        """Take over the light that was on before this device was there, before it is first read or set.

        It goes by the name of its pattern, or by the numbers of its LEDs where it has no name. Where the
        hardware cannot be asked its error is raised, and it is asked again next time.
        """
        if self._is_light_known:
            return
        found = self.ask_light()
        with self._lock:
            if self._is_light_known:
                return
            self._is_light_known = True
            if found is not None:
                indices, brightness = found
                self._light = self._asked = _Light(indices, brightness, self._text_of(indices))
                Signal.put(self.pattern, self._light.text)
                Signal.put(self.brightness, brightness)

    def _text_of(self, indices: tuple[int, ...]) -> str:
        for name in NAMES:
            with contextlib.suppress(PatternError):
                if self.select(name) == indices:
                    return name
        return str(LEDs(indices))

    # Patterns

    @property
    def geometry(self) -> LEDGeometry:
        """Where the LEDs are, in the orientation that is assumed at present."""
        return self._geometry

    @property
    def lit(self) -> tuple[int, ...]:
        """Numbers of the LEDs that are on."""
        self.learn_light()
        return self._light.indices

    def select(self, pattern: Pattern | str) -> tuple[int, ...]:
        """Return the numbers of the LEDs of a pattern.

        Raises
        ------
        PatternError
            If it is none, or no LED belongs to it.
        """
        return self.geometry.select(parse_pattern(pattern, self.numerical_aperture))

    def nearest(self, na: float, angle_deg: float = 0.0) -> Single:
        """Return the direction of the LED nearest to one, in frame axes: what estimators are made for."""
        away = np.hypot(*(self.geometry.na_xy - Single(na, angle_deg).na_xy).T)
        x, y = self.geometry.na_xy[int(away.argmin())]
        return Single(math.hypot(x, y), math.degrees(math.atan2(y, x)))

    def check_value(self, value: Pattern | str, **kwargs: Any) -> None:
        """Refuse what is no pattern of this array.

        Raises
        ------
        PatternError
            Naming the value.
        """
        self.select(value)

    def set(self, value: Pattern | str) -> DeviceStatus:
        """Show a pattern; the status is done when the light is as asked.

        Raises
        ------
        PatternError
            If it is no pattern of this array; nothing changes then.
        """
        indices = self.select(value)
        named = isinstance(value, str) and value in NAMES
        text = str(value if named else parse_pattern(value, self.numerical_aperture))
        self.learn_light()  # its brightness stays
        with self._lock:
            light = dataclasses.replace(self._asked, indices=indices, text=text)
        return self._show(light)

    def show_at(self, brightness: float) -> DeviceStatus:
        """Show the pattern at another brightness."""
        self.learn_light()  # its pattern stays
        with self._lock:
            light = dataclasses.replace(self._asked, brightness=brightness)
        return self._show(light)

    def _show(self, light: "_Light") -> DeviceStatus:
        status = DeviceStatus(self, timeout=self.timeout_s)
        with self._lock:
            self._asked = light
        try:
            switching = self.show(light.indices, light.brightness)
        except Exception as error:
            self._shown(status, light, error)
            return status
        if switching is None:
            self._shown(status, light, None)
        else:
            switching.add_callback(lambda done: self._shown(status, light, done.exception(timeout=0)))
        return status

    def _shown(self, status: DeviceStatus, light: "_Light", error: BaseException | None) -> None:
        """Say that a pattern is shown, unless another one was asked for meanwhile."""
        with self._lock:
            if self._asked is light and error is None:
                self._light = light
                Signal.put(self.pattern, light.text)
                Signal.put(self.brightness, light.brightness)
            elif self._asked is light:
                self._asked = self._light
        with contextlib.suppress(InvalidState):  # it may have timed out meanwhile
            if error is None:
                status.set_finished()
            else:
                status.set_exception(error)

    def stop(self, *, success: bool = False) -> None:
        """Leave the light on: the RunEngine stops whatever a plan has set when the plan ends."""

    # Light

    @property
    def irradiance(self) -> float:
        """Light on the sample, relative to that of one LED on the axis at full brightness.

        On a dome that of an LED falls as the cosine of its angle.
        """
        return self.brightness.get() * float(self.geometry.irradiance[list(self.lit)].sum())

    def compensated_exposure_s(self, nominal_s: float, pattern: Pattern | str | None = None) -> float:
        """Return the exposure time that makes up for the fall of light with the angle.

        Parameters
        ----------
        nominal_s : float
            Exposure time for LEDs on the axis.
        pattern : Pattern or str, optional
            The present one by default. How many LEDs belong to it does not matter.

        Returns
        -------
        float
            `nominal_s` over the mean cosine of the LEDs; `nominal_s` itself when all are off.
        """
        if not (math.isfinite(nominal_s) and nominal_s > 0):
            raise ValueError(f"nominal_s is {nominal_s!r}: expected a positive, finite number")
        indices = self.lit if pattern is None else self.select(pattern)
        return nominal_s / float(self.geometry.irradiance[list(indices)].mean()) if indices else nominal_s

    @property
    def mean_na_x(self) -> float:
        """Mean direction of the light along x."""
        return self._mean_na(0)

    @property
    def mean_na_y(self) -> float:
        """Mean direction of the light along y."""
        return self._mean_na(1)

    def _mean_na(self, axis: int) -> float:
        lit = list(self.lit)
        if not lit:
            return math.nan
        return float(np.average(self.geometry.na_xy[lit, axis], weights=self.geometry.irradiance[lit]))

    # Orientation

    @property
    def orientation(self) -> Orientation:
        """How the array lies with respect to the frame, as far as it is known."""
        return self._geometry.orientation

    @property
    def is_calibrated(self) -> bool:
        """Whether the orientation was measured or declared, not merely assumed."""
        return bool(self._known)

    def calibrate(self, value: Any) -> None:
        """Take over an orientation, and keep it in the calibration file before anything else.

        The light does not change. Where the pattern's name would now mean other LEDs, the Events name the
        LEDs by number instead.

        Parameters
        ----------
        value : Orientation, tuple, mapping, str or None
            An orientation; ``(rotation_deg, mirrored)``; a mapping with these two keys and whatever else is
            worth keeping (the measured values); or the text that ``calibration.get()`` gave. An empty text
            or None: unknown again.

        Raises
        ------
        CalibrationError
            If it is none of these; nothing changes then.
        """
        known = _as_calibration(value)
        if self.calibration_path is not None:
            if known:
                _write_calibration(self.calibration_path, known, self.name)
            else:
                self.calibration_path.unlink(missing_ok=True)
        self._know(known)
        Signal.put(self.calibration, _as_text(known))
        with self._lock:
            try:
                still = self.select(self._light.text) == self._light.indices
            except ValueError:
                still = False
            if not still:
                light = dataclasses.replace(self._light, text=str(LEDs(self._light.indices)))
                self._asked = light if self._asked is self._light else self._asked
                self._light = light
                Signal.put(self.pattern, light.text)

    def _know(self, known: Mapping[str, Any]) -> None:
        self._known = dict(known)
        orientation = (
            Orientation(self._known["rotation_deg"], self._known["mirrored"]) if known else Orientation()
        )
        self._geometry = self._array.turned(orientation)


class SimulatedLEDArray(LEDArray):
    """An LED array that is not there.

    Parameters
    ----------
    true_orientation : Orientation
        How it really lies, which only its light tells.
    switching_s : float
        Time it takes to switch.
    clock : Clock, optional
        The session's.
    """

    def __init__(
        self,
        prefix: str = "",
        *,
        true_orientation: Orientation = Orientation(),  # noqa: B008 - frozen
        switching_s: float = 0.0,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        if not (math.isfinite(switching_s) and switching_s >= 0):
            raise ValueError(f"switching_s is {switching_s!r}: expected a finite number, zero or more")
        self.clock: Clock = clock or VirtualClock()
        self.switching_s = switching_s
        self.true_orientation = true_orientation
        self._true_light: tuple[tuple[int, ...], float] = ((), 1.0)
        super().__init__(prefix, **kwargs)

    def show(self, indices: tuple[int, ...], brightness: float) -> Status | None:
        """Switch the LEDs, at once or after `switching_s`."""
        if not self.switching_s:
            self._true_light = indices, brightness
            return None
        status = Status()

        def switched() -> None:
            self._true_light = indices, brightness
            status.set_finished()

        self.clock.call_after(self.switching_s, switched)
        return status

    @property
    def light(self) -> tuple[np.ndarray, np.ndarray]:
        """What falls on the sample: directions (n, 2) in the frame's axes, and the light of each LED (n,)."""
        indices, brightness = self._true_light
        true = self._array.turned(self.true_orientation)
        return true.na_xy[list(indices)], true.irradiance[list(indices)] * brightness


def _as_calibration(value: Any) -> dict[str, Any]:
    """Return what is known of an orientation as a mapping, empty for nothing."""
    if value is None or (isinstance(value, str) and not value):
        return {}
    known: Any = value
    try:
        if isinstance(value, str):
            known = json.loads(value)
        elif isinstance(value, Orientation):
            known = {"rotation_deg": value.rotation_deg, "mirrored": value.mirrored}
        elif not isinstance(value, Mapping):
            rotation_deg, mirrored = value
            known = {"rotation_deg": rotation_deg, "mirrored": mirrored}
        known = {"date": _now(), **known}
        orientation = Orientation(known["rotation_deg"], known["mirrored"])
        known |= {"rotation_deg": float(orientation.rotation_deg), "mirrored": orientation.mirrored}
        json.dumps(known)
    except (TypeError, ValueError, KeyError) as error:
        raise CalibrationError(
            f"{value!r} is no calibration of an LED array ({error}): expected an Orientation, "
            "(rotation_deg, mirrored), or a mapping with these two"
        ) from error
    return known


def _as_text(known: Mapping[str, Any]) -> str:
    return json.dumps(known) if known else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _read_calibration(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("it says of itself that it is something else")
        if content["version"] != _VERSION:
            raise ValueError(f"its version is {content['version']!r}, this program knows {_VERSION}")
        known = _as_calibration(content["calibration"])
        if not known:
            raise ValueError("it is empty")
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{path} holds no calibration of an LED array: {error}; remove it and run calibrate_leds again"
        ) from error
    return known


def _write_calibration(path: Path, known: Mapping[str, Any], name: str) -> None:
    """Write the file whole or not at all, and on the disk before it takes the place of the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": _FORMAT, "version": _VERSION, "device": name, "calibration": dict(known)}
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
