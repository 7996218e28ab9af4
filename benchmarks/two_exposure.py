"""The defocus by two exposures: how near to the bound, how honest, and how far it reaches.

Frames of 512 x 512 px of the simulated SEM, a depth of field below and above a position within five depths
of field of focus; specimens of five kinds, three doses. Columns are free of astigmatism, or have one of up to
two depths of field each way. Beside the error stands the Cramer-Rao bound for the same two frames, which
knows the noise and the brightness. Frames from farther away are there to be refused.

On the same frames mapfost 4.3.1, `est_aberr`, with the two settings with which SBEMimage calls it
(`_peer_packages`): one estimate of it, which is meant to be repeated. It states no uncertainty and refuses
little.

Light: nuclei under a fluorescence microscope of NA 0.45, all at one height, and at heights that differ. There
the truth is the plane of the field in which it is sharpest.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import _results
from benchmarks._peer_packages import MAPFOST_ROUNDS, _mapfost, versions
from benchmarks._sem import DWELL_US, KINDS, MAGNIFICATION, image_formation
from bluesky_autofocus.defocus.two_exposure import (
    BeamTransfer,
    LightTransfer,
    TwoExposureEstimate,
    TwoExposureEstimator,
    cramer_rao_bound,
)
from bluesky_autofocus.simulation import HOECHST_20X, FluorescentNuclei, LightCamera, SEMOptics
from bluesky_autofocus.widefield import Widefield

SEED = 20261121
NEAR_DOF, FAR_DOF = 5.0, (10.0, 40.0)
ASTIGMATIC_DOF = 2.0
OPTICS = SEMOptics()
BEAM = BeamTransfer(OPTICS.convergence_mrad)
DARK = OPTICS.offset * (2**OPTICS.bits - 1)

CAMERA = LightCamera(electrons=900.0, gain=0.5, dust_per_mpx=0.0)
SPHERICAL_WAVES = 0.085
LIGHT_PX = 384
SPECIMEN_SIGMA_UM = 0.3
"""What is allowed for nuclei at heights that differ by 0.8 um, as in the simulated instrument."""

Outcome = dict[str, Any]


def measure(quick: bool) -> tuple[_results.Figures, list[dict[str, Any]], Any]:
    """Measure all cases."""
    versions()
    trials = 5 if quick else 20
    outcomes: dict[tuple[str, str, str], list[Outcome]] = {}
    for dose in DWELL_US:
        for name, take in {"near": near, "astigmatic": astigmatic, "far": far}.items():
            for index in range(trials):
                for method, outcome in take(dose, index).items():
                    outcomes.setdefault((name, dose, method), []).append(outcome)
    for name, heights_um in {"flat nuclei": 0.0, "nuclei": 0.8}.items():
        outcomes[name, "900 e", "light"] = [nuclei(heights_um, index) for index in range(trials)]
    rows = [summary(*case, of) for case, of in outcomes.items()]
    return figures_of(outcomes), rows, draw(outcomes)


# One trial


def near(dose: str, index: int) -> dict[str, Outcome]:
    """Return what each method makes of a specimen near focus."""
    frames = Frames(dose, index, 0)
    return {
        "defocus": frames.told(astigmatism=False),
        "defocus, astigmatism": frames.told(astigmatism=True),
        **frames.told_by_mapfost(),
    }


def astigmatic(dose: str, index: int) -> dict[str, Outcome]:
    """Return what each method makes of one whose image is astigmatic."""
    frames = Frames(dose, index, 1, astigmatic_dof=ASTIGMATIC_DOF)
    return {
        "defocus": frames.told(astigmatism=False),
        "defocus, astigmatism": frames.told(astigmatism=True),
        **frames.told_by_mapfost(),
    }


def far(dose: str, index: int) -> dict[str, Outcome]:
    """Return what it makes of one far away."""
    frames = Frames(dose, index, 2, defocus_dof=FAR_DOF)
    return {"defocus": frames.told(astigmatism=False), "defocus, astigmatism": frames.told(astigmatism=True)}


class Frames:
    """Two frames of one specimen, and the truth about them."""

    def __init__(
        self,
        dose: str,
        index: int,
        of: int,
        *,
        defocus_dof: tuple[float, float] = (0.0, NEAR_DOF),
        astigmatic_dof: float = 0.0,
    ) -> None:
        rng = np.random.default_rng((SEED, of, index))
        self.formation = image_formation(KINDS[index % len(KINDS)], int(rng.integers(8)))
        self.dwell_us = DWELL_US[dose]
        self.dof_um = self.formation.depth_of_field_um(MAGNIFICATION)
        self.pixel_um = self.formation.pixel_size_um(MAGNIFICATION)
        self.defocus_um = self.dof_um * rng.uniform(*defocus_dof) * rng.choice([-1, 1])
        self.astigmatism_um = self.dof_um * rng.uniform(-astigmatic_dof, astigmatic_dof, 2)
        x, y = self.astigmatism_um / OPTICS.astigmatism_um_per_unit
        self.frames = [
            self.formation.image(
                self.defocus_um + side * self.dof_um,
                magnification=MAGNIFICATION,
                dwell_us=self.dwell_us,
                stigmator_x=x,
                stigmator_y=y,
                rng=np.random.default_rng((SEED, of, index, int(1e6 * self.dwell_us), side + 1)),
            )
            for side in (-1, 1)
        ]

    def told(self, *, astigmatism: bool) -> Outcome:
        """Return what the estimator says."""
        estimator = TwoExposureEstimator(BEAM, astigmatism=astigmatism, dark_level=DARK)
        started_s = time.process_time()
        estimate = estimator.estimate(
            *self.frames, separation_um=2 * self.dof_um, pixel_size_um=self.pixel_um
        )
        seconds = time.process_time() - started_s
        return {
            **outcome(estimate, self.defocus_um, self.bound_um(astigmatism), self.dof_um),
            "seconds": seconds,
            "astigmatism_errors": [
                (said_um - true_um) / self.dof_um
                for said_um, true_um in zip(
                    (estimate.straight_um, estimate.diagonal_um), self.astigmatism_um, strict=True
                )
            ],
            "astigmatism_sigmas": [
                one / self.dof_um for one in (estimate.straight_sigma_um, estimate.diagonal_sigma_um)
            ],
        }

    def bound_um(self, astigmatism: bool) -> float:
        """Return the bound of the defocus."""
        scale = self.formation.electrons_per_pixel(self.dwell_us)
        specimen = self.formation.blurred(0.0, magnification=MAGNIFICATION) * scale
        grey_e = scale / (OPTICS.gain * (2**OPTICS.bits - 1))
        bounds = cramer_rao_bound(
            specimen,
            float(specimen.mean()) + OPTICS.electronic_noise**2 + grey_e**2 / 12,
            BEAM,
            defocus_um=self.defocus_um,
            separation_um=2 * self.dof_um,
            pixel_size_um=self.pixel_um,
            astigmatism_um=tuple(self.astigmatism_um) if astigmatism else None,
        )
        return float(bounds[0])

    def told_by_mapfost(self) -> dict[str, Outcome]:
        """Return what mapfost says, with a tenth and with a quarter of the spectrum."""
        said = {}
        for part in dict.fromkeys(part for _, part in MAPFOST_ROUNDS):
            valid, _, answer = _mapfost().est_aberr(
                self.frames,
                [-self.dof_um, self.dof_um],
                pix_size_um=self.pixel_um,
                num_aperture=1e-3 * OPTICS.convergence_mrad * part,
                crop_size=self.frames[0].shape,
                test_ims_aligned=1,
                radial_aperture=part,
            )
            x = math.nan if valid is not True or answer is None else float(answer.x[0])
            answered = math.isfinite(x)
            said[f"mapfost, {part:g} of the spectrum"] = {
                "accepted": answered,
                "reason": "ok" if answered else "failed",
                "error_dof": (x - self.defocus_um) / self.dof_um,
                "bound_dof": self.bound_um(True) / self.dof_um,
                "sigma_dof": math.nan,
            }
        return said


def nuclei(heights_um: float, index: int) -> Outcome:
    """Return what is made of stained nuclei."""
    rng = np.random.default_rng((SEED, 3, index))
    field = FluorescentNuclei(
        (SEED, index),
        (LIGHT_PX, LIGHT_PX),
        _widefield(),
        heights_um=heights_um,
        density_per_mm2=(150.0, 1100.0),
    )
    dof_um, pixel_um = HOECHST_20X.depth_of_field_um, HOECHST_20X.pixel_size_um
    defocus_um = dof_um * rng.uniform(-3.0, 3.0)
    frames = [CAMERA.frame(field.image(defocus_um + side * dof_um), rng) for side in (-1, 1)]
    estimator = TwoExposureEstimator(
        _light(),
        dark_level=CAMERA.offset,
        full_scale=CAMERA.full_scale,
        specimen_sigma_um=SPECIMEN_SIGMA_UM if heights_um else 0.0,
        unexplained=0.05 if heights_um else 0.01,
    )
    started_s = time.process_time()
    estimate = estimator.estimate(*frames, separation_um=2 * dof_um, pixel_size_um=pixel_um)
    seconds = time.process_time() - started_s
    # what a pixel takes together
    light = np.fft.ifft2(ndimage.fourier_uniform(np.fft.fft2(field.labels), 1)).real * CAMERA.electrons
    (bound_um,) = cramer_rao_bound(
        light,
        float(light.mean()) + CAMERA.read_noise_e**2,
        _light(),
        defocus_um=defocus_um,
        separation_um=2 * dof_um,
        pixel_size_um=pixel_um,
    )
    truth_um = defocus_um - (sharpest_um(field) if heights_um else 0.0)
    return {**outcome(estimate, truth_um, bound_um, dof_um), "seconds": seconds}


def sharpest_um(field: FluorescentNuclei) -> float:
    """Return the plane in which a field has most contrast from pixel to pixel."""
    planes_um = np.linspace(-1.5, 1.5, 31)
    contrast = [float(np.var(np.diff(field.image(plane_um), axis=0))) for plane_um in planes_um]
    return float(planes_um[int(np.argmax(contrast))])


@cache
def _widefield() -> Widefield:
    return Widefield(HOECHST_20X, SPHERICAL_WAVES, reach_um=30)


@cache
def _light() -> LightTransfer:
    return LightTransfer(HOECHST_20X, SPHERICAL_WAVES)


def outcome(estimate: TwoExposureEstimate, truth_um: float, bound_um: float, dof_um: float) -> Outcome:
    """Return what an estimate comes to, in depths of field."""
    return {
        "accepted": estimate.accepted,
        "reason": str(estimate.reason),
        "error_dof": (estimate.defocus_um - truth_um) / dof_um,
        "sigma_dof": estimate.sigma_um / dof_um,
        "bound_dof": bound_um / dof_um,
    }


# What they come to


def summary(frames: str, dose: str, method: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return a row."""
    believed = [one for one in outcomes if one["accepted"]]
    errors = np.array([one["error_dof"] for one in believed])
    refused = [one["reason"] for one in outcomes if not one["accepted"]]
    row: dict[str, Any] = {
        "frames": frames,
        "dose": dose,
        "method": method,
        "trials": len(outcomes),
        "refused": len(refused),
        "reasons": {reason: refused.count(reason) for reason in sorted(set(refused))},
        "wrong": int(np.sum(np.abs(errors) > 1)),
    }
    if believed:
        bounds, sigmas = (np.array([one[key] for one in believed]) for key in ("bound_dof", "sigma_dof"))
        row |= {
            "median_dof": float(np.median(np.abs(errors))),
            "rmse_dof": _rms(errors),
            "times_bound": _rms(errors / bounds),
        }
        if np.isfinite(sigmas).all():
            row["coverage"] = float(np.mean(np.abs(errors) < 2 * sigmas))
    off = np.array([one["astigmatism_errors"] for one in believed if "astigmatism_errors" in one])
    if off.size and np.isfinite(off).all():
        sigmas = np.array([one["astigmatism_sigmas"] for one in believed])
        row["astigmatism_dof"] = _rms(off)
        row["astigmatism_coverage"] = float(np.mean(np.abs(off) < 2 * sigmas))
    if "seconds" in outcomes[0]:
        row["seconds"] = float(np.median([one["seconds"] for one in outcomes]))
    return row


