"""A setpoint and a readback as a focus axis: a piezo, a working distance, a motor record in mm."""

from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, PVPositionerPC
from ophyd import FormattedComponent as FCpt
from ophyd.signal import EpicsSignalBase
from ophyd.status import MoveStatus
from ophyd.utils.epics_pvs import AlarmSeverity

from bluesky_autofocus.devices.epics._connection import asked
from bluesky_autofocus.devices.epics._moves import CheckedMoves
from bluesky_autofocus.devices.epics._units import InMicrometres

__all__ = ["FocusPositioner", "StoppableFocusPositioner"]


class FocusPositioner(CheckedMoves, PVPositionerPC):  # pyright: ignore - ophyd's own two bases disagree
    """A focus axis of two PVs, in um whatever the unit of the PVs.

    The setpoint is put with completion. A device whose put is complete before it has arrived is waited for:
    the move is over when the readback is there, see `arrival_s`. It cannot be stopped; one that can is a
    `StoppableFocusPositioner`.

    Parameters
    ----------
    prefix : str
        What the PVs below begin with.
    setpoint, readback : str
        Their ends.
    unit : str, optional
        Of both PVs, where their EGU is empty: "um", "mm", "m", "nm".
    limits_um, tolerance_um, arrival_s, timeout
        As of `CheckedMoves`. The limits of the setpoint are its control limits (DRVL, DRVH of an ao record).
    """

    setpoint_pv = FCpt(EpicsSignal, "{prefix}{setpoint_suffix}", auto_monitor=True, kind="omitted")
    readback_pv = FCpt(EpicsSignalRO, "{prefix}{readback_suffix}", auto_monitor=True, kind="omitted")
    setpoint = Cpt(InMicrometres, derived_from="setpoint_pv", kind="normal")
    readback = Cpt(InMicrometres, derived_from="readback_pv", write_access=False, kind="hinted")

    def __init__(
        self,
        prefix: str = "",
        *,
        setpoint: str = ":Position",
        readback: str = ":Readback",
        unit: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.setpoint_suffix, self.readback_suffix = setpoint, readback
        super().__init__(prefix, egu="um", **kwargs)
        for signal in (self.setpoint, self.readback):
            signal.declare_unit(unit)
        # the hinted readback carries the axis' own name, as with EpicsMotor
        self.readback.name = self.name

    @property
    def position(self) -> Any:
        """The position read back, in um; the last one that came where the connection is lost."""
        return self.readback.get() if self.readback.connected else self._position

    @property
    def moving(self) -> bool:
        """Whether a move of this process is under way."""
        return self._under_way is not None and not self._under_way.done

    def _channels(self) -> list[EpicsSignalBase]:
        return [self.setpoint_pv, self.readback_pv]

    def _check_unit(self) -> None:
        for signal in (self.setpoint, self.readback):
            _ = signal.um_per_unit

    def _record_limits_um(self) -> tuple[float, float] | None:
        low, high = (self.setpoint.inverse(limit or 0.0) for limit in self.setpoint_pv.limits)
        return (low, high) if low < high else None

    def _begin(self, target_um: float, status: MoveStatus) -> None:
        value = self.setpoint.forward(target_um)
        # it has been checked
        self.setpoint_pv.put(value, force=True, use_complete=True, callback=lambda **_: self._over(status))

    def _halt(self) -> None:
        self.log.warning("%s cannot be stopped: its move goes on to the end", self.name)

    def _where_um(self) -> float:
        return self.readback.inverse(float(asked(self.name, self.readback_pv, form="ctrl")))

    def _trouble(self) -> str:
        severity: Any = self.readback_pv.alarm_severity  # of the reading just now
        if severity is None or severity < AlarmSeverity.MAJOR:
            return ""
        kind = self.readback_pv.alarm_status
        return f"{self.readback_pv.pvname} is in alarm, severity {severity.name}, {kind!s}"


class StoppableFocusPositioner(FocusPositioner):
    """A `FocusPositioner` with a third PV that stops it.

    Parameters
    ----------
    stop : str
        End of the PV to which 1 is put.
    """

    halt = FCpt(EpicsSignal, "{prefix}{stop_suffix}", kind="omitted")

    def __init__(self, prefix: str = "", *, stop: str = ":Stop", **kwargs: Any) -> None:
        self.stop_suffix = stop
        super().__init__(prefix, **kwargs)

    def _channels(self) -> list[EpicsSignalBase]:
        return [*super()._channels(), self.halt]

    def _halt(self) -> None:
        self.halt.put(1, wait=False)
