"""Sharpness metrics: their speed, and a full sweep with each over every recorded focus stack.

Which planes a metric picks is measured with `sweep_search`, the decision that `sweep_focus` acts upon, on
all planes. A verdict is humble where it does not claim to have found a wrong plane.
"""

from pathlib import Path
from typing import Any

from benchmarks import _results
from benchmarks.sharpness_timing import timing_table
from bluesky_autofocus.search import Conclusion, FocusCurve, Sample, sweep_search
from bluesky_autofocus.sharpness import DEFAULT_METRIC, metric, names
from bluesky_autofocus.stacks import FocusStack, read_stack

STACKS = Path(__file__).resolve().parents[2] / "shared" / "focus-stacks"
TRAPS = ("phase-object-coherent", "yeast-phase-object")
NOT_CLEAR = ("grid-left", *TRAPS)
"""Without a true label, or without one clear peak at it."""


def sweep(stack: FocusStack, name: str) -> tuple[Conclusion, FocusCurve]:
    """Return what a full sweep with a metric concludes, and its curve."""
    score = metric(name)
    samples: list[Sample] = []
    search = sweep_search(stack.positions_um.tolist())
    try:
        position_um = next(search)
        while True:
            samples.append(Sample(position_um, score(stack.frames[stack.plane_at(position_um)])))
            position_um = search.send(samples[-1])
    except StopIteration as end:
        return end.value, FocusCurve.of(samples)


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Measure speed and accuracy."""
    timing = timing_table(repeats=5 if quick else 25)
    stacks = [read_stack(path) for path in sorted(STACKS.glob("*.tif"))]
    if not stacks:
        raise SystemExit(f"the recorded focus stacks are not at {STACKS}")
    rows: list[dict[str, Any]] = []
    curves: dict[str, FocusCurve] = {}
    for name in names():
        row: dict[str, Any] = {"metric": name}
        for entry in timing:
            if entry["metric"] == name and entry["dtype"] == "uint16":
                row |= {"ms": entry["ms_median"], "times_as_fast": entry["ratio_to_naive"]}
        for stack in stacks:
            conclusion, curve = sweep(stack, name)
            if name == DEFAULT_METRIC:
                curves[stack.name] = curve
            picked = stack.plane_at(conclusion.position_um if conclusion.found else curve.best_um)
            off = None if stack.focus_index is None else picked - stack.focus_index
            row[stack.name] = (
                f"{'' if off is None else f'{off:+d}'} {'found' if conclusion.found else conclusion.reason}"
            )
        rows.append(row)

    clear = [stack for stack in stacks if stack.name not in NOT_CLEAR]
    default = next(row for row in rows if row["metric"] == DEFAULT_METRIC)
    within = sum(abs(int(default[stack.name].split()[0])) <= 1 for stack in clear)
    found = sum(default[stack.name].endswith("found") for stack in clear)
    humble = sum(not default[trap].endswith("found") for trap in TRAPS)
    laplacian = [
        entry["ratio_to_naive"]
        for entry in timing
        if entry["metric"] == "variance_of_laplacian" and entry["dtype"] == "uint16"
    ]
    fast = next(row for row in rows if row["metric"] == "variance_of_laplacian")
    figures = {
        "variance_of_laplacian_speedup": _results.figure(laplacian[0], "times", ">= 3", "higher"),
        "default_ms_over_variance_of_laplacian": _results.figure(
            default["ms"] / fast["ms"], "ratio", "<= 1", "lower"
        ),
        "real_stacks_within_one_plane": _results.figure(
            within / len(clear), f"share of {len(clear)} clear stacks", "1", "higher"
        ),
        "real_stacks_found": _results.figure(
            found / len(clear), f"share of {len(clear)} clear stacks", "1", "higher"
        ),
        "traps_humble": _results.figure(humble / len(TRAPS), f"share of {len(TRAPS)} traps", "1", "higher"),
    }
    rows += [{"timing": entry} for entry in timing]
    return figures, rows, draw(stacks, curves)


def draw(stacks: list[FocusStack], curves: dict[str, FocusCurve]) -> Any:
    """Draw the curve of the default metric over every stack."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 9), layout="constrained")
    for axes, stack in zip(picture.subplots(4, 4).ravel(), stacks, strict=False):
        curve = curves[stack.name]
        axes.plot(curve.positions_um, curve.scores / curve.scores.max(), ".-", markersize=3)
        if stack.focus_index is not None:
            axes.axvline(stack.positions_um[stack.focus_index], color="tab:red", linewidth=1)
        axes.set_title(stack.name, fontsize=8)
        axes.set_ylim(0, 1.05)
        axes.set_xlabel(stack.unit, fontsize=7)
        axes.tick_params(labelsize=6)
    picture.suptitle(f"{DEFAULT_METRIC} over recorded stacks; red: labelled focus")
    return picture


if __name__ == "__main__":
    names_of_stacks = [path.stem for path in sorted(STACKS.glob("*.tif"))]
    _results.run("sharpness", measure, seed=0, columns=["metric", "ms", "times_as_fast", *names_of_stacks])
