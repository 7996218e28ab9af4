"""Follow the runs of other processes, from the spools that they write."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["SpoolTail"]

Document = tuple[str, dict[str, Any]]


class SpoolTail:
    """The documents of the runs that go on in a data folder, as they come.

    A spool is flushed at each document, so what is read here is a moment old. No file is kept open: on some
    systems its session could not delete it then.

    Parameters
    ----------
    directory : Path
        Of all spools: ``folder / "spool"``.
    recorded : callable
        Returns the documents of a run in the catalogue, by uid. Asked for a run whose file was deleted before
        all of it was read here; they then come from the start once more.
    uid : str, optional
        Follow this run only.
    """

    def __init__(
        self, directory: Path, recorded: Callable[[str], Iterable[Document]], *, uid: str | None = None
    ) -> None:
        self._directory, self._recorded = directory, recorded
        self._pattern = f"*/{uid or '*'}.jsonl"
        self._read: dict[Path, int] = {}
        self._ended: set[Path] = set()

    def documents(self) -> Iterator[Document]:
        """Yield what has come since the last time, that of the run that was written last in the end."""
        there = sorted(self._directory.glob(self._pattern), key=_written_s)
        for path in there:
            for name, doc in self._new_in(path):
                if name == "stop":
                    self._ended.add(path)
                yield name, doc
        for path in self._read.keys() - set(there):
            del self._read[path]
            if path in self._ended:
                self._ended.remove(path)
            else:
                yield from self._recorded(path.stem)

    def _new_in(self, path: Path) -> Iterator[Document]:
        begin = self._read.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(begin)
                new = file.read()
        except FileNotFoundError:
            return  # deleted in this moment
        end = new.rfind(b"\n") + 1  # what follows is being written
        self._read[path] = begin + end
        for line in new[:end].splitlines():
            name, doc = json.loads(line)
            yield name, doc


def _written_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
