"""Facts about uncertainty: of voxels from samples, of lesions, and of what is set aside."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from msapp.evaluation.lesionwise import harmonic
from msapp.lesions.uncertainty import (
    MEASURES,
    SMALLEST_MEASURE,
    SampleUncertainty,
    UncertaintyMaps,
    binary_entropy,
    measure_lesion_uncertainty,
    retention_curve,
    split_by_entropy,
)

LN2 = math.log(2)
ROUNDING = 5e-7
SHAPE = (3, 2, 2)
probabilities = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 8), *[st.just(n) for n in SHAPE]),
    elements=st.floats(0, 1, width=32),
)  # fmt: skip
many = settings(max_examples=200, deadline=None)


def gather(samples, variances=None) -> UncertaintyMaps:
    """Feed samples one by one; a number stands for a map of it."""
    found = SampleUncertainty()
    for index, sample in enumerate(samples):
        more = () if variances is None else (np.broadcast_to(variances[index], SHAPE),)
        found.add(np.broadcast_to(np.asarray(sample, np.float32), SHAPE), *more)
    return found.maps()


class TestSamples:
    def test_the_entropy_of_a_half_is_ln_2(self):
        maps = gather([0.5, 0.5])
        np.testing.assert_allclose(maps.entropy, LN2, atol=ROUNDING)
        np.testing.assert_array_equal(maps.mutual_information, 0)

    def test_certain_samples_that_contradict_each_other_are_all_mutual_information(self):
        maps = gather([0, 1])
        np.testing.assert_array_equal(maps.probability, 0.5)
        np.testing.assert_array_equal(maps.variance, 0.25)
        np.testing.assert_allclose(maps.mutual_information, LN2, atol=ROUNDING)

    def test_two_samples_by_hand(self):
        maps = gather([0.2, 0.6])
        entropies = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.2, 0.6, 0.4)]
        np.testing.assert_allclose(maps.probability, 0.4, atol=ROUNDING)
        np.testing.assert_allclose(maps.variance, 0.04, atol=ROUNDING)
        np.testing.assert_allclose(maps.entropy, entropies[2], atol=ROUNDING)
        np.testing.assert_allclose(
            maps.mutual_information, entropies[2] - sum(entropies[:2]) / 2, atol=ROUNDING
        )

    @pytest.mark.parametrize('value', [0.0, 1e-7, 0.1, 0.7, 1.0])
    def test_equal_samples_have_neither_variance_nor_mutual_information(self, value):
        maps = gather([value] * 7)
        np.testing.assert_array_equal(maps.probability, np.float32(value))
        np.testing.assert_array_equal(maps.variance, 0)
        np.testing.assert_array_equal(maps.mutual_information, 0)

    def test_small_differences_between_near_certain_samples_are_not_rounded_away(self):
        samples = 0.99 + np.random.default_rng(0).normal(0, 1e-4, 500)
        variance = gather(samples).variance[0, 0, 0]
        assert variance == pytest.approx(np.var(samples), rel=1e-3)

    def test_predicted_variance_is_the_mean_of_what_was_predicted(self):
        maps = gather([0.2, 0.6, 0.4], [1.0, 4.0, 40.0])
        np.testing.assert_allclose(maps.predicted_variance, 15, rtol=1e-6)
        assert gather([0.2]).predicted_variance is None

    def test_maps_are_float32_and_stay_as_they_are_when_samples_follow(self):
        found = SampleUncertainty()
        found.add(np.full(SHAPE, 0.5), np.ones(SHAPE))
        before = found.maps()
        found.add(np.ones(SHAPE), np.zeros(SHAPE))
        assert before.probability[0, 0, 0] == 0.5
        for measure in ('probability', *MEASURES):
            values = getattr(before, measure)
            assert values.dtype == np.float32
            assert values.shape == SHAPE

    @many
    @given(probabilities)
    def test_uncertainty_of_the_weights_is_part_of_all_uncertainty(self, samples):
        maps = gather(samples)
        assert (maps.mutual_information >= 0).all()
        assert (maps.mutual_information <= maps.entropy).all()
        assert (maps.entropy <= LN2 + ROUNDING).all()
        assert (maps.variance >= 0).all()
        assert (maps.variance <= maps.probability * (1 - maps.probability) + ROUNDING).all()

    @many
    @given(probabilities, st.randoms(use_true_random=False))
    def test_the_order_of_samples_does_not_matter(self, samples, random):
        shuffled = list(samples)
        random.shuffle(shuffled)
        first, second = gather(samples), gather(shuffled)
        for measure in ('probability', 'entropy', 'variance', 'mutual_information'):
            # Entropy is steep near 0 and 1: a rounding of the mean shows up to 20 times as large.
            np.testing.assert_allclose(
                getattr(first, measure), getattr(second, measure), atol=1e-5, rtol=0
            )

    @many
    @given(probabilities)
    def test_it_is_what_all_samples_at_once_would_give(self, samples):
        maps, exact = gather(samples), samples.astype(float)
        np.testing.assert_allclose(maps.probability, exact.mean(axis=0), atol=ROUNDING)
        np.testing.assert_allclose(maps.variance, exact.var(axis=0), atol=ROUNDING)
        expected = binary_entropy(exact.mean(axis=0)) - binary_entropy(exact).mean(axis=0)
        np.testing.assert_allclose(maps.mutual_information, expected, atol=1e-5)

    @pytest.mark.parametrize('value', [-0.1, 1.1, np.nan])
    def test_logits_are_refused(self, value):
        with pytest.raises(ValueError, match=r'probability must be in \[0, 1\]'):
            gather([value])

    @pytest.mark.parametrize('value', [-1.0, np.inf, np.nan])
    def test_logarithms_of_variance_are_refused(self, value):
        with pytest.raises(ValueError, match='variance must be in'):
            gather([0.5], [value])

    def test_samples_must_be_of_one_kind(self):
        found = SampleUncertainty()
        with pytest.raises(ValueError, match='no sample'):
            found.maps()
        found.add(np.zeros(SHAPE))
        with pytest.raises(ValueError, match='every sample or with none'):
            found.add(np.zeros(SHAPE), np.zeros(SHAPE))
        with pytest.raises(ValueError, match=r'must be \(3, 2, 2\), got \(2, 2, 2\)'):
            found.add(np.zeros((2, 2, 2)))

    def test_it_needs_no_torch(self):
        code = 'import sys, msapp.lesions.uncertainty; sys.exit("torch" in sys.modules)'
        assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def maps_of(values, predicted=None) -> UncertaintyMaps:
    values = np.asarray(values, np.float32)
    return UncertaintyMaps(values, values, values, values, predicted)


class TestLesions:
    def test_means_and_sums_of_logarithms_by_hand(self):
        labels = np.array([0, 1, 1, 1, 4, 0]).reshape(6, 1, 1)
        values = np.array([0.9, 0.5, 0.25, 0.5, 0.1, 0.9]).reshape(6, 1, 1)
        table = measure_lesion_uncertainty(labels, maps_of(values, values * 10))
        assert table['lesion'].tolist() == [1, 4]
        for measure in MEASURES[:3]:
            np.testing.assert_allclose(table[f'{measure}_mean'], [1.25 / 3, 0.1])
            np.testing.assert_allclose(table[f'{measure}_log_sum'], np.log([1 / 16, 0.1]))
        np.testing.assert_allclose(table['predicted_variance_mean'], [12.5 / 3, 1], rtol=1e-6)
        np.testing.assert_allclose(table['predicted_variance_log_sum'], np.log([62.5, 1]), 1e-6)

    def test_of_lesions_equally_uncertain_by_voxel_the_small_one_is_the_most_uncertain(self):
        labels = np.array([1, 1, 1, 0, 2]).reshape(5, 1, 1)
        table = measure_lesion_uncertainty(labels, maps_of(np.full((5, 1, 1), 0.3)))
        large, small = table['entropy_log_sum']
        assert small > large == pytest.approx(3 * small)

    def test_a_voxel_without_uncertainty_has_the_smallest_logarithm(self):
        labels = np.ones((2, 1, 1), int)
        table = measure_lesion_uncertainty(labels, maps_of(np.zeros((2, 1, 1))))
        assert table['variance_log_sum'].item() == pytest.approx(2 * math.log(SMALLEST_MEASURE))
        assert table['variance_mean'].item() == 0

    def test_without_a_variance_head_its_columns_are_missing(self):
        table = measure_lesion_uncertainty(np.ones(SHAPE, int), maps_of(np.full(SHAPE, 0.5)))
        assert table.filter(like='predicted_variance').isna().all(axis=None)
        assert table.drop(columns=table.filter(like='predicted').columns).notna().all(axis=None)

    def test_without_lesions_it_has_all_columns(self):
        some, none = (
            measure_lesion_uncertainty(np.full(SHAPE, label), maps_of(np.full(SHAPE, 0.5)))
            for label in (1, 0)
        )
        assert len(none) == 0
        assert dict(none.dtypes) == dict(some.dtypes)

    def test_two_grids_are_refused(self):
        with pytest.raises(ValueError, match='differ'):
            measure_lesion_uncertainty(np.zeros((2, 2, 2), int), maps_of(np.zeros(SHAPE)))


class TestRetention:
    def test_setting_false_lesions_aside_first_raises_f1_until_true_ones_go(self):
        uncertainty = np.array([0.3, 0.1, 0.4, 0.2])
        true = np.array([False, True, False, True])
        curve = retention_curve(uncertainty, true, missed=1)
        assert curve['set_aside'].tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert curve['kept'].tolist() == [4, 3, 2, 1, 0]
        np.testing.assert_allclose(curve['tpr'], [2 / 3, 2 / 3, 2 / 3, 1 / 2, 0])
        np.testing.assert_allclose(curve['fdr'], [1 / 2, 1 / 3, 0, 0, np.nan])
        np.testing.assert_allclose(curve['f1'], [4 / 7, 4 / 6, 4 / 5, 2 / 3, 0])

    def test_equal_uncertainty_goes_together_whatever_the_numbering(self):
        uncertainty, true = np.array([1.0, 2, 2, 2]), np.array([True, True, False, False])
        curve = retention_curve(uncertainty, true, missed=0)
        assert curve['kept'].tolist() == [4, 1, 0]
        reverse = retention_curve(uncertainty[::-1], true[::-1], missed=0)
        assert curve.equals(reverse)

    def test_without_predicted_lesions_there_is_one_line(self):
        nothing = np.zeros(0)
        (line,) = retention_curve(nothing, nothing.astype(bool), 3).to_dict('records')
        assert (line['set_aside'], line['tpr'], line['f1']) == (0, 0, 0)
        assert np.isnan(line['fdr'])

    def test_without_reference_lesions_only_the_false_ones_count(self):
        curve = retention_curve(np.array([1.0, 2.0]), np.zeros(2, bool), 0)
        assert curve[['tpr', 'f1']].isna().all(axis=None)
        np.testing.assert_array_equal(curve['fdr'], [1, 1, np.nan])

    @many
    @given(st.lists(st.tuples(st.floats(-50, 5), st.booleans()), max_size=12), st.integers(0, 5))
    def test_it_agrees_with_the_lesion_wise_scores(self, lesions, missed):
        uncertainty = np.array([value for value, _ in lesions], float)
        true = np.array([hit for _, hit in lesions], bool)
        curve = retention_curve(uncertainty, true, missed)
        assert curve['set_aside'].is_monotonic_increasing
        assert curve['tpr'].dropna().is_monotonic_decreasing
        for line in curve.to_dict('records'):
            expected = harmonic(line['tpr'], 1 - line['fdr'])
            np.testing.assert_allclose(line['f1'], expected, atol=1e-12)

    @pytest.mark.parametrize(
        ('uncertainty', 'true', 'missed', 'message'),
        [
            ([1.0], [True, False], 0, 'of one length'),
            ([np.nan], [True], 0, 'got NaN'),
            ([1.0], [True], -1, 'missed must be at least 0, got -1'),
        ],
    )
    def test_what_does_not_fit_is_refused(self, uncertainty, true, missed, message):
        with pytest.raises(ValueError, match=message):
            retention_curve(np.array(uncertainty), np.array(true), missed)


def test_lesions_are_sorted_by_their_mean_entropy():
    labels = np.array([1, 1, 2, 2, 0, 0])
    entropy = np.array([0.0, 0.5, 0.2, 0.6, 0.1, 0.6])
    parts = split_by_entropy(labels, entropy)
    assert {name: mask.astype(int).tolist() for name, mask in parts.items()} == {
        'surer': [1, 1, 0, 0, 0, 0],
        'unsure': [0, 0, 1, 1, 0, 0],
        'doubtful': [0, 0, 0, 0, 0, 1],
    }


def test_without_lesions_all_that_is_unsure_is_doubtful():
    parts = split_by_entropy(np.zeros(3, int), np.array([0.0, 0.5, 0.69]))
    assert parts['doubtful'].tolist() == [False, True, True]
    assert not parts['surer'].any()
    assert not parts['unsure'].any()
