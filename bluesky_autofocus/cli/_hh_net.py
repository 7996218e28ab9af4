# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Tell the class of focus of colour frames, and train the network for it."""

import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.cli._networks import SOME_REFUSED, given_optics, save_trained
from bluesky_autofocus.cli._predicting import pixel_size_said
from bluesky_autofocus.models.hh_net import ClassEstimate, HHNetModel
from bluesky_autofocus.stacks import StackError, _read_image, _read_tiff

__all__ = ["check_hh_net", "predict_hh_net", "train_hh_net"]


def predict_hh_net(options: Namespace) -> int:
    """Print the class of each frame; return 0 if all are accepted, else 1."""
    model = HHNetModel.load(options.weights)
    model.vote, model.grey, model.full_scale = options.vote, options.grey, options.full_scale
    model.check_values(given_optics(options))
    accepted = True
    for path in options.frames:
        for number, frame in enumerate(_frames_of(path, model)):
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


def _frames_of(path: Path, model: HHNetModel) -> np.ndarray:
    """Return the frames of a file, shape (n, H, W) or (n, H, W, 3)."""
    if not path.is_file():
        raise StackError(f"there is no file {path}")
    try:
        if not path.suffix.lower().startswith(".tif"):
            return _read_image(path)[None]
        frames, _ = _read_tiff(path, None)
        size_um = pixel_size_said(path)
    except StackError:
        raise
    # tifffile and its decoders raise what they please for damaged files
    except Exception as error:
        raise StackError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if size_um is not None:
        try:
            model.check_values({"pixel_size_um": size_um})
        except ValueError as error:
            raise type(error)(f"{path}: as the file says, {error}") from error
    return frames


def _said(model: HHNetModel, path: Path, number: int, estimate: ClassEstimate) -> dict[str, Any]:
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
    return f"{said}, defocus {estimate.defocus_um:+.1f} +- {estimate.sigma_um:.1f} um"


def check_hh_net(options: Namespace) -> None:
    """Find what would fail after minutes of work."""
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")


def train_hh_net(options: Namespace) -> int:
    """Train on simulated smears, and write the model with its card."""
    from bluesky_autofocus.models.hh_net.train import TrainingOptions
    from bluesky_autofocus.training import hh_net

    chosen = TrainingOptions(seed=options.seed)
    if options.steps is not None:
        chosen = dataclasses.replace(chosen, steps=options.steps)
    model = hh_net.train(chosen, show=not options.json)
    said = model.card.training
    return save_trained(model, options, fields=said.fields, frames=said.frames)
