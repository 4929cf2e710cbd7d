"""Tracts that FLAIR shows brighter in healthy people."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nilearn import datasets

from msapp.synthesis import tracts


def brightness_at(volume: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    voxels = np.rint(apply_affine(np.linalg.inv(tracts.AFFINE), points_mm)).astype(int)
    return volume[tuple(voxels.T)]


def test_tracts_lie_in_the_brain_of_the_template():
    brain = datasets.load_mni152_brain_mask(resolution=2)
    inside = brain.get_fdata() > 0
    for points, _ in tracts.COURSES_MM.values():
        for side in (1, -1):
            voxels = apply_affine(np.linalg.inv(brain.affine), np.array(points) * [side, 1, 1])
            assert inside[tuple(np.rint(voxels).astype(int).T)].all()


@pytest.mark.parametrize('seed', range(5))
def test_both_sides_are_bright_or_none_and_none_is_brighter_than_said(seed):
    drawn = tracts.draw_tracts(np.random.default_rng(seed))
    assert drawn.shape == tracts.SHAPE
    assert 0 <= drawn.min() <= drawn.max() <= 2 * tracts.BRIGHTEST * (1 + tracts.ASYMMETRY)
    for points, _ in tracts.COURSES_MM.values():
        right = brightness_at(drawn, np.array(points))
        left = brightness_at(drawn, np.array(points) * [-1, 1, 1])
        assert (right > 0).any() == (left > 0).any()


def test_a_tract_is_bright_along_its_course_and_dark_beside_it(monkeypatch):
    monkeypatch.setattr(tracts, 'PATCHY', 0.0)
    course = np.array(tracts.COURSES_MM['optic_radiation'][0])
    drawn = [tracts.draw_tracts(np.random.default_rng(seed)) for seed in range(8)]
    along = np.array([brightness_at(volume, course[1:-1]).min() for volume in drawn])
    away = course[1:-1] + np.array([14, 0, 0])
    beside = np.array([brightness_at(volume, away).max() for volume in drawn])
    assert (along > 0.05).any()
    assert (along < 0.01).any()
    assert beside.max() < 0.01
