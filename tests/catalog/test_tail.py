# ruff: noqa: N803 - every bluesky user calls it RE
"""Following runs of other processes by their spools."""

import json

import bluesky.plans as bp
import pytest

from bluesky_autofocus.catalog import SpoolTail
from bluesky_autofocus.catalog._spool import Spool


@pytest.fixture
def spool(tmp_path, RE):
    made = Spool(tmp_path)
    RE.subscribe(made)
    yield made
    made.close()


def nothing(uid):
    raise AssertionError(f"asked for {uid}")


def plain(documents):
    return json.loads(json.dumps([list(document) for document in documents]))


def test_documents_come_as_they_are_written(RE, documents, spool, tmp_path, camera):
    tail = SpoolTail(tmp_path, nothing)
    assert list(tail.documents()) == []
    seen = []
    RE.subscribe(lambda name, doc: seen.append(list(tail.documents())))
    RE(bp.count([camera], 2))
    assert all(len(new) == 1 for new in seen)
    assert plain(new for (new,) in seen) == plain(documents)
    assert list(tail.documents()) == []


def test_a_line_that_is_being_written_is_left_for_later(RE, spool, tmp_path, camera):
    (uid,) = RE(bp.count([camera]))
    path = spool.path(uid)
    whole = path.read_bytes()
    tail = SpoolTail(tmp_path, nothing)
    path.write_bytes(whole[:-20])
    before = list(tail.documents())
    path.write_bytes(whole)
    assert [*before, *tail.documents()] == [tuple(json.loads(line)) for line in whole.splitlines()]
    assert before[-1][0] == "event"


def test_a_run_that_was_put_away_before_all_of_it_was_read_comes_from_the_catalogue(
    RE, spool, tmp_path, camera
):
    asked = []

    def recorded(uid):
        asked.append(uid)
        return [("start", {"uid": uid}), ("stop", {"run_start": uid})]

    uids = [RE(bp.count([camera]))[0] for _ in range(2)]
    path = spool.path(uids[0])
    path.write_bytes(path.read_bytes()[:-20])
    tail = SpoolTail(tmp_path, recorded)
    assert [name for name, _ in tail.documents()].count("stop") == 1
    for uid in uids:
        spool.forget(uid)
    assert list(tail.documents()) == [("start", {"uid": uids[0]}), ("stop", {"run_start": uids[0]})]
    assert asked == [uids[0]]
    assert list(tail.documents()) == []


def test_one_run_may_be_followed_alone(RE, spool, tmp_path, camera):
    first, second = (RE(bp.count([camera]))[0] for _ in range(2))
    starts = [
        doc["uid"] for name, doc in SpoolTail(tmp_path, nothing, uid=first).documents() if name == "start"
    ]
    assert starts == [first]
    both = [doc["uid"] for name, doc in SpoolTail(tmp_path, nothing).documents() if name == "start"]
    assert both == [first, second]  # what was written last comes last
