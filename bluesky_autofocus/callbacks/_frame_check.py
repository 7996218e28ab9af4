"""Examine frames of an instrument that is tried: grey levels, noise, sharpness."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import RecordedExposure
from bluesky_autofocus.callbacks._sharpness import SharpnessAnalysis
from bluesky_autofocus.commissioning import FrameStatistics, PhotonTransfer, photon_transfer
from bluesky_autofocus.records import Reading

__all__ = ["FrameCheckAnalysis"]


@dataclasses.dataclass(frozen=True)
class _FrameCheck(Reading):
    """The sharpness of a frame, and what else it and the one before tell."""

    frame: FrameStatistics | None = dataclasses.field(default=None, compare=False)
    noise: PhotonTransfer | None = dataclasses.field(default=None, compare=False)

    def recorded(self) -> dict[str, Any]:
        noise = self.noise or PhotonTransfer(math.nan, math.nan)
        return {
            **super().recorded(),
            **(dataclasses.asdict(self.frame) if self.frame else {}),
            "level": noise.level,
            "noise": noise.noise,
            "gain": noise.gain,
        }


class FrameCheckAnalysis(SharpnessAnalysis):
    """Give the sharpness of every frame, its grey levels, and the noise by the frame before in its stream.

    The noise means something only where nothing was changed between the two.

    Parameters
    ----------
    metric : str
        A name from `bluesky_autofocus.sharpness.names`.
    options
        Of `SharpnessAnalysis`.
    """

    def __init__(self, *metric: str, **options: Any) -> None:
        super().__init__(*metric, **{"name": "frame_check", "octaves": False, **options})

    def _forget(self) -> None:
        super()._forget()
        self._before: dict[str, list[tuple[str, int, np.ndarray]]] = {}

    def prepare(self, exposure: RecordedExposure) -> Callable[[], Reading]:
        """Put a frame together with the one before."""
        run, number = exposure.start["uid"], exposure.seq_num
        # one that is taken again after a pause has its number again
        kept = [
            one for one in self._before.get(exposure.stream, []) if one[0] == run and one[1] == number - 1
        ]
        self._before[exposure.stream] = [*kept, (run, number, exposure.frame)]
        before = kept[-1][2] if kept else None
        return partial(self._examine, exposure.frame, before)

    def _examine(self, frame: np.ndarray, before: np.ndarray | None) -> Reading:
        reading = self.analyse_frame(frame)
        fields = {field.name: getattr(reading, field.name) for field in dataclasses.fields(Reading)}
        noise = None if before is None or before.shape != frame.shape else photon_transfer(before, frame)
        return _FrameCheck(**fields, frame=FrameStatistics.of(frame), noise=noise)
