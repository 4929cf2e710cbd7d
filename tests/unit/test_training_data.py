"""What a network is fed of real patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio as tio
from scipy import ndimage

from msapp.errors import UsageError
from msapp.synthesis.lesion_bank import AFFINE, SHAPE, LesionBank
from msapp.training import data, patients
from msapp.training.data import Mixture, kept_path, read_heads
from msapp.training.recipe import load_recipe

SIDE = 96


@pytest.fixture
def patient():
    """A patient of white matter alone, without lesions, in the world of MNI."""
    affine = np.eye(4)
    affine[:3, 3] = -SIDE / 2
    flat = torch.ones(1, SIDE, SIDE, SIDE)
    white = flat.clone()
    white[:, : SIDE // 2] = 0
    return tio.Subject(
        FLAIR=tio.ScalarImage(tensor=flat, affine=affine),
        T1w=tio.ScalarImage(tensor=flat, affine=affine),
        white_matter=tio.ScalarImage(tensor=white, affine=affine),
        brain=tio.LabelMap(tensor=flat, affine=affine),
        lesions=tio.LabelMap(tensor=torch.zeros(1, SIDE, SIDE, SIDE), affine=affine),
        from_mni=np.eye(4),
    )


@pytest.fixture
def bank():
    """A bank of one mask: a cube of 40 mm about MNI's origin."""
    mask = np.zeros(SHAPE, bool)
    middle = -AFFINE[:3, 3].astype(int)
    mask[tuple(slice(m - 20, m + 20) for m in middle)] = True
    return LesionBank([mask], [np.argwhere(mask)[:5]])


def draw(patient, bank, monkeypatch, painted, seed=0):
    monkeypatch.setattr(patients, 'PAINTED', painted)
    monkeypatch.setattr(patients, 'case_transform', lambda: lambda patch: patch)
    values = load_recipe('lesions').model_dump()
    values['generator'] |= {'missing': 0.0, 'load': {'none': 0.0, 'patient': 1.0, 'thinned': 0.0}}
    recipe = load_recipe('lesions').model_copy(update={'generator': values['generator']})
    return patients.Cases([patient], recipe, bank).draw(np.random.default_rng(seed))


def test_lesions_are_painted_into_white_matter_bright_on_flair_and_dark_on_t1w(
    patient, bank, monkeypatch
):
    item = draw(patient, bank, monkeypatch, painted=1.0)
    lesions = item['target'][0] > 0
    flair, t1w = item['image']
    assert 20_000 < lesions.sum() < 45_000
    assert not lesions[: SIDE // 2].any()
    assert (flair[lesions] > 1).float().mean() > 0.95
    assert (t1w[lesions] < 1).float().mean() > 0.95
    far = torch.ones_like(lesions)
    far[SIDE // 2 - 30 : SIDE // 2 + 30] = False
    assert (flair[far] == 1).all()


def test_painted_lesions_have_soft_borders(patient, bank, monkeypatch):
    items = []
    for softest_mm in (0.0, 3.0):
        monkeypatch.setattr(patients, 'SOFTEST_BORDER_MM', softest_mm)
        items.append(draw(patient, bank, monkeypatch, painted=1.0, seed=1))
    hard, soft = items
    assert torch.equal(hard['target'], soft['target'])
    lesions = hard['target'][0] > 0
    away_mm = torch.from_numpy(ndimage.distance_transform_edt(~lesions))
    for image, other in zip(hard['image'], soft['image'], strict=True):
        assert (image[away_mm > 1] == 1).all()
        assert (other[(away_mm > 1) & (away_mm < 3)] != 1).any()
        # Three standard deviations, along each axis.
        assert (other[away_mm > 16] == 1).all()


def test_the_patient_is_not_changed(patient, bank, monkeypatch):
    draw(patient, bank, monkeypatch, painted=1.0)
    assert (patient['FLAIR'].data == 1).all()
    assert (patient['lesions'].data == 0).all()


def test_nothing_is_painted_without_a_bank(patient, monkeypatch):
    item = draw(patient, None, monkeypatch, painted=1.0)
    assert not item['target'].any()


def test_a_whole_patient_is_as_it_is_with_zeros_for_what_is_missing(patient):
    patient['lesions'].data[:, 1, 2, 3] = 1
    patient.remove_image('T1w')
    (item,) = patients.Cases([patient], load_recipe('lesions')).wholes()
    assert item['image'].shape == (2, SIDE, SIDE, SIDE)
    assert [channel.unique().tolist() for channel in item['image']] == [[1], [0]]
    assert item['target'].nonzero().tolist() == [[0, 1, 2, 3]]


def test_a_patient_may_be_smaller_than_the_window(patient):
    patient['lesions'].data[:, 1, 2, 3] = 1
    recipe = load_recipe('lesions').model_copy(update={'window': (SIDE, SIDE, SIDE + 8)})
    cases = patients.Cases([patient], recipe)
    for seed in range(3):
        item = cases.draw(np.random.default_rng(seed))
        assert item['image'].shape == (2, *recipe.window)
        assert item['target'].shape == (1, *recipe.window)
    (whole,) = cases.wholes()
    assert whole['target'].nonzero().tolist() == [[0, 1, 2, 3 + 4]]
    assert not whole['image'][..., :4].any()


def test_another_preparation_is_kept_elsewhere(tmp_path, monkeypatch):
    path = kept_path(tmp_path, 'one', 'entry', [])
    assert kept_path(tmp_path, 'one', 'entry', []) == path
    monkeypatch.setattr(data, 'PREPARATION', data.PREPARATION + 1)
    assert kept_path(tmp_path, 'one', 'entry', []) != path


def test_visits_of_one_name_are_one_patient(patient):
    named = []
    for name in ('one', 'one', 'two'):
        named.append(tio.Subject(patient.get_images_dict(intensity_only=False), name=name))
    assert len(patients.Cases(named, load_recipe('lesions'))) == 2


def test_without_drawn_heads_all_is_real_and_without_both_there_is_nothing():
    class Real:
        def draw(self, rng):
            return {'image': torch.ones(1)}

    for share in (0.0, 0.5):
        stream = iter(Mixture(None, Real(), share, 0))
        assert all(next(stream)['image'] == 1 for _ in range(5))
    with pytest.raises(UsageError, match='no real case is left to learn from'):
        Mixture(None, None, 0.0, 0)


def test_heads_are_asked_for_where_the_recipe_names_none(tmp_path):
    recipe = load_recipe('lesions')
    data = recipe.data.model_copy(update={'heads': None})
    with pytest.raises(UsageError, match='set synthetic_share = 0 and leave held_out_heads out'):
        read_heads(recipe.model_copy(update={'data': data}), tmp_path, tmp_path)
