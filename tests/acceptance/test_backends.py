"""What every back end must do, the same for all: `backends` says how each is reached."""

import math
import threading
import time

import pytest
from backends import BACKENDS, lacking, open_bench
from bluesky import plan_stubs as bps
from bluesky.utils import RunEngineInterrupted

from bluesky_autofocus.callbacks import SingleShotAnalysis
from bluesky_autofocus.leds import LEDs
from bluesky_autofocus.models.single_shot import SingleShotModel
from bluesky_autofocus.optics import LightOptics
from bluesky_autofocus.plans import autofocus

LOST_AFTER = 2
"""Exposures."""


@pytest.fixture
def bench(request, tmp_path, RE):  # noqa: N803
    with open_bench(request.param, tmp_path / "frames", RE) as opened:
        yield opened


def each(test):
    """Run a test over all back ends that have the means for it."""
    able = [backend for backend in BACKENDS if not lacking(backend, test.__name__.removeprefix("test_"))]
    return pytest.mark.parametrize("bench", able, indirect=True)(test)


@pytest.fixture
def plan_of(bench, analysis):
    """Return a function that makes a focusing plan for the bench."""

    def make(method, **options):
        chosen = {"analysis": analysis, "depth_of_field_um": bench.depth_of_field_um, **options}
        return autofocus(bench.detectors, bench.axis, method=method, **chosen)

    return make


@pytest.fixture
def focus(RE, plan_of):  # noqa: N803
    """Return a function that focuses the bench and returns the verdict."""

    def run(method, **options):
        verdicts = []

        def plan():
            verdicts.append((yield from plan_of(method, **options)))

        RE(plan())
        return verdicts[0]

    return run


def standing_um(bench) -> float:
    """Return the true position once it does not change any more."""
    before_um, now_um = math.inf, bench.where_um()
    while now_um != before_um:
        time.sleep(0.1)
        before_um, now_um = now_um, bench.where_um()
    return now_um


@each
@pytest.mark.parametrize("method", ["brent", "search"])
def test_focus(bench, focus, documents, method):
    verdict = focus(method, bounds_um=bench.bounds_um)
    assert verdict.found, verdict
    assert standing_um(bench) == pytest.approx(bench.focus_um(), abs=bench.depth_of_field_um)
    assert len(documents.events(f"focus_{method}")) == verdict.exposures
    assert documents.named("stop")[-1]["exit_status"] == "success"


@each
def test_single_shot(RE, bench, focus):  # noqa: N803
    bench.transmitted()
    estimating = SingleShotAnalysis(SingleShotModel.load(), optics=LightOptics())
    RE.subscribe(estimating)
    RE(bps.mv(bench.leds, str(LEDs((100,)))))
    verdict = focus("single_shot", analysis=estimating, leds=bench.leds)
    assert verdict.found, verdict
    # by what the model says of its own uncertainty, which depends on the field
    assert standing_um(bench) == pytest.approx(bench.focus_of_cells_um(), abs=bench.depth_of_field_um)
    assert bench.lit() == (100,)


@each
def test_abort_in_mid_move(RE, bench, plan_of, documents):  # noqa: N803
    bench.slow_down()
    start_um, low_um = standing_um(bench), bench.bounds_um[0]
    ended = threading.Event()

    def abort_under_way():
        while abs(bench.where_um() - start_um) < 0.5 and not ended.is_set():
            time.sleep(0.005)
        RE.abort()

    aborting = threading.Thread(target=abort_under_way)
    aborting.start()
    try:
        with pytest.raises(RunEngineInterrupted):
            RE(plan_of("sweep", bounds_um=(low_um, start_um - 0.3 * (start_um - low_um)), budget=6))
    finally:
        ended.set()
        aborting.join(30)
    assert documents.named("stop")[-1]["exit_status"] == "abort"
    assert standing_um(bench) == pytest.approx(start_um, abs=0.1)


@each
@pytest.mark.parametrize("beyond", [0, 1])
def test_limit(RE, bench, plan_of, documents, beyond):  # noqa: N803
    start_um = standing_um(bench)
    bounds_um = list(bench.bounds_um)
    bounds_um[beyond] = bench.limits_um[beyond] + (-1.0, 1.0)[beyond]
    with pytest.raises(Exception, match=rf"{bounds_um[beyond]:g}.*limit"):
        RE(plan_of("search", bounds_um=tuple(bounds_um)))
    assert standing_um(bench) == start_um
    assert not documents.named("event")
    with pytest.raises(Exception, match=rf"{bounds_um[beyond]:g}.*limit"):
        RE(bps.mv(bench.axis, bounds_um[beyond]))
    assert standing_um(bench) == start_um


@each
def test_lost_and_back(RE, bench, plan_of, focus, documents):  # noqa: N803
    exposures = []

    def lose(name, doc):
        exposures.append(doc)
        if len(exposures) == LOST_AFTER:
            bench.lose()

    token = RE.subscribe(lose, "event")
    with pytest.raises(Exception, match=bench.lost_names):
        RE(plan_of("brent", bounds_um=bench.bounds_um))
    RE.unsubscribe(token)
    assert documents.named("stop")[-1]["exit_status"] == "fail"
    bench.restore()
    low_um, high_um = bench.bounds_um
    assert low_um <= standing_um(bench) <= high_um
    assert focus("brent", bounds_um=bench.bounds_um).found
    assert standing_um(bench) == pytest.approx(bench.focus_um(), abs=bench.depth_of_field_um)


@each
def test_documents(bench, focus, documents):
    """Keys, units and shapes that all share: what analyses, reports and the catalogue go by."""
    focus("sweep", bounds_um=bench.bounds_um, budget=6)
    start = documents.named("start")[-1]
    assert start["plan_name"] == "autofocus" and start["method"] == "sweep"
    by_stream = {doc["name"]: doc for doc in documents.named("descriptor")}
    assert set(by_stream) == {"focus_sweep", "reading_sharpness", "verdict"}
    keys = by_stream["focus_sweep"]["data_keys"]
    image = keys[bench.image_key]
    assert image["dtype"] == "array" and image["external"] == "STREAM:"
    # ophyd-async has the number of frames first
    assert tuple(image["shape"]) in (bench.frame_shape, (1, *bench.frame_shape))
    assert image["dtype_numpy"] in ("|u1", "<u2")
    (axis_key,) = by_stream["focus_sweep"]["hints"][bench.axis.name]["fields"]
    assert (keys[axis_key]["dtype"], keys[axis_key]["units"]) == ("number", "um")
    for configuration in by_stream["focus_sweep"]["configuration"].values():
        keys = {**keys, **configuration["data_keys"]}  # ophyd-async counts it among these
    exposure_keys = [key for key in keys if key.endswith("exposure_s")]
    assert [keys[key]["units"] for key in exposure_keys] == ["s"]
    assert len(documents.named("stream_resource")) == 1
    rows = [doc["indices"] for doc in documents.named("stream_datum")]
    assert rows == [{"start": n, "stop": n + 1} for n in range(len(rows))]
    assert len(rows) == len(documents.events("focus_sweep")) == len(documents.events("reading_sharpness"))
    assert [key for key in by_stream["verdict"]["data_keys"] if not key.startswith("verdict_")] == []
