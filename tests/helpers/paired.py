"""A bench whose frames say where they were taken, and an estimator that reads it from two of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bluesky_autofocus.defocus.two_exposure import BeamTransfer, TwoExposureEstimate
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.records import Reason

FOCUS_UM = 7.3
LEVEL = 10_000.0


class PairBench:
    """An axis, two stigmators, and a camera whose frames say in three pixels how these stand."""

    def __init__(
        self,
        frame_directory: Path,
        *,
        start_um: float = FOCUS_UM + 3.0,
        limits: tuple[float, float] = (-100.0, 100.0),
        stigmators: tuple[float, float] = (0.0, 0.0),
        **axis_options,
    ) -> None:
        self.start_um, self.before = start_um, stigmators
        self.axis = SimulatedAxis(name="z", limits=limits, position_um=start_um, **axis_options)
        self.stigmators = tuple(
            SimulatedAxis(name=name, limits=(-5.0, 5.0), position_um=value)
            for name, value in zip(("stig_x", "stig_y"), stigmators, strict=True)
        )
        self.pattern = np.random.default_rng(3).uniform(-1, 1, (32, 32))
        self.exposures = 0
        self.camera = SimulatedCamera(
            name="camera",
            render=self.frame,
            frame_directory=frame_directory,
            frame_shape=(32, 32),
            dtype=np.float32,
        )

    def frame(self) -> np.ndarray:
        self.exposures += 1
        frame = (LEVEL * (1 + 0.5 * self.pattern)).astype(np.float32)
        frame[0, :3] = self.axis.load_um, *(one.load_um for one in self.stigmators)
        return frame

    @property
    def stands_at(self) -> list[float]:
        return [one.position for one in (self.axis, *self.stigmators)]


class KnowingPair:
    """Reads the truth from two frames of a `PairBench`, and may be told to err.

    Parameters
    ----------
    says : callable
        ``says(true defocus of the middle)`` is what it makes of it: a number, or a reason to refuse.
    axis_sign : int
        -1 where the axis runs downwards.
    um_per_unit : float or 2 x 2
        What the stigmators do.
    residual_um : tuple of float
        The column's own astigmatism.
    """

    model_hash = ""
    transfer = BeamTransfer(10.0)
    range_dof = 8.0
    dark_level = 0.0
    full_scale = None

    def __init__(
        self,
        says: Callable = lambda defocus_um: defocus_um,
        *,
        sigma_um: float = 0.05,
        axis_sign: int = 1,
        astigmatism: bool = True,
        um_per_unit=20.0,
        residual_um: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.says, self.sigma_um, self.axis_sign, self.astigmatism = says, sigma_um, axis_sign, astigmatism
        self.matrix = np.asarray(um_per_unit) * (np.eye(2) if np.ndim(um_per_unit) == 0 else 1)
        self.residual_um = np.array(residual_um)
        self.parameters = {"kind": "knowing pair"}
        self.seen: list[tuple[float, float]] = []

    def estimate(self, first, second, *, separation_um, pixel_size_um) -> TwoExposureEstimate:
        at = float(first[0, 0]), float(second[0, 0])
        self.seen.append(at)
        assert separation_um == pytest.approx(self.axis_sign * (at[1] - at[0]), abs=1e-4)
        assert pixel_size_um == 0.05
        said = self.says(self.axis_sign * (sum(at) / 2 - FOCUS_UM))
        if isinstance(said, Reason):
            return TwoExposureEstimate.refused(said)
        np.testing.assert_array_equal(first[0, 1:3], second[0, 1:3], "both as astigmatic")
        straight_um, diagonal_um = self.residual_um + self.matrix @ second[0, 1:3]
        return TwoExposureEstimate(
            said,
            self.sigma_um,
            True,
            Reason.OK,
            straight_um,
            diagonal_um,
            2 * self.sigma_um,
            2 * self.sigma_um,
            1.0,
        )
