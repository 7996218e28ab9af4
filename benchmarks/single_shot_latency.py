"""Time from a frame in memory to its defocus, at 2048 x 2048 px: the default against the published recipe.

Both in turns, in one process. The published network has its published size; its weights do not matter here.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.models.single_shot import SingleShotModel, make_features
from bluesky_autofocus.simulation import AbbeImageFormation, LightCamera, specimen
from bluesky_autofocus.training.fields import LED_NA, OPTICS

SEED = 0


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Time both, and what the default spends its time on."""
    import keras

    formation = AbbeImageFormation(OPTICS)
    view = formation.view(specimen("cells", SEED, formation))
    intensity = view.intensity([(LED_NA, 0.0)], [view.specimen.centre_um + 10.0])[0]
    frame = LightCamera().frame(intensity, np.random.default_rng(SEED))

    model = SingleShotModel.load()
    strip: Any = make_features("strip_magnitude", OPTICS, (LED_NA, 0.0), 512)
    hidden = [keras.layers.Dense(100, activation="relu") for _ in range(10)]
    published: Any = keras.Sequential(
        [keras.Input((strip.size,)), keras.layers.Dropout(0.6), *hidden, keras.layers.Dense(1)]
    )
    powers = model.features.powers(frame)
    timed: dict[str, Callable[[], Any]] = {
        "default": lambda: model.estimate(frame),
        "published, Keras predict": lambda: published.predict(strip(frame), verbose=0).mean(),
        "default: powers of the spectrum": lambda: model.features.powers(frame, model.most_patches),
        "default: networks": lambda: model.facts(powers),
        "published: spectrum": lambda: strip(frame),
    }
    taken_ms: dict[str, list[float]] = {name: [] for name in timed}
    for repeat in range(8 if quick else 60):
        for name, one in timed.items():
            started = time.perf_counter()
            one()
            if repeat >= 3:  # the first ones load and compile
                taken_ms[name].append(1e3 * (time.perf_counter() - started))
    rows = []
    for name, taken in taken_ms.items():
        low, _, high = statistics.quantiles(taken, n=4)
        rows.append(
            {"what": name, "median_ms": statistics.median(taken), "quartiles_ms": f"{low:.1f} .. {high:.1f}"}
        )
    medians = {row["what"]: row["median_ms"] for row in rows}
    figures = {
        "default_ms_2048": figure(medians["default"], "ms", "5, at most 15", "lower"),
        "published_ms_2048": figure(medians["published, Keras predict"], "ms", "50, 2019", "lower"),
    }
    return figures, rows, _picture(taken_ms)


def _picture(taken_ms: dict[str, list[float]]) -> Any:
    import matplotlib.pyplot as plt

    picture, ax = plt.subplots(figsize=(8, 3.5), layout="constrained")
    ax.boxplot(list(taken_ms.values()), vert=False, tick_labels=list(taken_ms), showfliers=False)
    ax.invert_yaxis()
    ax.set(xlabel="time for a frame of 2048 x 2048 pixels (ms)", xlim=(0, None))
    return picture


if __name__ == "__main__":
    run("single_shot_latency", measure, seed=SEED, columns=("what", "median_ms", "quartiles_ms"))
