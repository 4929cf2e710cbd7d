"""Facts about scores by voxel: known overlaps, distances in mm, empty masks, MONAI's numbers."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from msapp.evaluation.voxel import (
    average_surface_distance_mm,
    dice,
    hausdorff95_mm,
    score_voxels,
)

SPACINGS = [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)]


def box(shape, *sides) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def ball(shape, centre, radius_mm, spacing_mm) -> np.ndarray:
    points = np.indices(shape).T * spacing_mm
    return (np.linalg.norm(points - centre, axis=-1) <= radius_mm).T


def blobs(seed, shape=(20, 22, 12)) -> tuple[np.ndarray, np.ndarray]:
    """Return two masks that overlap in part, some of it at the border."""
    from scipy import ndimage

    noise = np.random.default_rng(seed).normal(size=(2, *shape))
    first, second = ndimage.gaussian_filter(noise, (0, 2, 2, 1))
    return first > 0.03, first + second > 0.03


EMPTY = np.zeros((12, 12, 12), bool)
CUBE = box(EMPTY.shape, (2, 6), (2, 6), (2, 6))
SHIFTED = np.roll(CUBE, 1, axis=0)


class TestOverlap:
    def test_a_cube_moved_by_a_quarter(self):
        scores = score_voxels(SHIFTED, CUBE, (1, 1, 2))
        assert scores.dice == 0.75
        assert scores.jaccard == pytest.approx(48 / 80)
        assert scores.sensitivity == scores.ppv == 0.75
        background = 12**3 - 64
        assert scores.specificity == pytest.approx((background - 16) / background)
        assert scores.npv == scores.specificity
        assert scores.relative_volume_error_percent == 0
        assert scores.predicted_ml == scores.reference_ml == pytest.approx(0.128)

    def test_a_cube_within_a_larger_one(self):
        small = box(EMPTY.shape, (2, 6), (2, 6), (2, 4))
        scores = score_voxels(small, CUBE, (1, 1, 1))
        assert scores.dice == pytest.approx(2 / 3)
        assert (scores.sensitivity, scores.ppv) == (0.5, 1)
        assert scores.relative_volume_error_percent == -50
        assert scores.absolute_volume_difference_percent == 50
        swapped = score_voxels(CUBE, small, (1, 1, 1))
        assert (swapped.sensitivity, swapped.ppv) == (1, 0.5)
        assert swapped.relative_volume_error_percent == 100

    def test_dice_and_jaccard_tell_the_same(self):
        scores = score_voxels(*blobs(3), (1, 1, 1))
        assert scores.dice == pytest.approx(2 * scores.jaccard / (1 + scores.jaccard))

    def test_two_equal_balls_one_radius_apart(self):
        # The lens between them holds 5/16 of a ball.
        spacing = (1.0, 1.0, 1.0)
        first = ball((70, 60, 60), (25, 29, 29), 20, spacing)
        second = ball((70, 60, 60), (45, 29, 29), 20, spacing)
        assert dice(first, second) == pytest.approx(5 / 16, rel=0.01)

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match='shapes must be equal'):
            score_voxels(CUBE, CUBE[1:], (1, 1, 1))


class TestEmptyMasks:
    def undefined(self, scores) -> set[str]:
        return {name for name, value in asdict(scores).items() if math.isnan(value)}

    def test_both_empty(self):
        scores = score_voxels(EMPTY, EMPTY, (1, 1, 1))
        assert (scores.specificity, scores.npv) == (1, 1)
        assert self.undefined(scores) == {
            'dice',
            'jaccard',
            'sensitivity',
            'ppv',
            'relative_volume_error_percent',
            'absolute_volume_difference_percent',
            'hd95_mm',
            'assd_mm',
        }

    def test_no_lesion_but_a_prediction(self):
        scores = score_voxels(CUBE, EMPTY, (1, 1, 1))
        assert (scores.dice, scores.jaccard, scores.ppv, scores.npv) == (0, 0, 0, 1)
        assert self.undefined(scores) == {
            'sensitivity',
            'relative_volume_error_percent',
            'absolute_volume_difference_percent',
            'hd95_mm',
            'assd_mm',
        }

    def test_no_prediction(self):
        scores = score_voxels(EMPTY, CUBE, (1, 1, 1))
        assert (scores.dice, scores.sensitivity, scores.specificity) == (0, 0, 1)
        assert scores.relative_volume_error_percent == -100
        assert self.undefined(scores) == {'ppv', 'hd95_mm', 'assd_mm'}


class TestDistances:
    @pytest.mark.parametrize(('axis', 'expected_mm'), [(0, 1.0), (1, 2.0), (2, 6.0)])
    def test_single_voxels_two_apart(self, axis, expected_mm):
        first = box((9, 9, 9), (4, 5), (4, 5), (4, 5))
        second = np.roll(first, 2, axis=axis)
        spacing = SPACINGS[1]
        assert hausdorff95_mm(first, second, spacing) == pytest.approx(expected_mm)
        assert average_surface_distance_mm(first, second, spacing) == pytest.approx(expected_mm)

    @pytest.mark.parametrize('spacing', SPACINGS)
    def test_a_mask_is_at_no_distance_from_itself(self, spacing):
        assert hausdorff95_mm(CUBE, CUBE, spacing) == 0
        assert average_surface_distance_mm(CUBE, CUBE, spacing) == 0

    def test_concentric_balls_are_as_far_apart_as_their_radii(self):
        spacing = (1.0, 1.0, 1.0)
        inner, outer = (ball((53, 53, 53), (26, 26, 26), radius, spacing) for radius in (14, 20))
        # The centres of surface voxels lie up to one voxel within the ball.
        assert average_surface_distance_mm(inner, outer, spacing) == pytest.approx(6, abs=0.3)

    def test_tops_and_bottoms_do_not_count_for_the_wmh_rule(self):
        block = box((13, 13, 9), (2, 11), (2, 11), (2, 7))
        pierced = block & ~box(block.shape, (4, 9), (4, 9), (2, 7))
        # In each slice the hole's rim is erosion's, 1 mm from that of the block. By an erosion in
        # three dimensions all of the block's top and bottom were surface, 2 mm from it: 2.0.
        assert hausdorff95_mm(pierced, block, (1, 1, 1)) == 1
        assert hausdorff95_mm(pierced, block, (1, 1, 7)) == 1

    @pytest.mark.parametrize('seed', range(3))
    def test_surfaces_are_those_of_the_wmh_challenge(self, seed):
        sitk = pytest.importorskip('SimpleITK')
        from msapp.evaluation.voxel import SLICE_SQUARE, surface_mm

        mask, _ = blobs(seed)
        # `evaluation.py` of the challenge; SimpleITK reads arrays with the slices first.
        inner = sitk.BinaryErode(sitk.GetImageFromArray(mask.T.astype(np.uint8)), (1, 1, 0))
        expected = mask & (sitk.GetArrayFromImage(inner).T == 0)
        found = surface_mm(mask, (1, 1, 1), SLICE_SQUARE, open_border=True)
        np.testing.assert_array_equal(found, np.argwhere(expected))

    def test_the_diagonal_is_a_neighbour_for_the_wmh_rule(self):
        # A missing corner brings its diagonal neighbour to the surface, 1 voxel from the ring.
        square = box((11, 11, 1), (3, 8), (3, 8), (0, 1))
        cut = square.copy()
        cut[3, 3, 0] = False
        from msapp.evaluation.voxel import SLICE_SQUARE, surface_mm

        found = surface_mm(cut, (1, 1, 1), SLICE_SQUARE, open_border=True)
        assert [4, 4, 0] in found.tolist()
        assert len(found) == 16 - 1 + 1

    def test_the_edge_of_the_image_is_no_surface_for_the_wmh_rule(self):
        whole, dot = np.ones((5, 5, 1), bool), box((5, 5, 1), (2, 3), (2, 3), (0, 1))
        assert math.isnan(hausdorff95_mm(whole, dot, (1, 1, 1)))

    def test_the_95th_percentile_ignores_few_far_voxels(self):
        line = box((100, 20, 3), (0, 100), (5, 6), (1, 2))
        spiked = line.copy()
        spiked[50, 6:9, 1] = True
        assert hausdorff95_mm(spiked, line, (1, 1, 1)) == 0
        far = line.copy()
        far[40:60, 8, 1] = True
        # 20 of 120 voxels lie 3 mm off.
        assert hausdorff95_mm(far, line, (1, 1, 1)) == 3

    @pytest.mark.parametrize('spacing', SPACINGS)
    @pytest.mark.parametrize('seed', range(3))
    def test_both_are_those_of_monai(self, spacing, seed):
        metrics = pytest.importorskip('monai.metrics')
        import torch

        from msapp.evaluation.voxel import surface_distances_mm, surface_mm
        from msapp.lesions.instances import FACES

        first, second = blobs(seed)
        tensors = [torch.tensor(mask[None, None]).float() for mask in (first, second)]
        expected = metrics.compute_average_surface_distance(
            *tensors, include_background=True, symmetric=True, spacing=spacing
        )
        found = average_surface_distance_mm(first, second, spacing)
        assert found == pytest.approx(expected.item(), rel=1e-5)
        # The same percentile, over MONAI's surfaces.
        expected = metrics.compute_hausdorff_distance(
            *tensors, include_background=True, percentile=95, spacing=spacing
        )
        surfaces = [surface_mm(mask, spacing, FACES, open_border=False) for mask in (first, second)]
        ways = surface_distances_mm(*surfaces)
        assert max(np.percentile(way, 95) for way in ways) == pytest.approx(
            expected.item(), rel=1e-5
        )

    def test_dice_and_jaccard_are_those_of_monai(self):
        metrics = pytest.importorskip('monai.metrics')
        import torch

        first, second = blobs(7)
        tensors = [torch.tensor(mask[None, None]).float() for mask in (first, second)]
        scores = score_voxels(first, second, (1, 1, 1))
        expected = metrics.compute_dice(*tensors, include_background=True).item()
        assert scores.dice == pytest.approx(expected, rel=1e-6)
        expected = metrics.compute_iou(*tensors, include_background=True).item()
        assert scores.jaccard == pytest.approx(expected, rel=1e-6)
        confusion = metrics.get_confusion_matrix(*tensors, include_background=True)
        for name in ('sensitivity', 'specificity'):
            expected = metrics.compute_confusion_matrix_metric(name, confusion).item()
            assert getattr(scores, name) == pytest.approx(expected, rel=1e-6)
