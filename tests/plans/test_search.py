import json
import math

import numpy as np
import pytest
from bluesky.simulators import summarize_plan
from ophyd.utils import LimitError
from scipy.ndimage import gaussian_filter

from bluesky_autofocus.callbacks import NotSubscribedError, SharpnessAnalysis
from bluesky_autofocus.plans import METHODS, autofocus, search_focus
from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_OCTAVE_EXPOSURES
from bluesky_autofocus.sharpness import band_energies

DOF_UM = 2.0


def at(focus_um, half_width_um=6.0):
    return lambda z: 1 / (1 + ((z - focus_um) / half_width_um) ** 2)


@pytest.fixture
def analysis(RE):  # noqa: N803
    """The frames of the bench are noise that grows: they have a score, and nothing in any octave."""
    of_scores = SharpnessAnalysis(octaves=False)
    RE.subscribe(of_scores)
    return of_scores


@pytest.fixture
def focus(analysis, run):
    """Return a function that focuses a bench and gives the verdict."""

    def focus(bench, **options):
        options = {"bounds_um": bench.bounds_um, "depth_of_field_um": DOF_UM, **options}
        return run(search_focus([bench.camera], bench.axis, analysis=analysis, **options), sample="grains")

    return focus


class TestFound:
    @pytest.fixture
    def verdict(self, bench, documents, focus):
        return focus(bench, budget=18)

    def test_the_axis_stands_on_it(self, bench, verdict):
        assert verdict.reason is Reason.FOUND
        assert bench.axis.position == verdict.position_um
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=DOF_UM / 2)
        assert 0 < verdict.sigma_um < DOF_UM / 3
        assert verdict.method == "search" and verdict.start_um == bench.start_um

    def test_the_exposures_are_the_events(self, bench, verdict, documents):
        positions = [data["z"] for data in documents.events("focus_search")]
        assert verdict.exposures == len(positions) == bench.triggers.calls <= 18
        assert {*bench.bounds_um} <= {*positions}
        assert positions[-1] == verdict.position_um

    def test_it_is_recorded(self, verdict, documents):
        (recorded,) = documents.events("verdict")
        assert recorded["verdict_method"] == "search" and recorded["verdict_found"] is True
        parameters = json.loads(recorded["verdict_parameters"])
        assert parameters["bounds_um"] == [-40.0, 50.0]
        assert (parameters["depth_of_field_um"], parameters["widen_um"], parameters["precision"]) == (
            DOF_UM,
            0.0,
            0.1,
        )
        assert documents.named("start")[0]["sample"] == "grains"


@pytest.mark.parametrize("start_um", [-35.0, 7.0, 90.0])
@pytest.mark.parametrize("confirm", [True, False])
def test_from_wherever_it_starts(make_bench, focus, start_um, confirm):
    bench = make_bench(start_um=start_um)
    verdict = focus(bench, confirm=confirm, budget=18)
    assert verdict.found and verdict.start_um == start_um
    assert bench.axis.position == pytest.approx(bench.focus_um, abs=DOF_UM / 2)


class TestWidening:
    NARROW = {"bounds_um": None, "range_um": 20.0, "budget": 20}
    """About the start at -11: the peak at 7.3 lies 8 um beyond it."""

    def test_not_unless_it_is_told_to(self, bench, focus):
        verdict = focus(bench, **self.NARROW)
        assert verdict.reason is Reason.EDGE
        assert bench.axis.position == bench.start_um

    def test_as_far_as_it_must(self, bench, documents, focus):
        verdict = focus(bench, **self.NARROW, widen_um=40.0)
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=DOF_UM / 2)
        positions = [data["z"] for data in documents.events("focus_search")]
        assert min(positions) == pytest.approx(-21.0)
        assert bench.focus_um < max(positions) <= 39.0
        assert verdict.parameters["bounds_um"] == [-61.0, 39.0]
        assert verdict.parameters["widen_um"] == 40.0

    def test_and_no_farther(self, bench, documents, focus):
        verdict = focus(bench, **self.NARROW, widen_um=4.0)
        assert verdict.reason is Reason.EDGE
        assert max(data["z"] for data in documents.events("focus_search")) == pytest.approx(3.0)

    def test_bounds_widen_too(self, bench, focus):
        verdict = focus(bench, bounds_um=(-30.0, 0.0), widen_um=30.0, budget=20)
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=DOF_UM / 2)


