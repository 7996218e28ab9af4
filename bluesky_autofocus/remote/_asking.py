"""The instrument's side: an analysis whose readings are made elsewhere, or here where those do not come."""

import asyncio
import dataclasses
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.records import Reading
from bluesky_autofocus.remote._answering import HEARTBEAT_S, Held, prefix_of_answers
from bluesky_autofocus.remote._made_by import LOCAL, MadeBy
from bluesky_autofocus.remote._telling import KEPT, OpenRuns, Told
from bluesky_autofocus.remote._transport import Addresses, Listener, Speaker
from bluesky_autofocus.remote._wire import decode_reading, settings_of

__all__ = ["RemoteAnalysis"]

logger = logging.getLogger(__name__)

SILENT_S = 5 * HEARTBEAT_S
"""A worker that has said nothing for so long is not waited for. Threads may delay a heartbeat or two."""

TIMEOUT_S = 5.0
"""Far above a round trip of milliseconds and the slowest of the networks, far below the wait of a plan."""

_LOOK_AGAIN_S = 0.1
"""How soon the end of a worker is noticed while its answer is waited for."""

_DESCRIBING = ("leds", "range_um", "check_scan", "range_dof", "astigmatism")
"""What plans ask of an analysis beside its readings, and may be answered without having seen a frame."""


@dataclasses.dataclass(eq=False)
class _Question:
    """An exposure whose reading a plan may wait for."""

    event_uid: str
    number: int
    asked_s: float
    result: Future[Reading]
    compute: Callable[[], Reading]
    answer: Future[Reading | AnalysisError] = dataclasses.field(default_factory=Future)

    def resolve(self, reading: Reading) -> None:
        """Let this be the result, unless there is one."""
        try:
            self.result.set_result(reading)
        except InvalidStateError:
            logger.debug("the reading of Event %s came twice", self.event_uid)

    def fail(self, error: Exception) -> None:
        """Let there be no result, unless there is one."""
        try:
            self.result.set_exception(error)
        except InvalidStateError:
            logger.debug("the reading of Event %s came twice", self.event_uid)


