"""Values of overlapping patches in one image: results written out."""

from __future__ import annotations

import numpy as np
import pytest

from msapp.inference.patches import Patch, merge_nearest


def along(label, start, stop):
    """A patch of a line of voxels."""
    return Patch(label=label, start=(start, 0, 0), stop=(stop, 1, 1))


def merged(length, *patches, **arguments):
    """The labels that the voxels of a line are given."""
    values = [np.full(patch.shape, float(patch.label)) for patch in patches]
    return merge_nearest((length, 1, 1), patches, values, **arguments).ravel().tolist()


def test_in_an_overlap_the_nearer_centre_counts():
    # Centres at 2.0 and 5.0; voxels 3 and 4 lie in both.
    assert merged(10, along(1, 0, 5), along(2, 3, 8)) == [1, 1, 1, 1, 2, 2, 2, 2, 0, 0]


def test_equally_near_voxels_go_to_the_lower_label_in_any_order():
    # Centres at 2 and 4; voxel 3 lies between.
    first, second = along(1, 0, 5), along(2, 2, 7)
    wanted = [1, 1, 1, 1, 2, 2, 2]
    assert merged(7, first, second) == merged(7, second, first) == wanted
    # The same places, the labels exchanged.
    first, second = along(2, 0, 5), along(1, 2, 7)
    assert merged(7, first, second) == merged(7, second, first) == [2, 2, 2, 1, 1, 1, 1]


def test_a_small_patch_inside_a_large_one_keeps_what_is_nearer_to_it():
    # Centres at 4 and 6.5: voxel 5 is nearer to the large one's, 6 and 7 to the small one's.
    assert merged(9, along(1, 0, 9), along(2, 5, 9)) == [1, 1, 1, 1, 1, 1, 2, 2, 2]


def test_a_patch_whose_centre_is_nearest_counts_only_where_it_is():
    # Voxels 5 to 7 are nearer to the centre of patch 1, at 5, than to that of patch 2, at 3.5.
    assert merged(8, along(1, 5, 6), along(2, 0, 8)) == [2, 2, 2, 2, 2, 1, 2, 2]


def test_values_keep_their_place():
    patches = [along(1, 0, 3), along(2, 2, 6)]
    values = [np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7, 0.8])]
    result = merge_nearest((6, 1, 1), patches, [value[:, None, None] for value in values])
    # Centres at 1 and 3.5: voxel 2 is nearer to the first.
    np.testing.assert_allclose(result.ravel(), [0.1, 0.2, 0.3, 0.6, 0.7, 0.8], rtol=1e-6)
    assert result.dtype == np.float32


def test_distances_are_in_mm():
    patches = [
        Patch(label=1, start=(0, 0, 0), stop=(3, 3, 1)),
        Patch(label=2, start=(0, 0, 0), stop=(5, 1, 1)),
    ]
    values = [np.full(patch.shape, patch.label) for patch in patches]
    # From voxel (0, 0) it is 1.4 voxels to the centre (1, 1) and 2 to the centre (2, 0), but 5.1
    # and 2 mm on voxels of 1 by 5 mm.
    cubes = merge_nearest((5, 3, 1), patches, values)
    flat = merge_nearest((5, 3, 1), patches, values, spacing_mm=(1.0, 5.0, 1.0))
    assert cubes[:, 0, 0].tolist() == [1, 1, 2, 2, 2]
    assert flat[:, 0, 0].tolist() == [2, 2, 2, 2, 2]
    assert flat[:, 1, 0].tolist() == [1, 1, 1, 0, 0]


def test_no_patches_no_values():
    result = merge_nearest((3, 2, 1), [], [])
    assert result.shape == (3, 2, 1)
    assert not result.any()


@pytest.mark.parametrize(
    ('patches', 'shapes', 'message'),
    [
        ([along(1, 0, 3)], [], '1 patches need as many values, got 0'),
        ([along(1, 0, 3), along(1, 2, 4)], [(3, 1, 1), (2, 1, 1)], 'must be unique'),
        ([along(1, 2, 6)], [(4, 1, 1)], r'patch 1 must lie within \(5, 1, 1\)'),
        ([along(1, -1, 3)], [(4, 1, 1)], r'patch 1 must lie within \(5, 1, 1\)'),
        ([along(4, 2, 2)], [(0, 1, 1)], r'patch 4 must lie within'),
        ([along(1, 0, 3)], [(2, 1, 1)], r'values of patch 1 must be \(3, 1, 1\), got \(2, 1, 1\)'),
    ],
)
def test_what_does_not_fit_is_named(patches, shapes, message):
    with pytest.raises(ValueError, match=message):
        merge_nearest((5, 1, 1), patches, [np.zeros(shape) for shape in shapes])
