# ruff: noqa: N803 - every bluesky user calls it RE

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest
from ophyd.utils import LimitError

from bluesky_autofocus.clock import VirtualClock
from bluesky_autofocus.devices import ReplayedAxis, replayed_instrument
from bluesky_autofocus.frames import read_frame
from bluesky_autofocus.simulation.motion import AxisMechanics
from bluesky_autofocus.stacks import FocusStack

POSITIONS_UM = [-4.0, -1.0, 0.0, 2.5, 10.0]


@pytest.fixture
def stack():
    """Return planes at uneven distances, each filled with its own number."""
    frames = np.arange(5, dtype=np.uint16)[:, None, None] * np.ones((1, 6, 7), np.uint16)
    return FocusStack("numbered", frames, np.array(POSITIONS_UM))


@pytest.fixture
def instrument(stack, tmp_path):
    return replayed_instrument(stack, tmp_path / "frames")


def shown(documents):
    resources = {doc["uid"]: doc for doc in documents.named("stream_resource")}
    return [
        int(read_frame(resources[doc["stream_resource"]], doc["indices"]["start"]).max())
        for doc in documents.named("stream_datum")
    ]


def test_every_plane_shows_its_frame(RE, documents, instrument):
    camera, z = instrument
    RE(bp.list_scan([camera], z, POSITIONS_UM))
    events = documents.events("primary")
    assert [event["z"] for event in events] == POSITIONS_UM
    assert [event["z_plane"] for event in events] == [0, 1, 2, 3, 4]
    assert shown(documents) == [0, 1, 2, 3, 4]
    (descriptor,) = documents.named("descriptor")
    assert descriptor["data_keys"]["z_plane"]["dtype"] == "integer"


def test_goes_to_the_nearest_plane_and_says_so(RE, documents, instrument):
    camera, z = instrument
    RE(bp.list_scan([camera], z, [-3.0, -0.4, 1.2, 6.3, 9.9]))
    assert [event["z"] for event in documents.events("primary")] == [-4, 0, 0, 10, 10]
    assert [event["z_setpoint"] for event in documents.events("primary")] == [-4, 0, 0, 10, 10]
    assert shown(documents) == [0, 2, 2, 4, 4]


@pytest.mark.parametrize("target", [-4.01, 10.5, float("nan")])
def test_ends_with_the_stack(RE, instrument, target):
    _, z = instrument
    with pytest.raises(LimitError, match=r"limits -4.0 \.\. 10.0 um"):
        RE(bps.mv(z, target))
    assert z.position == -4


def test_where_it_starts(stack, tmp_path):
    assert ReplayedAxis(name="z", stack=stack).position == -4
    camera, z = replayed_instrument(stack, tmp_path, position_um=2.0)
    assert z.position == 2.5
    assert z.plane.get() == 3
    for outside in (11, -5, float("nan")):
        with pytest.raises(ValueError, match="position_um must lie within"):
            ReplayedAxis(name="z", stack=stack, position_um=outside)


def test_the_plane_is_the_one_the_camera_shows(RE, documents, stack, tmp_path):
    """Also where backlash keeps the load behind: at 0 um, driven downwards, it stands at 3 um."""
    clock = VirtualClock()
    camera, z = replayed_instrument(
        stack, tmp_path, clock=clock, mechanics=AxisMechanics(velocity_um_s=1.0, backlash_um=3.0)
    )
    RE(bps.mv(z, 10))
    assert clock.now_s() == 14
    RE(bps.mv(z, 0))
    RE(bp.count([camera, z]))
    assert documents.events("primary")[0]["z_plane"] == 3
    assert shown(documents) == [3]


@pytest.mark.parametrize(
    ("dtype", "shown_as"),
    [(np.uint8, np.uint8), (np.float32, np.float32), (np.int32, np.float32)],
)
def test_pixel_types(RE, stack, tmp_path, dtype, shown_as):
    camera, z = replayed_instrument(FocusStack("s", stack.frames.astype(dtype), stack.positions_um), tmp_path)
    RE(bp.count([camera]))
    assert camera.dtype == shown_as


def test_colour(RE, documents, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3)).astype(np.uint8)
    camera, z = replayed_instrument(FocusStack("rgb", frames, np.arange(3.0)), tmp_path)
    RE(bp.scan([camera], z, 0, 2, 3))
    means = [event["camera_mean"] for event in documents.events("primary")]
    assert means == pytest.approx(frames.mean(axis=(1, 2, 3)))
