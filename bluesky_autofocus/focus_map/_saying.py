"""A focus map in a few lines for a person, and as an Event."""

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bluesky_autofocus.focus_map._map import FocusMap

__all__ = ["lines_of", "record_of"]

FIGURES = {
    "mean_um": "mean focus",
    "tilt_x_um": "tilt, left to right",
    "tilt_y_um": "tilt, top to bottom",
    "sag_um": "curvature, centre to corner",
}
ELEMENTS = {"straight": "astigmatism, 0/90 degrees", "diagonal": "astigmatism, 45/135 degrees"}


def lines_of(focus_map: "FocusMap") -> list[str]:
    """Return what there is to say, the tiles first."""
    rows, columns = focus_map.focus_um.shape
    believed, textured = int(focus_map.believed.sum()), int(focus_map.textured.sum())
    lines = [
        f"{believed} of {rows} x {columns} tiles found in focus, {textured} not empty "
        f"({focus_map.exposures} exposures)"
    ]
    if believed:
        agreeing = int(focus_map.agreeing.sum())
        said = "they agree" if focus_map.agree else "they do not agree, this may be no focus"
        lines.append(f"{agreeing} on one surface, scattered by {focus_map.spread_um:.3g} um: {said}")
    for name, said in FIGURES.items():
        lines += _line(said, getattr(focus_map, name), focus_map.sigmas_um[name])
    for name, said in ELEMENTS.items():
        value, sigma = (getattr(focus_map.astigmatism, f"{name}{end}") for end in ("_um", "_sigma_um"))
        lines += _line(said, value, sigma)
    return lines


def _line(said: str, value_um: float, sigma_um: float) -> list[str]:
    return [f"{said:28s} {value_um:12.3f} +- {sigma_um:.3f} um"] if math.isfinite(value_um) else []


def record_of(focus_map: "FocusMap") -> dict[str, Any]:
    """Return the same keys and types for all maps; what has structure is JSON."""
    sigmas = focus_map.sigmas_um
    return {
        **{name: getattr(focus_map, name) for name in FIGURES},
        **{f"{name.removesuffix('_um')}_sigma_um": sigmas[name] for name in FIGURES},
        **{
            f"astigmatism_{name}{end}": getattr(focus_map.astigmatism, f"{name}{end}")
            for name in ELEMENTS
            for end in ("_um", "_sigma_um")
        },
        "spread_um": focus_map.spread_um,
        "share": focus_map.share,
        "agree": focus_map.agree,
        "exposures": focus_map.exposures,
        "pixel_size_um": focus_map.pixel_size_um,
        "depth_of_field_um": focus_map.depth_of_field_um,
        "frame_px": json.dumps(focus_map.frame_px),
        "foci_um": _as_json(focus_map.focus_um),
        "sigmas_um": _as_json(focus_map.sigma_um),
        "agreeing": json.dumps(focus_map.agreeing.tolist()),
    }


def _as_json(values: np.ndarray) -> str:
    # JSON has no number for what was not found
    rows = [[None if math.isnan(value) else round(value, 6) for value in row] for row in values.tolist()]
    return json.dumps(rows)
