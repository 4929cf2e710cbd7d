"""New lesions as instances: what the network marks, which are confirmed, how large they grow."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msapp.imaging import geometry
from msapp.inference import newlesions
from msapp.inference.newlesions import (
    LEAST_GROWING_MM3,
    LEAST_TISSUE,
    REACH_MM,
    label_new_lesions,
    least_volumes_mm3,
)
from msapp.interfaces.base import save, save_matrix
from msapp.interfaces.newlesions import SegmentNewLesions
from msapp.models.registry import load_spec

SHAPE = (40, 40, 40)
POINTS = np.indices(SHAPE) - 20
LESION = np.linalg.norm(POINTS, axis=0) < 8
BRAIN = np.ones(SHAPE, bool)


def label(
    marked,
    *,
    previous=None,
    current=None,
    brain=BRAIN,
    model='newlesions',
    confirmed_by=None,
    **lesions,
):
    flat = np.ones(SHAPE, np.float32)
    previous = flat if previous is None else previous
    images = {'previous': previous, 'current': flat + 0.5 * LESION if current is None else current}
    confirmed_by = 'lesions' if lesions else confirmed_by
    spec = load_spec(model).model_copy(update={'confirmed_by': confirmed_by})
    return label_new_lesions(marked * np.float32(0.9), images, brain, spec, **lesions)


def cube(corner):
    mask = np.zeros(SHAPE, bool)
    mask[corner : corner + 4, :4, :4] = True
    return mask


def test_a_lesion_that_is_marked_in_part_grows_to_its_border():
    marked = LESION & (POINTS[0] > -2)
    grown = label(marked) > 0
    assert np.logical_xor(grown, LESION).sum() < 0.05 * LESION.sum()


def test_a_hollow_lesion_is_filled():
    hollow = LESION & (np.linalg.norm(POINTS, axis=0) > 5)
    assert (label(hollow) > 0)[LESION].all()


def test_it_grows_no_farther_than_its_reach_and_the_brain():
    marked = LESION & (POINTS[0] > 5)
    assert marked.sum() >= LEAST_GROWING_MM3
    everywhere = np.full(SHAPE, 1.5, np.float32)
    brain = POINTS[1] < 5
    grown = label(marked, current=everywhere, brain=brain) > 0
    assert POINTS[0][grown].min() == 6 - REACH_MM
    assert not grown[~brain & ~marked].any()


@pytest.mark.parametrize(('brightness', 'grows'), [(1.1, False), (1.2, True)])
def test_only_what_is_as_bright_as_a_lesion_grows(brightness, grows):
    marked = LESION & (POINTS[0] > 2)
    previous = np.full(SHAPE, 0.8, np.float32)
    current = np.where(LESION, np.float32(brightness), previous)
    found = label(marked, previous=previous, current=current) > 0
    assert (found == marked).all() != grows


def test_a_lesion_grows_to_where_it_brightened_half_as_much_as_in_its_middle():
    radius = np.linalg.norm(POINTS, axis=0)
    # Half of the brightness of the middle is reached at 9 mm.
    current = 1 + np.float32(0.6) * np.exp(-np.log(2) * (radius / 9) ** 2)
    found = label(radius < 4, current=current.astype(np.float32)) > 0
    # What is marked is a little dimmer than the very middle, so its half lies a little farther out.
    assert radius[found].max() == pytest.approx(9.4, abs=0.5)


@pytest.mark.parametrize('brightened', [-0.1, 0.0, 0.05])
def test_a_place_that_hardly_brightened_does_not_spread_through_noise(brightened):
    marked = np.linalg.norm(POINTS, axis=0) < 3
    noise = np.random.default_rng(0).normal(0, 0.08, SHAPE)
    current = (1.3 + noise + brightened * marked).astype(np.float32)
    images = {'previous': np.full(SHAPE, 1.3, np.float32), 'current': current}
    spec = load_spec('newlesions').model_copy(update={'confirmed_by': None})
    found = label_new_lesions(marked * np.float32(0.9), images, BRAIN, spec)
    assert ((found > 0) == marked).all()


def test_the_reach_is_as_far_on_the_diagonal_as_along_an_axis():
    marked = np.linalg.norm(POINTS, axis=0) < 4
    grown = label(marked, current=np.full(SHAPE, 1.5, np.float32)) > 0
    from_mark = np.linalg.norm(POINTS, axis=0)[grown].max()
    assert 3 + REACH_MM < from_mark < 4 + REACH_MM
    assert grown.sum() > 0.9 * 4 / 3 * np.pi * (3.5 + REACH_MM) ** 3


def test_small_places_stay_as_they_are():
    speck = np.linalg.norm(POINTS, axis=0) < 2
    assert ((label(speck) > 0) == speck).all()


def test_the_hybrid_method_stays_as_published():
    marked = LESION & (POINTS[0] > 2)
    assert ((label(marked, model='hybrid') > 0) == marked).all()


@pytest.mark.parametrize(
    ('old', 'seen', 'kept'),
    # The odds of 0.9 are 9: the odds that it was one before may be 0.3 at most.
    [(0, 0.5, True), (0.23, 1, True), (0.24, 1, False), (1, 1, False), (0, 0.49, False)],
)
def test_a_place_is_new_where_a_lesion_is_likely_now_and_was_not_before(old, seen, kept):
    marked = cube(0) | cube(10)
    before, after = old * cube(0) + cube(20), cube(10) + cube(20) * 1.0
    after[cube(0)] = np.where(np.arange(64) < 3, seen, 0)
    found = label(marked, before=before, after=after) > 0
    assert (found == (marked if kept else cube(10))).all()


@pytest.mark.parametrize(
    ('dark', 'kept'), [(LEAST_TISSUE + 0.01, True), (LEAST_TISSUE - 0.01, False)]
)
def test_fluid_that_shines_is_no_new_lesion(dark, kept):
    shining, new = cube(0), cube(20)
    previous = np.where(shining, np.float32(dark), np.float32(1))
    given = {'previous': previous, 'before': shining * 0.0, 'after': (shining | new) * 1.0}
    assert ((label(shining | new, **given) > 0) == (new | shining * kept)).all()


def test_nothing_marked_and_nothing_confirmed_are_no_lesion():
    nothing = np.zeros(SHAPE)
    assert not label(nothing, before=nothing, after=nothing).any()
    assert not label(LESION, before=nothing, after=nothing).any()


def test_a_new_lesion_does_not_grow_into_an_old_one():
    marked = LESION & (POINTS[0] > 2)
    old = LESION & (POINTS[0] < -2)
    found = label(marked, before=old * 1.0, after=LESION * 1.0) > 0
    assert found[LESION & (POINTS[0] == 0)].all()
    assert not found[old].any()


def test_an_old_lesion_with_a_new_rim_all_round_stays_old():
    core = np.linalg.norm(POINTS, axis=0) < 5
    found = label(LESION & ~core, before=core * 1.0, after=LESION * 1.0) > 0
    assert (found == (LESION & ~core)).all()


def test_a_new_lesion_grows_to_the_end_of_what_is_found_at_the_later_visit():
    marked = LESION & (POINTS[0] > 5)
    known = LESION & (POINTS[1] < 3)
    everywhere = np.full(SHAPE, 1.5, np.float32)
    found = label(marked, current=everywhere, before=BRAIN * 0.0, after=known * 1.0) > 0
    assert found[known & (np.abs(POINTS[2]) < 4) & (POINTS[0] > -5)].all()
    assert not found[~known & ~marked].any()


def test_a_model_that_needs_to_be_confirmed_refuses_to_go_without():
    with pytest.raises(ValueError, match='newlesions: needs the lesions that confirm'):
        label(LESION, confirmed_by='lesions')


def test_other_tissue_and_old_lesions_that_brighten_are_neither_new_nor_gone(tmp_path, monkeypatch):
    new, gone, old, tissue = (cube(corner) for corner in (0, 10, 20, 30))
    values = np.ones((2, *SHAPE), np.float32)
    for place, brightness in ((new, (1, 1.6)), (gone, (1.6, 1)), (old, (1.4, 1.8))):
        values[:, place] = np.transpose([brightness])
    values[:, tissue] = np.transpose([(0.6, 1.1)])
    grid = nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4))
    monkeypatch.setattr(geometry, 'individual_grid', lambda: grid)
    # Two networks that see just what they are asked for.
    monkeypatch.setattr(
        newlesions,
        'predict_new_lesions',
        lambda images, *_, **__: (images['current'] - images['previous'] > 0.3) * np.float32(0.9),
    )
    monkeypatch.setattr(
        newlesions,
        'predict_lesions',
        lambda images, *_, **__: (images['FLAIR'] > 1.3) * np.float32(0.9),
    )
    ones = np.ones(SHAPE, np.float32)
    maps = {'previous': values[0], 'current': values[1], 'current_mask': ones}
    maps |= {'previous_brain': ones, 'previous_white_matter': ones * (values[0] == 1)}
    inputs = {name: save(array, grid, tmp_path / f'{name}.nii') for name, array in maps.items()}
    same = save_matrix(np.eye(4), tmp_path / 'same.txt')
    inputs |= dict.fromkeys(('previous_to_current', 'current_to_individual', 'to_mni'), same)
    node = SegmentNewLesions(model='newlesions', model_sha256='none', **inputs)
    made = node.run_function(tmp_path)
    for name, place in (('mask', new), ('gone', gone)):
        assert (np.asanyarray(nib.load(made[name]).dataobj) == place).all()
    assert made['measures']['detected_new_count'] == 1
    used = [load_spec(name).identity for name in ('newlesions', 'lesions')]
    assert made['measures']['detected_new_model_sha256'] == '+'.join(used)


# --- How well the visits compare ----------------------------------------------------------------


@pytest.mark.parametrize('noisy', ['previous', 'current'])
@pytest.mark.parametrize(('spread', 'found'), [(0.05, 1), (0.08, 1), (0.15, 0)])
def test_a_small_place_counts_only_where_the_visits_compare_well(noisy, spread, found):
    # 64 mm3; 5,000 times the squared spread are 12.5, 32 and 112 mm3.
    marked, rng = cube(18), np.random.default_rng(1)
    images = {'previous': np.ones(SHAPE), 'current': 1 + 0.5 * marked}
    images[noisy] = images[noisy] + spread * rng.standard_normal(SHAPE) * ~marked
    images = {name: image.astype(np.float32) for name, image in images.items()}
    nothing = np.zeros(SHAPE, np.float32)
    lesions = {'before': nothing, 'after': marked * np.float32(0.9)}
    assert label(marked, **images, **lesions).max() == found


@pytest.mark.parametrize(('confirmed', 'found'), [(48, 1), (16, 0)])
def test_only_what_is_likely_to_be_lesion_counts_for_the_least_volume(confirmed, found):
    # 5,000 times the squared spread are 32 mm3.
    marked, rng = cube(18), np.random.default_rng(1)
    current = np.float32(1 + 0.08 * rng.standard_normal(SHAPE) * ~marked + 0.5 * marked)
    after = np.zeros(SHAPE, np.float32)
    after[marked] = np.where(np.arange(64) < confirmed, 0.9, 0.1)
    nothing = np.zeros(SHAPE, np.float32)
    assert label(marked, current=current, before=nothing, after=after).max() == found


def test_the_least_volume_is_that_of_tissue_as_bright_before():
    rng = np.random.default_rng(2)
    grey = POINTS[0] > 0
    previous = np.float32(1 + 0.3 * grey)
    current = previous + np.float32(rng.standard_normal(SHAPE) * np.where(grey, 0.12, 0.06))
    images = {'previous': previous, 'current': current}
    given = np.zeros(SHAPE, np.float32), images, BRAIN
    least = least_volumes_mm3([1.0, 1.3], *given, load_spec('newlesions'))
    assert least == pytest.approx([5000 * 0.06**2, 5000 * 0.12**2], rel=0.05)


def test_what_is_marked_does_not_widen_the_spread():
    rng = np.random.default_rng(3)
    flat = np.ones(SHAPE, np.float32)
    current = flat + np.float32(0.05 * rng.standard_normal(SHAPE)) + 2 * (POINTS[0] > -10)
    images = {'previous': flat, 'current': current}
    (least,) = least_volumes_mm3(
        [1.0], np.float32(POINTS[0] > -10), images, BRAIN, load_spec('newlesions')
    )
    assert least == pytest.approx(5000 * 0.05**2, rel=0.05)


def test_a_network_that_nothing_confirms_has_its_own_least():
    images = {'previous': np.ones(SHAPE), 'current': np.random.default_rng(4).random(SHAPE)}
    spec = load_spec('newlesions').model_copy(update={'confirmed_by': None})
    assert least_volumes_mm3([1.0], np.zeros(SHAPE), images, BRAIN, spec) == spec.minimum_mm3
    empty = ~BRAIN
    assert least_volumes_mm3([1.0], np.zeros(SHAPE), images, empty, load_spec('newlesions')) == 3
