"""The IOC as a process of its own, for examples and tests."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from typing import Any
from uuid import uuid4

__all__ = ["READY", "IOCError", "IOCProcess", "loopback"]

READY = "serving"
"""The first word of the line with which the IOC says that it serves."""

STARTING_S = 60.0
"""Longest wait for that. It takes some seconds, and longer where all cores are busy."""

ENDING_S = 5.0
"""Longest wait for a process that was told to end; then it is killed."""


class IOCError(RuntimeError):
    """The IOC did not start."""


def loopback(servers: int = 1) -> dict[str, str]:
    """Return the environment that keeps Channel Access to this machine, and to ports that are free now.

    To be set before ophyd is imported, for then Channel Access reads it:
    ``os.environ.update(loopback())``.

    Parameters
    ----------
    servers : int
        How many IOCs are to be found at a time. Each needs a port of its own: the first serves on that of
        EPICS_CA_SERVER_PORT, the n-th entry of EPICS_CA_ADDR_LIST is that of the n-th.
    """
    ports = _free_ports(servers)
    return {
        "EPICS_CA_ADDR_LIST": " ".join(f"127.0.0.1:{port}" for port in ports),
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(ports[0]),
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
    }


class IOCProcess:
    """A running ``python -m bluesky_autofocus.simulation.ioc``; `stop` it, or use it in a ``with`` statement.

    Parameters
    ----------
    instrument : str
        "microscope" or "sem".
    prefix : str, optional
        Of all its PVs; by default one that nobody else has.
    module : str
        The program: this one, or another one that has such options, says that it serves and ends likewise.
    port : int, optional
        On which it serves, where not on that of EPICS_CA_SERVER_PORT.
    environment : dict, optional
        Variables that differ from those of this process.
    options
        Of the command line, ``frame_px=128`` for ``--frame-px 128``.

    Attributes
    ----------
    prefix : str
        Of its PVs.

    Raises
    ------
    IOCError
        If it does not start; with what it said.
    """

    def __init__(
        self,
        instrument: str = "microscope",
        prefix: str | None = None,
        *,
        module: str = "bluesky_autofocus.simulation.ioc",
        port: int | None = None,
        environment: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.prefix = f"SIM{uuid4().hex[:6]}:" if prefix is None else prefix
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        self._command = [sys.executable, "-m", module, instrument, f"--prefix={self.prefix}", *words]
        self._environment = environment or {}
        if port is not None:
            self._environment = {"EPICS_CAS_SERVER_PORT": str(port), **self._environment}
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it, again if it was stopped, and return when it serves."""
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | self._environment,
        )
        self._process = process
        serves: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_follow, args=(process, serves), daemon=True).start()
        try:
            said = serves.get(timeout=STARTING_S)
        except queue.Empty:
            said = f"it said nothing for {STARTING_S:.0f} s"
        if said is not None:
            self.kill()
            raise IOCError(f"{' '.join(self._command)} did not start: {said}")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._ended(now=True)

    def stop(self) -> None:
        """End it: it ends when its standard input is closed."""
        self._ended(now=False)

    def _ended(self, *, now: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(0.0 if now else ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> "IOCProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _follow(process: subprocess.Popen[str], serves: "queue.Queue[str | None]") -> None:
    """Read all that a process says, or it would wait for a reader some day; tell when it serves."""
    if process.stdout is None:
        return
    said = []
    with process.stdout as output:
        for line in output:
            if line.startswith(READY):
                serves.put(None)
            said = [*said[-20:], line]
    serves.put("".join(said) or "it said nothing")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as probes:
        ports = []
        for _ in range(count):
            probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        return ports