def figures_of(outcomes: dict[tuple[str, str, str], list[Outcome]]) -> _results.Figures:
    """Return the figures."""

    def of(frames: str, method: str, *, dose: str | None = None) -> list[Outcome]:
        return [
            one
            for case, some in outcomes.items()
            for one in some
            if case[0] == frames and case[2] == method and dose in (None, case[1])
        ]

    def believed(some: list[Outcome], value: Callable[[Outcome], float]) -> NDArray[np.float64]:
        return np.array([value(one) for one in some if one["accepted"]])

    def times_bound(some: list[Outcome]) -> float:
        return _rms(believed(some, lambda one: one["error_dof"] / one["bound_dof"]))

    def covered(some: list[Outcome]) -> float:
        return float(np.mean(believed(some, lambda one: abs(one["error_dof"]) < 2 * one["sigma_dof"])))

    def rmse(some: list[Outcome]) -> float:
        return _rms(believed(some, lambda one: one["error_dof"]))

    plain, both = "defocus", "defocus, astigmatism"
    stigmatic = summary("", "", "", of("astigmatic", both))
    # on its frames no method was told to expect what it does not fit
    fair = [
        *of("near", plain), *of("near", both), *of("astigmatic", both), *of("far", plain), *of("far", both),
    ]  # fmt: skip
    peer = [one for case, some in outcomes.items() if case[2].startswith("mapfost") for one in some]
    light = [*of("flat nuclei", "light"), *of("nuclei", "light")]
    return {
        **{
            f"times_bound_{dose}": _results.figure(
                times_bound(of("near", plain, dose=dose)), "times the bound", "3", "lower"
            )
            for dose in DWELL_US
        },
        **{
            f"rmse_{dose}": _results.figure(
                rmse(of("near", plain, dose=dose)), "depths of field", "reported", "lower"
            )
            for dose in DWELL_US
        },
        "coverage_2sigma": _results.figure(covered(of("near", plain)), "share", "0.95", "higher"),
        "refused": _results.figure(
            sum(not one["accepted"] for one in of("near", plain)),
            f"of {len(of('near', plain))}",
            "reported",
            "lower",
        ),
        "confident_wrong": _results.figure(
            int(np.sum(np.abs(believed([*fair, *light], lambda one: one["error_dof"])) > 1)),
            f"of {len(fair) + len(light)}",
            "0",
            "lower",
        ),
        "believed_from_afar": _results.figure(
            sum(one["accepted"] for one in [*of("far", plain), *of("far", both)]),
            f"of {len(of('far', plain)) + len(of('far', both))}",
            "0",
            "lower",
        ),
        "astigmatism_rmse": _results.figure(
            stigmatic["astigmatism_dof"], "depths of field", "reported", "lower"
        ),
        "astigmatism_coverage_2sigma": _results.figure(
            stigmatic["astigmatism_coverage"], "share", "0.95", "higher"
        ),
        "astigmatic_times_bound": _results.figure(
            times_bound(of("astigmatic", both)), "times the bound", "3", "lower"
        ),
        "mapfost_median": _results.figure(
            min(
                float(np.median(np.abs(believed(of("near", method), lambda one: one["error_dof"]))))
                for method in {case[2] for case in outcomes if case[2].startswith("mapfost")}
            ),
            "depths of field",
            "reported",
            "lower",
        ),
        "mapfost_confident_wrong": _results.figure(
            int(np.sum(np.abs(believed(peer, lambda one: one["error_dof"])) > 1)),
            f"of {len(peer)}",
            "reported",
            "lower",
        ),
        "light_rmse": _results.figure(
            rmse(of("flat nuclei", "light")), "depths of field", "reported", "lower"
        ),
        "light_coverage_2sigma": _results.figure(
            covered(of("flat nuclei", "light")), "share", "0.95", "higher"
        ),
        "light_times_bound": _results.figure(
            times_bound(of("flat nuclei", "light")), "times the bound", "3", "lower"
        ),
        "light_heights_rmse": _results.figure(
            rmse(of("nuclei", "light")), "depths of field", "0.25", "lower"
        ),
        "light_heights_coverage_2sigma": _results.figure(
            covered(of("nuclei", "light")), "share", "0.95", "higher"
        ),
        "estimate_s": _results.figure(
            float(np.median([one["seconds"] for one in of("near", plain)])), "s of one core", "1", "lower"
        ),
        "estimate_astigmatic_s": _results.figure(
            float(np.median([one["seconds"] for one in of("near", both)])), "s of one core", "2", "lower"
        ),
    }


