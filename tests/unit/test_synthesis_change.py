"""Lesions that come between two drawn visits, and what an image shows of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msapp.synthesis import change
from msapp.synthesis.change import ChangeSettings, became, draw_new, drop_unseen
from msapp.synthesis.lesion_bank import SHAPE


def test_new_lesions_do_not_touch_old_ones(bank):
    settings = ChangeSettings(new=50.0, another=0)
    old = np.zeros(SHAPE, bool)
    old[:, :141] = True
    rng = np.random.default_rng(0)
    drawn = [draw_new(bank, old, rng, settings) for _ in range(5)]
    assert any(new.any() for new in drawn)
    for new in drawn:
        assert not new[:, :142].any()


@pytest.mark.parametrize('volume_mm3', [400.0, 1500.0, 5000.0])
def test_a_component_is_scaled_to_a_volume_about_its_middle(volume_mm3):
    voxels = np.argwhere(np.ones((5, 6, 4), bool)) + np.array([90, 100, 80])
    scaled = change._scale_to(voxels, volume_mm3)
    assert len(scaled) == pytest.approx(volume_mm3, rel=0.05)
    assert np.abs(scaled.mean(axis=0) - voxels.mean(axis=0)).max() <= 1


def test_lesions_of_another_patient_appear_but_for_those_that_are_there(bank):
    settings = ChangeSettings(new=0.0, another=1.0)
    rng = np.random.default_rng(0)
    assert draw_new(bank, np.zeros(SHAPE, bool), rng, settings).sum() == 6 * 8 * 8
    assert not draw_new(bank, np.ones(SHAPE, bool), rng, settings).any()


def test_only_what_was_none_becomes_lesion():
    share, before = torch.tensor([0.4, 0.6, 0.9, 0.9]), torch.tensor([0.0, 0.0, 0.5, 0.6])
    assert became(share, before).tolist() == pytest.approx([0, 0.6, 0.9, 0])


def test_lesions_that_do_not_show_are_not_asked_for():
    lesions = torch.zeros(9, 3, 3).bool()
    lesions[:2] = lesions[6:] = True
    added = torch.full(lesions.shape, 0.5)
    added[6:] = 0.01
    seen = drop_unseen(lesions, added)
    assert seen[:2].all()
    assert not seen[2:].any()
