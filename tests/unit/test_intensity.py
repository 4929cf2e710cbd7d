"""Facts about bias correction and intensity scales."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from msapp.errors import InputError
from msapp.imaging import intensity


def positions(count: int, voxel_mm: float) -> np.ndarray:
    axis = (np.arange(count) - (count - 1) / 2) * voxel_mm
    return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'))


def image_of(data: np.ndarray, voxel_mm: float) -> nib.Nifti1Image:
    return nib.Nifti1Image(data.astype(np.float32), np.diag([voxel_mm, voxel_mm, voxel_mm, 1]))


@pytest.fixture(scope='module')
def biased_ball() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give a ball of 65 mm, intensity 100, noise 1 %, under a smooth field; before and after."""
    rng = np.random.default_rng(0)
    x, y, z = positions(40, 4.0)
    radius = np.sqrt(x**2 + y**2 + z**2)
    field = np.exp(0.35 * x / 65 + 0.25 * (z / 65) ** 2)
    before = (radius < 65) * (100 * field + rng.normal(0, 1, radius.shape))
    after = intensity.correct_bias(image_of(before, 4.0)).get_fdata()
    return radius < 58, before, after


def variation(values: np.ndarray) -> float:
    return values.std() / values.mean()


def test_n4_makes_a_biased_ball_at_least_five_times_more_even(biased_ball):
    inner, before, after = biased_ball
    assert variation(before[inner]) > 0.13
    assert variation(after[inner]) < variation(before[inner]) / 5


def test_n4_keeps_the_mean_intensity(biased_ball):
    inner, before, after = biased_ball
    assert after[inner].mean() == pytest.approx(before[inner].mean(), rel=0.03)


def test_n4_reaches_the_border_of_the_field_of_view():
    x, y, z = positions(44, 3.0)
    inner = np.hypot(x, y)[:, :, 0] < 50
    data = (np.hypot(x, y) < 60) * 100 * np.exp(0.8 * z / 66)
    corrected = intensity.correct_bias(image_of(data, 3.0), iterations=(10, 10)).get_fdata()
    slices = corrected[inner].mean(axis=0)
    for border, next_to_it in ((0, 1), (-1, -2)):
        assert slices[border] == pytest.approx(slices[next_to_it], rel=0.05)


def test_n4_refuses_an_empty_image():
    with pytest.raises(InputError, match='empty: no voxel is above zero'):
        intensity.correct_bias(image_of(np.zeros((10, 10, 10)), 10.0))


def test_the_head_mask_is_the_head_without_noisy_air():
    x, y, z = positions(32, 6.0)
    radius = np.sqrt(x**2 + y**2 + z**2)
    rng = np.random.default_rng(0)
    air = np.abs(rng.normal(0, 3, radius.shape))
    mask = intensity.head_mask(np.where(radius < 70, rng.uniform(35, 200, radius.shape), air))
    assert mask[radius < 70].all()
    assert not mask[radius > 82].any()


def test_a_flat_image_is_all_head():
    data = np.zeros((5, 5, 5))
    data[1:4] = 3
    assert np.array_equal(intensity.head_mask(data), data > 0)


def test_outliers_move_neither_centre_nor_spread():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(100, 10, 9000), rng.uniform(200, 400, 1000)])
    found = intensity.robust_distribution(values)
    assert found.centre == pytest.approx(100, abs=0.5)
    assert found.spread == pytest.approx(10, abs=0.4)
    assert values.std() > 60


def test_equal_values_have_no_spread():
    found = intensity.robust_distribution(np.full(10, 4.0))
    assert (found.centre, found.spread) == (4.0, 0.0)


def test_no_values_have_no_distribution():
    with pytest.raises(InputError, match='brain mask is wrong'):
        intensity.robust_distribution(np.array([]))


