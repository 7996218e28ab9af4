# ruff: noqa: T201 - this is the command line: printing is what it is for
"""Train a network from focal stacks in the catalogue: ``train single-shot``."""

import dataclasses
from argparse import Namespace
from importlib.util import find_spec
from typing import Any

import numpy as np

from bluesky_autofocus.catalog import Catalog
from bluesky_autofocus.cli._networks import save_trained
from bluesky_autofocus.dataset import Dataset, DatasetError, find_collections, make_dataset
from bluesky_autofocus.dataset._collections import recorded_fields
from bluesky_autofocus.leds import Single, parse_pattern
from bluesky_autofocus.models._training import shown_progress
from bluesky_autofocus.optics import LightOptics

__all__ = ["check", "train"]


def train(options: Namespace, catalog: Catalog) -> int:
    """Make a data set, train, and write the model with its card; return the exit status."""
    if options.network == "key-frame":
        from bluesky_autofocus.cli._key_frame import train_key_frame

        return train_key_frame(options, catalog)
    if options.network == "hh-net":
        from bluesky_autofocus.cli._hh_net import train_hh_net

        return train_hh_net(options, catalog)
    if options.network == "refocus":
        from bluesky_autofocus.cli._refocus_training import train_refocus_network

        return train_refocus_network(options, catalog)
    from bluesky_autofocus.models.single_shot import make_features

    optics, led = _light(catalog, options)
    na_xy = led.na_xy
    kind = "strip_magnitude" if options.published else "contours"
    features: Any = make_features(kind, optics, na_xy, options.patch_px)
    with shown_progress(not options.json, unit="field") as show:
        dataset = make_dataset(
            catalog.client,
            features if options.published else features.powers,
            samples=options.sample,
            collections=options.collection,
            patterns=[options.pattern],
            axis_sign=options.axis_sign,
            scheduler=options.cluster or "threads",
            out=options.features_folder,
            progress=show,
            show=None,
        )
    if not options.json:
        print(dataset, flush=True)
    return save_trained(
        _trained(dataset, features, options),
        options,
        frames=len(dataset),
        fields=len(dataset.fields),
        fields_left_out=sum(dataset.left_out.values()),
    )


def check(options: Namespace) -> None:
    """Find what would fail after minutes of work."""
    if find_spec("tensorflow") is None:
        raise ValueError("training needs TensorFlow: pip install 'bluesky-autofocus[models]'")
    if options.output.exists():
        raise ValueError(f"{options.output} is there already: choose another --output")
    if not options.output.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {options.output.absolute().parent} to write the model to")
    cluster = getattr(options, "cluster", None)
    if cluster is not None and "://" not in cluster:
        raise ValueError(f"--cluster is the address of a Dask scheduler, tcp://HOST:PORT, got {cluster!r}")
    if options.network == "key-frame":
        from bluesky_autofocus.cli._key_frame import check_key_frame

        check_key_frame(options)
        return
    if options.network == "hh-net":
        from bluesky_autofocus.cli._hh_net import check_hh_net

        check_hh_net(options)
        return
    if options.network == "refocus":
        from bluesky_autofocus.cli._refocus_training import check_refocus

        check_refocus(options)
        return
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {options.epochs}")
    if options.patch_px < 32:
        raise ValueError(f"--patch-px must be at least 32, got {options.patch_px}")
    if options.range_um is not None and not options.range_um > 0:
        raise ValueError(f"--range-um must be positive, got {options.range_um}")


def _light(catalog: Catalog, options: Namespace) -> tuple[LightOptics, Single]:
    """Return the optics and the LED of the stacks; the pattern goes into `options`."""
    runs = find_collections(catalog.client, samples=options.sample, collections=options.collection)
    recorded = recorded_fields(runs, None)
    if not recorded:
        raise DatasetError(f"none of the {len(runs)} runs found holds a complete field")
    found = {field.optics for field in recorded}
    if len(found) > 1:
        raise DatasetError(f"the runs were recorded with {len(found)} different optics: choose by --sample")
    optics = found.pop()
    if optics is None:
        raise DatasetError("the runs do not say with which optics they were recorded")
    texts = {text for field in recorded for text in field.stacks}
    if options.pattern is None:
        single = sorted(text for text in texts if isinstance(parse_pattern(text, 0.5), Single))
        if len(single) != 1:
            raise DatasetError(
                f"there are stacks under {', '.join(sorted(texts))}: "
                + ("choose a single LED of them by --pattern" if single else "none of these is a single LED")
            )
        options.pattern = single[0]
    elif options.pattern not in texts:
        raise DatasetError(
            f"there are no stacks under {options.pattern}, only under {', '.join(sorted(texts))}"
        )
    led = parse_pattern(options.pattern, optics.numerical_aperture)
    if not isinstance(led, Single):
        raise ValueError(f"--pattern is {options.pattern!r}: expected a single LED")
    # where the LED was, not what it was asked for by
    places = np.array(
        [field.stacks[options.pattern].na_xy for field in recorded if options.pattern in field.stacks]
    )
    if places.size and np.isfinite(places).all():
        if np.ptp(places, axis=0).max() > 1e-3:
            raise DatasetError(f"the LED of {options.pattern} was not in the same place in all runs")
        x, y = places.mean(axis=0)
        led = Single(round(float(np.hypot(x, y)), 6), round(float(np.degrees(np.arctan2(y, x))), 6))
    return optics, led


def _trained(dataset: Dataset, features: Any, options: Namespace) -> Any:
    samples = ", ".join(sorted(set(dataset.sample.tolist())))
    texts: dict[str, Any] = {
        "data": f"recorded: {dataset}",
        "valid_for": f"specimens like {samples}, on the instrument that recorded them",
        "valid_range_um": options.range_um or _reach_um(dataset),
    }
    with shown_progress(not options.json) as show:
        if options.published:
            from bluesky_autofocus.models.single_shot.published import PublishedOptions, train_published

            chosen = PublishedOptions(
                seed=options.seed, **({"epochs": options.epochs} if options.epochs else {})
            )
            return train_published(
                dataset.features,
                dataset.defocus_um,
                dataset.field,
                features,
                options=chosen,
                progress=show,
                **texts,
            ).model
        from bluesky_autofocus.models.single_shot.train import TrainingOptions, train_default

        chosen = TrainingOptions(seed=options.seed)
        if options.epochs:
            chosen = dataclasses.replace(chosen, steps=max(1, options.epochs * len(dataset) // chosen.batch))
        return train_default(
            dataset.features,
            dataset.defocus_um,
            dataset.field,
            features,
            options=chosen,
            progress=show,
            **texts,
        )


def _reach_um(dataset: Dataset) -> float:
    """Return how far to both sides of focus the frames of half of the fields go."""
    of_fields = [dataset.defocus_um[dataset.field == number] for number in np.unique(dataset.field)]
    reach = float(np.median([min(-one.min(), one.max()) for one in of_fields]))
    if not reach > 0:
        raise DatasetError("most fields have frames on one side of focus only: give --range-um")
    return reach
