"""Single-shot focusing of the simulated microscope through the RunEngine, recorded in databroker.

At each of many fields of a slide the stage stands at a random defocus within +-30 um. From there: one
exposure and its correction, a second one, then anew with the verifying exposure, and with two LEDs. Fields
are of 1024 x 1024 pixels, a quarter of the default sensor.
"""

import math
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._results import Figures, figure, run

SEED = 0
FRAME_PX = 1024
RANGE_UM = 30.0


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Focus at many fields, in two processes with a catalogue each."""
    count = 6 if quick else 300
    jobs = [("cells", SEED, count // 2), ("tissue", SEED + 1, count - count // 2)]
    with multiprocessing.get_context("spawn").Pool(min(len(jobs), os.cpu_count() or 1)) as pool:
        attempts = [attempt for done in pool.map(_fields_of, jobs, chunksize=1) for attempt in done]
    rows = []
    for way in ("one exposure", "two exposures", "verified", "two LEDs, verified"):
        for kind in ("all", "cells", "tissue"):
            of = [one for one in attempts if one["way"] == way and kind in ("all", one["kind"])]
            error = np.array([abs(one["error_um"]) for one in of if one["found"]])
            rows.append(
                {
                    "way": way,
                    "specimens": kind,
                    "fields": len(of),
                    "found": len(error) / len(of),
                    "within_1_dof": float(np.sum(error <= of[0]["dof_um"])) / len(of),
                    "median_um": float(np.median(error)),
                    "p95_um": float(np.quantile(error, 0.95)),
                    "max_um": float(error.max()),
                    "exposures": float(np.mean([one["exposures"] for one in of])),
                    "wrong": int((error > of[0]["dof_um"]).sum()),
                }
            )
    everywhere = {row["way"]: row for row in rows if row["specimens"] == "all"}
    figures = {
        "within_1_dof_one_exposure": figure(
            everywhere["one exposure"]["within_1_dof"], "", "as high as can be", "higher"
        ),
        "within_1_dof_two_exposures": figure(
            everywhere["two exposures"]["within_1_dof"], "", "as high as can be", "higher"
        ),
        "within_1_dof_verified": figure(everywhere["verified"]["within_1_dof"], "", "", "higher"),
        "confident_wrong": figure(everywhere["verified"]["wrong"], "verdicts", "0", "lower"),
        "confident_wrong_one_exposure": figure(everywhere["one exposure"]["wrong"], "verdicts", "0", "lower"),
        "confident_wrong_two_led": figure(
            everywhere["two LEDs, verified"]["wrong"], "verdicts", "0", "lower"
        ),
        "exposures_verified": figure(everywhere["verified"]["exposures"], "exposures", "2", "lower"),
        "median_um_verified": figure(everywhere["verified"]["median_um"], "um", "", "lower"),
    }
    return figures, rows, _picture(attempts)


def _fields_of(job: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Focus at some fields of one slide, every way from the same defocus."""
    from bluesky_autofocus.clock import VirtualClock
    from bluesky_autofocus.session import open_session

    kind, seed, count = job
    rng = np.random.default_rng((seed, 17))
    attempts = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_session(
            "microscope",
            catalog=Path(folder),
            clock=VirtualClock(),
            show=None,
            kind=kind,
            seed=1000 + seed,
            frame_px=FRAME_PX,
        ) as session,
    ):
        microscope: Any = session.instrument.devices["microscope"]
        pitch_x_um, pitch_y_um = microscope.field_um
        for index in range(count):
            row, column = divmod(index, 20)
            microscope.x.set((column - 10) * pitch_x_um).wait()
            microscope.y.set((row - 10) * pitch_y_um).wait()
            focus_um, start_um = microscope.focus_um, rng.uniform(-RANGE_UM, RANGE_UM)

            def attempt(way: str, method: str, moved: bool, **options: Any) -> None:
                if not moved:
                    microscope.z.set(focus_um + start_um).wait()  # noqa: B023 - called at once
                session.RE(session.focus(method=method, md={"purpose": way}, **options))
                verdict = session.db[-1]["verdict"].read()
                found = bool(verdict["verdict_found"].values[-1])
                attempts.append(
                    {
                        "kind": kind,
                        "way": way,
                        "start_um": start_um,  # noqa: B023
                        "found": found,
                        "error_um": microscope.z.load_um - focus_um if found else math.nan,  # noqa: B023
                        "exposures": int(verdict["verdict_exposures"].values[-1]),
                        "dof_um": microscope.depth_of_field_um,
                    }
                )

            attempt("one exposure", "single_shot", False, verify=False, budget=1)
            attempt("two exposures", "single_shot", True, verify=False, budget=1)
            attempt("verified", "single_shot", False, budget=4)
            attempt("two LEDs, verified", "two_led", False, budget=8)
    return attempts


def _picture(attempts: list[dict[str, Any]]) -> Any:
    import matplotlib.pyplot as plt

    ways = list(dict.fromkeys(one["way"] for one in attempts))
    picture, axes = plt.subplots(
        1, len(ways), figsize=(4 * len(ways), 3.8), sharey=True, layout="constrained"
    )
    for ax, way in zip(axes, ways, strict=True):
        of = [one for one in attempts if one["way"] == way]
        for kind, colour in (("cells", "C0"), ("tissue", "C1")):
            found = [one for one in of if one["kind"] == kind and one["found"]]
            ax.plot(
                [one["start_um"] for one in found],
                [one["error_um"] for one in found],
                ".",
                ms=4,
                color=colour,
                label=kind,
            )
        for one in of:
            if not one["found"]:
                ax.axvline(one["start_um"], color="0.85", lw=0.8, zorder=0)
        ax.axhspan(-of[0]["dof_um"], of[0]["dof_um"], color="0.95", zorder=-1)
        ax.set(title=way, xlabel="defocus at first (um)", ylim=(-4, 4))
    axes[0].set(ylabel="error where focus was found (um)\ngrey lines: not found")
    axes[0].legend(loc="upper right")
    return picture


if __name__ == "__main__":
    run(
        "single_shot_end_to_end",
        measure,
        seed=SEED,
        columns=(
            "way",
            "specimens",
            "fields",
            "found",
            "within_1_dof",
            "median_um",
            "p95_um",
            "max_um",
            "exposures",
            "wrong",
        ),
    )
