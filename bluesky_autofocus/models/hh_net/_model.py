"""The default HH-Net: class of focus and defocus of a frame of a stained smear, and when to believe them.

Small enough for real time: no convolutions, but a few dense networks that see a vector of features of each
patch (`vectors`). Of each they give the probabilities of many narrow bins of defocus. Those of the seven
classes are sums of them; patches vote for the class of the frame (`voting`), and its defocus is their mean.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.models._dense import DenseNetwork
from bluesky_autofocus.models._model import part_of
from bluesky_autofocus.models.card import ModelCard
from bluesky_autofocus.models.hh_net._frame_model import ClassEstimate, FrameModel
from bluesky_autofocus.models.hh_net.bins import DefocusBins
from bluesky_autofocus.models.hh_net.classes import INDICES
from bluesky_autofocus.models.hh_net.patches import busiest
from bluesky_autofocus.models.hh_net.vectors import PatchVectors
from bluesky_autofocus.models.hh_net.voting import vote, winner
from bluesky_autofocus.records import Reason

__all__ = ["ARCHITECTURE", "SHIPPED", "HHNetModel", "PatchFacts"]

ARCHITECTURE = "hh-net-vectors-1"
SHIPPED = "weights/simulated-smear.h5"
"""The weights that come with the package, beside this module: for simulated stained smears at 20x."""

INPUT_LIMIT = 4.0
"""Of the networks' inputs, in deviations: what lies farther out is taken to lie there."""


@dataclasses.dataclass(frozen=True, eq=False)
class PatchFacts:
    """What the networks say of the patches of a frame, before they vote.

    Parameters
    ----------
    probabilities : ndarray, shape (n_patches, n_bins)
        Of the bins of defocus.
    strangeness : float
        Distance of the patches from what the training set explains; up to 1 for patches like those.
    """

    probabilities: NDArray[np.float64]
    strangeness: float


class HHNetModel(FrameModel):
    """Tells which class of focus a colour frame belongs to, and how far from focus it is.

    Made by `load`, or by training and `save`.

    Parameters
    ----------
    card : ModelCard
        What it is. ``features.parameters`` is a `PatchVectors` as dict; ``architecture_parameters`` has
        ``classes`` (a `ClassTable` as dict), ``bins_um`` (ascending edges, those of the classes among them),
        ``networks``, ``most_patches``, ``temperature``, ``strangeness_limit``, ``sigma_floor_um``,
        ``sigma_scale`` and ``most_sigma_um`` (one for each class).
    arrays : mapping of str to ndarray
        ``network0.NAME``, ``network1.NAME`` ...: of dense networks. ``mean``, ``deviation`` (size,) of their
        inputs. ``familiar.mean`` (7, size) and ``familiar.axes`` (7, size, size): of the training set's
        standardised vectors in each class, principal axes in columns, each divided by the deviation along it.

    Raises
    ------
    ModelFileError
        If the card is that of another architecture, or an array is missing or does not fit.
    """

    architecture = ARCHITECTURE
    shipped = "bluesky_autofocus.models.hh_net", SHIPPED

    def __init__(self, card: ModelCard, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(card, arrays)
        said, known = card.architecture_parameters, self.arrays
        with self._complete():
            self.vectors = PatchVectors.from_dict(card.features.parameters)
            self.patch_px = self.vectors.patch_px
            self.bins = DefocusBins(self.table, said["bins_um"])
            self._networks = [
                DenseNetwork.from_arrays(part_of(known, f"network{number}"))
                for number in range(int(said["networks"]))
            ]
            self.most_patches = int(said["most_patches"])
            self._temperature, self._limit = float(said["temperature"]), float(said["strangeness_limit"])
            self._sigma_floor_um, self._sigma_scale = (
                float(said["sigma_floor_um"]),
                float(said["sigma_scale"]),
            )
            self._most_sigma_um = tuple(
                float(said["most_sigma_um"][number]) for number in range(len(INDICES))
            )
            size, classes = self.vectors.size, len(INDICES)
            if not self._networks or any(
                (network.inputs, network.outputs) != (size, len(self.bins)) for network in self._networks
            ):
                raise ValueError(f"expected networks of {size} inputs and {len(self.bins)} outputs")
            self._expect_shapes(
                {
                    "mean": (size,),
                    "deviation": (size,),
                    "familiar.mean": (classes, size),
                    "familiar.axes": (classes, size, size),
                }
            )
        self._mean, self._deviation = known["mean"], known["deviation"]
        self._centres, self._axes = known["familiar.mean"], known["familiar.axes"]

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {**super().parameters, "most_patches": self.most_patches}

    @property
    def range_um(self) -> tuple[float, float]:
        """Lowest and highest defocus that it measures; farther out it tells the side."""
        return self.bins.range_um

    def _estimate_of(
        self, colour: NDArray[np.uint8], coarse: NDArray[np.uint8], corners: NDArray[np.intp]
    ) -> ClassEstimate:
        chosen = busiest(coarse, colour.shape[:2], corners, self.patch_px, self.most_patches)
        return self.judge(self.facts(self.vectors.of(colour, chosen)))

    # In parts, for training and benchmarks

    def facts(self, vectors: NDArray[np.floating]) -> PatchFacts:
        """Return what the networks say.

        Parameters
        ----------
        vectors : ndarray, shape (n_patches, size)
            Of the patches of a frame.
        """
        return PatchFacts(
            self.probabilities(vectors), float(np.median(self.strange_parts(vectors)) / self._limit)
        )

    def probabilities(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the probabilities of the bins for patches of these vectors, (n_patches, n_bins)."""
        inputs = np.clip((vectors - self._mean) / self._deviation, -INPUT_LIMIT, INPUT_LIMIT)
        return np.mean([_softmax(network(inputs) / self._temperature) for network in self._networks], axis=0)

    def strange_parts(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how far the vectors of patches lie from what the training set explains, (n_patches,).

        Along the principal axes of a class, in deviations (root mean square), of the class that they are
        nearest to. Of all classes together the axes would tell less: to the eye of these a frame whose red
        and blue are swapped is one on the other side of focus.
        """
        x = (vectors - self._mean) / self._deviation
        along = np.matmul(x - self._centres[:, None], self._axes)
        return np.sqrt(np.mean(along.astype(np.float64) ** 2, axis=2).min(axis=0))

    def judge(self, facts: PatchFacts) -> ClassEstimate:
        """Let the patches vote, and decide whether to believe the outcome."""
        p = vote(self.bins.classes(facts.probabilities), self.vote)
        defocus_um, raw_um = self.bins.mean(facts.probabilities)
        sigma_um = math.hypot(self._sigma_scale * raw_um, self._sigma_floor_um)
        reason = Reason.OK
        if not facts.strangeness <= 1:
            reason = Reason.UNFAMILIAR
        elif sigma_um > self._most_sigma_um[int(winner(p))]:
            reason = Reason.UNCERTAIN
        return ClassEstimate.voted(
            p,
            defocus_um=defocus_um,
            sigma_um=sigma_um,
            measured=self.bins.measures(defocus_um),
            patches=len(facts.probabilities),
            reason=reason,
        )


def _softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
