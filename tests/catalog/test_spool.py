# ruff: noqa: N803 - every bluesky user calls it RE

import json
import logging
from collections import Counter

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import pytest
from event_model import DocumentNames, schema_validators

from bluesky_autofocus.catalog._spool import Spool, read_spooled, repair


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "spool"


@pytest.fixture
def spool(directory, RE):
    made = Spool(directory)
    RE.subscribe(made)
    yield made
    made.close()


def plain(documents):
    return json.loads(json.dumps([list(document) for document in documents]))


def lines(path):
    return path.read_text().splitlines(keepends=True)


def test_holds_every_document(RE, documents, spool, camera):
    (uid,) = RE(bp.count([camera], 3))
    assert plain(read_spooled(spool.path(uid))) == plain(documents)


def test_documents_are_on_disk_when_they_are_emitted(RE, spool, camera):
    seen = []
    RE.subscribe(lambda name, doc: seen.append(len(lines(next(spool.directory.glob("*.jsonl"))))))
    RE(bp.count([camera], 2))
    assert seen == list(range(1, len(seen) + 1))


def test_nested_runs_are_kept_apart(RE, documents, spool, camera):
    @bpp.set_run_key_decorator("inner")
    @bpp.run_decorator(md={"which": "inner"})
    def inner():
        yield from bps.trigger_and_read([camera])

    @bpp.run_decorator(md={"which": "outer"})
    def outer():
        yield from bps.trigger_and_read([camera])
        yield from inner()
        yield from bps.trigger_and_read([camera])

    outer_uid, inner_uid = RE(outer())
    for uid, which, events in ((outer_uid, "outer", 2), (inner_uid, "inner", 1)):
        kept = read_spooled(spool.path(uid))
        assert kept[0][1]["which"] == which
        assert kept[-1][1]["run_start"] == uid
        names = Counter(name for name, _ in kept)
        assert names["event"] == names["stream_datum"] == events
    assert len(documents) == sum(len(read_spooled(spool.path(uid))) for uid in (outer_uid, inner_uid))


class TestUnfinished:
    """What a killed process leaves, cut off after any number of bytes."""

    @pytest.fixture
    def path(self, RE, spool, camera):
        (uid,) = RE(bp.count([camera], 3))
        return spool.path(uid)

    def test_a_run_without_end(self, path):
        path.write_text("".join(lines(path)[:-1]))
        kept = read_spooled(path)
        stop = kept[-1][1]
        schema_validators[DocumentNames.stop].validate(stop)
        assert stop["exit_status"] == "abort"
        assert "process ended" in stop["reason"]
        assert stop["num_events"] == {"primary": 3}
        assert stop["run_start"] == kept[0][1]["uid"]
        assert stop["time"] == kept[-2][1]["time"], "it ended when the last was heard of it"

    def test_a_frame_without_its_event(self, path):
        cut = lines(path)[:-2]
        assert json.loads(cut[-1])[0] == "stream_datum"
        path.write_text("".join(cut))
        kept = read_spooled(path)
        assert [name for name, _ in kept[-2:]] == ["event", "stop"]
        assert kept[-1][1]["num_events"] == {"primary": 2}

    def test_the_first_frame_without_its_event(self, path):
        names = [json.loads(line)[0] for line in lines(path)]
        path.write_text("".join(lines(path)[: names.index("event")]))
        assert [name for name, _ in read_spooled(path)] == ["start", "descriptor", "stop"]

    def test_cut_at_any_byte(self, path):
        whole = path.read_bytes()
        for size in range(0, len(whole), 97):
            path.write_bytes(whole[:size])
            kept = read_spooled(path)
            names = Counter(name for name, _ in kept)
            assert names["event"] == names["stream_datum"]
            assert names["start"] == names["stop"] == (1 if kept else 0)

    def test_zeros_after_a_power_cut(self, path):
        whole = "".join(lines(path)[:-1])
        path.write_bytes(whole.encode() + b"\0" * 512)
        assert read_spooled(path)[-1][1]["num_events"] == {"primary": 3}


class TestRepair:
    @pytest.fixture
    def left(self, RE, directory, camera):
        """Return a spool with one whole and one unfinished run, whose session has ended."""
        spool = Spool(directory)
        token = RE.subscribe(spool)
        uids = [*RE(bp.count([camera], 2)), *RE(bp.count([camera], 2))]
        RE.unsubscribe(token)
        path = spool.path(uids[1])
        path.write_text("".join(lines(path)[:-1]))
        spool.close()
        assert spool.directory.is_dir(), "runs that nobody has stored stay"
        return uids

    def test_stores_what_is_left(self, directory, left):
        stored = []
        assert sorted(repair(directory, stored.append)) == sorted(left)
        assert {run[0][1]["uid"]: run[-1][1]["exit_status"] for run in stored} == dict(
            zip(left, ["success", "abort"], strict=True)
        )
        assert not list(directory.iterdir())
        assert repair(directory, stored.append) == []

    def test_leaves_a_session_that_lives_alone(self, RE, directory, left, camera):
        alive = Spool(directory)
        RE.subscribe(alive)
        stored = []

        def plan():
            yield from bps.trigger_and_read([camera])
            repair(directory, stored.append)
            yield from bps.trigger_and_read([camera])

        (uid,) = RE(bpp.run_wrapper(plan()))
        assert sorted(run[0][1]["uid"] for run in stored) == sorted(left)
        assert Counter(name for name, _ in read_spooled(alive.path(uid)))["event"] == 2
        alive.forget(uid)
        alive.close()
        assert not list(directory.iterdir()), "nothing stays of a session whose runs are stored"

    def test_one_run_that_cannot_be_stored_keeps_no_other(self, directory, left, caplog):
        def store(run):
            if run[0][1]["uid"] == left[0]:
                raise ValueError("the server does not like it")

        with caplog.at_level(logging.WARNING):
            assert repair(directory, store) == [left[1]]
        assert left[0] in caplog.text
        assert "does not like it" in caplog.text
        assert repair(directory, lambda run: None) == [left[0]], "it is tried again"
        assert not list(directory.iterdir())

    def test_a_run_torn_at_its_first_line(self, directory, left):
        (path,) = directory.rglob(f"{left[0]}.jsonl")
        path.write_text('["start", {"uid": "')
        assert repair(directory, lambda run: None) == [left[1]]
        assert not list(directory.iterdir())
