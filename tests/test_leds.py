import math

import numpy as np
import pytest

from bluesky_autofocus.leds import (
    NAMES,
    Annulus,
    HalfAnnulus,
    LEDGeometry,
    LEDs,
    Line,
    Orientation,
    PatternError,
    Single,
    parse_pattern,
    quasi_dome,
    synthesise,
)

PATTERNS = [
    Single(0.4),
    Single(0.41234567891, -33.3),
    Line(0.1, 0.4, 90),
    Annulus(0.0, 0.5),
    HalfAnnulus("left", 0.41, 0.485),
    LEDs((3, 1)),
    LEDs(()),
]


@pytest.fixture(scope="module")
def dome() -> LEDGeometry:
    return quasi_dome()


class TestText:
    @pytest.mark.parametrize("pattern", PATTERNS, ids=str)
    def test_round_trip(self, pattern):
        assert parse_pattern(str(pattern), 0.5) == pattern

    def test_positions_will_do(self):
        assert parse_pattern("single(0.4, 90)", 0.5) == Single(0.4, 90)
        assert parse_pattern(" Single(na=0.4) ", 0.5) == Single(0.4)

    @pytest.mark.parametrize("name", NAMES)
    def test_names_follow_the_objective(self, name, dome):
        for aperture in (0.3, 0.5):
            chosen = dome.select(parse_pattern(name, aperture))
            na = np.hypot(*dome.na_xy[list(chosen)].T)
            assert ((na > aperture) == (name == "darkfield")).all()
            assert bool(chosen) == (name != "off")

    @pytest.mark.parametrize(
        "text",
        [
            "half_annulus_middle",
            "single",
            "single(na=0.4",
            "single(na=1.2)",
            "single(na='x')",
            "single(nan)",
            "single(na=0.4, colour=1)",
            "single(**{})",
            "leds((0.5,))",
            "leds(3)",
            "line(0.4, 0.1)",
            "line(0.1)",
            "__import__('os').system('true')",
            "single(__import__('os').getpid())",
            "",
            "\0",
        ],
    )
    def test_no_pattern(self, text):
        with pytest.raises(PatternError):
            parse_pattern(text, 0.5)

    def test_the_error_names_the_value_and_what_there_is(self):
        with pytest.raises(
            PatternError, match="'brightfeild' is no illumination pattern.*brightfield.*single"
        ):
            parse_pattern("brightfeild", 0.5)
        with pytest.raises(PatternError, match="expected a pattern or its name, got 3"):
            parse_pattern(3, 0.5)  # type: ignore[arg-type]
        with pytest.raises(PatternError, match="angle_deg is inf"):
            Single(0.4, math.inf)
        with pytest.raises(PatternError, match="side is 'up'"):
            HalfAnnulus("up", 0.1, 0.2)  # type: ignore[arg-type]


class TestGeometry:
    def test_a_dome_has_spokes_along_the_axes(self, dome):
        for angle in (0, 90, 180, 270):
            assert dome.na_xy[dome.select(Single(0.4, angle))[0]] == pytest.approx(Single(0.4, angle).na_xy)
        assert len(dome.select(Line(0.05, 0.4, 90))) == 8

    def test_halves(self, dome):
        ring = set(dome.select(parse_pattern("annulus", 0.5)))
        top, bottom, left = (
            set(dome.select(parse_pattern(f"half_annulus_{s}", 0.5))) for s in ("top", "bottom", "left")
        )
        assert not top & bottom and top | bottom < ring and len(ring - top - bottom) == 2
        assert (dome.na_xy[list(top), 1] < 0).all()  # y runs down
        assert (dome.na_xy[list(left), 0] < 0).all()

    def test_light_falls_with_the_cosine(self, dome):
        (led,) = dome.select(Single(0.6))
        assert dome.irradiance[led] == pytest.approx(0.8)
        assert dome.irradiance.max() == 1

    def test_orientation_turns_directions(self, dome):
        (straight,) = dome.select(Single(0.4, 0))
        turned = dome.turned(Orientation(90.0))
        assert turned.select(Single(0.4, 90)) == (straight,)
        mirrored = dome.turned(Orientation(0.0, mirrored=True))
        assert mirrored.select(Single(0.4, -90)) == dome.select(Single(0.4, 90))

    def test_what_the_array_lacks(self, dome):
        with pytest.raises(PatternError, match=r"the nearest is at NA 0\.400, 0\.0 degrees"):
            dome.select(Single(0.4, 7))
        with pytest.raises(PatternError, match=r"no LEDs \[5000\]"):
            dome.select(LEDs((1, 5000)))
        with pytest.raises(PatternError, match="no LED of this array belongs to annulus"):
            dome.select(Annulus(0.9, 0.95))

    def test_directions_must_be_directions(self):
        with pytest.raises(ValueError, match="within NA 1"):
            LEDGeometry([(1.0, 0.3)])


class TestOrientation:
    @pytest.mark.parametrize("mirrored", [False, True])
    @pytest.mark.parametrize("rotation_deg", [-170.0, -3.0, 0.0, 90.0])
    def test_found_from_directions(self, rotation_deg, mirrored):
        truth = Orientation(rotation_deg, mirrored)
        array = np.array([(0.4, 0), (0, 0.4), (-0.28, -0.28)])
        noise = np.random.default_rng(0).normal(0, 1e-3, array.shape)
        found = Orientation.between(array, array @ truth.matrix.T + noise)
        assert found.mirrored == mirrored
        assert found.rotation_deg == pytest.approx(rotation_deg, abs=0.3)

    @pytest.mark.parametrize(
        ("array", "frame"),
        [
            ([(0.4, 0)], [(0.4, 0)]),
            ([(0.4, 0), (-0.2, 0)], [(0.4, 0), (-0.2, 0)]),
            ([(0.4, 0), (0, 0.4)], [(0.4, 0), (0.4, 0)]),
            ([(0.4, 0), (0, 0.4)], [(0.4, 0), (math.nan, 0.4)]),
            ([(0.4, 0), (0, 0.4)], [(0.4, 0)]),
        ],
    )
    def test_too_little_to_tell(self, array, frame):
        with pytest.raises(ValueError, match="two LEDs or more"):
            Orientation.between(array, frame)

    @pytest.mark.parametrize("values", [(math.nan, False), ("3", False), (3.0, 1), (True, False)])
    def test_no_orientation(self, values):
        with pytest.raises(ValueError, match="expected"):
            Orientation(*values)


class TestSynthesis:
    def test_frames_add_and_the_offset_counts_once(self):
        frames = [np.full((3, 4), 100 + light, np.uint16) for light in (40_000, 30_000, 5)]
        total = synthesise(frames, offset=100)
        assert total.dtype == np.float64
        assert (total == 70_105).all()  # more than 16 bits hold

    def test_one_frame_is_itself(self):
        frame = np.arange(12, dtype=np.uint8).reshape(3, 4)
        assert (synthesise(frame[None], offset=7) == frame).all()

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            ([], "no frames"),
            ([np.zeros((3, 4)), np.zeros((4, 3))], "one shape"),
            ([np.zeros(3)], "one shape"),
            ([np.zeros((3, 4), complex)], "type complex128"),
            ([np.zeros((3, 4), bool)], "type bool"),
        ],
    )
    def test_no_frames_of_one_kind(self, frames, message):
        with pytest.raises(ValueError, match=message):
            synthesise(frames)
        with pytest.raises(ValueError, match="offset is nan"):
            synthesise(frames, offset=math.nan)
