"""What a person is shown and what an answer means: stacks of planes, or single frames."""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.dataset import FieldStack
from bluesky_autofocus.models.hh_net.classes import class_of, index_of_class, name_of
from bluesky_autofocus.records import ClassLabel, FocusLabel

__all__ = ["Pictures", "Shown", "ShownFrame", "ShownStack", "shuffled_frames"]

LIMITS = (0.5, 99.5)
"""Percentiles of the grey levels of a stack that become black and white."""

SAMPLED_PIXELS = 20_000
"""So many of each frame tell them."""

SHUFFLING_SEED = 0
"""Frames come in the same order again when labelling goes on."""


class Pictures:
    """The frames of a stack for a screen: 8 bits, all with the same black and white.

    Colours of 8 bits are shown as they are.
    """

    def __init__(self, stack: FieldStack) -> None:
        self.stack = stack
        self._lock = threading.Lock()
        self._limits: tuple[float, float] | None = None

    def limits(self) -> tuple[float, float]:
        """Return the grey levels of the stack that are shown black and white."""
        with self._lock:
            if self._limits is None:
                self._limits = self._found_limits()
            return self._limits

    def _found_limits(self) -> tuple[float, float]:
        first = self.stack.frame(0)
        if first.ndim == 3 and first.dtype == np.uint8:
            return 0.0, 255.0
        few = [frame.ravel()[:: max(1, frame.size // SAMPLED_PIXELS)] for frame in self.stack.frames()]
        low, high = np.nanpercentile(np.concatenate(few).astype(float), LIMITS)
        # a stack of one grey level, black or saturated, is shown grey
        return (float(low), float(high)) if low < high else (low - 1.0, high + 1.0)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return the index-th frame of the stack, shape (H, W) or (H, W, 3), as grey levels of a screen."""
        low, high = self.limits()
        scaled = (self.stack.frame(index).astype(np.float32) - low) * (255 / (high - low))
        return np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8)


class Shown(ABC):
    """What a person labels at a time: one picture or several, and what an answer means.

    Parameters
    ----------
    place : hashable
        By which its label is known.
    captions : sequence of str
        One a picture.
    first : int
        The picture that is shown at first.
    """

    place: Hashable
    captions: list[str]
    first: int

    @abstractmethod
    def title(self, number: int, count: int) -> str:
        """Return what it is called as the number-th of so many."""

    @abstractmethod
    def picture(self, index: int) -> NDArray[np.uint8]:
        """Return its index-th picture, shape (H, W) or (H, W, 3)."""

    @abstractmethod
    def label(self, answer: int | None) -> FocusLabel | ClassLabel:
        """Return the label that an answer means; None: it is not usable."""

    @abstractmethod
    def answer(self, made: Any) -> int:
        """Return the answer that a usable label means."""

    @abstractmethod
    def said(self, made: Any) -> str:
        """Return what a usable label says."""


class ShownStack(Shown):
    """A stack of which a plane is in focus; the answer is which."""

    def __init__(self, stack: FieldStack) -> None:
        self.stack, self._pictures, self.place = stack, Pictures(stack), stack.number
        self.captions = [
            f"plane {index} of {len(stack)}   {position_um:.2f} um"
            for index, position_um in enumerate(stack.positions_um, 1)
        ]
        self.first = len(stack) // 2

    def title(self, number: int, count: int) -> str:
        return f"field {self.stack.number} ({number} of {count})"

    def picture(self, index: int) -> NDArray[np.uint8]:
        return self._pictures[index]

    def label(self, answer: int | None) -> FocusLabel:
        if answer is None:
            return FocusLabel(self.stack.number, -1, math.nan, usable=False)
        return self.stack.label(answer)

    def answer(self, made: FocusLabel) -> int:
        return self.stack.planes.index(made.plane)

    def said(self, made: FocusLabel) -> str:
        return f"{made.focus_um:.2f} um"


class ShownFrame(Shown):
    """A frame that is of a class of focus; the answer is which. Nothing tells where it was taken."""

    captions = [""]
    first = 0

    def __init__(self, pictures: Pictures, index: int) -> None:
        self._pictures, self._index = pictures, index
        self._field, self._plane = pictures.stack.number, pictures.stack.planes[index]
        self.place = self._field, self._plane

    def title(self, number: int, count: int) -> str:
        return f"frame {number} of {count}"

    def picture(self, index: int) -> NDArray[np.uint8]:
        return self._pictures[self._index]

    def label(self, answer: int | None) -> ClassLabel:
        if answer is None:
            return ClassLabel(self._field, self._plane, None, usable=False)
        return ClassLabel(self._field, self._plane, index_of_class(answer))

    def answer(self, made: ClassLabel) -> int:
        return class_of(made.index)  # type: ignore[arg-type] - a usable one has it

    def said(self, made: ClassLabel) -> str:
        return name_of(made.index)  # type: ignore[arg-type]


def shuffled_frames(stacks: list[FieldStack]) -> list[Shown]:
    """Return the frames of stacks in an order in which none gives its neighbours away."""
    frames: list[Shown] = [
        ShownFrame(pictures, index)
        for pictures in map(Pictures, stacks)
        for index in range(len(pictures.stack))
    ]
    return [frames[number] for number in np.random.default_rng(SHUFFLING_SEED).permutation(len(frames))]
