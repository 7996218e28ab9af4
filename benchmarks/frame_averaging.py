"""One slow scan, or the average of quick ones, on a simulated SEM whose image drifts.

All three cost the same dose: one scan of 20 us a pixel; 16 of 1.25 us, averaged as they are; the same 16,
registered. For focusing, what counts is how sharp a frame in focus scores, against what it would without
drift, and what is left of that a depth of field away. For looking, how far the frame is from what is there:
the deviation of its grey levels from those of the noiseless scene, put where they agree best, as a share of
the scene's contrast. Medians over five kinds of scene.
"""

from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import _results
from benchmarks._sem import KINDS, MAGNIFICATION, image_formation
from bluesky_autofocus.averaging import average_frames
from bluesky_autofocus.devices import FRAME_OVERHEAD_S
from bluesky_autofocus.sharpness import DEFAULT_METRIC, metric
from bluesky_autofocus.simulation import SEMImageFormation

SEED = 20261203
SCANS = 16
DWELL_US = 20.0
DRIFTS_PX_S = (0.0, 0.1, 0.3, 1.0, 3.0)
WAYS = ("slow", "averaged", "registered")
MARGIN_PX = 72
"""Drift brings in at the borders what the first frame does not show."""


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Take frames of each kind of scene in each way, at each speed of drift."""
    score = metric(DEFAULT_METRIC)
    seen: dict[tuple[float, str], list[dict[str, float]]] = {}
    formations = [image_formation(kind, SEED % 1000) for kind in (KINDS[:2] if quick else KINDS)]
    for formation in formations:
        dof_um = formation.depth_of_field_um(MAGNIFICATION)
        still: dict[str, float] = {}
        for drift_px_s in DRIFTS_PX_S:
            in_focus = frames(formation, drift_px_s, 0.0)
            aside = frames(formation, drift_px_s, dof_um)
            for way in WAYS:
                sharp = score(in_focus[way])
                seen.setdefault((drift_px_s, way), []).append(
                    {
                        "score": sharp / still.setdefault(way, sharp),
                        "left_1_dof_away": score(aside[way]) / sharp,
                        "image_error": image_error(formation, in_focus[way]),
                    }
                )
    scan_s = DWELL_US * 1e-6 * float(np.prod(formations[0].frame_shape))
    rows = []
    for (drift_px_s, way), cases in seen.items():
        medians = {key: median(case[key] for case in cases) for key in cases[0]}
        rows.append({"drift_px": drift_px_s * scan_s, "drift_px_s": drift_px_s, "way": way, **medians})

    def at(drift_px_s: float, way: str, key: str) -> float:
        return next(row[key] for row in rows if (row["drift_px_s"], row["way"]) == (drift_px_s, way))

    figures = {
        **{
            f"{way}_score_at_1_px_s": _results.figure(
                at(1.0, way, "score"), "of that without drift", "reported", "higher"
            )
            for way in WAYS
        },
        **{
            f"{way}_image_error_at_1_px_s": _results.figure(
                at(1.0, way, "image_error"), "of the contrast", "reported", "lower"
            )
            for way in WAYS
        },
    }
    return figures, rows, draw(rows)


def frames(
    formation: SEMImageFormation, drift_px_s: float, defocus_um: float
) -> dict[str, NDArray[np.float32]]:
    """Return a frame taken in each way."""
    rng = np.random.default_rng((SEED, round(1000 * drift_px_s), round(1000 * defocus_um)))
    quick_us = DWELL_US / SCANS
    scan_s = quick_us * 1e-6 * float(np.prod(formation.frame_shape))

    def scan(dwell_us: float, after_s: float) -> NDArray[Any]:
        return formation.image(
            defocus_um,
            magnification=MAGNIFICATION,
            dwell_us=dwell_us,
            offset_px=(0.0, drift_px_s * after_s),
            skew_px=drift_px_s * scan_s * dwell_us / quick_us,
            rng=rng,
        )

    scans = [scan(quick_us, number * (scan_s + FRAME_OVERHEAD_S)) for number in range(SCANS)]
    return {
        "slow": scan(DWELL_US, 0.0).astype(np.float32),
        "averaged": average_frames(scans, register=False).frame,
        "registered": average_frames(scans).frame,
    }


def image_error(formation: SEMImageFormation, frame: NDArray[np.float32]) -> float:
    """Return how far a frame is from the noiseless scene, wherever that agrees best with it."""
    optics = formation.optics
    truth = formation.blurred(0.0, magnification=MAGNIFICATION)
    truth = (2**optics.bits - 1) * (optics.offset + optics.gain * truth)
    inner, columns = truth[:, MARGIN_PX:-MARGIN_PX], frame.shape[1]

    def deviation(whole_px: int, part_px: float = 0.0) -> float:
        moved = frame
        if part_px:
            moved = np.asarray(ndimage.shift(frame, (0.0, -part_px), order=3, mode="nearest"))
        moved = moved[:, MARGIN_PX + whole_px : columns - MARGIN_PX + whole_px]
        return float(np.sqrt(np.mean((moved - inner) ** 2)))

    whole_px = min(range(-8, 40), key=deviation)
    parts_px = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
    return min(deviation(whole_px, part_px) for part_px in parts_px) / float(inner.std())


def draw(rows: list[dict[str, Any]]) -> Any:
    """Draw score and error against the drift during a scan."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("score", "image_error"), ("score in focus", "image error"), strict=True
    ):
        for way in WAYS:
            of = [row for row in rows if row["way"] == way]
            axes.plot([row["drift_px"] for row in of], [row[key] for row in of], "o-", label=way)
        axes.set_xlabel("drift during the slow scan (px)")
        axes.set_ylabel(label)
        axes.set_xscale("symlog", linthresh=0.5)
        axes.legend()
    return figure


if __name__ == "__main__":
    _results.run(
        "frame_averaging",
        measure,
        seed=SEED,
        columns=("drift_px_s", "drift_px", "way", "score", "left_1_dof_away", "image_error"),
    )
