"""What a network is fed of real patients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchio as tio

from msapp.synthesis.lesion_bank import AFFINE, SHAPE, LesionBank
from msapp.training import patients
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


def draw(patient, bank, monkeypatch, painted):
    monkeypatch.setattr(patients, 'PAINTED', painted)
    monkeypatch.setattr(patients, 'case_transform', lambda: lambda patch: patch)
    values = load_recipe('lesions').model_dump()
    values['generator'] |= {'missing': 0.0, 'load': {'none': 0.0, 'patient': 1.0, 'thinned': 0.0}}
    recipe = load_recipe('lesions').model_copy(update={'generator': values['generator']})
    return patients.Cases([patient], recipe, bank).draw(np.random.default_rng(0))


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


def test_the_patient_is_not_changed(patient, bank, monkeypatch):
    draw(patient, bank, monkeypatch, painted=1.0)
    assert (patient['FLAIR'].data == 1).all()
    assert (patient['lesions'].data == 0).all()


def test_nothing_is_painted_without_a_bank(patient, monkeypatch):
    item = draw(patient, None, monkeypatch, painted=1.0)
    assert not item['target'].any()
