"""How far the collection of focal stacks is."""

from collections.abc import Callable
from typing import Any

__all__ = ["CollectionProgress"]


class CollectionProgress:
    """A document callback that shows a progress bar while `collect_focal_stacks` runs.

    Parameters
    ----------
    make_bar : callable, optional
        ``make_bar(total=..., unit=...)`` returns something with ``n``, ``update`` and ``close``; by default
        `tqdm.auto.tqdm`. None where there is no tqdm: then nothing is shown.
    completed : callable, optional
        Called with the number of each field that is complete.
    """

    def __init__(
        self,
        make_bar: Callable[..., Any] | None = None,
        completed: Callable[[int], None] | None = None,
    ) -> None:
        self._make_bar = make_bar or _tqdm
        self._completed = completed
        self._streams: dict[str, str] = {}
        self._bar: Any = None

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document."""
        if name == "start" and doc.get("collection"):
            self._streams.clear()
            self._bar = self._make_bar(total=doc["num_points"], unit="exposures")
        elif name == "descriptor":
            self._streams[doc["uid"]] = doc["name"]
        elif name == "event":
            stream = self._streams.get(doc["descriptor"])
            if stream == "stack" and self._bar is not None:
                # after a pause the newest exposure may come again, under its old number
                self._bar.update(doc["seq_num"] - self._bar.n)
            elif stream == "field" and self._completed is not None:
                self._completed(doc["data"]["field_number"])
        elif name == "stop" and self._bar is not None:
            self._bar.close()
            self._bar = None


def _tqdm(**options: Any) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(**options)
