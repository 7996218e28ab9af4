"""The LED array that an Illuminate controller drives, as a device."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Signal
from ophyd.status import DeviceStatus, Status

from bluesky_autofocus.devices._leds import LEDArray
from bluesky_autofocus.devices.illuminate._drawing import drawing
from bluesky_autofocus.devices.illuminate._link import IlluminateError, Link, LinkLostError
from bluesky_autofocus.leds import LEDGeometry

__all__ = ["IlluminateArray"]

_FULL = 255


class _Colour(Signal):
    """The colour of the LEDs, as "RED.GREEN.BLUE"; setting it shows the pattern anew."""

    def set(self, value: Any, **kwargs: Any) -> Any:
        array: Any = self.parent
        return array.show_in(value)

    def put(self, value: Any, **kwargs: Any) -> None:
        self.set(value).wait()


class IlluminateArray(LEDArray):
    """An LED array with the Illuminate firmware (github.com/zfphil/illuminate), old or new.

    It is connected when it is made, and dark then. Where its LEDs are it tells itself. `LEDs` are counted
    from 0 over those that are connected, ascending in the firmware's `numbers`, which mostly are the same.

    Light is switched on a thread of its own; a status is done when the firmware has confirmed the last
    command. As a detector, which costs a round trip beside the exposure, it fails the exposure where it can
    no longer be reached or has started anew, and so does not show what the Event would say. The next `set`
    connects again; so does the beginning of a plan that stages it, and `reconnect`, and then it shows again
    what it showed.

    Brightness goes in 255 steps; the Event has the step. `colour` is "RED.GREEN.BLUE", the largest of them
    255, and in the Event too. An array of one colour has "255".

    Parameters
    ----------
    port : str
        A serial port such as ``/dev/ttyACM0`` or ``COM3``, or ``socket://host:number``.
    colour : sequence of int
        Red, green and blue, each relative to the largest.
    tolerance_na : float
        How far an LED may be from the direction of a `Single` or the spoke of a `Line`.
    baudrate : int
        Of the port.
    reply_timeout_s : float
        Longest silence before the end of a reply.
    **kwargs
        As of `LEDArray`; with a `geometry` the LEDs' positions are not asked for, and its LEDs are numbered
        as the firmware does.

    Raises
    ------
    LinkLostError
        If it cannot be connected, saying why.
    IlluminateError
        If it tells no positions.
    """

    colour = Cpt(_Colour, value="255.255.255", kind="normal")

    def __init__(
        self,
        prefix: str = "",
        *,
        port: str,
        colour: Sequence[int] = (255, 255, 255),
        geometry: LEDGeometry | None = None,
        tolerance_na: float = 0.03,
        baudrate: int = 115_200,
        reply_timeout_s: float = 2.0,
        **kwargs: Any,
    ) -> None:
        self.link = Link(port, baudrate=baudrate, timeout_s=reply_timeout_s)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="illuminate")  # one: in the order of asking
        self._told: tuple[str, int] | None = None  # colour and brightness that the firmware has, if known
        self._is_sure = False  # that it shows what is said here
        self._is_terse = False
        try:
            self.link.open()
            self.channels = self._count_channels()
            self._colour = _as_colour(colour, self.channels)
            self._knows_positions = geometry is None
            if geometry is None:
                self.numbers, geometry = self._ask_geometry(tolerance_na)
            else:
                self.numbers = tuple(range(len(geometry)))
            self._prepare()
            self._is_sure = True
            super().__init__(prefix, geometry=geometry, **kwargs)
        except BaseException:
            self.link.close()
            self._worker.shutdown()
            raise
        Signal.put(self.colour, self._colour)

    @property
    def is_connected(self) -> bool:
        """Whether the array could be reached when it was last asked something."""
        return self.link.is_open

    def reconnect(self) -> None:
        """Connect again, and show what was shown before.

        Raises
        ------
        LinkLostError
            If it cannot be connected, saying why.
        """
        self._worker.submit(self._restore).result()

    def close(self) -> None:
        """Let go of the port, for other programs. The light stays as it is."""
        self._worker.submit(self.link.close).result()

    def destroy(self) -> None:
        """Close it for good."""
        self.close()
        self._worker.shutdown()
        super().destroy()

    def stage(self) -> list[Any]:
        """Be ready for a plan: connect again if the connection was lost."""
        if not (self.is_connected and self._is_sure):
            self.reconnect()
        return super().stage()

    # Light

    def show(self, indices: tuple[int, ...], brightness: float) -> Status:
        """Switch these LEDs on, all others off. Connects again if need be."""
        colour = self._colour
        return self._do(lambda: self._draw(indices, brightness, colour))

    def show_at(self, brightness: float) -> DeviceStatus:
        """Show the pattern at another brightness, as near as it can."""
        return super().show_at(round(_FULL * brightness) / _FULL)

    def show_in(self, colour: str | Sequence[int]) -> DeviceStatus:
        """Show the pattern in another colour.

        Raises
        ------
        ValueError
            If it is none that this array has; nothing changes then.
        """
        wanted, former = _as_colour(colour, self.channels), self._colour
        self._colour = wanted
        with self._lock:
            light = dataclasses.replace(self._asked)
        status = self._show(light)

        def shown(done: Any) -> None:
            if done.exception(timeout=0) is not None and self._colour == wanted:
                self._colour = former

        status.add_callback(shown)
        return status

    def trigger(self) -> DeviceStatus:
        """See whether the array is still there, and has not started anew."""
        status = DeviceStatus(self, timeout=self.timeout_s)
        self._do(self._look, status)
        return status

    def _do(self, task: Callable[[], None], status: Any = None) -> Any:
        status = status or Status()

        def work() -> None:
            try:
                task()
            except Exception as error:
                status.set_exception(error)
            else:
                status.set_finished()

        self._worker.submit(work)
        return status

    # On the worker's thread

    def _draw(self, indices: tuple[int, ...], brightness: float, colour: str) -> None:
        is_sure, self._is_sure = self._is_sure, False  # until all is said and done
        if not self.link.is_open:
            self.link.open()
            is_sure = False
        if not is_sure:
            self._prepare()
        level = round(_FULL * brightness)
        if self._told != (colour, level):
            if self.channels > 1:
                self.link.ask(f"sc.{colour}")
            self.link.ask(f"sb.{level}")  # after the colour, which weighs it otherwise
            self._told = colour, level
        positions = self._array.array_na_xy if self._knows_positions else None
        for command in drawing(self.numbers, indices if level else (), positions):
            self.link.ask(command)
        Signal.put(self.colour, colour)
        self._is_sure = True

    def _prepare(self) -> None:
        """Bring it into a known state, whoever was connected before: dark, and terse where it knows how."""
        self._told = None
        try:
            self.link.ask("machine")
        except LinkLostError:
            raise
        except IlluminateError:
            self._is_terse = False  # before 2019
        else:
            self._is_terse = True
        self.link.ask("ac.1")
        self.link.ask("x")

    def _restore(self) -> None:
        self._is_sure = False
        self.link.open()
        self._draw(self._light.indices, self._light.brightness, self._colour)

    def _look(self) -> None:
        if not self._is_sure:
            raise LinkLostError(f"{self._where} was lost; set a pattern or reconnect()")
        try:
            reply = self.link.ask("sb")
        except IlluminateError:
            self._is_sure = False
            raise
        said = re.search(r"^SB\.(\d+)$" if self._is_terse else r"(\d+)$", reply)
        if said is None or (self._told and int(said[1]) != self._told[1]):
            self._is_sure = False
            raise LinkLostError(
                f"{self._where} has started anew and lost its light: it says {reply!r}; set a pattern or "
                "reconnect()"
            )

    @property
    def _where(self) -> str:
        return f"{self.name} at {self.link.port}"

    # What it tells of itself

    def _count_channels(self) -> int:
        parameters = self._ask_json("pp")
        return max(1, len(parameters.get("color_channels", "rgb")))

    def _ask_geometry(self, tolerance_na: float) -> tuple[tuple[int, ...], LEDGeometry]:
        command = "pledposna"
        listed: Any = self._ask_json(command).get("led_position_list_na")
        try:
            at = {int(number): (float(x), float(y)) for number, (x, y) in listed.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise IlluminateError(f"{self.link.port}: {command!r} told no positions: {error}") from error
        # LEDs that are not connected are said to be at -2000
        there = {number: at[number] for number in sorted(at) if math.hypot(*at[number]) < 1}
        if not there:
            raise IlluminateError(f"{self.link.port}: {command!r} told of no LED that is connected")
        return tuple(there), LEDGeometry(np.array(list(there.values())), tolerance_na=tolerance_na)

    def _ask_json(self, command: str) -> dict[str, Any]:
        reply = self.link.ask(command)
        try:
            return json.loads(reply[reply.index("{") :])
        except ValueError as error:
            raise IlluminateError(
                f"{self.link.port}: {command!r} gave no JSON ({error}): {reply[:60]!r}"
            ) from error


def _as_colour(value: str | Sequence[int], channels: int) -> str:
    """Return a colour as the firmware wants it, the largest channel 255 as newer ones have it anyway."""
    numbers: Any = re.split(r"[.,]", value) if isinstance(value, str) else value
    try:
        wanted = [int(number) for number in numbers]
    except (TypeError, ValueError):
        wanted = []
    if channels == 1 and wanted:
        return str(_FULL)
    if len(wanted) != channels or min(wanted) < 0 or not 0 < max(wanted) <= _FULL:
        raise ValueError(
            f"colour is {value!r}: expected {channels} numbers from 0 to {_FULL}, such as (255, 0, 0), "
            "not all of them 0"
        )
    return ".".join(str(round(_FULL * number / max(wanted))) for number in wanted)
