"""Each element of drawn images: what it does where it is on, and that nothing does where it is off.

One seed draws one image, so a setting alone makes the difference between two images.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from msapp.synthesis import appearance, generator, tracts, view, warp
from msapp.synthesis.acquisition import AcquisitionSettings, acquire
from msapp.synthesis.appearance import FOLD, UNEVEN, LesionSettings
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator
from msapp.synthesis.heads import NAMES, ZONE_OF_TISSUE, ZONES, Head
from msapp.synthesis.lesion_bank import LoadSettings
from msapp.synthesis.warp import WarpSettings

CPU = torch.device('cpu')
STILL = WarpSettings(rotation_deg=0, scale=0, shear=0, elastic=())
CLEAN = AcquisitionSettings(blur_mm=(0, 0), thick=0, bias=0, noise=0, corrupted=0)
SIDE = 40


@pytest.fixture(autouse=True)
def _centred(monkeypatch):
    """Heads lie in the middle of the grid, whole."""
    monkeypatch.setattr(generator, 'OFF_CENTRE_MM', 0)


def radius_mm():
    return np.linalg.norm(np.indices((SIDE,) * 3) - (SIDE - 1) / 2, axis=0)


@pytest.fixture(scope='module')
def head():
    """A ball of white matter in scalp, with a ventricle and a vessel; the origin in its middle."""
    radius = radius_mm()
    tissues = np.zeros(radius.shape, np.uint8)
    for name, limit in (('scalp', 19), ('csf', 17), ('white_matter', 15), ('ventricles', 4)):
        tissues[radius < limit] = NAMES.index(name)
    tissues[18:22, 8:32, 28:31] = NAMES.index('vessels')
    affine = np.eye(4)
    affine[:3, 3] = -(SIDE - 1) / 2
    return Head('ball', tissues, affine, np.eye(4))


@pytest.fixture(scope='module')
def scene():
    """Slabs of fluid, cortex, deep grey and white matter, without lesions."""
    tissues = torch.zeros(24, 24, 24, dtype=torch.uint8)
    for start, name in ((0, 'csf'), (6, 'cortex'), (10, 'caudate'), (14, 'white_matter')):
        tissues[start:] = NAMES.index(name)
    zones = torch.from_numpy(ZONE_OF_TISSUE)[tissues.long()]
    empty = torch.zeros(tissues.shape)
    return appearance.draw_scene(tissues, zones, empty, 1.0, np.random.default_rng(1))


def draw(head, bank=None, seed=0, **changes):
    given = GeneratorSettings(
        shape=(SIDE,) * 3,
        spacing_mm=1.0,
        channels=('FLAIR', 'T1w'),
        gadolinium=0,
        missing=0,
        stripped=1,
        warp=STILL,
        acquisition=CLEAN,
        load=LoadSettings(none=0, patient=1, second=0, thinned=0, singles=0, shift_mm=0),
    )
    heads = HeadGenerator([head], replace(given, **changes), bank=bank)
    return heads.draw(np.random.default_rng(seed))


def paint(scene, family, seed=0, fluid=0.0, **look):
    """Paint all tissues alike, but fluid; return the image and what lesions add."""
    signals = np.ones(len(NAMES), np.float32)
    signals[[NAMES.index('csf'), NAMES.index('ventricles')]] = fluid
    rng = np.random.default_rng(seed)
    return appearance.paint(scene, signals, family, LesionSettings(**look), rng)


def is_zone(scene, *names):
    return appearance.zone_in(scene.zones, *names)


# --- Tissues -------------------------------------------------------------------------------------


def test_fluid_flows_brightly_in_some_places_of_some_flairs_alone(scene):
    fluid = is_zone(scene, 'csf')
    flair, t1w = (
        [float((paint(scene, family, seed)[0][fluid] > 0).float().mean()) for seed in range(12)]
        for family in ('FLAIR', 'T1w')
    )
    assert 2 <= flair.count(0) <= 9
    assert 0.02 < np.mean([share for share in flair if share]) < 0.5
    assert not any(t1w)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize(('family', 'uneven'), [('FLAIR', UNEVEN), ('T1w', 0)])
def test_grey_matter_is_brighter_in_places_and_white_matter_on_flair_alone(
    scene, family, uneven, seed
):
    assert scene.fold.std() > 0.3
    flat = replace(scene, fold=torch.zeros_like(scene.fold))
    ratio = paint(scene, family, seed)[0] / paint(flat, family, seed)[0]
    slope = (ratio - 1) / scene.fold
    clear = scene.fold.abs() > 0.1
    grey = slope[is_zone(scene, 'cortex', 'deep_grey') & clear]
    white = slope[is_zone(scene, 'white_matter') & clear]
    assert 0.01 < grey.mean() <= FOLD
    np.testing.assert_allclose(grey, grey.mean(), atol=1e-5)
    np.testing.assert_allclose(white, white.mean(), atol=1e-5)
    assert 0 < abs(white.mean()) <= uneven if uneven else not white.any()


def with_and_without(*, tracts=0.0, septum=0.0):
    """Draw the scene of a slab of each tissue that shines all over, and the same without."""
    tissues = torch.zeros(24, 24, 24, dtype=torch.uint8)
    for start, name in ((0, 'csf'), (6, 'cortex'), (12, 'white_matter'), (18, 'ventricles')):
        tissues[start:] = NAMES.index(name)
    zones, none = torch.from_numpy(ZONE_OF_TISSUE)[tissues.long()], torch.zeros(tissues.shape)
    return (
        appearance.draw_scene(tissues, zones, none, 1.0, np.random.default_rng(1), healthy=added)
        for added in ((none + tracts, none + septum), None)
    )


def test_tracts_are_bright_in_white_matter_on_flair_alone():
    shown, plain = with_and_without(tracts=0.3)
    white = is_zone(shown, 'white_matter')
    added = paint(shown, 'FLAIR')[0] - paint(plain, 'FLAIR')[0]
    assert torch.isclose(added[white], torch.tensor(0.3), atol=0.1).all()
    assert (added[~white] == 0).all()
    assert torch.equal(paint(shown, 'T1w')[0], paint(plain, 'T1w')[0])


def test_the_septum_is_bright_in_ventricles_on_flair_alone():
    shown, plain = with_and_without(septum=3.0)
    wet = is_zone(shown, 'ventricles')
    image, without = paint(shown, 'FLAIR')[0], paint(plain, 'FLAIR')[0]
    assert wet.any()
    assert (image[wet] == 3).all()
    assert torch.equal(image[~wet], without[~wet])
    assert torch.equal(paint(shown, 'T1w')[0], paint(plain, 'T1w')[0])


def test_a_leaking_mask_takes_in_what_lies_beside_the_brain(head):
    zones = torch.from_numpy(head.zones)
    plain, leaking = (
        view.draw_stripping(zones, 1.0, np.random.default_rng(3), leaks_mm=mm) for mm in (0, 8)
    )
    beside = (leaking > 0) & (plain == 0)
    assert (leaking >= plain).all()
    assert 0 < beside.sum() < 0.2 * plain.sum()
    assert (zones[beside] == 0).float().mean() > 0.9


def test_drawn_heads_show_tracts_where_they_are_asked_for(head, monkeypatch):
    def white(*, brightness, asked):
        volume = np.full(tracts.SHAPE, brightness, np.float32)
        monkeypatch.setattr(tracts, 'draw_tracts', lambda rng: volume)
        sample = draw(head, tracts=asked)
        return float(sample.images[0][sample.zones == ZONES.index('white_matter')].mean())

    assert white(brightness=0.5, asked=True) > white(brightness=0, asked=True) + 0.3
    assert white(brightness=0.5, asked=False) == white(brightness=0, asked=False)


def test_choroid_plexus_may_be_brighter_or_darker_than_white_matter_on_flair():
    rng, plexus = np.random.default_rng(0), NAMES.index('choroid')
    flair = np.array([appearance.family_signals('FLAIR', rng)[plexus] for _ in range(100)])
    # As in the table it is 0.9 to 1.1; in 60 % of images it is anything from 0.5 to 1.8.
    assert 0.5 <= flair.min() < 0.7
    assert 1.6 < flair.max() <= 1.8
    assert 0.3 < (np.abs(flair - 1) > 0.15).mean() < 0.7


@pytest.mark.parametrize('seed', range(4))
def test_gadolinium_lights_vessels_on_t1w_and_nothing_on_flair(head, seed):
    vessel = draw(head, seed=seed).zones == ZONES.index('csf')
    vessel &= torch.from_numpy(radius_mm() < 13)  # without the fluid around the ball
    plain, enhanced = (draw(head, seed=seed, gadolinium=share).images for share in (0, 1))
    assert vessel.sum() > 100
    # White matter is 1.
    assert plain[1][vessel].mean() < 0.95
    assert enhanced[1][vessel].mean() > 1.05
    assert torch.equal(plain[0], enhanced[0])


# --- Lesions -------------------------------------------------------------------------------------


def test_lesions_have_soft_borders(scene):
    lesions = torch.zeros_like(scene.lesions)
    lesions[18:22, 8:16, 8:16] = 1
    scene = replace(scene, lesions=lesions, strength=torch.ones_like(lesions))
    fringe = []
    for seed in range(6):
        _, added = paint(scene, 'FLAIR', seed, flair=(0.5, 0.5), dirty=0)
        core, beside, away = (added[20, j, 12].item() for j in (12, 7, 2))
        assert core == pytest.approx(0.5, abs=0.2)
        assert away == 0
        fringe.append(beside / core)
    # Gaussian with a standard deviation of 0.2 to 0.8 voxels: one voxel beside a wall it leaves
    # from nothing to a third.
    assert 0.1 < max(fringe) < 0.4


@pytest.mark.parametrize('seed', range(3))
def test_white_matter_around_lesions_is_dirty_and_nothing_else(head, bank, seed):
    look = LesionSettings(flair=(0.5, 0.5), t1w=(0.5, 0.5))
    clean, dirty = (
        draw(head, bank, seed, lesions=replace(look, dirty=largest)) for largest in (0, 0.35)
    )
    lesions = clean.lesions.numpy()
    away_mm = ndimage.distance_transform_edt(lesions == 0)
    white = clean.zones.numpy() == ZONES.index('white_matter')
    shell = white & (away_mm > 1) & (away_mm < 4)
    flair, t1w = (dirty.images - clean.images).numpy()
    assert lesions.sum() > 100
    for change in (flair, -t1w):
        assert change.min() >= 0
        # It is drawn anew for each image, and may be faint.
        assert (change[shell] > 0).mean() > 0.9
        assert 1e-4 < change[shell].mean() < 0.35 * 0.5
        # Three standard deviations of its blur, 1.5 to 4 mm.
        assert not change[away_mm > 14].any()
        assert not change[~white].any()
        assert not change[ndimage.binary_erosion(lesions == 1, iterations=2)].any()


# --- What is shown -------------------------------------------------------------------------------


def test_heads_may_be_cut_above_below_and_before_the_face(head):
    zones = torch.from_numpy(head.zones)
    counts = dict.fromkeys(('whole', 'below', 'above', 'oblique'), 0)
    for seed in range(80):
        shown = view.draw_cuts(zones, 1.0, np.random.default_rng(seed))
        if shown is None:
            counts['whole'] += 1
            continue
        assert set(shown.unique().tolist()) <= {0, 1}
        planes = shown.mean(dim=(0, 1))
        counts['below'] += int(planes[0] == 0)
        counts['above'] += int(planes[-1] == 0 and planes[0] > 0)
        counts['oblique'] += int(((planes > 0) & (planes < 1)).any())
    # 0.7 x 0.6 of 80 are neither short of slices nor defaced; some cuts lie beyond the grid.
    assert 22 <= counts['whole'] <= 46
    assert min(counts['below'], counts['above'], counts['oblique']) >= 2


def test_drawn_heads_may_be_cut_as_well(head):
    noisy = replace(CLEAN, noise=0.1)
    cut = [
        # Noise is nowhere 0, unless it was cut off.
        bool((draw(head, seed=seed, stripped=0, acquisition=noisy).images == 0).any())
        for seed in range(10)
    ]
    assert 2 <= sum(cut) <= 9


# --- Scanner -------------------------------------------------------------------------------------


def test_shading_is_smooth_and_there_is_none_without():
    flat = torch.ones(24, 24, 24)
    extents = []
    for seed in range(6):
        assert torch.equal(acquire(flat, 1.0, CLEAN, np.random.default_rng(seed)), flat)
        shaded = acquire(flat, 1.0, replace(CLEAN, bias=0.3), np.random.default_rng(seed))
        field = shaded.log().numpy()
        extents.append(np.ptp(field))
        # Linear between four points at most, of which no two differ by more than the extent.
        steps = [np.abs(np.diff(field, axis=axis)).max() for axis in range(3)]
        assert max(steps) <= extents[-1] / (23 / 3) + 1e-5
    # Up to 64 points, normal, of a standard deviation of up to 0.3.
    assert 0.3 < max(extents) < 0.3 * 6


def test_motion_smears_and_ghosts_repeat_a_part_of_the_images(monkeypatch):
    import torchio

    image = torch.zeros(32, 32, 32)
    image[10:18, 12:22, 14:20] = 1
    spoiled = []
    for other in ('RandomMotion', 'RandomGhosting'):
        with monkeypatch.context() as patch:
            patch.setattr(torchio, other, lambda **_: lambda scan: scan)
            seen = [
                acquire(image, 1.0, replace(CLEAN, corrupted=1), np.random.default_rng(seed))
                for seed in range(8)
            ]
        spoiled.append([not torch.equal(item, image) for item in seen])
        # There is signal where there was none.
        assert max(item[image == 0].max() for item in seen) > 0.05
    ghosts, motion = spoiled
    # Every image has one of the two.
    assert 0 < sum(ghosts) < 8
    assert ghosts == [not moved for moved in motion]
    assert torch.equal(acquire(image, 1.0, CLEAN, np.random.default_rng(0)), image)


# --- Shape of the head ---------------------------------------------------------------------------


def affine_residual_mm(points):
    """Return how far points lie from the best affine map of their grid, largest, mm."""
    grid = np.indices(points.shape[1:]).reshape(3, -1)
    design = np.vstack([grid, np.ones(grid.shape[1])]).T
    found = points.numpy().reshape(3, -1).T
    fitted = design @ np.linalg.lstsq(design, found, rcond=None)[0]
    return np.linalg.norm(found - fitted, axis=1).max()


def points_of(seed, **changes):
    rng = np.random.default_rng(seed)
    given = replace(WarpSettings(), **changes)
    return warp.draw_points((24, 24, 24), 4.0, np.zeros(3), rng, given, CPU)


@pytest.mark.parametrize('level', WarpSettings().elastic)
def test_an_elastic_warp_bends_and_an_affine_map_does_not(level):
    bent = [affine_residual_mm(points_of(seed, elastic=(level,))) for seed in range(4)]
    straight = [affine_residual_mm(points_of(seed, elastic=())) for seed in range(4)]
    assert max(straight) < 1e-3
    assert max(bent) > level[1] / 2
    # Displacements are normal along three axes: 6 standard deviations are never seen.
    assert max(bent) < 6 * level[1]


def test_drawn_heads_are_bent_by_the_warp_of_the_settings(head):
    ball = draw(head).zones
    bent = [draw(head, seed=seed, warp=replace(STILL, elastic=((12.0, 3.0),))) for seed in range(3)]
    assert max((sample.zones != ball).float().mean() for sample in bent) > 0.05


@pytest.mark.parametrize(
    ('setting', 'holds'),
    [
        ({}, lambda m: np.allclose(m, np.eye(3))),
        ({'rotation_deg': 15.0}, lambda m: np.allclose(m.T @ m, np.eye(3)) and m[0, 1] != 0),
        ({'scale': 0.12}, lambda m: (np.abs(np.diag(m) - 1) <= 0.12).all() and m[0, 0] != m[1, 1]),
        ({'shear': 0.08}, lambda m: (m[np.tril_indices(3, -1)] == 0).all() and m[0, 1] != 0),
    ],
    ids=['still', 'rotation', 'scale', 'shear'],
)
def test_an_affine_map_turns_stretches_and_shears_and_mirrors_half_of_the_heads(setting, holds):
    maps = [
        warp.draw_affine(np.random.default_rng(seed), replace(STILL, **setting))
        for seed in range(20)
    ]
    mirrored = [np.linalg.det(matrix) < 0 for matrix in maps]
    assert 4 <= sum(mirrored) <= 16
    for matrix, turned in zip(maps, mirrored, strict=True):
        assert holds(matrix * ([-1, 1, 1] if turned else [1, 1, 1]))
