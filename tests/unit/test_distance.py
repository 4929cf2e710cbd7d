"""Facts about distances in millimetres on voxels of any shape."""

from __future__ import annotations

import numpy as np
import pytest

from msapp.imaging import distance


def box(shape=(9, 11, 13), margin=2) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[margin:-margin, margin:-margin, margin:-margin] = True
    return mask


def ball(radius_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    axes = [np.arange(-30, 30 + step / 2, step) for step in spacing_mm]
    return sum(axis**2 for axis in np.meshgrid(*axes, indexing='ij')) <= radius_mm**2


def test_depth_in_a_box_is_the_way_to_its_nearest_side():
    depth = distance.distance_maps(box(), (1.0, 2.0, 3.0)).depth
    assert depth[2, 5, 6] == 1
    assert depth[4, 5, 6] == 3
    assert depth[4, 2, 6] == 2
    assert depth[4, 5, 2] == 3
    assert depth[1, 5, 6] == 0


@pytest.mark.parametrize('spacing_mm', [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_the_middle_of_a_ball_is_a_radius_deep(spacing_mm):
    maps = distance.distance_maps(ball(20, spacing_mm), spacing_mm)
    assert maps.depth.max() == pytest.approx(20, abs=max(spacing_mm))


def test_the_end_of_the_image_is_the_end_of_the_brain():
    depth = distance.distance_maps(np.ones((3, 9, 9), bool), (1.0, 1.0, 1.0)).depth
    assert depth[:, 4, 4].tolist() == [1, 2, 1]


def test_vertex_and_occiput_are_the_ends_of_the_mask():
    mask = box()
    maps = distance.distance_maps(mask, (1.0, 2.0, 3.0))
    assert maps.below_vertex[4, 5, 2:11].tolist() == [24, 21, 18, 15, 12, 9, 6, 3, 0]
    assert maps.from_occiput[4, 2:9, 6].tolist() == [0, 2, 4, 6, 8, 10, 12]
    for values in (maps.depth, maps.below_vertex, maps.from_occiput):
        assert values.dtype == np.float32
        assert not values[~mask].any()


def test_an_empty_mask_has_no_distances():
    with pytest.raises(ValueError, match='mask is empty'):
        distance.distance_maps(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ('radius_mm', 'shape'), [(0.9, (5, 7, 9)), (1.0, (3, 7, 9)), (2.0, (1, 5, 9)), (3.0, None)]
)
def test_erosion_takes_whole_voxels_within_the_radius(radius_mm, shape):
    eroded = distance.erode_mm(box(), radius_mm, (1.0, 2.0, 3.0))
    if shape is None:
        assert not eroded.any()
    else:
        assert eroded.sum() == np.prod(shape)
        assert [np.ptp(axis) + 1 for axis in np.nonzero(eroded)] == list(shape)


def test_dilation_reaches_as_far_as_the_radius_and_no_further():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    grown = distance.dilate_mm(mask, 2.0, (1.0, 2.0, 2.5))
    assert [len(set(axis)) for axis in np.nonzero(grown)] == [5, 3, 1]
    # Corners lie at sqrt(1 + 4) mm: five voxels in a row and one on either side.
    assert grown.sum() == 7
    assert not distance.dilate_mm(np.zeros((3, 3, 3), bool), 2.0, (1.0, 1.0, 1.0)).any()


def test_erosion_of_the_mask_is_dilation_of_the_rest():
    spacing_mm = (1.0, 1.5, 2.0)
    mask = np.random.default_rng(0).random((12, 12, 12)) > 0.1
    mask[[0, -1]] = mask[:, [0, -1]] = mask[:, :, [0, -1]] = False
    eroded = distance.erode_mm(mask, 1.5, spacing_mm)
    assert np.array_equal(eroded, ~distance.dilate_mm(~mask, 1.5, spacing_mm))


@pytest.mark.parametrize(
    ('radius_mm', 'spacing_mm', 'voxels'),
    [
        (1.0, (1.0, 1.0, 1.0), 7),
        (2.0, (1.0, 1.0, 1.0), 33),
        (2.0, (1.0, 1.0, 2.0), 15),
        (1.0, (2.0, 2.0, 2.0), 1),
        (0.0, (1.0, 1.0, 1.0), 1),
    ],
)
def test_a_ball_has_the_lattice_points_within_its_radius(radius_mm, spacing_mm, voxels):
    assert distance.ball_mm(radius_mm, spacing_mm).sum() == voxels


def test_opening_removes_a_sheet_and_keeps_a_ball_element():
    mask = np.zeros((12, 12, 12), bool)
    mask[2:10, 2:10, 1] = True
    element = np.zeros_like(mask)
    element[4:7, 5, 6] = element[5, 4:7, 6] = element[5, 5, 5:8] = True
    opened = distance.open_mm(mask | element, 1.0, (1.0, 1.0, 1.0))
    assert np.array_equal(opened, element)


def test_opening_keeps_a_sheet_one_thick_slice_high():
    mask = np.zeros((12, 12, 12), bool)
    mask[2:10, 2:10, 1] = True
    opened = distance.open_mm(mask, 1.0, (1.0, 1.0, 3.0))
    # Only the four corners go: no disc of 1 mm fits into them.
    assert mask.sum() - opened.sum() == 4


@pytest.mark.parametrize('change', [distance.erode_mm, distance.dilate_mm, distance.open_mm])
def test_a_negative_radius_is_refused(change):
    with pytest.raises(ValueError, match='radius_mm must be at least 0, got -1'):
        change(np.ones((3, 3, 3), bool), -1.0, (1.0, 1.0, 1.0))
