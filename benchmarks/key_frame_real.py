"""What the key-frame model says of recorded stacks it was never meant for, and after going on with one.

Every window of seven planes of every recorded stack: those that contain the plane labelled as in focus and
its neighbours, and those that do not. Reported is how it comes out: how often a choice is accepted, how often
that is within one plane of the label, and how often "none of these" is the answer. Planes are taken for 250
nm apart whatever they are: only of `yeast-phase-object`, living cells in bright field 0.3 um apart, that is
nearly so, and its label is the rule of the software it came from, not a person. It is smaller than a patch:
mirrored at its edges.

Then training goes on with crops of its upper part, and its lower part is looked at.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks._results import Figures, figure, run
from benchmarks.sharpness import STACKS
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.key_frame import KeyFrameModel
from bluesky_autofocus.models.key_frame.cells import crops, relative
from bluesky_autofocus.models.key_frame.train import CellStacks, TrainingOptions, train_key_frame
from bluesky_autofocus.stacks import FocusStack, read_stack

SEED = 0
WINDOW = 7
SPACING_UM = 0.25
YEAST = "yeast-phase-object"
_STORED_PX = 144
_LARGEST_PX = 640
_MOST_WINDOWS = 40


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Look at all windows, go on with the yeast, look at it again."""
    paths = sorted(STACKS.glob("*.tif"))
    if not paths:
        raise SystemExit(f"the recorded focus stacks are not at {STACKS}")
    model = KeyFrameModel.load()
    shown, rows = {}, []
    for path in paths:
        stack = _grey(read_stack(path))
        if stack.focus_index is None or len(stack.frames) < WINDOW:
            continue
        found = _windows(model, stack.frames, stack.focus_index, _MOST_WINDOWS if not quick else 4)
        rows.append(_row(path.stem, "as shipped", found))
        if path.stem == YEAST:
            shown["as shipped"] = found
    yeast = read_stack(STACKS / f"{YEAST}.tif")
    half = yeast.frames.shape[1] // 2
    learn, look_at = yeast.frames[:, :half], yeast.frames[:, half:]
    before = _windows(model, look_at, int(yeast.focus_index or 0), _MOST_WINDOWS)
    tuned = _went_on(model, learn, yeast, 20 if quick else 400)
    after = _windows(tuned, look_at, int(yeast.focus_index or 0), _MOST_WINDOWS)
    rows += [
        _row(f"{YEAST}, lower half", "as shipped", before),
        _row(f"{YEAST}, lower half", "after the upper half", after),
    ]
    shown |= {"lower half, as shipped": before, "lower half, after the upper half": after}
    return _figures(rows), rows, _picture(shown, int(yeast.focus_index or 0), len(yeast.frames))


def _grey(stack: FocusStack) -> Any:
    """Return a stack without colours, no larger than is needed."""
    frames = stack.frames if stack.frames.ndim == 3 else stack.frames[..., 1]
    height, width = frames.shape[1:]
    top, left = max(height - _LARGEST_PX, 0) // 2, max(width - _LARGEST_PX, 0) // 2
    frames = frames[:, top : top + _LARGEST_PX, left : left + _LARGEST_PX]
    return FocusStack(stack.name, frames, stack.positions_um, stack.unit, stack.focus_index)


