"""Any image file, sound or broken, is either read as it was written or refused with a remedy."""

from __future__ import annotations

import gzip
import itertools
import math
import os
import re
import struct
import tempfile
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.bids.checks import MAXIMUM_VOXELS, check_image
from msapp.bids.nifti import orientation_notes
from msapp.errors import InputError
from msapp.imaging import geometry
from msapp.interfaces.imaging import ConformImage

# Nothing here may take longer, however damaged: the machine may be busy, a hang lasts for ever.
DEADLINE = timedelta(seconds=20)
FLOAT32_MAX = float(np.finfo(np.float32).max)
HEADROOM_BYTES = 64 * 2**20
TYPES = ('u1', 'i1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8')
REMEDY = re.compile(
    r'(?:Convert|Copy|Replace|Name|name|Check|Rename|Fetch|Change|Put|Give|resampled)\b'
)
ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
SPECIAL = (0, 1, -1, 2, 7, 127, -128, 32767, -32768, math.nan, math.inf, -math.inf, 1e-30, 3e38)


def tries(count: int):
    """Give the settings of a property with so many examples."""
    return settings(
        max_examples=count, deadline=DEADLINE, suppress_health_check=[HealthCheck.too_slow]
    )


@pytest.fixture(autouse=True, scope='module')
def quiet() -> Iterator[None]:
    """Keep nibabel from logging every damaged header."""
    before = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(60)
    yield
    nib.imageglobals.logger.setLevel(before)


# --- Files, byte by byte ------------------------------------------------------------------------


@dataclass(frozen=True)
class Nifti:
    """A NIfTI file as it would stand on disk; nothing in it need be right."""

    data: np.ndarray
    affine: np.ndarray
    version: int = 1
    order: str = '<'
    slope: float = math.nan
    offset: float = math.nan
    codes: tuple[int, int] = (1, 1)  # sform, qform
    qform: np.ndarray | None = None
    fields: tuple[tuple[str, int, float], ...] = field(default=())  # name, index, value

    def header(self) -> nib.Nifti1Header:
        """Return the header; values that a field cannot hold are wrapped around."""
        kind = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[self.version]
        header = kind(endianness=self.order)
        header.set_data_dtype(self.data.dtype)
        header.set_data_shape(self.data.shape)
        header.set_qform(self.affine if self.qform is None else self.qform, self.codes[1])
        header.set_sform(self.affine, self.codes[0])
        header['pixdim'][1:4] = nib.affines.voxel_sizes(self.affine)
        header['magic'] = header.single_magic
        header['vox_offset'] = header.single_vox_offset
        header['scl_slope'], header['scl_inter'] = self.slope, self.offset
        for name, index, value in self.fields:
            put(header, name, index, value)
        return header

    def bytes(self) -> bytes:
        """Return the uncompressed file."""
        stored = self.data.astype(self.data.dtype.newbyteorder(self.order))
        return self.header().binaryblock + bytes(4) + stored.tobytes(order='F')


def put(header: nib.Nifti1Header, name: str, index: int, value: float) -> None:
    """Write a number into a field of whatever type."""
    array = header.structarr[name]
    if array.dtype.kind == 'S':
        return
    flat = array.reshape(-1)
    if array.dtype.kind in 'iu':
        limits = np.iinfo(array.dtype)
        number = int(np.clip(value, -(2.0**62), 2.0**62)) if math.isfinite(value) else -1
        value = (number - limits.min) % (limits.max - limits.min + 1) + limits.min
    with np.errstate(over='ignore', invalid='ignore'):
        flat[index % flat.size] = value


class Folder(tempfile.TemporaryDirectory):
    """A folder that goes away, as a path."""

    def __enter__(self) -> Path:
        return Path(super().__enter__())


def checked(content: bytes, name: str = 'image.nii.gz') -> tuple[np.ndarray, np.ndarray]:
    """Write a file, check it, and return its voxels and affine."""
    with Folder() as folder:
        path = folder / name
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = check_image(path)
            return np.array(image.dataobj, dtype=np.float32), image.affine


def refused(content: bytes, name: str = 'image.nii.gz') -> str:
    """Write a file that must be refused, and return the message."""
    with pytest.raises(InputError) as caught:
        checked(content, name)
    return explained(caught.value)


