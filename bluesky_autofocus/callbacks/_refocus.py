"""Refocus the frames of a run as they come, or afterwards, and record the results as a run of their own."""

import json
import logging
import math
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis, AnalysisError, RecordedExposure
from bluesky_autofocus.callbacks._computed_run import ComputedRun, Record
from bluesky_autofocus.callbacks._light import known_optics
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.models.refocus import Refocused, Refocuser
from bluesky_autofocus.records import Reading, Reason

__all__ = ["LiveRefocus"]

logger = logging.getLogger(__name__)

_CHECKED = ("pixel_size_um", "magnification", "numerical_aperture")
_IN_MEMORY = 4
"""Frames that wait for their turn in memory; others are read from their file again."""


class LiveRefocus(Analysis):
    """Make blurred frames in-focus while a run goes on, on a thread of its own.

    Subscribe it to a RunEngine, as any analysis. The frames of a run are never touched: what is computed goes
    to another run, whose start document has ``computed``, ``refocused_run`` (the uid of the first),
    ``refocuser``, ``model_hash`` and ``parameters``. Its stream ``refocused`` has, for each frame that came
    out, the image ``refocused_KEY``, its standard uncertainty ``sigma_KEY``, ``of_stream`` and ``of_seq_num``
    (which Event the frame is of), ``defocus_um`` and ``mismatch``. Its stream ``left`` tells of each frame
    that was looked at and left alone, and why: ``still_sharp``, or the reason why the result is not to be
    believed. A run without any frame has no such run.

    With `bluesky_autofocus.callbacks.analyse` it does the same for a run in databroker.

    Parameters
    ----------
    refocuser : Refocuser
        A model, or a deconvolution.
    record : callable
        Takes the documents of the computed run: `Catalog.recorder()`.
    directory : path
        Where the computed frames go: `Catalog.frame_directory`.
    judge : Analysis, optional
        What tells which frames are blurred. By default every frame is looked at, and one that turns out to be
        in focus is left alone.
    blurred : callable, optional
        ``(Reading) -> bool``: what the judge says of a blurred frame. By default one that is not accepted.
    streams : collection of str, optional
        Which streams; by default all that have frames.
    image_key, executor
        As for `Analysis`; by default a thread of its own.

    Raises
    ------
    ValueError
        If `blurred` is given without a judge.
    """

    unit = "um"
    token: int | None = None
    """Of its subscription to a session's RunEngine."""

    def __init__(
        self,
        refocuser: Refocuser,
        record: Record,
        directory: Path | str,
        *,
        judge: Analysis | None = None,
        blurred: Callable[[Reading], bool] | None = None,
        streams: Collection[str] | None = None,
        name: str = "refocus",
        image_key: str | None = None,
        executor: Executor | None = None,
        fetch_frame: Callable[[Mapping[str, Any], int], np.ndarray] = read_frame,
    ) -> None:
        if blurred is not None and judge is None:
            raise ValueError("blurred says what a judge's reading means: give a judge, too")
        self.refocuser, self.model_hash = refocuser, refocuser.model_hash
        self._record, self._directory = record, directory
        self._judge, self._blurred = judge, blurred or (lambda reading: not reading.accepted)
        self._streams = None if streams is None else set(streams)
        super().__init__(
            name,
            image_key=image_key,
            executor=executor or ThreadPoolExecutor(1, thread_name_prefix=name),
            fetch_frame=fetch_frame,
        )

    def _forget(self) -> None:
        super()._forget()
        self._computed: dict[str, ComputedRun] = {}
        self._waiting = 0
        self._ended: Future[None] | None = None
        self._lock = threading.Lock()
        self.runs: list[str] = []
        """Uids of the computed runs, the newest last."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the results depend on."""
        judge = None if self._judge is None else dict(self._judge.parameters)
        return {"name": self.name, "refocuser": self.refocuser.name, "judge": judge} | dict(
            self.refocuser.parameters
        )

    def offline(self, fetch_frame: Callable[[Mapping[str, Any], int], np.ndarray]) -> Self:
        """Return a twin for recorded documents; it says in `runs` what it recorded, as this one does."""
        twin = super().offline(fetch_frame)
        twin.runs = self.runs
        return twin

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Return what refocuses the frame and records the result."""
        if self._streams is not None and exposure.stream not in self._streams:
            return lambda: Reading("", math.nan, unit=self.unit, reason=Reason.STILL_SHARP)
        with self._lock:
            self._waiting += 1
            many = self._waiting > _IN_MEMORY
        fetch = exposure.fetch if many else partial(_same, exposure.frame)
        said = exposure.recorded, exposure.start, exposure.stream, exposure.seq_num, exposure.key
        return partial(self._refocus, fetch, *said)

    def _refocus(
        self,
        fetch: Callable[[], np.ndarray],
        recorded: Mapping[str, Any],
        start: Mapping[str, Any],
        stream: str,
        seq_num: int,
        key: str,
    ) -> Reading:
        try:
            frame = fetch()
            of = {"of_stream": stream, "of_seq_num": seq_num}
            if self._judge is not None:
                judged = self._judge.analyse_exposure(frame, recorded)
                if not self._blurred(judged):
                    return self._left(start, of, Reason.STILL_SHARP)
            try:
                known = known_optics(recorded)
                self.refocuser.check_values({name: known[name] for name in _CHECKED if name in known})
                made = self.refocuser.refocus(frame)
                if not made.accepted or made.reason is Reason.STILL_SHARP:
                    return self._left(start, of, made.reason, made=made)
                self._run_of(start).add(
                    "refocused",
                    {**of, "defocus_um": float(made.defocus_um), "mismatch": float(made.mismatch)},
                    # half precision holds any camera's grey levels to a part in 2000
                    {f"refocused_{key}": made.frame, f"sigma_{key}": made.sigma.astype(np.float16)},
                    {"defocus_um": "um"},
                )
            except (ValueError, AnalysisError) as error:
                # frames of another kind, or not of the first one's size: the experiment goes on, and the
                # record says why there is no result
                return self._left(start, of, Reason.UNFAMILIAR, str(error))
            return Reading("", made.defocus_um, unit=self.unit)
        except Exception:
            # nobody waits for these readings, and the experiment goes on
            logger.exception("frame %d of %s could not be refocused", seq_num, stream)
            raise
        finally:
            with self._lock:
                self._waiting -= 1

    def _left(
        self,
        start: Mapping[str, Any],
        of: Mapping[str, Any],
        reason: Reason,
        note: str = "",
        made: Refocused | None = None,
    ) -> Reading:
        """Record that a frame was left alone, and why."""
        defocus_um, mismatch = (math.nan, math.nan) if made is None else (made.defocus_um, made.mismatch)
        values = {"defocus_um": float(defocus_um), "mismatch": float(mismatch)}
        values |= {"reason": str(reason), "note": note}
        self._run_of(start).add("left", {**of, **values}, units={"defocus_um": "um"})
        accepted = reason is Reason.STILL_SHARP
        return Reading("", defocus_um, unit=self.unit, accepted=accepted, reason=reason)

    def _run_of(self, start: Mapping[str, Any]) -> ComputedRun:
        """Return the run that the results of a run go to, opened with the first of them."""
        uid = start["uid"]
        if uid not in self._computed:
            self._computed[uid] = ComputedRun(
                self._record,
                self._directory,
                {
                    "plan_name": "refocus",
                    "refocused_run": uid,
                    "refocuser": self.refocuser.name,
                    "model_hash": self.model_hash,
                    # as text: a parameter may be nothing, which no document has a place for
                    "parameters": json.dumps(self.parameters),
                    "versions": {"bluesky-autofocus": version("bluesky-autofocus")},
                    # not its scan_id: that number is the first run's
                    **{key: start[key] for key in ("sample",) if key in start},
                },
            )
            self.runs.append(self._computed[uid].uid)
        return self._computed[uid]

    def _on_stop(self, doc: dict[str, Any]) -> None:
        super()._on_stop(doc)
        if self._executor is None:
            self._close(doc["run_start"])
        else:
            # after the frames that still wait: there is one thread
            self._ended = self._executor.submit(self._close, doc["run_start"])

    def _close(self, run_uid: str) -> None:
        computed = self._computed.pop(run_uid, None)
        if computed is None:
            return
        try:
            computed.close()
        except Exception:
            logger.exception("the refocused frames of run %s could not be recorded", run_uid)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the frames of runs that have ended are refocused and recorded.

        Raises
        ------
        TimeoutError
            If they are not within that time.
        """
        if self._ended is not None:
            self._ended.result(timeout_s)


def _same(frame: np.ndarray) -> np.ndarray:
    return frame
