# ruff: noqa: N803 - every bluesky user calls it RE

import os
import socket
import subprocess
import sys
import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from bluesky.utils import FailedStatus
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_autofocus.devices.illuminate import IlluminateArray, IlluminateError, LinkLostError
from bluesky_autofocus.devices.illuminate._drawing import drawing
from bluesky_autofocus.leds import LEDs, Orientation, PatternError, Single, quasi_dome
from bluesky_autofocus.simulation.illuminate import Firmware, PseudoTerminal, TCPPort
from bluesky_autofocus.simulation.illuminate._firmware import PACKET_BYTES

PORTS = {"pty": PseudoTerminal, "tcp": TCPPort}
if os.name == "nt":
    del PORTS["pty"]
QUICKEST = next(iter(PORTS))  # pyserial waits 0.3 s when it closes a socket


@pytest.fixture
def connect():
    """Return a function that connects an array to a firmware, of which its `cable` is the port."""
    made = []

    def make(firmware=None, *, port=QUICKEST, boot_s=0.0, **options):
        cable = PORTS[port](firmware or Firmware(), boot_s=boot_s)
        made.insert(0, cable.close)
        array = IlluminateArray(
            name="leds",
            port=cable.port,
            **{"orientation": Orientation(), "reply_timeout_s": 4.0, **options},
        )
        made.insert(0, array.destroy)
        array.cable, array.firmware = cable, cable.firmware
        return array

    yield make
    for undo in made:
        undo()


@pytest.fixture(params=[*((port, "new") for port in PORTS), (QUICKEST, "old")], ids="-".join)
def leds(request, connect):
    port, dialect = request.param
    return connect(Firmware(dialect=dialect), port=port, boot_s=0.1)


class TestConnecting:
    def test_what_it_tells_of_itself(self, leds):
        assert np.abs(leds.geometry.na_xy - quasi_dome().na_xy).max() <= 0.0005 + 1e-9
        assert leds.numbers == tuple(range(len(quasi_dome())))
        assert leds.lit == leds.firmware.lit == ()
        assert leds.is_connected

    def test_whoever_was_there_before(self, connect):
        """Half a command, a reply that nobody has read, LEDs that are on: none of it does any harm."""
        leds = connect(Firmware(busy_s=0.02))
        leds.firmware.answer(b"l.5.6\n", lambda: None)
        leds.firmware.answer(b"ac.0\n", lambda: None)
        leds.reconnect()
        assert leds.firmware.lit == ()
        for number in (3, 4):
            leds.set(LEDs((number,))).wait(5)
            assert leds.firmware.lit == (number,)

    def test_leds_that_are_not_connected_are_left_out(self, connect):
        leds = connect(Firmware(unconnected={0, 7}))
        assert leds.numbers[:7] == (1, 2, 3, 4, 5, 6, 8)
        leds.set(LEDs((6,))).wait(5)
        assert leds.firmware.lit == (8,)

    def test_one_colour(self, connect):
        leds = connect(Firmware(colours=1))
        leds.set(LEDs((6,))).wait(5)
        assert leds.firmware.brightness == 1
        assert leds.colour.get() == "255"

    def test_a_geometry_of_ones_own(self, connect):
        """Then nobody knows what the firmware's patterns would light."""
        geometry = quasi_dome(largest_na=0.5)
        leds = connect(geometry=geometry)
        leds.set("brightfield").wait(5)
        assert leds.firmware.lit == leds.lit == geometry.turned(Orientation()).select(leds_of("brightfield"))
        said = leds.firmware.commands
        assert {command.split(".")[0] for command in said[said.index("sb.255") + 1 :]} == {"l", "ac"}

    def test_no_such_port(self):
        with pytest.raises(LinkLostError, match="/dev/no-such-port cannot be connected"):
            IlluminateArray(name="leds", port="/dev/no-such-port")

    @pytest.mark.skipif("pty" not in PORTS, reason="wants a pseudo-terminal")
    def test_a_port_that_is_in_use(self, connect):
        leds = connect(port="pty")
        with pytest.raises(LinkLostError, match="lock port.* is the port free"):
            IlluminateArray(name="second", port=leds.cable.port)
        leds.set("annulus").wait(5)

    @pytest.mark.parametrize(("says", "match"), [(b"ready\r\n> ", "said 'ready"), (b"", "said nothing")])
    def test_something_else_on_the_port(self, says, match):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve():
                connection, _ = listening.accept()
                with connection:
                    while connection.recv(64):
                        connection.sendall(says)

            serving = threading.Thread(target=serve)
            serving.start()
            host, number = listening.getsockname()
            with pytest.raises(LinkLostError, match=f"no Illuminate LED array answers.*{match}"):
                IlluminateArray(name="leds", port=f"socket://{host}:{number}", reply_timeout_s=0.4)
            serving.join(5)
            assert not serving.is_alive()


def leds_of(name):
    from bluesky_autofocus.leds import parse_pattern

    return parse_pattern(name, 0.5)


