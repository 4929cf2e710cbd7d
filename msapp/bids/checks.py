"""Checks of the input, before anything is computed: folders, participants, image files."""

from __future__ import annotations

import math
import os
import re
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np

from msapp.bids.nifti import (
    by,
    check_length,
    header_voxel_sizes,
    is_mirrored,
    open_image,
    raw_header,
    readable,
)
from msapp.errors import InputError, NoBrainError, UsageError
from msapp.files import NO_ROOM, storage_error
from msapp.settings import Settings

# Fewer voxels along an axis than this is no image of a brain.
MINIMUM_VOXELS = 8
MINIMUM_EXTENT_MM = 60.0
MAXIMUM_EXTENT_MM = 1000.0
# An image that is wider than this in every direction shows no head: its voxel size is wrong.
WIDEST_HEAD_MM = 500.0
# 1 GiB as 32-bit numbers; a head at 0.4 mm has half as many.
MAXIMUM_VOXELS = 2**28
# A voxel's axes may lean, but not so far that they span next to nothing.
SMALLEST_SINE = 0.1
# No scanner's coordinates reach farther, and in 32 bits they would lose hundredths of a mm.
FARTHEST_MM = 10_000.0
# Interpolation leaves voxels below 0 by this share of the maximum at most; more are allowed to few.
RINGING, MOST_BELOW_ZERO = 0.02, 0.01
# So many voxels of a mask tell where it lies.
ENOUGH_VOXELS = 100_000
LABEL = re.compile(r'[A-Za-z0-9]+')
# Names of derivatives add up to 118 characters to the participant and twice the session, and no
# file name may have more than 255 bytes.
LONGEST_PARTICIPANT, LONGEST_SESSION = 64, 32


def check_folders(settings: Settings) -> None:
    """Check that input and output folders can be what the command line says they are.

    The participant level's are made where they do not exist; the group level makes none, and
    nothing is written where a run only prints.

    Raises
    ------
    UsageError
        If the input is no BIDS dataset, or the output lies where it must not or cannot be written.
    StorageError
        If there is no room for the output.
    """
    source, target = settings.bids_dir, settings.output_dir
    if not source.is_dir():
        raise UsageError(f'{source}: no such folder. Give the root of a BIDS dataset.')
    if 'participant' in settings.levels and not any(map(Path.is_dir, source.glob('sub-*'))):
        raise UsageError(
            f'{source}: holds no sub-* folder, so it is not the root of a BIDS dataset. '
            'Give the folder that holds dataset_description.json and the sub-* folders.'
        )
    for folder in (source, target, settings.work_path):
        if printable(str(folder)) != str(folder):
            raise UsageError(
                f'{printable(str(folder))}: the path has characters that {_unprintable(folder)}'
            )
    for name, folder in (('output', target), ('work', settings.work_path)):
        if _is_among_input(folder, source):
            raise UsageError(
                f'{folder}: the {name} folder lies inside the input dataset. Choose a folder '
                f'outside it, or {source / "derivatives" / "msapp"}.'
            )
    if settings.dry_run or settings.boilerplate_only:
        return
    if 'participant' in settings.levels or target.exists():
        _check_writable(target)
    if 'participant' in settings.levels:
        _check_writable(settings.work_path)


def _unprintable(folder: Path) -> str:
    """Say whether the folder's name or the locale is to blame, and what to do."""
    try:
        text = os.fsencode(folder).decode('utf-8')
    except UnicodeDecodeError:
        text = ''
    if text and printable(text) == text:
        return 'the locale has not. Set PYTHONUTF8=1, or LC_ALL=C.UTF-8.'
    return 'cannot be printed. Rename the folder.'


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
        full = storage_error(error, folder) if error.errno in NO_ROOM else None
        raise full or UsageError(
            f'{folder}: cannot be written ({error.strerror}). Choose another folder, or change '
            'its permissions; in a container, bind it without ":ro".'
        ) from error


