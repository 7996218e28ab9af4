"""Focusing by running: from 1,000 starts, over a slide of 2,000 tiles, and in flight, on the simulated smear.

A motor of 0.2237 mm/s as in the article, 5 mm/s^2, a camera of 10 ms exposure, and 15 ms from its end to the
answer: a frame every 25 ms, as the article has. Then with 20 and 100 ms more. The time is simulated: motion,
exposure and transfer take time, and computing takes none but what is in those 15 ms.
"""

import math
import multiprocessing
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine
from bluesky import preprocessors as bpp
from tqdm import tqdm

from benchmarks._results import RESULTS, Figures, figure, run
from bluesky_autofocus.callbacks import Analysis, FocusClassAnalysis, SharpnessAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedSmearMicroscope
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.models.hh_net import HHNetModel
from bluesky_autofocus.plans import approach_focus, sweep_focus, track_focus
from bluesky_autofocus.simulation import CLASS_WIDTH_UM
from bluesky_autofocus.simulation.motion import AxisMechanics

SEED = 0
FRAME_PX = 600
EXPOSURE_S = 0.01
ANSWER_S = 0.015
WAYS = ((0.0, 0.5), (0.0, 0.2), (0.02, 0.5), (0.1, 0.5))
"""Extra latency in s, and gain: 0.2 is the article's."""
STARTS_UM = (-50.0, 60.0)
"""From focus. The axis may go no further than 15 um beyond these."""
SAFE_UM = 15.0
OF_A_FIELD = 5
BLURRED_UM = 3.5 * CLASS_WIDTH_UM
IN_FOCUS_UM = 0.5 * CLASS_WIDTH_UM
TILES = (40, 50)
"""Rows and tiles in a row."""


