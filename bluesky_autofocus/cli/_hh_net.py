# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Tell the class of focus of colour frames, and train the network for it."""

import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._networks import SOME_REFUSED, given_optics, save_trained
from bluesky_autofocus.cli._predicting import frames_in
from bluesky_autofocus.models._model import Model
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.hh_net import ClassEstimate, ClassTable, HHNetModel, load_model
from bluesky_autofocus.models.hh_net._frame_model import FrameModel
from bluesky_autofocus.models.hh_net.vectors import PatchVectors

__all__ = ["check_hh_net", "predict_hh_net", "train_hh_net"]

PATCH_PX = 300
"""Side of the patches of a network that is trained from nothing, as published."""
CLASS_WIDTH_UM = 6.0
NARROW = 1 / 8
"""Width of the published network that can be trained without a graphics card."""


def predict_hh_net(options: Namespace) -> int:
    """Print the class of each frame; return 0 if all are accepted, else 1."""
    model = load_model(options.weights)
    model.vote, model.grey, model.full_scale = options.vote, options.grey, options.full_scale
    model.check_values(given_optics(options))
    accepted = True
    for path in options.frames:
        for number, frame in enumerate(frames_in(path, model.check_values)):
            try:
                estimate = model.estimate(frame)
            except ValueError as error:
                raise ValueError(f"{path}, page {number}: {error}") from error
            accepted &= estimate.accepted
            if options.json:
                print(json.dumps(_said(model, path, number, estimate)), flush=True)
            else:
                print(f"{path} [{number}]: {_told(estimate)}", flush=True)
    return 0 if accepted else SOME_REFUSED


def _said(model: FrameModel, path: Path, number: int, estimate: ClassEstimate) -> dict[str, Any]:
    said = dataclasses.asdict(estimate)
    reason, accepted = str(said.pop("reason")), said.pop("accepted")
    return {
        "method": "hh-net",
        "file": str(path),
        "frame": number,
        # JSON has no number for what was refused
        **{
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in said.items()
        },
        "vote": model.vote,
        "accepted": accepted,
        "reason": reason,
        "model_hash": model.model_hash,
    }


def _told(estimate: ClassEstimate) -> str:
    if estimate.index is None:
        return f"refused ({estimate.reason})"
    said = f"{estimate.name} (index {estimate.index}), certainty {estimate.certainty:.2f}"
    if not estimate.accepted:
        return f"refused ({estimate.reason}), {said}"
    if not estimate.measured:
        return f"{said}, farther {'above' if estimate.defocus_um > 0 else 'below'} focus than it measures"
    return f"{said}, defocus {estimate.defocus_um:+.1f} +- {estimate.sigma_um:.1f} um"


def check_hh_net(options: Namespace) -> None:
    """Find what would fail after minutes of work."""
    for name in ("steps", "epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    for name in ("width", "class_width_um", "pixel_size_um", "na", "magnification"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{_option(name)} must be positive, got {value}")
    if options.published and options.run:
        raise ValueError("--published trains on simulated smears: give no --run")
    useless = [] if options.published else ["width", "epochs"]
    useless += ["steps"] if options.published else []
    useless += [] if options.run else ["start", "cluster", "class_width_um", *_OPTICS]
    useless += ["class_width_um", *_OPTICS] if options.start is not None else []
    for name in useless:
        if getattr(options, name) is not None:
            raise ValueError(f"{_option(name)} has no effect {_WHEN[name]}")
    if options.start is not None and not options.start.is_file():
        raise ValueError(f"there is no file {options.start} to start from")
    missing = [_option(name) for name in _OPTICS if getattr(options, name) is None]
    if options.run and options.start is None and missing:
        raise ValueError(f"the card needs to know how the frames were taken: give {', '.join(missing)}")


_OPTICS = ("pixel_size_um", "na", "magnification")
_WHEN = {
    "width": "without --published",
    "epochs": "without --published",
    "steps": "with --published: give --epochs",
    "start": "without --run",
    "cluster": "without --run",
    **dict.fromkeys(("class_width_um", *_OPTICS), "without --run, or with --start, whose card says it"),
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def train_hh_net(options: Namespace, catalog: Catalog) -> int:
    """Train on simulated smears, or on recorded frames, and write the model with its card."""
    if options.published:
        model = _published(options)
    else:
        from bluesky_autofocus.models.hh_net.train import TrainingOptions

        chosen = TrainingOptions(seed=options.seed)
        if options.steps is not None:
            chosen = dataclasses.replace(chosen, steps=options.steps)
        if options.run:
            model = _trained_on(catalog, options, chosen)
        else:
            from bluesky_autofocus.training import hh_net

            model = hh_net.train(chosen, show=not options.json)
    said = model.card.training
    return save_trained(model, options, fields=said.fields, frames=said.frames)


def _published(options: Namespace) -> Model:
    from bluesky_autofocus.models.hh_net.published import PublishedOptions
    from bluesky_autofocus.training import published_hh_net

    chosen = PublishedOptions(seed=options.seed, width=options.width or NARROW)
    if options.epochs is not None:
        chosen = dataclasses.replace(chosen, epochs=options.epochs)
    return published_hh_net.train(chosen, show=not options.json)


def _trained_on(catalog: Catalog, options: Namespace, chosen: Any) -> Model:
    from bluesky_autofocus.dataset import labelled_frames, smear_vectors
    from bluesky_autofocus.models.hh_net.train import train_hh_net

    start = None if options.start is None else HHNetModel.load(options.start)
    table = ClassTable.of_width(options.class_width_um or CLASS_WIDTH_UM) if start is None else start.table
    vectors = PatchVectors(PATCH_PX) if start is None else start.vectors
    if start is None:
        optics: dict[str, Any] = given_optics(options)
        inputs = ModelInputs("", vectors.patch_px, bit_depth=8, colour="rgb", **optics)
    else:
        inputs = start.card.inputs
    frames = labelled_frames(
        catalog.client, options.run, table, axis_sign=options.axis_sign, person_only=options.person_only
    )
    with shown_progress(not options.json, unit="frame") as show:
        known, left_out = smear_vectors(
            frames, vectors, most_patches=chosen.most_patches, scheduler=options.cluster, progress=show
        )
    said = f"{len(known)} frames of {len(np.unique(known.field))} fields of the runs {', '.join(options.run)}"
    if not options.json:
        print(said + "".join(f"; left out: {count} {why}" for why, count in left_out.items()), flush=True)
    with shown_progress(not options.json) as show:
        return train_hh_net(
            known,
            vectors=vectors,
            table=table,
            inputs=inputs,
            options=chosen,
            start=start,
            data=f"recorded: {said}",
            valid_for="smears like those, on the instrument that recorded them",
            progress=show,
        )
