"""Zones of the brain: shares, volumes, and bringing them onto another grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msapp.imaging import tissue

WHITE, CORTEX = tissue.ZONES.index('white_matter'), tissue.ZONES.index('cortex')


@pytest.fixture
def probabilities():
    """Left half white matter, right half cortex, a rim of background; 2 mm."""
    shares = np.zeros((12, 10, 8, len(tissue.ZONES)), np.float32)
    shares[..., 0] = 1
    inner = (slice(1, -1),) * 3
    shares[inner] = 0
    shares[1:6, 1:-1, 1:-1, WHITE] = 0.9
    shares[6:-1, 1:-1, 1:-1, CORTEX] = 0.7
    shares[inner][..., 0] = 0
    shares[1:-1, 1:-1, 1:-1, 0] = 1 - shares[1:-1, 1:-1, 1:-1, 1:].sum(axis=-1)
    return nib.Nifti1Image(shares, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_an_unknown_zone_is_named():
    with pytest.raises(ValueError, match='spleen'):
        tissue.zone_mask(np.zeros((2, 2, 2), int), 'spleen')


def test_on_its_own_grid_each_voxel_gets_its_likeliest_zone(probabilities):
    grid = nib.Nifti1Image(np.zeros(probabilities.shape[:3], np.uint8), probabilities.affine)
    mask = np.ones(grid.shape, bool)
    zones = tissue.zones_on_grid(probabilities, mask, grid, np.eye(4))
    assert zones.dtype == np.uint8
    assert (zones[1:6, 1:-1, 1:-1] == WHITE).all()
    assert (zones[6:-1, 1:-1, 1:-1] == CORTEX).all()


def test_nothing_lies_outside_the_mask(probabilities):
    grid = nib.Nifti1Image(np.zeros(probabilities.shape[:3], np.uint8), probabilities.affine)
    mask = np.zeros(grid.shape, bool)
    mask[3, 4, 4] = True
    zones = tissue.zones_on_grid(probabilities, mask, grid, np.eye(4))
    assert zones[3, 4, 4] == WHITE
    assert zones.sum() == WHITE


def test_a_shift_moves_the_zones_and_keeps_their_volumes(probabilities):
    fine = nib.Nifti1Image(np.zeros((24, 20, 16), np.uint8), np.eye(4))
    shift = np.eye(4)
    shift[0, 3] = -2.0
    volumes = []
    for transform in (np.eye(4), shift):
        zones = tissue.zones_on_grid(probabilities, np.ones(fine.shape, bool), fine, transform)
        volumes.append(tissue.zone_volumes_ml(zones, 1.0))
    assert volumes[0]['white_matter'] == pytest.approx(volumes[1]['white_matter'], rel=0.02)
    assert volumes[0]['ventricles'] == 0


def test_volumes_are_in_ml_and_leave_the_background_out():
    zones = np.full((10, 10, 10), WHITE)
    zones[:5] = 0
    volumes = tissue.zone_volumes_ml(zones, 8.0)
    assert volumes['white_matter'] == 4.0
    assert 'background' not in volumes
    assert list(volumes) == list(tissue.ZONES[1:])