class TestOctaves:
    """Of the simulated SEM, by an analysis that measures them."""

    @pytest.fixture
    def octaves(self, RE):  # noqa: N803
        by_octaves = SharpnessAnalysis(name="octaves")
        RE.subscribe(by_octaves)
        return by_octaves

    @pytest.fixture
    def focus_sem(self, sem, octaves, run):
        def focus(range_dof, **options):
            dof_um = sem.depth_of_field_um
            options = {"range_um": range_dof * dof_um, "depth_of_field_um": dof_um, **options}
            return run(search_focus([sem], sem.working_distance, analysis=octaves, **options))

        return focus

    @pytest.mark.parametrize(("range_dof", "most"), [(30, 8), (80, 13)])
    def test_it_takes_few_exposures(self, sem, focus_sem, range_dof, most):
        verdict = focus_sem(range_dof)
        assert verdict.found, verdict
        assert verdict.exposures <= most
        assert sem.working_distance.load_um == pytest.approx(sem.focus_um, abs=sem.depth_of_field_um / 4)
        assert abs(verdict.position_um - sem.focus_um) < 4 * verdict.sigma_um

    def test_without_a_depth_of_field(self, sem, focus_sem):
        verdict = focus_sem(30, depth_of_field_um=None)
        assert sem.working_distance.load_um == pytest.approx(sem.focus_um, abs=sem.depth_of_field_um / 2)
        assert verdict.parameters["depth_of_field_um"] is None

    def test_a_lost_frame_is_taken_again(self, sem, focus_sem, documents, octaves):
        of_octaves, numbers = octaves.analyse_frame, iter(range(99))
        octaves.analyse_frame = lambda frame: of_octaves(frame * (next(numbers) not in (1, 4)))
        verdict = focus_sem(30)
        assert verdict.found and verdict.exposures <= 10
        accepted = [event["octaves_accepted"] for event in documents.events("reading_octaves")]
        assert accepted.count(False) == 2 and len(accepted) == verdict.exposures

    @pytest.mark.parametrize(
        ("contrast", "options", "reason"),
        [
            (-0.5, {}, Reason.SPECKS),
            (-0.5, {"specks": True}, Reason.FOUND),
            (0.5, {}, Reason.FOUND),
        ],
    )
    def test_a_few_dark_specks_may_be_dust(self, sem, focus_sem, octaves, contrast, options, reason):
        of_octaves, rng = octaves.analyse_frame, np.random.default_rng(5)
        y, x = np.ogrid[:256, :256]
        inside = sum(np.hypot(y - row, x - column) < 8 for row, column in [(70, 60), (190, 150), (40, 200)])
        start_um = sem.working_distance.position

        def seen_instead(frame):
            away_dof = (sem.working_distance.load_um - sem.focus_um) / sem.depth_of_field_um
            blurred = gaussian_filter(inside.astype(float), math.hypot(1, away_dof))
            return of_octaves(200 * (1 + contrast * blurred) + rng.normal(0, 4, inside.shape))

        octaves.analyse_frame = seen_instead
        verdict = focus_sem(30, **options)
        assert verdict.reason is reason
        expected_um = sem.focus_um if verdict.found else start_um
        assert sem.working_distance.load_um == pytest.approx(expected_um, abs=sem.depth_of_field_um / 2)
        assert verdict.parameters["specks"] is bool(options)

    def test_its_readings_have_them(self, sem, focus_sem, octaves):
        seen, of_octaves = [], octaves.analyse_frame
        octaves.analyse_frame = lambda frame: seen.append(frame) or of_octaves(frame)
        assert focus_sem(30).found
        bands = octaves.reading("focus_search").bands
        assert np.array_equal(bands.energies, band_energies(seen[-1]).energies)
        assert bands.energies[-2].mean() > 2 * band_energies(seen[0]).energies[-2].mean()


