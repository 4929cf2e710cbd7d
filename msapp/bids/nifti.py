"""Reading NIfTI files of which nothing is known: every failure becomes one kind of error."""

from __future__ import annotations

import gzip
import math
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np

from msapp.errors import InputError
from msapp.imaging.geometry import corner_voxels, displacement_mm

GZIP_START = b'\x1f\x8b'
# Length of the header, the first number of a NIfTI-1 or NIfTI-2 file, in either order of bytes.
NIFTI_STARTS = tuple(struct.pack(order + 'i', size) for order in '<>' for size in (348, 540))
SINGLE_FILE = (b'n+1', b'n+2')
CHUNK_BYTES = 1 << 22
# Header orientations that differ by less than this are the same but for rounding, mm.
ROUNDING_MM = 1.0
# Voxel sizes of the header and of its sform that differ by less are the same but for rounding.
ROUNDING_SHARE = 0.01


@contextmanager
def readable() -> Iterator[None]:
    """Turn what can go wrong in reading a file into one kind of error.

    Raises
    ------
    InputError
        Saying what to do.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError('the file does not exist (a broken link?). Fetch it first.') from error
    except PermissionError as error:
        raise InputError('the file may not be read. Change its permissions.') from error
    except (EOFError, gzip.BadGzipFile, zlib.error, MemoryError, OverflowError) as error:
        raise InputError('the file is cut short or damaged. Copy or convert it again.') from error
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise InputError(
            f'not a readable NIfTI image ({_line(error)}). Convert it again.'
        ) from error
    except (OSError, ValueError, TypeError, struct.error) as error:
        raise InputError(
            f'the file is cut short or damaged ({_line(error)}). Copy or convert it again.'
        ) from error


def _line(error: Exception) -> str:
    """Return a library's message on one line."""
    return ' '.join(str(error).split())


def open_image(path: Path) -> nib.Nifti1Image:
    """Open an image without reading its voxels.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``.

    Returns
    -------
    nibabel.Nifti1Image
        Or its subclass for NIfTI-2.

    Raises
    ------
    InputError
        If it is no NIfTI file, or compressed where its name says it is not.
    """
    with readable():
        _check_kind(path)
        image = nib.load(path)
        header = raw_header(path)
    if type(image) not in (nib.Nifti1Image, nib.Nifti2Image):
        raise InputError(
            f'not a readable NIfTI image of voxels (it is a {type(image).__name__}). Convert it '
            'again.'
        )
    if bytes(header['magic'])[:3] not in SINGLE_FILE:
        raise InputError(
            'not a readable NIfTI image (its header belongs to a pair of .hdr and .img). Convert '
            'it again, to one file.'
        )
    return image  # type: ignore[return-value]


def _check_kind(path: Path) -> None:
    """Refuse folders and devices, and files that are packed against their name."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(
            'not a readable NIfTI image: a folder or a device stands in its place. Put the image '
            'there.'
        )
    with path.open('rb') as stream:
        start = stream.read(4)
    if start.startswith(GZIP_START) and path.suffix != '.gz':
        raise InputError(
            f'the file is compressed, which its name does not say. Rename it to {path.name}.gz.'
        )
    if start in NIFTI_STARTS and path.suffix == '.gz':
        raise InputError(
            'the file is not compressed, though its name says so. Rename it to '
            f'{path.name.removesuffix(".gz")}.'
        )


def raw_header(path: Path) -> nib.Nifti1Header:
    """Return the header as it stands in the file; nibabel's images have theirs mended."""
    with nib.openers.ImageOpener(str(path)) as stream:
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(start) else nib.Nifti1Header
    return kind(start[: kind.sizeof_hdr], check=False)


def header_voxel_sizes(header: nib.Nifti1Header) -> np.ndarray:
    """Return the voxel sizes of a raw header, (3,), whatever their sign, mm."""
    return np.abs(np.asarray(header['pixdim'][1:4], dtype=float))


def check_length(path: Path, image: nib.Nifti1Image) -> None:
    """Check that a file is as long as its header says; a compressed one is read to its end.

    What follows the voxels may be shorter than the smallest slice: a header that is wrong about
    the length of any axis would leave more.

    Raises
    ------
    InputError
        If it is shorter or longer.
    """
    item, proxy = image.get_data_dtype().itemsize, cast(Any, image.dataobj)
    voxels = math.prod(image.shape)
    needed = int(proxy.offset) + voxels * item
    most = needed + voxels // max(1, *image.shape) * item
    with readable():
        length = _length(path, most)
        if length < needed:
            raise EOFError
    if length >= most:
        raise InputError(
            f'the file holds more voxels than its header says ({needed} bytes), so the header is '
            'damaged. Copy or convert it again.'
        )


def _length(path: Path, most: int) -> int:
    """Return the length of a file, bytes; a compressed one is read to its checksum or ``most``."""
    if path.suffix != '.gz':
        return path.stat().st_size
    length = 0
    with gzip.open(path) as stream:
        while length < most and (chunk := stream.read(CHUNK_BYTES)):
            length += len(chunk)
    return length


def orientations(header: nib.Nifti1Header) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return sform and qform; None where the code is 0, and NaN where a qform is no rotation."""
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except ValueError:
        qform = np.full((4, 4), np.nan)
    return sform, qform


def is_mirrored(header: nib.Nifti1Header) -> bool:
    """Tell whether the two orientations of a header disagree about which side is left."""
    first, second = orientations(header)
    if first is None or second is None:
        return False
    return float(np.linalg.det(first[:3, :3]) * np.linalg.det(second[:3, :3])) < 0


def orientation_notes(path: Path) -> list[str]:
    """Say where the header of a sound image contradicts itself, and which part is believed.

    Returns
    -------
    list of str
        Sentences; empty where there is nothing to say.
    """
    image = open_image(path)
    header = image.header
    sform, qform = orientations(header)
    if sform is None and qform is None:
        return [
            'The header gives no orientation (sform_code and qform_code are 0): the axes are taken '
            'to run to the left, to the front and up. Check the sides, or convert it anew.'
        ]
    if sform is None:
        return []
    notes = []
    if qform is not None:
        largest = float(displacement_mm(sform, qform, corner_voxels(image.shape)).max())
        if not np.isfinite(largest):
            notes.append('The qform of the header is broken; the sform is used.')
        elif largest > ROUNDING_MM:
            notes.append(
                f'The two orientations of the header are up to {largest:.0f} mm apart: the sform '
                'is used, the qform is not. Programs that use the qform will show it elsewhere.'
            )
    sizes, used = header_voxel_sizes(header), nib.affines.voxel_sizes(sform)
    if np.any(np.abs(sizes / used - 1) > ROUNDING_SHARE):
        notes.append(
            f'The voxel size of the header ({by(sizes)} mm) is not that of its sform '
            f'({by(used)} mm), which is used.'
        )
    return notes


def by(values: np.ndarray) -> str:
    """Join numbers by a multiplication sign.

    Examples
    --------
    >>> by(np.array([1, 0.5]))
    '1 x 0.5'
    """
    return ' x '.join(f'{value:g}' for value in np.round(values, 3))
