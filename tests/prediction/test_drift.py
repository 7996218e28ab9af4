"""Focus between corrections: where it is expected, how surely, and what is not believed."""

import json
import math

import numpy as np
import pytest

from bluesky_autofocus.prediction import DriftFilter
from bluesky_autofocus.prediction._filter_bank import FilterBank
from bluesky_autofocus.simulation.drift import DRIFTS, focus_drift

SIGMA_UM = 0.15
ALLOWED_UM = 0.4
STEP_S = 60.0


def observed(rate_um_s=0.0, *, every_s=300.0, n=8, focus_um=5.0, **options):
    """Return a filter that has seen a steady drift without noise, and when it saw it last."""
    made = DriftFilter(**options)
    for number in range(n):
        made.observe(number * every_s, focus_um + rate_um_s * number * every_s, 0.1)
    return made, (n - 1) * every_s


def night(kind, seed, *, hours=4.0, stated=1.0):
    """Correct whenever the filter is less certain than allowed.

    Returns
    -------
    z : numpy.ndarray
        Errors of the predictions in between, in their own standard deviations. Of a knock those are left
        out that come before anybody can have noticed.
    corrections : int
    filter : DriftFilter
    """
    rng = np.random.default_rng((seed, DRIFTS.index(kind)))
    times_s = np.arange(0, hours * 3600 + 1, STEP_S)
    focus_um, room_c = focus_drift(kind, times_s, rng)
    knocked_s = times_s[1:][np.abs(np.diff(focus_um)) > 2] if kind == "knocked" else []
    made, z, corrections = DriftFilter(), [], 0
    for number, now_s in enumerate(times_s):
        temperature_c = None if room_c is None else room_c[number]
        predicted = made.predict(now_s, temperature_c=temperature_c)
        if not predicted.known or predicted.sigma_um > ALLOWED_UM:
            found_um = focus_um[number] + rng.normal(0, SIGMA_UM)
            made.observe(now_s, found_um, stated * SIGMA_UM, temperature_c=temperature_c)
            corrections += 1
        elif not any(made.newest_s < one <= now_s for one in knocked_s):
            z.append((focus_um[number] - predicted.position_um) / predicted.sigma_um)
    return np.array(z), corrections, made


class TestHonesty:
    """Two stated standard deviations hold the truth 95 times of 100, and never much less."""

    @pytest.mark.parametrize(
        ("kind", "least", "most"),
        [
            # what strays is what the filters believe in
            ("wandering rate", 0.93, 0.97),
            ("wandering", 0.93, 0.97),
            # what is perfectly smooth turns out better than can be known from so few corrections
            *((kind, 0.95, 1.0) for kind in DRIFTS if not kind.startswith("wandering")),
        ],
    )
    def test_coverage(self, kind, least, most):
        z = np.concatenate([night(kind, seed)[0] for seed in range(16)])
        assert least <= np.mean(np.abs(z) <= 2) <= most

    @pytest.mark.parametrize("kind", ["wandering rate", "wandering"])
    def test_observations_that_say_too_little(self, kind):
        """Stated at 60 % of what they are."""
        z = np.concatenate([night(kind, seed, stated=0.6)[0] for seed in range(12)])
        assert np.mean(np.abs(z) <= 2) >= 0.91

    def test_a_steady_drift_needs_fewer_and_fewer_corrections(self):
        made = DriftFilter()
        intervals_s, now_s = [], 0.0
        for _ in range(12):
            made.observe(now_s, 2e-3 * now_s, 0.1)
            intervals_s.append(made.seconds_until(ALLOWED_UM, now_s))
            now_s += min(intervals_s[-1], 3600)
        assert intervals_s[-1] > 5 * intervals_s[0]
        assert made.parameters["learnt"]["rate_um_per_min"] == pytest.approx(0.12, abs=0.01)


