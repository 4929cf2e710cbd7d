"""What a network for new lesions is fed of real patients, and of drawn pairs."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from msapp.errors import UsageError
from msapp.synthesis.appearance import LesionSettings
from msapp.synthesis.lesion_bank import AFFINE, SHAPE, LesionBank
from msapp.synthesis.pairs import Pair, PairSettings
from msapp.training import pairs
from msapp.training.data import make_pair_settings
from msapp.training.recipe import load_recipe
from msapp.training.visits import pad_visits

# Of the images of `patient`.
SIDE = 48


@pytest.fixture
def settings():
    return PairSettings(shape=(SIDE,) * 3, spacing_mm=1.0, lesions=LesionSettings(flair=(0.5, 0.8)))


def cube(centre_mm, half):
    mask = np.zeros(SHAPE, bool)
    middle = (np.array(centre_mm) - AFFINE[:3, 3]).astype(int)
    mask[tuple(slice(m - half, m + half) for m in middle)] = True
    return mask


def recipe(**generator):
    made = load_recipe('newlesions')
    return made.model_copy(update={'window': (32, 32, 32), 'generator': made.generator | generator})


def test_a_patch_knows_where_it_lies(patient):
    patch = pairs.cut_patch(patient, (10, 10, 10), (12, 12, 12))
    assert patch.increase.sum() == 1000
    world = nib.affines.apply_affine(patch.affine, (0, 0, 0))
    assert world.tolist() == [10 - SIDE / 2] * 3
    patch.images[:] = 0
    patch.increase[:] = False
    assert patient.images[1].max() > 1
    assert patient.increase.any()


def test_a_visit_with_itself_is_moved_by_a_voxel_at_most_and_has_no_increase(patient, settings):
    rng = np.random.default_rng(0)
    small = replace(settings, shape=(32, 32, 32), turn_deg=0.0)
    patch = pairs.pair_with_itself(patient, 1, (8, 8, 8), rng, small)
    assert not patch.increase.any()
    assert patch.slice_mm.tolist() == [1.0, 1.0]
    assert not torch.equal(*patch.images)
    # A voxel inside the bright cube or outside by more than a voxel is the same in both.
    bright = (patient.images[1] > 1)[8:40, 8:40, 8:40].numpy()
    inner = ndimage.binary_erosion(bright, np.ones((3, 3, 3)))
    outer = ~ndimage.binary_dilation(bright, np.ones((3, 3, 3)))
    for place in (inner, outer):
        assert torch.allclose(patch.images[0][place], patch.images[1][place], atol=1e-4)


def test_a_visit_with_itself_is_aligned_without_misregistration(patient, settings):
    rng = np.random.default_rng(0)
    still = replace(settings, shape=(30, 30, 30), turn_deg=0.0, shift_mm=0.0)
    first, second = pairs.pair_with_itself(patient, 1, (9, 9, 9), rng, still).images
    assert torch.allclose(first, second, atol=1e-4)


def test_painted_lesions_come_at_the_later_visit_and_old_ones_at_both(patient, settings):
    plain = replace(
        patient,
        images=torch.ones_like(patient.images),
        white=torch.ones_like(patient.white),
        increase=torch.zeros_like(patient.increase),
        slice_mm=np.array([1.0, 1.0]),
    )
    patch = pairs.cut_patch(plain, (0, 0, 0), (SIDE,) * 3)
    old, new = cube((-10, -10, 0), 3), cube((10, 10, 0), 4)
    pairs.paint_change(patch, old, new, np.random.default_rng(0), settings)
    assert patch.increase.sum() == 8**3
    previous, current = patch.images
    core = ndimage.binary_erosion(patch.increase.numpy(), iterations=2)
    assert (previous[patch.increase] == 1).all()
    assert (current[core] > 1.3).all()
    x = y = SIDE // 2 - 10
    assert previous[x, y, SIDE // 2] > 1.3
    assert current[x, y, SIDE // 2] > 1.3


def test_what_an_old_lesion_covers_does_not_increase(patient, settings):
    patch = pairs.cut_patch(patient, (0, 0, 0), (SIDE,) * 3)
    everywhere = np.ones(SHAPE, bool)
    nothing = np.zeros(SHAPE, bool)
    pairs.paint_change(patch, everywhere, nothing, np.random.default_rng(0), settings)
    assert not patch.increase.any()


def test_nothing_new_is_painted_where_tissue_is_bright(patient, settings):
    bright = replace(patient, images=patient.images * 1.5)
    patch = pairs.cut_patch(bright, (0, 0, 0), (SIDE,) * 3)
    before = patch.increase.clone()
    nothing = np.zeros(SHAPE, bool)
    pairs.paint_change(patch, nothing, cube((0, 0, 0), 10), np.random.default_rng(0), settings)
    assert torch.equal(patch.increase, before)


def test_thick_slices_spread_a_lesion_along_z_alone():
    share = torch.zeros(9, 9, 24)
    share[4, 4, 12] = 1
    seen = pairs.through_slices(share, 1.0, 4.0, np.random.default_rng(0))
    assert 0.1 < seen[4, 4].max() <= 0.25
    assert seen.sum() == seen[4, 4].sum()
    assert pairs.through_slices(share, 1.0, 1.0, np.random.default_rng(0)) is share


def test_patches_are_seeded_and_black_outside_the_brain(patient):
    bank = LesionBank([cube((0, 0, 0), 10)], [np.argwhere(cube((5, 5, 5), 3))])
    cases = pairs.PairCases([patient, replace(patient, paired=False)], recipe(), bank)
    assert len(cases) == 2
    state = torch.random.get_rng_state()
    for seed in range(3):
        first, again = (cases.draw(np.random.default_rng(seed)) for _ in range(2))
        assert torch.equal(first['image'], again['image'])
        assert torch.equal(first['target'], again['target'])
        assert first['image'].shape == (2, 32, 32, 32)
        assert first['target'].shape == (1, 32, 32, 32)
        outside = (first['image'] == 0).all(dim=0)
        assert not first['target'][0][outside].any()
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_patient_may_be_smaller_than_a_patch(patient, monkeypatch):
    wide = recipe().model_copy(update={'window': (SIDE - 8, SIDE, SIDE + 7)})
    cases = pairs.PairCases([patient], wide)
    for share in (0.0, 1.0):
        monkeypatch.setattr(pairs, 'TWO_VISITS', share)
        item = cases.draw(np.random.default_rng(0))
        assert item['image'].shape == (2, *wide.window)
        assert item['target'].shape == (1, *wide.window)
    padded = pad_visits(patient, wide.window)
    assert padded.white.shape == (SIDE, SIDE, SIDE + 7)
    assert padded.increase.sum() == patient.increase.sum()
    for visits in (patient, padded):  # it stays where it was
        middle = visits.increase.nonzero().double().mean(dim=0).numpy()
        assert nib.affines.apply_affine(visits.affine, middle).tolist() == [14.5 - SIDE / 2] * 3
    assert pad_visits(patient, (SIDE,) * 3) is patient


def test_a_patient_without_bank_is_centred_on_change_and_not_changed(patient, monkeypatch):
    monkeypatch.setattr(pairs, 'TWO_VISITS', 1.0)
    monkeypatch.setattr(pairs, 'CHANGE_CENTRED', 1.0)
    monkeypatch.setattr(pairs, 'SWAPPED', 0.0)
    monkeypatch.setattr(pairs, 'pair_transform', lambda noisy: lambda subject: subject)
    kept = patient.images.clone()
    item = pairs.PairCases([patient], recipe()).draw(np.random.default_rng(0))
    previous, current = item['image']
    came = item['target'][0] > 0
    assert came.any()
    assert torch.allclose(current[came], torch.tensor(1.8))
    assert torch.allclose(previous[came], torch.tensor(1.0))
    assert torch.equal(patient.images, kept)


def test_whole_pairs_are_as_they_are_and_single_visits_are_none(patient):
    (item,) = pairs.PairCases([patient, replace(patient, paired=False)], recipe()).wholes()
    assert torch.equal(item['image'], patient.images)
    assert torch.equal(item['target'][0] > 0, patient.increase)


def test_drawn_pairs_are_scaled_by_little_and_keep_their_target():
    class Fixed:
        def draw_pair(self, rng):
            share = torch.tensor([0.4, 0.6])[:, None, None]
            return Pair(torch.ones(2, 2, 1, 1), share, share, share, share)

    item = pairs.DrawnPairs(Fixed()).draw(np.random.default_rng(0))
    assert item['target'].flatten().tolist() == [0, 1]
    previous, current = item['image'][:, 0, 0, 0]
    assert previous != current
    assert item['image'].sub(1).abs().max() < 0.3


def test_the_recipe_gives_the_settings_of_pairs_and_its_folds_name_its_patients():
    made = load_recipe('newlesions')
    assert make_pair_settings(made).unchanged == 0.25
    names = {entry.name for entry in (*made.data.pairs, *made.data.visits)}
    assert set(made.data.folds['synthetic']) == names
    # Each patient is held out by one of the others, which is named after its pair.
    others = [fold for name, fold in made.data.folds.items() if name != 'synthetic']
    assert sorted(name for fold in others for name in fold) == sorted(names)
    assert 'ljub01' in made.data.folds['ljub01']
    assert {'pat07', 'pat19'} <= set(made.data.held_out_priors)
    wrong = made.model_copy(update={'generator': {'unchangd': 1}})
    with pytest.raises(UsageError, match='unknown unchangd'):
        make_pair_settings(wrong)
