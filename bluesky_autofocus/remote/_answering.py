"""The side that computes: documents come in, readings go out."""

import json
import logging
import os
import platform
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bluesky_autofocus.callbacks import Analysis, RecordedExposure
from bluesky_autofocus.callbacks._computed_run import ComputedRun
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.remote._matching import Matched
from bluesky_autofocus.remote._transport import Addresses, Listener, Speaker
from bluesky_autofocus.remote._wire import encode_reading, settings_of

__all__ = ["ALIVE", "ANSWERS", "HEARTBEAT_S", "Worker", "prefix_of_answers"]

logger = logging.getLogger(__name__)

ALIVE, ANSWERS = "alive", "answers"
"""Streams of the run that a worker publishes."""

HEARTBEAT_S = 0.5
"""A worker says so often that it is there. It costs a message of some hundred bytes."""


def prefix_of_answers(name: str) -> str:
    """Return by which prefix the readings of an analysis are published; its documents are by its name."""
    return f"{name}-readings"


class Worker:
    """Run an analysis on the documents that a `RemoteAnalysis` of its name publishes, answer with readings.

    What it publishes is a run of its own: an Event for each reading in the stream ``answers``, and for each
    heartbeat in ``alive``.

    Parameters
    ----------
    analysis : Analysis
        Of the same name and settings as on the instrument's side, which refuses readings of others.
    to : Addresses, optional
        Where the proxy is.
    """

    def __init__(self, analysis: Analysis, to: Addresses | None = None) -> None:
        to = to or Addresses()
        self.name = f"{platform.node()}:{os.getpid()}"
        """What readings are said to be made by."""
        self._settings = settings_of(analysis)
        self._matched = Matched()
        self._answering = _Answering(analysis, self._answer)
        self._lock = threading.Lock()
        self._speaker = Speaker(to, prefix_of_answers(analysis.name))
        metadata = {"analysis": analysis.name, "parameters": analysis.parameters, "worker": self.name}
        self._said = ComputedRun(self._speaker, Path(), metadata)
        self._listener = Listener(to, analysis.name, self._take)
        self._ended = threading.Event()

    def serve(self) -> None:
        """Answer until another thread calls `end`, or Ctrl-C."""
        try:
            while not self._ended.wait(HEARTBEAT_S):
                knows = json.dumps(self._matched.known)
                self._say(ALIVE, {"worker": self.name, "settings": self._settings, "knows": knows})
        finally:
            self._listener.close()
            self._answering.close()
            self._said.close("the worker was ended")
            self._speaker.close()

    def end(self) -> None:
        """Have `serve` return; what is not computed yet is left."""
        self._ended.set()

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        for one, of in self._matched(name, doc):
            self._answering(one, of)

    def _answer(self, answer: dict[str, Any]) -> None:
        self._say(ANSWERS, {"worker": self.name, "settings": self._settings, **answer})

    def _say(self, stream: str, values: dict[str, Any]) -> None:
        with self._lock:
            self._said.add(stream, values)


class _Answering(Analysis):
    """The analysis, with what becomes of each exposure: a reading, or why there is none, said once."""

    def __init__(self, analysis: Analysis, say: Callable[[dict[str, Any]], None]) -> None:
        self._analysis = analysis.offline(read_frame)
        self._say = say
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=analysis.name)
        self._held = Held()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._under_way: dict[str, Future[None]] = {}
        super().__init__(analysis.name, image_key=analysis.image_key, executor=self._held)

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading."""
        return self._analysis.prepare(exposure)

    def _on_event(self, doc: dict[str, Any]) -> None:
        super()._on_event(doc)
        descriptor = self._descriptors[doc["descriptor"]]
        stream, run = descriptor["name"], descriptor["run_start"]
        held = self._held.take()
        if held is None and stream not in self._newest:
            return  # no exposure
        self._seen[run, stream] += 1
        about = {"event_uid": doc["uid"], "stream": stream, "seen": self._seen[run, stream]}
        # who has exposed again waits for the newest only
        if stream in self._under_way:
            self._under_way[stream].cancel()
        # what failed before it came to computing raises that again
        compute = self._newest[stream].result if held is None else held[1]
        self._under_way[stream] = self._pool.submit(self._say_what_comes_of, compute, about)

    def _say_what_comes_of(self, compute: Callable[[], Reading], about: dict[str, Any]) -> None:
        try:
            reading, problem = compute(), ""
        except Exception as error:
            logger.warning("the frame of Event %s cannot be analysed: %s", about["event_uid"], error)
            reading, problem = Reading.refused(Reason.OK, self.unit), f"{type(error).__name__}: {error}"
        self._say(
            {
                **about,
                "value": float(reading.value),
                "sigma": float(reading.sigma),
                "accepted": bool(reading.accepted),
                "error": problem,
                "reading": "" if problem else encode_reading(reading),
            }
        )

    def _on_stop(self, doc: dict[str, Any]) -> None:
        super()._on_stop(doc)
        self._analysis("stop", doc)
        self._seen = Counter({of: seen for of, seen in self._seen.items() if of[0] != doc["run_start"]})

    def close(self) -> None:
        """End the thread; what waits is left."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Held(Executor):
    """Keeps what is submitted until somebody takes it, to compute it where and when he likes."""

    def __init__(self) -> None:
        self._taken: tuple[Future[Any], Callable[[], Any]] | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep it; it is done when who takes it says so."""
        future: Future[Any] = Future()
        self._taken = future, lambda: fn(*args, **kwargs)
        return future

    def take(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Return what was submitted since the last time, with its future; None if nothing was."""
        taken, self._taken = self._taken, None
        return taken
