"""When to focus before a tile is exposed, and whether its frame shows that focus was lost: no messages."""

import dataclasses
import statistics
from collections import deque

from bluesky_autofocus.plans._tiling._forecast import Foreseen
from bluesky_autofocus.plans._when import FocusDue, When
from bluesky_autofocus.search import BlurTrigger

__all__ = ["Care", "Sharp"]

LONGEST_BREAK = 32
"""After focusing in vain again and again, so many visits pass at most until the next try: an empty region
costs a search now and then, and not one at each of its tiles."""


@dataclasses.dataclass(frozen=True)
class Sharp:
    """When a frame counts as blurred, by the scores of frames that were taken in focus.

    Parameters
    ----------
    blurred_below, sharp_above : float
        Fractions of the baseline, as of `BlurTrigger`.
    patience : int
        So many frames in a row must be blurred. Fields differ: one alone may hold less detail.
    memory : int
        The baseline is the median of so many frames.
    """

    blurred_below: float
    sharp_above: float
    patience: int
    memory: int


class Care:
    """Keeps account of one place: a position of a time-lapse, or all tiles of a scan together.

    Parameters
    ----------
    when : When
        Focus at the latest then.
    sure_um : float
        Focus where the expected position is less certain than that, in standard deviations.
    sharp : Sharp
        When a frame counts as blurred.
    tries_always : bool
        Whether to try at each visit again after focusing in vain, rather than after breaks that grow.

    Attributes
    ----------
    failure : str
        Why focusing failed last; empty once it was found.
    dark : bool
        Whether the last frame that was of no use was so again when it was taken once more: then it is the
        field, and not the lamp.
    """

    def __init__(self, when: When, sure_um: float, sharp: Sharp, *, tries_always: bool) -> None:
        self._due = FocusDue(when)
        self._sure_um = sure_um
        self._trigger = BlurTrigger(blurred_below=sharp.blurred_below, sharp_above=sharp.sharp_above)
        self._patience = sharp.patience
        self._in_focus: deque[float] = deque(maxlen=sharp.memory)
        self._tries_always = tries_always
        self._blurred = 0
        self._failures = 0
        self._pass_by = 0
        self.failure = ""
        self.dark = False

    def sure(self, foreseen: Foreseen, part: float = 1.0) -> bool:
        """Return whether a position may be exposed without focusing, were only part of that allowed."""
        return foreseen.known and foreseen.sigma_um <= part * self._sure_um

    def why(self, foreseen: Foreseen, now_s: float) -> str:
        """Return why to focus before this visit; an empty string to expose where focus is expected."""
        self._due.exposed()
        why = self._due.why(now_s, {})
        if not why and not self.sure(foreseen):
            why = foreseen.reason or f"uncertain by {foreseen.sigma_um:.3g} um"
        if why and self._pass_by > 0:
            self._pass_by -= 1
            return ""
        return why

    def focused(self, found: bool, now_s: float, reason: str = "") -> None:
        """Take in that focusing has ended."""
        self._due.focused(found, now_s, {})
        self._blurred = 0
        self.failure = "" if found else reason
        self._failures = 0 if found else self._failures + 1
        self._pass_by = 0 if found or self._tries_always else min(2**self._failures - 1, LONGEST_BREAK)

    def seen(self, score: float, now_s: float, *, in_focus: bool) -> tuple[bool, bool]:
        """Take in the score of a frame.

        Parameters
        ----------
        score : float
            Its sharpness.
        now_s : float
            Time of it.
        in_focus : bool
            Whether focus was found for it just now: it belongs to the baseline.

        Returns
        -------
        tuple of bool
            Whether it is blurred, and whether focus counts as lost and is to be looked for now.
        """
        if in_focus or not self._in_focus:
            if score > 0:
                self._in_focus.append(score)
                self._trigger.focused(statistics.median(self._in_focus), now_s)
            self._blurred = 0
            return False, False
        blurred = self._trigger.wants_focus(score, now_s)
        self._blurred = self._blurred + 1 if blurred else 0
        lost = self._blurred >= self._patience
        if lost and self._pass_by > 0:
            self._pass_by -= 1
            lost = False
        return blurred, lost
