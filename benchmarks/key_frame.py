"""Key-frame focusing of simulated living cells: which plane is chosen, by whom, and how near it ends.

Choice: cells of fields that nothing was trained or chosen by, each in one coarse scan (three planes 1 um
apart, the focus within 1.5 um of the middle) and one fine scan (seven planes 250 nm apart, the focus within
0.5 um of the middle, as the coarse choice leaves it). A choice is right if no other plane is nearer to focus;
the fine one counts as right, as in the original, if it is one of the three that a label marks. Shown are the
shipped network, the original's layout trained on the same cells, and every sharpness metric, taking its
maximum or its minimum, whichever is right more often.

End to end: fields focused through the RunEngine, recorded in databroker, from up to 1.5 um and up to 3 um
away; also while the cells drift and wander (`benchmarks.key_frame_time_lapse`).
"""

import math
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.key_frame import KeyFrameModel
from bluesky_autofocus.models.key_frame.published import PublishedOptions, train_published
from bluesky_autofocus.models.key_frame.train import COARSE, FINE, STRIDE, CellStacks
from bluesky_autofocus.sharpness import metric, names
from bluesky_autofocus.training.key_frame import OPTICS, PATCH_PX, TRAINING, CellRecipe, cell_stacks

SEED = 0
TEST = CellRecipe(260_000, 1000)
PLANES = {"coarse": 3, "fine": 7}
REACH = {"coarse": 1.5, "fine": 2.0}
"""How far from the middle of a scan the focus may lie, in its planes."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Choose planes by all means, then focus end to end."""
    model = KeyFrameModel.load()
    recipe = CellRecipe(260_000, 10) if quick else TEST
    test = cell_stacks(recipe)
    scans = {name: _scans(test, name) for name in PLANES}
    rows = _choices(model, test, scans, quick)
    attempts = _end_to_end(6 if quick else 500)
    rows += _attempted(attempts)
    return _figures(rows), rows, _picture(rows, attempts)


# Choosing planes


def _scans(stacks: CellStacks, name: str) -> list[tuple[NDArray[np.int_], float]]:
    """Return for each cell the planes of its scan, and where among them the focus is."""
    rng = np.random.default_rng((SEED, PLANES[name]))
    n, stride, found = PLANES[name], STRIDE[name], []
    for focus in stacks.focus.tolist():
        at = (n - 1) / 2 + rng.uniform(-1, 1) * REACH[name]
        first = int(np.clip(round(focus - at * stride), 0, stacks.patches.shape[1] - 1 - stride * (n - 1)))
        found.append((first + stride * np.arange(n), (focus - first) / stride))
    return found


def _choices(
    model: KeyFrameModel,
    test: CellStacks,
    scans: dict[str, list[tuple[NDArray[np.int_], float]]],
    quick: bool,
) -> list[dict[str, Any]]:
    rows = []
    for scan in model.scans:
        of = scans[scan.name]
        focus = np.array([at for _, at in of])
        chosen, probability, said = [], [], []
        for cell, (which, _) in enumerate(tqdm(of, scan.name, mininterval=5)):
            spacing_um = STRIDE[scan.name] * float(test.step_um[cell])
            patches = test.middle(cell, which, PATCH_PX)[None]
            estimate = model.judge(model.facts(patches, scan, spacing_um), scan, spacing_um)
            chosen.append(estimate.plane)
            probability.append(estimate.probabilities)
            said.append((estimate.accepted, estimate.focus_um - focus[cell] * spacing_um, estimate.sigma_um))
        row = _scored("shared encoder", scan.name, np.array(chosen), focus)
        row["calibration_error"] = _calibration_error(np.array(probability), focus, scan.in_focus)
        accepted, error, sigma = (np.array(one) for one in zip(*said, strict=True))
        row["refused"] = float(1 - accepted.mean())
        row["accuracy_accepted"] = _scored("", scan.name, np.array(chosen)[accepted], focus[accepted])[
            "accuracy"
        ]
        row["median_nm"] = 1000 * float(np.median(np.abs(error[accepted])))
        row["p99_nm"] = 1000 * float(np.quantile(np.abs(error[accepted]), 0.99))
        row["coverage_2sigma"] = float(np.mean(np.abs(error) <= 2 * sigma, where=accepted))
        rows.append(row)
        rows += _voting(model, scan, test, of)
        rows.append(_published(scan, test, of, focus, quick))
        rows += _metrics(scan.name, test, of, focus)
    return rows


