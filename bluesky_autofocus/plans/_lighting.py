"""Change the illumination for a while."""

import contextlib
from functools import partial
from uuid import uuid4

from bluesky import plan_stubs as bps
from bluesky.protocols import Status
from bluesky.utils import FailedStatus, MsgGenerator

from bluesky_autofocus.leds import Pattern
from bluesky_autofocus.plans._moving import settled
from bluesky_autofocus.plans._protocols import PatternLight

__all__ = ["Lighting", "lighting_of"]


class Lighting:
    """The patterns that one operation shows, and the one that was shown before.

    Parameters
    ----------
    leds : PatternLight
        What is set.
    before : Pattern or str
        What is shown now.
    """

    def __init__(self, leds: PatternLight, before: Pattern | str) -> None:
        self.leds = leds
        self.before = before
        self._shown: Pattern | str | None = None
        self._changed = False
        self._under_way: Status | None = None

    def show(self, pattern: Pattern | str) -> MsgGenerator[None]:
        """Show a pattern, if it is not the one that this operation has shown last."""
        if pattern == self._shown:
            return
        self._changed, self._shown = True, None
        group = str(uuid4())
        self._under_way = yield from bps.abs_set(self.leds, pattern, group=group)
        yield from bps.wait(group=group)
        self._under_way, self._shown = None, pattern

    def put_back(self) -> MsgGenerator[None]:
        """Show again what was shown before, if it was changed; to be repeated if it fails half way."""
        if not self._changed:
            return
        yield from self.settle()
        yield from self.show(self.before)
        self._changed = False

    def settle(self) -> MsgGenerator[None]:
        """Wait for a pattern that is being set: until then no other may be. That it fails changes nothing."""
        with contextlib.suppress(FailedStatus):
            yield from bps.wait_for([partial(settled, self._under_way)])


def lighting_of(leds: PatternLight) -> MsgGenerator[Lighting]:
    """Return the lighting that knows what is shown now."""
    return Lighting(leds, (yield from bps.rd(leds, default_value="what was shown before")))
