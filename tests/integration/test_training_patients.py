"""A real patient in the training: as the app shows one to a network."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torchio as tio

from msapp.errors import InputError
from msapp.training import patients
from msapp.training.recipe import RealCase, load_recipe

VISIT = 'sub-01/ses-1/anat/sub-01_ses-1'


@pytest.fixture(scope='module')
def case(fast_phantom):
    (mask,) = (fast_phantom / 'derivatives').glob(f'*/{VISIT}*label-L*mask.nii.gz')
    return RealCase(
        name='one',
        images={name: f'{VISIT}_{name}.nii.gz' for name in ('FLAIR', 'T1w')},
        lesions=str(mask.relative_to(fast_phantom)),
    )


@pytest.fixture(scope='module')
def prepared(fast_phantom, case, tmp_path_factory):
    cache = tmp_path_factory.mktemp('cache')
    return cache, patients.read_case(case, load_recipe('lesions'), fast_phantom, cache)


def test_raw_images_are_brought_to_1_mm_without_skull_and_scaled(prepared, fast_phantom, case):
    _, subject = prepared
    assert subject.spacing == (1.0, 1.0, 1.0)
    white = subject['white_matter'].data > 0.9
    lesions = subject['lesions'].data > 0
    for name in ('FLAIR', 'T1w'):
        image = subject[name].data
        assert not image[subject['brain'].data == 0].any()
        assert image[white & ~lesions].median() == pytest.approx(1, abs=0.1)
    assert subject['FLAIR'].data[lesions].median() > 1.15
    mask = nib.load(fast_phantom / case.lesions)
    true_mm3 = np.sum(np.asanyarray(mask.dataobj) > 0) * np.prod(mask.header.get_zooms())
    assert int(lesions.sum()) == pytest.approx(true_mm3, rel=0.15)


def test_a_patch_has_nothing_outside_the_brain(prepared, monkeypatch):
    _, subject = prepared
    recipe = load_recipe('lesions')
    recipe = recipe.model_copy(update={'generator': {**recipe.generator, 'missing': 0.0}})
    # Added everywhere: a patch would have no zero at all.
    noise = tio.RandomNoise(mean=(0.5, 0.5), std=0.01)
    monkeypatch.setattr(patients, 'case_transform', lambda: noise)
    cases = patients.Cases([subject], recipe)
    rng = np.random.default_rng(0)
    items = [cases.draw(rng) for _ in range(6)]
    assert any(item['target'].any() for item in items)
    outside = [(item['image'] == 0).numpy() for item in items]
    for flair, t1w in outside:
        assert flair.shape == recipe.window
        np.testing.assert_array_equal(flair, t1w)
    # Of all patches together: one alone may lie within the brain.
    assert 0.05 < np.mean(outside) < 0.95


def test_it_is_prepared_once_and_anew_for_another_mask(
    prepared, fast_phantom, case, tmp_path, monkeypatch
):
    cache, _ = prepared
    recipe = load_recipe('lesions')
    monkeypatch.delattr(patients, '_prepare')
    patients.read_case(case, recipe, fast_phantom, cache)
    other = case.model_copy(update={'lesions': case.images['FLAIR']})
    with pytest.raises(NameError):
        patients.read_case(other, recipe, fast_phantom, cache)


def test_a_mask_of_another_grid_is_refused(fast_phantom, case, tmp_path):
    mask = nib.load(fast_phantom / case.lesions)
    affine = mask.affine.copy()
    affine[0, 3] += 30
    nib.save(nib.Nifti1Image(np.asanyarray(mask.dataobj), affine), tmp_path / 'off.nii.gz')
    off = case.model_copy(update={'lesions': str(tmp_path / 'off.nii.gz')})
    with pytest.raises(InputError, match=r'off.nii.gz: another grid .* 30.0 mm apart'):
        patients.read_case(off, load_recipe('lesions'), fast_phantom, tmp_path)


def test_a_mask_that_is_turned_is_of_another_grid(tmp_path):
    image = nib.Nifti1Image(np.zeros((200, 200, 60), np.float32), np.diag([1, 1, 3, 1.0]))
    turned = image.affine.copy()
    turned[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    assert np.abs(turned - image.affine).max() < patients.MOST_APART_MM
    path = tmp_path / 'turned.nii.gz'
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), turned), path)
    with pytest.raises(InputError, match=r'turned.nii.gz: another grid .* 28.1 mm apart'):
        patients.mask_on(image, path)
