# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Tell which plane of a focal stack is in focus, and train the network for it."""

import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._networks import SOME_REFUSED, given_optics, save_trained
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.models.key_frame import KeyFrameEstimate, KeyFrameModel
from bluesky_autofocus.stacks import read_stack

__all__ = ["check_key_frame", "predict_key_frame", "train_key_frame"]


def predict_key_frame(options: Namespace) -> int:
    """Print what is found in each stack, or window of one; return 0 if all is accepted, else 1."""
    model = KeyFrameModel.load(options.weights)
    model.full_scale = options.full_scale
    model.check_values(given_optics(options))
    if options.every < 1:
        raise ValueError(f"--every must be at least 1, got {options.every}")
    accepted = True
    for path in options.frames:
        stack = read_stack(path, step_um=options.step_um, channel=options.channel)
        if stack.unit != "um":
            raise ValueError(f"{path} does not say how far apart its planes are: give --step-um")
        frames, positions_um = stack.frames[:: options.every], stack.positions_um[:: options.every]
        if frames.ndim == 4:
            channel, channels = options.channel, frames.shape[3]
            if channel is None or not 0 <= channel < channels:
                raise ValueError(
                    f"{path} is in colour: say which channel (--channel), 0 .. {channels - 1}; got {channel}"
                )
            frames = frames[..., channel]
        if len(frames) < 2:
            raise ValueError(f"--every {options.every} leaves one plane of {path}: planes are compared")
        steps = np.diff(positions_um)
        if np.ptp(steps) > 0.1 * steps.mean():
            raise ValueError(f"{path}: planes must be evenly spaced, their steps are {steps.tolist()} um")
        n = len(frames) if options.window is None else options.window
        if not 1 < n <= len(frames):
            raise ValueError(f"--window must be from 2 to the {len(frames)} planes of {path}, got {n}")
        for first in range(len(frames) - n + 1):
            window = slice(first, first + n)
            estimate = model.estimate(frames[window], float(steps.mean()))
            accepted &= estimate.accepted
            if options.json:
                print(json.dumps(_said(model, path, positions_um[window], first, estimate)), flush=True)
            else:
                print(f"{path} [{first}:{first + n}]: {_told(positions_um[window], estimate)}", flush=True)
    return 0 if accepted else SOME_REFUSED


def _said(
    model: KeyFrameModel, path: Path, positions_um: np.ndarray, first: int, estimate: KeyFrameEstimate
) -> dict[str, Any]:
    known = math.isfinite(estimate.focus_um)
    return {
        "method": "key-frame",
        "file": str(path),
        "first_plane": first,
        "planes": len(positions_um),
        "positions_um": [round(float(one), 4) for one in positions_um],
        "probabilities": [round(one, 4) for one in estimate.probabilities],
        # JSON has no number for what was refused
        "outside": [round(one, 4) for one in estimate.outside] if known else None,
        "plane": first + estimate.plane if estimate.accepted else None,
        "focus_um": float(positions_um[0]) + estimate.focus_um if estimate.accepted else None,
        "sigma_um": estimate.sigma_um if estimate.accepted else None,
        "cells": estimate.cells,
        "accepted": estimate.accepted,
        "reason": str(estimate.reason),
        "model_hash": model.model_hash,
    }


def _told(positions_um: np.ndarray, estimate: KeyFrameEstimate) -> str:
    planes = " ".join(f"{one:.2f}" for one in estimate.probabilities)
    if not estimate.accepted:
        return f"refused ({estimate.reason})" + (f", planes {planes}" if planes else "")
    return (
        f"focus at {float(positions_um[0]) + estimate.focus_um:.3f} +- {estimate.sigma_um:.3f} um, "
        f"planes {planes}"
    )


def check_key_frame(options: Namespace) -> None:
    """Find what would fail after minutes of work."""
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    if not 0 <= options.z_reversal <= 1:
        raise ValueError(f"--z-reversal must be from 0 to 1, got {options.z_reversal}")
    for name in ("pixel_size_um", "magnification"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")
    if options.start is not None and not options.start.is_file():
        raise ValueError(f"there is no file {options.start} to start from")


def train_key_frame(options: Namespace, catalog: Catalog) -> int:
    """Train on simulated or on recorded and labelled stacks, and write the model with its card."""
    from bluesky_autofocus.models.key_frame import train as training

    chosen = training.TrainingOptions(seed=options.seed, z_reversal=options.z_reversal)
    if options.steps is not None:
        chosen = dataclasses.replace(chosen, steps=options.steps)
    start = None if options.start is None else KeyFrameModel.load(options.start)
    if options.run:
        model = _trained_on(catalog, options, chosen, start)
    else:
        from bluesky_autofocus.training import key_frame

        model = key_frame.train(chosen, show=not options.json)
    return save_trained(model, options, fields=model.card.training.fields)


def _trained_on(catalog: Catalog, options: Namespace, chosen: Any, start: KeyFrameModel | None) -> Any:
    from bluesky_autofocus.dataset import labelled_cells
    from bluesky_autofocus.models.key_frame.train import train_key_frame

    stacks, left_out = labelled_cells(
        catalog.client, options.run, axis_sign=options.axis_sign, person_only=options.person_only
    )
    said = (
        f"{len(stacks)} cells of {len(np.unique(stacks.field))} fields of the runs {', '.join(options.run)}"
    )
    if not options.json:
        print(said + "".join(f"; left out: {count} {why}" for why, count in left_out.items()), flush=True)
    with shown_progress(not options.json) as show:
        return train_key_frame(
            stacks,
            inputs=ModelInputs(
                illumination="",
                patch_px=128,
                pixel_size_um=options.pixel_size_um,
                magnification=options.magnification,
            ),
            options=chosen,
            start=start,
            data=f"recorded: {said}",
            valid_for="cells like those, on the instrument that recorded them",
            progress=show,
        )
