"""Turn the frames that documents announce into readings that a plan can wait for."""

import asyncio
import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Self

import numpy as np

from bluesky_autofocus.frames import PrunedFrameError, read_frame
from bluesky_autofocus.records import Reading, Reason

__all__ = ["Analysis", "AnalysisError", "NotSubscribedError", "RecordedExposure"]


class AnalysisError(RuntimeError):
    """An analysis failed, or was too late, to give a reading."""


class NotSubscribedError(AnalysisError):
    """No run that is open has been announced to the analysis."""


@dataclasses.dataclass(frozen=True)
class RecordedExposure:
    """A frame and all that the documents say of it.

    Parameters
    ----------
    frame : numpy.ndarray, shape (H, W) or (H, W, 3)
        As the camera gave it.
    recorded : mapping
        By their keys in the documents: the configuration of all objects of the stream, and over it the data
        of the Event.
    start : mapping
        The start document of its run.
    stream : str
        The name of its stream.
    seq_num : int
        Number of its Event in the stream. One that was taken again, after a pause, has its number again.
    key : str
        Of the image.
    fetch : callable
        Reads the frame once more, for who has many waiting and would not keep them all in memory.
    """

    frame: np.ndarray
    recorded: Mapping[str, Any]
    start: Mapping[str, Any]
    stream: str
    seq_num: int
    key: str
    fetch: Callable[[], np.ndarray]


