"""The working distance of a vendor's microscope as an axis in um."""

import contextlib
import dataclasses
import math
import threading
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import Status
from ophyd.utils.errors import InvalidState

from bluesky_autofocus.devices._axis import _Readback, _Setpoint
from bluesky_autofocus.devices._limits import check_within
from bluesky_autofocus.devices.sem._calls import Calls, Reconnecting, SEMError
from bluesky_autofocus.devices.sem._control import SEMControl

__all__ = ["WorkingDistance"]

UM_PER_M = 1e6

SHORT_UM = 2.0
"""How far from its target a move may end: lenses go in steps below a um; what is refused or cut off without a
word ends farther away."""


@dataclasses.dataclass(eq=False)
class _Move:
    """A move that was asked for and is not over."""

    target_um: float
    status: Status
    stopped: bool | None = None
    """Whether the stop that ends it is to be a success; None if it is not stopped."""


class _StoppedError(RuntimeError):
    """A move that was stopped."""


class WorkingDistance(Reconnecting, Device):
    """The distance at which the beam is focused: an axis that focuses, in um.

    It is the lens that moves, not the stage. Nothing can stop it on the way, and a call under way cannot be
    taken back: after `stop` it goes to where it was last told, and the status ends, as the stop says, when
    it is there; what the interface was not told yet it is not told any more. A `set` meanwhile waits for
    that.

    Parameters
    ----------
    calls : Calls
        Of the interface.
    limits : tuple of float
        In um. The lower one is the safe floor.
    """

    readback = Cpt(_Readback, attribute="readback_um", egu="um", value=0.0, kind="hinted")
    setpoint = Cpt(_Setpoint, value=0.0, kind="normal")

    def __init__(self, prefix: str = "", *, calls: Calls, limits: tuple[float, float], **kwargs: Any) -> None:
        low, high = limits
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"limits must be finite and ascending, got {limits!r} um")
        self.calls, self._limits = calls, (float(low), float(high))
        self._lock = threading.Lock()
        self._moves: list[_Move] = []
        super().__init__(prefix, **kwargs)
        self.readback.name = self.name  # the hinted readback carries the axis' own name, as with EpicsMotor
        self.setpoint.put(self.readback_um)

    @property
    def egu(self) -> str:
        """Unit of the positions."""
        return "um"

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest and highest working distance in um."""
        return self._limits

    @property
    def readback_um(self) -> float:
        """The working distance that the microscope says it has now."""
        metres = self.calls.run(f"reading {self.name}", lambda control: control.get_working_distance())
        return UM_PER_M * metres

    @property
    def position(self) -> float:
        """The working distance that the microscope says it has now."""
        return self.readback_um

    @property
    def moving(self) -> bool:
        """Whether a move is under way."""
        return bool(self._moves)

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a position that is not finite or beyond the limits.

        Raises
        ------
        LimitError
            Naming the value and the limits.
        """
        check_within(self.name, value, self._limits)

    def set(self, new_position: float, **kwargs: Any) -> Status:
        """Start a move; the status is done when the microscope says that it is there.

        Raises
        ------
        LimitError
            If it lies beyond the limits; nothing moves then.
        """
        self.check_value(new_position)
        # a DeviceStatus that fails stops its device, and with it the move after
        move = _Move(float(new_position), Status(self))
        with self._lock:
            self._moves.append(move)
        self.setpoint.put(move.target_um)
        what = f"a move of {self.name} to {move.target_um} um"
        self.calls.submit(what, lambda control: self._carry_out(move, control))
        return move.status

    def stop(self, *, success: bool = False) -> None:
        """Begin no move any more. The status of one under way ends as `success` says, when it is over."""
        with self._lock:
            for move in self._moves:
                move.stopped = success

    def _carry_out(self, move: _Move, control: SEMControl) -> None:
        error: Exception | None = None
        try:
            if move.stopped is None:
                self._move(move.target_um, control)
            if move.stopped is False:
                raise _StoppedError(f"{self.name}: the move to {move.target_um} um was stopped")
        except Exception as raised:
            error = raised
        with self._lock:
            self._moves.remove(move)
        with contextlib.suppress(InvalidState):
            if error is None:
                move.status.set_finished()
            else:
                move.status.set_exception(error)
        if isinstance(error, SEMError):
            raise error

    def _move(self, target_um: float, control: SEMControl) -> None:
        control.set_working_distance(target_um / UM_PER_M)
        at_um = UM_PER_M * control.get_working_distance()
        if not abs(at_um - target_um) <= SHORT_UM:
            raise SEMError(
                f"{self.name}: set_working_distance({target_um / UM_PER_M:.9g}) left it at {at_um:.3f} um"
            )