class Bench:
    """The microscope on a virtual clock, a RunEngine, and an analysis; what they emit is kept."""

    def __init__(self, extra_s: float, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bluesky-autofocus-bench-")
        self.clock = VirtualClock()
        # what ophyd devices are to a type checker is not what they are to bluesky
        self.microscope: Any = SimulatedSmearMicroscope(
            name="microscope",
            frame_directory=Path(self._folder.name),
            frame_shape=(FRAME_PX, FRAME_PX),
            seed=SEED,
            transfer_s=ANSWER_S + extra_s,
            watchdog_s=1.0,
            mechanics=AxisMechanics(
                velocity_um_s=223.7, settle_s=0.02, readback_noise_um=0.02, acceleration_um_s2=5000.0
            ),
            clock=self.clock,
            **{"limits_um": (-300.0, 300.0), **options},
        )
        self.microscope.camera.exposure_s.put(EXPOSURE_S)
        self.events: list[dict[str, Any]] = []
        self.run_engine = RunEngine()
        install_frame_routing(self.run_engine)
        self.run_engine.subscribe(lambda _, event: self.events.append(event["data"]), "event")

    def run(self, plan: Any) -> Any:
        """Run a stub in a run of its own; return its result."""
        self.events.clear()
        results: list[Any] = []

        @bpp.stage_decorator([self.microscope])
        @bpp.run_decorator()
        def in_a_run() -> Any:
            results.append((yield from plan))

        self.run_engine(in_a_run())
        for folder in Path(self._folder.name).iterdir():
            shutil.rmtree(folder)
        return results[0]

    def subscribed(self, analysis: Analysis) -> Analysis:
        """Return an analysis that gets the documents."""
        self.run_engine.subscribe(analysis)
        return analysis


# ---- from 1,000 starts -----------------------------------------------------------------------------------


def approach_once(
    bench: Bench, analysis: Analysis, defocus_um: float, extra_s: float, gain: float
) -> dict[str, Any]:
    """Focus from a start; return how that went."""
    microscope, clock = bench.microscope, bench.clock
    focus_um = microscope.focus_um
    low_um, high_um = focus_um + STARTS_UM[0] - SAFE_UM, focus_um + STARTS_UM[1] + SAFE_UM
    microscope.z.set(focus_um + defocus_um).wait()
    began_s = clock.now_s()
    verdict = bench.run(
        approach_focus(
            [microscope],
            microscope.z,
            analysis=analysis,
            default_velocity=223.7,
            class_width_um=CLASS_WIDTH_UM,
            gain=gain,
            travel_um=(low_um, high_um),
            depth_of_field_um=microscope.depth_of_field_um,
            reaction_s=2.5 * (EXPOSURE_S + ANSWER_S + extra_s),
        )
    )
    ended_s = clock.now_s()
    clock.advance(0.5)  # if it still ran, it would be seen to
    times_s = np.arange(began_s, clock.now_s(), 0.001)
    way_um = np.array([microscope.z.load_at_um(one) for one in times_s]) - focus_um
    outside = np.flatnonzero(np.abs(way_um) > IN_FOCUS_UM)
    in_focus_s = times_s[outside[-1] + 1] if len(outside) and outside[-1] + 1 < len(times_s) else began_s
    blurred = np.flatnonzero(np.abs(way_um) > BLURRED_UM)
    past_um = max(0.0, float((-np.sign(defocus_um) * way_um).max()))
    return {
        "way": (extra_s, gain),
        "start_um": defocus_um,
        "found": verdict.found,
        "reason": str(verdict.reason),
        "error_um": float(way_um[-1]),
        "sigma_um": verdict.sigma_um,
        "exposures": verdict.exposures,
        "from_blurred_s": float(in_focus_s - times_s[blurred[-1]]) if len(blurred) else math.nan,
        "in_focus_s": float(in_focus_s - began_s),
        "done_s": ended_s - began_s,
        "overshoot_um": past_um,
        "outside": bool((way_um < low_um - focus_um).any() or (way_um > high_um - focus_um).any()),
        "curve": (times_s - began_s, way_um),
    }


def approach_many(job: tuple[int, int, float, float]) -> list[dict[str, Any]]:
    """Focus from random starts in fields of its own."""
    part, count, extra_s, gain = job
    bench = Bench(extra_s)
    analysis = bench.subscribed(FocusClassAnalysis(HHNetModel.load()))
    rng = np.random.default_rng((SEED, part))
    width_um, height_um = bench.microscope.field_um
    found = []
    for number in range(count):
        if number % OF_A_FIELD == 0:
            column, row = divmod(part * 1000 + number // OF_A_FIELD, 40)
            bench.microscope.x.set((column % 40 - 20) * width_um).wait()
            bench.microscope.y.set((row - 20) * height_um).wait()
        one = approach_once(bench, analysis, float(rng.uniform(*STARTS_UM)), extra_s, gain)
        if number >= 4:  # a few are drawn
            one.pop("curve")
        found.append(one)
    return found


def _of_starts(found: list[dict[str, Any]], way: tuple[float, float]) -> dict[str, Any]:
    """Return a row of the table."""
    extra_s, gain = way
    reasons = Counter(one["reason"] for one in found if not one["found"])
    right = [one for one in found if one["found"]]
    error = np.abs([one["error_um"] for one in right])
    return {
        "what": f"approach, gain {gain:g}, + {1e3 * extra_s:g} ms",
        "starts": len(found),
        "reasons": ", ".join(f"{count} {reason}" for reason, count in reasons.items()),
        "found": len(right) / len(found),
        "from_blurred_s": float(np.nanmedian([one["from_blurred_s"] for one in right])),
        "in_focus_s": float(np.median([one["in_focus_s"] for one in right])),
        "done_s": float(np.median([one["done_s"] for one in right])),
        "median_um": float(np.median(error)),
        "p99_um": float(np.quantile(error, 0.99)),
        "max_um": float(error.max()),
        "within_two_sigma": float(np.mean(error <= 2 * np.array([one["sigma_um"] for one in right]))),
        "overshoot_um": float(max(one["overshoot_um"] for one in right)),
        "outside": sum(one["outside"] for one in found),
        "exposures": float(np.mean([one["exposures"] for one in found])),
    }


# ---- in flight -------------------------------------------------------------------------------------------


def sweeps(count: int) -> list[dict[str, Any]]:
    """Sweep the same range of the same fields in flight and stopping; return rows of the table."""
    rows = []
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("sweep, stop and go", {"budget": 42}),
        ("sweep in flight, 40 um/s", {"budget": 200, "velocity_um_s": 40.0, "reaction_s": 0.06}),
        ("sweep in flight, 80 um/s", {"budget": 200, "velocity_um_s": 80.0, "reaction_s": 0.06}),
    )
    for name, options in ways:
        bench = Bench(0.0)
        analysis = bench.subscribed(SharpnessAnalysis())
        microscope, dof_um = bench.microscope, bench.microscope.depth_of_field_um
        rng = np.random.default_rng((SEED, 7))
        error, seconds, exposures = [], [], []
        for number in range(count):
            microscope.x.set(number * microscope.field_um[0]).wait()
            middle_um = microscope.focus_um + float(rng.uniform(-15, 15))
            microscope.z.set(middle_um).wait()
            began_s = bench.clock.now_s()
            verdict = bench.run(
                sweep_focus(
                    [microscope],
                    microscope.z,
                    analysis=analysis,
                    bounds_um=(middle_um - 30, middle_um + 30),
                    travel_um=(middle_um - 45, middle_um + 45),
                    depth_of_field_um=dof_um,
                    **options,
                )
            )
            seconds.append(bench.clock.now_s() - began_s)
            exposures.append(verdict.exposures)
            if verdict.found:
                error.append(abs(microscope.defocus_um))
        rows.append(
            {
                "what": name,
                "starts": count,
                "found": len(error) / count,
                "done_s": float(np.median(seconds)),
                "median_um": float(np.median(error)),
                "p99_um": float(np.quantile(error, 0.99)),
                "max_um": float(np.max(error)),
                "max_dof": float(np.max(error)) / dof_um,
                "exposures": float(np.mean(exposures)),
            }
        )
    return rows


# ---- over a slide ----------------------------------------------------------------------------------------

SLIDE = {
    "slide_tilt": (2.0, -1.0),
    "smear_options": {"density_per_mm2": (0.0, 4000.0), "covered": (0.0, 1.0)},
    "stage_velocity_limit_um_s": 5000.0,
    "stage_um": (-50_000.0, 50_000.0),
}
"""Tilted by 20 um over a row, with tiles on which there is hardly anything."""
UNEVEN_UM = (1.0, 3.0)
"""Smooth over 2 mm: slopes of up to 5 and 15 um/mm, which at the speed of the scan is 20 and 60 um/s."""
FRAME_S = 0.05


def track(uneven_um: float, rows: int, columns: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scan a slide without stopping; return a row of the table, and what was recorded of each frame."""
    bench = Bench(FRAME_S - EXPOSURE_S - ANSWER_S, **SLIDE, unevenness_um=uneven_um)
    analysis = bench.subscribed(FocusClassAnalysis(HHNetModel.load()))
    microscope = bench.microscope
    width_um, height_um = microscope.field_um
    microscope.z.set(microscope.focus_um).wait()
    began_s = bench.clock.now_s()
    tracking = bench.run(
        track_focus(
            [microscope],
            microscope.z,
            analysis=analysis,
            stage=(microscope.x, microscope.y),
            x_um=(0.0, columns * width_um),
            y_um=[row * height_um for row in range(rows)],
            scan_velocity_um_s=width_um / FRAME_S,
            default_velocity=223.7,
            class_width_um=CLASS_WIDTH_UM,
            travel_um=(-150.0, 150.0),
            tolerance_um=microscope.depth_of_field_um / 2,
            unevenness_um=uneven_um,
            reaction_s=2 * FRAME_S,
        )
    )
    seconds = bench.clock.now_s() - began_s
    off_um = np.array(
        [one["microscope_truth_defocus_um"] for one in bench.events if "microscope_truth_defocus_um" in one]
    )
    vouched = np.array([one["track_vouched"] for one in bench.events if "track_vouched" in one])
    within = np.abs(off_um) <= microscope.depth_of_field_um / 2
    row = {
        "what": f"track_focus, {rows} x {columns} tiles, uneven by {uneven_um:g} um",
        "starts": tracking.frames,
        "found": float(within.mean()),
        "vouched": tracking.share,
        "vouched_wrong": int((vouched & (np.abs(off_um) > microscope.depth_of_field_um)).sum()),
        "done_s": seconds / (rows * columns),
        "median_um": float(np.median(np.abs(off_um))),
        "p99_um": float(np.quantile(np.abs(off_um), 0.99)),
        "max_um": float(np.abs(off_um).max()),
    }
    return row, [dict(one) for one in bench.events if "track_x_um" in one]


def stop_and_focus(tiles: int) -> dict[str, Any]:
    """Stop at each tile of a row, focus, and take a frame; return a row of the table."""
    bench = Bench(0.0, **SLIDE, unevenness_um=UNEVEN_UM[0])
    analysis = bench.subscribed(FocusClassAnalysis(HHNetModel.load()))
    microscope = bench.microscope
    microscope.z.set(microscope.focus_um).wait()
    microscope.x.move_velocity.put(SLIDE["stage_velocity_limit_um_s"])
    began_s, off_um, found = bench.clock.now_s(), [], 0
    for tile in range(tiles):
        microscope.x.set(tile * microscope.field_um[0]).wait()
        bench.clock.advance(0.05)  # until the stage has settled
        at_um = microscope.z.position
        verdict = bench.run(
            approach_focus(
                [microscope],
                microscope.z,
                analysis=analysis,
                default_velocity=223.7,
                class_width_um=CLASS_WIDTH_UM,
                travel_um=(at_um - 60, at_um + 60),
                depth_of_field_um=microscope.depth_of_field_um,
                reaction_s=0.06,
                verify=False,
            )
        )
        found += verdict.found
        off_um.append(abs(microscope.defocus_um))
    within = np.array(off_um) <= microscope.depth_of_field_um / 2
    return {
        "what": "stop and focus at each tile",
        "starts": tiles,
        "found": float(within.mean()),
        "vouched": found / tiles,
        "done_s": (bench.clock.now_s() - began_s) / tiles,
        "median_um": float(np.median(off_um)),
        "p99_um": float(np.quantile(off_um, 0.99)),
        "max_um": float(np.max(off_um)),
    }


# ---- all together ----------------------------------------------------------------------------------------


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Focus from everywhere, sweep, and scan."""
    starts, parts = (16, 2) if quick else (1000, 10)
    each = math.ceil(starts / len(WAYS) / parts)
    jobs = [(kind * parts + part, each, *way) for kind, way in enumerate(WAYS) for part in range(parts)]
    # "spawn": a library that has started threads cannot be forked
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        found = [one for some in tqdm(pool.imap(approach_many, jobs), "starts", len(jobs)) for one in some]
        sweeping = pool.apply_async(sweeps, (4 if quick else 40,))
        stopping = pool.apply_async(stop_and_focus, (10 if quick else 50,))
        tracking = pool.starmap_async(track, [(one, *((3, 10) if quick else TILES)) for one in UNEVEN_UM])
        (tracked, followed), (rough, _) = tracking.get()
        rows = [
            *(_of_starts([one for one in found if one["way"] == way], way) for way in WAYS),
            *sweeping.get(),
            tracked,
            rough,
            stopping.get(),
        ]
    first, (stop, *_, flown) = rows[0], rows[len(WAYS) : -3]
    figures = {
        "median_s": figure(first["from_blurred_s"], "s", "<= 0.25; paper about 0.25", "lower"),
        "median_from_start_s": figure(first["in_focus_s"], "s", "", "lower"),
        "max_error_um": figure(max(row["max_um"] for row in rows[: len(WAYS)]), "um", "< 1", "lower"),
        "found": figure(min(row["found"] for row in rows[: len(WAYS)]), "", "", "higher"),
        "limit_violations": figure(sum(row["outside"] for row in rows[: len(WAYS)]), "", "0", "lower"),
        "in_flight_speedup": figure(stop["done_s"] / flown["done_s"], "", "", "higher"),
        "tracked_in_focus": figure(tracked["found"], "", "", "higher"),
        "tracked_vouched_wrong": figure(tracked["vouched_wrong"], "frames", "0", "lower"),
    }
    if not quick:
        _drawn_slide(followed).savefig(RESULTS / "approach_slide.png", dpi=110)
    return figures, rows, _picture([one for one in found if "curve" in one])


def _picture(found: list[dict[str, Any]]) -> Any:
    """Draw the way of some approaches, as in the article's figure 6."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(14, 4), layout="constrained")
    for ax, way in zip(picture.subplots(1, len(WAYS), sharey=True), WAYS, strict=True):
        for one in [one for one in found if one["way"] == way][:24]:
            times_s, way_um = one["curve"]
            ax.plot(times_s, way_um, lw=0.8)
        ax.axhspan(-IN_FOCUS_UM, IN_FOCUS_UM, color="tab:green", alpha=0.2)
        frame_ms = 1e3 * (EXPOSURE_S + ANSWER_S + way[0])
        ax.set(xlabel="time (s)", title=f"gain {way[1]:g}, a frame every {frame_ms:.0f} ms", xlim=(0, 1.6))
        ax.grid(alpha=0.3)
        ax.set_ylabel("distance from focus (um)")
    return picture


def _drawn_slide(frames: list[dict[str, Any]]) -> Any:
    """Draw the focus that was followed over the slide, and what is vouched for."""
    from matplotlib.figure import Figure

    x, y, z = (np.array([one[f"track_{name}_um"] for one in frames]) for name in "xyz")
    vouched = np.array([one["track_vouched"] for one in frames])
    picture = Figure(figsize=(11, 4), layout="constrained")
    left, right = picture.subplots(1, 2)
    drawn = left.scatter(x / 1e3, y / 1e3, c=z, s=6, cmap="viridis")
    picture.colorbar(drawn, ax=left, label="z (um)")
    right.scatter(x / 1e3, y / 1e3, c=np.where(vouched, "tab:green", "tab:red"), s=6)
    left.set(xlabel="x (mm)", ylabel="y (mm)", title="where the focus axis went")
    right.set(xlabel="x (mm)", ylabel="y (mm)", title="green: vouched for")
    return picture


if __name__ == "__main__":
    run(
        "approach",
        measure,
        seed=SEED,
        columns=(
            "what", "starts", "found", "reasons", "vouched", "vouched_wrong", "from_blurred_s", "in_focus_s",
            "done_s", "median_um", "p99_um", "max_um", "max_dof", "within_two_sigma", "overshoot_um",
            "outside", "exposures",
        ),
    )  # fmt: skip
