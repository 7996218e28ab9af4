"""Readings from another process: the same as from this one, and what happens when they do not come."""

import signal
import threading
import time
from pathlib import Path

import pytest
import zmq

from bluesky_autofocus.callbacks import AnalysisError, FocusMapAnalysis, SharpnessAnalysis
from bluesky_autofocus.cli import main
from bluesky_autofocus.cli._answering import _made
from bluesky_autofocus.cli._main import _parser
from bluesky_autofocus.plans._exposing import ReadingTimeoutError
from bluesky_autofocus.plans._protocols import DefocusAnalysis, FocusAnalysis, ScanAnalysis
from bluesky_autofocus.remote import Addresses, RemoteAnalysis, start_proxy
from bluesky_autofocus.remote._transport import Listener, Speaker

from .conftest import PATIENCE_S


def readings(events):
    """Return readings but for who made them when; as text, in which NaN is as NaN."""
    unlike = ("_event_uid", "_made_by")
    return [
        repr({key.partition("_")[2]: value for key, value in one.items() if not key.endswith(unlike)})
        for one in events
    ]


def verdict(documents):
    (recorded,) = documents.events("verdict")
    return {key: value for key, value in recorded.items() if not key.endswith(("event_uids", "dose"))}


def made_by(events):
    """Return for each reading the number of the process, or ``local``."""
    return [value.rpartition(":")[2] for one in events for key, value in one.items() if "_made_by" in key]


# A worker that is there, says so, and is asked in vain.
SILENT = """
    import sys
    from bluesky_autofocus.callbacks import SharpnessAnalysis
    from bluesky_autofocus.remote import Addresses, Worker

    class Silent(Worker):
        def _take(self, name, doc):
            pass

    Silent(SharpnessAnalysis(name="silent"), Addresses(*sys.argv[1:])).serve()
"""

# A worker that fails at each second frame.
FAILING = """
    import sys
    from bluesky_autofocus.callbacks import SharpnessAnalysis
    from bluesky_autofocus.remote import Addresses, Worker

    class Failing(SharpnessAnalysis):
        frames = 0

        def analyse_frame(self, frame):
            self.frames += 1
            if self.frames % 2 == 0:
                raise MemoryError("the card is full")
            return super().analyse_frame(frame)

    Worker(Failing(name="failing"), Addresses(*sys.argv[1:])).serve()
"""


def test_it_is_as_if_the_analysis_ran_here(worker, make_remote, make_sem, focus, documents):
    here = focus(make_sem(), SharpnessAnalysis())
    concluded = verdict(documents)
    there = focus(make_sem(), make_remote())
    assert readings(there) == readings(here)
    assert verdict(documents) == concluded
    assert concluded["verdict_found"] is True
    assert set(made_by(there)) == {str(worker.pid)}


@pytest.mark.parametrize("send_frames", [True, False])
def test_frames_that_a_worker_cannot_see_travel_if_told_to(
    worker, make_remote, sem, focus, documents, send_frames
):
    remote = make_remote(send_frames=send_frames)

    class Elsewhere:
        """The analysis; the files that its documents name are on another machine."""

        def __getattr__(self, name):
            return getattr(remote, name)

        def __call__(self, name, doc):
            remote(name, {**doc, "uri": "file://localhost/another"} if "uri" in doc else doc)

    found = focus(sem, Elsewhere())
    assert len(found) > 3
    assert set(made_by(found)) == {str(worker.pid) if send_frames else "local"}
    assert verdict(documents)["verdict_found"] is True


class TestFallback:
    def test_where_nobody_answers_in_time(self, start, make_remote, make_sem, focus):
        start(script=SILENT)
        found = focus(make_sem(), make_remote("silent", timeout_s=0.05))
        assert set(made_by(found)) == {"local"}
        assert readings(found) == readings(focus(make_sem(), SharpnessAnalysis()))

    def test_where_nobody_is_there(self, make_remote, sem, focus):
        # far longer than the test: a worker that is not there is not waited for
        found = focus(sem, make_remote("nobody", alone=True, timeout_s=1e4))
        assert set(made_by(found)) == {"local"}

    def test_where_the_worker_fails(self, start, make_remote, make_sem, focus):
        worker = start(script=FAILING)
        found = focus(make_sem(), make_remote("failing", timeout_s=1e4))
        assert made_by(found) == [("local" if n % 2 else str(worker.pid)) for n in range(len(found))]
        assert readings(found) == readings(focus(make_sem(), SharpnessAnalysis()))

        strict = make_remote("failing", timeout_s=1e4, fallback=False)
        with pytest.raises(AnalysisError, match=f":{worker.pid}: MemoryError: the card is full"):
            focus(make_sem(), strict)

    def test_without_one_the_plan_says_who_is_late(self, make_remote, sem, focus):
        late = make_remote("nobody", alone=True, fallback=False)
        with pytest.raises(ReadingTimeoutError, match="'nobody' gave no reading of 'focus_search'"):
            focus(sem, late, timeout_s=0.05)
        assert sem.working_distance.position == 10_030.0

    def test_where_the_worker_has_other_settings(self, start, make_remote, sem, focus, caplog):
        start("sharpness", "--name", "other", "--metric", "tenengrad")
        remote = make_remote("other", alone=True)
        until_s = time.monotonic() + PATIENCE_S
        while "other settings or weights" not in caplog.text and time.monotonic() < until_s:
            time.sleep(0.05)
        assert "runs 'other' with other settings or weights" in caplog.text
        assert set(made_by(focus(sem, remote))) == {"local"}


