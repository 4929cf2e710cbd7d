"""Drawn pairs of visits: what changes between them, and what does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.synthesis import generator, tracts
from msapp.synthesis.acquisition import AcquisitionSettings
from msapp.synthesis.appearance import LesionSettings
from msapp.synthesis.change import SEEN, STRENGTHENED, drop_unseen
from msapp.synthesis.heads import NAMES, Head
from msapp.synthesis.lesion_bank import LoadSettings
from msapp.synthesis.pairs import (
    OTHER_HEALTHY,
    PairGenerator,
    PairSettings,
    draw_rigid,
    misplace,
)
from msapp.synthesis.warp import WarpSettings

STILL = WarpSettings(rotation_deg=0, scale=0, shear=0, elastic=())
CLEAN = AcquisitionSettings(blur_mm=(0, 0), thick=0, bias=0, noise=0, corrupted=0)
ALONE = {'enlarged': 0.0, 'shrunken': 0.0, 'vanished': 0.0}
IN_PLACE = {'shift_mm': 0.0, 'turn_deg': 0.0, 'bend_mm': 0.0}


@pytest.fixture(scope='module')
def head():
    """A ball of white matter with a ventricle, in scalp; the world's origin in its middle."""
    i, j, k = np.indices((64, 64, 64)) - 31.5
    radius = np.sqrt(i**2 + j**2 + k**2)
    tissues = np.zeros(radius.shape, np.uint8)
    for name, limit in (('scalp', 30), ('csf', 26), ('white_matter', 24), ('ventricles', 6)):
        tissues[radius < limit] = NAMES.index(name)
    affine = np.eye(4)
    affine[:3, 3] = -31.5
    return Head('ball', tissues, affine, np.eye(4))


def draw(head, bank, seed=0, **changes):
    settings = PairSettings(
        shape=(56, 56, 56),
        spacing_mm=1.0,
        stripped=1,
        unchanged=0,
        another=0,
        warp=STILL,
        acquisition=CLEAN,
        lesions=LesionSettings(flair=(0.5, 0.8), dirty=0),
        load=LoadSettings(none=0, patient=1, second=0, thinned=0, singles=0, shift_mm=0),
    )
    generator = PairGenerator([head], replace(settings, **changes), bank=bank)
    return generator.draw_pair(np.random.default_rng(seed))


def found(head, bank, **changes):
    """Draw until something increases."""
    for seed in range(20):
        pair = draw(head, bank, seed, **changes)
        if pair.increase.any():
            return pair
    raise AssertionError('nothing increased in 20 pairs')


def test_one_seed_gives_one_pair_and_another_seed_another(head, bank):
    changes = {'warp': WarpSettings(), 'acquisition': AcquisitionSettings()}
    first, again = draw(head, bank, 3, **changes), draw(head, bank, 3, **changes)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.increase, again.increase)
    assert not torch.equal(first.images, draw(head, bank, 4, **changes).images)


@pytest.mark.parametrize('seed', range(4))
def test_nothing_increases_between_unchanged_visits(head, bank, seed):
    pair = draw(head, bank, seed, unchanged=1, enlarged=1.0)
    assert (pair.before > 0.5).any()
    assert torch.equal(pair.before, pair.after)
    assert not pair.increase.any()
    assert not pair.new.any()


def test_new_lesions_lie_apart_from_old_ones_and_are_bright_at_the_later_visit_only(head, bank):
    pair = found(head, bank, **ALONE, **IN_PLACE, same_scanner=1.0)
    came = pair.increase > 0.5
    assert torch.equal(pair.increase, pair.new)
    assert not (came & (pair.before > 0)).any()
    previous, current = pair.images[:, ndimage.binary_erosion(came.numpy())]
    assert (current - previous).min() > 0.1
    old = pair.before > 0.9
    assert (pair.images[1] - pair.images[0])[old].abs().mean() < 0.15