def explained(error: InputError) -> str:
    """Return a message after checking that it is one line with a remedy."""
    message = str(error)
    assert error.exit_code == 65
    assert '\n' not in message
    assert REMEDY.search(message), message
    return message


def accepted_or_refused(content: bytes, name: str = 'image.nii.gz') -> np.ndarray | None:
    """Check a file that may be anything; what is accepted is a finite volume."""
    try:
        data, affine = checked(content, name)
    except InputError as error:
        explained(error)
        return None
    assert data.ndim == 3
    assert min(data.shape) >= 8
    assert np.isfinite(data).all()
    assert np.isfinite(affine).all()
    return data


def expect(content: bytes, expected: np.ndarray, name: str = 'image.nii.gz') -> None:
    """Check that voxels are read, or refused as what 32-bit numbers make of them."""
    with np.errstate(over='ignore'):
        single = expected.astype(np.float32)
    if not np.isfinite(single).all():
        assert 'NaN or infinite' in refused(content, name)
    elif single.max() <= 0 or single.max() == single.min():
        assert 'image is empty' in refused(content, name)
    elif (single < -0.02 * single.max()).mean() > 0.01:
        assert 'z-scores' in refused(content, name)
    else:
        data, _ = checked(content, name)
        np.testing.assert_allclose(data, single.reshape(data.shape), rtol=1e-5, atol=1e-37)


def noise(shape: tuple[int, ...] = (9, 10, 8), dtype: str = 'u1', seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 100, shape).astype(dtype)


@st.composite
def affines(draw, shape=(9, 10, 8), extent_mm=(80, 250)) -> np.ndarray:
    """Draw any right-angled placement of a field of view: axes, flips, obliqueness, spacing."""
    rotation = Rotation.from_euler(
        'xyz', draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True
    )
    flips = draw(st.tuples(*[st.sampled_from((1, -1))] * 3))
    sizes = np.array([draw(st.floats(*extent_mm)) / count for count in shape[:3]])
    affine = np.eye(4)
    affine[:3, :3] = rotation.as_matrix() @ np.diag(sizes * flips)
    centre = np.array(draw(st.tuples(*[st.floats(-400, 400)] * 3)))
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape[:3]) / 2)
    return affine


PLAIN = np.diag([10.0, 10.0, 10.0, 1.0])


# --- Sound images -------------------------------------------------------------------------------


@st.composite
def sound_images(draw) -> Nifti:
    shape = draw(st.tuples(*[st.integers(8, 12)] * 3)) + (1,) * draw(st.integers(0, 3))
    return Nifti(
        data=noise(shape, draw(st.sampled_from(TYPES))),
        affine=draw(affines(shape)),
        version=draw(st.sampled_from((1, 2))),
        order=draw(st.sampled_from('<>')),
        codes=draw(st.sampled_from(((1, 0), (1, 1), (2, 1), (4, 4), (0, 1), (0, 2)))),
    )


@tries(60)
@given(sound_images(), st.sampled_from(('image.nii', 'image.nii.gz')))
def test_what_was_written_is_read(nifti, name):
    raw = nifti.bytes()
    data, affine = checked(gzip.compress(raw) if name.endswith('.gz') else raw, name)
    assert np.array_equal(data, nifti.data.reshape(data.shape))
    # A quaternion in 32 bits loses up to 3e-4 rad near half a turn.
    np.testing.assert_allclose(affine, nifti.affine, atol=2e-3 if nifti.codes[0] else 0.03)


scales = st.one_of(
    st.sampled_from((*SPECIAL, -2.5, 1e-42)),
    st.floats(-1e3, 1e3, width=32),
    st.floats(width=32),
)


@tries(80)
@given(scales, scales, st.sampled_from(TYPES), st.sampled_from((1, 2)))
@example(0.0, 5.0, 'i2', 1)  # 0 means not scaled, and the offset does not count either
@example(-1.0, 200.0, 'u1', 1)
@example(3e38, 0.0, 'u1', 1)  # finite in 64 bits, infinite in those computed with
@example(1e-42, 0.0, 'f4', 1)
@example(2.0, math.nan, 'i2', 1)
def test_any_slope_and_offset_is_applied_or_refused(slope, offset, dtype, version):
    nifti = Nifti(noise(dtype=dtype), PLAIN, version, slope=slope, offset=offset)
    header = nifti.header()
    slope, offset = float(header['scl_slope']), float(header['scl_inter'])
    content = gzip.compress(nifti.bytes(), 1)
    if not math.isfinite(slope) or slope == 0:
        slope, offset = 1.0, 0.0
    elif not math.isfinite(offset):
        assert 'not a readable NIfTI image' in refused(content)
        return
    expect(content, nifti.data.astype(float) * slope + offset)


