"""Defocus, with its sign, from two frames on either side of a position; for a SEM the astigmatism too.

Both frames show one specimen, of spectrum O, each through its own blur: F1 = H1 O + N1, F2 = H2 O + N2.
Nobody knows O. At each frequency its most likely value is eliminated, and of minus the log-likelihood is left

    sum_k |F1 H2 - F2 H1|^2 / (s1^2 H2^2 + s2^2 H1^2),

with s the deviation of the noise. With frames in units of their noise that is |u|^2, where

    u = F1 sin(phi) - F2 cos(phi),   phi = atan2(H2, H1):

only the ratio of the two transfer functions counts. What blurs both frames alike, the spot of a beam, the
pixels, cancels.

The idea of two test images and a likelihood is that of J. Binding, S. Mikula, W. Denk, Low-dosage
maximum-a-posteriori focusing and stigmation, Microscopy and Microanalysis 19, 38 (2013). They put a prior on
O; here it is eliminated, and the power that the frames themselves show says how much each frequency counts.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_autofocus.defocus._blur_fit import HORIZON_DOF, Fitted, most_likely
from bluesky_autofocus.defocus._blur_likelihood import BlurLikelihood
from bluesky_autofocus.defocus._blur_polish import Polished, polished
from bluesky_autofocus.defocus._cramer_rao import cramer_rao_bound
from bluesky_autofocus.defocus._estimate import DefocusEstimate
from bluesky_autofocus.defocus._pair_spectra import pair_of
from bluesky_autofocus.defocus._transfer import BeamTransfer, LightTransfer, Transfer
from bluesky_autofocus.records import Reason
from bluesky_autofocus.sharpness import examine_frame

__all__ = [
    "BeamTransfer",
    "LightTransfer",
    "Transfer",
    "TwoExposureEstimate",
    "TwoExposureEstimator",
    "cramer_rao_bound",
]

SMALLEST_PX = 64
"""Shortest side of a frame: smaller ones have too few frequencies for their noise to be told."""

LEAST_COHERENCE = 0.5
"""What two frames must have in common to be of one field: below 0.1 in simulated frames of two fields, above
0.8 in those of one within the range."""

UNEXPLAINED = 0.01
"""Share of the specimen's power, as it counts, that the best defocus may leave unexplained: below 0.003 in
simulated frames within the range; above 0.01 with an unknown astigmatism of two depths of field, an image
that grows by 1 % with focus, one frame that has shaken by 4 px."""

SURE = 3.0
"""Standard uncertainties of that share that are allowed for."""

LEAST_MISFIT = 0.3
"""Below this two frames have even their noise in common: they are one."""

LEAST_CELLS = 90.0
"""Cells of the Fourier plane that the defocus must be known from: where few frequencies carry all contrast,
as of a grating, several defoci explain both frames. Below 86 of simulated gratings with a wrong answer, above
95 of other specimens."""

MOST_BRIGHTER = 0.1
"""By how much, as a logarithm, the best defocus may want the ratio of brightness to be another than it is."""

LEAD = 12.0
"""By how much minus twice the log-likelihood of another minimum must be larger: three and a half sigma."""

SAME_DOF = 0.5
"""Depths of field by which the last step may change the answer."""

MOST_SIGMA_DOF = 0.5
"""Uncertainty, in depths of field, above which an answer is none."""


@dataclasses.dataclass(frozen=True)
class TwoExposureEstimate(DefocusEstimate):
    """How far the middle between two frames is from focus, and how astigmatic they are.

    Parameters
    ----------
    defocus_um, sigma_um, accepted, reason
        As for `DefocusEstimate`; of the mean of the two positions.
    straight_um, diagonal_um : float
        Distance between the two line foci, along 0/90 and along 45/135 degrees of the frame. With a positive
        `straight_um` points are drawn out along rows above focus; with a positive `diagonal_um`, towards the
        lower right. NaN where it was not fitted.
    straight_sigma_um, diagonal_sigma_um : float
        Their standard uncertainties.
    misfit : float
        Chi-squared per degree of freedom: 1 where the model explains all but noise.
    shift_px : tuple of float
        How far the second frame has moved down and to the right.
    """

    straight_um: float = math.nan
    diagonal_um: float = math.nan
    straight_sigma_um: float = math.nan
    diagonal_sigma_um: float = math.nan
    misfit: float = math.nan
    shift_px: tuple[float, float] = (math.nan, math.nan)

    @classmethod
    def refused(cls, reason: Reason) -> "TwoExposureEstimate":
        """Return the estimate that is none, with the reason."""
        return cls(math.nan, math.nan, False, reason)


class TwoExposureEstimator:
    """Tells the defocus from two frames that were taken some way apart along the axis.

    Parameters
    ----------
    transfer : Transfer
        What defocus does to each frequency: a `BeamTransfer` or a `LightTransfer`.
    astigmatism : bool, optional
        Whether to fit that too. By default where the transfer knows it: it costs hardly any precision, and an
        astigmatism that is not fitted is not always noticed.
    range_dof : float
        Defocus to either side that is looked for, in depths of field.
    specimen_sigma_um : float
        By how much the focus of specimens differs from what the frames say, though nothing in them shows it:
        those that are not flat, and an aberration that is not quite the one of the transfer. Part of every
        stated uncertainty of the defocus.
    unexplained : float
        Share of the specimen's power, as it counts, that the best defocus may leave unexplained; more where
        specimens are not flat.
    dark_level : float
        Grey level without light.
    full_scale : float, optional
        Grey level at which the camera saturates; by default the largest of the frames' type.

    Raises
    ------
    ValueError
        If the transfer knows no astigmatism, or a number makes no sense.
    """

    model_hash = ""

    def __init__(
        self,
        transfer: Transfer,
        *,
        astigmatism: bool | None = None,
        range_dof: float = 8.0,
        specimen_sigma_um: float = 0.0,
        unexplained: float = UNEXPLAINED,
        dark_level: float = 0.0,
        full_scale: float | None = None,
    ) -> None:
        if not isinstance(transfer, Transfer):
            raise ValueError(f"transfer must be a BeamTransfer, a LightTransfer or alike, got {transfer!r}")
        if astigmatism and not transfer.astigmatic:
            raise ValueError(f"{type(transfer).__name__} knows no astigmatism")
        if not (math.isfinite(range_dof) and range_dof > 0):
            raise ValueError(f"range_dof is {range_dof!r}: expected a positive, finite number")
        if not (math.isfinite(specimen_sigma_um) and specimen_sigma_um >= 0):
            raise ValueError(
                f"specimen_sigma_um is {specimen_sigma_um!r}: expected a finite number, not negative"
            )
        if not 0 < unexplained < 1:
            raise ValueError(f"unexplained is {unexplained!r}: expected a share between 0 and 1")
        if not math.isfinite(dark_level):
            raise ValueError(f"dark_level is {dark_level!r}: expected a finite number")
        self.transfer = transfer
        self.astigmatism = transfer.astigmatic if astigmatism is None else bool(astigmatism)
        self.range_dof, self.specimen_sigma_um = float(range_dof), float(specimen_sigma_um)
        self.unexplained = float(unexplained)
        self.dark_level, self.full_scale = float(dark_level), full_scale

    @property
    def parameters(self) -> dict[str, Any]:
        """What the estimates depend on, JSON-able."""
        return {
            "method": "two_exposure",
            "transfer": self.transfer.parameters,
            "astigmatism": self.astigmatism,
            "range_dof": self.range_dof,
            "specimen_sigma_um": self.specimen_sigma_um,
            "unexplained": self.unexplained,
            "dark_level": self.dark_level,
            "full_scale": self.full_scale,
        }

    def estimate(
        self,
        first: NDArray[Any],
        second: NDArray[Any],
        *,
        separation_um: float,
        pixel_size_um: float,
    ) -> TwoExposureEstimate:
        """Return the defocus of the middle between two frames.

        Parameters
        ----------
        first, second : ndarray, shape (H, W)
            Grey levels as the camera gave them, of one field, equally exposed.
        separation_um : float
            Defocus of the second less that of the first, of either sign; best about two depths of field.
        pixel_size_um : float
            Side of a pixel, in the specimen.

        Returns
        -------
        TwoExposureEstimate
            Refused as ``EMPTY``: no contrast above the noise. ``UNFAMILIAR``: the frames do not show the
            same, or they are one frame twice. ``POOR_FIT``: they do, but their blur is not that of any
            defocus. ``OUT_OF_RANGE``: farther from focus than is looked for. ``SEVERAL_PEAKS``: two defoci
            are nearly as likely. ``UNCERTAIN``: not known to half a depth of field.

        Raises
        ------
        ValueError
            If these are not two frames of one shape, of 64 px at least, or a number makes no sense.
        """
        if first.ndim != 2 or first.shape != second.shape or min(first.shape) < SMALLEST_PX:
            raise ValueError(
                f"got frames of shape {first.shape} and {second.shape}: expected two of one shape (H, W), of "
                f"{SMALLEST_PX} px at least"
            )
        if not (math.isfinite(separation_um) and separation_um != 0):
            raise ValueError(f"separation_um is {separation_um!r}: expected a finite number, not zero")
        if not (math.isfinite(pixel_size_um) and pixel_size_um > 0):
            raise ValueError(f"pixel_size_um is {pixel_size_um!r}: expected a positive, finite number")
        for frame in (first, second):
            problem = examine_frame(frame, full_scale=self.full_scale, dark_level=self.dark_level).problem
            if problem is not None:
                return TwoExposureEstimate.refused(Reason(problem))
        pair, moved_px = pair_of(first.astype(np.float32), second.astype(np.float32), self.dark_level)
        if not pair.weight.any():
            return TwoExposureEstimate.refused(Reason.EMPTY)
        if pair.coherence < LEAST_COHERENCE:
            return TwoExposureEstimate.refused(Reason.UNFAMILIAR)
        dof_um = self.transfer.depth_of_field_um(pixel_size_um)
        reach_um = max(self.range_dof, HORIZON_DOF) * dof_um + abs(separation_um)
        likelihood = BlurLikelihood(
            pair,
            self.transfer,
            separation_um=separation_um,
            pixel_size_um=pixel_size_um,
            reach_um=reach_um,
            astigmatism=self.astigmatism,
        )
        fitted = most_likely(likelihood, self.range_dof)
        if fitted is None:
            return TwoExposureEstimate.refused(Reason.OUT_OF_RANGE)
        answer = polished(
            likelihood, fitted.point, self.transfer, pixel_size_um=pixel_size_um, reach_um=reach_um
        )
        reason = self._doubt(likelihood, fitted, answer)
        if reason is not None:
            return TwoExposureEstimate.refused(reason)
        values_um = dof_um * answer.point[:-1]
        sigmas_um = dof_um * math.sqrt(max(answer.misfit, 1.0)) * answer.sigmas[:-1]
        astigmatism = {}
        if self.astigmatism:
            names = ("straight_um", "diagonal_um", "straight_sigma_um", "diagonal_sigma_um")
            astigmatism = dict(zip(names, map(float, [*values_um[1:], *sigmas_um[1:]]), strict=True))
        return TwoExposureEstimate(
            float(values_um[0]),
            math.hypot(float(sigmas_um[0]), self.specimen_sigma_um),
            misfit=answer.misfit,
            shift_px=(moved_px[0] + pair.rest_px[0], moved_px[1] + pair.rest_px[1]),
            **astigmatism,
        )

    def _doubt(self, likelihood: BlurLikelihood, fitted: Fitted, answer: Polished) -> Reason | None:
        """Return why what was found is not to be believed."""
        if answer.misfit < LEAST_MISFIT:
            return Reason.UNFAMILIAR
        # the minimum by cells and that by the frames are one
        if not abs(answer.point[0] - fitted.point[0]) < SAME_DOF:
            return Reason.POOR_FIT
        if likelihood.constraints(fitted.point) < LEAST_CELLS:
            return Reason.SEVERAL_PEAKS
        brighter = abs(answer.point[-1] - likelihood.pair.log_gain)
        if brighter > max(MOST_BRIGHTER, SURE * likelihood.pair.log_gain_sigma):
            return Reason.POOR_FIT
        if not np.isfinite(answer.sigmas).all() or answer.sigmas[0] > MOST_SIGMA_DOF:
            return Reason.UNCERTAIN
        if answer.unexplained > self.unexplained + SURE * answer.unexplained_sigma:
            return Reason.POOR_FIT
        if fitted.lead < LEAD:
            return Reason.SEVERAL_PEAKS
        return Reason.OUT_OF_RANGE if abs(answer.point[0]) > self.range_dof else None
