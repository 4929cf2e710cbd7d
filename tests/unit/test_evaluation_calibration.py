"""Facts about calibration: known errors, known temperatures, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from msapp.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_curve,
    to_logits,
)


def drawn(temperature, n=200_000, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits too large by a factor, and truth drawn from the right probabilities."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 2, n)
    truth = generator.random(n) < special.expit(logits)
    return temperature * logits, truth


class TestReliability:
    def test_the_error_is_the_gap_weighted_by_voxels(self):
        # 8 voxels said 0.2, 4 of them lesion (gap 0.3); 2 voxels said 0.9, both lesion (0.1).
        probability = np.array([0.2] * 8 + [0.9] * 2)
        truth = np.array([True, False] * 4 + [True] * 2)
        curve = reliability_curve(probability, truth, bins=10)
        assert curve.count.tolist() == [0, 0, 8, 0, 0, 0, 0, 0, 0, 2]
        assert curve.seen[2] == 0.5
        assert math.isnan(curve.seen[0])
        assert curve.expected_error() == pytest.approx(0.8 * 0.3 + 0.2 * 0.1)
        error = expected_calibration_error(probability, truth, bins=10)
        assert error == curve.expected_error()

    def test_certain_and_right_has_no_error(self):
        truth = np.array([True, False, True])
        assert expected_calibration_error(truth.astype(float), truth) == 0

    def test_certain_and_wrong_has_all(self):
        truth = np.array([True, False, True])
        assert expected_calibration_error(1.0 - truth, truth) == 1

    def test_one_belongs_to_the_last_bin(self):
        curve = reliability_curve(np.array([1.0, 0.5]), np.array([True, True]), bins=2)
        assert curve.count.tolist() == [0, 2]

    def test_probabilities_that_are_right_have_almost_no_error(self):
        logits, truth = drawn(1.0)
        assert expected_calibration_error(special.expit(logits), truth) < 0.005

    def test_the_choice_of_voxels_counts(self):
        probability, truth = np.full((2, 2), 0.5), np.array([[True, True], [False, False]])
        inside = np.array([[True, True], [False, False]])
        assert expected_calibration_error(probability, truth) == 0
        assert expected_calibration_error(probability, truth, inside=inside) == 0.5

    def test_no_voxel_has_no_score(self):
        none = np.zeros(3, bool)
        assert math.isnan(expected_calibration_error(np.zeros(3), none, inside=none))

    @pytest.mark.parametrize('probability', [[-0.1, 0.5], [0.5, 1.1], [0.5, math.nan]])
    def test_what_is_no_probability_is_refused(self, probability):
        with pytest.raises(ValueError, match='probability must be in'):
            expected_calibration_error(np.array(probability), np.array([True, False]))

    def test_shapes_and_bins_are_checked(self):
        with pytest.raises(ValueError, match='shapes must be equal'):
            expected_calibration_error(np.zeros(3), np.zeros(2, bool))
        with pytest.raises(ValueError, match='bins must be at least 1'):
            reliability_curve(np.zeros(2), np.zeros(2, bool), bins=0)


class TestTemperature:
    @pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
    def test_the_temperature_that_was_put_in_is_found(self, temperature):
        logits, truth = drawn(temperature)
        assert fit_temperature(logits, truth) == pytest.approx(temperature, rel=0.03)

    def test_it_mends_the_calibration_and_keeps_the_mask(self):
        logits, truth = drawn(3.0)
        before = special.expit(logits)
        after = apply_temperature(logits, fit_temperature(logits, truth))
        assert expected_calibration_error(before, truth) > 0.05
        assert expected_calibration_error(after, truth) < 0.01
        assert np.array_equal(before >= 0.5, after >= 0.5)

    def test_no_other_temperature_is_more_likely(self):
        logits, truth = drawn(2.0, n=2000)
        best = fit_temperature(logits, truth)
        lowest = negative_log_likelihood(logits, truth, best)
        for factor in (0.9, 0.99, 1.01, 1.1):
            assert negative_log_likelihood(logits, truth, best * factor) > lowest

    def test_large_logits_do_not_overflow(self):
        value = negative_log_likelihood(np.array([1e4, -1e4]), np.array([True, True]), 1.0)
        assert value == pytest.approx(5e3)

    def test_logits_that_separate_the_classes_have_no_temperature(self):
        with pytest.raises(ValueError, match='separate the classes'):
            fit_temperature(np.array([-1.0, 1.0]), np.array([False, True]))

    def test_logits_that_say_the_contrary_have_none(self):
        with pytest.raises(ValueError, match='no temperature'):
            fit_temperature(np.array([1.0, -1.0]), np.array([False, True]))

    def test_one_class_is_not_enough(self):
        with pytest.raises(ValueError, match='lesion and background'):
            fit_temperature(np.zeros(3), np.zeros(3, bool))

    def test_logits_of_certain_probabilities_are_finite(self):
        logits = to_logits(np.array([0.0, 0.5, 1.0]))
        np.testing.assert_allclose(logits, [-13.8155, 0, 13.8155], atol=1e-4)

    def test_a_temperature_is_positive(self):
        with pytest.raises(ValueError, match='above 0'):
            apply_temperature(np.zeros(1), 0)
