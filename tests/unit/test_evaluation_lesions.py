"""Facts about scores by lesion: each step of each rule on hand-made lesions, and their tables."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from msapp.evaluation.lesiontables import match_table, score_by_size
from msapp.evaluation.lesionwise import (
    count_lesions,
    detect_anima,
    detect_overlap,
    pair_anima,
    score_anima,
    score_any_overlap,
    score_ivadomed,
)
from msapp.evaluation.overlaps import label_lesions, pair_labels, pair_lesions
from msapp.lesions.instances import crop_box

UNIT = (1.0, 1.0, 1.0)


def rod(*spans, length=200, lane=2) -> np.ndarray:
    """Return lesions of one voxel's width along one axis, at most one lesion a span."""
    mask = np.zeros((length, 6, 3), bool)
    for start, stop in spans:
        mask[start:stop, lane, 1] = True
    return mask


EMPTY = rod()


def found(prediction, reference) -> list[bool]:
    """Say which reference lesions Anima finds."""
    overlaps = pair_anima(prediction, reference, 1.0)
    return detect_anima(overlaps).found.tolist()


class TestLabels:
    @pytest.mark.parametrize(
        ('neighbour', 'counts'),
        [((1, 0, 0), (1, 1, 1)), ((1, 1, 0), (2, 1, 1)), ((1, 1, 1), (2, 2, 1))],
    )
    def test_faces_edges_and_corners(self, neighbour, counts):
        mask = np.zeros((2, 2, 2), bool)
        mask[0, 0, 0] = mask[neighbour] = True
        found = tuple(label_lesions(mask, 1.0, connectivity=n).max() for n in (6, 18, 26))
        assert found == counts

    def test_a_lesion_of_exactly_the_limit_does_not_count(self):
        mask = rod((0, 3), (10, 14))
        assert label_lesions(mask, 1.0, above_mm3=3.0).max() == 1
        # 3 mm3 are 6 voxels of 0.5 mm3.
        assert label_lesions(rod((0, 6)), 0.5, above_mm3=3.0).max() == 0
        assert label_lesions(rod((0, 7)), 0.5, above_mm3=3.0).max() == 1

    def test_the_rounding_of_a_header_does_not_matter(self):
        for voxel_mm3 in (1.0, 1.0000001, 0.9999999):
            assert label_lesions(rod((0, 3)), voxel_mm3, above_mm3=3.0).max() == 0

    def test_an_unknown_connectivity_is_refused(self):
        with pytest.raises(ValueError, match='connectivity must be one of'):
            label_lesions(EMPTY, 1.0, connectivity=8)

    def test_pairs_know_sizes_and_shared_voxels(self):
        overlaps = pair_lesions(rod((5, 15), (30, 33)), rod((0, 8), (12, 20), (50, 52)), 2.0)
        assert overlaps.predicted_voxels.tolist() == [10, 3]
        assert overlaps.reference_voxels.tolist() == [8, 8, 2]
        assert overlaps.covered_voxels().tolist() == [3, 3, 0]
        assert overlaps.swapped().covered_voxels().tolist() == [6, 0]
        pairs = zip(overlaps.predicted, overlaps.reference, overlaps.voxels, strict=True)
        assert sorted((int(a), int(b), int(c)) for a, b, c in pairs) == [(0, 0, 3), (0, 1, 3)]

    def test_values_of_label_images_may_be_missing(self):
        overlaps = pair_labels(np.array([0, 9, 9, 4]), np.array([7, 7, 0, 7]), 1.0)
        assert overlaps.predicted_labels.tolist() == [4, 9]
        assert overlaps.reference_labels.tolist() == [7]
        assert overlaps.covered_voxels().tolist() == [2]

    def test_shapes_must_agree(self):
        for pair in (pair_lesions, pair_labels):
            with pytest.raises(ValueError, match='shapes must be equal'):
                pair(EMPTY.astype(int), EMPTY[1:].astype(int), 1.0)

    def test_the_box_of_nothing_is_empty(self):
        assert EMPTY[crop_box(EMPTY, EMPTY)].size == 0


