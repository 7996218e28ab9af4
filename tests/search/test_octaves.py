import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from octaves import Octaves, Several, follow

from bluesky_autofocus.records import Reason
from bluesky_autofocus.search import LEAST_OCTAVE_EXPOSURES, Sample, octave_search

fixed = settings(deadline=None, derandomize=True, max_examples=25)


def searched(specimen, *, bounds=(-20.0, 20.0), exposures=14, unit_um=1.0, depth_of_field_um=None, **options):
    """Search a specimen; lengths in depths of field, positions of the search in `unit_um`."""
    low, high = bounds
    search = octave_search(
        (low * unit_um, high * unit_um),
        exposures=exposures,
        depth_of_field_um=unit_um if depth_of_field_um is None else depth_of_field_um,
        **options,
    )
    asked, conclusion = follow(search, lambda z: Sample(z, math.nan, specimen.bands(z / unit_um)))
    return asked, conclusion


def trials(count, span, **options):
    rng = np.random.default_rng(int(span))
    for number in range(count):
        focus = rng.uniform(-0.4, 0.4) * span
        yield (
            focus,
            searched(Octaves(focus, seed=number, **options), bounds=(-span / 2, span / 2), exposures=24),
        )


class TestPassing:
    @pytest.mark.parametrize("lost", [0, 3, 5])
    def test_frames_of_no_use_are_of_the_budget(self, lost):
        """However precise it is to be, no more is asked for than allowed."""
        specimen, asked = Octaves(2.0), 0
        search = octave_search((-20.0, 20.0), exposures=16, depth_of_field_um=1.0, precision=1e-6, passing=1)
        position = next(search)
        try:
            while True:
                asked += 1
                at = min(-20.0 + 4.4 * asked, 20.0) if asked <= 10 + lost and position == 20.0 else position
                unknown = 3 < asked <= 3 + lost
                position = search.send(
                    Sample(math.nan if unknown else at, math.nan, specimen.bands(at), Reason.OK)
                )
        except StopIteration:
            assert asked <= 16


class TestFound:
    @pytest.mark.parametrize(("span", "most"), [(10.0, 7), (20.0, 7), (40.0, 8), (80.0, 12)])
    def test_wherever_it_is(self, span, most):
        found = list(trials(40, span))
        errors = np.array([conclusion.position_um - focus for focus, (_, conclusion) in found])
        sigmas = np.array([conclusion.sigma_um for _, (_, conclusion) in found])
        reasons = Counter(conclusion.reason for _, (_, conclusion) in found)
        assert reasons[Reason.FOUND] >= 38
        assert np.nanmax(np.abs(errors)) < 0.5
        assert np.nanmedian(np.abs(errors)) < 0.1
        assert np.nanmean(np.abs(errors) < 2 * sigmas) > 0.85
        assert np.mean([len(asked) for _, (asked, _) in found]) <= most

    def test_in_a_few_tiles_in_much_noise(self):
        found = [conclusion for _, (_, conclusion) in trials(20, 20.0, filled=0.08, noise=0.3)]
        assert sum(conclusion.found for conclusion in found) >= 18

    @pytest.mark.parametrize("factor", [0.4, 2.5])
    def test_the_depth_of_field_need_not_be_exact(self, factor):
        _, conclusion = searched(Octaves(7.3), depth_of_field_um=factor, exposures=20)
        assert conclusion.position_um == pytest.approx(7.3, abs=0.5)

    def test_nor_known(self):
        search = octave_search((-20.0, 20.0), exposures=14)
        _, conclusion = follow(search, lambda z: Sample(z, math.nan, Octaves(7.3).bands(z)))
        assert conclusion.position_um == pytest.approx(7.3, abs=0.5)

    def test_where_the_light_makes_the_contrast_of_exposures_differ(self):
        """A camera's dark level is in the mean of its frames, so contrast goes with the light."""
        conclusions = []
        for seed in range(20):
            light = np.random.default_rng((seed, 1))
            specimen = Lit(
                Octaves(7.3, seed=seed), lambda light=light: max(1 + 0.1 * light.standard_normal(), 0.5)
            )
            conclusions.append(searched(specimen)[1])
        assert sum(conclusion.found for conclusion in conclusions) >= 19
        assert all(abs(one.position_um - 7.3) < 0.5 for one in conclusions if one.found)

    def test_near_the_end_of_the_range(self):
        for seed in range(20):
            asked, conclusion = searched(Octaves(-2.0, seed=seed), bounds=(-4.3, 15.7))
            assert conclusion.position_um == pytest.approx(-2.0, abs=0.5), conclusion
            assert min(asked) >= -4.3