def _scored(who: str, scan: str, chosen: NDArray[Any], focus: NDArray[Any]) -> dict[str, Any]:
    """Return how often the nearest plane was chosen, and how often one that a label marks."""
    n = PLANES[scan]
    nearest = np.clip(np.rint(focus), 0, n - 1)
    right = chosen == nearest
    # so near to the middle between two planes that a person could not tell: 250 nm to either side
    tie = np.abs(np.abs(chosen - focus) - 0.5) * {"coarse": 1000, "fine": 250}[scan] <= 125
    return {
        "what": "choice",
        "who": who,
        "scan": scan,
        "scans": len(chosen),
        "nearest": float(right.mean()) if len(chosen) else math.nan,
        "nearest_or_tie": float((right | tie).mean()) if len(chosen) else math.nan,
        "accuracy": float(right.mean() if scan == "coarse" else (np.abs(chosen - nearest) <= 1).mean())
        if len(chosen)
        else math.nan,
    }


def _calibration_error(probability: NDArray[Any], focus: NDArray[Any], in_focus: int) -> float:
    """Return the expected difference between stated probability and truth, over ten bins of probability."""
    truth = np.abs(np.arange(probability.shape[1]) - np.rint(focus)[:, None]) <= (in_focus - 1) / 2
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [
        (bins == one).sum() * abs(probability[bins == one].mean() - truth[bins == one].mean())
        for one in range(10)
        if (bins == one).any()
    ]
    return float(sum(gaps) / probability.size)


def _voting(model: KeyFrameModel, scan: Any, test: CellStacks, of: list[Any]) -> list[dict[str, Any]]:
    """Let the cells of a field vote, all seen in the scan of the first one."""
    chosen, focus = [], []
    for field in np.unique(test.field):
        cells = np.flatnonzero(test.field == field)[:4]
        which, _ = of[cells[0]]
        spacing_um = STRIDE[scan.name] * float(test.step_um[cells[0]])
        patches = np.stack([test.middle(cell, which, PATCH_PX) for cell in cells])
        chosen.append(model.judge(model.facts(patches, scan, spacing_um), scan, spacing_um).plane)
        focus.append((float(test.focus[cells].mean()) - which[0]) / STRIDE[scan.name])
    return [_scored("shared encoder, cells of a field", scan.name, np.array(chosen), np.array(focus))]


def _published(
    scan: Any, test: CellStacks, of: list[Any], focus: NDArray[Any], quick: bool
) -> dict[str, Any]:
    """Train a network of the original's layout, let it choose."""
    learn = test if quick else cell_stacks(TRAINING)
    n = PLANES[scan.name]
    steps = 5 if quick else 3000
    with shown_progress(True) as show:
        predict = train_published(
            learn,
            COARSE if scan.name == "coarse" else FINE,
            n,
            patch_px=PATCH_PX,
            options=PublishedOptions(steps=steps, seed=SEED),
            progress=show,
        )
    patches = np.stack([test.middle(cell, which, PATCH_PX) for cell, (which, _) in enumerate(of)])
    probability = predict(patches)
    if scan.name == "coarse":
        chosen = probability.argmax(axis=1)
    else:  # the middle of the three most probable neighbours
        sums = probability[:, :-2] + probability[:, 1:-1] + probability[:, 2:]
        chosen = sums.argmax(axis=1) + 1
    row = _scored("planes as channels", scan.name, chosen, focus)
    row["calibration_error"] = _calibration_error(probability, focus, scan.in_focus)
    return row


def _metrics(name: str, test: CellStacks, of: list[Any], focus: NDArray[Any]) -> list[dict[str, Any]]:
    """Let every sharpness metric choose, by its maximum or its minimum."""
    rows = []
    for one in names():
        score = metric(one)
        values = []
        for cell, (which, _) in enumerate(of):
            patches = 1000 * (1 + 0.05 * test.middle(cell, which, PATCH_PX))
            values.append([score(np.maximum(patch, 1)) for patch in patches])
        table = np.array(values)
        both = [
            _scored(f"{one}, {way}", name, chosen, focus)
            for way, chosen in (("maximum", table.argmax(axis=1)), ("minimum", table.argmin(axis=1)))
        ]
        rows.append(max(both, key=lambda row: row["accuracy"]))
    return rows


