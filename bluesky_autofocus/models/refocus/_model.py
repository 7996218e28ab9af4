"""The default model: the small networks, the large one run by ONNX Runtime."""

import functools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._model import part_of, strange_parts
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.refocus._channels import CHANNELS_IN, DefocusNetwork, with_deconvolved
from bluesky_autofocus.models.refocus._frame_model import RefocusModel, Tile
from bluesky_autofocus.models.refocus._levels import noise_of
from bluesky_autofocus.models.refocus._network import HINT, MULTIPLE, onnx_network, shapes_of
from bluesky_autofocus.models.refocus._reblur import Explanation, busiest_window, explain
from bluesky_autofocus.models.refocus._spectrum import RINGS

__all__ = ["LOG_SCALE", "UNetModel"]

_LOOKED_AT_PX = 256
_OTHER_SIDE = 0.7
"""The other side has to leave less than this share unexplained: then none of 300 frames, of which the power
spectrum was right about 299, is put on the wrong one."""
LOG_SCALE = (-7.0, 1.0)
"""Between which the logarithm of the expected error lies."""


class UNetModel(RefocusModel):
    """The small network of the package.

    Its arrays are ``network.LAYER.kernel`` and ``network.LAYER.bias``, those of the `DefocusNetwork` behind
    ``defocus.``, and ``familiar.mean`` (size,),
    ``familiar.axes`` (n, size) and ``familiar.spread`` (n,) of what its deepest block makes of the training
    set; its card says ``channels``, ``sigma_scale``, ``sigma_floor`` and ``strangeness_limit``, too.
    """

    architecture = "refocus-unet-1"
    shipped = "bluesky_autofocus.models.refocus", "weights/simulated-20x.h5"

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        said, known = card.architecture_parameters, part_of(self.arrays, "familiar")
        with self._complete():
            self.channels = tuple(int(n) for n in said["channels"])
            self._expect_shapes(
                {f"network.{name}": shape for name, shape in shapes_of(CHANNELS_IN, self.channels).items()}
            )
            self._expect_shapes(dict.fromkeys(("defocus.mean", "defocus.deviation"), (RINGS + 1,)))
            # nearer to focus than this both sides are alike
            self._level_um = self.optics.depth_of_field_um / 2
            self.defocus_of = DefocusNetwork.of(self.arrays, self._farthest_um)
            self._scale, self._floor = float(said["sigma_scale"]), float(said["sigma_floor"])
            self._limit = float(said["strangeness_limit"])
            self._mean, self._axes, self._spread = (known[name] for name in ("mean", "axes", "spread"))
            size = (self.channels[-1],)
            if self._mean.shape != size or self._axes.shape != (len(self._spread), *size):
                raise ValueError("the parts do not fit together")
            if MULTIPLE ** len(self.channels) > self.multiple_px:
                raise ValueError(f"more than {len(self.channels)} levels")

    @functools.cached_property
    def _session(self) -> Any:
        network = onnx_network(self.channels, part_of(self.arrays, "network"))
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(f"{HINT} ({error})") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def _run(self, x: NDArray[np.float32]) -> Tile:
        mean, expected, deepest = self.raw(x, self.distance_um(x))
        deviation = np.hypot(self._scale * expected, self._floor)
        return Tile(mean, deviation, self.strangeness(deepest))

    def distance_um(self, x: NDArray[np.float32]) -> float:
        """Return how far from focus a tile is, with the sign: image plane minus focus.

        The power spectrum tells it to a um or two, and of one frame in a hundred the wrong side. So the part
        of the tile in which most happens is refocused, and the result blurred again: the distance that fits
        best is the better one, and if the result of its other side explains much more, that is the side.

        Parameters
        ----------
        x : ndarray of float32, shape (h, w)
        """
        first_um = self.defocus_of(x)
        side = min(_LOOKED_AT_PX, *(n // self.multiple_px * self.multiple_px for n in x.shape))
        part = np.ascontiguousarray(x[busiest_window(x, side)])
        noise = noise_of(part)

        def known_of(z_um: float, near_um: float | None = None) -> Explanation:
            return explain(part, self.raw(part, z_um)[0], self.widefield, noise=noise, near_um=near_um)

        away_um = min(known_of(first_um).defocus_um, self._farthest_um)
        if away_um <= self._level_um:
            return math.copysign(away_um, first_um)
        told_um = math.copysign(away_um, first_um)
        here, there = (known_of(z_um, away_um).mismatch for z_um in (told_um, -told_um))
        return -told_um if there < _OTHER_SIDE * here else told_um

    # In parts, for training and benchmarks

    def raw(
        self, x: NDArray[np.float32], defocus_um: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return a tile in focus, the error expected of each pixel, and the features of the whole.

        Parameters
        ----------
        x : ndarray of float32, shape (h, w)
        defocus_um : float
            About how far from focus it is.
        """
        shown = with_deconvolved(x, defocus_um, self.widefield).transpose(2, 0, 1)
        y, deepest = self._session.run(["y", "deepest"], {"x": np.ascontiguousarray(shown)[None]})
        return x + y[0, 0], np.exp(np.clip(y[0, 1], *LOG_SCALE)), deepest[0]

    def strangeness(self, deepest: NDArray[np.floating]) -> float:
        """Return how far features are from what the training set explains; up to 1 for what is like it."""
        (strange,) = strange_parts(deepest[None], self._mean, self._axes, self._spread)
        return float(strange) / self._limit
