"""How well a few focused tiles tell the focus of all the others, and how honest the stated uncertainty is.

Simulated specimens over 3 mm, 225 tiles. Tiles are focused one after the other where `next_tile` says, within
0.2 um; some of them end on dust, 5 to 25 um off. The surface predicts the others.
"""

from typing import Any

import numpy as np

from benchmarks._results import Figures, figure, run
from bluesky_autofocus.prediction import LEAST_POINTS, FocusPoint, FocusSurface, next_tile
from bluesky_autofocus.simulation.uneven import UNEVEN, uneven_focus

SEED = 0
SIGMA_UM = 0.2
COUNTS = (6, 10, 20)
"""How many tiles are focused."""
DUST = 0.08
"""Share of them that end on dust."""
_ALONG_UM = np.linspace(0, 3000, 15)
PLACES_UM = np.stack(np.meshgrid(_ALONG_UM, _ALONG_UM), axis=-1).reshape(-1, 2)


def measure(quick: bool) -> tuple[Figures, list[dict[str, Any]], Any]:
    """Focus tiles of each specimen, with dust and without."""
    seeds = range(3 if quick else 14)
    rows: list[dict[str, Any]] = []
    shown: Any = None
    for dust in (0.0, DUST):
        for specimen in UNEVEN:
            trials = [_trial(specimen, dust, seed) for seed in seeds]
            shown = trials[0]["surface"] if (specimen, dust) == ("waves", DUST) else shown
            for kind in LEAST_POINTS:
                row: dict[str, Any] = {"specimen": specimen, "dust": dust, "kind": kind}
                for count in COUNTS:
                    z, sigma_um, error_um = (
                        np.concatenate([trial[kind, count][part] for trial in trials]) for part in range(3)
                    )
                    row |= {
                        f"coverage_{count}": float(np.mean(np.abs(z) <= 2)),
                        f"sigma_um_{count}": float(np.median(sigma_um)),
                        f"error_um_{count}": float(np.median(np.abs(error_um))),
                    }
                dusty, found, wrong = np.sum([trial[kind, "dust"] for trial in trials], axis=0).tolist()
                row |= {"dusty": dusty, "found": found / dusty if dusty else float("nan"), "wrong": wrong}
                rows.append(row)
    good = [row for row in rows if row["kind"] == "gaussian_process"]
    clean = [row for row in good if row["dust"] == 0]
    figures = {
        "coverage_2sigma": figure(_mean(clean, "coverage_20"), "", "0.93 .. 0.97", "higher"),
        "coverage_2sigma_few": figure(_mean(clean, "coverage_6"), "", ">= 0.93", "higher"),
        "coverage_2sigma_least": figure(
            min(row[f"coverage_{count}"] for row in good for count in COUNTS), "", ">= 0.9", "higher"
        ),
        "outliers_found": figure(
            sum(row["found"] * row["dusty"] for row in good if row["dusty"])
            / sum(row["dusty"] for row in good),
            "",
            ">= 0.8",
            "higher",
        ),
        "good_points_rejected": figure(
            sum(row["wrong"] for row in good) / (len(good) * len(seeds) * max(COUNTS)), "", "<= 0.01", "lower"
        ),
    }
    return figures, rows, _picture(shown)


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([row[key] for row in rows]))


def _trial(specimen: str, dust: float, seed: int) -> dict[Any, Any]:
    """Return errors and sigmas at tiles that were not focused, by kind and count, and what became of dust."""
    rng = np.random.default_rng((SEED, UNEVEN.index(specimen), seed))
    focus_um = uneven_focus(specimen, PLACES_UM, rng)
    tiles = [(float(x), float(y)) for x, y in PLACES_UM]
    points, focused, dusty = [], [], set()
    for number in range(max(COUNTS)):
        tile = next_tile(points, tiles)
        found_um = focus_um[tile] + rng.normal(0, SIGMA_UM)
        if rng.uniform() < dust:
            dusty.add(number)
            found_um += rng.choice([-1, 1]) * rng.uniform(5, 25)
        x_um, y_um = tiles[tile]
        points.append(FocusPoint(x_um, y_um, float(found_um), SIGMA_UM))
        focused.append(tile)
    result: dict[Any, Any] = {}
    for kind in LEAST_POINTS:
        surface = FocusSurface.fit(points, kind=kind)
        rejected = set(surface.rejected)
        result[kind, "dust"] = (len(dusty), len(dusty & rejected), len(rejected - dusty))
        result["surface"] = surface
        for count in COUNTS:
            surface = FocusSurface.fit(points[:count], kind=kind)
            others = [
                tile
                for tile in set(range(len(tiles))) - set(focused[:count])
                if surface.predict(*tiles[tile]).known
            ]
            position_um, sigma_um = surface.estimate(*PLACES_UM[others].T)
            error_um = position_um - focus_um[others]
            result[kind, count] = (error_um / sigma_um, sigma_um, error_um)
    return result


def _picture(surface: FocusSurface) -> Any:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6.5, 5), layout="constrained")
    surface.plot(picture.add_subplot())
    return picture


if __name__ == "__main__":
    run(
        "focus_surface",
        measure,
        seed=SEED,
        columns=(
            "specimen", "dust", "kind", "coverage_6", "coverage_10", "coverage_20", "sigma_um_6",
            "sigma_um_20", "error_um_6", "error_um_20", "dusty", "found", "wrong",
        ),
    )  # fmt: skip