class TestAgainstTheTextbook:
    def test_a_filter_is_a_gaussian_that_is_conditioned(self):
        """Of a random walk, an integrated one and an unknown rate, at irregular times."""
        wander, rate_wander, rate_um_s, coefficient = 0.02, 4e-5, 3e-3, 0.7
        bank = FilterBank(
            wander=wander,
            rate_wander=rate_wander,
            spread=1.0,
            rate_um_s=rate_um_s,
            coefficient=0.0,
            coefficient_sigma=coefficient,
        )
        times_s = np.array([0.0, 40.0, 170.0, 200.0, 900.0, 1000.0])
        found_um = np.array([0.3, 0.9, -0.4, 0.1, 3.0])
        warmth, sigma_um = np.array([0.0, 0.2, -0.5, 0.9, 1.0, 0.4]), 0.2
        bank.begin(found_um[0], sigma_um)
        for number in range(1, 5):
            bank.go(times_s[number] - times_s[number - 1])
            bank.take(found_um[number], sigma_um, warmth[number])

        first, later = np.minimum.outer(times_s, times_s), np.maximum.outer(times_s, times_s)
        wiener = rate_wander**2 * first**2 * (later / 2 - first / 6)
        covariance = (
            wander**2 * first
            + wiener
            + rate_um_s**2 * np.outer(times_s, times_s)
            + coefficient**2 * np.outer(warmth, warmth)
        )
        vague = 1e6  # where focus is at first
        among = covariance[:5, :5] + vague + sigma_um**2 * np.eye(5)
        towards = covariance[5, :5] + vague
        mean = towards @ np.linalg.solve(among, found_um)
        variance = covariance[5, 5] + vague - towards @ np.linalg.solve(among, towards)
        expected, variances = bank._expected(np.array([100.0]), warmth[5])
        as_stated = bank._noise == 1
        assert expected[as_stated] == pytest.approx(mean, abs=1e-5)
        assert variances[as_stated] == pytest.approx(variance, rel=1e-4)
        assert np.unique(expected[~as_stated]).size > 0

    @pytest.mark.parametrize(("wander", "less", "more"), [(0.05, 0.02, 0.12), (2e-4, 0.0, 0.003)])
    def test_how_focus_strays_is_learnt(self, wander, less, more):
        rng = np.random.default_rng(2)
        made, focus_um = DriftFilter(), 0.0
        for number in range(60):
            made.observe(120.0 * number, focus_um + rng.normal(0, 0.05), 0.05)
            focus_um += rng.normal(0, wander * math.sqrt(120))
        assert less < made.parameters["learnt"]["wander_um_per_sqrt_s"] < more

    def test_or_taken_as_stated(self):
        made, _ = observed(rate_um_s=0.01, spread=1.0, wander_um_per_sqrt_s=0.02)
        assert made.parameters["learnt"]["wander_um_per_sqrt_s"] == pytest.approx(0.02)


class TestPredictions:
    def test_nothing_is_known_at_first(self):
        predicted = DriftFilter().predict(3.0)
        assert not predicted.known
        assert math.isnan(predicted.position_um)
        assert predicted.reason == "focus has not been observed yet"
        assert DriftFilter().seconds_until(1.0, 3.0) == 0

    def test_after_one_observation(self):
        made = DriftFilter()
        made.observe(10.0, 5.0, 0.2)
        now, later = made.predict(10.0), made.predict(70.0)
        assert now.position_um == pytest.approx(5.0) == later.position_um
        assert now.reason == "" and now.known
        # that it may drift by 0.2 um / min, and stray, is all that is known
        assert 0.2 < now.sigma_um < 0.3 < later.sigma_um < 0.6

    def test_the_rate_is_followed(self):
        made, last_s = observed(rate_um_s=2e-3)
        assert made.predict(last_s + 600).position_um == pytest.approx(5.0 + 2e-3 * (last_s + 600), abs=0.1)

    def test_it_is_the_less_certain_the_farther_ahead(self):
        made, last_s = observed()
        sigmas_um = [made.predict(last_s + later).sigma_um for later in np.geomspace(1, 1e5, 30)]
        assert (np.diff(sigmas_um) > 0).all()

    @pytest.mark.parametrize("allowed_um", [0.2, 0.4, 3.0])
    def test_for_how_long_it_is_certain_enough(self, allowed_um):
        made, last_s = observed()
        seconds = made.seconds_until(allowed_um, last_s)
        assert made.predict(last_s + seconds).sigma_um == pytest.approx(allowed_um, rel=1e-3)
        assert made.seconds_until(allowed_um, last_s + 30) == pytest.approx(seconds - 30, abs=0.1)
        assert made.seconds_until(allowed_um, last_s + seconds + 1) == 0

    def test_certain_for_months(self):
        made, last_s = observed(
            wander_um_per_sqrt_s=1e-9, rate_wander=1e-15, spread=1.0, rate_um_per_min=1e-9
        )
        assert made.seconds_until(1.0, last_s) == math.inf

    def test_no_observation_is_surer_than_the_floor(self):
        made = DriftFilter(sigma_um_floor=0.3)
        made.observe(0.0, 5.0, 1e-6)
        assert made.predict(0.0).sigma_um >= 0.3

    def test_observations_at_the_same_time(self):
        made = DriftFilter()
        for _ in range(20):
            made.observe(0.0, 5.0, 0.2)
        assert made.predict(0.0).sigma_um < 0.1


