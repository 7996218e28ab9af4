"""Focusing a simulated SEM: Brent's method as published and as shipped, a full sweep, and the blur trigger.

Searches: random scenes of five kinds, random focus and random start in a range of 40 depths of field, three
dose levels. "literal" is what the article does: `scipy.optimize.minimize_scalar(method="bounded")` on
1/variance-of-Laplacian, whose answer is believed whatever it is; once with the article's 6 evaluations, once
until it converges. "brent" and "sweep" are the methods of this package with their verdicts, run through the
RunEngine.

Trigger: sequences of fields whose height walks at random and jumps now and then, within 10 DOF of its mean,
and whose contrast varies; one normal exposure a field decides whether to focus. A field more than 3 DOF out
of focus that is not noticed is missed; one less than 1 DOF out that is refocused is a false alarm.
"""

from collections import Counter
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
from bluesky import preprocessors as bpp

from benchmarks import _results
from benchmarks._sem import DWELL_US, FOCUS_UM, MAGNIFICATION, Bench, image_formation, random_field
from bluesky_autofocus.devices import FRAME_OVERHEAD_S
from bluesky_autofocus.plans import focus_if_blurred
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import BlurTrigger, bounded_brent
from bluesky_autofocus.sharpness import DEFAULT_METRIC, metric

