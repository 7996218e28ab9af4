"""A time-lapse of living cells that drift out of focus and wander, with and without key-frame focusing.

Two hundred frames, half a minute apart, of one field whose focus drifts by micrometres and whose cells stray
to the sides. Without correction; corrected before every frame; and corrected smoothly, by no more than 100 nm
from one frame to the next.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp

from benchmarks._results import RESULTS, Figures, figure, run
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.plans import coarse_fine_focus
from bluesky_autofocus.session import open_session

SEED = 0
INTERVAL_S = 30.0
DRIFT_UM_MIN = 0.12
WANDER_UM = 0.8
WAYS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "corrected": {},
    "smooth, 100 nm": {"smooth_um": 0.1},
}
_SHOWN = 8


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Record the time-lapse each way."""
    points = 5 if quick else 200
    recorded = {way: _time_lapse(points, options) for way, options in WAYS.items()}
    rows = []
    for way, (error, reasons, exposures, _) in recorded.items():
        jumps = np.abs(np.diff(error))
        rows.append(
            {
                "way": way,
                "points": points,
                "median_nm": 1000 * float(np.median(np.abs(error))),
                "p99_nm": 1000 * float(np.quantile(np.abs(error), 0.99)),
                "max_nm": 1000 * float(np.abs(error).max()),
                "jump_median_nm": 1000 * float(np.median(jumps)),
                "jump_p99_nm": 1000 * float(np.quantile(jumps, 0.99)),
                "found": sum(one in ("found", "held_back") for one in reasons) / points,
                "held_back": sum(one == "held_back" for one in reasons),
                "exposures": float(np.mean(exposures)) if exposures else 0.0,
            }
        )
    of = {row["way"]: row for row in rows}
    figures = {
        "median_error_nm_without": figure(of["without"]["median_nm"], "nm", "", "lower"),
        "median_error_nm": figure(of["corrected"]["median_nm"], "nm", "<= 125", "lower"),
        "p99_error_nm": figure(of["corrected"]["p99_nm"], "nm", "<= 375", "lower"),
        "jump_p99_nm": figure(of["corrected"]["jump_p99_nm"], "nm", "", "lower"),
        "jump_p99_nm_smooth": figure(of["smooth, 100 nm"]["jump_p99_nm"], "nm", "", "lower"),
        "found": figure(of["corrected"]["found"], "", "1", "higher"),
    }
    if not quick:
        _strip(recorded).savefig(RESULTS / "key_frame_time_lapse_strip.png", dpi=110)
    return figures, rows, _picture(recorded)


def _time_lapse(points: int, options: dict[str, Any] | None) -> tuple[Any, list[str], list[int], list[Any]]:
    """Return errors (um) at the time points, reasons, exposures, and some frames."""
    clock = VirtualClock()
    error, reasons, exposures = [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_session(
            "cells", catalog=Path(folder), clock=clock, show=None, seed=7, frame_px=384, defocus_um=0.3,
            drift_um_min=DRIFT_UM_MIN, wander_um=WANDER_UM,
        ) as session,
    ):  # fmt: skip
        microscope: Any = session.instrument.devices["microscope"]
        analysis = session.analysis_of("coarse_fine")

        @bpp.stage_decorator([microscope, microscope.z])
        @bpp.run_decorator(md={"plan_name": "time_lapse", "interval_s": INTERVAL_S})
        def time_lapse() -> Any:
            for _ in range(points):
                clock.advance(INTERVAL_S)
                if options is not None:
                    verdict = yield from coarse_fine_focus(
                        [microscope],
                        microscope.z,
                        analysis=analysis,
                        depth_of_field_um=microscope.depth_of_field_um,
                        travel_um=(microscope.z.position - 6, microscope.z.position + 6),
                        **options,
                    )
                    reasons.append(str(verdict.reason))
                    exposures.append(verdict.exposures)
                yield from bps.trigger_and_read([microscope, microscope.z], name="primary")
                error.append(microscope.defocus_um)

        session.RE(time_lapse())
        source = session.db[-1]["primary", "microscope_camera_image"].data_sources()[0]
        resource = {
            "uid": "",
            "data_key": "microscope_camera_image",
            "uri": source.assets[0].data_uri,
            "parameters": {"dataset": source.parameters["dataset"]},
        }
        shown = np.linspace(0, points - 1, min(_SHOWN, points)).round().astype(int)
        frames = [read_frame(resource, int(row)) for row in shown]
    return np.array(error), reasons, exposures, frames


def _picture(recorded: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9, 4), layout="constrained")
    axes = picture.subplots()
    for way, (error, *_) in recorded.items():
        minutes = (1 + np.arange(len(error))) * INTERVAL_S / 60
        axes.plot(minutes, error, label=way, lw=1)
    axes.set(xlabel="time (min)", ylabel="defocus (um)", ylim=(-2, 2))
    axes.legend()
    axes.grid(alpha=0.3)
    return picture


def _strip(recorded: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(14, 4), layout="constrained")
    ways = list(recorded)[:2]
    for row, axes in zip(ways, picture.subplots(2, _SHOWN), strict=True):
        error, _, _, frames = recorded[row]
        shown = np.linspace(0, len(error) - 1, _SHOWN).round().astype(int)
        for ax, frame, point in zip(axes, frames, shown, strict=True):
            low, high = np.quantile(frame, (0.005, 0.995))
            ax.imshow(frame, cmap="gray", vmin=low, vmax=high)
            ax.set_title(f"{(point + 1) * INTERVAL_S / 60:.0f} min, {error[point]:+.2f} um", fontsize=8)
            ax.set_axis_off()
        axes[0].text(-0.05, 0.5, row, rotation=90, ha="right", va="center", transform=axes[0].transAxes)
    return picture


if __name__ == "__main__":
    run(
        "key_frame_time_lapse",
        measure,
        seed=SEED,
        columns=(
            "way", "points", "median_nm", "p99_nm", "max_nm", "jump_median_nm", "jump_p99_nm", "found",
            "held_back", "exposures",
        ),
    )  # fmt: skip