@tries(40)
@given(
    st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats()), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from(('f4', 'f8')),
)
@example([1e10, 1e10 + 1], True, 'f8')  # equal as 32-bit numbers
@example([1e300], False, 'f8')  # infinite as one
@example([1e-320], True, 'f8')  # zero as one
@example([0.0], True, 'f4')
@example([math.nan], True, 'f4')
def test_any_voxels_are_read_or_refused(values, alone, dtype):
    with np.errstate(over='ignore'):
        data = noise(dtype=dtype)
        places = data.reshape(-1)
        count = places.size if alone else len(values)
        places[:count] = np.resize(np.array(values), count).astype(dtype)
    expect(gzip.compress(Nifti(data, PLAIN).bytes(), 1), data)


# --- How an image is stored does not matter -------------------------------------------------------


def blob() -> np.ndarray:
    """Return a smooth texture, zero at its border, in whole numbers."""
    texture = np.zeros((20, 24, 16))
    texture[3:-3, 3:-3, 3:-3] = np.random.default_rng(0).uniform(50, 150, (14, 18, 10))
    return ndimage.gaussian_filter(texture, 1.0)


def placement(angles: tuple[float, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
    affine[:3, :3] @= np.diag(spacing_mm)
    affine[:3, 3] = np.array([0.0, -18.0, 10.0]) - affine[:3, :3] @ (9.5, 11.5, 7.5)
    return affine


LEANING = placement((0, 0, 0), (8.0, 8.0, 9.0)) @ np.array(
    [[1, 0.3, 0, 0], [0, 1, 0, 0], [0.1, 0, 1, 0], [0, 0, 0, 1]]
)


@pytest.mark.parametrize('dtype', ['i2', 'f4'])
@pytest.mark.parametrize(
    ('affine', 'codes'),
    [
        (placement((0, 0, 0), (8.0, 8.0, 8.0)), (1, 1)),
        (placement((12, -7, 25), (4.5, 4.5, 10.0)), (1, 0)),
        (placement((85, 10, -40), (9.0, 5.0, 7.0)), (0, 1)),
        (LEANING, (1, 0)),
    ],
    ids=['straight', 'oblique, thick slices', 'steep, qform alone', 'leaning axes'],
)
def test_all_48_orientations_give_one_image_on_the_individual_grid(tmp_path, affine, codes, dtype):
    grid = geometry.individual_grid().slicer[::5, ::5, ::5]
    texture = blob()
    scaled = (texture * 100).astype(dtype)  # whole numbers, brought back by the slope
    motion = placement((3, -5, 4), (1, 1, 1))
    found = []
    for number, orientation in enumerate(ORIENTATIONS):
        data = nib.orientations.apply_orientation(scaled, orientation)
        stored = affine @ nib.orientations.inv_ornt_aff(orientation, scaled.shape)
        path = tmp_path / f'{number}.nii.gz'
        nifti = Nifti(data, stored, slope=0.01, offset=0.0, codes=codes)
        path.write_bytes(gzip.compress(nifti.bytes(), 1))
        result = ConformImage(in_file=str(path)).run(cwd=str(tmp_path))
        conformed = nib.load(result.outputs.out_file)
        found.append(geometry.resample(conformed, grid, motion, order=1))
    assert found[0].max() > 80
    assert found[0].min() == 0
    for image in found[1:]:
        np.testing.assert_allclose(image, found[0], atol=0.05)


@tries(40)
@given(st.sampled_from(ORIENTATIONS), affines((4, 5, 6)))
def test_ants_sees_every_voxel_where_it_is(orientation, affine):
    data = nib.orientations.apply_orientation(noise((4, 5, 6)), orientation)
    stored = affine @ nib.orientations.inv_ornt_aff(orientation, (4, 5, 6))
    image = geometry.to_ants(data, stored)
    index = tuple(count - 1 for count in data.shape)
    import ants

    point = ants.transform_index_to_physical_point(image, index)
    expected = geometry.LPS @ [*nib.affines.apply_affine(stored, index), 1.0]
    np.testing.assert_allclose(point, expected[:3], atol=1e-3)
    assert image[index] == data[index]


@tries(60)
@given(affines(), st.booleans())
@example(LEANING, False)
def test_both_orientations_of_a_written_image_say_the_same(affine, as_mask):
    data = noise() > 50 if as_mask else noise().astype(float)
    image = geometry.like(data, nib.Nifti1Image(np.zeros(data.shape, np.uint8), affine))
    back = nib.Nifti1Image.from_bytes(image.to_bytes())
    assert np.array_equal(np.asarray(back.dataobj), data)
    np.testing.assert_allclose(back.affine, affine, atol=1e-3)
    if affine is LEANING:
        assert int(back.header['qform_code']) == 0
    else:
        np.testing.assert_allclose(back.get_qform(), affine, atol=0.03)
        assert int(back.header['qform_code']) == int(back.header['sform_code']) > 0


@tries(60)
@given(affines((1, 1, 1), (0.5, 2)), st.tuples(*[st.floats(-1e4, 1e4)] * 3))
@example(np.eye(4), (12345.678912, -9999.123456, 3.0))
def test_a_transform_file_holds_all_digits(affine, shift):
    affine[:3, 3] += shift
    with Folder() as folder:
        geometry.save_transform(folder / 'x.txt', affine)
        np.testing.assert_allclose(geometry.load_transform(folder / 'x.txt'), affine, atol=1e-9)


# --- Orientation in the header --------------------------------------------------------------------


@tries(40)
@given(affines(), affines())
def test_of_two_orientations_the_sform_counts_and_mirrored_ones_are_refused(sform, qform):
    content = gzip.compress(Nifti(noise(), sform, qform=qform).bytes(), 1)
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        assert 'disagree about which side is left' in refused(content)
        return
    _, affine = checked(content)
    np.testing.assert_allclose(affine, sform, atol=1e-3)


def notes(nifti: Nifti) -> list[str]:
    with Folder() as folder:
        path = folder / 'image.nii.gz'
        path.write_bytes(gzip.compress(nifti.bytes(), 1))
        check_image(path)
        return orientation_notes(path)


@tries(40)
@given(affines(), st.tuples(*[st.floats(-50, 50)] * 3))
@example(PLAIN, (0.0, 0.0, 0.0))
@example(PLAIN, (0.9, 0.0, 0.0))
@example(PLAIN, (0.0, 0.0, 12.0))
def test_orientations_that_are_apart_are_named(affine, shift):
    moved = affine.copy()
    moved[:3, 3] += shift
    apart = float(np.linalg.norm(shift))
    assume(abs(apart - 1) > 0.05)
    found = notes(Nifti(noise(), affine, qform=moved))
    assert len(found) == (apart > 1)
    if found:
        assert f'are up to {round(apart)} mm apart: the sform is used' in found[0] or (
            abs(apart % 1 - 0.5) < 0.05
        )


@pytest.mark.parametrize('value', [2.0, math.nan])
def test_a_qform_that_is_no_rotation_is_named(value):
    (note,) = notes(Nifti(noise(), PLAIN, fields=(('quatern_b', 0, value),)))
    assert note == 'The qform of the header is broken; the sform is used.'


def test_a_voxel_size_that_is_not_that_of_the_sform_is_named():
    (note,) = notes(Nifti(noise(), PLAIN, codes=(1, 0), fields=(('pixdim', 1, 1.0),)))
    assert note == (
        'The voxel size of the header (1 x 10 x 10 mm) is not that of its sform (10 x 10 x 10 mm), '
        'which is used.'
    )


@pytest.mark.parametrize('codes', [(0, 0), (9, 0), (0, -1), (-3, 77)])
def test_an_image_without_orientation_is_placed_by_convention_and_named(codes):
    fields = (('sform_code', 0, codes[0]), ('qform_code', 0, codes[1]))
    nifti = Nifti(noise(), PLAIN, fields=fields)
    _, affine = checked(gzip.compress(nifti.bytes()))
    assert nib.aff2axcodes(affine) == ('L', 'A', 'S')
    assert nib.affines.voxel_sizes(affine) == pytest.approx([10, 10, 10])
    (note,) = notes(nifti)
    assert 'gives no orientation' in note
    assert 'Check the sides, or convert it anew.' in note


def broken_affines() -> Iterator[tuple[str, np.ndarray]]:
    flat, thin, far = PLAIN.copy(), PLAIN.copy(), PLAIN.copy()
    flat[2] = (0, 0, 0, 0)
    thin[:3, 2] = thin[:3, 1] + (0, 0, 0.01)
    far[0, 3] = 1e6
    yield 'zero', np.diag([0.0, 0, 0, 1])
    yield 'flat', flat
    yield 'two axes alike', thin
    yield 'far away', far
    for value in (math.nan, math.inf, 1e30):
        spoilt = PLAIN.copy()
        spoilt[1, 1] = value
        yield str(value), spoilt


@pytest.mark.parametrize('affine', [pytest.param(a, id=n) for n, a in broken_affines()])
@pytest.mark.parametrize('version', [1, 2])
def test_a_broken_affine_is_refused(affine, version):
    rows = (('srow_x', 0), ('srow_y', 1), ('srow_z', 2))
    fields = tuple(
        (name, column, float(affine[row, column])) for name, row in rows for column in range(4)
    )
    message = refused(gzip.compress(Nifti(noise(), PLAIN, version, fields=fields).bytes()))
    assert 'orientation' in message or 'field of view' in message


# --- Sizes ----------------------------------------------------------------------------------------


@tries(40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7))
@example([1, 1, 1])
@example([2, 2, 2])
@example([12, 12, 1])
@example([12, 12, 12, 1, 2])
@example([9])
def test_any_number_of_voxels_is_accepted_or_refused(shape):
    content = gzip.compress(Nifti(noise(tuple(shape)), PLAIN).bytes(), 1)
    three = len(shape) > 2 and min(shape[:3]) >= 8
    if three and math.prod(shape[3:]) == 1:
        assert accepted_or_refused(content) is not None
    else:
        assert 'needed' in refused(content)


@tries(40)
@given(
    st.lists(st.integers(-2, 2**15 - 1), min_size=3, max_size=7),
    st.integers(-1, 8),
    st.sampled_from(('u1', 'f8')),
    st.booleans(),
)
@example([32767] * 7, 7, 'f8', True)
@example([32767] * 3, 3, 'f8', False)
def test_declared_sizes_take_no_memory(shape, axes, dtype, packed):
    fields = tuple(('dim', place, value) for place, value in enumerate((axes, *shape)))
    raw = Nifti(noise(dtype=dtype), PLAIN, fields=fields).bytes()
    name = 'image.nii.gz' if packed else 'image.nii'
    tracemalloc.start()
    try:
        accepted_or_refused(gzip.compress(raw, 1) if packed else raw, name)
        assert tracemalloc.get_traced_memory()[1] < HEADROOM_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('version', [1, 2])
def test_a_sparse_file_of_gigabytes_is_refused_unread(tmp_path, version):
    path = tmp_path / 'image.nii'
    side = math.ceil((MAXIMUM_VOXELS + 1) ** (1 / 3))
    fields = tuple(('dim', axis, side) for axis in (1, 2, 3))
    affine = np.diag([0.3, 0.3, 0.3, 1.0])
    path.write_bytes(Nifti(noise(), affine, version, fields=fields).bytes())
    os.truncate(path, 1024 + side**3)
    tracemalloc.start()
    with pytest.raises(InputError, match='268 million: its header is damaged, or it must be'):
        check_image(path)
    assert tracemalloc.get_traced_memory()[1] < HEADROOM_BYTES
    tracemalloc.stop()


def test_a_small_image_before_gigabytes_of_zeros_is_refused_at_once(tmp_path):
    path = tmp_path / 'image.nii.gz'
    zeros = gzip.compress(bytes(2**24), 1)
    path.write_bytes(gzip.compress(Nifti(noise(), PLAIN).bytes()) + zeros * 500)
    tracemalloc.start()
    with pytest.raises(InputError, match='holds more voxels than its header says'):
        check_image(path)
    assert tracemalloc.get_traced_memory()[1] < HEADROOM_BYTES
    tracemalloc.stop()


@tries(40)
@given(st.integers(1, 3), st.integers(-4, -1), st.booleans())
def test_an_axis_that_is_shorter_in_the_header_than_in_the_file_is_refused(axis, less, packed):
    nifti = Nifti(noise((13, 14, 12)), PLAIN)
    short = Nifti(nifti.data, PLAIN, fields=(('dim', axis, nifti.data.shape[axis - 1] + less),))
    raw = short.bytes()
    name = 'image.nii.gz' if packed else 'image.nii'
    assert 'holds more voxels' in refused(gzip.compress(raw, 1) if packed else raw, name)


def test_padding_after_the_voxels_is_no_fault():
    raw = Nifti(noise((12, 12, 12)), PLAIN).bytes() + bytes(100)
    assert checked(raw, 'image.nii')[0].shape == (12, 12, 12)


# --- Damage ---------------------------------------------------------------------------------------


FIELDS = tuple(name for name in nib.Nifti1Header.template_dtype.names)
changes = st.lists(
    st.tuples(
        st.sampled_from(FIELDS),
        st.integers(0, 7),
        st.one_of(st.sampled_from(SPECIAL), st.floats(width=32), st.integers(-(2**31), 2**31)),
    ),
    min_size=1,
    max_size=4,
)


@tries(150)
@given(changes, st.sampled_from((1, 2)), st.sampled_from('<>'), st.booleans())
@example([('intent_code', 0, 3001)], 2, '<', True)  # claims to be CIFTI-2
@example([('magic', 0, 0)], 1, '<', True)
@example([('vox_offset', 0, -1)], 1, '<', False)
@example([('vox_offset', 0, 1e15)], 1, '<', True)
@example([('vox_offset', 0, math.nan)], 1, '>', False)
@example([('bitpix', 0, 3)], 1, '<', True)
@example([('sizeof_hdr', 0, 0)], 2, '>', True)
@example([('quatern_b', 0, math.nan), ('sform_code', 0, 0)], 1, '<', True)
@example([('quatern_b', 0, 5.0), ('sform_code', 0, 0)], 1, '<', True)
@example([('quatern_b', 0, 2.0)], 1, '<', False)  # no rotation, though the sform is sound
@example([('dim', 4, 0)], 1, '<', True)
def test_any_values_in_the_header_are_accepted_or_refused(changes, version, order, packed):
    known = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version].template_dtype.names
    fields = tuple(change for change in changes if change[0] in known)
    raw = Nifti(noise(), PLAIN, version, order, fields=fields).bytes()
    name = 'image.nii.gz' if packed else 'image.nii'
    accepted_or_refused(gzip.compress(raw, 1) if packed else raw, name)