def printable(text: str) -> str:
    r"""Return text with whatever cannot be printed or stored as UTF-8 written as an escape.

    Examples
    --------
    >>> printable('sub-\udcff\n ä')
    'sub-\\udcff\\n ä'
    """
    return ''.join(
        sign if sign.isprintable() else sign.encode('unicode_escape').decode() for sign in text
    )


def check_label(participant: str) -> None:
    """Check that a participant's folder has a name BIDS allows.

    Raises
    ------
    InputError
        If the label has other characters than letters and digits, or too many.
    """
    _check_label('participant', participant.removeprefix('sub-'), participant, LONGEST_PARTICIPANT)


def check_session_label(session: str) -> None:
    """Check that a session's folder has a name BIDS allows; see :func:`check_label`."""
    _check_label('session', session.removeprefix('ses-'), session, LONGEST_SESSION)


def _check_label(kind: str, label: str, name: str, longest: int) -> None:
    name, shown = printable(name), printable(label)
    if not LABEL.fullmatch(label):
        raise InputError(
            f'{name}: a {kind} label may hold only letters and digits, got '
            f'"{shown}". Rename the folder and its files.'
        )
    if len(label) > longest:
        raise InputError(
            f'{name}: a {kind} label may have at most {longest} characters, got {len(label)}: '
            'names of results would be too long. Rename the folder and its files.'
        )


