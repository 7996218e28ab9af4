"""What a device of a Micro-Manager core can be set to, as signals: any property, and a shutter."""

import math
import time
from collections.abc import Callable
from typing import Any

from ophyd import Signal
from ophyd.status import Status
from ophyd.utils import LimitError, ReadOnlyError

from bluesky_autofocus.devices.micromanager._calls import (
    ANSWER_S,
    SHUTTER,
    DeviceLink,
    MicroManagerError,
    in_background,
    listed,
    wait_until_idle,
)

__all__ = ["SETTING_S", "CoreSignal", "PropertySignal", "Shutter", "carry_out"]

SETTING_S = 10.0
"""Longest time of a setting unless told otherwise: a filter wheel or a turret turns in a few seconds."""


def carry_out(
    device: Any, link: DeviceLink, what: str, function: Callable[[Any], Any], timeout_s: float
) -> Status:
    """Tell a device something by a function of the core; the status is done when it is no longer busy."""

    def work() -> None:
        deadline_s = time.monotonic() + timeout_s
        link.run(what, function, timeout_s)
        wait_until_idle(link, what, lambda: deadline_s)

    return in_background(Status(device), work, f"{link.label}-{what}")


class CoreSignal(Signal):
    """A value that a device has, asked at every read. Subclasses say how it is asked and told.

    Setting it is done when the device is no longer busy. Reading it back is not compared with what was asked
    for: devices round.
    """

    def __init__(self, *args: Any, link: DeviceLink, timeout_s: float = SETTING_S, **kwargs: Any) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s!r}: expected a positive number")
        self._link, self.timeout_s = link, timeout_s
        super().__init__(*args, **kwargs)

    def asked(self) -> Any:
        """Return the value that the device has now."""
        raise NotImplementedError

    def told(self, core: Any, value: Any) -> None:
        """Tell the device the value."""
        raise NotImplementedError

    def checked(self, value: Any) -> Any:
        """Return a value as the device takes it, or raise."""
        return value

    @property
    def label(self) -> str:
        """What the configuration calls the device."""
        return self._link.label

    def check_value(self, value: Any, **kwargs: Any) -> None:
        """Refuse what the device does not take, naming it and what is expected."""
        self.checked(value)

    def get(self, **kwargs: Any) -> Any:
        """Ask the device."""
        super().put(self.asked(), force=True)
        return super().get(**kwargs)

    def set(self, value: Any, **kwargs: Any) -> Status:
        """Set the value; the status is done when the device is no longer busy."""
        checked = self.checked(value)
        what = f"setting {self.name} to {checked!r}"
        return carry_out(self, self._link, what, lambda core: self.told(core, checked), self.timeout_s)

    def put(self, value: Any, **kwargs: Any) -> None:
        """Set the value and wait."""
        self.set(value).wait()

    def describe(self) -> Any:
        """Describe the value and the device that it is of."""
        described: Any = super().describe()
        described[self.name]["source"] = f"MicroManager:{self.label}"
        return described


