"""Delete frames of each run that has ended well, as its start document says."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bluesky_autofocus.retention._policies import policy_named
from bluesky_autofocus.retention._pruning import Pruning, prune

__all__ = ["PruneAfterRun"]

logger = logging.getLogger(__name__)


class PruneAfterRun:
    """Document callback: a run whose start document has ``retention`` is pruned so once it has ended well.

    Subscribe it after the catalogue, which has the run then, and after all callbacks that may still read its
    frames. It works on a thread of its own: the next run need not wait. A run that failed or was aborted is
    left as it is.

    Parameters
    ----------
    client : databroker.client.CatalogOfBlueskyRuns
        Where the runs are recorded.

    Attributes
    ----------
    first : list of callable
        What is called, and so waited for, before a run is pruned: `LiveRefocus.wait`.
    """

    def __init__(self, client: Any) -> None:
        self.first: list[Callable[[], object]] = []
        self._client = client
        self._keep: dict[str, str] = {}
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="prune")
        self._newest: Future[Pruning | None] | None = None

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Take in a document.

        Raises
        ------
        ValueError
            At the start document, if there is no retention of that name: the run does not begin.
        """
        if name == "start" and "retention" in doc:
            policy_named(doc["retention"])
            self._keep[doc["uid"]] = doc["retention"]
        elif name == "stop":
            keep = self._keep.pop(doc["run_start"], "all")
            if keep != "all" and doc["exit_status"] == "success":
                self._newest = self._executor.submit(self._prune, doc["run_start"], keep)

    def _prune(self, uid: str, keep: str) -> Pruning | None:
        try:
            for wait in self.first:
                wait()
            done = prune(self._client, self._client[uid], keep)
        except Exception:
            # nobody waits for it, and the experiment goes on; it can be pruned at any time
            logger.exception("run %s was not pruned; all its frames are there", uid)
            return None
        for why in done.spared:
            logger.info("frames of run %s stay: %s", uid, why)
        return done

    def wait(self, timeout_s: float | None = None) -> Pruning | None:
        """Wait until the runs that have ended are pruned; return what went of the newest.

        Raises
        ------
        TimeoutError
            If they are not within that time.
        """
        return None if self._newest is None else self._newest.result(timeout_s)
