"""A bench on which every frame is a known function of where the axis stands."""

import gc
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bluesky import preprocessors as bpp
from bluesky.utils import Msg
from greenlet import greenlet

from bluesky_autofocus.callbacks import SharpnessAnalysis
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera
from bluesky_autofocus.simulation.motion import AxisMechanics


def peak(position_um: float, focus_um: float = 7.3, half_width_um: float = 6.0) -> float:
    return 1 / (1 + ((position_um - focus_um) / half_width_um) ** 2)


class Watched:
    """Count the calls of a device's method, keep their statuses, and let one of them fail."""

    def __init__(self, method: Callable) -> None:
        self.method = method
        self.statuses: list = []
        self.calls = 0
        self.fails_at: int | None = None
        self.fails_with: Callable = lambda: None

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls - 1 == self.fails_at:
            status = self.fails_with()
            if status is not None:
                return status
        status = self.method(*args, **kwargs)
        self.statuses.append(status)
        return status


class Bench:
    """An axis and a camera whose contrast is a function of the position of the load."""

    focus_um = 7.3
    start_um = -11.0
    bounds_um = (-40.0, 50.0)
    depth_of_field_um = 2.0

    def __init__(
        self,
        frame_directory: Path,
        contrast: Callable[[float], float] = peak,
        *,
        start_um: float = -11.0,
        limits: tuple[float, float] = (-100.0, 100.0),
        mechanics: AxisMechanics | None = None,
        level: float = 10_000.0,
        dtype: type = np.uint16,
        **axis_options,
    ) -> None:
        self.start_um = start_um
        self.contrast, self.level, self.dtype = contrast, level, dtype
        self.pattern = np.random.default_rng(3).uniform(-1, 1, (32, 32))
        self.axis = SimulatedAxis(
            name="z", limits=limits, position_um=start_um, mechanics=mechanics, **axis_options
        )
        self.camera = SimulatedCamera(
            name="camera",
            render=lambda: self.frame(self.axis.load_um),
            frame_directory=frame_directory,
            frame_shape=(32, 32),
            dtype=dtype,
        )
        self.axis.set = self.moves = Watched(self.axis.set)
        self.camera.trigger = self.triggers = Watched(self.camera.trigger)

    def frame(self, position_um: float) -> np.ndarray:
        frame = self.level * (1 + 0.8 * self.contrast(position_um) * self.pattern)
        return frame.clip(0, 65535).astype(self.dtype)

    def score(self, position_um: float) -> float:
        """Return what the default analysis makes of the frame at a position."""
        return SharpnessAnalysis().analyse_frame(self.frame(position_um)).value

    @property
    def pending(self) -> list:
        return [status for status in self.moves.statuses + self.triggers.statuses if not status.done]


@pytest.fixture
def make_bench(tmp_path) -> Callable[..., Bench]:
    numbers = itertools.count()
    return lambda *args, **options: Bench(tmp_path / f"frames{next(numbers)}", *args, **options)


@pytest.fixture
def bench(make_bench) -> Bench:
    return make_bench()


@pytest.fixture
def run(RE) -> Callable:  # noqa: N803
    """Return a function that runs a stub in a run of its own and gives its verdict."""

    def run(stub, **md):
        verdicts = []

        @bpp.run_decorator(md=md)
        def plan():
            verdicts.append((yield from stub))

        RE(plan())
        return verdicts[0]

    return run


@pytest.fixture
def messages(RE) -> list[Msg]:  # noqa: N803
    """Every message that the RunEngine processes."""
    seen: list[Msg] = []
    RE.msg_hook = seen.append
    return seen


@pytest.fixture
def live_solvers() -> Callable[[], list[greenlet]]:
    """Return a function that finds greenlets of solvers, begun in this test, that are not at their end."""

    def find() -> list[greenlet]:
        return [one for one in gc.get_objects() if isinstance(one, greenlet) and one and one.parent]

    before = find()
    return lambda: [one for one in find() if one not in before]
