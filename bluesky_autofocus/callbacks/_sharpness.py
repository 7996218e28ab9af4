"""Score the sharpness of every frame in the document stream."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from bluesky_autofocus.bands import BandEnergies
from bluesky_autofocus.callbacks._analysis import Analysis
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import (
    DEFAULT_METRIC,
    band_energies,
    check_region,
    cut_out,
    examine_frame,
)
from bluesky_autofocus.sharpness import metric as sharpness_metric

__all__ = ["SharpnessAnalysis"]


@dataclasses.dataclass(frozen=True)
class _SharpnessReading(Reading):
    """A score, and the contrast in each octave, by which `search_focus` goes."""

    bands: BandEnergies | None = dataclasses.field(default=None, compare=False)


class SharpnessAnalysis(Analysis):
    """Give the sharpness of every frame as its reading, and its contrast in each octave.

    A frame that is black, saturated, uniform or not finite is not accepted, with the reason.

    Parameters
    ----------
    metric : str
        A name from `bluesky_autofocus.sharpness.names`.
    name : str, optional
        Of the analysis; "sharpness" by default.
    roi : sequence, optional
        The region that counts: (row_start, row_stop, col_start, col_stop), integers in pixels, or floats as
        fractions of the frame from 0 to 1.
    denoise_sigma_px : float
        Gaussian denoising before the metric.
    normalise : bool
        Divide out the brightness.
    full_scale : float, optional
        Grey level at which the camera saturates; by default the largest of its type. A 12-bit camera in
        16-bit frames needs 4095.
    dark_level : float
        Mean grey level without light, the camera's offset: a frame that is no brighter is black. With 0 a
        field without fluorescence has a sharpness, that of noise.
    octaves : bool
        Whether to measure the contrast in each octave too. It costs a few milliseconds a megapixel, and
        `search_focus` needs twice the exposures without.
    image_key, executor
        As for `Analysis`.

    Raises
    ------
    UnknownMetricError
        If there is no such metric, naming those there are.
    """

    def __init__(
        self,
        metric: str = DEFAULT_METRIC,
        *,
        name: str = "sharpness",
        roi: Sequence[float] | None = None,
        denoise_sigma_px: float = 0.0,
        normalise: bool = True,
        full_scale: float | None = None,
        dark_level: float = 0.0,
        octaves: bool = True,
        **options: Any,
    ) -> None:
        self.metric = sharpness_metric(metric, denoise_sigma_px=denoise_sigma_px, normalise=normalise)
        self.roi = None if roi is None else check_region(roi)
        self.full_scale = full_scale
        self.dark_level = dark_level
        self.octaves = octaves
        super().__init__(name, **options)

    @property
    def parameters(self) -> dict[str, Any]:
        """The metric and its settings."""
        return {
            "name": self.name,
            "metric": self.metric.name,
            "roi": self.roi,
            "denoise_sigma_px": self.metric.denoise_sigma_px,
            "normalise": self.metric.normalise,
            "full_scale": self.full_scale,
            "dark_level": self.dark_level,
            "octaves": self.octaves,
        }

    def of_region(self, roi: Sequence[float]) -> Self:
        """Return a twin that goes by a region of the frame alone: same settings, nothing seen yet."""
        twin = self.offline(self._fetch_frame)
        twin.roi = check_region(roi)
        return twin

    def analyse_frame(self, frame: np.ndarray) -> Reading:
        """Return the sharpness of a frame, or of its region, or why it has none.

        Raises
        ------
        ValueError
            If the frame does not contain the region, saying how large the frame is.
        """
        if self.roi is not None:
            frame = cut_out(frame, self.roi)
        problem = examine_frame(frame, full_scale=self.full_scale, dark_level=self.dark_level).problem
        if problem is not None:
            return Reading.refused(Reason(problem))
        bands = band_energies(frame) if self.octaves else None
        return _SharpnessReading("", self.metric(frame), bands=bands)