# End to end


def _end_to_end(count: int) -> list[dict[str, Any]]:
    jobs = [(SEED + index, count // 2 + (count % 2 if index else 0)) for index in range(2)]
    with multiprocessing.get_context("spawn").Pool(min(2, os.cpu_count() or 1)) as pool:
        return [attempt for done in pool.map(_fields_of, jobs, chunksize=1) for attempt in done]


def _fields_of(job: tuple[int, int]) -> list[dict[str, Any]]:
    from bluesky_autofocus.clock import VirtualClock
    from bluesky_autofocus.session import open_session

    seed, count = job
    rng = np.random.default_rng((seed, 23))
    attempts = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_session(
            "cells", catalog=Path(folder), clock=VirtualClock(), show=None, seed=3000 + seed, frame_px=384
        ) as session,
    ):
        microscope: Any = session.instrument.devices["microscope"]
        pitch_x_um, pitch_y_um = microscope.field_um
        for index in range(count):
            row, column = divmod(index, 25)
            microscope.x.set((column - 12) * pitch_x_um).wait()
            microscope.y.set((row - 10) * pitch_y_um).wait()
            focus_um = microscope.focus_um
            for reach_um in (1.5, 3.0):
                start_um = rng.uniform(-reach_um, reach_um)
                microscope.z.set(focus_um + start_um).wait()
                session.RE(session.focus(method="coarse_fine"))
                verdict = session.db[-1]["verdict"].read()
                found = bool(verdict["verdict_found"].values[-1])
                attempts.append(
                    {
                        "reach_um": reach_um,
                        "start_um": start_um,
                        "found": found,
                        "reason": str(verdict["verdict_reason"].values[-1]),
                        "error_um": microscope.z.load_um - focus_um if found else math.nan,
                        "sigma_um": float(verdict["verdict_sigma_um"].values[-1]),
                        "exposures": int(verdict["verdict_exposures"].values[-1]),
                    }
                )
    return attempts


def _attempted(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for reach_um in (1.5, 3.0):
        of = [one for one in attempts if one["reach_um"] == reach_um]
        found = [one for one in of if one["found"]]
        error = np.array([abs(one["error_um"]) for one in found])
        sigma = np.array([one["sigma_um"] for one in found])
        rows.append(
            {
                "what": "end to end",
                "who": f"from up to {reach_um:g} um",
                "scans": len(of),
                "found": len(found) / len(of),
                "median_nm": 1000 * float(np.median(error)),
                "p99_nm": 1000 * float(np.quantile(error, 0.99)),
                "max_nm": 1000 * float(error.max()),
                "coverage_2sigma": float(np.mean(error <= 2 * sigma)),
                "exposures": float(np.mean([one["exposures"] for one in of])),
                "max_exposures": max(one["exposures"] for one in of),
                "wrong": int((error > OPTICS.depth_of_field_um).sum()),
                "reasons": {
                    reason: sum(one["reason"] == reason for one in of)
                    for reason in sorted({one["reason"] for one in of})
                },
            }
        )
    return rows


def _figures(rows: list[dict[str, Any]]) -> Figures:
    choice = [row for row in rows if row["what"] == "choice"]

    def of(who: str, scan: str) -> dict[str, Any]:
        return next(row for row in choice if row["who"] == who and row["scan"] == scan)

    def best_metric(scan: str) -> float:
        return max(
            row["accuracy"]
            for row in choice
            if row["scan"] == scan and row["who"].endswith(("maximum", "minimum"))
        )

    ours = {scan: of("shared encoder", scan) for scan in PLANES}
    near, far = (row for row in rows if row["what"] == "end to end")
    return {
        "coarse_accuracy": figure(ours["coarse"]["accuracy"], "", ">= 0.995", "higher"),
        "coarse_accuracy_or_tie": figure(ours["coarse"]["nearest_or_tie"], "", ">= 0.995", "higher"),
        "fine_accuracy": figure(ours["fine"]["accuracy"], "", ">= 0.99", "higher"),
        "best_metric_accuracy": figure(best_metric("coarse"), "coarse", "", "lower"),
        "best_metric_accuracy_fine": figure(best_metric("fine"), "fine", "", "lower"),
        "fewer_errors_coarse": figure(
            (1 - best_metric("coarse")) / max(1 - ours["coarse"]["accuracy"], 1e-9), "times", ">= 3", "higher"
        ),
        "fewer_errors_fine": figure(
            (1 - best_metric("fine")) / max(1 - ours["fine"]["accuracy"], 1e-9), "times", ">= 3", "higher"
        ),
        "published_coarse_accuracy": figure(of("planes as channels", "coarse")["accuracy"], "", "", "higher"),
        "published_fine_accuracy": figure(of("planes as channels", "fine")["accuracy"], "", "", "higher"),
        "calibration_error_fine": figure(ours["fine"]["calibration_error"], "", "0", "lower"),
        "median_error_nm": figure(near["median_nm"], "nm", "<= 125", "lower"),
        "p99_error_nm": figure(near["p99_nm"], "nm", "<= 375", "lower"),
        "median_error_nm_far": figure(far["median_nm"], "nm", "<= 125", "lower"),
        "p99_error_nm_far": figure(far["p99_nm"], "nm", "<= 375", "lower"),
        "found": figure(near["found"], "", "1", "higher"),
        "found_far": figure(far["found"], "", "1", "higher"),
        "exposures": figure(near["exposures"], "exposures", "9 or 10", "lower"),
        "max_exposures": figure(max(near["max_exposures"], far["max_exposures"]), "", "<= 12", "lower"),
        "confident_wrong": figure(near["wrong"] + far["wrong"], "verdicts", "0", "lower"),
    }  # fmt: skip


def _picture(rows: list[dict[str, Any]], attempts: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(14, 6), layout="constrained")
    bars, near, far = picture.subplots(1, 3, width_ratios=(1.3, 1, 1))
    choice = [row for row in rows if row["what"] == "choice"]
    who = list(
        dict.fromkeys(row["who"].removesuffix(", maximum").removesuffix(", minimum") for row in choice)
    )
    for shift, scan, colour in ((-0.2, "coarse", "C0"), (0.2, "fine", "C1")):
        for row in choice:
            if row["scan"] == scan:
                name = row["who"].removesuffix(", maximum").removesuffix(", minimum")
                bars.barh(who.index(name) + shift, max(1 - row["accuracy"], 1e-4), 0.4, color=colour)
    bars.barh(0, 0, color="C0", label="coarse, not the nearest plane")
    bars.barh(0, 0, color="C1", label="fine, not one of the three")
    bars.set_yticks(range(len(who)), who, fontsize="small")
    bars.invert_yaxis()
    bars.set(xscale="log", xlabel="share of wrong choices, single cells")
    bars.legend(fontsize="small", loc="lower left")
    dof_um = OPTICS.depth_of_field_um
    for axes, reach_um in ((near, 1.5), (far, 3.0)):
        of = [one for one in attempts if one["reach_um"] == reach_um]
        for one in of:
            if not one["found"]:
                axes.axvline(one["start_um"], color="0.8", lw=0.8, zorder=0)
        axes.plot([one["start_um"] for one in of], [1000 * one["error_um"] for one in of], ".", ms=4)
        axes.axhspan(-1000 * dof_um, 1000 * dof_um, color="0.95", zorder=-1)
        axes.set(
            title=f"end to end, from up to {reach_um:g} um", xlabel="defocus at first (um)", ylim=(-700, 700)
        )
    near.set_ylabel("error where focus was found (nm)\ngrey lines: not found; band: 1 DOF")
    return picture


if __name__ == "__main__":
    run(
        "key_frame",
        measure,
        seed=SEED,
        columns=(
            "what", "who", "scan", "scans", "accuracy", "nearest", "nearest_or_tie", "calibration_error",
            "refused", "found", "median_nm", "p99_nm", "coverage_2sigma", "exposures", "max_exposures",
            "wrong",
        ),
    )  # fmt: skip