class TestAnimaAlpha:
    """Step one: more than a tenth of the reference lesion is covered."""

    def test_a_tenth_is_not_enough(self):
        # 4 voxels of 40; the prediction lies inside, so that beta has no say.
        assert found(rod((10, 14)), rod((0, 40))) == [False]

    def test_more_than_a_tenth_is(self):
        assert found(rod((10, 15)), rod((0, 40))) == [True]

    def test_lesions_add_up(self):
        assert found(rod((2, 6), (10, 14)), rod((0, 70))) == [True]
        assert found(rod((2, 6)), rod((0, 70))) == [False]

    def test_predicted_lesions_up_to_3_mm3_do_not_cover(self):
        assert found(rod((2, 5), (10, 13)), rod((0, 20))) == [False]


class TestAnimaBeta:
    """Step two: predicted lesions lie outside every reference lesion by 70 % at most."""

    def test_seven_tenths_outside_pass(self):
        assert found(rod((17, 27)), rod((0, 20))) == [True]

    def test_more_do_not(self):
        # 29 of 41 voxels outside, 0.707.
        assert found(rod((8, 49)), rod((0, 20))) == [False]

    def test_what_lies_in_another_lesion_is_not_outside(self):
        # The prediction reaches far out of the first lesion, but into the second.
        assert found(rod((16, 60)), rod((0, 20))) == [False]
        assert found(rod((16, 60)), rod((0, 20), (30, 50))) == [True, True]

    def test_what_lies_in_a_lesion_too_small_to_count_is_outside(self):
        # 5 of 17 voxels inside (0.706 outside), and 2 more in a lesion of 2 mm3.
        prediction = rod((15, 32))
        assert found(prediction, rod((0, 20))) == [False]
        assert found(prediction, rod((0, 20), (22, 24))) == [False]
        assert found(prediction, rod((0, 20), (22, 26))) == [True, True]


class TestAnimaGamma:
    """The walk over predicted lesions by decreasing overlap ends at 65 % of the covered part."""

    REFERENCE = (0, 100)

    def spill(self, mask, start, voxels) -> np.ndarray:
        """Let the predicted lesion at `start` reach out sideways by a number of voxels."""
        mask = mask.copy()
        mask[start, 3:6, 1] = True
        rest = voxels - 3
        mask[start + 1 : start + 1 + rest, 5, 1] = True
        return mask

    def test_a_bad_lesion_after_the_limit_does_no_harm(self):
        # 65 and 35 voxels: the first makes up 0.65, so the walk ends before the second.
        mask = self.spill(rod((0, 65), (66, 100), length=300), 66, 100)
        mask[65, 2, 1] = False
        # 65 of 99.
        assert found(mask, rod(self.REFERENCE, length=300)) == [True]

    def test_a_bad_lesion_before_the_limit_spoils_it(self):
        mask = self.spill(rod((0, 60), (66, 100), length=300), 66, 100)
        # 60 of 94, 0.638.
        assert found(mask, rod(self.REFERENCE, length=300)) == [False]

    def test_exactly_the_limit_ends_the_walk(self):
        mask = self.spill(rod((0, 26), (66, 80), length=300), 66, 60)
        # 26 of 40 is 0.65.
        assert found(mask, rod(self.REFERENCE, length=300)) == [True]
        mask = self.spill(rod((0, 25), (66, 81), length=300), 66, 60)
        assert found(mask, rod(self.REFERENCE, length=300)) == [False]

    def test_the_largest_overlap_comes_first_wherever_it_lies(self):
        mask = self.spill(rod((0, 30), (35, 100), length=300), 0, 100)
        assert found(mask, rod(self.REFERENCE, length=300)) == [True]
        mask = self.spill(rod((0, 30), (35, 100), length=300), 35, 200)
        assert found(mask, rod(self.REFERENCE, length=300)) == [False]


