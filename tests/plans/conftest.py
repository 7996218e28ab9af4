"""A bench on which every frame is a known function of where the axis stands."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bluesky import preprocessors as bpp
from bluesky.utils import Msg
from greenlet import greenlet
from ophyd import Component as Cpt
from ophyd import Device, Signal
from solvers import know_solvers
from solvers import live_solvers as solvers_now

from bluesky_autofocus.callbacks import (
    KeyFrameAnalysis,
    SharpnessAnalysis,
    SingleShotAnalysis,
    TwoLEDAnalysis,
)
from bluesky_autofocus.defocus import DefocusEstimate, ModelMismatchError
from bluesky_autofocus.devices import SimulatedAxis, SimulatedCamera, SimulatedLEDArray
from bluesky_autofocus.leds import Orientation, Single
from bluesky_autofocus.models.key_frame import KeyFrameEstimate, Scan
from bluesky_autofocus.records import Reason
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


class Objective(Device):
    numerical_aperture = Cpt(Signal, value=0.5, kind="normal")
    wavelength_um = Cpt(Signal, value=0.53, kind="normal")
    pixel_size_um = Cpt(Signal, value=0.3, kind="normal")
    magnification = Cpt(Signal, value=20.0, kind="normal")
    refractive_index = Cpt(Signal, value=1.0, kind="normal")


class LightBench(Bench):
    """A bench under an LED array, whose frames say in three pixels where they were taken, and by what light.

    Shows, until a plan changes it, "half_annulus_left".
    """

    before = "half_annulus_left"

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **{"dtype": np.float32, **options})
        self.leds = SimulatedLEDArray(name="leds", orientation=Orientation())
        self.leds.set(self.before).wait(1)
        self.leds.set = self.patterns = Watched(self.leds.set)
        self.objective = Objective(name="objective")
        self.detectors = [self.camera, self.objective]

    def frame(self, position_um: float) -> np.ndarray:
        frame = super().frame(position_um)
        # the first frames are those of `Bench.__init__`, before there is light
        na = (self.leds.mean_na_x, self.leds.mean_na_y) if hasattr(self, "leds") else (0.0, 0.0)
        frame[0, :3] = self.level + 20 * position_um, *na
        return frame

    @property
    def pending(self) -> list:
        return super().pending + [status for status in self.patterns.statuses if not status.done]


class Knowing:
    """An estimator that reads the truth from the frames of a `LightBench`, and may be told to err.

    Parameters
    ----------
    leds : sequence of Single
        One frame under each.
    says : callable
        ``says(true defocus)`` is what it makes of it: a number, or an estimate.
    """

    range_um = 40.0
    model_hash = "0123abcd"

    def __init__(self, *leds: Single, says: Callable = lambda defocus_um: defocus_um, sigma_um: float = 0.1):
        self.leds, self.says, self.sigma_um = leds, says, sigma_um
        self.frames_needed = len(leds)
        self.parameters = {"kind": "knowing"}

    def check(self, optics, na_xy_list) -> None:
        if optics.numerical_aperture != 0.5:
            raise ModelMismatchError(f"made for NA 0.5, the objective has {optics.numerical_aperture}")
        wanted = [led.na_xy for led in self.leds]
        if not np.allclose(wanted, na_xy_list, atol=0.02):
            raise ModelMismatchError(f"made for LEDs at {wanted}, not at {na_xy_list}")

    def estimate(self, *frames) -> DefocusEstimate:
        for frame, led in zip(frames, self.leds, strict=True):
            assert frame[0, 1:3] == pytest.approx(led.na_xy, abs=0.02), "each frame in its place"
        truth = np.mean([(float(frame[0, 0]) - 10_000) / 20 for frame in frames]) - Bench.focus_um
        said = self.says(float(truth))
        return said if isinstance(said, DefocusEstimate) else DefocusEstimate(said, self.sigma_um)


COARSE = Scan("coarse", (0.88, 1.2), 1.0, (3, 5), 1)
FINE = Scan("fine", (0.22, 0.3), 0.25, (5, 9), 3)


class KnowingPlanes:
    """A key-frame model that reads the truth from the frames of a `LightBench`, and may be told to err.

    Beyond half a plane from the edge it knows on which side the focus is, and no more.

    Parameters
    ----------
    scans : sequence of Scan
        What it compares.
    says : callable
        ``says(scan, true position of focus from the first plane)`` is what it makes of it: a number, an
        estimate, or a reason to refuse.
    upwards : int
        -1 where the axis runs downwards: frames have to arrive from the lowest plane all the same.
    """

    model_hash = "89abcdef"

    def __init__(
        self,
        *scans: Scan,
        says: Callable = lambda scan, focus_um: focus_um,
        sigma_um: float = 0.02,
        upwards: int = 1,
    ) -> None:
        self.scans = scans or (COARSE, FINE)
        self.says, self.sigma_um, self.upwards = says, sigma_um, upwards
        self.parameters = {"kind": "knowing planes", "scans": [scan.name for scan in self.scans]}
        self.seen: list[list[float]] = []

    def check(self, optics) -> None:
        if optics.numerical_aperture != 0.5:
            raise ModelMismatchError(f"made for NA 0.5, the objective has {optics.numerical_aperture}")

    def scan_of(self, spacing_um: float, n_planes: int) -> Scan:
        for scan in self.scans:
            low, high = scan.spacing_um
            if low <= spacing_um <= high and scan.planes[0] <= n_planes <= scan.planes[1]:
                return scan
        raise ModelMismatchError(f"{n_planes} planes {spacing_um:g} um apart: made for other scans")

    def estimate(self, frames, spacing_um, *, mask=None) -> KeyFrameEstimate:
        scan, n = self.scan_of(spacing_um, len(frames)), len(frames)
        positions = [(float(frame[0, 0]) - 10_000) / 20 for frame in frames]
        assert np.diff(positions) == pytest.approx(self.upwards * spacing_um, abs=0.02), "a row of planes"
        self.seen.append(positions)
        said = self.says(scan, self.upwards * (Bench.focus_um - positions[0]))
        if isinstance(said, Reason):
            return KeyFrameEstimate.refused(said)
        if isinstance(said, KeyFrameEstimate):
            return said
        last_um = (n - 1) * spacing_um
        inside = -0.5 * spacing_um <= said <= last_um + 0.5 * spacing_um
        return KeyFrameEstimate(
            focus_um=said if inside else (-spacing_um if said < 0 else last_um + spacing_um),
            sigma_um=self.sigma_um,
            plane=int(np.clip(round(said / spacing_um), 0, n - 1)),
            probabilities=(1 / n,) * n,
            outside=(0.0, 0.0),
            cells=1,
            accepted=inside,
            reason=Reason.OK if inside else Reason.EDGE,
        )


LED = Single(0.4, 0.0)


@pytest.fixture
def make_light_bench(tmp_path) -> Callable[..., LightBench]:
    numbers = itertools.count()
    return lambda *args, **options: LightBench(tmp_path / f"light{next(numbers)}", *args, **options)


@pytest.fixture
def light_bench(make_light_bench) -> LightBench:
    return make_light_bench()


@pytest.fixture
def single_shot(RE) -> Callable[..., SingleShotAnalysis]:  # noqa: N803
    """Return a function that makes an analysis of frames under one LED and subscribes it."""

    def make(says: Callable = lambda defocus_um: defocus_um, sigma_um: float = 0.1, led: Single = LED):
        made = SingleShotAnalysis(Knowing(led, says=says, sigma_um=sigma_um))
        RE.subscribe(made)
        return made

    return make


@pytest.fixture
def two_led(RE) -> Callable[..., TwoLEDAnalysis]:  # noqa: N803
    """Return a function that makes an analysis of frames under two LEDs and subscribes it."""

    def make(says: Callable = lambda defocus_um: defocus_um, sigma_um: float = 0.1):
        made = TwoLEDAnalysis(Knowing(LED, LED.opposite, says=says, sigma_um=sigma_um))
        RE.subscribe(made)
        return made

    return make


@pytest.fixture
def key_frame(RE) -> Callable[..., KeyFrameAnalysis]:  # noqa: N803
    """Return a function that makes an analysis of the planes of scans and subscribes it."""

    def make(*scans: Scan, name: str = "key_frame", **options):
        made = KeyFrameAnalysis(KnowingPlanes(*scans, **options), name=name)
        RE.subscribe(made)
        return made

    return make


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
def live_solvers(monkeypatch) -> Callable[[], list[greenlet]]:
    """Return a function that finds greenlets of solvers, begun in this test, that are not at their end."""
    know_solvers(monkeypatch)
    before = solvers_now()
    return lambda: [one for one in solvers_now() if one not in before]
