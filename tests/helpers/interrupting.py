"""Interrupt a plan at one of its messages."""

from collections.abc import Callable
from typing import Any

from bluesky import preprocessors as bpp
from bluesky.utils import Msg


def at_message(plan: Any, index: int, act: Callable[[Msg], object]) -> Any:
    """Let a plan of one's own take the place of message number `index`."""
    seen = iter(range(10_000))
    return bpp.plan_mutator(plan, lambda msg: (act(msg) if next(seen) == index else None, None))


def throwing(msg: Msg) -> Any:
    """Raise in place of a message."""
    yield from ()
    raise RuntimeError(f"thrown in place of {msg.command}")


def pausing(msg: Msg) -> Any:
    """Pause before a message."""
    yield Msg("pause")
    return (yield msg)
