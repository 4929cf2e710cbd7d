"""Facts about the scores of the challenges: formulas, conventions for empty masks, scales."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from msapp.evaluation.challenges import (
    IsbiTerms,
    MsgcValues,
    isbi2015_score,
    isbi2015_terms,
    msgc2008_score,
    msgc2008_values,
    score_msseg,
    score_wmh2017,
)

UNIT = (1.0, 1.0, 1.0)


def cube(*starts, size=3, shape=(30, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for start in starts:
        mask[start : start + size, 4 : 4 + size, 4 : 4 + size] = True
    return mask


EMPTY = cube()


class TestWmh2017:
    def test_five_scores(self):
        # One lesion found, one missed, one false; the found one moved by 1 of 3 voxels.
        scores = score_wmh2017(cube(3, 20), cube(2, 10).astype(int), (2, 1, 1))
        assert scores.dice == pytest.approx(2 * 18 / 108)
        assert scores.avd_percent == 0
        assert (scores.recall, scores.f1) == (0.5, 0.5)
        assert scores.hd95_mm > 0

    def test_other_pathology_is_taken_out_of_the_prediction(self):
        truth = cube(2).astype(int) + 2 * cube(20)
        perfect = score_wmh2017(cube(2, 20), truth, UNIT)
        assert (perfect.dice, perfect.hd95_mm, perfect.avd_percent) == (1, 0, 0)
        assert (perfect.recall, perfect.f1) == (1, 1)

    def test_probabilities_from_a_half_are_lesion(self):
        truth = cube(2).astype(int)
        assert score_wmh2017(0.5 * cube(2), truth, UNIT).dice == 1
        assert score_wmh2017(0.49 * cube(2), truth, UNIT).dice == 0

    @pytest.mark.parametrize(
        ('prediction', 'truth', 'recall', 'f1'),
        [(EMPTY, EMPTY, 1, 1), (cube(2), EMPTY, 1, 0), (EMPTY, cube(2), 0, 0)],
    )
    def test_its_conventions_for_empty_masks(self, prediction, truth, recall, f1):
        scores = score_wmh2017(prediction, truth.astype(int), UNIT)
        assert (scores.recall, scores.f1) == (recall, f1)
        assert math.isnan(scores.hd95_mm)

    def test_without_true_lesions_the_volume_difference_is_undefined(self):
        assert math.isnan(score_wmh2017(cube(2), EMPTY.astype(int), UNIT).avd_percent)
        assert math.isnan(score_wmh2017(EMPTY, EMPTY.astype(int), UNIT).dice)

    def test_lesions_join_at_corners(self):
        truth = np.zeros((9, 9, 9), int)
        truth[2, 2, 2] = truth[3, 3, 3] = 1
        prediction = np.zeros((9, 9, 9), bool)
        prediction[2, 2, 2] = True
        assert score_wmh2017(prediction, truth, UNIT).recall == 1


TERMS = IsbiTerms(0.6, 0.8, 0.2, 0.5, 100, 120)


class TestIsbi2015:
    def test_terms(self):
        terms = isbi2015_terms(cube(3, 20, 26), cube(2, 10), (1, 1, 2))
        assert terms.dice == pytest.approx(2 * 18 / 135)
        assert terms.ppv == pytest.approx(18 / 81)
        assert (terms.lfpr, terms.ltpr) == (pytest.approx(2 / 3), 0.5)
        assert (terms.predicted_mm3, terms.reference_mm3) == (162, 108)

    def test_the_formula(self):
        # Volumes in proportion: a correlation of 1.
        other = replace(TERMS, dice=0.4, predicted_mm3=200, reference_mm3=240)
        expected = 0.5 / 8 + 0.8 / 8 + 0.8 / 4 + 0.5 / 4 + 1 / 4
        assert isbi2015_score([[TERMS, other]]) == pytest.approx(expected)

    def test_volumes_that_fall_as_they_should_rise_cost_half(self):
        rising = [TERMS, replace(TERMS, predicted_mm3=200, reference_mm3=240)]
        falling = [TERMS, replace(TERMS, predicted_mm3=200, reference_mm3=60)]
        assert isbi2015_score([rising]) - isbi2015_score([falling]) == pytest.approx(0.5)

    def test_raters_are_averaged(self):
        first = [TERMS, replace(TERMS, predicted_mm3=200, reference_mm3=240)]
        second = [replace(terms, ltpr=1.0) for terms in first]
        both = isbi2015_score([first, second])
        assert both == pytest.approx((isbi2015_score([first]) + isbi2015_score([second])) / 2)
        assert both == pytest.approx(isbi2015_score([first]) + 0.5 / 8)

    def test_a_perfect_prediction_scores_1(self):
        images = [cube(2), cube(2, 10), cube(2, 10, 20)]
        terms = [isbi2015_terms(image, image, UNIT) for image in images]
        assert isbi2015_score([terms]) == pytest.approx(1)

    def test_a_rater_scores_90(self):
        terms = [TERMS, replace(TERMS, predicted_mm3=200, reference_mm3=240)]
        plain = isbi2015_score([terms])
        assert isbi2015_score([terms], inter_rater=plain) == pytest.approx(90)
        assert isbi2015_score([terms], inter_rater=plain / 0.9) == pytest.approx(81)

    def test_what_is_undefined_makes_no_score(self):
        assert math.isnan(isbi2015_score([[TERMS]]))
        assert math.isnan(isbi2015_score([[TERMS, TERMS]]))
        empty = isbi2015_terms(EMPTY, cube(2), UNIT)
        assert math.isnan(empty.ppv)
        assert math.isnan(empty.lfpr)
        assert math.isnan(isbi2015_score([[TERMS, empty, replace(TERMS, reference_mm3=7)]]))

    @pytest.mark.parametrize('inter_rater', [0, -1, 1.1])
    def test_a_scale_out_of_range_is_refused(self, inter_rater):
        with pytest.raises(ValueError, match='inter_rater'):
            isbi2015_score([[TERMS]], inter_rater=inter_rater)

    @pytest.mark.parametrize('raters', [[], [[]], [[TERMS], []]])
    def test_no_image_is_refused(self, raters):
        with pytest.raises(ValueError, match='raters'):
            isbi2015_score(raters)


class TestMsseg:
    def test_a_perfect_prediction(self):
        scores = score_msseg(cube(2, 10), cube(2, 10), UNIT)
        assert (scores.dice, scores.surface_distance_mm, scores.lesions.f1) == (1, 0, 1)

    def test_without_new_lesions_only_the_false_ones_count(self):
        scores = score_msseg(cube(2, 10), EMPTY, UNIT)
        assert (scores.lesions.false_count, scores.lesions.false_mm3) == (2, 54)
        undefined = (scores.dice, scores.surface_distance_mm, scores.lesions.f1)
        assert all(map(math.isnan, undefined))


RATERS = MsgcValues(60.0, 4.0, 0.7, 0.3)


class TestMsgc2008:
    def test_values(self):
        values = msgc2008_values(cube(2, 20), cube(2, 8, 14), (1, 1, 2))
        assert values.volume_difference_percent == pytest.approx(100 / 3)
        assert (values.lesion_tpr, values.lesion_fpr) == (pytest.approx(1 / 3), 0.5)
        assert values.surface_distance_mm > 0

    def test_perfect_is_100_and_a_rater_90(self):
        assert msgc2008_score([MsgcValues(0, 0, 1, 0)], RATERS) == 100
        assert msgc2008_score([RATERS], RATERS) == pytest.approx(90)

    def test_the_scale_is_linear_in_each_measure(self):
        # Twice the error of a rater in one measure of four costs ten points in it.
        twice = replace(RATERS, surface_distance_mm=8.0)
        assert msgc2008_score([twice], RATERS) == pytest.approx(90 - 10 / 4)
        half = replace(RATERS, lesion_tpr=0.85)
        assert msgc2008_score([half], RATERS) == pytest.approx(90 + 5 / 4)

    def test_no_measure_scores_less_than_0(self):
        worst = replace(RATERS, volume_difference_percent=1e6)
        assert msgc2008_score([worst], RATERS) == pytest.approx(90 * 3 / 4)

    def test_raters_are_averaged(self):
        perfect = MsgcValues(0, 0, 1, 0)
        assert msgc2008_score([RATERS, perfect], RATERS) == pytest.approx(95)

    def test_what_is_undefined_makes_no_score(self):
        values = msgc2008_values(EMPTY, cube(2), UNIT)
        assert math.isnan(msgc2008_score([values], RATERS))

    def test_a_scale_without_length_is_refused(self):
        with pytest.raises(ValueError, match='short of perfect'):
            msgc2008_score([RATERS], replace(RATERS, lesion_tpr=1.0))
        with pytest.raises(ValueError, match='at least one'):
            msgc2008_score([], RATERS)
