"""Two published packages as they are, in front of our microscope.

``pip install "bluesky-autofocus[benchmark]"`` installs them.

fibsem 0.5.3, `fibsem.autofunctions.run_auto_focus`: called with an object that has the five methods of a
microscope which that function uses, and answers with frames as `FibsemImage`. Metric (its Tenengrad),
denoising, sweeps and choice are its own. The two passes are in the proportions in which its own callers for
electron beams set them: the range in ten steps, then a tenth of the range in ten.

mapfost 4.3.1, `mapfost.mapfost.est_aberr`: estimates defocus and astigmatism from two frames by their
likelihood (Binding, Mikula and Denk, Microsc. Microanal. 19, 38, 2013). The loop about it is that of
SBEMimage with its settings for large aberrations: two frames 20 um below and above, two times, with its low
pass at a tenth of the spectrum; then 4 um and a quarter; until the correction is small, seven times at most.
Its aperture is calibrated, as that program does it by a known defocus: it takes the part of the spectrum that
it keeps for all of it, so that the aperture is the beam's convergence times that part. It is told that frames
do not move. It is for electron microscopes and run on those.
"""

import contextlib
import io
import math
from functools import cache
from typing import Any

from benchmarks._peers import Answer, Bounds
from benchmarks._search_microscope import Microscope

__all__ = ["fibsem", "mapfost", "versions"]

UM_PER_M = 1e6

MAPFOST_ROUNDS = ((20.0, 0.1),) * 2 + ((4.0, 0.25),) * 5
"""Distance in um of the two frames, and the part of the spectrum that is used."""

MAPFOST_CONVERGED_DOF = 0.04
"""A correction this small ends it: SBEMimage's 0.2 um."""


class _FibsemMicroscope:
    """What `run_auto_focus` needs of a microscope."""

    def __init__(self, microscope: Microscope, start_um: float) -> None:
        self._microscope, self._at_um = microscope, start_um

    def is_working_distance_settable(self, beam_type: Any) -> bool:
        return True

    def get_working_distance(self, beam_type: Any) -> float:
        return self._at_um / UM_PER_M

    def set_working_distance(self, wd: float, beam_type: Any) -> None:
        self._at_um = wd * UM_PER_M

    def autocontrast(self, beam_type: Any, reduced_area: Any = None) -> None:
        """Do nothing: the detector is set up."""

    def acquire_image(self, image_settings: Any) -> Any:
        return _fibsem()["FibsemImage"](self._microscope.expose(self._at_um))


@cache
def _fibsem() -> dict[str, Any]:
    # it says on import which configuration it has found
    with contextlib.redirect_stdout(io.StringIO()):
        from fibsem import autofunctions, structures  # type: ignore[import-not-found]
    return {"FibsemImage": structures.FibsemImage, **vars(autofunctions)}


@cache
def _mapfost() -> Any:
    from mapfost import mapfost as package  # type: ignore[import-not-found]

    return package


def fibsem(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """`run_auto_focus` of fibsem, from the middle of the range."""
    names = _fibsem()
    range_m = (bounds_um[1] - bounds_um[0]) / UM_PER_M
    passes = [
        names["FocusSweepPass"](search_range=span_m, step_size=span_m / 10)
        for span_m in (range_m, range_m / 10)
    ]
    result = names["run_auto_focus"](
        _FibsemMicroscope(microscope, sum(bounds_um) / 2), settings=names["AutoFocusSettings"](passes=passes)
    )
    return Answer(result.working_distance * UM_PER_M)


def mapfost(microscope: Microscope, bounds_um: Bounds, start_um: float) -> Answer:
    """`est_aberr` of mapfost in the loop of SBEMimage, from wherever the axis stands."""
    instrument, at_um = microscope.instrument, start_um
    for away_um, part in MAPFOST_ROUNDS:
        frames = [microscope.expose(at_um + sign * away_um) for sign in (-1, 1)]
        valid, _, estimate = _mapfost().est_aberr(
            frames,
            [-away_um, away_um],
            pix_size_um=instrument.pixel_um,
            num_aperture=instrument.convergence * part,
            crop_size=frames[0].shape,
            test_ims_aligned=1,
            radial_aperture=part,
        )
        # anything but True is its account of what went wrong
        if valid is not True or estimate is None or not math.isfinite(estimate.x[0]):
            return Answer(start_um, False, reason="failed")
        at_um -= float(estimate.x[0])
        if abs(estimate.x[0]) < MAPFOST_CONVERGED_DOF * microscope.depth_of_field_um and part > 0.1:
            return Answer(at_um)
    return Answer(at_um, False, reason="not converged")


def versions() -> dict[str, str]:
    """Return which packages were run.

    Raises
    ------
    SystemExit
        If they are not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {name: version(name) for name in ("fibsem", "mapfost")}
    except PackageNotFoundError as error:
        raise SystemExit(f'{error}: pip install "bluesky-autofocus[benchmark]"') from error
