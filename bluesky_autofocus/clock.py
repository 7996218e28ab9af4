"""The clock that a session owns: simulated instruments, intervals and drift all read it.

`WallClock` runs with the computer's, or faster, and calls back from threads of its own. `VirtualClock`
stands still until something waits on it and then jumps: a night passes in minutes and tests are exact.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "VirtualClock", "WallClock"]


class Clock(Protocol):
    """What simulated instruments need of time."""

    def now_s(self) -> float:
        """Return the seconds since the clock was made."""
        ...

    def call_after(
        self, delay_s: float, done: Callable[[], None], *, tick: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Call `done` after `delay_s`, and `tick` now and then until then; return a function that cancels."""
        ...


class WallClock:
    """Real time, `speed` times faster.

    Parameters
    ----------
    speed : float
        Simulated seconds per second.
    """

    tick_s = 0.05

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, got {speed!r}")
        self.speed = speed
        self._start = time.monotonic()

    def now_s(self) -> float:
        """Return the simulated seconds since the clock was made."""
        return (time.monotonic() - self._start) * self.speed

    def call_after(
        self, delay_s: float, done: Callable[[], None], *, tick: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Call `done` from a thread after `delay_s` simulated seconds, and `tick` about 20 times a second."""
        cancelled = threading.Event()
        end_s = self.now_s() + delay_s

        def wait() -> None:
            while (left_s := (end_s - self.now_s()) / self.speed) > 0:
                if cancelled.wait(min(left_s, self.tick_s)):
                    return
                if tick is not None:
                    tick()
            if not cancelled.is_set():
                done()

        threading.Thread(target=wait, name="bluesky-autofocus-clock", daemon=True).start()
        return cancelled.set


class VirtualClock:
    """Time that passes only when something waits for it, and then at once."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now_s(self) -> float:
        """Return the simulated seconds that have passed."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if not seconds >= 0:
            raise ValueError(f"time cannot run backwards: {seconds!r} s")
        self._now_s += seconds

    def call_after(
        self, delay_s: float, done: Callable[[], None], *, tick: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """Let `delay_s` pass and call `done`, before returning."""
        self.advance(delay_s)
        done()
        return lambda: None
