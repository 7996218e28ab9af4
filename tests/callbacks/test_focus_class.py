"""The class of focus of colour frames, from documents alone."""
# ruff: noqa: N803 - every bluesky user calls it RE

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_autofocus.callbacks import AnalysisError, FocusClassAnalysis, NotSubscribedError, analyse
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.defocus import ModelMismatchError
from bluesky_autofocus.models.hh_net import ClassEstimate
from bluesky_autofocus.models.hh_net.classes import INDICES, name_of
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans._protocols import FocusAnalysis
from bluesky_autofocus.records import Reason

# tiled's migration tool reads its own configuration in an old way
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic")

OPTICS = LightOptics(numerical_aperture=0.4, wavelength_um=0.54, pixel_size_um=0.33, magnification=20.0)


class Objective(Device):
    numerical_aperture = Cpt(Signal, value=0.4, kind="normal")
    wavelength_um = Cpt(Signal, value=0.54, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.33, kind="config")
    magnification = Cpt(Signal, value=20.0, kind="normal")
    refractive_index = Cpt(Signal, value=1.0, kind="normal")


class FirstPixel:
    """Says that the class is the one whose place the first pixel tells, with a certainty of 0.9."""

    model_hash = "beef"
    parameters = {"kind": "first pixel"}
    range_um = (-15.0, 21.0)

    def __init__(self) -> None:
        self.reason = Reason.OK

    def check(self, optics) -> None:
        if optics != OPTICS:
            raise ModelMismatchError(f"made for NA 0.4, not for {optics.numerical_aperture}")

    def estimate(self, frame):
        if frame.ndim != 3:
            raise ValueError(f"the frame has shape {frame.shape}: expected colours")
        index = INDICES[int(frame[0, 0, 0])]
        probabilities = tuple(float(one == index) for one in INDICES)
        accepted = self.reason is Reason.OK
        return ClassEstimate(
            index,
            name_of(index),
            probabilities,
            certainty=0.9,
            expected_index=index,
            sigma_index=0.0,
            defocus_um=6.0 * index,
            sigma_um=1.7,
            measured=index < 4,
            patches=12,
            accepted=accepted,
            reason=self.reason,
        )


@pytest.fixture
def model():
    return FirstPixel()


@pytest.fixture
def analysis(RE, model):
    made = FocusClassAnalysis(model)
    RE.subscribe(made)
    return made


@pytest.fixture
def objective():
    return Objective(name="objective")


@pytest.fixture
def camera(make_camera):
    made = make_camera(
        render=lambda: np.full((4, 5, 3), made.number, np.uint8), frame_shape=(4, 5, 3), dtype=np.uint8
    )
    made.number = 0
    return made


@pytest.fixture
def show(RE, camera, objective, analysis):
    """Return a function that takes a frame of each class in a run, and returns readings and estimates."""

    def show(*indices, detectors=None, judge=analysis):
        found = []

        @bpp.run_decorator()
        def plan():
            for index in indices:
                camera.number = INDICES.index(index)
                yield from bps.trigger_and_read(detectors or [camera, objective], name="focus")
                yield from bps.wait_for([lambda: judge.settled("focus")])
                found.append((judge.reading("focus"), judge.newest("focus")))

        RE(plan())
        return found

    return show


def test_every_class(show):
    for index, (reading, estimate) in zip(INDICES[1:], show(*INDICES[1:]), strict=True):
        assert (reading.value, reading.sigma, reading.unit) == (6.0 * index, 1.7, "um")
        assert (reading.accepted, reading.reason) == (True, Reason.OK)
        assert (estimate.index, estimate.name, estimate.certainty) == (index, name_of(index), 0.9)


def test_what_is_not_measured_tells_only_the_side(show):
    ((reading, estimate),) = show(4)
    assert (reading.accepted, reading.reason) == (False, Reason.OUT_OF_RANGE)
    assert (reading.value, reading.sigma) == (24.0, 1.7)
    assert (estimate.index, estimate.accepted) == (4, True), "the class itself is known"


@pytest.mark.parametrize("reason", [Reason.UNCERTAIN, Reason.UNFAMILIAR])
def test_what_the_model_does_not_believe(show, model, reason):
    model.reason = reason
    ((reading, estimate),) = show(2)
    assert (reading.accepted, reading.reason) == (False, reason)
    assert math.isnan(reading.value) and math.isnan(reading.sigma)
    assert estimate.index == 2


def test_a_frame_refused_unseen(show, model):
    model.estimate = lambda frame: ClassEstimate.refused(Reason.EMPTY)
    ((reading, estimate),) = show(2)
    assert (reading.accepted, reading.reason, estimate.index) == (False, Reason.EMPTY, None)


def test_the_estimate_is_that_of_the_newest_reading(show, analysis):
    (first, one), (second, two) = show(3, -1)
    assert (one.index, two.index) == (3, -1)
    assert (first.seq_num, second.seq_num) == (1, 2) and first.event_uid != second.event_uid
    assert analysis.newest("focus").index == -1
    with pytest.raises(AnalysisError, match="'focus_class' has seen no frame in stream 'other'"):
        analysis.newest("other")


def test_on_a_thread(RE, model, show):
    with ThreadPoolExecutor(1) as executor:
        slow = FocusClassAnalysis(model, name="slow", executor=executor)
        RE.subscribe(slow)
        assert [estimate.index for _, estimate in show(1, 0, judge=slow)] == [1, 0]


def test_what_it_says_of_itself(analysis, model):
    assert isinstance(analysis, FocusAnalysis)
    assert (analysis.name, analysis.model_hash, analysis.unit) == ("focus_class", "beef", "um")
    assert analysis.range_um == 15.0
    assert analysis.parameters == {"name": "focus_class", "model": {"kind": "first pixel"}, "optics": None}
    told = FocusClassAnalysis(model, optics=OPTICS)
    assert told.parameters["optics"]["pixel_size_um"] == 0.33
    with pytest.raises(NotSubscribedError):
        told.require_open_run()


def test_other_optics(show, objective):
    objective.numerical_aperture.put(0.75)
    with pytest.raises(AnalysisError, match="'focus_class' failed: made for NA 0.4, not for 0.75"):
        show(0)


def test_optics_that_are_not_recorded(RE, show, camera, model):
    with pytest.raises(AnalysisError, match="no document says the numerical_aperture of the objective"):
        show(0, detectors=[camera])
    told = FocusClassAnalysis(model, optics=OPTICS)
    RE.subscribe(told)
    ((reading, _),) = show(0, detectors=[camera], judge=told)
    assert reading.accepted


def test_a_grey_frame(RE, make_camera, objective, show):
    grey = make_camera("grey", frame_shape=(4, 5), dtype=np.uint8)
    with pytest.raises(AnalysisError, match="failed: the frame has shape .4, 5.: expected colours"):
        show(0, detectors=[grey, objective])


def test_a_replay_reads_the_same(RE, tmp_path, model, show):
    with contextlib.closing(open_catalog(tmp_path / "data")) as catalog:
        catalog.subscribe(RE)
        live = [reading for reading, _ in show(4, 1, -2)]
        replayed = analyse(catalog.client[-1], FocusClassAnalysis(model))["focus"]
    assert [(one.seq_num, one.value, one.sigma, one.accepted, one.reason) for one in replayed] == [
        (one.seq_num, one.value, one.sigma, one.accepted, one.reason) for one in live
    ]
