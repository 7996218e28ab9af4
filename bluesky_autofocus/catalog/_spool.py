"""Documents on disk the moment they are emitted, and runs repaired after a crash.

The catalogue's writer batches Events and may be interrupted; the spool is a plain file for each run, one
JSON document a line, flushed to the operating system at each. It is deleted once the catalogue holds the
run. What a killed process leaves behind is read into the catalogue at the next start. (A power cut may also
cost what the operating system had not yet put on the disk; nothing is fsynced during a run.)
"""

import contextlib
import json
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import filelock
from event_model import NumpyEncoder

__all__ = ["Spool", "read_spooled", "repair"]

logger = logging.getLogger(__name__)

Document = tuple[str, dict[str, Any]]


class Spool:
    """Keep the documents of the runs of one session until the catalogue has them.

    Parameters
    ----------
    directory : Path
        Shared by all sessions of a catalogue; each has a folder and a lock of its own within.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:8]}"
        self.directory.mkdir(parents=True)
        self._lock = filelock.FileLock(_lock_of(self.directory))
        self._lock.acquire(timeout=0)
        self._files: dict[str, Any] = {}
        self._run_of: dict[str, str] = {}

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Write a document to the file of its run.

        Raises
        ------
        OSError
            If it cannot be written. Those before are on disk, and what comes after it can be.
        """
        run = self.run_of(name, doc)
        if name == "start":
            # unbuffered: what was not written must not be tried again at the next line
            self._files[run] = self.path(run).open("wb", buffering=0)
        file = self._files[run]
        try:
            _append(file, (json.dumps([name, doc], cls=NumpyEncoder) + "\n").encode())
        finally:
            if name == "stop":
                self._files.pop(run).close()
                self._run_of = {key: of for key, of in self._run_of.items() if of != run}

    def run_of(self, name: str, doc: dict[str, Any]) -> str:
        """Return the uid of the run that a document belongs to.

        Raises
        ------
        KeyError
            If it belongs to none that is open.
        """
        if name == "start":
            return doc["uid"]
        if "run_start" in doc:
            self._run_of[doc["uid"]] = doc["run_start"]
            return doc["run_start"]
        for parent in ("descriptor", "stream_resource", "resource"):
            if doc.get(parent) in self._run_of:
                return self._run_of[doc[parent]]
        raise KeyError(f"a {name} document belongs to no run that is open: {doc}")

    def path(self, run_uid: str) -> Path:
        """Return the file of a run."""
        return self.directory / f"{run_uid}.jsonl"

    def forget(self, run_uid: str) -> None:
        """Delete the file of a run that the catalogue holds."""
        with contextlib.suppress(PermissionError):  # Windows, while someone reads it: `repair` will delete it
            self.path(run_uid).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; remove the folder unless runs are left in it."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._lock.release()
        if not any(self.directory.iterdir()):
            _remove(self.directory)


def _append(file: FileIO, line: bytes) -> None:
    """Write all of a line or, where the disk is full, nothing: a reader ends at the first torn line."""
    place = file.tell()
    written = 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError as error:
        file.seek(place)
        file.truncate()
        raise OSError(
            error.errno, f"no document can be written any more: {error.strerror}", file.name
        ) from error


def read_spooled(path: Path) -> list[Document]:
    """Return the documents of a run, with a stop document if the run has none.

    A torn last line is what a killed process was writing; a frame without its Event was being taken.
    """
    documents: list[Document] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                name, doc = json.loads(line)
            except ValueError:
                break
            documents.append((name, doc))
    if documents and documents[-1][0] != "stop":
        while documents[-1][0] in ("stream_resource", "stream_datum", "resource", "datum"):
            documents.pop()
        documents.append(("stop", _stop_for(documents)))
    return documents


def _stop_for(documents: Iterable[Document]) -> dict[str, Any]:
    streams: dict[str, str] = {}
    events: Counter[str] = Counter()
    run, last_s = "", 0.0
    for name, doc in documents:
        last_s = max(last_s, doc.get("time", 0.0))
        if name == "start":
            run = doc["uid"]
        elif name == "descriptor":
            streams[doc["uid"]] = doc["name"]
        elif name == "event":
            events[streams[doc["descriptor"]]] += 1
    return {
        "uid": str(uuid4()),
        "time": last_s,
        "run_start": run,
        "exit_status": "abort",
        "reason": "the process ended before the run did; recovered from its documents",
        "num_events": dict(events),
    }


def repair(directory: Path, store: Callable[[list[Document]], None]) -> list[str]:
    """Store the runs that ended sessions left behind.

    Parameters
    ----------
    directory : Path
        Of all spools. Sessions that are alive hold their locks and are left alone.
    store : callable
        Puts the documents of one run into the catalogue; raises if it cannot. The run then stays in its
        spool for the next time, and the others are stored all the same.

    Returns
    -------
    list of str
        Uids of the runs that were stored.
    """
    stored = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        lock = filelock.FileLock(_lock_of(folder))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        try:
            for path in sorted(folder.glob("*.jsonl")):
                documents = read_spooled(path)
                try:
                    if documents:
                        store(documents)
                        stored.append(documents[0][1]["uid"])
                except Exception as error:
                    logger.warning("run %s cannot be stored (%s); it stays in %s", path.stem, error, path)
                else:
                    path.unlink()
        finally:
            lock.release()
        if not any(folder.iterdir()):
            _remove(folder)
    return stored


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_of(folder).unlink(missing_ok=True)
