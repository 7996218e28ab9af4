"""What the controller makes of the packets that it gets: commands, replies, light."""

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bluesky_autofocus.leds import quasi_dome

__all__ = ["Firmware"]

PACKET_BYTES = 64
"""What USB brings at a time, at full speed. A command that is not complete in it is forgotten."""

_DOME_MM = 60.0
_NO_LED = -2000.0
_LONGEST_COMMAND = 20
_LONGEST_ARGUMENT = 10
_VERSIONS = {"old": "1.15", "new": "1.32"}
_FORMER_BRIGHTNESS = 128
_NAMES = {
    "led": "l",
    "xx": "x",
    "fillArray": "ff",
    "brightfield": "bf",
    "darkfield": "df",
    "halfCircle": "dpc",
    "annulus": "an",
    "halfAnnulus": "ha",
    "autoClear": "ac",
    "setNa": "na",
    "setInnerNa": "nai",
    "setColor": "sc",
    "setBrightness": "sb",
    "printParams": "pp",
    "printVals": "pvals",
    "printLedPositions": "pledpos",
    "printLedPositionsNa": "pledposna",
    "version": "ver",
    "info": "about",
    "reset": "reboot",
    "wait": "delay",
    "setModeMachine": "machine",
    "setModeHuman": "human",
}
_ONLY_NEW = {"machine", "human", "nai"}
_HALVES: dict[str, Callable[[float, float], bool]] = {
    "t": lambda x, y: y > 0,
    "b": lambda x, y: y < 0,
    "l": lambda x, y: x < 0,
    "r": lambda x, y: x > 0,
}


