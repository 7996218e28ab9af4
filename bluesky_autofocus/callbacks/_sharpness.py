"""Score the sharpness of every frame in the document stream."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bluesky_autofocus.callbacks._analysis import Analysis
from bluesky_autofocus.records import Reading, Reason
from bluesky_autofocus.sharpness import DEFAULT_METRIC, examine_frame
from bluesky_autofocus.sharpness import metric as sharpness_metric

__all__ = ["SharpnessAnalysis"]


class SharpnessAnalysis(Analysis):
    """Give the sharpness of every frame as its reading.

    A frame that is black, saturated, uniform or not finite is not accepted, with the reason.

    Parameters
    ----------
    metric : str
        A name from `bluesky_autofocus.sharpness.names`.
    name : str, optional
        Of the analysis; "sharpness" by default.
    roi : sequence of int, optional
        (row_start, row_stop, col_start, col_stop) in pixels.
    denoise_sigma_px : float
        Gaussian denoising before the metric.
    normalise : bool
        Divide out the brightness.
    full_scale : float, optional
        Grey level at which the camera saturates; by default the largest of its type. A 12-bit camera in
        16-bit frames needs 4095.
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
        roi: Sequence[int] | None = None,
        denoise_sigma_px: float = 0.0,
        normalise: bool = True,
        full_scale: float | None = None,
        **options: Any,
    ) -> None:
        self.metric = sharpness_metric(
            metric, roi=roi, denoise_sigma_px=denoise_sigma_px, normalise=normalise
        )
        self.full_scale = full_scale
        super().__init__(name, **options)

    @property
    def parameters(self) -> dict[str, Any]:
        """The metric and its settings."""
        return {
            "name": self.name,
            "metric": self.metric.name,
            "roi": self.metric.roi,
            "denoise_sigma_px": self.metric.denoise_sigma_px,
            "normalise": self.metric.normalise,
            "full_scale": self.full_scale,
        }

    def analyse_frame(self, frame: np.ndarray) -> Reading:
        """Return the sharpness of a frame, or why it has none."""
        problem = examine_frame(frame, full_scale=self.full_scale).problem
        if problem is not None:
            return Reading.refused(Reason(problem))
        return Reading("", self.metric(frame))
