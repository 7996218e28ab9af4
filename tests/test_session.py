"""What a session does with its instrument: opens it, tells its analyses of the camera, lets it go again."""

import logging
import os
import threading

import numpy as np
import pytest
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_autofocus.callbacks import FocusRecord, TwoLEDAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.configuration import Configuration, ConfigurationError, write_configuration
from bluesky_autofocus.defocus import TwoLEDFilter
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.devices._signals import ComputedSignal
from bluesky_autofocus.instruments import INSTRUMENTS, Instrument, make_instrument
from bluesky_autofocus.session import open_session

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

SMALL = {"frame_px": 128}


def workers():
    return [one for one in threading.enumerate() if one.name.startswith("illuminate")]


# Letting go


@pytest.fixture(params=["tcp", pytest.param("pty", marks=pytest.mark.skipif(os.name == "nt", reason="none"))])
def port(request):
    """Return what a session is to be told of the port: one of its own, or one that only one can open."""
    from bluesky_autofocus.simulation.illuminate import Firmware, PseudoTerminal

    if request.param == "tcp":
        yield {"reply_timeout_s": 20.0}
    else:
        with PseudoTerminal(Firmware()) as cable:
            yield {"port": cable.port, "reply_timeout_s": 20.0}


def test_a_session_lets_its_instrument_go(port, tmp_path):
    before = workers()
    for _ in range(2):
        with open_session(
            "illuminate", catalog=tmp_path, clock=VirtualClock(), show=None, **SMALL, **port
        ) as session:
            leds = session.instrument.devices["leds"]
            assert leds.is_connected
        assert not leds.link.is_open
        assert workers() == before


def test_a_session_that_does_not_open_lets_it_go_too(port, tmp_path):
    before = workers()
    tables = {"instrument": {"name": "illuminate", "options": {**SMALL, **port}}}
    wrong = Configuration.of({**tables, "camera": {"exposure_s": 1e6}})
    with pytest.raises(
        ValueError, match=r"camera\.exposure_s is 1e\+06: camera_exposure_s: 1000000\.0 s is not"
    ):
        open_session(config=wrong, catalog=tmp_path, clock=VirtualClock(), show=None)
    assert workers() == before
    with open_session(config=Configuration.of(tables), catalog=tmp_path, clock=VirtualClock(), show=None):
        pass


def test_an_instrument_that_is_not_made_leaves_nothing_open(port, tmp_path):
    before = workers()
    with pytest.raises(ValueError, match="shape_px is"):
        make_instrument("illuminate", tmp_path, VirtualClock(), frame_px=-3, **port)
    assert workers() == before


def test_an_epics_session_lets_its_pvs_go(tmp_path):
    from served_epics import pv, running

    name = running("microscope", focus_um=3.0, start_um=-9.0, seed=1).prefix
    for _ in range(2):
        with open_session(
            "epics", catalog=tmp_path, show=None, camera=name, positioner=f"{name}Z", leds=f"{name}Leds:"
        ) as session:
            devices = session.instrument.devices.values()
            assert all(device.connected for device in devices)
        assert not any(device.connected for device in devices)
        # what others have of the same PV stays
        assert pv(f"{name}Z:Readback").get() is not None


def test_one_device_that_cannot_be_closed_keeps_no_other_open(monkeypatch, tmp_path, caplog):
    closed = []

    class Stage(Device):
        def destroy(self):
            closed.append(self.name)
            if self.name == "bad":
                raise ConnectionError("its computer does not answer")
            super().destroy()

    class Stand(Device):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.z = Stage(name="z", parent=self)

        def destroy(self):
            closed.append(self.name)
            super().destroy()

    def fail():
        closed.append("fail")
        raise OSError("no such port")

    stand = Stand(name="stand")
    made = Instrument(
        name="ours",
        devices={"bad": Stage(name="bad"), "stand": stand, "z": stand.z, "lamp": Signal(name="lamp")},
        detectors=[stand],
        axis=stand.z,
        focus_options={},
        closing=(fail, lambda: closed.append("last")),
    )
    monkeypatch.setitem(INSTRUMENTS, "ours", lambda frames, clock: made)
    with caplog.at_level(logging.ERROR), open_session("ours", catalog=tmp_path, show=None):
        assert closed == []
    assert closed == ["bad", "stand", "fail", "last"]
    assert "its computer does not answer" in caplog.text and "no such port" in caplog.text


# The grey level at which the camera saturates


def of_12_bits(frame, gain):
    """Return what a camera of 12 bits gives, in 16, of so much more light."""
    return np.minimum(gain * frame.astype(float), 4095).astype(np.uint16)


