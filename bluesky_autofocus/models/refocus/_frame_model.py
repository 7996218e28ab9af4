"""What networks that refocus share: which frames they take, tiles, and when they are believed."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._model import TolerantModel
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.refocus._levels import Levels, noise_of
from bluesky_autofocus.models.refocus._reblur import Explanation, busiest_window, explain
from bluesky_autofocus.models.refocus._refocused import Refocused
from bluesky_autofocus.models.refocus._tiles import blended
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame
from bluesky_autofocus.widefield import Widefield

__all__ = ["LEAST_PX", "RefocusModel"]

LEAST_PX = 64
"""Smallest side of a frame: the blur of a point reaches as far."""
_DTYPES = (np.uint8, np.uint16, np.float32, np.float64)
_IN_FOCUS_DOF = 0.5
"""Frames nearer to focus than this are left as they are."""


class Tile(NamedTuple):
    """What a network makes of a tile.

    Parameters
    ----------
    mean : ndarray of float32, shape (h, w)
        The tile in focus.
    deviation : ndarray of float32, shape (h, w), or None
        Of its error.
    strangeness : float
        Up to 1 for what is like the training set.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32] | None
    strangeness: float = 0.0


class Computed(NamedTuple):
    """What a network makes of a frame, before it is judged.

    Parameters
    ----------
    result, sigma : ndarray of float32, shape (H, W)
        As `Levels` makes them.
    strangeness : float
        The median of the tiles.
    """

    result: NDArray[np.float32]
    sigma: NDArray[np.float32]
    strangeness: float


