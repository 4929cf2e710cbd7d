"""Facts about lesions: instances, bright voxels, and candidates of new lesions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.errors import InputError
from msapp.imaging import distance
from msapp.lesions.candidates import (
    Candidates,
    find_candidates,
    measure_candidates,
    patch_of,
)
from msapp.lesions.instances import (
    Instance,
    label_instances,
    measure_instances,
    position_columns,
)
from msapp.lesions.threshold import find_hyperintensities, measure_lesions

SPACINGS = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)]


def boxes(shape, *corners) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for corner in corners:
        mask[tuple(slice(start, stop) for start, stop in corner)] = True
    return mask


def positions(shape, spacing_mm) -> np.ndarray:
    """Return world coordinates with the origin in the middle of the array, mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing='ij'))


def ball_at(points: np.ndarray, centre, radius_mm: float) -> np.ndarray:
    return sum((x - c) ** 2 for x, c in zip(points, centre, strict=True)) <= radius_mm**2


def ball_mm3(radius_mm: float) -> float:
    return 4 / 3 * np.pi * radius_mm**3


class TestInstances:
    def test_the_largest_is_number_one(self):
        mask = boxes(
            (12, 12, 12),
            [(0, 1), (0, 1), (0, 1)],
            [(4, 8), (4, 8), (4, 8)],
            [(10, 12), (0, 2), (0, 2)],
        )
        labels = label_instances(mask, 2.0)
        assert [labels[0, 0, 0], labels[5, 5, 5], labels[11, 1, 1]] == [3, 1, 2]
        assert labels.dtype == np.int32
        assert np.array_equal(labels > 0, mask)

    @pytest.mark.parametrize(('minimum_mm3', 'count'), [(0, 2), (16, 2), (16.1, 1), (129, 0)])
    def test_a_region_of_exactly_the_minimum_stays(self, minimum_mm3, count):
        mask = boxes((12, 12, 12), [(0, 4), (0, 4), (0, 4)], [(8, 10), (8, 10), (8, 10)])
        assert label_instances(mask, 2.0, minimum_mm3=minimum_mm3).max() == count

    @pytest.mark.parametrize(
        ('neighbour', 'count'), [((1, 0, 0), 1), ((1, 1, 0), 2), ((1, 1, 1), 2)]
    )
    def test_faces_join_and_edges_and_corners_do_not(self, neighbour, count):
        mask = np.zeros((2, 2, 2), bool)
        mask[0, 0, 0] = mask[neighbour] = True
        assert label_instances(mask, 1.0).max() == count

    def test_an_empty_mask_has_none(self):
        labels = label_instances(np.zeros((3, 3, 3), bool), 1.0)
        assert not labels.any()
        assert list(measure_instances(labels, np.eye(4))) == []

    def test_a_box_on_an_oblique_grid_has_its_volume_centre_and_extent(self):
        rotation = Rotation.from_euler('xyz', [10, 20, -30], degrees=True).as_matrix()
        affine = np.eye(4)
        affine[:3, :3] = rotation @ np.diag([0.5, 1.0, 3.0])
        affine[:3, 3] = (10, -20, 30)
        labels = boxes((20, 20, 20), [(2, 12), (5, 9), (7, 9)]).astype(np.int32)
        (found,) = measure_instances(labels, affine)
        assert found.volume_mm3 == pytest.approx(10 * 4 * 2 * 1.5)
        assert found.extent_mm == pytest.approx(6.0)
        expected = rotation @ (np.array([6.5, 6.5, 7.5]) * [0.5, 1, 3]) + (10, -20, 30)
        np.testing.assert_allclose(found.centre_mm, expected)
        assert found.box == (slice(2, 12), slice(5, 9), slice(7, 9))

    def test_a_number_that_is_missing_is_passed_over(self):
        labels = boxes((6, 6, 6), [(0, 2), (0, 2), (0, 2)]) * 3
        assert [found.label for found in measure_instances(labels, np.eye(4))] == [3]

    def test_only_the_region_itself_counts_in_its_box(self):
        labels = np.zeros((5, 5, 5), np.int32)
        labels[0, 0, :] = labels[0, :, 0] = 1
        labels[0, 2, 2] = 2
        first, second = measure_instances(labels, np.eye(4))
        assert (first.volume_mm3, second.volume_mm3) == (9, 1)
        np.testing.assert_allclose(first.centre_mm, [0, 10 / 9, 10 / 9])

    def test_positions_are_given_in_both_spaces(self):
        to_mni = np.diag([2.0, 1, 1, 1])
        to_mni[:3, 3] = (1, 0, -5)
        columns = position_columns(np.array([10.0, 20, 30]), to_mni)
        assert columns == {
            'x_individual_mm': 10,
            'y_individual_mm': 20,
            'z_individual_mm': 30,
            'x_mni_mm': 21,
            'y_mni_mm': 20,
            'z_mni_mm': 25,
        }


