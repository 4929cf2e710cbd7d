"""Lesions painted into a patient's image, and how many of them are found again."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from msapp.synthesis.injection import CLEAR_MM, count_recovered, inject_lesions
from msapp.synthesis.lesions import sphere_volume_mm3

SHAPE = (70, 72, 60)
SIZES = (4.0, 8.0)
EACH = 3


def paint(slice_mm=1.0, found=None, sizes=SIZES, each=EACH, seed=0, bright=None):
    """Paint into two visits of white matter alone, seen in slices along the last axis."""
    visits = np.ones((2, *SHAPE), np.float32)
    if bright is not None:
        visits[0][bright] = 2.0
    scan = nib.Nifti1Image(
        np.ones((*SHAPE[:2], round(SHAPE[2] / slice_mm)), np.float32),
        np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, slice_mm, (slice_mm - 1) / 2], [0, 0, 0, 1]]),
    )
    painted = inject_lesions(
        (visits[0], visits[1]),
        np.ones(SHAPE, np.float32),
        np.zeros(SHAPE, bool) if found is None else found,
        np.eye(4),
        scan,
        np.eye(4),
        np.random.default_rng(seed),
        diameters_mm=sizes,
        each=each,
    )
    return visits, painted


def test_every_lesion_has_its_volume_and_is_brighter():
    visits, painted = paint()
    assert painted.diameters_mm == (8.0,) * EACH + (4.0,) * EACH
    for number, size in enumerate(painted.diameters_mm, start=1):
        inside = painted.labels == number
        assert inside.sum() == pytest.approx(sphere_volume_mm3(size), abs=1)
        assert (painted.image[inside] > visits[1][inside]).all()
    far = painted.image[painted.image < 1.001]
    assert far.size > 0.9 * painted.image.size


def test_thick_slices_make_small_lesions_fainter_and_keep_their_sum():
    _, thin = paint(sizes=(4.0,))
    _, thick = paint(sizes=(4.0,), slice_mm=5.0)
    assert (thin.labels == thick.labels).all()
    assert (thick.image - 1).max() < 0.8 * (thin.image - 1).max()
    assert (thick.image - 1).sum() == pytest.approx((thin.image - 1).sum(), rel=0.1)


@pytest.mark.parametrize('size', [3.0, 12.0])
def test_nothing_is_painted_near_what_was_found(size):
    found = np.zeros(SHAPE, bool)
    found[:35] = True
    _, painted = paint(found=found, sizes=(size,), each=8)
    assert painted.diameters_mm
    assert not painted.labels[: 35 + int(CLEAR_MM)].any()


def test_no_lesion_begins_on_bright_tissue():
    bright = np.zeros(SHAPE, bool)
    bright[:, :30] = True
    _, painted = paint(bright=bright, sizes=(3.0,), each=8)
    centres = [
        np.argwhere(painted.labels == number + 1).mean(axis=0)
        for number in range(len(painted.diameters_mm))
    ]
    assert len(centres) == 8
    assert all(centre[1] > 29 - 1 for centre in centres)


def test_without_room_nothing_is_painted_and_the_rows_say_so():
    visits, painted = paint(found=np.ones(SHAPE, bool))
    assert painted.diameters_mm == ()
    assert (painted.image == visits[1]).all()
    assert not painted.examples().any()
    rows = count_recovered(painted, np.ones(SHAPE, bool))
    assert [row['diameter_mm'] for row in rows] == list(SIZES)
    for row in rows:
        assert {row[f'{name}_count'] for name in ('injected', 'recovered', 'half_marked')} == {0}
        assert row['recovered_fraction'] is row['marked_fraction'] is None


def test_a_size_without_room_keeps_its_row_beside_those_with():
    _, painted = paint(sizes=(100.0, 4.0))
    small, large = count_recovered(painted, painted.labels > 0)
    assert (small['diameter_mm'], small['injected_count']) == (4, EACH)
    assert small['recovered_fraction'] == small['marked_fraction'] == 1
    assert (large['diameter_mm'], large['injected_count']) == (100, 0)


def test_a_lesion_is_recovered_from_a_tenth_of_its_volume_on():
    _, painted = paint()
    found = np.zeros(SHAPE, bool)
    for number, share in ((1, 1.0), (2, 0.11), (3, 0.05), (4, 1.0)):
        voxels = np.argwhere(painted.labels == number)
        found[tuple(voxels[: round(share * len(voxels))].T)] = True
    small, large = count_recovered(painted, found)
    assert (small['diameter_mm'], small['injected_count'], small['recovered_count']) == (4, 3, 1)
    assert (large['diameter_mm'], large['injected_count'], large['recovered_count']) == (8, 3, 2)
    assert small['recovered_fraction'] == pytest.approx(1 / 3)
    assert large['marked_fraction'] == pytest.approx(1.16 / 3, abs=0.01)


@pytest.mark.parametrize(('extra', 'count'), [(0, 0), (1, 1)])
def test_a_lesion_is_half_marked_from_more_than_half_of_its_volume_on(extra, count):
    _, painted = paint(each=1)
    voxels = np.argwhere(painted.labels == 1)
    labels = np.zeros(SHAPE, np.int32)
    labels[tuple(voxels[: len(voxels) // 2 * 2].T)] = 1  # an even number of voxels
    found = np.zeros(SHAPE, bool)
    found[tuple(voxels[: len(voxels) // 2 + extra].T)] = True
    _, large = count_recovered(replace(painted, labels=labels), found)
    assert (large['recovered_count'], large['half_marked_count']) == (1, count)


def test_one_example_of_each_size_is_shown():
    _, painted = paint()
    assert set(np.unique(painted.examples())) == {0, 1, 1 + EACH}


def test_the_seed_decides_where_lesions_are():
    assert (paint(seed=1)[1].labels == paint(seed=1)[1].labels).all()
    assert (paint(seed=1)[1].labels != paint(seed=2)[1].labels).any()