@pytest.mark.parametrize("name", ["cells", "illuminate", "microscope", "nuclei"])
def test_all_analyses_know_where_the_camera_saturates(name, tmp_path):
    options = {"frame_px": 256 if name == "cells" else 128}
    tables = {"instrument": {"name": name, "options": options}}
    for camera, expected in (({}, None), ({"full_scale": 4095}, 4095)):
        config = Configuration.of({**tables, "camera": camera})
        with open_session(config=config, catalog=tmp_path, clock=VirtualClock(), show=None) as session:
            expected = expected or session.instrument.full_scale
            assert len(session.analyses) > 1
            for analysis in session.analyses.values():
                judging = [analysis, getattr(analysis, "estimator", None), getattr(analysis, "model", None)]
                known = {one.full_scale for one in judging if hasattr(one, "full_scale")}
                assert known == {expected}, analysis


@pytest.mark.parametrize("own", [False, True])
def test_a_saturated_camera_of_12_bits_is_not_believed(own, tmp_path):
    config = Configuration.of(
        {"instrument": {"name": "microscope", "options": {"frame_px": 512}}, "camera": {"full_scale": 4095}}
    )
    with open_session(config=config, catalog=tmp_path, clock=VirtualClock(), show=None) as session:
        microscope = session.instrument.devices["microscope"]
        if own:  # an analysis of the user's, who does not say it again
            session.use("two_led", TwoLEDAnalysis(TwoLEDFilter(microscope.objective.optics), name="ours"))
        render = microscope.camera.render
        microscope.camera.render = lambda: of_12_bits(render(), gain=0.6)
        session.RE(session.focus(method="two_led"))
        (verdict,) = FocusRecord.of(session.db[-1]).verdicts
        assert not verdict["found"] and verdict["reason"] == "saturated"
        microscope.camera.render = lambda: of_12_bits(render(), gain=0.2)
        session.RE(session.focus(method="two_led"))
        (verdict,) = FocusRecord.of(session.db[-1]).verdicts
        assert verdict["found"]
        assert abs(microscope.defocus_um) < microscope.depth_of_field_um


def test_what_an_analysis_was_made_with_stays(tmp_path):
    with open_session("microscope", catalog=tmp_path, clock=VirtualClock(), show=None, **SMALL) as session:
        optics = session.instrument.devices["microscope"].objective.optics
        ours = TwoLEDAnalysis(TwoLEDFilter(optics), name="ours", full_scale=1000)
        session.use("two_led", ours)
        assert ours.full_scale == 1000
        assert ours.estimator.full_scale == session.instrument.full_scale


# An exposure time that can only be read


class ScanCamera(SimulatedCamera):
    scan_s = 0.002
    exposure_s = Cpt(ComputedSignal, attribute="scan_s", egu="s", value=0.0, kind="normal")


def scanning(frame_directory, clock):
    """Return a microscope whose exposure time follows from others of its settings."""
    z = SimulatedAxis(name="z", limits=(-100.0, 100.0), clock=clock)
    pattern = np.random.default_rng(3).uniform(-1, 1, (48, 48))
    rng = np.random.default_rng(4)

    def render():
        light = 100 + 50 * pattern / (1 + (z.load_um / 8) ** 2)
        return rng.poisson(light).clip(0, 255).astype(np.uint8)

    camera = ScanCamera(
        name="camera",
        render=render,
        frame_directory=frame_directory,
        frame_shape=(48, 48),
        dtype=np.uint8,
        clock=clock,
    )
    return Instrument(
        name="scanning", devices={"camera": camera, "z": z}, detectors=[camera], axis=z, focus_options={}
    )


def test_what_a_check_suggests_can_be_opened(monkeypatch, tmp_path):
    monkeypatch.setitem(INSTRUMENTS, "scanning", scanning)
    reports = []

    def checking(session):
        reports.append((yield from session.check((-40.0, 40.0), planes=7, watch_s=0.1)))

    with open_session("scanning", catalog=tmp_path, clock=VirtualClock(), show=None) as session:
        session.RE(checking(session))
    suggested = reports[0].suggested()
    assert "focus" in suggested and "camera" not in suggested
    config = Configuration.of({**suggested, "instrument": {"name": "scanning"}})
    with open_session(config=config, catalog=tmp_path, clock=VirtualClock(), show=None):
        pass


def test_an_exposure_time_that_can_only_be_read_is_named_with_its_file(monkeypatch, tmp_path):
    monkeypatch.setitem(INSTRUMENTS, "scanning", scanning)
    path = tmp_path / "scope.toml"
    tables = {"instrument": {"name": "scanning"}, "camera": {"exposure_s": 0.1}}
    write_configuration(Configuration.of(tables), path)
    with pytest.raises(
        ConfigurationError, match=r"scope\.toml: camera\.exposure_s is 0\.1, and camera_exposure_s can only"
    ):
        open_session(config=path, catalog=tmp_path, show=None)