class TestTemperature:
    def test_its_coefficient_is_learnt(self):
        rng = np.random.default_rng(5)
        made = DriftFilter()
        for number in range(12):
            room_c = 21 + 0.5 * math.sin(number)
            made.observe(600.0 * number, 1.5 * room_c + rng.normal(0, 0.1), 0.1, temperature_c=room_c)
        learnt = made.parameters["learnt"]
        sigma = learnt["temperature_coefficient_sigma_um_per_c"]
        assert sigma < 0.2
        assert abs(learnt["temperature_coefficient_um_per_c"] - 1.5) < 3 * sigma
        warm, cold = (made.predict(6700.0, temperature_c=room_c) for room_c in (22.0, 20.0))
        assert warm.position_um - cold.position_um == pytest.approx(3.0, abs=0.5)

    def test_one_that_was_not_seen_before_is_less_certain(self):
        made = DriftFilter()
        for number in range(5):
            made.observe(600.0 * number, 5.0, 0.1, temperature_c=21.0 + 0.05 * number)
        seen, unseen = (made.predict(2500.0, temperature_c=room_c) for room_c in (21.1, 26.0))
        assert unseen.sigma_um > 3 * seen.sigma_um

    @pytest.mark.parametrize("missing", [None, math.nan])
    def test_where_it_is_missing_the_last_one_holds(self, missing):
        made = DriftFilter(temperature_coefficient_um_per_c=2.0, temperature_coefficient_sigma_um_per_c=0.0)
        made.observe(0.0, 5.0, 0.1, temperature_c=20.0)
        made.observe(600.0, 7.0, 0.1, temperature_c=21.0)
        assert made.predict(601.0, temperature_c=missing).position_um == pytest.approx(7.0, abs=0.1)
        made.observe(602.0, 7.0, 0.1, temperature_c=missing)
        assert not made.doubt
        assert made.predict(603.0, temperature_c=22.0).position_um == pytest.approx(9.0, abs=0.1)

    def test_it_saves_corrections(self):
        """Against a filter without a thermometer, on the same nights."""

        def corrections(thermometer):
            rng = np.random.default_rng(8)
            times_s = np.arange(0, 4 * 3600, STEP_S)
            focus_um, room_c = focus_drift("temperature", times_s, rng)
            made, n = DriftFilter(), 0
            for now_s, true_um, one_c in zip(times_s, focus_um, room_c, strict=True):
                temperature_c = one_c if thermometer else None
                predicted = made.predict(now_s, temperature_c=temperature_c)
                if not (predicted.known and predicted.sigma_um <= ALLOWED_UM):
                    made.observe(now_s, true_um, SIGMA_UM, temperature_c=temperature_c)
                    n += 1
            return n

        assert corrections(True) < 0.7 * corrections(False)


