"""Properties that hold for any orientation, rigid map, mask and damaged file."""

from __future__ import annotations

import functools
import gzip
import itertools
import struct
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.bids.checks import check_image
from msapp.errors import InputError
from msapp.imaging import geometry
from msapp.imaging.intensity import discretize
from msapp.lesions.instances import label_instances, measure_instances

few = settings(max_examples=30, deadline=None)
# Where the NIfTI-1 header has the number of axes and their lengths, bytes.
AXES = slice(40, 56)
ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


@st.composite
def rigid_maps(draw, angle=180.0, shift_mm=100.0) -> np.ndarray:
    angles = draw(st.tuples(*[st.floats(-angle, angle)] * 3))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-shift_mm, shift_mm)] * 3))
    return matrix


@functools.cache
def smooth_image() -> nib.Nifti1Image:
    """Return a textured image that is zero at its border, on an oblique grid."""
    texture = np.zeros((18, 22, 14))
    texture[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).uniform(50, 150, (12, 16, 8))
    affine = np.eye(4)
    rotation = Rotation.from_euler('xyz', [10, -20, 30], degrees=True).as_matrix()
    affine[:3, :3] = rotation @ np.diag([1.0, 1.2, 2.0])
    affine[:3, 3] = (-7, -4, -12)
    return nib.Nifti1Image(ndimage.gaussian_filter(texture, 0.7).astype(np.float32), affine)


def stored_as(image: nib.Nifti1Image, orientation: np.ndarray) -> nib.Nifti1Image:
    """Store an image with its axes in another order or direction, in the same place."""
    data = nib.orientations.apply_orientation(image.dataobj, orientation)
    back = nib.orientations.inv_ornt_aff(orientation, image.shape)
    return nib.Nifti1Image(np.asarray(data), image.affine @ back)


def test_there_are_48_orientations():
    assert len({orientation.tobytes() for orientation in ORIENTATIONS}) == 48


@pytest.mark.parametrize('order', [1, 3])
def test_how_an_image_is_stored_does_not_change_what_is_resampled(order):
    image = smooth_image()
    grid = geometry.isotropic_grid(image, 1.7)
    transform = np.eye(4)
    transform[:3, 3] = (1.3, -0.4, 0.9)
    expected = geometry.resample(image, grid, transform, order=order)
    assert expected.max() > 80
    for orientation in ORIENTATIONS:
        stored = stored_as(image, orientation)
        result = geometry.resample(stored, grid, transform, order=order)
        np.testing.assert_allclose(result, expected, atol=0.05)


@few
@given(st.sampled_from(ORIENTATIONS), rigid_maps(20, 5))
def test_how_a_mask_is_stored_does_not_change_its_volume(orientation, motion):
    image = smooth_image()
    mask = geometry.like(np.asarray(image.dataobj) > 40, image)
    grid = geometry.isotropic_grid(image, 1.5, margin_mm=10)
    expected = geometry.resample_mask(mask, grid, motion)
    result = geometry.resample_mask(stored_as(mask, orientation), grid, motion)
    assert (result != expected).sum() <= 2


@few
@given(st.sampled_from(ORIENTATIONS))
def test_how_an_image_is_stored_does_not_change_its_measures(orientation):
    image = smooth_image()
    stored = stored_as(image, orientation)
    assert geometry.voxel_volume_mm3(stored) == pytest.approx(geometry.voxel_volume_mm3(image))
    assert sorted(geometry.spacing_mm(stored)) == pytest.approx(sorted(geometry.spacing_mm(image)))
    assert geometry.same_grid(
        geometry.isotropic_grid(stored, 2.0), geometry.isotropic_grid(image, 2.0)
    )


@few
@given(rigid_maps(), rigid_maps())
def test_the_inverse_of_two_maps_is_their_inverses_in_reverse(first, second):
    inverse = np.linalg.inv(first @ second)
    np.testing.assert_allclose(inverse, np.linalg.inv(second) @ np.linalg.inv(first), atol=1e-9)
    np.testing.assert_allclose(geometry.nearest_rigid(inverse), inverse, atol=1e-9)


@few
@given(rigid_maps(), arrays.arrays(float, (5, 3), elements=st.floats(-100, 100)))
def test_a_rigid_map_keeps_distances(motion, points):
    moved = nib.affines.apply_affine(motion, points)
    for i, j in itertools.combinations(range(5), 2):
        before = np.linalg.norm(points[i] - points[j])
        assert np.linalg.norm(moved[i] - moved[j]) == pytest.approx(before, abs=1e-9)


@few
@given(rigid_maps(), rigid_maps())
def test_two_maps_and_their_mean_agree_on_the_way_halfway(first, second):
    mean = geometry.mean_rigid([first, second])
    turns = [np.linalg.inv(mean) @ matrix for matrix in (first, second)]
    angles = [Rotation.from_matrix(turn[:3, :3]).magnitude() for turn in turns]
    assert angles[0] == pytest.approx(angles[1], abs=1e-5)
    np.testing.assert_allclose(mean[:3, :3] @ mean[:3, :3].T, np.eye(3), atol=1e-9)


