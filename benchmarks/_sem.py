"""The simulated SEM that benchmarks focus: scenes, doses, and a RunEngine around it."""

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from bluesky import RunEngine

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import SimulatedSEM
from bluesky_autofocus.frames import install_frame_routing
from bluesky_autofocus.plans import autofocus
from bluesky_autofocus.records import Verdict
from bluesky_autofocus.simulation import SEMImageFormation, scene
from bluesky_autofocus.simulation.motion import AxisMechanics

MAGNIFICATION = 5000.0
KINDS = ("grains", "particles", "tissue", "wafer", "sparse")
DWELL_US = {"high": 1.0, "medium": 0.1, "low": 0.026}
"""About 300, 30 and 8 electrons in a bright pixel."""

FOCUS_UM = 10_000.0


@lru_cache(maxsize=40)
def image_formation(kind: str, seed: int, contrast: float = 1.0) -> SEMImageFormation:
    """Return a specimen; less contrast flattens it towards a mean of 0.3."""
    specimen = scene(kind, seed=seed, shape=(640, 640))
    return SEMImageFormation(0.3 * (1 - contrast) + contrast * specimen, frame_shape=(512, 512))


class Bench:
    """A SEM on a virtual clock, a RunEngine that routes its frames, and the analyses asked for."""

    def __init__(self, *metrics: str) -> None:
        self.clock = VirtualClock()
        self.scratch = Path(tempfile.mkdtemp(prefix="bluesky-autofocus-bench-"))
        # what ophyd devices are to a type checker is not what they are to bluesky
        self.sem: Any = SimulatedSEM(
            name="sem",
            image_formation=image_formation(KINDS[0], 0),
            frame_directory=self.scratch,
            focus_um=FOCUS_UM,
            # typical of a condenser that is switched and settles
            mechanics=AxisMechanics(velocity_um_s=500.0, settle_s=0.05, readback_noise_um=0.005),
            clock=self.clock,
        )
        self.depth_of_field_um = self.sem.depth_of_field_um
        self.run_engine = RunEngine(call_returns_result=True)
        install_frame_routing(self.run_engine)
        self.analyses = {name: SharpnessAnalysis(name, name=name) for name in metrics}
        for analysis in self.analyses.values():
            self.run_engine.subscribe(analysis)

    def focus(self, metric: str, **options: Any) -> tuple[Verdict, float]:
        """Focus; return the verdict and the simulated seconds that it took."""
        before_s = self.clock.now_s()
        result = self.run_engine(
            autofocus([self.sem], self.sem.working_distance, analysis=self.analyses[metric], **options)
        )
        self.empty()
        return result.plan_result, self.clock.now_s() - before_s  # type: ignore[union-attr]

    def empty(self) -> None:
        """Delete the frames of the runs so far."""
        for folder in self.scratch.iterdir():
            shutil.rmtree(folder)

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.scratch)


def random_field(rng: np.random.Generator, index: int) -> tuple[str, int, float]:
    """Return kind and seed of a scene, and where focus lies within a range of 40 DOF (0 .. 1)."""
    return KINDS[index % len(KINDS)], int(rng.integers(1000)), float(rng.uniform(0.1, 0.9))
