"""Facts about brain masks: what counts as skull-stripped, and what a closed mask is."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from msapp.errors import InputError, MissingDependencyError
from msapp.imaging import bet, brain, geometry
from msapp.imaging.tissue import ZONES
from msapp.interfaces import imaging

# Registration where it is not what is tested.
COARSE_MM = 6.0


@pytest.fixture(scope='module')
def template():
    return brain.load_template()


def ball(radius_mm: float, *, air: float = 0.0) -> nib.Nifti1Image:
    axis = (np.arange(60) - 29.5) * 4.0
    radius = np.sqrt(sum(x**2 for x in np.meshgrid(axis, axis, axis, indexing='ij')))
    affine = np.diag([4.0, 4, 4, 1])
    return nib.Nifti1Image(np.where(radius < radius_mm, 100, air).astype(np.float32), affine)


def probability(mask: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(mask.astype(np.float32), np.eye(4))


def test_the_template_lies_in_its_masks(template):
    # Interpolation to 2 mm leaves numbers around 1e-45 outside the brain.
    image = template.image.get_fdata() > 1e-6
    inside, around = template.brain.get_fdata() > 0, template.around_brain.get_fdata() > 0
    assert (image & ~inside).sum() < 0.01 * image.sum()
    assert not (inside & ~around).any()
    voxel_ml = geometry.voxel_volume_mm3(template.brain) / 1000
    assert inside.sum() * voxel_ml == pytest.approx(1880, rel=0.03)
    reach = ndimage.distance_transform_edt(~inside, sampling=2.0)
    assert np.array_equal(around, reach <= 8)


def test_tissue_maps_are_probabilities_that_exclude_each_other(template):
    white, grey = template.white_matter.get_fdata(), template.grey_matter.get_fdata()
    for tissue in (white, grey):
        assert tissue.min() >= 0
        assert tissue.max() <= 1
    assert not ((white > 0.9) & (grey > 0.9)).any()


def test_the_template_is_skull_stripped():
    from nilearn import datasets

    assert brain.is_skull_stripped(datasets.load_mni152_template(resolution=1))


def test_an_interpolated_skull_stripped_image_is_still_skull_stripped(template):
    assert brain.is_skull_stripped(template.image)


@pytest.mark.parametrize(
    ('image', 'stripped'),
    [
        (ball(70), True),
        (ball(95), False),
        (ball(40), False),
        (ball(70, air=1.0), False),
    ],
    ids=['brain', 'head', 'too small', 'brain-sized head in air'],
)
def test_only_a_brain_sized_part_in_true_zero_is_skull_stripped(image, stripped):
    assert brain.is_skull_stripped(image) == stripped


def test_what_is_much_larger_than_its_own_brain_is_a_small_head():
    volume_ml = 4 / 3 * np.pi * 7**3
    assert brain.is_skull_stripped(ball(70), volume_ml / 1.05)
    assert not brain.is_skull_stripped(ball(70), volume_ml / 1.8)


def test_a_skull_stripped_brain_may_have_holes():
    image = ball(70)
    image.get_fdata()[25:35, 25:35, 25:35] = 0
    assert brain.is_skull_stripped(image)


def test_a_slab_that_fills_the_plane_is_not_skull_stripped():
    data = np.zeros((50, 60, 40), np.float32)
    data[:, :, 10:22] = 100
    slab = nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1]))
    volume_ml = (data > 0).sum() * 27 / 1000
    assert brain.SKULL_STRIPPED_MIN_ML < volume_ml < brain.SKULL_STRIPPED_MAX_ML
    assert not brain.is_skull_stripped(slab)


def zones_of(template: brain.Template) -> np.ndarray:
    """Give what a network that makes no error would say of the template."""
    inside, white = template.brain.get_fdata() > 0, template.white_matter.get_fdata()
    shares = np.zeros((*inside.shape, len(ZONES)), np.float32)
    shares[..., ZONES.index('white_matter')] = white * inside
    shares[..., ZONES.index('cortex')] = (1 - white) * inside
    shares[..., 0] = ~inside
    return shares


def test_zones_give_brain_tissues_and_the_map_from_mni(template):
    moved = np.diag([0.92, 0.95, 0.9, 1.0])
    moved[:3, 3] = (6, -9, 14)
    affine = moved @ template.image.affine
    # A bright shell around the brain, so that it does not pass for skull-stripped.
    shell = (template.around_brain.get_fdata() > 0) & ~(template.brain.get_fdata() > 0)
    head = template.image.get_fdata() + 1.2 * shell + 0.01
    shares = zones_of(template)
    found = brain.brain_from_zones(
        nib.Nifti1Image(head.astype(np.float32), affine), nib.Nifti1Image(shares, affine)
    )
    points = geometry.mask_points_mm(template.brain)
    assert geometry.displacement_mm(found.from_mni, moved, points).mean() < 1.0
    assert not found.was_stripped
    assert np.allclose(found.brain.get_fdata(), 1 - shares[..., 0])
    expected = template.white_matter.get_fdata() * template.brain.get_fdata()
    assert np.abs(found.white_matter.get_fdata() - expected).mean() < 0.01
    assert found.similarity > 1.3


def test_what_a_network_hardly_believes_is_no_brain(template):
    shell = (template.around_brain.get_fdata() > 0) & ~(template.brain.get_fdata() > 0)
    head = (template.image.get_fdata() + 1.2 * shell + 0.01).astype(np.float32)
    shares = (0.96 * zones_of(template) + 0.04 / len(ZONES)).astype(np.float32)
    affine = template.image.affine
    found = brain.brain_from_zones(
        nib.Nifti1Image(head, affine), nib.Nifti1Image(shares, affine), voxel_mm=COARSE_MM
    )
    assert np.array_equal(found.brain.get_fdata() > 0, template.brain.get_fdata() > 0)


def test_a_mask_that_is_given_bounds_the_tissues_of_zones(template):
    given = template.brain.get_fdata() > 0
    given[: given.shape[0] // 2] = False
    found = brain.brain_from_zones(
        template.image,
        nib.Nifti1Image(zones_of(template), template.image.affine),
        given_mask=geometry.like(given, template.brain),
        voxel_mm=COARSE_MM,
    )
    assert np.array_equal(found.brain.get_fdata() > 0.5, given)
    assert not found.white_matter.get_fdata()[~given].any()


def test_a_mask_is_its_largest_part_without_holes():
    mask = np.zeros((20, 20, 20), bool)
    mask[2:14, 2:14, 2:14] = True
    whole = mask.copy()
    mask[6:9, 6:9, 6:9] = False
    mask[16:19, 16:19, 16:19] = True
    image = probability(mask)
    assert np.array_equal(brain.mask_on_grid(image, image), whole)


def test_one_half_is_inside_and_less_is_not():
    values = np.full((6, 6, 6), 0.49, np.float32)
    values[1:5, 1:5, 1:5] = 0.5
    image = probability(values)
    assert np.array_equal(brain.mask_on_grid(image, image), values == 0.5)


def test_a_mask_follows_the_transform_to_its_grid():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:10, 5:10, 5:10] = True
    shift = np.eye(4)
    shift[:3, 3] = (3, 0, -2)
    moved = brain.mask_on_grid(probability(mask), probability(mask), shift)
    assert np.array_equal(moved, np.roll(mask, (-3, 2), (0, 2)))


def test_an_empty_mask_is_refused():
    image = probability(np.zeros((5, 5, 5)))
    with pytest.raises(InputError, match=r'mask is empty.*give a mask of your own'):
        brain.mask_on_grid(image, image)


@pytest.mark.parametrize('fsldir', [None, 'empty'])
def test_bet_without_fsl_says_what_to_install(monkeypatch, tmp_path, fsldir):
    monkeypatch.delenv('FSLDIR', raising=False)
    if fsldir is not None:
        monkeypatch.setenv('FSLDIR', str(tmp_path))
    with pytest.raises(MissingDependencyError, match='use --brain-extraction template') as caught:
        bet.require_fsl()
    assert 'FSLDIR' in str(caught.value)
    assert caught.value.exit_code == 69


def test_bet_without_fslpy_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'fsl.wrappers', None)
    with pytest.raises(MissingDependencyError, match=r'pip install "msapp\[bet\]"'):
        bet.require_fsl()


def test_bet_is_found_where_fsldir_says(monkeypatch, tmp_path):
    (tmp_path / 'bin').mkdir()
    program = tmp_path / 'bin' / 'bet'
    program.write_text('#!/bin/sh\n')
    monkeypatch.setenv('FSLDIR', str(tmp_path))
    with pytest.raises(MissingDependencyError):
        bet.require_fsl()
    program.chmod(0o755)
    bet.require_fsl()


@pytest.mark.parametrize(
    ('stripped', 'given', 'expected'),
    [
        (False, False, {'Method': 'network', 'Model': 'anatomy'}),
        (True, False, {'Method': 'already skull-stripped'}),
        (False, True, {'Method': 'given mask', 'Description': 'Given as mask.nii.gz'}),
        (True, True, {'Method': 'given mask', 'Description': 'Given as mask.nii.gz'}),
    ],
)
def test_only_a_brain_that_a_network_found_names_it(
    stripped, given, expected, tmp_path, monkeypatch
):
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4))
    for name in ('image.nii.gz', 'mask.nii.gz', 'zones.nii.gz'):
        nib.save(image, tmp_path / name)
    found = brain.BrainExtraction(image, image, image, np.eye(4), 1.2, was_stripped=stripped)
    monkeypatch.setattr(brain, 'brain_from_zones', lambda *given, **options: found)
    node = imaging.ExtractBrain(
        in_file=str(tmp_path / 'image.nii.gz'),
        zones=str(tmp_path / 'zones.nii.gz'),
        method='network',
        model={'Model': 'anatomy'},
        **({'given_mask': str(tmp_path / 'mask.nii.gz')} if given else {}),
    )
    result = node.run_function(tmp_path)
    assert result['metadata'] == expected
    assert result['measures']['brain_extraction'] == expected['Method']


def test_a_mask_that_is_given_finds_the_way_from_the_template_too(monkeypatch):
    """Where the match fails without one, the message asks for a mask."""
    asked = []

    def match(template, head, brain=None, **options):
        asked.append(brain)
        raise InputError('no match')

    monkeypatch.setattr(brain, '_affine_from_template', match)
    image, part = ball(95), probability(np.ones((60, 60, 60, 1)))
    mask = nib.Nifti1Image(part.get_fdata(), image.affine)
    for given in (None, mask):
        with pytest.raises(InputError, match='no match'):
            brain.extract_brain(image, given_mask=given)
    assert asked[0] is None
    assert np.asanyarray(asked[1].dataobj).mean() == pytest.approx(1, abs=0.05)