@few
@given(rigid_maps())
def test_a_transform_file_holds_its_map(motion):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'from-a_to-b_mode-image_xfm.txt'
        geometry.save_transform(path, motion)
        corners = 100.0 * np.array(list(itertools.product((-1, 1), repeat=3)))
        error = geometry.displacement_mm(geometry.load_transform(path), motion, corners)
    assert error.max() < 2e-3


masks = arrays.arrays(bool, (6, 7, 8), elements=st.booleans())


@few
@given(masks, st.floats(0.1, 20))
def test_the_lesions_of_a_mask_make_up_its_volume(mask, voxel_mm3):
    labels = label_instances(mask, voxel_mm3)
    affine = np.diag([voxel_mm3, 1.0, 1.0, 1.0])
    volumes = [found.volume_mm3 for found in measure_instances(labels, affine)]
    assert sum(volumes) == pytest.approx(mask.sum() * voxel_mm3)
    assert volumes == sorted(volumes, reverse=True)
    assert np.array_equal(labels > 0, mask)
    assert len(volumes) == ndimage.label(mask)[1]


@few
@given(masks, st.floats(0.5, 2), st.floats(0, 30))
def test_a_minimum_takes_small_lesions_and_nothing_else(mask, voxel_mm3, minimum_mm3):
    every = label_instances(mask, voxel_mm3)
    kept = label_instances(mask, voxel_mm3, minimum_mm3=minimum_mm3)
    sizes = np.bincount(every.ravel())[1:] * voxel_mm3
    count = int((sizes >= minimum_mm3 * (1 - 1e-6)).sum())
    # Numbers go by size, so those that stay keep theirs.
    assert np.array_equal(kept, np.where(every <= count, every, 0))


@few
@given(
    arrays.arrays(float, 50, elements=st.floats(-1e3, 1e3)),
    st.integers(1, 255),
    st.floats(-500, 400),
    st.floats(1e-3, 1e3),
)
def test_brighter_is_never_a_lower_level(values, levels, low, width):
    result = discretize(
        np.sort(values), np.ones(50, bool), levels=levels, low=low, high=low + width
    )
    assert (np.diff(result.astype(int)) >= 0).all()
    assert result.min() >= 1
    assert result.max() <= levels


@functools.cache
def small_nifti(dtype: str = 'uint8', slope: float = 1.0, offset: float = 0.0) -> bytes:
    """Return the uncompressed bytes of a small valid image."""
    data = np.random.default_rng(0).integers(1, 100, (9, 9, 9)).astype(dtype)
    image = nib.Nifti1Image(data, np.diag([10.0, 10, 10, 1]))
    image.header.set_slope_inter(slope, offset)
    return image.to_bytes()


@pytest.fixture(autouse=True, scope='module')
def quiet():
    """Keep nibabel from logging every damaged header."""
    logger = nib.imageglobals.logger
    before = logger.level
    logger.setLevel(60)
    yield
    logger.setLevel(before)


def check_bytes(content: bytes) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'image.nii.gz'
        path.write_bytes(content)
        return np.asarray(check_image(path).dataobj)


@few
@given(
    st.sampled_from(['uint8', 'int8', 'int16', 'uint16', 'int32', 'float32', 'float64']),
    st.floats(1e-3, 1e3),
    st.floats(0, 1e4),
)
def test_any_type_and_slope_is_accepted(dtype, slope, offset):
    slope, offset = float(np.float32(slope)), float(np.float32(offset))
    raw = small_nifti(dtype, slope, offset)
    stored = np.random.default_rng(0).integers(1, 100, (9, 9, 9))
    read = check_bytes(gzip.compress(raw))
    assert read.shape == (9, 9, 9)
    np.testing.assert_allclose(read, stored * slope + offset, rtol=1e-5)


damage = st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4)
harder = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def damaged(content: bytes, changes: list[tuple[int, int]], limit: int) -> bytes:
    result = bytearray(content)
    for place, value in changes:
        result[place % limit] = value
    return bytes(result)


def accepted_or_refused(content: bytes) -> None:
    try:
        data = check_bytes(content)
    except InputError:
        return
    assert data.ndim == 3
    assert np.isfinite(data).all()


@harder
@given(damage)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_damaged_compressed_file_is_accepted_or_refused(changes):
    content = gzip.compress(small_nifti(), mtime=0)
    accepted_or_refused(damaged(content, changes, len(content)))


@harder
@given(damage)
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_damaged_header_is_accepted_or_refused(changes):
    raw = small_nifti()
    header = bytearray(damaged(raw[:352], changes, 352))
    header[AXES] = raw[AXES]
    accepted_or_refused(gzip.compress(bytes(header) + raw[352:]))


@harder
@given(st.integers(-1, 9), st.lists(st.integers(-2, 12), min_size=7, max_size=7))
@example(5, [9, 9, 9, 1, 1, 1, 1])
def test_wrong_axes_in_the_header_are_accepted_or_refused(count, lengths):
    header = bytearray(small_nifti())
    struct.pack_into('<8h', header, AXES.start, count, *lengths)
    accepted_or_refused(gzip.compress(bytes(header)))


@harder
@given(st.integers(0, 2000))
@pytest.mark.filterwarnings('ignore::RuntimeWarning')
def test_a_file_cut_anywhere_is_accepted_or_refused(length):
    accepted_or_refused(gzip.compress(small_nifti(), mtime=0)[:length])