class TestLight:
    def test_by_message(self, RE, documents, leds):
        for pattern in ("brightfield", "darkfield", "half_annulus_left", Single(0.4), "off"):
            RE(bps.mv(leds, pattern))
            assert leds.firmware.lit == leds.lit == leds.select(pattern)
            RE(bp.count([leds]))
            RE(bps.mv(leds, documents.events("primary")[-1]["leds"]))  # what was read can be set
            assert leds.firmware.lit == leds.select(pattern)

    def test_a_plan_that_ends_leaves_it_on(self, RE, connect):
        leds = connect()
        RE(bp.list_scan([], leds, ["annulus", Single(0.4)]))
        assert leds.firmware.lit == leds.select(Single(0.4))

    def test_no_pattern_changes_nothing(self, connect):
        leds = connect()
        said = len(leds.firmware.commands)
        with pytest.raises(PatternError, match="no illumination pattern"):
            leds.set("moonlight")
        assert len(leds.firmware.commands) == said

    def test_one_led_is_one_command(self, connect):
        leds = connect()
        leds.set(LEDs((1,))).wait(5)
        said = len(leds.firmware.commands)
        leds.set(LEDs((376,))).wait(5)
        assert leds.firmware.commands[said:] == ["l.376"]

    def test_brightness_and_colour(self, RE, documents, leds):
        RE(bps.mv(leds, "annulus", leds.brightness, 0.501))
        assert leds.firmware.brightness == 128 / 255
        RE(bps.mv(leds.colour, (0, 20, 10)))
        assert leds.firmware._shown[leds.lit[0]] == (0, 128, 65)
        RE(bp.count([leds]))
        (event,) = documents.events("primary")
        assert event["leds_brightness"] == 128 / 255
        assert event["leds_colour"] == "0.255.128"
        RE(bps.mv(leds.brightness, 0))
        assert leds.firmware.lit == ()

    @pytest.mark.parametrize("colour", ["red", (1, 2), (0, 0, 0), (0, 0, 256), None])
    def test_no_colour(self, connect, colour):
        leds = connect()
        with pytest.raises(ValueError, match="expected 3 numbers from 0 to 255"):
            leds.colour.set(colour)
        assert leds.colour.get() == "255.255.255"

    def test_many_in_a_row(self, connect):
        """None is sent while the firmware is busy with the one before; the last one counts."""
        leds = connect(Firmware(busy_s=0.02))
        said = len(leds.firmware.commands)
        statuses = [leds.set(LEDs((number,))) for number in range(12)]
        for status in statuses:
            status.wait(5)
        assert leds.firmware.commands[said + 2 :] == [f"l.{number}" for number in range(12)]
        assert leds.lit == leds.firmware.lit == (11,)


class TestDrawing:
    """The LEDs of the commands, done by the firmware."""

    na_xy = np.round(quasi_dome().array_na_xy, 3)

    def done(self, commands, **options):
        firmware = Firmware(busy_s=0.0, **options)
        firmware.answer(b"sb.255\n", lambda: None)
        for command in commands:
            packet = f"{command}\n".encode()
            assert len(packet) <= PACKET_BYTES
            assert b"ERROR" not in firmware.answer(packet, lambda: None)
        return firmware

    @given(st.sets(st.integers(0, 376)), st.booleans())
    @settings(max_examples=40, deadline=None)
    def test_any_set(self, chosen, known):
        commands = drawing(range(377), sorted(chosen), self.na_xy if known else None)
        assert self.done(commands).lit == tuple(sorted(chosen))

    @given(st.integers(0, 74), st.integers(0, 76), st.sampled_from(["", *"tblr"]), st.integers(0, 9))
    @settings(max_examples=60, deadline=None)
    def test_rings_and_halves(self, inner, outer, half, seed):
        """Of arrays that lie anyhow, where edges fall between LEDs or on them."""
        rng = np.random.default_rng(seed)
        true = rng.uniform(-0.53, 0.53, (200, 2))
        away = np.hypot(*true.T)
        side = {"t": true[:, 1] > 0, "b": true[:, 1] < 0, "l": true[:, 0] < 0, "r": true[:, 0] > 0}
        inside = (away >= inner / 100) & (away <= outer / 100) & side.get(half, True)
        chosen = np.flatnonzero(inside).tolist()
        firmware = self.done(drawing(range(200), chosen, np.round(true, 3)), na_xy=true)
        assert firmware.lit == tuple(chosen)

    @pytest.mark.parametrize(
        ("chosen", "commands"),
        [
            ([], ["x"]),
            (range(377), ["ff"]),
            (quasi_dome().select(leds_of("brightfield")), ["an.0.46"]),
            (quasi_dome().select(leds_of("annulus")), ["an.44.46"]),
        ],
    )
    def test_patterns_of_the_firmware(self, chosen, commands):
        """What takes ten packets as a list is one command, where it is exactly that."""
        assert drawing(range(377), list(chosen), self.na_xy) == commands
        assert self.done(commands).lit == tuple(chosen)
        one_less = list(chosen)[1:-1]
        assert self.done(drawing(range(377), one_less, self.na_xy)).lit == tuple(one_less)

    def test_what_comes_while_it_is_busy_is_thrown_away(self, connect):
        leds = connect(Firmware(busy_s=0.1))
        leds.link._serial.write(b"l.1\nl.2\n")
        time.sleep(0.03)
        leds.link._serial.write(b"l.3\n")
        assert leds.link._read_reply("l.1", 1.0) == ""
        assert (leds.firmware.commands[-1], leds.firmware.lit) == (
            "l.1",
            (),
        )  # dark: brightness was never set

    def test_half_a_command_is_forgotten(self):
        """Why long lists go in several."""
        firmware = Firmware(busy_s=0.0)
        line = f"l.{'.'.join(map(str, range(100, 130)))}\n".encode()
        assert firmware.answer(line[:PACKET_BYTES], lambda: None) == b""
        assert b"is not implemented yet" in firmware.answer(line[PACKET_BYTES:], lambda: None)
        assert firmware.lit == ()