SEED = 20261121
RANGE_DOF = 40
METHODS = ("literal 6", "literal", "literal, default metric", "brent", "sweep")


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Measure searches and trigger."""
    trials = 20 if quick else 200
    cases = [(method, dose) for dose in DWELL_US for method in METHODS]
    outcomes: dict[tuple[str, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for index in range(trials):  # the outer loop, so that each scene is made once
        for method, dose in cases:
            outcomes[method, dose].append(search(method, dose, index))
    rows = [summary(method, dose, outcomes[method, dose]) for method, dose in cases]
    errors = {
        case: [outcome["error_dof"] for outcome in of if outcome["found"]] for case, of in outcomes.items()
    }
    trigger = watch(60 if quick else 500)
    rows.append({"method": "blur trigger", **trigger})

    def over_doses(method: str, key: str) -> list[float]:
        return [row[key] for row in rows if row["method"] == method]

    share = {
        method: sum(over_doses(method, "within_1_dof")) / len(DWELL_US)
        for method in ("brent", "literal", "sweep")
    }
    figures = {
        "brent_within_1_dof": _results.figure(share["brent"], "share", "reported", "higher"),
        "brent_confident_wrong": _results.figure(
            sum(over_doses("brent", "confident_wrong")), f"of {3 * trials}", "0", "lower"
        ),
        "literal_brent_within_1_dof": _results.figure(share["literal"], "share", "reported", "higher"),
        "literal_brent_confident_wrong": _results.figure(
            sum(over_doses("literal", "confident_wrong")), f"of {3 * trials}", "reported", "lower"
        ),
        "sweep_within_1_dof": _results.figure(share["sweep"], "share", "reported", "higher"),
        "sweep_confident_wrong": _results.figure(
            sum(over_doses("sweep", "confident_wrong")), f"of {3 * trials}", "0", "lower"
        ),
        "brent_exposures": _results.figure(
            sum(over_doses("brent", "exposures")) / len(DWELL_US), "mean", "reported", "lower"
        ),
        "trigger_missed": _results.figure(trigger["missed"], f"of {trigger['blurred_fields']}", "0", "lower"),
        "trigger_false": _results.figure(trigger["false"], f"of {trigger['sharp_fields']}", "0", "lower"),
        "trigger_exposures_per_field": _results.figure(trigger["exposures"], "mean", "reported", "lower"),
        **{
            key: _results.figure(
                next(row["seconds"] for row in rows if row["method"] == "brent" and row["dose"] == dose),
                f"simulated s at {dose} dose",
                "5 (the article), 15 (the vendor)",
                "lower",
            )
            for key, dose in (("sem_seconds", "high"), ("sem_seconds_tenth_of_the_dose", "medium"))
        },
    }
    return figures, rows, draw(errors)


_bench: Bench | None = None


def bench() -> Bench:
    """Return the instrument of all trials."""
    global _bench
    if _bench is None:
        _bench = Bench(DEFAULT_METRIC, "laplacian_ratio")
    return _bench


def search(method: str, dose: str, index: int) -> dict[str, Any]:
    """Focus one random field by one method."""
    rng = np.random.default_rng((SEED, index))
    kind, seed, focus = random_field(rng, index)
    formation = image_formation(kind, seed)
    dof_um = formation.depth_of_field_um(MAGNIFICATION)
    range_um = RANGE_DOF * dof_um
    bounds_um = (FOCUS_UM - focus * range_um, FOCUS_UM + (1 - focus) * range_um)
    start_um = float(rng.uniform(*bounds_um))
    noise = np.random.default_rng((SEED, index, 1))
    if method.startswith("literal"):
        score = metric(DEFAULT_METRIC if "default" in method else "variance_of_laplacian", normalise=False)
        asked: list[float] = []

        def reciprocal(position_um: float) -> float:
            asked.append(position_um)
            frame = formation.image(
                position_um - FOCUS_UM, magnification=MAGNIFICATION, dwell_us=DWELL_US[dose], rng=noise
            )
            return 1 / score(frame)

        answer = bounded_brent(reciprocal, bounds_um, dof_um / 10, 6 if method.endswith("6") else 30)
        return {
            "found": True,
            "reason": "believed",
            "error_dof": (answer - FOCUS_UM) / dof_um,
            "sigma_dof": float("nan"),
            "exposures": len(asked),
            "seconds": scan_seconds([start_um, *asked, answer], DWELL_US[dose]),
        }
    sem = bench().sem
    sem.image_formation = formation
    sem.reseed((SEED, index, 1))
    sem.dwell_time.put(DWELL_US[dose])
    sem.working_distance.set(start_um)
    verdict, seconds = bench().focus(
        DEFAULT_METRIC,
        method=method,
        bounds_um=bounds_um,
        depth_of_field_um=dof_um,
        budget=20 if method == "brent" else RANGE_DOF + 2,
    )
    if not verdict.found and abs(sem.working_distance.position - start_um) > 0.1:
        raise AssertionError(f"not put back: {sem.working_distance.position} instead of {start_um}")
    return {
        "found": verdict.found,
        "reason": str(verdict.reason),
        "error_dof": (verdict.position_um - FOCUS_UM) / dof_um,
        "sigma_dof": verdict.sigma_um / dof_um,
        "exposures": verdict.exposures,
        "seconds": seconds,
    }


def scan_seconds(path_um: list[float], dwell_us: float) -> float:
    """Return how long moving along a path and scanning a frame at each stop but the last takes."""
    mechanics = bench().sem.working_distance.motion.mechanics
    way_um = sum(abs(b - a) for a, b in pairwise(path_um))
    moves_s = way_um / mechanics.velocity_um_s + (len(path_um) - 1) * mechanics.settle_s
    return moves_s + (len(path_um) - 2) * (512 * 512 * 1e-6 * dwell_us + FRAME_OVERHEAD_S)


def summary(method: str, dose: str, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what happened."""
    found = [outcome for outcome in outcomes if outcome["found"]]
    right = [outcome for outcome in found if abs(outcome["error_dof"]) <= 1]
    stated = [outcome for outcome in found if outcome["sigma_dof"] == outcome["sigma_dof"]]
    return {
        "method": method,
        "dose": dose,
        "trials": len(outcomes),
        "within_1_dof": len(right) / len(outcomes),
        "not_found": 1 - len(found) / len(outcomes),
        "confident_wrong": len(found) - len(right),
        "median_error_dof": median(abs(outcome["error_dof"]) for outcome in found) if found else float("nan"),
        "coverage_2sigma": (
            sum(abs(outcome["error_dof"]) <= 2 * outcome["sigma_dof"] for outcome in stated) / len(stated)
            if stated
            else float("nan")
        ),
        "exposures": sum(outcome["exposures"] for outcome in outcomes) / len(outcomes),
        "seconds": median(outcome["seconds"] for outcome in outcomes),
        "reasons": dict(Counter(outcome["reason"] for outcome in outcomes)),
    }


