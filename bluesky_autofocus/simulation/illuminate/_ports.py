"""What a host connects to: a pseudo-terminal with a name that stays, or a TCP port."""

import contextlib
import os
import selectors
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bluesky_autofocus.simulation.illuminate._firmware import PACKET_BYTES, Firmware

__all__ = ["PseudoTerminal", "TCPPort"]

_LOOK_S = 0.05


class _Port:
    """A port that can be unplugged and plugged in again, upon which the firmware begins anew.

    Parameters
    ----------
    firmware : Firmware
        What is behind it.
    boot_s : float
        How long after it was plugged in nothing is heard but thrown away. The banner comes then.
    """

    port: str
    """What to give as the port of an LED array."""

    def __init__(self, firmware: Firmware, boot_s: float = 0.0) -> None:
        self.firmware, self.boot_s = firmware, boot_s
        self._unplugged = threading.Event()
        self._thread: threading.Thread | None = None
        self.plug()

    def plug(self) -> None:
        """Plug it in: power comes back."""
        self._unplugged.clear()
        self._open()
        self._thread = threading.Thread(target=self._serve, name="illuminate-firmware", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Pull the cable: power and connection are gone."""
        self._unplugged.set()
        if self._thread is not None:
            self._thread.join(5)
        self._close()
        self.firmware.start()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Unplug it for good."""
        self.unplug()

    def _open(self) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _serve(self) -> None:
        raise NotImplementedError

    def _talk(self, read: Any, write: Any, waiting: Any) -> None:
        """Answer what comes until the cable is pulled or the host has gone."""
        banner = self.firmware.start()
        begun = time.monotonic()
        while not self._unplugged.is_set() and time.monotonic() - begun < self.boot_s:
            if waiting():
                read()
            else:
                time.sleep(0.001)
        write(banner)

        def discard() -> None:
            while waiting() and read():
                pass

        while not self._unplugged.is_set():
            if waiting(_LOOK_S):
                packet = read()
                if not packet:
                    return
                if said := self.firmware.answer(packet, discard):
                    write(said)


class PseudoTerminal(_Port):
    """A serial port that is none, of POSIX systems. `port` is its path, the same after it was unplugged."""

    def __init__(self, firmware: Firmware, boot_s: float = 0.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="illuminate-")
        self.port = str(Path(self._folder.name) / "port")
        super().__init__(firmware, boot_s)

    def close(self) -> None:
        """Unplug it for good."""
        super().close()
        self._folder.cleanup()

    def _open(self) -> None:
        import tty

        # the other end stays open, so that hosts may come and go
        self._near, self._far = os.openpty()
        tty.setraw(self._far)
        Path(self.port).unlink(missing_ok=True)
        os.symlink(os.ttyname(self._far), self.port)

    def _close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.port)
        os.close(self._near)
        os.close(self._far)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
            selector.register(self._near, selectors.EVENT_READ)
            self._talk(
                lambda: os.read(self._near, PACKET_BYTES),
                lambda said: _write_all(self._near, said),
                lambda timeout_s=0.0: bool(selector.select(timeout_s)),
            )


def _write_all(descriptor: int, said: bytes) -> None:
    while said:
        said = said[os.write(descriptor, said) :]


class TCPPort(_Port):
    """The same over TCP, on any system; one host at a time. `port` is ``socket://HOST:NUMBER``.

    Parameters
    ----------
    firmware : Firmware
        What is behind it.
    host, number : str, int
        Where it listens; by default on a free port of this machine.
    boot_s : float
        How long after a host came nothing is heard.
    """

    def __init__(
        self, firmware: Firmware, *, host: str = "127.0.0.1", number: int = 0, boot_s: float = 0.0
    ) -> None:
        self._address = (host, number)
        super().__init__(firmware, boot_s)

    def _open(self) -> None:
        self._listening = socket.create_server(self._address)
        self._listening.settimeout(_LOOK_S)
        self._address = self._listening.getsockname()[:2]  # the same one after it was unplugged
        self.port = f"socket://{self._address[0]}:{self._address[1]}"

    def _close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while not self._unplugged.is_set():
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            with connection, selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                self._talk(
                    lambda connection=connection: connection.recv(PACKET_BYTES),
                    connection.sendall,
                    lambda timeout_s=0.0, selector=selector: bool(selector.select(timeout_s)),
                )