class RefocusModel(TolerantModel):
    """Makes out-of-focus frames in-focus.

    Made by `load`, or by training and `save`. The card's ``architecture_parameters`` say what the judgement
    needs: ``mismatch_limit`` and ``defocus_um``, the farthest distance from focus, of what was trained with.

    Parameters
    ----------
    card : ModelCard
        What it is.
    arrays : mapping of str to ndarray
        Its weights.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    multiple_px: ClassVar[int] = 32
    """What the sides of tiles are multiples of."""
    context_px: ClassVar[int] = 48
    """Margin of a tile of which nothing is kept."""

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        self.tile_px = 1152
        with self._complete():
            said = card.architecture_parameters
            self._mismatch_limit = float(said["mismatch_limit"])
            self._farthest_um = float(said["defocus_um"])
            self.optics = card.inputs.optics
            self.widefield = Widefield(
                self.optics, float(said["spherical_waves"]), reach_um=self._farthest_um + 8
            )

    def _run(self, x: NDArray[np.float32]) -> Tile:
        """Return a tile in focus; `x` as `Levels` makes it, shape (h, w)."""
        raise NotImplementedError("a network says what it makes of a tile")

    @property
    def name(self) -> str:
        """Of the model."""
        return self.card.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """Kinds of frames that it was trained on."""
        return tuple(self.card.architecture_parameters.get("modalities", ()))

    def prepare(self) -> None:
        """Load what runs the network now, so that the first frame need not wait."""
        side = math.ceil((LEAST_PX + 2 * self.context_px) / self.multiple_px) * self.multiple_px
        self._run(np.zeros((side, side), np.float32))

    def refocus(self, frame: NDArray[Any]) -> Refocused:
        """Return a frame as it would look in focus, and how far to believe that.

        A frame that is in focus already, by half a depth of field, is given back as it is, accepted, with the
        reason ``still_sharp``.

        Parameters
        ----------
        frame : ndarray of uint8, uint16 or float, shape (H, W) or (H, W, 3)
            As the camera gave it; each colour is refocused by itself, if the model takes colours.

        Raises
        ------
        ValueError
            If this is no frame that the model takes: its shape, type or size, naming what was expected.
        """
        frame = np.asarray(frame)
        self.check_frame(frame)
        frame = frame.astype(frame.dtype.newbyteorder("="), copy=False)
        if frame.ndim == 3:
            parts = [self._one(np.ascontiguousarray(frame[..., c])) for c in range(frame.shape[2])]
            return _together(frame, parts)
        return self._one(frame)

    def check_frame(self, frame: NDArray[Any]) -> None:
        """Make sure that this is a frame that the model takes; only its shape and type are looked at.

        Raises
        ------
        ValueError
            Naming what was expected.
        """
        if frame.dtype.newbyteorder("=") not in _DTYPES:
            raise ValueError(f"the frame is of type {frame.dtype}: expected uint8, uint16 or float")
        colours = self.card.inputs.colour == "each"
        if not (frame.ndim == 2 or (colours and frame.ndim == 3 and frame.shape[2] == 3)):
            expected = "(H, W) or (H, W, 3)" if colours else "(H, W): give one colour"
            raise ValueError(f"the frame has shape {frame.shape}: {self.card.name} expects {expected}")
        if min(frame.shape[:2]) < LEAST_PX:
            raise ValueError(f"the frame has shape {frame.shape}: expected at least {LEAST_PX} pixels a side")

    def _one(self, frame: NDArray[Any]) -> Refocused:
        problem = examine_frame(frame, full_scale=self.full_scale).problem
        if problem is not None:
            return _refused(frame, Reason(problem))
        levels, noise = Levels.of(frame), noise_of(frame)
        if not levels.show_something(noise):
            return _refused(frame, Reason.EMPTY)
        computed, window = self.computed(frame, levels), busiest_window(frame)
        known = self.explained(levels.apply(frame[window]), computed.result[window], noise / levels.scale)
        return self._judged(frame, computed, known, levels, noise)

    # In parts, for large images, training and benchmarks

    def computed(self, frame: NDArray[Any], levels: Levels) -> Computed:
        """Return what the network makes of a grey frame, shape (H, W), without any judgement."""
        result, sigma = (np.empty(frame.shape, np.float32) for _ in range(2))
        strangeness: list[float] = []
        for first, values in self.blended(lambda a, b: levels.apply(frame[a:b]), frame.shape, strangeness):
            result[first : first + len(values)] = values[..., 0]
            sigma[first : first + len(values)] = values[..., 1]
        return Computed(result, sigma, float(np.median(strangeness)))

    def blended(
        self,
        rows: Callable[[int, int], NDArray[np.float32]],
        shape: tuple[int, ...],
        strangeness: list[float],
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield rows of a frame in focus, from the top down: first row, and (n, W, 2) values with deviations.

        Parameters
        ----------
        rows : callable
            ``rows(first, last)`` gives those of the frame as `Levels` makes them.
        shape : tuple of int
            Of the frame.
        strangeness : list of float
            Of each tile is added to it.
        """

        def run(tile: NDArray[np.float32]) -> NDArray[np.float32]:
            one = self._run(tile)
            strangeness.append(one.strangeness)
            deviation = np.full_like(one.mean, np.nan) if one.deviation is None else one.deviation
            return np.stack([one.mean, deviation], axis=-1)

        return blended(
            rows,
            (shape[0], shape[1]),
            run,
            tile_px=self.tile_px,
            context_px=self.context_px,
            multiple_px=self.multiple_px,
        )

    def _judged(
        self,
        frame: NDArray[Any],
        computed: Computed,
        known: Explanation,
        levels: Levels,
        noise: float,
    ) -> Refocused:
        """Decide whether what the network made of a frame may be shown."""
        reason = self.reason(known, computed.strangeness)
        in_focus = known.defocus_um <= _IN_FOCUS_DOF * self.optics.depth_of_field_um
        shown = frame.copy() if in_focus or reason is not None else levels.undo(computed.result, frame.dtype)
        sigma = computed.sigma * np.float32(levels.scale if reason is None else math.nan)
        if in_focus and reason is None:
            # what is left as it was has the noise that it had
            sigma = np.full_like(sigma, noise)
        return Refocused(
            shown,
            sigma,
            known.defocus_um,
            known.mismatch,
            reason is None,
            reason or (Reason.STILL_SHARP if in_focus else Reason.OK),
        )

    def explained(
        self, recorded: NDArray[np.float32], result: NDArray[np.float32], noise: float
    ) -> Explanation:
        """Return how a recorded frame follows from a refocused one, both as `Levels` makes them."""
        return explain(recorded, result, self.widefield, noise=noise)

    def reason(self, known: Explanation, strangeness: float) -> Reason | None:
        """Return why a result is not to be believed, or None if it is."""
        if not strangeness <= 1:
            return Reason.UNFAMILIAR
        if not known.mismatch <= self._mismatch_limit:
            return Reason.INVENTED
        if known.defocus_um > self._farthest_um + 2:
            return Reason.OUT_OF_RANGE
        return None

    @property
    def parameters(self) -> dict[str, Any]:
        """What the results depend on, JSON-able."""
        return {**super().parameters, "tile_px": self.tile_px}


def _refused(frame: NDArray[Any], reason: Reason) -> Refocused:
    nothing = np.full(frame.shape, np.nan, np.float32)
    return Refocused(frame.copy(), nothing, math.nan, math.nan, False, reason)


def _together(frame: NDArray[Any], parts: list[Refocused]) -> Refocused:
    """Return what became of the colours of a frame; it is accepted if all of them are."""
    bad = next((one for one in parts if not one.accepted), None)
    if bad is not None:
        return dataclasses.replace(bad, frame=frame.copy(), sigma=np.full(frame.shape, np.nan, np.float32))
    return Refocused(
        np.stack([one.frame for one in parts], axis=-1),
        np.stack([one.sigma for one in parts], axis=-1),
        float(np.mean([one.defocus_um for one in parts])),
        max(one.mismatch for one in parts),
        reason=Reason.STILL_SHARP if all(one.reason is Reason.STILL_SHARP for one in parts) else Reason.OK,
    )
