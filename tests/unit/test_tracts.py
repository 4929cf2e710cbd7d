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


def test_tracts_lie_in_white_matter_of_the_template():
    template = datasets.load_mni152_wm_template(resolution=2)
    world = apply_affine(tracts.AFFINE, np.indices(tracts.SHAPE).reshape(3, -1).T)
    voxels = np.rint(apply_affine(np.linalg.inv(template.affine), world)).astype(int)
    inside = np.clip(voxels, 0, np.array(template.shape) - 1)
    white = (template.get_fdata() > 0.5)[tuple(inside.T)].reshape(tracts.SHAPE)
    for name, tubes in zip(tracts.COURSES_MM, tracts._tubes(), strict=True):
        for tube in tubes:
            assert white[tube > 0.5].mean() > 0.6, name


@pytest.mark.parametrize('seed', range(5))
def test_both_sides_are_bright_or_none_and_none_is_brighter_than_said(seed):
    drawn = tracts.draw_tracts(np.random.default_rng(seed))
    assert drawn.shape == tracts.SHAPE
    assert 0 <= drawn.min() <= drawn.max() <= np.float32(tracts.BRIGHTEST)
    for points, _ in tracts.COURSES_MM.values():
        right = brightness_at(drawn, np.array(points))
        left = brightness_at(drawn, np.array(points) * [-1, 1, 1])
        assert (right > 0).any() == (left > 0).any()


def test_sides_differ_by_no_more_than_said(monkeypatch):
    monkeypatch.setattr(tracts, 'PATCHY', 0.0)
    monkeypatch.setattr(tracts, 'BRIGHTEST', 0.5)
    course = np.array(tracts.COURSES_MM['optic_radiation'][0])
    middle = np.array([course[2], course[2] * [-1, 1, 1]])
    sides = np.array(
        [
            brightness_at(tracts.draw_tracts(np.random.default_rng(seed)), middle)
            for seed in range(30)
        ]
    )
    sides = sides[sides.max(axis=1) > 0]
    share = np.abs(np.diff(sides, axis=1)[:, 0]) / sides.mean(axis=1)
    assert 0.1 < share.max() <= tracts.ASYMMETRY + 1e-6


def test_the_septum_is_a_sheet_between_the_sides_or_not_seen():
    drawn = [tracts.draw_septum(np.random.default_rng(seed)) for seed in range(12)]
    seen = [volume for volume in drawn if volume.any()]
    assert 0 < len(seen) < len(drawn)
    for volume in seen:
        low, high = tracts.SEPTUM_SIGNAL
        assert low <= volume.max() <= high
        places = apply_affine(tracts.AFFINE, np.argwhere(volume > 0.4 * volume.max()))
        assert (places[:, 0] == 0).all()


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
