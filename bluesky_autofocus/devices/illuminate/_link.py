"""A command, its reply: the conversation with the firmware over a serial port."""

import contextlib
import itertools
import re
import threading
import time
from typing import Any

__all__ = ["IlluminateError", "Link", "LinkLostError"]

END = re.compile(r"-==-\s*\n")
"""Ends the reply to a command; the banner that it says when it starts has none."""

LONGEST_COMMAND = 63
"""Bytes beside the newline. With it a command fits into one packet of USB at full speed: the firmware forgets
what is not complete when it looks (`CommandRouter::processSerialStream`)."""

_ASK_AGAIN_S = 0.3
"""After this time without a reply a command was heard by nobody: what comes while the firmware starts or is
busy is thrown away."""

_PROBLEM = re.compile(r"ERROR|is not implemented yet|Source Disconnected")


class IlluminateError(RuntimeError):
    """The firmware refused a command, or said something else than it should."""


class LinkLostError(IlluminateError, ConnectionError):
    """The LED array cannot be reached, or has started anew: what it shows is not known."""


class Link:
    """The conversation with the firmware of an LED array.

    One command at a time, of any thread; the next is sent when the reply to the last has come, since the
    firmware discards what comes before.

    Parameters
    ----------
    port : str
        A serial port such as ``/dev/ttyACM0`` or ``COM3``, or any URL of pyserial: ``socket://host:number``.
    baudrate : int
        The firmware's is 115200; USB does not care.
    timeout_s : float
        Longest silence before the end of a reply.
    """

    def __init__(self, port: str, *, baudrate: int = 115_200, timeout_s: float = 2.0) -> None:
        self.port, self.baudrate, self.timeout_s = port, baudrate, timeout_s
        self._serial: Any = None
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    @property
    def is_open(self) -> bool:
        """Whether it is connected, as far as is known without asking."""
        return self._serial is not None

    def open(self) -> None:
        """Connect, and wait until the firmware answers.

        Raises
        ------
        LinkLostError
            If there is no such port, it is in use, or nothing on it answers as this firmware does.
        """
        with self._lock:
            self._close()
            self._connect()
            try:
                self._get_in_step()
            except BaseException:
                self._close()
                raise

    def close(self) -> None:
        """Let go of the port. The light stays as it is."""
        with self._lock:
            self._close()

    def ask(self, command: str) -> str:
        """Send a command and return what the firmware says to it, without the terminator.

        Raises
        ------
        IlluminateError
            If it refuses the command.
        LinkLostError
            If the port fails, no reply comes, or the firmware has said something unasked. The connection is
            closed then.
        """
        if len(command) > LONGEST_COMMAND:
            raise ValueError(f"{command!r} has {len(command)} characters: at most {LONGEST_COMMAND}")
        with self._lock:
            if self._serial is None:
                raise LinkLostError(f"{self.port}: {command!r} was not sent: there is no connection")
            try:
                self._check_silence(command)
                self._write(command)
                reply = self._read_reply(command, self.timeout_s)
            except BaseException as error:
                self._close()  # what comes later would be taken for the reply to the next
                if isinstance(error, OSError) and not isinstance(error, LinkLostError):
                    raise LinkLostError(f"{self.port}: {command!r} failed: {error}") from error
                raise
        if _PROBLEM.search(reply):
            raise IlluminateError(f"{self.port}: {command!r} was refused: {' '.join(reply.split())}")
        return reply

    def _connect(self) -> None:
        import serial

        try:
            self._serial = serial.serial_for_url(
                self.port,
                baudrate=self.baudrate,
                timeout=0.05,
                write_timeout=self.timeout_s,
                # two programs on one port would get each other's replies
                exclusive=None if "://" in self.port else True,
            )
        except (OSError, ValueError) as error:
            raise LinkLostError(
                f"the LED array at {self.port} cannot be connected: {error}; is it plugged in, is the port "
                "free, and may this user open it?"
            ) from error

    def _get_in_step(self) -> None:
        """Send words that it cannot know until it complains about the one sent last.

        That is the same in all versions, and tells the reply from the banner and from those to commands of a
        host before.
        """
        deadline_s = time.monotonic() + self.timeout_s
        heard = ""
        while time.monotonic() < deadline_s:
            word = f"sync{next(self._numbers)}"
            try:
                self._write(word)
                again_s = time.monotonic() + _ASK_AGAIN_S
                while time.monotonic() < again_s:
                    heard += self._read_some()
                    if END.search(heard.partition(f"[{word}]")[2]):
                        return
            except OSError as error:
                raise LinkLostError(f"{self.port} failed while it was connected: {error}") from error
        said = f"it said {heard[-80:]!r}" if heard else "it said nothing"
        raise LinkLostError(
            f"{self.port} was opened, but no Illuminate LED array answers within {self.timeout_s:g} s: {said}"
        )

    def _check_silence(self, command: str) -> None:
        """Refuse to go on where it has spoken unasked: it has started anew, or lost its power supply."""
        if self._serial.in_waiting and (said := " ".join(self._read_some().split())):
            raise LinkLostError(
                f"{self.port}: {command!r} was not sent: the LED array has said {said[:80]!r} unasked, so it "
                "may have lost its light; set a pattern or reconnect()"
            )

    def _write(self, command: str) -> None:
        self._serial.write(f"{command}\n".encode("ascii"))

    def _read_some(self) -> str:
        """Return what comes within a short while, which may be nothing."""
        some = self._serial.read(1)
        if some and (waiting := self._serial.in_waiting):
            some += self._serial.read(waiting)
        return some.decode("ascii", "replace")

    def _read_reply(self, command: str, silence_s: float) -> str:
        reply, last_s = "", time.monotonic()
        while not (end := END.search(reply)):
            if some := self._read_some():
                reply, last_s = reply + some, time.monotonic()
            elif time.monotonic() - last_s > silence_s and not self._serial.in_waiting:
                raise LinkLostError(
                    f"{self.port}: {command!r} was not answered within {silence_s:g} s: what the LED array "
                    "shows is not known"
                )
        return reply[: end.start()].strip()

    def _close(self) -> None:
        port, self._serial = self._serial, None
        if port is None:
            return
        connection = getattr(port, "_socket", None)
        with contextlib.suppress(OSError):
            port.close()
        if connection is not None:
            connection.close()  # pyserial forgets to if the other side was faster