class Firmware:
    """The Illuminate firmware, of github.com/zfphil/illuminate, as far as light and geometry go.

    It has what makes a host's life hard: a banner without terminator when it starts, commands that are
    forgotten if they come in two pieces, and bytes that are discarded while it is busy.

    Parameters
    ----------
    na_xy : array_like, shape (n, 2), optional
        Where its LEDs are, in NA space; those of `quasi_dome` by default.
    dialect : {"new", "old"}
        "old" is that of 2018, which knows no `machine` and says the same in other words.
    colours : int
        Colour channels of an LED, 3 or 1.
    busy_s : float
        How long a command takes.
    unconnected : collection of int
        Numbers that no LED has.
    on_light : callable, optional
        Told ``(numbers of the LEDs that are on, brightness from 0 to 1)`` whenever it changes.

    Attributes
    ----------
    lit : tuple of int
        Numbers of the LEDs that are on.
    commands : list of str
        What it was told, in the order in which it did it.
    mute : bool
        Whether it has stopped answering.
    """

    def __init__(
        self,
        na_xy: ArrayLike | None = None,
        *,
        dialect: Literal["new", "old"] = "new",
        colours: int = 3,
        busy_s: float = 0.001,
        unconnected: Collection[int] = (),
        on_light: Callable[[Sequence[int], float], None] | None = None,
    ) -> None:
        if dialect not in _VERSIONS:
            raise ValueError(f"dialect is {dialect!r}: expected one of {', '.join(_VERSIONS)}")
        if colours not in (1, 3):
            raise ValueError(f"colours is {colours!r}: expected 1 or 3")
        positions = quasi_dome().array_na_xy if na_xy is None else np.asarray(na_xy, float).reshape(-1, 2)
        self._na_xy = [(float(x), float(y)) for x, y in positions]
        self._unconnected = frozenset(unconnected)
        self._dialect, self._colours, self.busy_s = dialect, colours, busy_s
        self._on_light = on_light or (lambda lit, brightness: None)
        self.commands: list[str] = []
        self.mute = False
        self.start()

    def start(self) -> bytes:
        """Begin anew, as when power comes back: all dark, all settings forgotten. Return the banner."""
        self._machine, self._autoclear = False, True
        self._na, self._inner_na = 0.4, 0.0
        self._colour = [round(255 / self._colours)] * self._colours
        self._brightness = _FORMER_BRIGHTNESS
        self._values = [0] * self._colours  # until brightness or colour is set
        self._shown: dict[int, tuple[int, ...]] = {}
        self._tell()
        return self._about().encode()

    @property
    def lit(self) -> tuple[int, ...]:
        """Numbers of the LEDs that are on."""
        return tuple(sorted(number for number, values in self._shown.items() if any(values)))

    @property
    def brightness(self) -> float:
        """Of the LEDs that are on, from 0 to 1: that of the brightest channel."""
        return max((max(values) for values in self._shown.values()), default=0) / 255

    def answer(self, packet: bytes, discard: Callable[[], None]) -> bytes:
        """Return what it says to a packet.

        Parameters
        ----------
        packet : bytes
            What has arrived. What follows the first command is discarded, and so is half a command.
        discard : callable
            Called after a command was done, to throw away what arrived meanwhile.
        """
        line, newline, _ = packet.partition(b"\n")
        if not newline:
            return b""
        command = line.decode("ascii", "replace")
        said = self._do(command)
        time.sleep(self.busy_s)
        discard()
        self.commands.append(command)
        return b"" if self.mute else f"{said}-==-\n".encode()

    def _do(self, line: str) -> str:
        header, *arguments = line.split(".")
        if len(header) > _LONGEST_COMMAND:
            return "ERROR: Command was too long! \n"
        if any(len(argument) > _LONGEST_ARGUMENT for argument in arguments):
            return "ERROR: Optional element was too long!\n"
        name = _NAMES.get(header, header)
        known = getattr(self, f"_do_{name}", None)
        if known is None or (self._dialect == "old" and name in _ONLY_NEW):
            return f"Command [{header}] is not implemented yet."
        return known(arguments)

    # Light

    def _light(self, numbers: Sequence[int]) -> str:
        """Add LEDs to those that are on, or replace them."""
        if self._autoclear:
            self._shown.clear()
        for number in numbers:
            if 0 <= number < len(self._na_xy) and number not in self._unconnected:
                self._shown[number] = tuple(self._values)
        self._tell()
        return ""

    def _tell(self) -> None:
        self._on_light(self.lit, self.brightness)

    def _ring(self, inner: float, outer: float, *, half: str | None = None) -> list[int]:
        chosen = []
        for number, (x, y) in enumerate(self._na_xy):
            away = math.hypot(x, y)
            # of halves the inner edge is outside, of rings inside: so the source has it
            inside = inner <= away <= outer if half is None else inner < away <= outer and _HALVES[half](x, y)
            if inside:
                chosen.append(number)
        return chosen

    def _do_l(self, arguments: list[str]) -> str:
        return self._light([_whole(argument) for argument in arguments])

    def _do_x(self, arguments: list[str]) -> str:
        self._shown.clear()
        self._tell()
        return ""

    def _do_ff(self, arguments: list[str]) -> str:
        return self._light(range(len(self._na_xy)))

    def _do_bf(self, arguments: list[str]) -> str:
        self._shown.clear()
        return self._light(self._ring(self._inner_na, self._na))

    def _do_df(self, arguments: list[str]) -> str:
        self._shown.clear()
        return self._light(self._ring(self._na, 1.0))

    def _do_an(self, arguments: list[str]) -> str:
        if len(arguments) not in (0, 2):
            return "ERROR (LedArray::drawAnnulus): Invalid number of arguments! \n"
        inner, outer = (_whole(one) / 100 for one in arguments) if arguments else (self._na, self._na + 0.2)
        self._shown.clear()
        return self._light(self._ring(inner, outer))

    def _do_dpc(self, arguments: list[str]) -> str:
        return self._half(arguments[:1] or ["t"], self._inner_na, self._na, "dpc")

    def _do_ha(self, arguments: list[str]) -> str:
        if len(arguments) not in (1, 3):
            return "ERROR (LedArray::drawHalfAnnulus) Invlaid number of arguments. \n"
        if len(arguments) == 1:
            return self._half(arguments, self._na, self._na + 0.2, "half annulus")
        return self._half(arguments, _whole(arguments[1]) / 100, _whole(arguments[2]) / 100, "half annulus")

    def _half(self, arguments: list[str], inner: float, outer: float, what: str) -> str:
        side = arguments[0][:1]
        if arguments[0] not in ("t", "b", "l", "r", "top", "bottom", "left", "right"):
            return f"ERROR - invalid {what} circle type. Options are t, b, l, and r \n"
        return self._light(self._ring(inner, outer, half=side))

    # Settings

    def _do_ac(self, arguments: list[str]) -> str:
        self._autoclear = bool(_whole(arguments[0])) if arguments else not self._autoclear
        state = int(self._autoclear)
        return self._say(f"AC.{state}", f"Auto clear bit is now {state}")

    def _do_na(self, arguments: list[str]) -> str:
        return self._aperture("_na", "NA", arguments)

    def _do_nai(self, arguments: list[str]) -> str:
        return self._aperture("_inner_na", "NAI", arguments)

    def _aperture(self, attribute: str, word: str, arguments: list[str]) -> str:
        problem = ""
        if arguments:
            wanted = _whole(arguments[0]) / 100
            if 0 < wanted < 1:
                setattr(self, attribute, wanted)
            else:
                problem = (
                    "ERROR (LedArray::setNa): invalid objective NA. Make sure input is of format 100*NA\n"
                )
        now = getattr(self, attribute)
        return problem + self._say(f"{word}.{round(100 * now):02d}", f"Current NA is {now:.2f}.")

    def _do_sc(self, arguments: list[str]) -> str:
        if self._colours == 1:
            return "ERROR (LedArray::setColor): Current device does not support color illumination \n"
        if arguments == ["max"]:
            wanted = [255] * 3
        elif len(arguments) in (1, 3) and all(argument.isdigit() for argument in arguments):
            wanted = [_whole(argument) % 256 for argument in (arguments * 3)[:3]]
        elif arguments:
            return "ERROR (LedArray::setColor): Invalid color value \n"
        else:
            wanted = self._colour
        largest = max(wanted)
        if self._dialect == "new" and largest:
            wanted = [round(255 * value / largest) for value in wanted]
        self._colour = wanted
        self._weigh()
        shown = ".".join(map(str, wanted))
        return self._say(f"CO.{shown}", f"Current color value is {shown}")

    def _do_sb(self, arguments: list[str]) -> str:
        if arguments:
            named = {"max": 255, "min": 1, "half": 127, "quarter": 63}
            self._brightness = named.get(arguments[0], _whole(arguments[0]) % 256)
        self._weigh()
        if self._dialect == "old":
            return f"Current LED brightness is: {self._brightness}\n"
        return self._say(f"SB.{self._brightness}", f"Current brightness value is {self._brightness}.")

    def _weigh(self) -> None:
        self._values = [math.ceil(value / 255 * self._brightness) for value in self._colour]

    def _do_machine(self, arguments: list[str]) -> str:
        self._machine = True
        return "Command output set to machine-readable\n"

    def _do_human(self, arguments: list[str]) -> str:
        self._machine = False
        return "Command output set to human-readable\n"

    def _do_reboot(self, arguments: list[str]) -> str:
        self.start()
        return "Resetting Array\n"

    def _do_delay(self, arguments: list[str]) -> str:
        time.sleep(_whole(arguments[0]) / 1000)
        return ""

    # What it tells

    def _say(self, short: str, long: str) -> str:
        return f"{short if self._machine else long}\n"

    def _about(self) -> str:
        return (
            f"{'=' * 100}\n  simulated LED Array Controller \n"
            f"  Illuminate r{_VERSIONS[self._dialect]} | Serial Number: 0000 | Part Number: 0000\n"
            f"  For help, type ? \n{'=' * 100}\n"
        )

    def _do_about(self, arguments: list[str]) -> str:
        return self._about()

    def _do_ver(self, arguments: list[str]) -> str:
        return f"{_VERSIONS[self._dialect]}\n"

    def _do_pp(self, arguments: list[str]) -> str:
        parameters = {
            "device_name": "simulated",
            "led_count": len(self._na_xy),
            "color_channels": list("rgb"[: self._colours]),
            "bit_depth": 8,
        }
        if self._dialect == "new":
            parameters |= {"interface_version": float(_VERSIONS["new"])}
        return json.dumps(parameters, indent=4)

    def _do_pvals(self, arguments: list[str]) -> str:
        dark = (0,) * self._colours
        values = {str(n): list(self._shown.get(n, dark)) for n in range(len(self._na_xy))}
        return _listing("led_values", {key: ",".join(map(str, one)) for key, one in values.items()})

    def _do_pledpos(self, arguments: list[str]) -> str:
        rows = {}
        for number, (x, y) in self._range(arguments):
            z = math.sqrt(max(0.0, 1 - x * x - y * y))
            rows[str(number)] = ", ".join(f"{_DOME_MM * one:.2f}" for one in (x, y, z))
        return _listing("led_position_list_cartesian", rows)

    def _do_pledposna(self, arguments: list[str]) -> str:
        rows = {}
        for number, (x, y) in self._range(arguments):
            x, y = (_NO_LED, _NO_LED) if number in self._unconnected else (x, y)
            rows[str(number)] = f"{x:.3f}, {y:.3f}"
        return _listing("led_position_list_na", rows)

    def _range(self, arguments: list[str]) -> list[tuple[int, tuple[float, float]]]:
        if self._dialect == "old":
            arguments = []
        first, last = ([_whole(one) for one in arguments] + [0, len(self._na_xy)][len(arguments) :])[:2]
        return list(enumerate(self._na_xy))[first:last]


def _whole(text: str) -> int:
    """Return what C's `strtoul` makes of a text: 0 of one that is no number."""
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits else 0


def _listing(name: str, rows: dict[str, str]) -> str:
    lines = ",\n".join(f'        "{key}" : [{row}]' for key, row in rows.items())
    return f'{{\n    "{name}" : {{\n{lines}\n    }}\n}}'