def _rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else math.nan


def draw(outcomes: dict[tuple[str, str, str], list[Outcome]]) -> Any:
    """Draw errors against the bound, with and without astigmatism."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.6), layout="constrained")
    axes = picture.subplots(1, 2, sharey=True)
    panels = {"near": "defocus", "astigmatic": "defocus, astigmatism"}
    colours = dict(zip(DWELL_US, ("C0", "C1", "C3"), strict=True))
    span = np.array([3e-4, 0.3])
    for ax, (name, method) in zip(axes, panels.items(), strict=True):
        for case, some in outcomes.items():
            if case[0] != name or not (case[2] == method or case[2].startswith("mapfost, 0.25")):
                continue
            ours = case[2] == method
            believed = [one for one in some if one["accepted"]]
            ax.plot(
                [one["bound_dof"] for one in believed],
                [max(abs(one["error_dof"]), 1e-5) for one in believed],
                "o" if ours else "x",
                color=colours[case[1]],
                markersize=4,
                alpha=0.8 if ours else 0.35,
                label=f"{case[1]} dose" if ours else None,
            )
        ax.plot(span, span, "k-", linewidth=0.8, label="the bound")
        ax.plot(span, 3 * span, "k--", linewidth=0.8, label="three times the bound")
        ax.axhline(1, color="grey", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlim=span, ylim=(3e-5, 20), xlabel="Cramer-Rao bound / DOF")
        ax.set_title({"near": "defocus alone", "astigmatic": "with both astigmatisms"}[name], fontsize=10)
    axes[0].plot([], [], "x", color="grey", label="mapfost, once")
    axes[0].set_ylabel("error of the defocus / DOF")
    axes[0].legend(fontsize=8, loc="lower right")
    return picture


if __name__ == "__main__":
    _results.run(
        "two_exposure",
        measure,
        seed=SEED,
        columns=(
            "frames", "dose", "method", "trials", "refused", "wrong", "median_dof", "rmse_dof", "times_bound",
            "coverage", "astigmatism_dof", "astigmatism_coverage", "seconds",
        ),
    )  # fmt: skip