class TestTrouble:
    def test_a_command_that_is_refused(self, leds):
        with pytest.raises(IlluminateError, match=r"'an\.1' was refused: ERROR .*arguments") as refused:
            leds.link.ask("an.1")
        assert not isinstance(refused.value, LinkLostError)
        with pytest.raises(IlluminateError, match="'shine' was refused: .*not implemented"):
            leds.link.ask("shine")
        leds.set("annulus").wait(5)
        assert leds.firmware.lit == leds.lit

    def test_a_command_that_cannot_arrive_whole(self, connect):
        with pytest.raises(ValueError, match="at most 63"):
            connect().link.ask("l" + ".100" * 16)

    def test_silence(self, RE, leds):
        RE(bps.mv(leds, "annulus"))
        leds.firmware.mute, leds.link.timeout_s = True, 0.5
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(leds, Single(0.4)))
        assert isinstance(failed.value.__cause__, LinkLostError)
        assert "'l.89' was not answered within 0.5 s" in str(failed.value.__cause__)
        assert not leds.is_connected
        leds.firmware.mute, leds.link.timeout_s = False, 4.0
        RE(bps.mv(leds, Single(0.4)))
        assert leds.firmware.lit == leds.lit == leds.select(Single(0.4))

    def test_the_reply_to_another_command(self, connect):
        """What comes late is not taken for the reply to what was asked since."""
        leds = connect()
        leds.firmware.busy_s, leds.link.timeout_s = 0.4, 0.2
        with pytest.raises(LinkLostError, match="not answered"):
            leds.set(LEDs((1,))).wait(5)
        leds.firmware.busy_s, leds.link.timeout_s = 0.0, 4.0
        leds.set(LEDs((2,))).wait(5)
        assert leds.firmware.lit == (2,)
        assert leds.link.ask("sb") == "SB.255"

    def test_unplugged_and_back(self, RE, documents, leds):
        RE(bps.mv(leds, "annulus"))
        leds.cable.unplug()
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([leds]))
        assert isinstance(failed.value.__cause__, LinkLostError)
        assert not documents.named("event")
        with pytest.raises(FailedStatus) as failed:
            RE(bps.mv(leds, "brightfield"))
        assert leds.cable.port in str(failed.value.__cause__)
        leds.cable.plug()
        assert leds.firmware.lit == ()  # it has lost its power
        RE(bp.count([leds]))  # which stages it
        assert leds.firmware.lit == leds.lit == leds.select("annulus")
        (event,) = documents.events("primary")
        assert event["leds"] == "annulus"

    def test_a_pattern_connects_again(self, RE, connect):
        leds = connect()
        leds.cable.unplug()
        leds.cable.plug()
        with pytest.raises(FailedStatus):
            RE(bps.mv(leds, "annulus"))  # nobody had noticed
        RE(bps.mv(leds, "annulus"))
        assert leds.firmware.lit == leds.lit == leds.select("annulus")

    @pytest.mark.parametrize("dialect", ["new", "old"])
    def test_it_starts_anew_unnoticed(self, RE, documents, connect, dialect):
        leds = connect(Firmware(dialect=dialect))
        RE(bps.mv(leds, "annulus"))
        leds.firmware.start()
        with pytest.raises(FailedStatus) as failed:
            RE(bp.count([leds]))
        assert "has started anew and lost its light" in str(failed.value.__cause__)
        assert not documents.named("event")
        RE(bp.count([leds]))
        assert leds.firmware.lit == leds.lit == leds.select("annulus")

    def test_let_go_and_taken_again(self, connect):
        leds = connect()
        leds.set("annulus").wait(5)
        leds.close()
        assert leds.firmware.lit == leds.select("annulus")
        assert not leds.is_connected
        leds.reconnect()
        assert leds.firmware.lit == leds.lit == leds.select("annulus")


@pytest.mark.skipif("pty" not in PORTS, reason="wants a pseudo-terminal")
def test_the_program():
    program = [sys.executable, "-m", "bluesky_autofocus.simulation.illuminate", "--boot-s", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            lines = iter(running.stdout.readline, "")
            port = next(line for line in lines if line.startswith("port ")).split()[1]
            leds = IlluminateArray(name="leds", port=port)
            leds.set(LEDs((7, 9))).wait(5)
            assert "2 LEDs at 100%: 7 9\n" in lines
            leds.destroy()
        finally:
            running.terminate()
