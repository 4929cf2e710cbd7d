"""Zones by the anatomy network: which window it looks through, and when there is no brain."""

from __future__ import annotations

from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from msapp.errors import InputError
from msapp.imaging import geometry
from msapp.inference.anatomy import (
    CENTRED_MM,
    MAX_PASSES,
    SMALLEST_BRAIN_ML,
    predict_zones,
    window_about,
)
from msapp.models.spec import ModelSpec

SPACING_MM = 4.0
WINDOW = (32, 40, 32)
BRAIN_ML = 700.0
SPEC = ModelSpec(
    name='toy',
    version='1',
    task='anatomy',
    channels=[{'name': 'any'}],
    spacing_mm=(SPACING_MM,) * 3,
    normalisation={'name': 'head'},
    architecture={'name': 'headed_unet'},
    window=WINDOW,
    classes=('background', 'brain'),
    training={'synthetic_only': True},
    licence='none',
    intended_use='tests',
)


class Bright(nn.Module):
    """Calls brain what is brighter than half, and counts the windows it is shown."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.windows = 0

    def forward(self, image):
        self.windows += len(image)
        return torch.cat([torch.zeros_like(image), 400 * (image - 0.5)], dim=1)


def ball(volume_ml, centre_mm, *, body=()):
    """Draw a bright ball, and a dim box from one corner to another (mm), in 60 cubes of 4 mm."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -118
    points = np.moveaxis(np.indices((60, 60, 60)) * 4.0 - 118, 0, -1)
    data = np.zeros(points.shape[:3], np.float32)
    if len(body):
        data[np.all((points >= body[0]) & (points <= body[1]), axis=-1)] = 30
    radius_mm = (volume_ml * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    data[np.linalg.norm(points - np.asarray(centre_mm), axis=-1) < radius_mm] = 100
    return nib.Nifti1Image(data, affine)


def middle_mm(image):
    """Return the middle of a grid, and the centre of mass of brain in it, world mm."""
    data = np.asanyarray(image.dataobj)
    brain = nib.Nifti1Image(1 - data[..., 0], image.affine)
    middle = nib.affines.apply_affine(image.affine, (np.array(data.shape[:3]) - 1) / 2)
    return middle, geometry.centre_of_mass_mm(brain)


def test_a_brain_in_the_middle_of_the_head_is_looked_at_once():
    network = Bright()
    centre = np.array([5.0, -10, 20])
    zones = predict_zones(ball(BRAIN_ML, centre), network, SPEC)
    middle, found = middle_mm(zones)
    assert network.windows == 1
    assert zones.shape == (*WINDOW, 2)
    np.testing.assert_allclose(nib.affines.voxel_sizes(zones.affine), SPACING_MM)
    np.testing.assert_allclose(zones.get_fdata().sum(axis=-1), 1, atol=1e-5)
    assert np.linalg.norm(middle - centre) < SPACING_MM
    assert np.linalg.norm(found - centre) < 1
    ml = (1 - zones.get_fdata()[..., 0]).sum() * SPACING_MM**3 / 1000
    assert ml == pytest.approx(BRAIN_ML, rel=0.01)


@pytest.mark.parametrize(
    ('bottom_mm', 'windows'),
    [(-20, 1), (-60, 2), (-118, 3)],
    ids=['no neck', 'neck', 'shoulders'],
)
def test_the_window_moves_from_the_middle_of_the_head_to_the_brain(bottom_mm, windows):
    network = Bright()
    centre = np.array([5.0, 0, 25])
    image = ball(BRAIN_ML, centre, body=((-45, -45, bottom_mm), (45, 45, -10)))
    middle, found = middle_mm(predict_zones(image, network, SPEC))
    assert network.windows == windows
    assert np.linalg.norm(middle - centre) <= CENTRED_MM
    assert np.linalg.norm(found - centre) < SPACING_MM / 2


def test_a_brain_of_which_the_first_window_shows_little_is_found():
    centre = np.array([5.0, 0, 40])
    image = ball(BRAIN_ML, centre, body=((-85, -85, -118), (85, 85, -45)))
    network = Bright()
    zones = predict_zones(image, network, SPEC)
    assert network.windows > 1
    assert np.linalg.norm(middle_mm(zones)[1] - centre) < SPACING_MM


def test_a_brain_that_moves_with_the_window_is_followed_for_three_passes():
    class Upper(Bright):
        def forward(self, image):
            height = torch.linspace(0, 1, image.shape[-1]).expand_as(image)
            return super().forward(height)

    network = Upper()
    middle, _ = middle_mm(predict_zones(ball(BRAIN_ML, (0, 0, 0)), network, SPEC))
    assert network.windows == MAX_PASSES == 3
    # Twice by a quarter of the window.
    np.testing.assert_allclose(middle, (0, 0, WINDOW[2] * SPACING_MM / 2), atol=SPACING_MM / 2)


@pytest.mark.parametrize('axes', [('L', 'P', 'S'), ('P', 'S', 'R')])
def test_the_axes_of_the_image_do_not_matter(axes):
    image = ball(BRAIN_ML, (20.0, -10, 5))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
        )
    )
    assert nib.aff2axcodes(turned.affine) == axes
    straight, other = (predict_zones(scan, Bright(), SPEC) for scan in (image, turned))
    assert nib.aff2axcodes(other.affine) == ('R', 'A', 'S')
    np.testing.assert_allclose(other.affine, straight.affine, atol=1e-3)
    np.testing.assert_allclose(other.get_fdata(), straight.get_fdata(), atol=0.05)


@pytest.mark.parametrize(
    ('share', 'outcome'),
    [
        (0.9, pytest.raises(InputError, match=r'finds 1[78]\d ml of brain, too little')),
        (1.1, nullcontext()),
    ],
    ids=['less', 'enough'],
)
def test_less_brain_than_any_adult_has_is_none(share, outcome):
    with outcome:
        predict_zones(ball(share * SMALLEST_BRAIN_ML, (0, 0, 0)), Bright(), SPEC)


def test_a_network_that_sees_no_brain_says_so():
    class Blind(Bright):
        def forward(self, image):
            return super().forward(image * 0)

    with pytest.raises(InputError, match='finds 0 ml of brain'):
        predict_zones(ball(BRAIN_ML, (0, 0, 0)), Blind(), SPEC)


def test_a_window_lies_about_its_point():
    grid = window_about(np.array([1.0, -2, 3]), (3, 5, 8), (2.0, 1.0, 1.5))
    assert grid.shape == (3, 5, 8)
    middle = nib.affines.apply_affine(grid.affine, (1, 2, 3.5))
    np.testing.assert_allclose(middle, (1, -2, 3))
    np.testing.assert_allclose(np.diag(grid.affine), (2, 1, 1.5, 1))