class Analysis:
    """A document callback that gives a `Reading` for every frame.

    Subscribe it to a RunEngine (or replay documents into it) before the run opens. Subclasses implement
    `analyse_frame`; or `analyse_exposure`, where a reading depends on what was recorded beside the frame; or
    `prepare`, where it takes several frames.

    Parameters
    ----------
    name : str
        Appears in the names of the recorded keys and of the stream ``reading_NAME``.
    image_key : str, optional
        Which image to analyse where a stream has several.
    executor : concurrent.futures.Executor, optional
        Where frames are analysed. By default at once, on the thread that delivers the documents, which is
        right for what takes a few milliseconds; a slow model takes a one-thread pool.
    fetch_frame : callable, optional
        ``(stream_resource, index) -> frame``. By default from memory or from the file.
    """

    unit = ""
    model_hash = ""

    def __init__(
        self,
        name: str,
        *,
        image_key: str | None = None,
        executor: Executor | None = None,
        fetch_frame: Callable[[Mapping[str, Any], int], np.ndarray] = read_frame,
    ) -> None:
        self.name = name
        self.image_key = image_key
        self._executor = executor
        self._fetch_frame = fetch_frame
        self._forget()

    def _forget(self) -> None:
        self._open_runs: dict[str, dict[str, Any]] = {}
        self._descriptors: dict[str, dict[str, Any]] = {}
        self._resources: dict[str, dict[str, Any]] = {}
        self._rows: dict[tuple[str, str, str], deque[tuple[str, int]]] = {}
        self._newest: dict[str, Future[Reading]] = {}
        self._run_of_newest: dict[str, str] = {}
        self._recorded_of_newest: dict[str, dict[str, Any]] = {}

    def analyse_frame(self, frame: np.ndarray) -> Reading:
        """Return the reading of one frame; called on the executor's thread if there is one.

        Which Event the frame belongs to is filled in afterwards.
        """
        raise NotImplementedError("an analysis says what it makes of a frame")

    def analyse_exposure(self, frame: np.ndarray, recorded: Mapping[str, Any]) -> Reading:
        """Return the reading of a frame and what was recorded with it; by default of the frame alone.

        Called as `analyse_frame` is.

        Parameters
        ----------
        frame : numpy.ndarray, shape (H, W) or (H, W, 3)
            As the camera gave it.
        recorded : mapping
            By their keys in the documents: the configuration of all objects of the stream, and over it
            the data of the Event.
        """
        return self.analyse_frame(frame)

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what computes the reading of an exposure.

        Called for each Event, in order, on the thread that delivers the documents: where several frames make
        one reading, this is where they are put together. What it returns is called on the executor's thread
        if there is one.
        """
        return partial(self.analyse_exposure, exposure.frame, exposure.recorded)

    def offline(self, fetch_frame: Callable[[Mapping[str, Any], int], np.ndarray]) -> Self:
        """Return a twin for recorded documents: same settings, nothing seen yet, no thread of its own."""
        twin = copy.copy(self)
        twin._executor = None  # noqa: SLF001 - its own kind
        twin._fetch_frame = fetch_frame  # noqa: SLF001
        twin._forget()  # noqa: SLF001
        return twin

    @property
    def parameters(self) -> dict[str, Any]:
        """What the readings depend on, JSON-able, for the record."""
        return {"name": self.name}

    # Documents in

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(doc)

    def _on_start(self, doc: dict[str, Any]) -> None:
        # what was seen in a run that has ended says nothing about this one
        for stream in [of for of, run in self._run_of_newest.items() if run not in self._open_runs]:
            self._forget_newest(stream)
        self._open_runs[doc["uid"]] = doc

    def _forget_newest(self, stream: str) -> None:
        self._newest.pop(stream, None)
        self._run_of_newest.pop(stream, None)
        self._recorded_of_newest.pop(stream, None)

    def _on_descriptor(self, doc: dict[str, Any]) -> None:
        self._descriptors[doc["uid"]] = doc
        # nor does a stream of this name in a run that is open around this one
        self._forget_newest(doc["name"])

    def _on_stream_resource(self, doc: dict[str, Any]) -> None:
        self._resources[doc["uid"]] = doc

    def _on_stream_datum(self, doc: dict[str, Any]) -> None:
        resource = self._resources.get(doc["stream_resource"])
        descriptor = self._descriptors.get(doc["descriptor"])
        if resource is None or descriptor is None:
            return  # as in `_on_event`
        # by run and stream, not by descriptor: a device that is configured anew gives a stream a second one
        rows = self._rows.setdefault(
            (descriptor["run_start"], descriptor["name"], resource["data_key"]), deque()
        )
        rows.extend(
            (doc["stream_resource"], row) for row in range(doc["indices"]["start"], doc["indices"]["stop"])
        )

    def _on_event(self, doc: dict[str, Any]) -> None:
        descriptor = self._descriptors.get(doc["descriptor"])
        if descriptor is None:
            return  # subscribed in mid-run: `require_open_run` has told, or will
        images = [key for key, data in descriptor["data_keys"].items() if _is_image(data)]
        if not images:
            return
        stream = descriptor["name"]
        # Rows and Events of a stream correspond one to one, in order; each is taken, used or not.
        waiting = {key: self._rows.get((descriptor["run_start"], stream, key)) for key in images}
        frames = {key: rows.popleft() for key, rows in waiting.items() if rows}

        self._run_of_newest[stream] = descriptor["run_start"]
        self._recorded_of_newest[stream] = _recorded(descriptor, doc)
        try:
            key = self._choose(images, stream)
            if key not in frames:
                raise AnalysisError(f"no document said where the frame {key!r} of the Event is")
            resource_uid, row = frames[key]
            # fetched here and not on the executor's thread, which may be so late that memory has forgotten it
            fetch = partial(self._fetch_frame, self._resources[resource_uid], row)
            start = self._open_runs[descriptor["run_start"]]
            analyse = self.prepare(
                RecordedExposure(
                    fetch(), _recorded(descriptor, doc), start, stream, doc["seq_num"], key, fetch
                )
            )

            def read() -> Reading:
                return dataclasses.replace(analyse(), event_uid=doc["uid"], seq_num=doc["seq_num"])

            self._newest[stream] = _done(read()) if self._executor is None else self._executor.submit(read)
        except PrunedFrameError:
            gone = Reading.refused(Reason.PRUNED, self.unit)
            self._newest[stream] = _done(
                dataclasses.replace(gone, event_uid=doc["uid"], seq_num=doc["seq_num"])
            )
        except Exception as error:
            # Kept for whoever waits for the reading: raised here it would end a plan that does not care.
            self._newest[stream] = _failed(error)

    def _choose(self, images: list[str], stream: str) -> str:
        if self.image_key is not None:
            if self.image_key not in images:
                raise AnalysisError(
                    f"{self.name}: stream {stream!r} has no image {self.image_key!r}, only {images}"
                )
            return self.image_key
        if len(images) > 1:
            raise AnalysisError(
                f"{self.name}: stream {stream!r} has several images, choose an image_key of {images}"
            )
        return images[0]

    def _on_stop(self, doc: dict[str, Any]) -> None:
        run = doc["run_start"]
        self._open_runs.pop(run, None)
        self._descriptors = {uid: d for uid, d in self._descriptors.items() if d["run_start"] != run}
        self._rows = {key: rows for key, rows in self._rows.items() if key[0] != run}
        self._resources = {uid: r for uid, r in self._resources.items() if r["run_start"] != run}

    # Readings out

    def require_open_run(self) -> None:
        """Make sure that the documents of an open run arrive here.

        Raises
        ------
        NotSubscribedError
            Saying how to subscribe.
        """
        if not self._open_runs:
            raise NotSubscribedError(
                f"analysis {self.name!r} has seen no run open: subscribe it before the run starts, "
                "RE.subscribe(analysis), and run the stub inside a plan that opens a run"
            )

    async def settled(self, stream: str) -> None:
        """Wait until the newest reading of a stream is there, whether it succeeded or failed."""
        future = self._newest.get(stream)
        if future is not None and not future.done():
            await asyncio.wait([asyncio.wrap_future(future)])

    def reading(self, stream: str) -> Reading:
        """Return the newest reading of a stream.

        Raises
        ------
        AnalysisError
            If there is none, it is not ready, or the analysis failed; naming the analysis.
        """
        future = self._newest.get(stream)
        if future is None:
            raise AnalysisError(f"analysis {self.name!r} has seen no frame in stream {stream!r}")
        if not future.done():
            raise AnalysisError(
                f"analysis {self.name!r} is late: it has not finished the frame of {stream!r}"
            )
        error = future.exception()
        if error is not None:
            raise AnalysisError(f"analysis {self.name!r} failed: {error}") from error
        return future.result()

    def recorded(self, stream: str) -> Mapping[str, Any]:
        """Return what was recorded with the newest frame of a stream, by key."""
        return self._recorded_of_newest.get(stream, {})


def _is_image(data_key: Mapping[str, Any]) -> bool:
    return data_key.get("external") == "STREAM:" and len(data_key.get("shape") or ()) >= 2


def _recorded(descriptor: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    configuration = descriptor.get("configuration", {}).values()
    values = {key: value for of in configuration for key, value in of.get("data", {}).items()}
    return {**values, **event["data"]}


def _done(reading: Reading) -> Future[Reading]:
    future: Future[Reading] = Future()
    future.set_result(reading)
    return future


def _failed(error: Exception) -> Future[Reading]:
    future: Future[Reading] = Future()
    future.set_exception(error)
    return future