def watch(fields: int) -> dict[str, Any]:
    """Visit fields of uneven height and contrast, focusing where the frame is blurred."""
    instrument = bench()
    sem, analyses = instrument.sem, instrument.analyses
    sem.dwell_time.put(DWELL_US["high"])
    dof_um = instrument.depth_of_field_um
    counts: Counter[str] = Counter()
    exposures, looked = 0, 0
    specimens = ("grains", "particles", "tissue")
    for part, kind in enumerate(specimens):
        rng = np.random.default_rng((SEED, part))
        trigger = BlurTrigger()
        height_um = 0.0
        for index in range(fields // len(specimens) + (part < fields % len(specimens))):
            # an uneven specimen: slopes, and now and then a step, within 20 DOF in all
            height_um += float(rng.normal(0, 0.6)) * dof_um
            if rng.random() < 0.08 or abs(height_um) > 10 * dof_um:
                height_um = float(rng.uniform(-10, 10)) * dof_um
            sem.image_formation = image_formation(
                kind, int(rng.integers(12)), float(rng.choice([0.4, 0.6, 0.8, 1.0]))
            )
            sem.focus_at_start_um = FOCUS_UM + height_um
            defocus_dof = abs(sem.working_distance.position - sem.focus_um) / dof_um
            verdict = _look(instrument, trigger, analyses["laplacian_ratio"], analyses[DEFAULT_METRIC])
            exposures += verdict.exposures
            looked += 1
            if index == 0:
                continue  # the first field gives the baseline
            refocused = verdict.reason is not Reason.STILL_SHARP
            if defocus_dof > 3:
                counts["blurred_fields"] += 1
                counts["missed"] += not refocused
            elif defocus_dof < 1:
                counts["sharp_fields"] += 1
                counts["false"] += refocused
            else:
                counts["between"] += 1
                counts["between_refocused"] += refocused
            counts["not_found"] += refocused and not verdict.found
            counts["left_out_of_focus"] += abs(sem.working_distance.position - sem.focus_um) > 3 * dof_um
    return {
        "fields": looked,
        "exposures": exposures / looked,
        "missed": 0,
        "false": 0,
        **counts,
    }


def _look(instrument: Bench, trigger: BlurTrigger, watching: Any, focusing: Any) -> Any:
    sem = instrument.sem
    verdicts = []

    @bpp.run_decorator(md={"plan_name": "watch"})
    def field() -> Any:
        verdicts.append(
            (
                yield from focus_if_blurred(
                    [sem],
                    sem.working_distance,
                    analysis=watching,
                    trigger=trigger,
                    focus_analysis=focusing,
                    now_s=instrument.clock.now_s,
                    bounds_um=(
                        FOCUS_UM - RANGE_DOF / 2 * instrument.depth_of_field_um,
                        FOCUS_UM + RANGE_DOF / 2 * instrument.depth_of_field_um,
                    ),
                    depth_of_field_um=instrument.depth_of_field_um,
                )
            )
        )

    instrument.run_engine(field())
    instrument.empty()
    return verdicts[0]


def draw(errors: dict[tuple[str, str], list[float]]) -> Any:
    """Draw how far off each method's believed answers are."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4), layout="constrained")
    for axes, dose in zip(picture.subplots(1, 3, sharey=True), DWELL_US, strict=True):
        for (method, of), found in errors.items():
            if of == dose and found:
                off = np.sort(np.abs(found))
                axes.step(off, np.arange(1, len(off) + 1), where="post", label=method)
        axes.set_xscale("log")
        axes.axvline(1, color="0.7", zorder=0)
        axes.set_xlabel("error of the answers given (DOF)")
        axes.set_title(f"{dose} dose")
    picture.axes[0].set_ylabel("answers with at most this error")
    picture.axes[0].legend(fontsize=8)
    return picture


if __name__ == "__main__":
    _results.run(
        "sem_search",
        measure,
        seed=SEED,
        columns=[
            "method",
            "dose",
            "within_1_dof",
            "not_found",
            "confident_wrong",
            "median_error_dof",
            "coverage_2sigma",
            "exposures",
            "seconds",
        ],
    )