class TestDoubt:
    def test_an_outlier_has_no_part_in_it(self):
        made, last_s = observed()
        before = made.predict(last_s + 60)
        made.observe(last_s + 60, 17.0, 0.1)
        assert made.doubt.startswith("focus was found +12 um from where it was expected")
        doubtful = made.predict(last_s + 60)
        assert doubtful.sigma_um > 11
        assert doubtful.reason == made.doubt
        assert made.seconds_until(ALLOWED_UM, last_s + 60) == 0
        made.observe(last_s + 120, 5.0, 0.1)
        after = made.predict(last_s + 120)
        assert (made.doubt, after.reason) == ("", "")
        assert made.outliers_s == (last_s + 60,)
        assert made.jumps_s == ()
        assert after.position_um == pytest.approx(before.position_um, abs=0.05)
        assert after.sigma_um < before.sigma_um

    @pytest.mark.parametrize("by_um", [-8.0, 3.0, 50.0])
    def test_a_jump_is_gone_along_with_when_two_agree(self, by_um):
        made, last_s = observed(rate_um_s=1e-3)
        learnt = made.parameters["learnt"]["wander_um_per_sqrt_s"]
        for later in (60, 120):
            made.observe(last_s + later, 5.0 + 1e-3 * (last_s + later) + by_um, 0.1)
        predicted = made.predict(last_s + 600)
        assert predicted.reason == ""
        assert predicted.position_um == pytest.approx(5.0 + 1e-3 * (last_s + 600) + by_um, abs=0.3)
        assert predicted.sigma_um < 0.5
        assert (made.jumps_s, made.outliers_s) == ((last_s + 60,), ())
        # how it strayed before is remembered
        assert made.parameters["learnt"]["wander_um_per_sqrt_s"] == pytest.approx(learnt)

    def test_as_many_witnesses_as_are_wanted(self):
        made, last_s = observed(witnesses=3)
        for later in (10, 20):
            made.observe(last_s + later, 25.0, 0.1)
            assert made.doubt and made.predict(last_s + later).sigma_um > 15
        heard, refuted = (DriftFilter.from_dict(made.to_dict()) for _ in range(2))
        heard.observe(last_s + 30, 25.0, 0.1)
        assert heard.jumps_s == (last_s + 10,)
        assert heard.predict(last_s + 30).position_um == pytest.approx(25.0, abs=0.1)
        refuted.observe(last_s + 30, 5.0, 0.1)
        assert refuted.outliers_s == (last_s + 10, last_s + 20)
        assert refuted.predict(last_s + 30).position_um == pytest.approx(5.0, abs=0.1)

    @pytest.mark.parametrize("witnesses", [1, 2.5, "3"])
    def test_too_few_witnesses(self, witnesses):
        with pytest.raises(ValueError, match="witnesses must be a whole number, at least 2"):
            DriftFilter(witnesses=witnesses)

    @pytest.mark.parametrize("seed", range(6))
    def test_never_goes_on_confidently_after_a_knock(self, seed):
        z, _, made = night("knocked", seed)
        assert len(made.jumps_s) == 1
        assert np.abs(z).max() < 4

    def test_two_outliers_that_do_not_agree(self):
        made, last_s = observed()
        made.observe(last_s + 10, 25.0, 0.1)
        made.observe(last_s + 20, -35.0, 0.1)
        assert made.predict(last_s + 20).sigma_um > 35
        made.observe(last_s + 30, 5.0, 0.1)
        assert made.outliers_s == (last_s + 10, last_s + 20)
        assert made.predict(last_s + 30).position_um == pytest.approx(5.0, abs=0.1)

    def test_what_runs_away_is_caught_up_with(self):
        """Something heats: none of three observations agrees with another, nor with the past."""
        made, last_s = observed()
        for later in range(60, 1200, 60):
            made.observe(last_s + later, 5.0 + 0.1 * later, 0.1)
        assert not made.doubt
        predicted = made.predict(last_s + 1200)
        assert abs(predicted.position_um - 125.0) < 2 * predicted.sigma_um
        assert predicted.sigma_um < 3
        assert len(made.jumps_s) <= 2

    def test_the_first_observation_may_be_the_wrong_one(self):
        made = DriftFilter()
        for now_s, found_um in ((0.0, 40.0), (60.0, 5.0), (120.0, 5.1)):
            made.observe(now_s, found_um, 0.1)
        assert made.predict(130.0).position_um == pytest.approx(5.1, abs=0.2)