def test_a_worker_that_is_killed_and_comes_back(start, make_remote, make_sem, focus, RE):  # noqa: N803
    first = start("sharpness", "--name", "mortal")
    remote = make_remote("mortal")
    workers, read = [first], []

    def act(name, doc):
        if "mortal_value" not in doc["data"]:
            return
        read.append(doc)
        if len(read) == 2:
            first.send_signal(signal.SIGKILL)
            first.wait()
        if len(read) == 4:
            assert not remote.connected
            workers.append(start("sharpness", "--name", "mortal"))
            assert remote.wait_for_worker(PATIENCE_S)

    token = RE.subscribe(act, "event")
    options = {
        "method": "sweep",
        "positions_um": [9_960.0 + 10 * step for step in range(9)],
        "range_um": None,
    }
    found = focus(make_sem(), remote, **options)
    assert made_by(found)[:4] == [str(first.pid)] * 2 + ["local"] * 2
    assert set(made_by(found)[4:]) == {str(workers[1].pid)}
    RE.unsubscribe(token)
    assert readings(found) == readings(focus(make_sem(), SharpnessAnalysis(), **options))


GARBAGE = [
    b"",
    b"nonsense",
    b"one two three",
    b"{prefix} event \xc1",
    b"{prefix} no_document \x80",
    b"{prefix} \xff\xfe \x80",
    b"{prefix} event \x2a",
    b"{prefix} event \x80",
    b"{prefix} start \x81\xa3uid\xc0",
    b"{prefix} stop \x80",
]


def test_garbage_on_the_socket_harms_neither_side(worker, make_remote, proxy, sem, focus):
    remote = make_remote()
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.connect(proxy.in_address)
        # what is sent before it is connected is lost; when this has come, it is
        while remote.connected:
            socket.send(b"sharpness-readings stop \x80")
            time.sleep(0.02)
        for prefix in (b"sharpness", b"sharpness-readings"):
            for message in GARBAGE:
                socket.send(message.replace(b"{prefix}", prefix))
    assert remote.wait_for_worker(PATIENCE_S)
    assert set(made_by(focus(sem, remote))) == {str(worker.pid)}


@pytest.mark.parametrize("known", [True, False])
def test_by_keys_only_those_who_are_known_are_let_in(tmp_path, known):
    import zmq.auth
    from bluesky.callbacks.zmq import ClientCurve, ServerCurve

    (tmp_path / "known").mkdir()
    keys = {
        name: zmq.auth.create_certificates(tmp_path, name) for name in ("proxy", "instrument", "stranger")
    }
    public, _ = keys["instrument"]
    Path(public).rename(tmp_path / "known" / "instrument.key")
    server = ServerCurve(keys["proxy"][1], tmp_path / "known", None)
    to = start_proxy(in_curve=server)
    secret = keys["instrument" if known else "stranger"][1]
    curve = ClientCurve(secret, keys["proxy"][0])
    speaker = Speaker(Addresses(to.in_address, to.out_address, curve), "any")
    heard = threading.Event()
    listener = Listener(to, "any", lambda name, doc: heard.set())
    try:
        for _ in range(500 if known else 20):
            speaker("stop", {})
            if heard.wait(0.02):
                break
        assert heard.is_set() == known
    finally:
        listener.close()
        speaker.close()


def test_what_keeps_more_than_readings_is_refused(proxy):
    with pytest.raises(ValueError, match="FocusMapAnalysis keeps more than readings"):
        RemoteAnalysis(FocusMapAnalysis(), proxy)
    with pytest.raises(ValueError, match="timeout_s must be positive and finite, got -1"):
        RemoteAnalysis(SharpnessAnalysis(), proxy, timeout_s=-1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sharpness", "--weights", "ours.h5"], "--weights has no effect on sharpness"),
        (["hh-net", "--full-scale", "255"], "--full-scale has no effect on hh-net"),
        (["sharpness", "--client-secret", "key"], "--client-secret and --server-public go together"),
        (["sharpness", "--metric", "guess"], "unknown sharpness metric 'guess'"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(arguments, said, capsys):
    assert main(["analyse-remote", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sharpness", "sharpness"),
        ("single-shot", "single_shot"),
        ("key-frame", "key_frame"),
        ("hh-net", "focus_class"),
    ],
)
def test_the_verb_makes_what_plans_ask(kind, name, proxy):
    analysis = _made(_parser().parse_args(["analyse-remote", kind]))
    assert analysis.name == name
    remote = RemoteAnalysis(analysis, proxy)
    try:
        assert isinstance(remote, FocusAnalysis)
        assert isinstance(remote, DefocusAnalysis) == (kind == "single-shot")
        assert isinstance(remote, ScanAnalysis) == (kind == "key-frame")
        assert (remote.parameters, remote.model_hash) == (analysis.parameters, analysis.model_hash)
    finally:
        remote.close()