class TestNotFound:
    """Each with its reason, and the axis back at exactly where it was."""

    @pytest.mark.parametrize(
        ("contrast", "reasons"),
        [
            (lambda z: 0.5, {Reason.FLAT}),
            (at(-47.0), {Reason.EDGE}),
            (at(56.0), {Reason.EDGE}),
            (lambda z: at(25.0)(z) + 0.97 * at(-16.0)(z), {Reason.SEVERAL_PEAKS, Reason.POOR_FIT}),
        ],
    )
    def test_no_single_peak(self, make_bench, focus, contrast, reasons):
        bench = make_bench(contrast)
        verdict = focus(bench, budget=20)
        assert verdict.reason in reasons and math.isnan(verdict.position_um)
        assert verdict.exposures <= 20
        assert bench.axis.position == bench.start_um and bench.moves.calls > 0

    def test_a_frame_that_cannot_be_used(self, make_bench, focus):
        bench = make_bench(level=1e6)
        verdict = focus(bench)
        assert (verdict.reason, verdict.exposures) == (Reason.SATURATED, 3)  # twice taken again
        assert bench.axis.position == bench.start_um

    @pytest.mark.parametrize("lost", [(1, 2), (1, 7), (6, 12)])
    def test_a_flicker_costs_an_exposure_and_no_more(self, bench, focus, documents, lost):
        bench.camera.render = lambda: bench.frame(bench.axis.load_um) * (bench.triggers.calls not in lost)
        verdict = focus(bench, budget=22)
        assert verdict.position_um == pytest.approx(bench.focus_um, abs=DOF_UM / 2)
        assert verdict.exposures <= 22
        asked_um = [event["z"] for event in documents.events("focus_search")]
        assert [asked_um[one] for one in lost] == [asked_um[one - 1] for one in lost]


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"bounds_um": (50.0, -40.0)}, ValueError, r"bounds_um .*\(50.0, -40.0\)"),
        ({"bounds_um": None}, ValueError, r"either bounds_um .* or range_um"),
        ({"range_um": 20.0}, ValueError, r"either bounds_um .* or range_um"),
        ({"bounds_um": None, "range_um": -5.0, "widen_um": 10.0}, ValueError, r"range_um .*-5.0"),
        ({"depth_of_field_um": 0.0}, ValueError, r"depth_of_field_um .*0.0"),
        ({"precision": -0.1}, ValueError, r"precision .*-0.1"),
        ({"widen_um": -1.0}, ValueError, r"widen_um .*-1.0"),
        ({"widen_um": math.inf}, ValueError, r"widen_um .*inf"),
        ({"widen_um": 70.0}, LimitError, r"z: -110.0 um"),
        ({"widen_um": 10.0, "travel_um": (-45.0, 70.0)}, ValueError, r"travel_um .* must contain .*-50.0"),
        ({"budget": LEAST_OCTAVE_EXPOSURES}, ValueError, rf"budget .*{LEAST_OCTAVE_EXPOSURES + 1} .*search"),
    ],
)
def test_bad_input(bench, focus, messages, options, error, named):
    with pytest.raises(error, match=named):
        focus(bench, **options)
    assert not {"set", "trigger"} & {message.command for message in messages}


def test_an_analysis_that_is_not_subscribed(bench, run):
    with pytest.raises(NotSubscribedError):
        run(
            search_focus(
                [bench.camera],
                bench.axis,
                analysis=SharpnessAnalysis(name="mine"),
                bounds_um=bench.bounds_um,
                depth_of_field_um=DOF_UM,
            )
        )


@pytest.mark.parametrize("place", [{"bounds_um": (-40.0, 50.0)}, {"range_um": 80.0}])
def test_a_dry_run(bench, capsys, place):
    def plan():
        return search_focus(
            [bench.camera], bench.axis, analysis=SharpnessAnalysis(), depth_of_field_um=DOF_UM, **place
        )

    low_um, high_um = place.get("bounds_um", (-40.0, 40.0))
    positions = [message.args[0] for message in plan() if message.command == "set"]
    assert len(positions) > 4
    assert all(low_um <= position <= high_um for position in positions)
    summarize_plan(plan())
    assert "z ->" in capsys.readouterr().out
    assert bench.moves.calls == 0


def test_by_its_name(RE, bench, analysis, documents):  # noqa: N803
    assert METHODS["search"] is search_focus
    RE(
        autofocus(
            [bench.camera],
            bench.axis,
            analysis=analysis,
            method="search",
            bounds_um=bench.bounds_um,
            depth_of_field_um=DOF_UM,
            md={"sample": "grains"},
        )
    )
    (start,) = documents.named("start")
    assert (start["method"], start["sample"]) == ("search", "grains")
    assert documents.events("verdict")[0]["verdict_found"]
