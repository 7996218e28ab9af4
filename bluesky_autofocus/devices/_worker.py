"""A thread for calls that may never return: one after another, and nobody has to wait for them."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

__all__ = ["Worker", "in_time"]


class Worker:
    """Calls functions one after another, on a thread of its own that keeps no process from ending.

    A function that does not return keeps the thread; who waits for its future is to give up in time.

    Parameters
    ----------
    name : str
        Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._under_way: list[str] = []
        threading.Thread(target=_work, args=(self._waiting, self._under_way), name=name, daemon=True).start()
        self.close: Callable[[], Any] = weakref.finalize(self, self._waiting.put, None)
        """Has the thread end after what was asked for before; at the latest when nobody has it any more."""

    @property
    def under_way(self) -> str:
        """What the thread is busy with, empty for nothing."""
        return "".join(self._under_way)

    def submit(self, what: str, function: Callable[[], Any]) -> Future[Any]:
        """Have a function called after those before it."""
        future: Future[Any] = Future()
        self._waiting.put((what, function, future))
        return future


def in_time(future: Future[Any], timeout_s: float) -> bool:
    """Wait for what was submitted, and say whether it is done. If it has not begun by then, it never will."""
    done = bool(wait([future], timeout_s).done)
    if not done:
        future.cancel()
    return done


def _work(waiting: "SimpleQueue[Any]", under_way: list[str]) -> None:
    while (job := waiting.get()) is not None:
        what, function, future = job
        if future.set_running_or_notify_cancel():
            under_way.append(what)
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
            under_way.clear()
        del job, function, future  # an idle thread keeps no device alive