class RemoteAnalysis(Analysis):
    """An analysis that a `Worker` in another process runs, for plans as if it ran here.

    Subscribe it in place of the analysis that it is made of. It publishes the documents that it gets; a
    worker reads the frames from the files that these name, and its readings come back as documents. A worker
    may come, go and come back at any time. What it has missed of the runs that are open it is told when it
    is there.

    Where the reading does not come within `timeout_s`, the worker is gone, has failed or has other settings,
    the analysis itself makes it here, from the same frame: readings of one search compare only if they are
    made the same way. Without `fallback` a failure is an `AnalysisError`, and a reading that does not come
    the plan's `ReadingTimeoutError`.

    Parameters
    ----------
    analysis : Analysis
        With the name and the settings of the worker's. Plans ask it what they want to know beforehand.
    to : Addresses, optional
        Where the proxy is.
    timeout_s : float
        Longest wait for a worker that is there.
    fallback : bool
        Whether to make the reading here where no worker does.
    send_frames : bool
        Whether frames travel with their Events, for workers that do not see the files. They pass the proxy
        twice: out, and back here, unread.

    Raises
    ------
    ImportError
        If there is no pyzmq; naming what to install.
    ValueError
        If the analysis keeps more than readings, which would be elsewhere, or the timeout is not positive.
    """

    def __init__(
        self,
        analysis: Analysis,
        to: Addresses | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        fallback: bool = True,
        send_frames: bool = False,
    ) -> None:
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise ValueError(f"timeout_s must be positive and finite, got {timeout_s!r}")
        if hasattr(analysis, "map_of") or hasattr(analysis, "direction"):
            raise ValueError(f"{type(analysis).__name__} keeps more than readings: it has to run here")
        to = to or Addresses()
        self.timeout_s, self.fallback, self.send_frames = timeout_s, fallback, send_frames
        self.unit, self.model_hash = analysis.unit, analysis.model_hash
        for name in _DESCRIBING:
            if hasattr(analysis, name):
                setattr(self, name, getattr(analysis, name))
        self._local = analysis.offline(read_frame)
        self._several = type(analysis).prepare is not Analysis.prepare
        self._open = OpenRuns(self._several)
        self._settings = settings_of(analysis)
        self._held = Held()
        self._questions: dict[str, _Question] = {}
        self._exposure: RecordedExposure | None = None
        self._lock = threading.RLock()
        self._heard_s = -math.inf
        self._others: set[str] = set()
        super().__init__(analysis.name, image_key=analysis.image_key, executor=self._held)
        self._speaker = Speaker(to, analysis.name)
        self._listener = Listener(to, prefix_of_answers(analysis.name), self._hear)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of the analysis: whoever makes a reading, it is the same one."""
        return self._local.parameters

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading here."""
        self._exposure = exposure
        return self._local.prepare(exposure)

    def offline(self, fetch_frame: Callable[[Mapping[str, Any], int], np.ndarray]) -> Any:
        """Return the analysis itself, for recorded documents."""
        return self._local.offline(fetch_frame)

    @property
    def connected(self) -> bool:
        """Whether a worker has been heard of lately."""
        return time.monotonic() - self._heard_s < SILENT_S

    def wait_for_worker(self, timeout_s: float) -> bool:
        """Wait until a worker is there; return whether it is."""
        until_s = time.monotonic() + timeout_s
        while not self.connected and time.monotonic() < until_s:
            time.sleep(0.02)
        return self.connected

    def close(self) -> None:
        """Ask no worker any more. Unsubscribe it before."""
        self._listener.close()
        self._speaker.close()

    def __enter__(self) -> "RemoteAnalysis":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Documents out

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document, and publish it."""
        with self._lock:
            self._exposure = None
            super().__call__(name, doc)
            told = name, doc, self._exposure
            self._open.take(told)
            if name == "event":
                self._ask(doc)
            self._tell(told)
            if name == "stop":
                self._local(name, doc)

    def _ask(self, doc: dict[str, Any]) -> None:
        """Have a question about an Event, if it has a frame."""
        descriptor, held = self._descriptors.get(doc["descriptor"]), self._held.take()
        if descriptor is None:
            return
        stream = descriptor["name"]
        self._questions.pop(stream, None)
        if held is not None:
            number = self._open.exposures(descriptor["run_start"], stream)
            self._questions[stream] = _Question(doc["uid"], number, time.monotonic(), *held)

    def _tell(self, told: Told) -> None:
        """Publish a document, with its frame where that is wanted and somebody is there."""
        name, doc, exposure = told
        if exposure is not None and self.send_frames and self.connected:
            key = exposure.key
            doc = {**doc, "data": {**doc["data"], key: exposure.fetch()}, "filled": {key: True}}
        try:
            self._speaker(name, doc)
        except Exception as error:
            # raised here it would end a plan that can do without a worker
            logger.warning("a %s document was not published: %r", name, error)

    # Readings in

    def _hear(self, name: str, doc: dict[str, Any]) -> None:
        if name == "stop":
            self._heard_s = -math.inf  # it has ended, and said so
        if name != "event":
            return
        data = doc["data"]
        if data["settings"] != self._settings:
            self._other(data)
            return
        self._heard_s = time.monotonic()
        if "knows" in data:
            with self._lock:
                for told in self._open.missed(set(json.loads(data["knows"]))):
                    self._tell(told)
        else:
            self._answered(data)

    def _other(self, data: dict[str, Any]) -> None:
        if data["worker"] not in self._others:
            self._others.add(data["worker"])
            logger.warning(
                "worker %s runs %r with other settings or weights than are expected here: its readings are "
                "not taken",
                data["worker"],
                self.name,
            )

    def _answered(self, data: dict[str, Any]) -> None:
        with self._lock:
            question = self._questions.get(data["stream"])
        if question is None or question.event_uid != data["event_uid"] or question.answer.done():
            return  # of an exposure for which nobody waits any more, or from a second worker
        if data["error"]:
            problem = f"on {data['worker']}: {data['error']}"
        elif self._several and data["seen"] < min(question.number, KEPT):
            problem = f"{data['worker']} has not seen the exposures before"
        else:
            reading = MadeBy.of(decode_reading(data["reading"]), data["worker"])
            question.resolve(reading)
            question.answer.set_result(reading)
            return
        question.answer.set_result(AnalysisError(problem))
        if not self.fallback:
            question.fail(AnalysisError(problem))

    async def settled(self, stream: str) -> None:
        """Wait until the newest reading of a stream is there, whether it succeeded or failed."""
        question = self._questions.get(stream)
        if question is not None and self.fallback:
            until_s = question.asked_s + self.timeout_s
            answer = asyncio.wrap_future(question.answer)
            while not answer.done() and self.connected and (left_s := until_s - time.monotonic()) > 0:
                await asyncio.wait([answer], timeout=min(left_s, _LOOK_AGAIN_S))
            if not question.result.done():
                await asyncio.to_thread(self._make_here, question)
        await super().settled(stream)

    def _make_here(self, question: _Question) -> None:
        if question.answer.done():
            why = str(question.answer.result())
        else:
            why = f"late by {self.timeout_s:g} s" if self.connected else "no worker is there"
        logger.info("the reading of Event %s is made here: %s", question.event_uid, why)
        try:
            question.resolve(MadeBy.of(question.compute(), LOCAL))
        except Exception as error:
            question.fail(error)

    def reading(self, stream: str) -> Reading:
        """Return the newest reading of a stream, with who made it.

        Raises
        ------
        AnalysisError
            If there is none, it is not ready, or the analysis failed; naming the analysis.
        """
        reading = super().reading(stream)
        return reading if isinstance(reading, MadeBy) else MadeBy.of(reading, LOCAL)
