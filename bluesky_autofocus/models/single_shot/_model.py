"""The default single-shot model: several small networks on contour features, and when to believe them.

The powers of all patches are averaged, so that patches count by the light that their specimen scatters; the
networks' mean is the defocus. Their own uncertainties, their spread, and what the quarters of the frame say
each for itself make sigma, scaled so that two of them hold 95 % of the true values in frames that were kept
out of training. A frame whose features the training set does not explain is refused, not measured.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus import DefocusEstimate, problem_of
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.single_shot._led_model import LEDModel
from bluesky_autofocus.models.single_shot.features import ContourFeatures
from bluesky_autofocus.records import Reason

__all__ = ["ARCHITECTURE", "SHIPPED", "FrameFacts", "SingleShotModel"]

ARCHITECTURE = "contour-ensemble-1"
SHIPPED = "weights/simulated-20x.h5"
"""The weights that come with the package, beside this module: for the simulated microscope."""

MOST_PATCHES = 8
"""Patches of a frame that are looked at, twice as many as in the frames by which sigma is calibrated: the
sixteen of a large sensor take twice as long and tell little more."""

OUTPUT_SCALE_UM = 10.0
"""The networks' outputs are in units of this."""


@dataclasses.dataclass(frozen=True)
class FrameFacts:
    """What the networks make of a frame, before it is judged.

    Parameters
    ----------
    defocus_um : float
        Mean of the networks.
    own_um : float
        The uncertainty that they state.
    spread_um : float
        Deviation between the networks.
    quarters_um : float
        Uncertainty of the mean from the disagreement of parts of the frame, 0 where there is one patch.
    strangeness : float
        Distance of the features from what the training set explains; about 1 for frames like those.
    contrast : float
        Logarithm of the power that the specimen scatters, relative to the brightness.
    """

    defocus_um: float
    own_um: float
    spread_um: float
    quarters_um: float
    strangeness: float
    contrast: float

    @property
    def raw_um(self) -> float:
        """All of the uncertainty, before calibration."""
        return math.sqrt(self.own_um**2 + self.spread_um**2 + self.quarters_um**2)