class TestBeyond:
    def test_the_end_is_told(self):
        asked, conclusion = searched(Octaves(24.0))
        assert conclusion.reason is Reason.EDGE and math.isnan(conclusion.position_um)
        assert max(asked) == 20.0

    def test_and_left_where_that_is_allowed(self):
        asked, conclusion = searched(Octaves(24.0), outer_um=(-60.0, 60.0))
        assert conclusion.position_um == pytest.approx(24.0, abs=0.5)
        assert min(asked) >= -20 and max(asked) <= 30


class TestNotFound:
    """Nothing is claimed of what is no focus."""

    @pytest.mark.parametrize("noise", [0.02, 0.1, 1.0])
    def test_noise_alone(self, noise):
        for seed in range(15):
            _, conclusion = searched(Octaves(3.0, contrast=0.0, noise=noise, seed=seed))
            assert conclusion.reason in (Reason.FLAT, Reason.EDGE, Reason.UNCERTAIN), conclusion

    def test_two_layers(self):
        for seed in range(15):
            layers = Several(Octaves(-9.0, seed=seed), Octaves(8.0, seed=seed + 50))
            _, conclusion = searched(layers, exposures=20)
            assert not conclusion.found, conclusion

    def test_dust_before_a_specimen_that_is_hardly_seen(self):
        """Strong in a few tiles, the specimen faint in all others: neither is taken for the focus."""
        for seed in range(15):
            dust = Octaves(9.0, contrast=0.3, filled=0.06, seed=seed)
            specimen = Octaves(-6.0, contrast=0.05, noise=0.05, seed=seed + 50)
            _, conclusion = searched(Several(dust, specimen), exposures=20)
            assert not (conclusion.found and conclusion.position_um > 0), conclusion

    def test_a_few_dark_specks_alone(self):
        """They may be dust over a specimen that no exposure shows; bright ones are particles."""
        few = {"filled": 0.06, "contrast": 0.3, "seed": 3}
        for skew, filled, expected in [
            (-6.0, 0.06, Reason.SPECKS),
            (-2.0, 0.06, Reason.FOUND),
            (6.0, 0.06, Reason.FOUND),
            (-6.0, 0.6, Reason.FOUND),
        ]:
            specimen = Octaves(4.0, **{**few, "filled": filled}, skew=skew)
            _, conclusion = searched(specimen, exposures=20)
            assert conclusion.reason is expected, (skew, filled)
        told, conclusion = searched(Octaves(4.0, **few, skew=-6.0), exposures=20, specks=True)
        assert conclusion.found and conclusion.position_um == pytest.approx(4.0, abs=0.3)

    @pytest.mark.parametrize("bounds", [(-20.0, 20.0), (-3.0, 30.0), (1.0, 25.0), (1.0, 8.0), (2.0, 12.0)])
    def test_a_phase_object(self, bounds):
        for seed in range(8):
            _, conclusion = searched(Octaves(0.0, invert=True, noise=0.05, seed=seed), bounds=bounds)
            assert not conclusion.found, conclusion

    def test_what_changes_at_random(self):
        rng = np.random.default_rng(0)
        specimen = Octaves(0.0)

        def sample_at(z):
            bands = specimen.bands(0.0)
            energies = bands.energies * rng.lognormal(0, 0.5, (6, 1))
            return Sample(z, math.nan, dataclasses.replace(bands, energies=energies))

        for _ in range(20):
            search = octave_search((-20.0, 20.0), exposures=14, depth_of_field_um=1.0)
            assert not follow(search, sample_at)[1].found

    def test_too_few_exposures(self):
        _, conclusion = searched(Octaves(3.0), exposures=4)
        assert not conclusion.found


class TestLostFrames:
    def of(self, lost, **options):
        numbers = iter(range(99))

        def sample_at(z):
            if next(numbers) in lost:
                return Sample(z, math.nan, reason=Reason.BLACK)
            return Sample(z, math.nan, Octaves(3.0).bands(z))

        return follow(octave_search((-20.0, 20.0), exposures=14, depth_of_field_um=1.0, **options), sample_at)

    @pytest.mark.parametrize("lost", [(0,), (2, 5), (3, 4)])
    def test_are_taken_again(self, lost):
        asked, conclusion = self.of(lost)
        assert conclusion.position_um == pytest.approx(3.0, abs=0.5)
        for number in lost:
            assert asked[number + 1] == asked[number]

    def test_but_not_for_ever(self):
        asked, conclusion = self.of(range(99))
        assert (conclusion.reason, len(asked)) == (Reason.BLACK, 3)