def test_a_growing_lesion_increases_around_itself_and_holds_no_new_one(head, bank):
    pair = found(head, bank, enlarged=1.0, shrunken=0.0, vanished=0.0, new=0.0)
    came, old = (pair.increase > 0.5).numpy(), (pair.before > 0.5).numpy()
    assert not (came & old).any()
    assert not pair.new.any()
    assert (ndimage.distance_transform_edt(~old)[came] < 4).all()
    assert ((pair.after > 0.5).numpy() == (came | old)).all()


def test_tracts_move_with_the_head_between_visits(head, bank, monkeypatch):
    """Bright to the right of the ventricle, wherever that lies at each visit."""
    right = np.zeros(tracts.SHAPE, np.float32)
    right[45:] = 0.5
    monkeypatch.setattr(tracts, 'draw_tracts', lambda rng: right)
    monkeypatch.setattr(tracts, 'draw_septum', lambda rng: np.zeros_like(right))
    given = {'shift_mm': 8.0, 'turn_deg': 0.0, 'bend_mm': 0.0, 'tracts': True, 'centred': 'brain'}
    none = {'unchanged': 1.0, 'load': LoadSettings(none=1), 'same_scanner': 1.0}
    middles, sides = [], []
    for image in draw(head, bank, 3, **given, **none).images.numpy():
        light = image > 0.5
        middle = np.argwhere(ndimage.binary_fill_holes(light) & ~light).mean(axis=0)
        near = np.linalg.norm(np.indices(image.shape).T - middle, axis=-1).T < 12
        middles.append(middle)
        bright = near & (image > (1 + image[near].max()) / 2)
        sides.append(np.argwhere(bright).mean(axis=0) - middle)
    assert abs(middles[1] - middles[0])[0] > 2
    assert sides[0] == pytest.approx(sides[1], abs=0.5)


@pytest.mark.parametrize('fate', ['shrunken', 'vanished'])
def test_lesions_that_go_do_not_increase(head, bank, fate):
    pair = draw(head, bank, **{**ALONE, 'new': 0.0, fate: 1.0})
    before, after = (pair.before > 0.5).sum(), (pair.after > 0.5).sum()
    assert not pair.increase.any()
    assert after == 0 if fate == 'vanished' else 0 < after < before


def test_visits_are_aligned_unless_misregistered(head, bank):
    changes = {'unchanged': 1.0, 'same_scanner': 1.0}
    aligned = draw(head, bank, **changes, **IN_PLACE)
    away = draw(head, bank, **changes, shift_mm=1.0, turn_deg=5.0)
    # Borders of the ventricle are where a shift shows most.
    difference = [
        (pair.images[1] - pair.images[0]).abs().quantile(0.99) for pair in (aligned, away)
    ]
    assert difference[1] > 1.5 * difference[0]


def test_small_new_lesions_that_readers_mark_are_stronger(head, bank, monkeypatch):
    """The bank's are larger than patients', so the limit is."""
    limit_mm3 = 3000.0
    monkeypatch.setattr('msapp.synthesis.change.AS_PAINTED_MM3', limit_mm3)
    changes = {**ALONE, **IN_PLACE, 'same_scanner': 1.0}
    found = []
    for seed in range(4):
        plain, seen = (draw(head, bank, seed, as_seen=how, **changes) for how in (False, True))
        labels, count = ndimage.label((plain.after > 0).numpy(), np.ones((3, 3, 3)))
        rises = [(pair.images[1] - pair.images[0]).numpy() for pair in (plain, seen)]
        for number in range(1, count + 1):
            lesion = labels == number
            core = lesion & (plain.increase > 0.9).numpy()
            if core.any() and not (lesion & (plain.before > 0).numpy()).any():
                ratio = rises[1][core].mean() / rises[0][core].mean()
                found.append((ratio, (limit_mm3 / lesion.sum()) ** STRENGTHENED))
    assert max(stronger for _, stronger in found) > 1.2
    for ratio, stronger in found:
        assert ratio == pytest.approx(max(stronger, 1), rel=0.05)


