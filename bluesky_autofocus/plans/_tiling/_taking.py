"""Take the frames of a tile: at all offsets from focus, under all channels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.utils import MsgGenerator

from bluesky_autofocus.plans._exposing import Exposure, expose
from bluesky_autofocus.plans._lighting import Lighting
from bluesky_autofocus.plans._moving import Travel
from bluesky_autofocus.plans._protocols import Detectors, FocusAnalysis
from bluesky_autofocus.plans._tiling._records import Aim, RecordedFrame, Visit
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.search import LEAST_SWEEP_EXPOSURES, Conclusion, Sample, judge

__all__ = ["Taken", "Taking", "within"]


@dataclasses.dataclass(frozen=True)
class Taken:
    """What the frames of a tile tell of themselves.

    Parameters
    ----------
    attempt : int
        How often the tile had been exposed before.
    central : Reading or None
        Of the frame nearest to focus, in the first channel; None where nobody watches.
    stack : tuple of Sample
        Of all offsets in the first channel, where they are enough to tell a peak and all can be used.
    """

    attempt: int
    central: Reading | None = None
    stack: tuple[Sample, ...] = ()

    @property
    def reason(self) -> Reason:
        """Why the central frame cannot be used, or ``ok``."""
        return Reason.OK if self.central is None else self.central.reason

    @property
    def score(self) -> float | None:
        """The sharpness of the central frame; None where nobody watches, or it cannot be used."""
        return self.central.value if self.central is not None and self.central.accepted else None

    def conclusion(self, depth_of_field_um: float) -> Conclusion | None:
        """Return where the stack says that focus is, or None where there is none to go by."""
        if not self.stack:
            return None
        positions_um = [sample.position_um for sample in self.stack]
        return judge(
            self.stack,
            bounds_um=(min(positions_um), max(positions_um)),
            depth_of_field_um=depth_of_field_um,
            dense=True,
        )


@dataclasses.dataclass
class Taking:
    """Takes the frames of tiles, each an Event of the stream ``primary``.

    Parameters
    ----------
    detectors, timeout_s
        As for the public plans.
    travel : Travel
        Of the focus axis.
    beside : sequence of Readable
        What is read with each frame: the light, the stage.
    lighting : Lighting or None
        Of the light, if there is one.
    channels : sequence
        What it shows, one after the other.
    offsets_um : sequence of float
        Of the exposures from focus.
    watch : FocusAnalysis or None
        Gives the sharpness of the frames, if any.
    """

    detectors: Detectors
    travel: Travel
    beside: Detectors
    lighting: Lighting | None
    channels: Sequence[Any]
    offsets_um: Sequence[float]
    watch: FocusAnalysis | None
    timeout_s: float

    @property
    def frames(self) -> int:
        """How many there are of a tile."""
        return len(self.offsets_um) * len(self.channels)

    def take(self, visit: Visit, aim: Aim, attempt: int) -> MsgGenerator[Taken]:
        """Expose a tile; return what its frames tell."""
        central = min(range(len(self.offsets_um)), key=lambda plane: abs(self.offsets_um[plane]))
        is_stack = len(self.offsets_um) >= LEAST_SWEEP_EXPOSURES
        seen: dict[int, Exposure] = {}
        for plane, offset_um in enumerate(self.offsets_um):
            yield from self.travel.to(within(self.travel, aim.position_um + offset_um))
            for channel in range(len(self.channels)):
                frame = RecordedFrame(visit, aim, channel=channel, offset_um=offset_um, attempt=attempt)
                watched = channel == 0 and (is_stack or plane == central)
                exposure = yield from self._expose(frame, channel, self.watch if watched else None)
                if exposure is not None:
                    seen[plane] = exposure
        return _taken(attempt, seen, central, len(self.offsets_um) if is_stack else 0)

    def _expose(
        self, frame: RecordedFrame, channel: int, watch: FocusAnalysis | None
    ) -> MsgGenerator[Exposure | None]:
        if self.lighting is not None:
            yield from self.lighting.show(self.channels[channel])
        read = [*self.detectors, *self.beside, frame]
        if watch is not None:
            return (
                yield from expose(
                    read, self.travel.axis, analysis=watch, stream="primary", timeout_s=self.timeout_s
                )
            )
        yield from bps.trigger_and_read([*read, self.travel.axis], name="primary")
        yield from bps.checkpoint()
        return None


def _taken(attempt: int, seen: Mapping[int, Exposure], central: int, planes: int) -> Taken:
    stack: tuple[Sample, ...] = ()
    if planes and len(seen) == planes and all(one.reading.accepted for one in seen.values()):
        stack = tuple(Sample(one.position_um, one.reading.value) for one in seen.values())
    return Taken(attempt, seen[central].reading if central in seen else None, stack)


def within(travel: Travel, position_um: float) -> float:
    """Return the position, or the end of the travel range that is nearest to it."""
    return min(max(position_um, travel.low_um), travel.high_um)
