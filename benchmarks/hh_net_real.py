"""What HH-Net's default says of a recorded smear that it was never meant for, and after going on with it.

`cell-smear-rgb`: nineteen planes of one field of a Pap smear, 286 x 330 px, at steps nobody tells. Its three
colours are the same in every pixel, so there is no colour to tell the side by. It is smaller than a patch, so
it is enlarged twice, by cubic interpolation; the pixel size is not known either way. Classes are given by the
plane: 2.5 planes to a class, the labelled plane in the middle of the class in focus.

Then training goes on with the left half, patches at random places and mirrored, and the right half is looked
at; and from nothing, with the same.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks._results import Figures, figure, run
from benchmarks.sharpness import STACKS
from bluesky_autofocus.models.hh_net import HHNetModel
from bluesky_autofocus.models.hh_net.train import FrameSet, TrainingOptions, train_hh_net
from bluesky_autofocus.stacks import read_stack

SEED = 0
PLANES_A_CLASS = 2.5
ENLARGED = 2
CROPS = 60
"""Of each plane, to go on with."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Look at the right half, go on with the left one, look again."""
    path = STACKS / "cell-smear-rgb.tif"
    if not path.exists():
        raise SystemExit(f"the recorded focus stacks are not at {STACKS}")
    stack = read_stack(path)
    planes = np.arange(len(stack.frames)) - int(stack.focus_index or 0)
    index = np.clip(np.rint(planes / PLANES_A_CLASS), -2, 4).astype(int)
    frames = [
        cv2.resize(one, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_CUBIC) for one in stack.frames
    ]
    half = frames[0].shape[1] // 2
    learn, look_at = [one[:, :half] for one in frames], [one[:, half:] for one in frames]
    model = HHNetModel.load()
    steps = 50 if quick else 3000
    tuned = {
        "as shipped": model,
        "gone on with the left half": _trained(learn, index, model, steps, start=model),
        "trained with the left half alone": _trained(learn, index, model, steps, start=None),
    }
    rows, said = [], {}
    for name, one in tuned.items():
        estimates = [one.estimate(frame) for frame in look_at]
        found = np.array([9 if each.index is None else each.index for each in estimates])
        said[name] = found
        sided = index != 0
        rows.append(
            {
                "model": name,
                "accepted": sum(each.accepted for each in estimates),
                "right": int((found == index).sum()),
                "within_one": int((np.abs(found - index) <= 1).sum()),
                "right_side": int((np.sign(found) == np.sign(index))[sided].sum()),
                "of": len(frames),
                "of_sided": int(sided.sum()),
                "accepted_wrong": sum(
                    each.accepted and abs(number - truth) > 1
                    for each, number, truth in zip(estimates, found, index, strict=True)
                ),
            }
        )
    before, after = rows[0], rows[1]
    figures = {
        "accepted_wrong_as_shipped": figure(before["accepted_wrong"], "frames", "0", "lower"),
        "right_after": figure(after["right"] / after["of"], "", "", "higher"),
        "within_one_after": figure(after["within_one"] / after["of"], "", "", "higher"),
        "accepted_wrong_after": figure(after["accepted_wrong"], "frames", "0", "lower"),
    }
    return figures, rows, _picture(planes, index, said)


def _trained(
    frames: list[NDArray[np.uint8]],
    index: NDArray[np.int_],
    model: HHNetModel,
    steps: int,
    start: HHNetModel | None,
) -> HHNetModel:
    """Train with patches at random places."""
    rng = np.random.default_rng(SEED)
    side = model.vectors.patch_px
    vectors, number, place = [], [], []
    height, width = (n - side for n in frames[0].shape[:2])
    for crop in range(CROPS):
        y, x = int(rng.integers(height + 1)), int(rng.integers(width + 1))
        flip = int(rng.integers(-1, 2))
        for frame, one in zip(frames, index, strict=True):
            patch = np.asarray(cv2.flip(frame[y : y + side, x : x + side].copy(), flip), np.uint8)
            vectors.append(model.vectors.of(patch, np.zeros((1, 2), np.intp)))
            number.append(one)
            place.append(crop)
    chosen = FrameSet.of(np.concatenate(vectors), np.arange(len(number)), index=number, field=place)
    return train_hh_net(
        chosen,
        vectors=model.vectors,
        table=model.table,
        inputs=model.card.inputs,
        options=TrainingOptions(steps=steps, seed=SEED),
        start=start,
        name="hh-net, one recorded stack",
    )


def _picture(planes: NDArray[np.int_], index: NDArray[np.int_], said: dict[str, NDArray[np.int_]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8, 4), layout="constrained")
    ax = picture.subplots()
    ax.step(planes, index, where="mid", color="black", label="by the plane")
    for (name, found), marker in zip(said.items(), "ox+", strict=True):
        known = found < 9
        ax.plot(planes[known], found[known], marker, label=name, alpha=0.8)
    ax.set(xlabel="plane", ylabel="distance index")
    ax.legend(fontsize=8)
    ax.grid(alpha=0.3)
    return picture


if __name__ == "__main__":
    run(
        "hh_net_real",
        measure,
        seed=SEED,
        columns=(
            "model",
            "accepted",
            "right",
            "within_one",
            "right_side",
            "of",
            "of_sided",
            "accepted_wrong",
        ),
    )