class SingleShotModel(LEDModel):
    """Tells the defocus from one frame under one off-axis LED.

    Made by `load`, or by `training` and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is.
    arrays : mapping of str to ndarray
        ``mean``, ``deviation`` (size,): of the features. ``w0``, ``b0``, ``w1`` ...: of the networks, stacked
        (networks, inputs, outputs). ``axes`` (n, size), ``spread`` (n,): principal axes of the training set
        and its deviation along each.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    architecture = ARCHITECTURE
    shipped = "bluesky_autofocus.models.single_shot", SHIPPED
    features_of = ContourFeatures
    features: ContourFeatures

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        known = self.arrays
        with self._complete():
            self._settings = {name: float(card.architecture_parameters[name]) for name in _SETTINGS}
            depth = sum(name.startswith("w") for name in known)
            self._layers = [(known[f"w{i}"], known[f"b{i}"][:, None]) for i in range(depth)]
            self._mean, self._deviation = known["mean"], known["deviation"]
            self._limits = np.array([self._settings["residual_limit"], self._settings["distance_limit"]])
            self._axes, self._spread = known["axes"], known["spread"]
            self._check_shapes(self.features.size)
        self.most_patches = MOST_PATCHES

    def _check_shapes(self, size: int) -> None:
        widths = [size, *(bias.shape[-1] for _, bias in self._layers)]
        if len(widths) == 1 or widths[-1] != 2:
            raise ValueError("expected layers that end in two outputs")
        networks = len(self._layers[0][0])
        expected = {"mean": (size,), "deviation": (size,), "axes": (len(self._spread), size)}
        expected["spread"] = (len(self._spread),)
        for index, (width, following) in enumerate(itertools.pairwise(widths)):
            expected[f"w{index}"], expected[f"b{index}"] = (networks, width, following), (networks, following)
        self._expect_shapes(expected)

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {**super().parameters, "most_patches": self.most_patches}

    def estimate(self, *frames: NDArray[Any]) -> DefocusEstimate:
        """Return the defocus, its uncertainty, and whether to believe them.

        Parameters
        ----------
        *frames : ndarray, shape (H, W)
            One frame, in grey levels as the camera gave them.

        Raises
        ------
        ValueError
            If it is not one frame without colours of at least a patch.
        """
        frame = self._only(frames)
        problem = problem_of(frame, self.full_scale)
        if problem is not None:
            return DefocusEstimate.refused(problem)
        return self.judge(self.facts(self.features.powers(frame, self.most_patches)))

    # In parts, for training and benchmarks

    def facts(self, powers: NDArray[np.floating[Any]]) -> FrameFacts:
        """Return what the networks make of the powers of a frame's patches, shape (n_patches, bins)."""
        groups = [powers, *_quarters(powers)]
        vectors = np.concatenate(
            [self.features.vectors(group.mean(axis=0, keepdims=True)) for group in groups]
        )
        x = (vectors - self._mean) / self._deviation
        outputs = self._networks(x)  # (networks, groups, 2)
        values = outputs[..., 0] * OUTPUT_SCALE_UM
        logs = np.clip(outputs[:, 0, 1], -6, 4)
        parts = values[:, 1:].mean(axis=0)
        return FrameFacts(
            defocus_um=float(values[:, 0].mean()),
            own_um=float(np.sqrt(np.mean(np.exp(2 * logs)))) * OUTPUT_SCALE_UM,
            spread_um=float(values[:, 0].std()),
            quarters_um=float(parts.std(ddof=1) / math.sqrt(len(parts))) if len(parts) > 1 else 0.0,
            strangeness=float(max(self._strange(x[0]) / self._limits)),
            contrast=float(vectors[0, -1]),
        )

    def strange_parts(self, powers: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return how far a frame's features lie from what the training set explains, in two ways.

        How much of them lies outside the training set's principal axes, and how far out along these they lie.
        """
        vector = self.features.vectors(powers.mean(axis=0, keepdims=True))[0]
        return self._strange((vector - self._mean) / self._deviation)

    def _strange(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        along = self._axes @ x
        rest = x - along @ self._axes
        return np.sqrt([np.mean(rest**2), np.mean((along / self._spread) ** 2)])

    def judge(self, facts: FrameFacts) -> DefocusEstimate:
        """Decide whether to believe what the networks make of a frame."""
        settings = self._settings
        if facts.contrast < settings["least_contrast"]:
            return DefocusEstimate.refused(Reason.EMPTY)
        if not facts.strangeness <= 1:
            return DefocusEstimate.refused(Reason.UNFAMILIAR)
        if not abs(facts.defocus_um) <= self.range_um:
            return DefocusEstimate.refused(Reason.OUT_OF_RANGE)
        sigma = math.hypot(settings["sigma_scale"] * facts.raw_um, settings["sigma_floor_um"])
        if not sigma <= settings["largest_sigma_um"]:
            return DefocusEstimate.refused(Reason.UNCERTAIN)
        return DefocusEstimate(facts.defocus_um, sigma)

    def _networks(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y = np.broadcast_to(x, (len(self._layers[0][0]), *x.shape))
        for index, (weights, bias) in enumerate(self._layers):
            y = y @ weights + bias
            if index < len(self._layers) - 1:
                np.maximum(y, 0, out=y)
        return y


_SETTINGS = (
    "residual_limit",
    "distance_limit",
    "least_contrast",
    "sigma_scale",
    "sigma_floor_um",
    "largest_sigma_um",
)


def _quarters(powers: NDArray[np.floating[Any]]) -> list[NDArray[np.floating[Any]]]:
    """Return the patches in up to four groups of neighbours; none where there is only one patch."""
    n = min(4, len(powers))
    return list(np.array_split(powers, n)) if n > 1 else []