@pytest.mark.parametrize('share', [0.0, 0.2, 0.4])
def test_a_load_of_lesions_moves_neither_mode_nor_lower_spread(share):
    rng = np.random.default_rng(0)
    count = int(50000 * share)
    values = np.append(rng.normal(100, 5, 50000 - count), rng.normal(130, 8, count))
    found = intensity.lower_distribution(values)
    assert found.centre == pytest.approx(100, abs=2)
    assert found.spread == pytest.approx(5, rel=0.3)
    if share == 0.4:
        assert np.median(values) > 103


def test_equal_values_are_their_mode():
    found = intensity.lower_distribution(np.full(10, 4.0))
    assert (found.centre, found.spread) == (4.0, 0.0)


@pytest.mark.parametrize('load', [0, 3])
def test_normal_appearing_white_matter_becomes_one_whatever_the_lesion_load(load):
    data = np.random.default_rng(0).normal(250, 10, (20, 20, 20))
    white_matter = np.zeros(data.shape, bool)
    white_matter[5:15, 5:15, 5:15] = True
    data[5 : 5 + load, 5:15, 5:15] += 250
    result = intensity.normalize(data, white_matter)
    # The mode of some hundred voxels is known to about half their spread of 4 %.
    assert np.median(result[8:15, 5:15, 5:15]) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(result / result[0, 0, 0], data / data[0, 0, 0], rtol=1e-5)


def test_white_matter_outside_the_field_of_view_does_not_count():
    values = np.random.default_rng(0).normal(500, 25, (20, 20, 20))
    values[:8] = 0
    normalized = intensity.normalize(values, np.ones(values.shape, bool))
    assert np.median(normalized[8:]) == pytest.approx(1, abs=0.02)


def test_white_matter_without_signal_cannot_be_normalized():
    with pytest.raises(InputError, match='white matter has no signal'):
        intensity.normalize(np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool))


@pytest.fixture(scope='module')
def tissue() -> tuple[np.ndarray, np.ndarray]:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 30, 30)), 2)
    mask = np.zeros(noise.shape, bool)
    mask[3:27, 3:27, 3:27] = True
    return (100 + 20 * noise / noise.std()).astype(np.float32), mask


def test_matching_an_image_to_itself_changes_nothing(tissue):
    data, mask = tissue
    matched = intensity.match_histogram(data, data, mask)
    np.testing.assert_allclose(matched[mask], data[mask], atol=1e-3)
    assert not matched[~mask].any()


def test_gain_and_offset_are_undone(tissue):
    data, mask = tissue
    matched = intensity.match_histogram(0.5 * data + 10, data, mask)
    np.testing.assert_allclose(matched[mask], data[mask], atol=0.01)


def test_a_gamma_change_is_undone_to_a_hundredth_of_the_range(tissue):
    data, mask = tissue
    matched = intensity.match_histogram(200 * (data / 200) ** 0.7, data, mask)
    error = np.abs(matched - data)[mask]
    assert np.percentile(error, 99) < 0.01 * np.ptp(data[mask])


def test_matching_looks_only_inside_the_mask(tissue):
    data, mask = tissue
    other = data.copy()
    other[~mask] = 5000
    matched = intensity.match_histogram(other, data, mask)
    np.testing.assert_allclose(matched[mask], data[mask], atol=1e-3)


def test_level_edges_belong_to_the_upper_level():
    data = np.array([-5.0, 0, 0.999, 1, 1.999, 2, 5, 5.999, 6, 100])
    levels = intensity.discretize(data, np.ones(10, bool), levels=6, low=0, high=6)
    assert levels.tolist() == [1, 1, 1, 2, 2, 3, 6, 6, 6, 6]
    assert levels.dtype == np.uint8


def test_outside_the_mask_there_is_no_level():
    mask = np.array([True, False])
    levels = intensity.discretize(np.array([3.0, 3.0]), mask, levels=6, low=0, high=6)
    assert levels.tolist() == [4, 0]


def test_levels_need_a_range():
    with pytest.raises(ValueError, match='high must exceed low, got 1 and 1'):
        intensity.discretize(np.ones(3), np.ones(3, bool), levels=6, low=1, high=1)
