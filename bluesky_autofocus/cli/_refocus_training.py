# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Train a network that refocuses: ``train refocus``."""

import dataclasses
import math
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._networks import given_optics, save_trained
from bluesky_autofocus.models._training import distinct_fields, share_kept_out, shown_progress
from bluesky_autofocus.models.card import ModelInputs
from bluesky_autofocus.optics import LightOptics

__all__ = ["check_refocus", "train_refocus_network"]

_VALIDATED = 0.1
"""Share of the fields that are kept out of training."""
_NARROW = 1 / 8
"""Width of the published network that can be trained without a graphics card."""
_OPTICS = tuple(field.name for field in dataclasses.fields(LightOptics))
_OPTIONS = {"numerical_aperture": "--na"}


def check_refocus(options: Namespace) -> None:
    """Find what would fail after minutes of work."""
    if options.steps is not None and options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    if options.run and options.bbbc006 is not None:
        raise ValueError("give --run or --bbbc006, not both")
    if options.bbbc006 is not None and not options.bbbc006.is_dir():
        raise ValueError(f"there is no folder {options.bbbc006}")
    if options.start is not None and not options.start.is_file():
        raise ValueError(f"there is no file {options.start} to start from")
    if options.start is not None and options.published:
        raise ValueError("--start goes on with a network of the package: not with --published")
    for name in ("width", "features"):
        if getattr(options, name) is not None and not options.published:
            raise ValueError(f"--{name} has no effect without --published")
    if options.width is not None and not 0 < options.width <= 1:
        raise ValueError(f"--width must be above 0 and at most 1, got {options.width}")
    optics = given_optics(options)
    for name, value in optics.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{_said(name)} must be positive, got {value}")
    if options.run:
        missing = [_said(name) for name in _OPTICS if name not in optics and name != "refractive_index"]
        if missing and options.start is None:
            raise ValueError(f"the card needs to know how the frames were taken: give {', '.join(missing)}")
        if options.modality is None:
            raise ValueError("give --modality, what kind of frames these are: 'fluorescence', 'brightfield'")
    elif optics and options.bbbc006 is None:
        raise ValueError(f"{_said(next(iter(optics)))} has no effect without --run or --bbbc006")


def _said(name: str) -> str:
    return _OPTIONS.get(name, f"--{name.replace('_', '-')}")


def train_refocus_network(options: Namespace, catalog: Catalog) -> int:
    """Train on simulated stacks, on recorded ones or on BBBC006, and write the model with its card."""
    from bluesky_autofocus.training import refocus as simulated

    sets: Sequence[Any]
    pairs: Any = None
    if options.run or options.bbbc006 is not None:
        pairs = _recorded(options, catalog)
        if not options.json:
            print(pairs, flush=True)
        fields = distinct_fields(pairs.field)
        rng = np.random.default_rng((options.seed, 0))
        training, validation = pairs.split(share_kept_out(fields, _VALIDATED, rng))
        sets, checks = [training], [validation]
        inputs = _inputs(options, pairs)
        what = "BBBC006" if options.bbbc006 is not None else f"the runs {', '.join(options.run)}"
        data = f"recorded: {len(fields)} fields of {what}, {pairs.planes.shape[1]} planes"
        valid_for = f"{pairs.modality} as in these, on the instrument that recorded them"
    elif options.published:
        sets = [simulated.focal_pairs(one, show=not options.json) for one in simulated.TRAINING[:1]]
        checks, inputs = [], simulated.inputs("grey")
        data = "simulated: fluorescent nuclei"
        valid_for = "simulated fluorescent nuclei at 20x/0.45, above focus"
    else:
        model: Any = simulated.train(_options(options), show=not options.json)
        return save_trained(model, options, fields=model.card.training.fields)
    with shown_progress(not options.json) as show:
        if options.published:
            # it keeps fields out by itself
            model = _published(options, sets if pairs is None else [pairs], inputs, data, valid_for, show)
        else:
            from bluesky_autofocus.models.refocus import UNetModel
            from bluesky_autofocus.models.refocus.train import train_refocus

            start = None if options.start is None else UNetModel.load(options.start)
            model = train_refocus(
                sets,
                inputs=inputs if start is None else start.card.inputs,
                validation=checks,
                data=data,
                valid_for=valid_for,
                name=f"refocus, {options.output.stem}",
                options=_options(options),
                spherical_waves=options.spherical_waves,
                start=start,
                progress=show,
            )
    return save_trained(model, options, fields=model.card.training.fields)


def _options(options: Namespace) -> Any:
    from bluesky_autofocus.models.refocus.train import TrainingOptions

    chosen = TrainingOptions(seed=options.seed)
    return chosen if options.steps is None else dataclasses.replace(chosen, steps=options.steps)


def _recorded(options: Namespace, catalog: Catalog) -> Any:
    from bluesky_autofocus.dataset import bbbc006_pairs, recorded_pairs

    with shown_progress(not options.json, unit="field") as show:
        if options.bbbc006 is not None:
            return bbbc006_pairs(
                options.bbbc006, planes=range(1, 33), most_fields=options.most_fields, progress=show
            )
        return recorded_pairs(
            catalog.client,
            options.run,
            modality=options.modality,
            axis_sign=options.axis_sign,
            person_only=options.person_only,
            progress=show,
        )


def _inputs(options: Namespace, pairs: Any) -> ModelInputs:
    known = given_optics(options)
    if options.bbbc006 is not None:
        from bluesky_autofocus.simulation import HOECHST_20X

        optics = dataclasses.replace(HOECHST_20X, **known)
    else:
        optics = LightOptics(**known)
    colours = "each" if len(np.unique(pairs.field)) < len(pairs) else "grey"
    return ModelInputs.of(optics, illumination="", patch_px=0, colour=colours)


def _published(
    options: Namespace, sets: Sequence[Any], inputs: ModelInputs, data: str, valid_for: str, show: Any
) -> Any:
    from bluesky_autofocus.models.refocus.published import PublishedRefocusOptions, train_published

    chosen = PublishedRefocusOptions(
        seed=options.seed, width=options.width or _NARROW, features=options.features or "none"
    )
    if options.steps is not None:
        chosen = dataclasses.replace(chosen, steps=options.steps)
    return train_published(
        sets,
        inputs=inputs,
        options=chosen,
        data=data,
        valid_for=valid_for,
        spherical_waves=options.spherical_waves,
        progress=show,
    )