@tries(80)
@given(
    st.sampled_from((1, 2)),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 64),
    st.binary(max_size=64),
)
@example(1, struct.pack('<ii', 16, 2), 32, b'')  # DICOM in an extension
@example(1, struct.pack('<ii', 2**31 - 1, 0), 32, b'')
@example(1, struct.pack('<ii', -16, 4), 32, b'')
@example(1, struct.pack('<ii', 16, 44), 16, b'{')
def test_any_extension_of_the_header_is_read_over_or_refused(version, start, room, content):
    nifti = Nifti(noise(), PLAIN, version)
    raw, size = nifti.bytes(), nifti.header().sizeof_hdr
    moved = Nifti(noise(), PLAIN, version, fields=(('vox_offset', 0, size + 4 + 16 + room),))
    extension = (start + content).ljust(16 + room, b'\0')[: 16 + room]
    whole = moved.header().binaryblock + b'\1\0\0\0' + extension + raw[size + 4 :]
    data = accepted_or_refused(whole, 'image.nii')
    if data is not None:
        assert np.array_equal(data, noise())


def test_a_pair_of_header_and_image_under_one_name_is_refused():
    raw = bytearray(Nifti(noise(), PLAIN).bytes())
    raw[344:348] = b'ni1\0'
    assert 'pair of .hdr and .img' in refused(bytes(raw), 'image.nii')