WHITE, GREY, BRIGHT = 100.0, 120.0, 145.0
# Half the height of the limit (about the grey matter's centre) lies at the true border, because
# BRIGHT rises as far above it as WHITE lies below.
LESIONS = [((0, 0, 0), 6.0), ((-14, 8, 4), 4.0), ((10, -12, -8), 3.0)]


class TestHyperintensities:
    @pytest.fixture(params=SPACINGS, ids=['1 mm', '2 x 1 x 1.5 mm'])
    def head(self, request):
        """Give a ball of white matter in a shell of grey matter, with noise of 4 %."""
        spacing_mm = request.param
        points = positions([int(84 / step) for step in spacing_mm], spacing_mm)
        brain, core = ball_at(points, (0, 0, 0), 38), ball_at(points, (0, 0, 0), 28)
        noise = np.random.default_rng(0).normal(0, 4, brain.shape)
        flair = np.where(core, WHITE, GREY) * brain + noise * brain
        maps = {
            'white_matter': core.astype(np.float32),
            'grey_matter': (brain & ~core).astype(np.float32),
        }
        return spacing_mm, points, brain, flair, maps

    def test_none_are_found_where_there_are_none(self, head):
        spacing_mm, _, brain, flair, maps = head
        assert not find_hyperintensities(flair, brain, spacing_mm, **maps).mask.any()

    def test_painted_lesions_are_found_with_their_volumes(self, head):
        spacing_mm, points, brain, flair, maps = head
        for centre, radius_mm in LESIONS:
            flair[ball_at(points, centre, radius_mm)] += BRIGHT - WHITE
        found = find_hyperintensities(flair, brain, spacing_mm, **maps)
        labels = label_instances(found.mask, float(np.prod(spacing_mm)), minimum_mm3=3)
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = points[:, 0, 0, 0]
        rows = measure_lesions(labels, found.height_sd, brain, affine, np.eye(4))
        assert [row['lesion'] for row in rows] == [1, 2, 3]
        for row, (centre, radius_mm) in zip(rows, LESIONS, strict=True):
            assert row['volume_mm3'] == pytest.approx(ball_mm3(radius_mm), rel=0.25)
            place = [row[f'{axis}_individual_mm'] for axis in 'xyz']
            np.testing.assert_allclose(place, centre, atol=0.5)
            assert row['extent_mm'] == pytest.approx(2 * radius_mm, abs=2.1)
            inside = points[:, ball_at(points, centre, radius_mm)]
            depth = 38 - np.linalg.norm(inside, axis=0).mean()
            assert row['depth_mm'] == pytest.approx(depth, abs=1)
            assert row['contrast_sd'] > 10

    def test_the_scale_of_the_image_does_not_matter(self, head):
        spacing_mm, points, brain, flair, maps = head
        flair[ball_at(points, *LESIONS[0])] += BRIGHT - WHITE
        first = find_hyperintensities(flair, brain, spacing_mm, **maps)
        second = find_hyperintensities(8 * flair, brain, spacing_mm, **maps)
        assert first.mask.any()
        assert np.array_equal(first.mask, second.mask)
        np.testing.assert_allclose(first.height_sd, second.height_sd, atol=1e-3)

    def test_heights_are_robust_standard_deviations_of_white_matter(self, head):
        spacing_mm, _, brain, flair, maps = head
        found = find_hyperintensities(flair, brain, spacing_mm, **maps)
        deep = maps['white_matter'] > 0
        deep = distance.erode_mm(deep, 4, spacing_mm)
        assert np.median(found.height_sd[deep]) == pytest.approx(0, abs=0.15)
        assert found.height_sd[deep].std() == pytest.approx(1, abs=0.1)
        assert found.white_matter.centre == pytest.approx(WHITE, abs=0.5)

    def test_bright_voxels_near_the_surface_or_outside_white_matter_do_not_count(self, head):
        spacing_mm, points, brain, flair, maps = head
        flair[ball_at(points, (0, 0, 37), 3)] = 300
        flair[ball_at(points, (0, 33, 0), 2)] = 300
        assert not find_hyperintensities(flair, brain, spacing_mm, **maps).mask.any()