class PropertySignal(CoreSignal):
    """Any property of a device: a gain, a filter wheel (its ``Label``), the speed of a stage.

    Numbers are numbers, in the limits that the property has, all else is text; what a property may be is
    checked before the device is told.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str
        Of the device in the configuration.
    property_name : str
        Of the property.
    egu : str
        Its unit, as it is to appear in the documents.
    timeout_s : float
        Longest time that a setting may take.
    answer_s : float
        Longest wait for what the device answers at once.

    Raises
    ------
    MicroManagerError
        If there is no such device, or it has no such property.
    """

    def __init__(
        self,
        *args: Any,
        core: Any,
        label: str,
        property_name: str,
        egu: str = "",
        answer_s: float = ANSWER_S,
        **kwargs: Any,
    ) -> None:
        link = DeviceLink(core, label, answer_s=answer_s)
        names = [str(name) for name in link.ask("getDevicePropertyNames")]
        if property_name not in names:
            raise MicroManagerError(
                f"device {label!r} has no property {property_name!r}: expected one of {listed(names)}"
            )
        self.property_name, self.egu = property_name, egu
        # MM::PropertyType
        self._type = {2: float, 3: int}.get(int(_type_of(link, property_name)), str)
        self._read_only = bool(link.ask("isPropertyReadOnly", property_name))
        super().__init__(*args, link=link, **kwargs)

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleMethodOverride] - ophyd's are (0, 0)
        """Lowest and highest value, (0, 0) where the property has no limits."""
        if not self._link.ask("hasPropertyLimits", self.property_name):
            return 0.0, 0.0
        low, high = (
            float(self._link.ask(method, self.property_name))
            for method in ("getPropertyLowerLimit", "getPropertyUpperLimit")
        )
        return low, high

    @property
    def allowed(self) -> tuple[str, ...]:
        """What it may be, empty where nothing is prescribed."""
        return tuple(str(one) for one in self._link.ask("getAllowedPropertyValues", self.property_name))

    def checked(self, value: Any) -> Any:
        """Return a value of the property's type.

        Raises
        ------
        LimitError
            If it is a number beyond the limits, or none that is finite.
        ValueError
            If it is no number where one is expected, or not one of those prescribed.
        ReadOnlyError
            If the property cannot be set.
        """
        what = f"{self.name}: property {self.property_name!r} of device {self.label!r}"
        if self._read_only:
            raise ReadOnlyError(f"{what} can only be read")
        try:
            taken = self._type(value)
        except (TypeError, ValueError):
            raise ValueError(f"{what} was set to {value!r}: expected a number") from None
        if self._type is int and taken != float(value):
            raise ValueError(f"{what} was set to {value!r}: expected a whole number")
        if self._type is not str:
            low, high = self.limits
            if not math.isfinite(taken) or (low < high and not low <= taken <= high):
                raise LimitError(f"{what} was set to {value!r}: expected {low:g} .. {high:g}")
        allowed = self.allowed
        if allowed and not any(_same(taken, one, self._type) for one in allowed):
            raise ValueError(f"{what} was set to {value!r}: expected one of {listed(allowed)}")
        return taken

    def nearest(self, value: float) -> Any:
        """Return a number as the property takes it: rounded where it has whole numbers only. As `checked`."""
        return self.checked(round(value) if self._type is int else value)

    def asked(self) -> Any:
        """Return the value that the property has now."""
        return self._link.run(f"property {self.property_name!r}", self.asked_of)

    def asked_of(self, core: Any) -> Any:
        """Return the value that the property has now, as `told` takes it, on the adapter's thread."""
        return self._type(core.getProperty(self.label, self.property_name))

    def told(self, core: Any, value: Any) -> None:
        """Set the property."""
        core.setProperty(self.label, self.property_name, value)

    def describe(self) -> Any:
        """Describe the value, with its unit and limits."""
        described = super().describe()
        data_key = described[self.name]
        data_key["source"] += f".{self.property_name}"
        if self._type is not str:
            data_key.update(units=self.egu, dtype_numpy="<i8" if self._type is int else "<f8")
            low, high = self.limits
            if low < high:
                data_key.update(lower_ctrl_limit=low, upper_ctrl_limit=high)
        return described


def _type_of(link: DeviceLink, property_name: str) -> int:
    found = link.ask("getPropertyType", property_name)
    # pymmcore-plus has a type more, of its Python devices, which stands for 0 and 1
    return int(found) if int(found) in (1, 2, 3) else 1


def _same(value: Any, allowed: str, kind: Any) -> bool:
    try:
        return kind(allowed) == value
    except ValueError:
        return allowed == str(value)


class Shutter(CoreSignal):
    """A shutter, or a lamp that is switched as one: ``bps.mv(shutter, 1)`` opens it, 0 closes it.

    While the core's automatic shutter is on, a camera opens its current shutter for each exposure by itself.

    Parameters
    ----------
    core : pymmcore.CMMCore
        With its configuration loaded.
    label : str, optional
        Of the shutter in the configuration; by default the core's current one.
    timeout_s, answer_s : float
        As of `PropertySignal`.

    Raises
    ------
    MicroManagerError
        If the configuration has no such shutter.
    """

    def __init__(
        self, *args: Any, core: Any, label: str | None = None, answer_s: float = ANSWER_S, **kwargs: Any
    ) -> None:
        label = str(label or core.getShutterDevice())
        super().__init__(*args, link=DeviceLink(core, label, SHUTTER, answer_s=answer_s), **kwargs)

    def checked(self, value: Any) -> int:
        """Return 1 for open and 0 for closed.

        Raises
        ------
        ValueError
            If it is neither.
        """
        if value not in (0, 1):
            raise ValueError(f"{self.name} was set to {value!r}: expected 1 or True to open it, 0 or False")
        return int(value)

    def asked(self) -> int:
        """Return 1 if it is open, else 0."""
        return int(bool(self._link.ask("getShutterOpen")))

    def told(self, core: Any, value: int) -> None:
        """Open or close it."""
        core.setShutterOpen(self.label, bool(value))

    def describe(self) -> Any:
        """Describe the value."""
        described = super().describe()
        described[self.name].update(dtype_numpy="<i8")
        return described