class TestAnimaScores:
    def test_predicted_lesions_are_judged_by_the_table_turned_round(self):
        # Two predictions in one lesion are both true; one beside it is false.
        reference = rod((0, 40), (60, 70))
        scores = score_anima(rod((2, 12), (20, 30), (100, 106)), reference, UNIT)
        assert (scores.reference_count, scores.predicted_count) == (2, 3)
        assert (scores.found_count, scores.false_count, scores.false_mm3) == (1, 1, 6)
        assert scores.sensitivity == 0.5
        assert scores.ppv == pytest.approx(2 / 3)
        assert scores.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))

    def test_a_prediction_much_larger_than_its_lesion_is_false_too(self):
        scores = score_anima(rod((0, 100)), rod((50, 58)), UNIT)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0, 0, 0)

    def test_a_prediction_inside_a_lesion_far_larger_is_false_by_beta(self):
        # Turned round, the lesion lies outside the prediction by more than 70 %.
        scores = score_anima(rod((0, 20)), rod((0, 100)), UNIT)
        assert (scores.sensitivity, scores.ppv) == (1, 0)

    def test_the_limit_of_size_is_in_mm3(self):
        mask = rod((0, 3), (10, 14))
        assert score_anima(mask, mask, UNIT).reference_count == 1
        assert score_anima(mask, mask, (1, 1, 2)).reference_count == 2

    def test_nothing_in_both(self):
        scores = score_anima(EMPTY, EMPTY, UNIT)
        assert (scores.false_count, scores.false_mm3) == (0, 0)
        assert all(map(math.isnan, (scores.sensitivity, scores.ppv, scores.f1)))

    def test_without_lesions_the_false_ones_are_counted_and_nothing_else(self):
        scores = score_anima(rod((0, 10), (20, 25), (30, 32)), EMPTY, (1, 1, 2))
        assert (scores.false_count, scores.false_mm3) == (3, 34)
        assert all(map(math.isnan, (scores.sensitivity, scores.ppv, scores.f1)))

    def test_lesions_of_3_mm3_alone_are_like_none(self):
        scores = score_anima(rod((0, 10)), rod((0, 3)), UNIT)
        assert (scores.reference_count, scores.false_count) == (0, 1)
        assert math.isnan(scores.f1)

    def test_nothing_predicted_is_no_reason_to_drop_out_of_the_mean(self):
        scores = score_anima(EMPTY, rod((0, 10)), UNIT)
        assert (scores.sensitivity, scores.f1) == (0, 0)
        assert math.isnan(scores.ppv)


class TestAnyOverlap:
    def test_one_voxel_is_enough(self):
        scores = score_any_overlap(rod((9, 40), (50, 51)), rod((0, 10), (45, 48)), UNIT)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0.5, 0.5, 0.5)

    def test_connectivity_decides_what_is_one_lesion(self):
        corner = np.zeros((6, 6, 6), bool)
        corner[1, 1, 1] = corner[2, 2, 2] = True
        for connectivity, count in ((6, 2), (18, 2), (26, 1)):
            scores = score_any_overlap(corner, corner, UNIT, connectivity=connectivity)
            assert scores.reference_count == count

    def test_empty_masks(self):
        scores = score_any_overlap(rod((0, 5)), EMPTY, UNIT)
        assert (scores.ppv, scores.false_count) == (0, 1)
        assert math.isnan(scores.sensitivity)
        assert math.isnan(scores.f1)


class TestIvadomed:
    def test_a_tenth_is_enough(self):
        assert score_ivadomed(rod((0, 1)), rod((0, 10)), UNIT).sensitivity == 1
        assert score_ivadomed(rod((0, 1)), rod((0, 11)), UNIT).sensitivity == 0

    def test_only_what_touches_nothing_is_false(self):
        # The first prediction covers too little, but is not false; found lesions are counted.
        scores = score_ivadomed(rod((0, 1), (40, 45), (100, 103)), rod((0, 30), (40, 50)), UNIT)
        assert (scores.found_count, scores.false_count) == (1, 1)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0.5, 0.5, 0.5)

    def test_a_lesion_found_in_two_parts_counts_once(self):
        scores = score_ivadomed(rod((0, 5), (10, 15)), rod((0, 20)), UNIT)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (1, 1, 1)

    @pytest.mark.parametrize(
        ('prediction', 'reference', 'value'),
        [(EMPTY, EMPTY, 1), (rod((0, 5)), EMPTY, 0), (EMPTY, rod((0, 5)), 0)],
    )
    def test_its_own_convention_for_empty_masks(self, prediction, reference, value):
        scores = score_ivadomed(prediction, reference, UNIT)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (value, value, value)

    def test_touching_without_finding_scores_nothing(self):
        scores = score_ivadomed(rod((0, 1)), rod((0, 30)), UNIT)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0, 0, 0)