@pytest.mark.parametrize('name', ['image.nii', 'image.nii.gz'])
def test_a_connectivity_file_is_refused(tmp_path, name):
    scalars = nib.cifti2.ScalarAxis(['a'])
    voxels = nib.cifti2.BrainModelAxis.from_mask(np.ones((2, 2, 2)), affine=PLAIN)
    path = tmp_path / 'image.nii'
    nib.save(nib.Cifti2Image(np.ones((1, 8), np.float32), [scalars, voxels]), path)
    raw = path.read_bytes()
    refused(gzip.compress(raw) if name.endswith('.gz') else raw, name)


PACKED = {
    level: gzip.compress(Nifti(noise(), PLAIN).bytes(), level, mtime=0) for level in (0, 1, 9)
}


@tries(120)
@given(st.sampled_from((0, 1, 9)), st.integers(0), st.integers(0, 7))
@example(0, 600, 0)
@example(9, 4, 3)  # the time in the gzip header, which says nothing of the image
def test_a_flipped_bit_of_a_compressed_file_is_found_or_does_not_matter(level, place, bit):
    content = bytearray(PACKED[level])
    content[place % len(content)] ^= 1 << bit
    data = accepted_or_refused(bytes(content))
    if data is not None:
        assert np.array_equal(data, noise())