def check_image(path: Path) -> nib.spatialimages.SpatialImage:
    """Read an image whole and check that it is one finite 3-D volume of a plausible size.

    The header is checked first, so that no more memory is used than a scan of a head needs.

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
    image = open_image(path)
    with readable():
        sizes = header_voxel_sizes(raw_header(path))
    if not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise InputError(
            f'the voxel size is {by(sizes)} mm; each must be above 0. Convert the image anew '
            'from DICOM, or mend the header.'
        )
    _check_shape(image.shape)
    _check_geometry(image)
    dtype = image.get_data_dtype()
    if not np.issubdtype(dtype, np.number) or np.issubdtype(dtype, np.complexfloating):
        raise InputError(
            f'voxels of type {dtype} cannot be used; one real number is needed. Convert the image '
            'anew, or remove it.'
        )
    check_length(path, image)
    _check_values(image)
    return nib.squeeze_image(image) if len(image.shape) > 3 else image


def check_mask(path: Path, image: nib.spatialimages.SpatialImage) -> None:
    """Read a mask whole and check that it is one volume that marks something in an image.

    Parameters
    ----------
    path : Path
        A NIfTI file; voxels above 0 are in the mask.
    image : nibabel image
        Of the same world, on any grid.

    Raises
    ------
    InputError
        As `check_image`.
    """
    mask = open_image(path)
    shape = np.array(mask.shape)
    if len(shape) < 3 or math.prod(shape[3:]) != 1:
        raise InputError(
            f'the mask has {by(shape)} voxels; one 3-D volume is needed. Make it anew, or remove '
            'it.'
        )
    check_length(path, mask)
    with readable():
        marked = np.flatnonzero(np.asanyarray(mask.dataobj) > 0)
    if not len(marked):
        raise InputError('the mask is empty: no voxel is above 0. Make it anew, or remove it.')
    some = marked[:: 1 + len(marked) // ENOUGH_VOXELS]
    voxels = np.stack(np.unravel_index(some, tuple(shape[:3])), axis=1)
    with np.errstate(invalid='ignore'):
        to_image = np.linalg.inv(image.affine) @ mask.affine
        places = nib.affines.apply_affine(to_image, voxels).round()
    within = ((places >= 0) & (places < image.shape[:3])).all(axis=1)
    if not within.any() or not np.linalg.det(to_image[:3, :3]):
        raise InputError(
            'the mask lies outside the image it is for: their headers (qform, sform) disagree. '
            'Make it anew on that image, or remove it.'
        )


def _check_shape(shape: tuple[int, ...]) -> None:
    """Check that there is one volume of as many voxels as a scan of a head may have."""
    volumes = math.prod(shape[3:])
    if volumes != 1:
        raise InputError(
            f'{volumes} volumes found, one is needed. Name a 3-D image with --bids-filter-file, '
            'or average the volumes.'
        )
    if len(shape) < 3 or min(shape[:3]) < MINIMUM_VOXELS:
        raise InputError(
            f'the image has {by(np.array(shape))} voxels; at least {MINIMUM_VOXELS} are '
            'needed along each axis. A localizer or a single slice cannot be used; name another '
            'image with --bids-filter-file, or remove it.'
        )
    if math.prod(shape) > MAXIMUM_VOXELS:
        raise InputError(
            f'the image has {by(np.array(shape))} voxels, more than {MAXIMUM_VOXELS / 1e6:.0f} '
            'million: its header is damaged, or it must be resampled to larger voxels first.'
        )


def _check_values(image: nib.Nifti1Image) -> None:
    """Read all voxels, as the 32-bit numbers they are computed with, and check them."""
    with readable(), np.errstate(over='ignore', invalid='ignore'):
        data = np.asanyarray(image.dataobj, dtype=np.float32)
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise InputError(
            f'{bad} voxels are NaN or infinite. Replace them (with 0 outside the head) or '
            'convert the image anew; beyond 3e38 counts as infinite.'
        )
    if data.max() <= 0 or data.max() == data.min():
        raise InputError(
            'the image is empty: all voxels are equal or not above 0. Convert it anew, or remove '
            'it.'
        )
    below = float((data < -RINGING * data.max()).mean())
    if below > MOST_BELOW_ZERO:
        raise InputError(
            f'{100 * below:.0f} % of the voxels are below 0: the intensities were shifted or '
            'standardised (z-scores). Give the image as the scanner made it.'
        )


@np.errstate(over='ignore', invalid='ignore')
def _check_geometry(image: nib.Nifti1Image) -> None:
    """Check that the affine is finite, invertible, and spans something the size of a brain."""
    affine = image.affine
    volume = float(abs(np.linalg.det(affine[:3, :3]))) if np.all(np.isfinite(affine)) else 0.0
    if not volume > SMALLEST_SINE * np.prod(nib.affines.voxel_sizes(affine)):
        raise InputError(
            'the orientation in the header (qform, sform) is broken: its matrix cannot be '
            'inverted. Convert the image anew from DICOM.'
        )
    if is_mirrored(image.header):
        raise InputError(
            'the two orientations in the header (qform, sform) disagree about which side is left. '
            'Convert the image anew from DICOM, or set qform_code to 0 if the sform is right.'
        )
    extent = nib.affines.voxel_sizes(affine) * np.asarray(image.shape[:3])
    if extent.min() < MINIMUM_EXTENT_MM or extent.max() > MAXIMUM_EXTENT_MM:
        kind = NoBrainError if extent.max() <= MAXIMUM_EXTENT_MM else InputError
        raise kind(
            f'the field of view is {by(extent)} mm; a brain needs {MINIMUM_EXTENT_MM:.0f} to '
            f'{MAXIMUM_EXTENT_MM:.0f} mm. Check the voxel size in the header, if it is an image of '
            'the brain.'
        )
    if extent.min() > WIDEST_HEAD_MM:
        raise InputError(
            f'the field of view is {by(extent)} mm; no side of it is under {WIDEST_HEAD_MM:.0f} mm '
            'as for a head. Check the voxel size in the header.'
        )
    centre = nib.affines.apply_affine(affine, np.asarray(image.shape[:3]) / 2)
    if np.abs(centre).max() > FARTHEST_MM:
        raise InputError(
            f'the header puts the image {np.abs(centre).max() / 1000:.0f} m away from the origin, '
            'so its orientation (qform, sform) is broken. Convert the image anew from DICOM.'
        )