class TestTables:
    def matches(self):
        overlaps = pair_lesions(rod((0, 10), (60, 62)), rod((5, 25), (30, 34)), 2.0)
        return overlaps, match_table(overlaps, detect_overlap(overlaps))

    def test_every_lesion_of_both_masks_has_a_line(self):
        _, table = self.matches()
        assert table['mask'].tolist() == ['reference'] * 2 + ['prediction'] * 2
        assert table['lesion'].tolist() == [1, 2, 1, 2]
        assert table['volume_mm3'].tolist() == [40, 8, 20, 4]
        assert table['overlap_mm3'].tolist() == [10, 0, 10, 0]
        assert table['overlap_fraction'].tolist() == [0.25, 0, 0.5, 0]
        assert table['partners'].tolist() == [1, 0, 1, 0]
        assert table['detected'].tolist() == [True, False, True, False]

    def test_recall_goes_by_the_size_of_true_and_ppv_by_that_of_predicted_lesions(self):
        _, table = self.matches()
        sizes = score_by_size(table, (0, 10, 30, 100, 1000))
        assert sizes['from_mm3'].tolist() == [0, 10, 30, 100]
        assert sizes['reference_count'].tolist() == [1, 0, 1, 0]
        assert sizes['predicted_count'].tolist() == [1, 1, 0, 0]
        np.testing.assert_equal(sizes['recall'].tolist(), [0, math.nan, 1, math.nan])
        np.testing.assert_equal(sizes['ppv'].tolist(), [0, 1, math.nan, math.nan])
        np.testing.assert_equal(sizes['f1'].tolist(), [0, math.nan, 0, math.nan])

    def test_a_bin_holds_its_lower_limit(self):
        _, table = self.matches()
        assert score_by_size(table, (8, 40))['reference_count'].tolist() == [1]
        assert score_by_size(table, (8, 41))['reference_count'].tolist() == [2]

    def test_bins_add_up_to_the_whole(self):
        overlaps, table = self.matches()
        sizes = score_by_size(table)
        whole = count_lesions(overlaps, detect_overlap(overlaps))
        assert sizes['reference_count'].sum() == whole.reference_count
        assert sizes['found_count'].sum() == whole.found_count
        assert (sizes['predicted_count'] - sizes['true_count']).sum() == whole.false_count

    @pytest.mark.parametrize('edges', [(1,), (5, 3), (1, 1)])
    def test_limits_must_increase(self, edges):
        _, table = self.matches()
        with pytest.raises(ValueError, match='increasing'):
            score_by_size(table, edges)

    def test_empty_masks_have_no_lines(self):
        overlaps = pair_lesions(EMPTY, EMPTY, 1.0)
        table = match_table(overlaps, detect_anima(overlaps))
        assert len(table) == 0
        assert score_by_size(table)['reference_count'].tolist() == [0, 0, 0, 0]


def test_a_whole_head_with_400_lesions_takes_seconds():
    generator = np.random.default_rng(0)
    shape = (182, 218, 182)
    reference, prediction = np.zeros(shape, bool), np.zeros(shape, bool)
    for corner in generator.integers(10, 160, (400, 3)):
        size = generator.integers(2, 7, 3)
        reference[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
        moved = corner + generator.integers(-2, 3, 3)
        prediction[tuple(slice(c, c + s) for c, s in zip(moved, size, strict=True))] = True
    start = time.process_time()
    overlaps = pair_anima(prediction, reference, 1.0)
    detection = detect_anima(overlaps)
    score_by_size(match_table(overlaps, detection))
    assert time.process_time() - start < 3
    assert detection.found.size > 250
