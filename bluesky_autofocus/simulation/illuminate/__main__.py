"""Serve the firmware of an Illuminate LED array that is not there."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from bluesky_autofocus.simulation.illuminate import Firmware, PseudoTerminal, TCPPort


def main() -> None:
    """Serve it until Ctrl+C, and say on the screen what is on."""
    parser = argparse.ArgumentParser(
        prog="python -m bluesky_autofocus.simulation.illuminate", description=__doc__
    )
    parser.add_argument("--tcp", type=int, metavar="NUMBER", help="listen on a TCP port in place of a pty")
    parser.add_argument("--dialect", choices=("new", "old"), default="new", help="that of 2021, or of 2018")
    parser.add_argument("--busy-ms", type=float, default=1.0, help="how long a command takes")
    parser.add_argument("--boot-s", type=float, default=0.3, help="how long it takes to start")
    options = parser.parse_args()
    firmware = Firmware(
        dialect=options.dialect,
        busy_s=1e-3 * options.busy_ms,
        on_light=lambda lit, brightness: _say(f"{len(lit)} LEDs at {brightness:.0%}: {_shortened(lit)}"),
    )
    if options.tcp is None and os.name == "nt":
        parser.error("Windows has no pseudo-terminals: give --tcp NUMBER")
    served = (
        PseudoTerminal(firmware, options.boot_s)
        if options.tcp is None
        else TCPPort(firmware, number=options.tcp, boot_s=options.boot_s)
    )
    with served:
        _say(f"port {served.port}")
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            pass


def _shortened(lit: Sequence[int], most: int = 12) -> str:
    return " ".join(map(str, lit[:most])) + (" ..." if len(lit) > most else "")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
