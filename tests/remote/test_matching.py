"""Documents that got lost on the way, or came twice: an Event never has the frame of another one."""

import itertools
import threading

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest

from bluesky_autofocus.callbacks import Analysis, RecordedExposure
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.plans import wait_reading
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.remote import RemoteAnalysis, Worker, start_proxy
from bluesky_autofocus.remote._matching import Matched
from bluesky_autofocus.remote._wire import encode_reading, settings_of

EXPOSURES = 3


class Number(Analysis):
    """Reads the number in the pixels."""

    def analyse_frame(self, frame):
        return Reading("", float(frame.max()))


class Sum(Analysis):
    """Reads the number in the pixels and in those of the exposure before."""

    before = 0.0

    def prepare(self, exposure: RecordedExposure):
        total, self.before = self.before + exposure.frame.max(), float(exposure.frame.max())
        return lambda: Reading("", float(total))


@pytest.fixture
def recorded(RE, camera, documents):  # noqa: N803
    """Return the documents of a run of numbered frames."""
    RE(bp.count([camera], EXPOSURES))
    return list(documents)


def numbers(documents, matched):
    """Return what is read at each Event that is handed on; None where it has no frame."""
    analysis, read = Number("number", fetch_frame=read_frame), []
    for document in documents:
        for name, doc in matched(*document):
            analysis(name, doc)
            if name == "event":
                try:
                    read.append(analysis.reading("primary").value)
                except Exception:
                    read.append(None)
    return read


def without(documents, kind, number):
    """Leave out the n-th document of a kind."""
    count = itertools.count(1)
    return [one for one in documents if one[0] != kind or next(count) != number]


def test_all_of_them(recorded):
    assert numbers(recorded, Matched()) == [1, 2, 3]


def test_an_event_whose_row_was_lost_has_no_frame(recorded):
    assert numbers(without(recorded, "stream_datum", 2), Matched()) == [1, None, 3]


def test_a_row_whose_event_was_lost_is_nobodys(recorded):
    assert numbers(without(recorded, "event", 2), Matched()) == [1, 3]


@pytest.mark.parametrize("kind", ["start", "descriptor"])
def test_of_a_run_that_is_not_known_nothing_is_handed_on(recorded, kind):
    assert numbers(without(recorded, kind, 1), Matched()) == []


def test_what_comes_twice_is_handed_on_once(recorded):
    matched = Matched()
    doubled = [document for document in recorded[:-1] for _ in range(2)]
    assert numbers([*doubled, *doubled, recorded[-1]], matched) == [1, 2, 3]
    assert matched.known == []  # the run has ended


def test_a_frame_that_travelled_is_kept_for_who_reads_it(recorded):
    frames = itertools.count(11)

    def filled(doc):
        frame = np.full((4, 5), next(frames))
        return {**doc, "data": {**doc["data"], "camera_image": frame}, "filled": {"camera_image": True}}

    travelled = [(name, filled(doc) if name == "event" else doc) for name, doc in recorded]
    assert numbers(travelled, Matched()) == [11, 12, 13]


@pytest.mark.parametrize("kind", [Number, Sum])
def test_a_worker_that_comes_in_mid_run_is_told_what_it_missed(RE, camera, kind):  # noqa: N803
    to = start_proxy()
    remote = RemoteAnalysis(kind("number"), to, timeout_s=60.0)
    worker = None
    read = []

    @bpp.run_decorator()
    def plan():
        nonlocal worker
        for number in range(1, 6):
            if number == 4:
                worker = Worker(kind("number"), to)
                thread.start()
                assert remote.wait_for_worker(60)
            yield from bps.trigger_and_read([camera])
            read.append((yield from wait_reading(remote, stream="primary")))

    thread = threading.Thread(target=lambda: worker.serve())
    RE.subscribe(remote)
    try:
        RE(plan())
        assert [one.value for one in read] == ([1, 2, 3, 4, 5] if kind is Number else [1, 3, 5, 7, 9])
        assert [one.made_by == "local" for one in read] == [True, True, True, False, False]
    finally:
        remote.close()
        if worker is not None:
            worker.end()
            thread.join()


def test_a_reading_of_several_frames_counts_only_from_who_has_seen_them_all(RE, camera):  # noqa: N803
    remote = RemoteAnalysis(Sum("sum"), start_proxy())
    RE.subscribe(remote)

    @bpp.run_decorator()
    def plan():
        yield from bps.trigger_and_read([camera])
        yield from bps.trigger_and_read([camera])
        asked = remote._questions["primary"]
        answer = {
            "worker": "new",
            "settings": settings_of(Sum("sum")),
            "stream": "primary",
            "event_uid": asked.event_uid,
            "error": "",
            "seen": 1,
            "reading": encode_reading(Reading.refused(Reason.INCOMPLETE)),
        }
        remote._hear("event", {"data": answer})
        return (yield from wait_reading(remote, stream="primary"))

    try:
        RE(plan())
        reading = remote.reading("primary")
        assert (reading.value, reading.made_by) == (3.0, "local")
    finally:
        remote.close()