def test_scores_alone_are_searched_by_a_grid():
    def sample_at(z):
        return Sample(z, 0.1 + (1 + ((z - 3) / 4) ** 2) ** -2)

    asked, conclusion = follow(octave_search((-20.0, 20.0), exposures=20, depth_of_field_um=1.0), sample_at)
    assert conclusion.position_um == pytest.approx(3.0, abs=0.2) and len(asked) <= 20


class TestLostFramesOfScoresAlone:
    """The ripple is not explained by a peak, so the grid spends whatever it is given."""

    def of(self, lost, exposures=14):
        numbers = itertools.count()

        def sample_at(z):
            if next(numbers) in lost:
                return Sample(z, math.nan, reason=Reason.TORN)
            return Sample(z, 0.1 + (1 + ((z - 3) / 4) ** 2) ** -2 + 0.01 * math.sin(9 * z))

        search = octave_search((-20.0, 20.0), exposures=exposures, depth_of_field_um=1.0, precision=1e-4)
        return follow(search, sample_at)

    @pytest.mark.parametrize("lost", [(), (0,), (0, 1), (0, 5), (1, 8), (9, 13)])
    def test_count_before_and_after_the_grid_takes_over(self, lost):
        asked, _ = self.of(lost)
        assert len(asked) == 14
        asked, conclusion = self.of(lost, exposures=20)
        assert len(asked) == 20
        assert conclusion.position_um == pytest.approx(3.0, abs=0.5)

    @pytest.mark.parametrize("lost", [(0, 1, 2), (0, 1, 3), (0, 4, 5), (3, 6, 7)])
    def test_are_taken_again_twice_in_all(self, lost):
        asked, conclusion = self.of(lost)
        assert (conclusion.reason, len(asked)) == (Reason.TORN, lost[-1] + 1)


class TestWhateverTheSpecimen:
    specimens = st.builds(
        Octaves,
        st.floats(-30, 30),
        contrast=st.floats(0.01, 0.5),
        noise=st.just(1e-6),
        filled=st.sampled_from([0.1, 1.0]),
        seed=st.integers(0, 1000),
    )

    @fixed
    @given(specimens, st.integers(LEAST_OCTAVE_EXPOSURES, 20))
    def test_it_keeps_to_bounds_and_budget(self, specimen, exposures):
        asked, conclusion = searched(specimen, exposures=exposures)
        assert len(asked) <= exposures
        assert all(-20 - 1e-9 <= z <= 20 + 1e-9 for z in asked)
        assert not conclusion.found or -20 <= conclusion.position_um <= 20

    @fixed
    @given(specimens, st.sampled_from([0.01, 3.7, 1000.0]))
    def test_units_do_not_matter(self, specimen, unit_um):
        asked, one = searched(dataclass_copy(specimen))
        also, other = searched(dataclass_copy(specimen), unit_um=unit_um)
        np.testing.assert_allclose(np.array(also) / unit_um, asked, atol=0.1)
        assert other.reason is one.reason

    @fixed
    @given(specimens, st.sampled_from([1e-3, 50.0]))
    def test_nor_does_the_scale_of_the_contrast(self, specimen, scale):
        asked, one = searched(dataclass_copy(specimen))
        also, other = searched(Scaled(dataclass_copy(specimen), scale))
        np.testing.assert_allclose(also, asked, atol=0.1)
        assert other.reason is one.reason

    @fixed
    @given(specimens)
    def test_a_mirrored_specimen_is_found_mirrored(self, specimen):
        _, one = searched(dataclass_copy(specimen))
        mirrored = dataclass_copy(specimen)
        mirrored.focus = -mirrored.focus
        _, other = searched(mirrored)
        assert other.reason is one.reason
        if one.found:
            assert other.position_um == pytest.approx(-one.position_um, abs=0.3)


class Lit(Octaves):
    """A specimen in light that is not the same at each exposure."""

    def __init__(self, specimen, brightness):
        self.specimen, self.brightness = specimen, brightness

    def bands(self, position):
        bands, light = self.specimen.bands(position), self.brightness()
        signal = np.multiply.outer(self.specimen.energies * self.specimen.left(position), self.specimen.where)
        return dataclasses.replace(bands, energies=bands.energies + (light**2 - 1) * signal)


def dataclass_copy(specimen: Octaves) -> Octaves:
    """Return a twin whose noise begins anew."""
    twin = Octaves.__new__(Octaves)
    twin.__dict__ = {**specimen.__dict__, "rng": np.random.default_rng(0)}
    return twin


class Scaled:
    def __init__(self, specimen, scale):
        self.specimen, self.scale = specimen, scale

    def bands(self, position):
        bands = self.specimen.bands(position)
        return dataclasses.replace(
            bands, energies=self.scale * bands.energies, noises=self.scale * bands.noises
        )
