"""Checks of the input, before anything is computed: folders, participants, image files."""

from __future__ import annotations

import gzip
import re
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from msapp.errors import InputError, UsageError
from msapp.settings import Settings

# Fewer voxels along an axis than this is no image of a brain.
MINIMUM_VOXELS = 8
MINIMUM_EXTENT_MM = 60.0
LABEL = re.compile(r'[A-Za-z0-9]+')


def check_folders(settings: Settings) -> None:
    """Check that input and output folders can be what the command line says they are.

    Raises
    ------
    UsageError
        If the input is no BIDS dataset, or the output lies where it must not or cannot be written.
    """
    source, target = settings.bids_dir, settings.output_dir
    if not source.is_dir():
        raise UsageError(f'{source}: no such folder. Give the root of a BIDS dataset.')
    if 'participant' in settings.levels and not any(source.glob('sub-*')):
        raise UsageError(
            f'{source}: holds no sub-* folder, so it is not the root of a BIDS dataset. '
            'Give the folder that holds dataset_description.json and the sub-* folders.'
        )
    for name, folder in (('output', target), ('work', settings.work_path)):
        if _is_among_input(folder, source):
            raise UsageError(
                f'{folder}: the {name} folder lies inside the input dataset. Choose a folder '
                f'outside it, or {source / "derivatives" / "msapp"}.'
            )
    if not settings.dry_run:
        for folder in (target, settings.work_path):
            _check_writable(folder)


def _is_among_input(path: Path, source: Path) -> bool:
    """Tell whether ``path`` is the input dataset or lies in it, other than in derivatives/."""
    path, source = path.resolve(), source.resolve()
    return path.is_relative_to(source) and path.relative_to(source).parts[:1] != ('derivatives',)


def _check_writable(folder: Path) -> None:
    """Make a folder and a file in it, or say why that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.msapp-{uuid.uuid4().hex}'
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f'{folder}: cannot be written ({error.strerror}). Choose another folder, or change '
            'its permissions; in a container, bind it without ":ro".'
        ) from error


def check_label(participant: str) -> None:
    """Check that a participant's folder has a name BIDS allows.

    Raises
    ------
    InputError
        If the label has other characters than letters and digits.
    """
    label = participant.removeprefix('sub-')
    if not LABEL.fullmatch(label):
        raise InputError(
            f'{participant}: a participant label may hold only letters and digits, got '
            f'"{label}". Rename the folder and its files.'
        )


def check_image(path: Path) -> nib.spatialimages.SpatialImage:
    """Read an image whole and check that it is one finite 3-D volume of a plausible size.

    Parameters
    ----------
    path : Path
        A NIfTI file.

    Returns
    -------
    nibabel image, 3-D
        Trailing axes of length 1 are dropped.

    Raises
    ------
    InputError
        Naming what is wrong and what to do; the file's name is added by the caller.
    """
    image = _read(path)
    sizes = _voxel_sizes(path)
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise InputError(
            f'the voxel size is {_by(sizes)} mm; each must be above 0. Convert the image anew '
            'from DICOM, or mend the header.'
        )
    volumes = int(np.prod(image.shape[3:]))
    if volumes != 1:
        raise InputError(
            f'{volumes} volumes found, one is needed. Name a 3-D image with --bids-filter-file, '
            'or average the volumes.'
        )
    if len(image.shape) < 3 or min(image.shape[:3]) < MINIMUM_VOXELS:
        raise InputError(
            f'the image has {_by(np.array(image.shape))} voxels; at least {MINIMUM_VOXELS} are '
            'needed along each axis. A localizer or a single slice cannot be used.'
        )
    _check_geometry(image)
    if len(image.shape) > 3:
        image = nib.squeeze_image(image)
    data = np.asanyarray(image.dataobj)
    if not np.issubdtype(data.dtype, np.number) or np.iscomplexobj(data):
        raise InputError(f'voxels of type {data.dtype} cannot be used; one real number is needed.')
    bad = int((~np.isfinite(data)).sum()) if np.issubdtype(data.dtype, np.floating) else 0
    if bad:
        raise InputError(
            f'{bad} voxels are NaN or infinite. Replace them (with 0 outside the head) or '
            'convert the image anew.'
        )
    if data.max() <= 0 or data.max() == data.min():
        raise InputError('the image is empty: all voxels are equal or not above 0.')
    return image


def _voxel_sizes(path: Path) -> np.ndarray:
    """Return the voxel sizes as the header has them; nibabel's reader replaces zeros by 1 mm."""
    with _readable(), nib.openers.ImageOpener(str(path)) as stream:
        header = nib.Nifti1Header.from_fileobj(stream, check=False)
    if bytes(header['magic'])[:2] not in (b'n+', b'ni'):
        return np.ones(3)  # no NIfTI-1: left to the reader
    return np.abs(np.asarray(header['pixdim'][1:4], dtype=float))


def _read(path: Path) -> nib.spatialimages.SpatialImage:
    """Read an image and all its data, turning what can go wrong into one kind of error."""
    with _readable():
        image: Any = nib.load(path)
        needed = image.dataobj.offset + np.prod(image.shape, dtype=float) * (
            image.get_data_dtype().itemsize
        )
        if _length(path) < needed:
            raise EOFError
        np.asanyarray(image.dataobj)
    return image


def _length(path: Path) -> int:
    """Return the length of a file, bytes; a compressed one is read to its end and its checksum."""
    if path.suffix != '.gz':
        return path.stat().st_size
    with gzip.open(path) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(1 << 22), b''))


@contextmanager
def _readable() -> Iterator[None]:
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
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f'the file is cut short or damaged ({_line(error)}). Copy or convert it again.'
        ) from error


def _line(error: Exception) -> str:
    """Return a library's message on one line."""
    return ' '.join(str(error).split())


def _check_geometry(image: nib.spatialimages.SpatialImage) -> None:
    """Check that the affine is finite, invertible, and spans something the size of a brain."""
    affine = image.affine
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise InputError(
            'the orientation in the header (qform, sform) is broken: its matrix cannot be '
            'inverted. Convert the image anew from DICOM.'
        )
    extent = nib.affines.voxel_sizes(affine) * np.asarray(image.shape[:3])
    if extent.min() < MINIMUM_EXTENT_MM or extent.max() > 1000:
        raise InputError(
            f'the field of view is {_by(extent)} mm; a brain needs {MINIMUM_EXTENT_MM:.0f} to '
            '1000 mm. Check the voxel size in the header.'
        )


def _by(values: np.ndarray) -> str:
    """Join numbers by a multiplication sign."""
    return ' x '.join(f'{value:g}' for value in np.round(values, 3))