def test_specks_that_readers_do_not_mark_are_left_out():
    lesions = torch.zeros(9, 5, 5, dtype=torch.bool)
    lesions[1:3, 1, 1] = lesions[5:8, 1, 1] = lesions[1:8, 3, 3] = True
    bright = torch.full(lesions.shape, 1.1 * SEEN)
    bright[:, 3, 3] = 0.9 * SEEN
    assert drop_unseen(lesions, bright).sum() == 5
    kept = drop_unseen(lesions, bright, least_voxels=3)
    assert kept.sum() == kept[5:8, 1, 1].sum() == 3


def test_misregistration_turns_by_no_more_than_asked_about_each_axis():
    settings = PairSettings(shape=(8, 8, 8), spacing_mm=1.0, turn_deg=1.0)
    rng = np.random.default_rng(0)
    angles = [
        Rotation.from_matrix(draw_rigid(rng, settings)[0]).as_euler('xyz', degrees=True)
        for _ in range(50)
    ]
    assert 0.8 < np.abs(angles).max() <= 1.0 + 1e-6


def test_misplaced_points_move_by_no_more_than_asked():
    settings = PairSettings(shape=(8, 8, 8), spacing_mm=1.0, turn_deg=0, bend_mm=0)
    points = torch.randn(3, 8, 8, 8)
    shifts = [
        (misplace(points, 1.0, np.random.default_rng(seed), settings) - points)
        for seed in range(10)
    ]
    lengths = torch.stack([shift.norm(dim=0) for shift in shifts])
    assert lengths.max() <= 1.0 + 1e-4
    assert lengths.max() > 0.5


def test_fluid_may_shine_at_one_visit_and_not_at_the_other(head, bank, monkeypatch):
    monkeypatch.setattr(generator, 'OFF_CENTRE_MM', 0)
    shape = (40, 40, 40)
    radius = torch.from_numpy(np.linalg.norm(np.indices(shape) - 19.5, axis=0))
    fluid = (radius < 5) | ((radius > 24.5) & (radius < 25.5))
    changes = []
    for seed in range(9):
        same = {'unchanged': 1.0, 'same_scanner': 1.0, **IN_PLACE}
        pair = draw(head, bank, seed, shape=shape, **same)
        changes.append(float((pair.images[1] - pair.images[0])[fluid].abs().max()))
    # The scanner's own signal differs by a few percent of a dark one.
    assert min(changes) < 0.05
    assert max(changes) > 0.2


def two_scanners(head, bank, same, seed=0):
    settings = PairSettings(
        shape=(8, 8, 8), spacing_mm=1.0, acquisition=AcquisitionSettings(thick=1)
    )
    return PairGenerator([head], settings, bank=bank)._scanners(same, np.random.default_rng(seed))


def test_one_scanner_keeps_its_slices_and_its_signals(head, bank):
    first, second = two_scanners(head, bank, same=True)
    assert first.slices == second.slices
    assert first.seed == second.seed
    assert 0 < np.abs(first.signals - second.signals).max() < 0.3


def test_two_scanners_differ_in_slices_and_signals_but_image_one_head(head, bank):
    choroid, cortex = NAMES.index('choroid'), NAMES.index('cortex')
    ratios = []
    for seed in range(20):
        first, second = two_scanners(head, bank, same=False, seed=seed)
        assert first.slices != second.slices
        assert first.signals[cortex] != second.signals[cortex]
        assert first.seed == second.seed
        ratios.append(first.signals[choroid] / second.signals[choroid])
    assert min(ratios) >= 1 - OTHER_HEALTHY
    assert max(ratios) <= 1 + OTHER_HEALTHY
    assert max(ratios) - min(ratios) > OTHER_HEALTHY


@pytest.mark.parametrize('seed', range(3))
def test_white_matter_has_one_texture_at_two_scanners(head, bank, seed):
    none = {'unchanged': 1.0, 'load': LoadSettings(none=1), 'same_scanner': 0.0}
    before, now = draw(head, bank, seed, **none, **IN_PLACE).images.numpy()
    alike = (np.abs(before - 1) < 0.2) & (np.abs(now - 1) < 0.2)
    white = ndimage.binary_erosion(alike, iterations=2)
    assert white.sum() > 1000
    assert np.corrcoef(before[white], now[white])[0, 1] > 0.8
