"""HH-Net as published, trained on simulated smears: which class of focus a frame belongs to.

Apart from `hh_net`, for it takes long: 13 convolutions without a graphics card, at a sixteenth of their
width. What is trained is kept in the cache.
"""

import dataclasses
import hashlib
import json
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.models.hh_net.classes import class_of
from bluesky_autofocus.models.hh_net.features import EmptyRegionError, handcrafted
from bluesky_autofocus.models.hh_net.patches import patches_of
from bluesky_autofocus.models.hh_net.published import PublishedModel, PublishedOptions
from bluesky_autofocus.models.hh_net.voting import WAYS, vote, winner
from bluesky_autofocus.training import published_hh_net
from bluesky_autofocus.training._simulating import CACHE
from bluesky_autofocus.training.hh_net import PATCH_PX, TABLE, SmearRecipe, field_frames

__all__ = ["OPTIONS"]

TEST = SmearRecipe(490_000, 200, defocus_um=(-15.0, 27.0), tail_share=0.0)
OPTIONS = PublishedOptions(width=1 / 16, epochs=6, patience=6)
"""As wide as can be trained on two cores in half an hour."""


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Train it, and judge it on fresh frames."""
    model = published_model()
    found = figures_of(model, 5 if quick else TEST.count)
    figures = {
        "patch_accuracy": figure(found["patch_accuracy"], "", "paper 0.924", "higher"),
        "frame_accuracy_certainty": figure(found["frame_accuracy_certainty"], "", "paper 0.9999", "higher"),
        "frame_accuracy_hard": figure(found["frame_accuracy_hard"], "", "paper 0.9723", "higher"),
        "frames": figure(found["frames"], "", "", "higher"),
    }
    return figures, [{"network": f"width {OPTIONS.width:g}", **found}], _picture(found)


def _picture(found: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5, 3), layout="constrained")
    ax = picture.subplots()
    ways = ("patch_accuracy", *(f"frame_accuracy_{way}" for way in WAYS))
    ax.barh(ways, [found[way] for way in ways])
    ax.set(xlim=(0, 1))
    return picture


def published_model() -> PublishedModel:
    """Train it, unless that was done before on this machine."""
    said = [dataclasses.asdict(OPTIONS), published_hh_net.TRAINING.key, published_hh_net.SHOWN]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    path = CACHE / f"hh-net-published-{digest[:12]}.h5"
    if not path.exists():
        started = time.monotonic()
        published_hh_net.train(OPTIONS).save(path)
        print(f"published network: {(time.monotonic() - started) / 60:.1f} min, simulation included")
    return PublishedModel.load(path)


def figures_of(model: PublishedModel, fields: int, show: bool = True) -> dict[str, Any]:
    """Return its accuracy on fresh frames, with the keys that `judged` has."""
    found: dict[str, list[float]] = {name: [] for name in ("patch", *WAYS, "off_edge", "within", "sign")}
    focused = class_of(0)
    for index in tqdm(range(min(fields, TEST.count)), "published", disable=not show):
        for frame, defocus_um in zip(*field_frames(TEST, TEST.first_seed + index), strict=True):
            try:
                of_frame = handcrafted(frame)
            except EmptyRegionError:
                continue
            corners = patches_of(frame, PATCH_PX)
            patches = np.stack([frame[y : y + PATCH_PX, x : x + PATCH_PX] for y, x in corners.tolist()])
            p = model.probabilities(patches, of_frame)
            truth = class_of(TABLE.index_of(defocus_um))
            found["patch"].append(float(np.mean(winner(p) == truth)))
            for way in WAYS:
                found[way].append(float(winner(vote(p, way)) == truth))
            number = int(winner(vote(p)))
            found["off_edge"].append(float(TABLE.off_edge(defocus_um)))
            found["within"].append(float(abs(number - truth) <= 1))
            found["sign"].append(float((number - focused) * (truth - focused) < 0))
    arrays = {name: np.array(values) for name, values in found.items()}
    off_edge = arrays["off_edge"] > 0
    return {
        "frames": len(off_edge),
        "patch_accuracy": float(arrays["patch"].mean()),
        **{f"frame_accuracy_{way}": float(arrays[way].mean()) for way in WAYS},
        "frames_off_edge": int(off_edge.sum()),
        "frame_accuracy_certainty_off_edge": float(arrays["certainty"][off_edge].mean()),
        "within_one": float(arrays["within"].mean()),
        "wrong_sign": float(arrays["sign"].mean()),
    }


if __name__ == "__main__":
    run(
        "hh_net_published",
        measure,
        seed=OPTIONS.seed,
        columns=(
            "network", "frames", "patch_accuracy", *(f"frame_accuracy_{way}" for way in WAYS),
            "frame_accuracy_certainty_off_edge", "within_one", "wrong_sign",
        ),
    )  # fmt: skip