def visit(spacing_mm=(1.0, 1.0, 1.0), size_mm=48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give points, a smooth textured FLAIR (about 40 to 160) and a brain mask of one visit."""
    shape = [int(size_mm / step) for step in spacing_mm]
    points = positions(shape, spacing_mm)
    texture = ndimage.gaussian_filter(
        np.random.default_rng(0).normal(size=shape), [4 / step for step in spacing_mm]
    )
    flair = (100 + 20 * texture / texture.std()).astype(np.float32)
    return points, flair, ball_at(points, (0, 0, 0), 0.45 * size_mm)


def grey_centre(points, flair, mask, value=100.0) -> np.ndarray:
    """Make the middle of a FLAIR flat, so that what is painted into it has a known ratio."""
    return np.where(ball_at(points, (0, 0, 0), 9), value, flair).astype(np.float32)


class TestCandidates:
    @pytest.mark.parametrize('levels', [6, None])
    def test_an_unchanged_pair_has_none(self, levels):
        _, flair, mask = visit()
        found = find_candidates(flair, flair, mask, (1.0, 1.0, 1.0), levels=levels)
        assert not found.labels.any()
        np.testing.assert_allclose(found.ratio[mask], 1, atol=1e-4)

    @pytest.mark.parametrize('spacing_mm', SPACINGS)
    def test_a_new_lesion_is_found_with_its_volume_at_any_voxel_size(self, spacing_mm):
        points, flair, mask = visit(spacing_mm)
        flair = grey_centre(points, flair, mask)
        lesion = ball_at(points, (0, 0, 0), 7)
        now = np.where(lesion, 190, flair).astype(np.float32)
        found = find_candidates(flair, now, mask, spacing_mm)
        volume = np.prod(spacing_mm) * (found.labels == 1).sum()
        assert volume == pytest.approx(ball_mm3(7), rel=0.1)
        assert not (found.labels[~lesion] == 1).any()

    def test_a_lesion_that_vanished_is_none(self):
        points, flair, mask = visit()
        flair = grey_centre(points, flair, mask)
        before = np.where(ball_at(points, (0, 0, 0), 5), 190, flair).astype(np.float32)
        found = find_candidates(before, flair, mask, (1.0, 1.0, 1.0))
        assert not found.labels[ball_at(points, (0, 0, 0), 6)].any()

    @pytest.mark.parametrize(('step', 'expected'), [(1.10, False), (1.30, True)])
    def test_without_levels_only_a_rise_beyond_the_ratio_counts(self, step, expected):
        points, flair, mask = visit()
        flair = grey_centre(points, flair, mask)
        lesion = ball_at(points, (0, 0, 0), 4)
        now = np.where(lesion, step * flair, flair).astype(np.float32)
        found = find_candidates(flair, now, mask, (1.0, 1.0, 1.0), levels=None)
        assert found.ratio[lesion].mean() == pytest.approx(step, abs=0.03)
        assert (found.labels[lesion].mean() > 0.9) == expected
        assert found.labels.any() == expected

    def test_the_ratio_is_a_setting(self):
        points, flair, mask = visit()
        flair = grey_centre(points, flair, mask)
        lesion = ball_at(points, (0, 0, 0), 4)
        now = np.where(lesion, 1.3 * flair, flair).astype(np.float32)
        find = {'levels': None, 'spacing_mm': (1.0, 1.0, 1.0)}
        assert not find_candidates(flair, now, mask, ratio=1.4, **find).labels.any()

    @pytest.mark.parametrize(('voxel_mm', 'count'), [(1.0, 1), (0.99, 0)])
    def test_seven_cubic_millimetres_stay_and_less_goes(self, voxel_mm, count):
        points, flair, mask = visit()
        flair = grey_centre(points, flair, mask)
        now = flair.copy()
        # A voxel and its six neighbours: opening by 1 mm leaves it as it is.
        for step in [(0, 0, 0), *np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])]:
            now[tuple(np.add((24, 24, 24), step))] = 190
        found = find_candidates(flair, now, mask, (voxel_mm,) * 3)
        assert found.labels.max() == count
        assert (found.labels > 0).sum() == 7 * count

    def test_the_outermost_millimetre_of_the_brain_has_none(self):
        points, flair, mask = visit()
        lesion = ball_at(points, (20, 0, 0), 5)
        now = np.where(lesion, 250, flair).astype(np.float32)
        found = find_candidates(flair, now, mask, (1.0, 1.0, 1.0))
        inner = ndimage.binary_erosion(mask)
        assert (found.labels > 0).any()
        assert not found.labels[~inner].any()
        assert found.labels[lesion & inner & ~ndimage.binary_erosion(inner)].any()

    def test_a_line_of_single_voxels_is_opened_away(self):
        points, flair, mask = visit()
        now = grey_centre(points, flair, mask)
        now[16:32, 24, 24] = 190
        found = find_candidates(grey_centre(points, flair, mask), now, mask, (1.0, 1.0, 1.0))
        assert not found.labels.any()

    def test_there_are_six_levels_inside_the_mask_and_none_outside(self):
        _, flair, mask = visit()
        found = find_candidates(flair, flair, mask, (1.0, 1.0, 1.0))
        for levels in (found.previous_levels, found.current_levels):
            assert set(np.unique(levels[mask])) == {1, 2, 3, 4, 5, 6}
            assert not levels[~mask].any()
        low, high = np.percentile(flair[mask], (0.5, 99.5))
        expected = np.clip(np.floor((flair[mask] - low) / (high - low) * 6) + 1, 1, 6)
        assert np.array_equal(found.current_levels[mask], expected)

    @pytest.mark.parametrize('change', [lambda x: 3 * x, lambda x: 0.5 * x + 30])
    def test_gain_and_offset_of_the_first_visit_change_nothing(self, change):
        points, flair, mask = visit()
        flair = grey_centre(points, flair, mask)
        now = np.where(ball_at(points, (0, 0, 0), 5), 190, flair).astype(np.float32)
        plain = find_candidates(flair, now, mask, (1.0, 1.0, 1.0))
        changed = find_candidates(change(flair), now, mask, (1.0, 1.0, 1.0))
        assert np.array_equal(plain.labels > 0, changed.labels > 0)
        np.testing.assert_allclose(plain.previous, changed.previous, atol=0.1)

    def test_the_second_visit_is_the_reference(self):
        points, flair, mask = visit()
        now = 2 * np.where(ball_at(points, (0, 0, 0), 5), 190, flair).astype(np.float32)
        found = find_candidates(flair, now, mask, (1.0, 1.0, 1.0))
        middle = np.median(flair[mask])
        assert np.median(found.previous[mask]) == pytest.approx(2 * middle, rel=0.02)
        assert not found.previous[~mask].any()

    def test_what_lies_outside_the_mask_has_no_say(self):
        points, flair, mask = visit()
        now = np.where(ball_at(points, (0, 0, 0), 5), 190, flair).astype(np.float32)
        first = find_candidates(flair, now, mask, (1.0, 1.0, 1.0))
        second = find_candidates(
            np.where(mask, flair, 900), np.where(mask, now, 0), mask, (1.0, 1.0, 1.0)
        )
        assert first.labels.any()
        assert np.array_equal(first.labels, second.labels)

    def test_visits_whose_brains_do_not_overlap_are_refused(self):
        _, flair, mask = visit()
        with pytest.raises(InputError):
            find_candidates(flair, flair, np.zeros_like(mask), (1.0, 1.0, 1.0))


class TestPatches:
    @pytest.mark.parametrize(
        ('box', 'patch'),
        [
            ((slice(5, 8), slice(6, 7), slice(4, 9)), ((3, 10), (4, 9), (2, 11))),
            ((slice(1, 3), slice(0, 2), slice(17, 20)), ((0, 5), (0, 4), (15, 20))),
        ],
    )
    def test_a_patch_is_the_box_and_two_voxels_cut_at_the_border(self, box, patch):
        found = Instance(1, 1.0, np.zeros(3), 1.0, box)
        sides = patch_of(found, (20, 20, 20))
        assert tuple((side.start, side.stop) for side in sides) == patch

    def test_rows_give_place_ratio_and_patch_of_each_candidate(self):
        shape, spacing_mm = (20, 24, 28), (1.0, 1.0, 1.0)
        labels = boxes(shape, [(5, 8), (9, 12), (10, 13)]).astype(np.int32)
        labels[15, 18:20, 20] = 2
        ratio = np.where(labels == 1, 1.5, np.where(labels == 2, 1.25, 0)).astype(np.float32)
        mask = boxes(shape, [(2, 18), (3, 21), (4, 24)])
        affine = np.eye(4)
        affine[:3, 3] = (-10, -20, -30)
        empty = np.zeros(shape, np.float32)
        found = Candidates(labels, empty, empty, empty, ratio)
        maps = distance.distance_maps(mask, spacing_mm)
        first, second = measure_candidates(found, maps, affine, np.diag([-1.0, 1, 1, 1]))
        assert first == {
            'candidate': 1,
            'volume_mm3': 27,
            'x_individual_mm': -4,
            'y_individual_mm': -10,
            'z_individual_mm': -19,
            'x_mni_mm': 4,
            'y_mni_mm': -10,
            'z_mni_mm': -19,
            'intensity_ratio': 1.5,
            'depth_mm': 5,
            'below_vertex_mm': 12,
            'from_occiput_mm': 7,
            'patch_start_i': 3,
            'patch_stop_i': 10,
            'patch_start_j': 7,
            'patch_stop_j': 14,
            'patch_start_k': 8,
            'patch_stop_k': 15,
        }
        assert (second['candidate'], second['volume_mm3']) == (2, 2)
        assert second['intensity_ratio'] == 1.25
