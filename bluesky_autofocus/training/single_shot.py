"""Train the single-shot weights that the package ships: ``python -m bluesky_autofocus.training.single_shot``.

Simulates what is not in the cache yet, trains on the CPU, calibrates on whole frames of other fields, and
writes the weights with their card beside the model's code.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

import bluesky_autofocus.models.single_shot as package
from bluesky_autofocus.models.single_shot._model import SHIPPED, SingleShotModel
from bluesky_autofocus.models.single_shot.features import ContourFeatures
from bluesky_autofocus.models.single_shot.train import TrainingOptions, train_default
from bluesky_autofocus.training.fields import LED_NA, OPTICS, Recipe, fields, seconds_of
from bluesky_autofocus.training.recipes import CALIBRATION, TRAINING

FEATURES = ContourFeatures(OPTICS, (LED_NA, 0.0), 512)
PATCHES = 16
"""Of a frame of 2048 x 2048 pixels."""


def made_up_frames(
    recipes: Sequence[Recipe], *, repeats: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put patches of fields of one kind at one defocus together to frames of `PATCHES` patches.

    Simulating whole frames takes sixteen times as long and shows no more specimens.

    Returns
    -------
    powers : ndarray, shape (n, PATCHES, bins)
    defocus_um : ndarray, shape (n,)
    groups : ndarray, shape (n,)
    """
    rng = np.random.default_rng(seed)
    powers, defoci, groups = [], [], []
    for recipe in recipes:
        found = fields(recipe)
        stacks = np.asarray(found["contours"][:, 0, :, 0])  # (fields, planes, bins)
        defocus = found["defocus_um"]
        for _ in range(repeats):
            order = rng.permutation(len(stacks))
            for start in range(0, len(order) - PATCHES + 1, PATCHES):
                which = order[start : start + PATCHES]
                powers.append(stacks[which].swapaxes(0, 1))  # (planes, patches, bins)
                # planes are at the same height over the centres of the fields, not over their focus
                defoci.append(defocus[which].mean(axis=0))
                groups.append(np.full(stacks.shape[1], len(groups)))
    return np.concatenate(powers), np.concatenate(defoci), np.concatenate(groups)


def whole_frames(recipes: Sequence[Recipe]) -> tuple[np.ndarray, np.ndarray]:
    """Return powers, shape (n, patches, bins), and defoci, shape (n,), of recipes of large frames."""
    found = [fields(recipe) for recipe in recipes]
    powers = [np.asarray(one["contours"][:, 0]).reshape(-1, *one["contours"].shape[3:]) for one in found]
    return np.concatenate(powers), np.concatenate([np.ravel(one["defocus_um"]) for one in found])


def train(options: TrainingOptions, *, repeats: int = 6, show: bool = True) -> SingleShotModel:
    """Train and calibrate the default model."""
    powers, defoci, groups = made_up_frames(TRAINING, repeats=repeats, seed=options.seed)
    simulated_minutes = seconds_of([*TRAINING, *CALIBRATION]) / 60
    with tqdm(total=options.networks * options.steps, disable=not show, unit="step") as bar:

        def show_done(done: int, _: int) -> None:
            bar.update(done - bar.n)

        model = train_default(
            powers,
            defoci,
            groups,
            FEATURES,
            options=options,
            validation=whole_frames(CALIBRATION),
            name="single-shot, simulated 20x/0.5",
            data=(
                f"simulated: {', '.join(f'{one.count} fields of {one.kind}' for one in TRAINING)}, 67 planes "
                "1 um apart, 512 x 512 px; calibrated on "
                f"{', '.join(f'{one.count} frames of 1024 x 1024 px of {one.kind}' for one in CALIBRATION)} "
                f"at 8 defoci each; simulating took {simulated_minutes:.0f} min"
            ),
            valid_for="the simulated 20x/0.5 microscope of this package, cells on glass and tissue of 5 um",
            progress=show_done,
        )
    training = dataclasses.replace(
        model.card.training,
        fields=sum(one.count for one in TRAINING),
        frames=len(powers) // repeats * PATCHES,
    )
    model.card = dataclasses.replace(model.card, training=training)
    return model


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        prog="python -m bluesky_autofocus.training.single_shot", description=__doc__
    )
    default = TrainingOptions()
    for field in dataclasses.fields(TrainingOptions):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(getattr(default, field.name)),
            default=getattr(default, field.name),
        )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path(package.__file__).parent / SHIPPED, help="the weights to write"
    )
    given = vars(parser.parse_args())
    output = given.pop("output")
    started = time.monotonic()
    model = train(TrainingOptions(**given))
    output.parent.mkdir(parents=True, exist_ok=True)
    print(model.save(output))
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB, {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