def _padded(frames: NDArray[Any], least_px: int) -> NDArray[Any]:
    """Mirror frames at their edges until a patch fits in."""
    pads = [(max(least_px - n, 0) // 2, -(-max(least_px - n, 0) // 2)) for n in frames.shape[1:]]
    return np.pad(frames, [(0, 0), *pads], mode="symmetric")


def _windows(
    model: KeyFrameModel, frames: NDArray[Any], focus: int, most: int
) -> list[tuple[int, bool, Any]]:
    """Return the first plane of windows, whether they contain the label, and what is said of them."""
    frames = _padded(frames, model.patch_px)
    starts = np.arange(len(frames) - WINDOW + 1)
    if len(starts) > most:  # of a long stack those about the label, and some of the others
        near = starts[np.abs(starts + WINDOW // 2 - focus) <= 5]
        far = np.random.default_rng(SEED).choice(np.setdiff1d(starts, near), most - len(near), replace=False)
        starts = np.sort(np.concatenate([near, far]))
    whole = min(frames.shape[1:]) < 2 * model.patch_px
    mask = np.ones(frames.shape[1:], bool) if whole else None  # the object fills the frame
    return [
        (
            int(first),
            bool(first + 1 <= focus <= first + WINDOW - 2),
            model.estimate(frames[first : first + WINDOW], SPACING_UM, mask=mask),
        )
        for first in tqdm(starts, mininterval=5, leave=False)
    ]


def _row(name: str, weights: str, found: list[tuple[int, bool, Any]]) -> dict[str, Any]:
    of = {there: [(first, one) for first, has, one in found if has == there] for there in (True, False)}

    def share(there: bool, test: Any) -> float:
        return float(np.mean([test(first, one) for first, one in of[there]])) if of[there] else float("nan")

    focus = _focus_of(found)
    return {
        "stack": name,
        "weights": weights,
        "windows_with": len(of[True]),
        "accepted_with": share(True, lambda first, one: one.accepted),
        "right_of_all_with": share(
            True, lambda first, one: one.accepted and abs(first + one.plane - focus) <= 1
        ),
        "choice_within_one_plane": share(
            True, lambda first, one: one.plane >= 0 and abs(first + one.plane - focus) <= 1
        ),
        "windows_without": len(of[False]),
        "none_of_these": share(False, lambda first, one: not one.accepted),
        "reasons": sorted({str(one.reason) for _, _, one in found}),
    }


def _focus_of(found: list[tuple[int, bool, Any]]) -> float:
    """Return the labelled plane: what all windows that contain it inside have in common."""
    firsts = [first for first, has, _ in found if has]
    return (max(firsts) + 1 + min(firsts) + WINDOW - 2) / 2 if firsts else float("nan")


def _went_on(model: KeyFrameModel, frames: NDArray[Any], yeast: FocusStack, steps: int) -> KeyFrameModel:
    """Go on training with crops of a part of the stack, each mirrored otherwise."""
    rng = np.random.default_rng(SEED)
    planes = relative(_padded(frames, _STORED_PX + 32))
    room = np.array(planes.shape[1:]) - _STORED_PX
    centres = [
        tuple(int(rng.integers(extra + 1)) + _STORED_PX // 2 for extra in room)  # type: ignore[misc]
        for _ in range(24)
    ]
    patches = CellStacks.stored(crops(planes, centres, _STORED_PX))  # type: ignore[arg-type]
    n = len(centres)
    step_um = float(np.diff(yeast.positions_um).mean())
    stacks = CellStacks(
        patches,
        np.full(n, yeast.focus_index, np.float32),
        np.full(n, min(step_um, 0.3), np.float32),
        np.arange(n),
    )
    with shown_progress(True) as show:
        return train_key_frame(
            stacks[:12],
            inputs=model.card.inputs,
            options=TrainingOptions(steps=steps, seed=SEED),
            validation=stacks[12:],
            start=model,
            progress=show,
        )


def _figures(rows: list[dict[str, Any]]) -> Figures:
    of = {(row["stack"], row["weights"]): row for row in rows}
    whole = of[YEAST, "as shipped"]
    after = of[f"{YEAST}, lower half", "after the upper half"]
    foreign = [row for row in rows if not row["stack"].startswith(YEAST)]
    without = sum(row["windows_without"] for row in foreign)
    none = sum(row["none_of_these"] * row["windows_without"] for row in foreign if row["windows_without"])
    return {
        "yeast_right": figure(whole["right_of_all_with"], "of windows with the label", "as it is", "higher"),
        "yeast_none_of_these": figure(whole["none_of_these"], "of those without", "as it is", "higher"),
        "yeast_right_after": figure(after["right_of_all_with"], "lower half", "as it is", "higher"),
        "yeast_none_of_these_after": figure(after["none_of_these"], "lower half", "as it is", "higher"),
        "foreign_none_of_these": figure(none / max(without, 1), "", "as it is", "higher"),
    }


def _picture(shown: dict[str, list[tuple[int, bool, Any]]], focus: int, planes: int) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5 * len(shown), 5), layout="constrained")
    for axes, (name, found) in zip(picture.subplots(1, len(shown)), shown.items(), strict=True):
        table = np.full((len(found), planes), np.nan)
        for row, (first, _, one) in enumerate(found):
            if one.probabilities:
                table[row, first : first + WINDOW] = one.probabilities
        axes.imshow(table, vmin=0, vmax=1, aspect="auto", cmap="viridis")
        axes.axvline(focus, color="tab:red", lw=1)
        for row, (first, _, one) in enumerate(found):
            if one.accepted:
                axes.plot(first + one.plane, row, "w.", ms=5)
        axes.set(title=f"yeast, {name}", xlabel="plane (red: label)", ylabel="window (white: accepted)")
    return picture


if __name__ == "__main__":
    run(
        "key_frame_real",
        measure,
        seed=SEED,
        columns=(
            "stack", "weights", "windows_with", "accepted_with", "right_of_all_with",
            "choice_within_one_plane", "windows_without", "none_of_these", "reasons",
        ),
    )  # fmt: skip