@tries(60)
@given(st.sampled_from((0, 1, 9)), st.integers(0))
@example(9, -1)
def test_a_compressed_file_cut_anywhere_is_refused(level, length):
    content = PACKED[level]
    refused(content[: length % len(content)])


@tries(60)
@given(st.sampled_from((1, 2)), st.integers(0))
@example(1, 351)
@example(1, 352)
@example(2, 539)
def test_a_plain_file_cut_anywhere_is_refused(version, length):
    content = Nifti(noise(), PLAIN, version).bytes()
    refused(content[: length % len(content)], 'image.nii')


@tries(60)
@given(st.binary(max_size=600), st.sampled_from(('image.nii', 'image.nii.gz')), st.booleans())
@example(b'', 'image.nii', False)
@example(b'', 'image.nii.gz', True)
@example(b'\x1f\x8b', 'image.nii.gz', False)
@example(b'/annex/objects/MD5E-s1--x.nii.gz\n', 'image.nii.gz', False)
def test_a_file_of_any_bytes_is_refused(content, name, packed):
    refused(gzip.compress(content) if packed else content, name)


# --- What stands in the place of a file -----------------------------------------------------------


@tries(20)
@given(sound_images())
def test_a_file_packed_against_its_name_is_refused_with_the_right_name(nifti):
    raw = nifti.bytes()
    assert 'Rename it to image.nii.gz.' in refused(gzip.compress(raw, 1), 'image.nii')
    assert refused(raw, 'image.nii.gz').endswith('Rename it to image.nii.')