class TestRecord:
    def test_parameters_are_json(self):
        made, last_s = observed(rate_um_s=2e-3)
        made.observe(last_s + 1, 99.0, 0.1, temperature_c=20.0)
        parameters = json.loads(json.dumps(made.parameters, allow_nan=False))
        assert parameters["observations"] == 9
        assert parameters["spread"] == 5.0
        assert parameters["learnt"]["rate_um_per_min"] == pytest.approx(0.12, abs=0.02)
        json.dumps(DriftFilter().parameters, allow_nan=False)

    def test_goes_on_later(self):
        made, last_s = observed(rate_um_s=2e-3, rate_um_per_min=0.5)
        made.observe(last_s + 10, 7.0, 0.2, temperature_c=20.5)
        made.observe(last_s + 20, 99.0, 0.2, temperature_c=20.7)
        again = DriftFilter.from_dict(json.loads(json.dumps(made.to_dict())))
        for now_s, room_c in ((last_s + 20, None), (last_s + 500, 22.0)):
            assert again.predict(now_s, temperature_c=room_c) == made.predict(now_s, temperature_c=room_c)
        assert again.parameters == made.parameters


@pytest.mark.parametrize(
    ("options", "named"),
    [
        *(({name: 0.0}, f"{name} must be positive") for name in ("wander_um_per_sqrt_s", "rate_wander")),
        ({"rate_um_per_min": math.inf}, "inf"),
        ({"sigma_um_floor": -1.0}, "-1.0"),
        ({"spread": 0.5}, "spread is a factor"),
        ({"temperature_coefficient_um_per_c": math.nan}, "nan"),
        ({"temperature_coefficient_sigma_um_per_c": -0.1}, "-0.1"),
    ],
)
def test_bad_options(options, named):
    with pytest.raises(ValueError, match=named):
        DriftFilter(**options)


@pytest.mark.parametrize(
    ("observation", "named"),
    [
        ((math.nan, 1.0, 0.1), "time_s must be finite"),
        ((5.0, math.nan, 0.1), "position_um must be finite"),
        ((5.0, 1.0, 0.0), "sigma_um must be positive"),
        ((5.0, 1.0, math.nan), "sigma_um must be positive"),
        ((-1.0, 1.0, 0.1), "time cannot run backwards: focus was observed at 0 s, this is -1 s"),
    ],
)
def test_bad_observations(observation, named):
    made = DriftFilter()
    made.observe(0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match=named):
        made.observe(*observation)
    assert made.parameters["observations"] == 1


def test_a_drift_that_does_not_exist():
    with pytest.raises(ValueError, match="got 'sideways'"):
        focus_drift("sideways", np.arange(3.0), np.random.default_rng(0))


@pytest.mark.parametrize("seconds", [1e-9, 1.0, 600.0])
def test_an_instant_before_the_newest_observation_is_no_error(seconds):
    """On a wall clock whoever asks may have looked at it earlier than whoever has told."""
    made, last_s = observed(rate_um_s=1e-3)
    before, newest, after = (made.predict(last_s + one) for one in (-seconds, 0.0, seconds))
    assert before.position_um == pytest.approx(2 * newest.position_um - after.position_um, abs=1e-9)
    assert 0 < before.sigma_um <= after.sigma_um + 1e-9


def test_bad_questions():
    made, last_s = observed()
    with pytest.raises(ValueError, match="time_s must be finite"):
        made.predict(math.nan)
    with pytest.raises(ValueError, match=r"sigma_um must be positive, got 0\.0"):
        made.seconds_until(0.0, last_s)
