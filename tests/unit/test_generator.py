"""Drawn heads: the same for one seed, and what each setting promises."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from msapp.inference.normalise import scale_head
from msapp.synthesis import appearance, view, warp
from msapp.synthesis.acquisition import AcquisitionSettings, acquire
from msapp.synthesis.change import strengthen_small
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator, push_points
from msapp.synthesis.heads import NAMES, ZONES, Head
from msapp.synthesis.lesion_bank import SHAPE, LesionBank, LoadSettings
from msapp.synthesis.warp import WarpSettings

STILL = WarpSettings(rotation_deg=0, scale=0, shear=0, elastic=())
CLEAN = AcquisitionSettings(blur_mm=(0, 0), thick=0, bias=0, noise=0, corrupted=0)


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


@pytest.fixture(scope='module')
def bank():
    mask = np.zeros(SHAPE, bool)
    mask[100:106, 122:130, 68:76] = True  # about x = 12, y = 0, z = 0 mm
    return LesionBank([mask], [])


def settings(**changes):
    given = GeneratorSettings(
        shape=(48, 48, 48),
        spacing_mm=1.0,
        channels=('FLAIR', 'T1w'),
        missing=0,
        stripped=1,
        warp=STILL,
        acquisition=CLEAN,
        load=LoadSettings(none=0, patient=1, second=0, thinned=0, singles=0, shift_mm=0),
    )
    return replace(given, **changes)


def draw(head, bank, seed=0, **changes):
    generator = HeadGenerator([head], settings(**changes), bank=bank)
    return generator.draw(np.random.default_rng(seed))


def test_one_seed_gives_one_head_and_another_seed_another(head, bank):
    changes = {'warp': WarpSettings(), 'acquisition': AcquisitionSettings(corrupted=1)}
    first, again = draw(head, bank, 3, **changes), draw(head, bank, 3, **changes)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.lesions, again.lesions)
    assert not torch.equal(first.images, draw(head, bank, 4, **changes).images)


def test_torchs_own_generator_is_left_alone(head, bank):
    state = torch.random.get_rng_state()
    draw(head, bank, acquisition=AcquisitionSettings(corrupted=1))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize('seed', range(8))
def test_lesions_are_bright_on_flair_and_not_on_t1w(head, bank, seed):
    sample = draw(head, bank, seed)
    inside = sample.lesions > 0.9
    white = (sample.zones == ZONES.index('white_matter')) & (sample.lesions == 0)
    assert inside.sum() > 50
    flair, t1w = (image[inside].mean() / image[white].mean() for image in sample.images)
    assert flair > 1.1
    assert t1w < 1.05


def test_lesions_lie_in_tissue_only(head):
    everywhere = LesionBank([np.ones(SHAPE, bool)], [])
    sample = draw(head, everywhere)
    fluid = (sample.zones == ZONES.index('ventricles')) | (sample.zones == ZONES.index('csf'))
    assert fluid.any()
    assert (sample.lesions[fluid] == 0).all()
    assert (sample.lesions[sample.zones == ZONES.index('white_matter')] > 0.999).all()


def test_a_channel_may_be_missing_but_never_all(head, bank):
    samples = [draw(head, bank, seed, missing=0.9) for seed in range(12)]
    shown = np.array([[bool(channel.any()) for channel in sample.images] for sample in samples])
    assert shown.any(axis=1).all()
    assert not shown.all()


def test_stripping_leaves_the_brain(head, bank):
    sample = draw(head, bank)
    image = sample.images[0]
    assert (image[sample.zones == ZONES.index('white_matter')] > 0).float().mean() > 0.98
    assert image[0, 0, 0] == 0


def test_without_stripping_and_cuts_scalp_is_seen(head, bank):
    images = [draw(head, bank, seed, stripped=0, shape=(64, 64, 64)).images[0] for seed in range(6)]
    assert max(float(image[31, 31, 59:].max()) for image in images) > 0


def test_a_blur_keeps_a_constant_up_to_the_border():
    flat = torch.full((9, 10, 11), 2.0)
    assert torch.allclose(warp.blur(flat, 1.3), flat)


def test_nearest_labels_are_0_outside():
    labels = torch.arange(1, 9, dtype=torch.uint8).reshape(2, 2, 2)
    points = torch.tensor([[0.0, 1.2, -0.6], [0.0, 0.6, 0.0], [0.4, 1.0, 0.0]])
    assert warp.sample_labels(labels, points[:, :, None, None]).flatten().tolist() == [1, 8, 0]


def test_shares_are_interpolated_linearly_in_the_order_of_axes():
    volume = torch.zeros(3, 4, 5)
    volume[2, 1, 3] = 1
    point = torch.tensor([1.5, 1.0, 3.0])[:, None, None, None]
    assert warp.sample_share(volume, point).item() == pytest.approx(0.5)


def test_an_identity_puts_points_where_the_grid_is():
    points = warp.draw_points(
        (3, 3, 3), 2.0, np.array([10.0, 0, 0]), np.random.default_rng(0), STILL, torch.device('cpu')
    )
    x = points[0, :, 1, 1].tolist()
    assert x in ([8.0, 10.0, 12.0], [12.0, 10.0, 8.0])  # mirrored or not


def test_thick_slices_are_means_over_their_thickness():
    image = torch.zeros(8, 8, 24)
    image[..., 12:] = 1
    thick = replace(CLEAN, thick=1, slice_mm=(6.0, 6.0))
    seen = [acquire(image, 1.0, thick, np.random.default_rng(s)) for s in range(12)]
    # Along z the step spreads over a slice; along the other axes nothing changes.
    spread = [item for item in seen if item[4, 4, 10] > 0.05]
    assert spread
    assert all(item[4, 4, :4].max() < 1e-6 for item in seen)
    assert all(item.mean() == pytest.approx(0.5, abs=1e-5) for item in seen)


def test_noise_raises_air_as_rician_noise_does():
    noisy = replace(CLEAN, noise=0.5)
    image = acquire(torch.zeros(32, 32, 32), 1.0, noisy, np.random.default_rng(5))
    # Rayleigh: the mean is sigma times the root of half pi, the mean square twice sigma squared.
    ratio = float(image.mean()) / float((image**2).mean().sqrt() / np.sqrt(2))
    assert ratio == pytest.approx(np.sqrt(np.pi / 2), rel=0.02)


@pytest.mark.parametrize('family', ['FLAIR', 'T1w', 'T2w'])
def test_families_keep_the_order_of_fluid_and_white_matter(family):
    rng = np.random.default_rng(0)
    fluid = NAMES.index('ventricles')
    drawn = np.array([appearance.family_signals(family, rng) for _ in range(50)])
    assert (drawn[:, NAMES.index('white_matter')] == 1).all()
    assert ((drawn[:, fluid] > 1) == (family == 'T2w')).all()


def test_a_defaced_head_keeps_its_brain(head):
    zones = torch.from_numpy(head.zones)
    for seed in range(30):
        cut = view.deface(zones, 1.0, np.random.default_rng(seed))
        assert (cut[zones > 0] == 1).all()
        assert (cut == 0).any()


def test_scaling_a_head_does_not_depend_on_its_unit(head, bank):
    image = draw(head, bank).images[0]
    assert torch.allclose(scale_head(image), scale_head(image * 812.0), atol=1e-5)


def test_narrow_sulci_close_and_wide_ones_and_ventricles_stay():
    cortex, fluid = NAMES.index('cortex'), NAMES.index('csf')
    tissues = torch.full((40, 20, 20), cortex, dtype=torch.uint8)
    tissues[10] = fluid  # one voxel wide
    tissues[20:30] = fluid
    tissues[35] = NAMES.index('ventricles')
    closed = appearance.close_sulci(tissues, 1.0, np.random.default_rng(0))
    assert closed.dtype == torch.uint8
    assert (closed[10] == cortex).all()
    assert (closed[22:28] == fluid).all()
    assert (closed[35] == NAMES.index('ventricles')).all()


def test_what_is_cut_off_is_0_in_spite_of_noise(head, bank):
    noisy = AcquisitionSettings(noise=0.1, corrupted=0)
    sample = draw(head, bank, acquisition=noisy)
    corner = sample.images[:, :2, :2, :2]
    assert (corner == 0).all()
    assert (sample.images[0][sample.zones > 0] > 0).float().mean() > 0.9


def test_lesions_in_grey_matter_differ_from_it():
    grey = torch.full((4, 4, 4), 1.3)
    share, strength = torch.ones(4, 4, 4), torch.ones(4, 4, 4)
    rng = np.random.default_rng(0)
    look = appearance.LesionSettings(flair=(0.2, 0.2), t1w=(0.2, 0.2))
    bright = appearance.paint_lesions(grey, share, strength, 'FLAIR', look, rng)
    dark = appearance.paint_lesions(grey * 0.5, share, strength, 'T1w', look, rng)
    np.testing.assert_allclose(bright, 1.5, rtol=1e-6)
    np.testing.assert_allclose(dark, 0.45, rtol=1e-6)


@pytest.mark.parametrize('seed', range(4))
def test_white_matter_is_bright_along_ventricles_with_lesions_or_without(head, seed):
    tissues = torch.from_numpy(head.tissues)
    zones = torch.from_numpy(head.zones)
    lesions = torch.zeros(tissues.shape)
    lesions[44:48, 30:34, 30:34] = 1
    first, second = (
        appearance.draw_scene(tissues, zones, share, 1.0, np.random.default_rng(seed))
        for share in (lesions, torch.zeros_like(lesions))
    )
    # Two visits of one head have the same rim.
    assert torch.equal(first.rim, second.rim)
    radius = torch.from_numpy(np.linalg.norm(np.indices(tissues.shape) - 31.5, axis=0))
    white = zones == ZONES.index('white_matter')
    assert not first.rim[~white].any()
    assert 0 <= first.rim.min() <= first.rim.max() <= 1
    near, far = (first.rim[white & low & high].mean() for low, high in (
        (radius >= 6, radius < 8), (radius >= 18, radius < 24)
    ))  # fmt: skip
    assert near > 0.1 > 10 * far


def test_a_channel_that_is_needed_is_never_missing(head, bank):
    for seed in range(10):
        sample = draw(head, bank, seed, missing=0.9, needed=('FLAIR',))
        assert sample.images[0].any()


def test_a_field_of_view_may_end_early_where_a_channel_is_not_needed(head, bank):
    for seed in range(5):
        flair, part = draw(head, bank, seed, needed=('FLAIR',), partial=1.0).images
        same, whole = draw(head, bank, seed, needed=('FLAIR',)).images
        assert torch.equal(flair, same)
        assert torch.equal(part[part != 0], whole[part != 0])
        assert 0 < (part != 0).sum() < (whole != 0).sum()
        shown = view.draw_view((10, 20, 30), np.random.default_rng(seed), torch.device('cpu'))
        assert 0.1 < shown.mean() < 0.95
        # It is all or nothing in every plane of one axis.
        planes = [shown.mean(dim=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        assert any(set(item.tolist()) == {0.0, 1.0} for item in planes)


def test_a_grid_about_a_lesion_keeps_to_the_brain(head, bank):
    least = {
        beyond_mm: min(
            (draw(head, bank, seed, centred='lesion', beyond_mm=beyond_mm).zones > 0).sum()
            for seed in range(12)
        )
        for beyond_mm in (None, 0.0)
    }
    # As wide as the brain, the grid holds all of it.
    assert least[0.0] > 1.4 * least[None]


def test_points_are_pushed_towards_the_ventricle_and_less_so_far_from_it(head):
    zones = torch.from_numpy(head.zones)
    grid = torch.from_numpy(np.indices(zones.shape) - 31.5).float()
    pushed = push_points(grid, zones, 3.0)
    radius, moved = grid.norm(dim=0), (pushed - grid).norm(dim=0)
    inside = zones == ZONES.index('ventricles')
    assert not moved[inside].any()
    near, far = (~inside) & (radius < 8), (radius > 20) & (radius < 24)
    assert 2.5 < moved[near].mean() < 3.0
    assert moved[far].mean() < 1.2
    assert (pushed.norm(dim=0) < radius)[near].all()
    assert torch.equal(push_points(grid, torch.zeros_like(zones), 3.0), grid)


def test_small_lesions_are_painted_stronger_and_large_ones_are_not():
    lesions = torch.zeros(30, 30, 30)
    lesions[2:4, 2:4, 2] = 1  # 4 mm3
    lesions[10:18, 10:18, 10:18] = 1  # 512 mm3
    factors = strengthen_small(lesions, 1.0)
    assert factors[2, 2, 2] == 2.5
    assert factors[12, 12, 12] == 1
    assert (factors[lesions == 0] == 1).all()
    assert strengthen_small(lesions, 2.0)[2, 2, 2] == pytest.approx((200 / 32) ** 0.25)


@pytest.mark.parametrize('channels', [('FLAIR', 'T1w'), ('T1w',)])
def test_only_lesions_that_flair_shows_count(head, channels):
    mask = np.zeros(SHAPE, bool)
    mask[100:106, 122:130, 68:76] = True
    mask[84, 126, 72] = True  # one voxel, lost in thick slices
    small = LesionBank([mask], [])
    thick = replace(CLEAN, blur_mm=(0.5, 0.5), thick=1, slice_mm=(6.0, 6.0))
    counts = []
    for as_seen in (False, True):
        drawn = [
            draw(head, small, seed, channels=channels, acquisition=thick, as_seen=as_seen)
            for seed in range(8)
        ]
        assert {len(item.images) for item in drawn} == {len(channels)}
        counts.append([ndimage.label(item.lesions.numpy() > 0.5)[1] for item in drawn])
    assert min(counts[0]) >= 1
    assert max(counts[0]) == 2
    assert sum(counts[1]) < sum(counts[0])
    assert any(counts[1])


def test_noise_may_be_alike_in_neighbours_and_as_strong():
    plain, blotchy = (
        acquire(
            torch.full((40, 40, 40), 5.0),
            1.0,
            replace(CLEAN, noise=0.5, blotchy=share),
            np.random.default_rng(5),
        )
        for share in (0.0, 1.0)
    )
    alike = [
        float(np.corrcoef(image[1:].flatten(), image[:-1].flatten())[0, 1])
        for image in (plain, blotchy)
    ]
    assert abs(alike[0]) < 0.02
    assert alike[1] > 0.05