def be_missing(path: Path) -> None:
    pass


def be_a_folder(path: Path) -> None:
    path.mkdir()


def be_a_pipe(path: Path) -> None:
    os.mkfifo(path)


def be_a_device(path: Path) -> None:
    path.symlink_to('/dev/zero')


def be_a_dangling_link(path: Path) -> None:
    path.symlink_to('gone.nii.gz')


def be_a_link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ('become', 'message'),
    [
        (be_missing, 'does not exist'),
        (be_a_folder, 'a folder or a device stands in its place'),
        (be_a_pipe, 'a folder or a device stands in its place'),
        (be_a_device, 'a folder or a device stands in its place'),
        (be_a_dangling_link, 'a broken link?'),
        (be_a_link_to_itself, 'links'),
    ],
)
@pytest.mark.parametrize('name', ['image.nii', 'image.nii.gz'])
def test_what_is_no_file_is_refused(tmp_path, become, message, name):
    become(tmp_path / name)
    with pytest.raises(InputError) as caught:
        check_image(tmp_path / name)
    assert message in explained(caught.value)


def reads_everything() -> bool:
    """Tell whether permissions do not hold for this user, as for most administrators."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'closed')
        path.touch(mode=0)
        return os.access(path, os.R_OK)


@pytest.mark.skipif(reads_everything(), reason='this user may read everything')
def test_a_file_without_permission_is_refused(tmp_path):
    path = tmp_path / 'image.nii'
    path.write_bytes(Nifti(noise(), PLAIN).bytes())
    path.chmod(0)
    with pytest.raises(InputError, match='Change its permissions'):
        check_image(path)
