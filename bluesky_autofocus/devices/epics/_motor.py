"""A motor record as a focus axis."""

from typing import Any

from ophyd import EpicsMotor
from ophyd.signal import EpicsSignalBase
from ophyd.status import MoveStatus

from bluesky_autofocus.devices.epics._connection import asked
from bluesky_autofocus.devices.epics._moves import CheckedMoves
from bluesky_autofocus.devices.epics._units import UM_PER_UNIT

__all__ = ["FocusMotor"]


class FocusMotor(CheckedMoves, EpicsMotor):  # pyright: ignore - ophyd's own two bases disagree in their types
    """A motor record whose unit is um: an `ophyd.EpicsMotor` that is what a focus axis must be.

    Other than `EpicsMotor` it refuses to move, and says why, where its unit is not um, and where its limits
    (LLM, HLM) are both 0, which for the record means none. A move that was stopped, by whoever, fails:
    `EpicsMotor` calls it a success. A motor record in mm is a focus axis as a `FocusPositioner`, which
    converts: ``FocusPositioner("IOC:m1", setpoint=".VAL", readback=".RBV", stop=".STOP")``.

    Parameters
    ----------
    prefix : str
        The record.
    limits_um, tolerance_um, arrival_s, timeout
        As of `CheckedMoves`.
    """

    @property
    def position(self) -> Any:
        """The position in um, as it came last."""
        return self._position

    def _channels(self) -> list[EpicsSignalBase]:
        return [self.user_setpoint, self.user_readback, self.motor_done_move, self.motor_stop]

    def _check_unit(self) -> None:
        unit = self.motor_egu.get()
        if UM_PER_UNIT.get(unit) != 1.0:
            raise ValueError(
                f"{self.name}: the unit of the motor record {self.prefix} is {unit!r}, expected 'um': set "
                "its EGU, or make it a FocusPositioner, which converts"
            )

    def describe(self) -> Any:
        """Describe it, if its positions are in um."""
        self._check_unit()
        return super().describe()

    def _record_limits_um(self) -> tuple[float, float] | None:
        low, high = float(self.low_limit_travel.get()), float(self.high_limit_travel.get())
        return (low, high) if low < high else None

    def _begin(self, target_um: float, status: MoveStatus) -> None:
        self._started_moving = False
        self.user_setpoint.put(target_um, wait=False, force=True)  # it has been checked

    def _halt(self) -> None:
        self.motor_stop.put(1, wait=False)

    def _stands(self) -> bool:
        return bool(asked(self.name, self.motor_done_move))

    def _where_um(self) -> float:
        return float(asked(self.name, self.user_readback))

    def _trouble(self) -> str:
        return self._failure

    _failure = ""

    def _done_moving(self, success: bool = True, **kwargs: Any) -> None:  # pyright: ignore - ophyd passes names
        """Take over what ophyd concludes from the end of a motion: limit switches and alarms."""
        super()._done_moving(success=success, **kwargs)
        self._failure = "" if success else self._why()
        self._over(self._commanded)

    def _why(self) -> str:
        for name, switch in (("low", self.low_limit_switch), ("high", self.high_limit_switch)):
            if asked(self.name, switch):
                return f"it is on its {name} limit switch"
        severity, kind = self.user_readback.alarm_severity, self.user_readback.alarm_status
        return f"it is in alarm, severity {severity!s}, {kind!s}"
