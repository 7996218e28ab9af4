"""Cells of recorded and labelled focal stacks, to train a key-frame model with."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bluesky_autofocus.dataset._collections import DatasetError
from bluesky_autofocus.dataset._labels import FieldStack, field_stacks, labels_of
from bluesky_autofocus.models.key_frame.cells import Mask, crops, find_cells, relative
from bluesky_autofocus.models.key_frame.train import FINE, CellStacks

__all__ = ["labelled_cells"]

_UNEVEN = 0.1
"""Part of the spacing by which the planes of a stack may be unevenly spaced."""
_ROOM_PX = 16
"""By how much patches are stored larger than they are shown, so that they can be shifted."""


def labelled_cells(
    catalog: Any,
    runs: Sequence[str],
    *,
    patch_px: int = 128,
    axis_sign: int = 1,
    mask: Mask | None = None,
    person_only: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CellStacks, dict[str, int]]:
    """Cut the cells out of labelled focal stacks.

    Parameters
    ----------
    catalog : databroker.client.CatalogOfBlueskyRuns
        ``db``.
    runs : sequence of str
        Uids of runs of `collect_focal_stacks`, labelled by a person (`record_labels`) or a simulator.
    patch_px : int
        Side of the patches that the model will look at.
    axis_sign : int
        -1 where the axis runs downwards.
    mask : callable, optional
        Where cells are, see `find_cells`.
    person_only : bool
        Whether what a simulator knew does not count.
    progress : callable, optional
        Called with runs done and runs in all.

    Returns
    -------
    stacks : CellStacks
        Of as many planes as the stack with fewest has, those about the focus.
    left_out : dict
        Why fields were left out, and how many.

    Raises
    ------
    DatasetError
        If a run is unknown or holds no stacks, or no field is left.
    """
    chosen: list[tuple[Any, ...]] = []
    left_out: Counter[str] = Counter()
    for done, uid in enumerate(runs):
        labels = labels_of(catalog, uid, person_only=person_only)
        for number, stack in field_stacks(catalog[uid]).items():
            reason, spacing_um = _unfit(stack)
            label = labels.get(number)
            if label is None:
                reason = "not labelled"
            elif not label.usable:
                reason = "labelled as unusable"
            if reason is not None or label is None:
                left_out[reason or ""] += 1
                continue
            frames = np.stack(list(stack.frames()))[::axis_sign]
            focus = (label.focus_um - stack.positions_um[0]) / spacing_um
            focus = focus if axis_sign > 0 else len(stack) - 1 - focus
            planes = relative(frames)
            near = slice(max(round(focus) - 3, 0), round(focus) + 4)
            centres = find_cells(
                planes[near], patch_px + _ROOM_PX, None if mask is None else mask(planes[near])
            )
            if not centres:
                left_out["no cell found"] += 1
                continue
            patches = CellStacks.stored(crops(planes, centres, patch_px + _ROOM_PX))
            chosen.append((patches, focus, spacing_um, (uid, number)))
        if progress is not None:
            progress(done + 1, len(runs))
    if not chosen:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "no runs were given"
        raise DatasetError(f"there is no labelled field to train with: {why}")
    n = min(one[0].shape[1] for one in chosen)
    patches, focus, step_um, field = [], [], [], []
    for index, (cells, at, spacing_um, _) in enumerate(chosen):
        first = int(np.clip(round(at - (n - 1) / 2), 0, cells.shape[1] - n))
        patches.append(cells[:, first : first + n])
        focus += [at - first] * len(cells)
        step_um += [spacing_um] * len(cells)
        field += [index] * len(cells)
    stacks = CellStacks(
        np.concatenate(patches),
        np.array(focus, np.float32),
        np.array(step_um, np.float32),
        np.array(field),
    )
    return stacks, dict(left_out)


def _unfit(stack: FieldStack) -> tuple[str | None, float]:
    """Return why a stack will not do, or None, and the spacing of its planes."""
    steps = np.diff(stack.positions_um)
    spacing_um = float(np.mean(steps)) if len(steps) else np.nan
    low, high = FINE.spacing_um
    if not (np.abs(steps - spacing_um) <= _UNEVEN * spacing_um).all():
        return "planes unevenly spaced", spacing_um
    if not low - 1e-6 <= spacing_um <= high + 1e-6:
        return f"planes not {low:g} to {high:g} um apart", spacing_um
    return None, spacing_um
