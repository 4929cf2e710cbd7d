"""Pairs of files to compare: which belong together, and whether their grids agree."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from msapp.errors import InputError, UsageError
from msapp.evaluation.voxel import Spacing
from msapp.imaging.geometry import corner_voxels, same_grid, spacing_mm

SUFFIXES = ('.nii.gz', '.nii')
ENTITIES = re.compile(r'(?:^|[_/])(sub|ses)-([a-zA-Z0-9]+)')
# Headers that differ by less are taken for the same grid: the Ljubljana masks, for one, are
# shifted by up to 0.4 mm against their images although the voxels correspond.
LARGEST_SHIFT_VOXELS = 0.5
# How far a saved whole number may be from whole, after the scaling of NIfTI.
WHOLE = 1e-3

# What reading a damaged file raises.
BROKEN = (
    OSError,
    ValueError,
    EOFError,
    zlib.error,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
)

Key = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One prediction and its truth: two files, and a name for tables."""

    name: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class Matches:
    """What two folders have in common, and what only one of them has."""

    cases: tuple[Case, ...]
    only_predicted: tuple[Path, ...]
    only_truth: tuple[Path, ...]


@dataclass(frozen=True)
class Images:
    """The voxels of a case, on one grid.

    Attributes
    ----------
    prediction : (I, J, K) ndarray
        As saved.
    truth : (I, J, K) ndarray of int
    spacing_mm : tuple of float
        Voxel size of the truth, mm.
    warning : str
        What a user should know; empty if nothing.
    """

    prediction: np.ndarray
    truth: np.ndarray
    spacing_mm: Spacing
    warning: str


def stem_of(path: Path) -> str:
    """Return a file's name without ``.nii.gz`` or ``.nii``."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.name


def visit_of(path: Path) -> Key | None:
    """Return the participant and session labels of a file, from its name or its folders.

    Examples
    --------
    >>> visit_of(Path('sub-01/ses-2/anat/sub-01_ses-2_label-L_mask.nii.gz'))
    ('01', '2')
    >>> visit_of(Path('sub-01_mask.nii')), visit_of(Path('mask.nii'))
    (('01', ''), None)
    """
    # The name comes last, so it outweighs the folders.
    found = dict(ENTITIES.findall(path.as_posix()))
    return (found['sub'], found.get('ses', '')) if 'sub' in found else None


def name_visit(visit: Key) -> str:
    """Return ``sub-X_ses-Y``, or ``sub-X`` without sessions."""
    return '_'.join(
        f'{key}-{label}' for key, label in zip(('sub', 'ses'), visit, strict=True) if label
    )


def find_cases(
    prediction: Path, truth: Path, *, prediction_glob: str = '*', truth_glob: str = '*'
) -> Matches:
    """Pair two files, or the files of two folders.

    In folders, files belong together that have the same path below the folder; else the same
    name; else the same participant and session. Name and visit count where each folder has one
    such file, paired or not, and files that are known to be of two visits are never paired.

    Parameters
    ----------
    prediction, truth : Path
        Two NIfTI files or two folders.
    prediction_glob, truth_glob : str
        Which names count in folders, for example ``*_label-L_mask.nii.gz``.

    Returns
    -------
    Matches
        Sorted by name.

    Raises
    ------
    UsageError
        If something is missing, the two are one, nothing matches, or a visit has several files.
    """
    for path in (prediction, truth):
        if not path.exists():
            raise UsageError(f'{path}: no such file or folder.')
    if prediction.resolve() == truth.resolve():
        raise UsageError(f'{prediction}: prediction and truth are the same.')
    if prediction.is_dir() != truth.is_dir():
        raise UsageError(f'{prediction} and {truth}: give two files or two folders.')
    if not prediction.is_dir():
        return Matches((Case(stem_of(prediction), prediction, truth),), (), ())
    predicted = _list_images(prediction, prediction_glob)
    true = _list_images(truth, truth_glob)
    pairs: dict[Path, Path] = {}
    keys: list[Callable[[Path], Key | None]] = [
        lambda path: (*path.parent.parts, stem_of(path)),
        lambda path: (stem_of(path),),
        visit_of,
    ]
    for key in keys:
        taken = set(pairs.values())
        pairs |= {
            first: second
            for first, second in _match(predicted, true, key)
            if first not in pairs and second not in taken and _may_be_one_visit(first, second)
        }
    taken = set(pairs.values())
    left = [path for path in predicted if path not in pairs]
    right = [path for path in true if path not in taken]
    _check_left(left, right, prediction, truth, pairs)
    return Matches(
        cases=_name([*pairs.items()], prediction, truth),
        only_predicted=tuple(prediction / path for path in left),
        only_truth=tuple(truth / path for path in right),
    )


def _list_images(folder: Path, glob: str) -> list[Path]:
    """Return the NIfTI files below a folder, relative to it, sorted; nothing hidden.

    Links without their file are listed, so that they are named; datalad's objects are hidden.
    """
    found = (path for path in folder.rglob(glob) if path.name.endswith(SUFFIXES))
    inside = (path.relative_to(folder) for path in found if not path.is_dir())
    return sorted(path for path in inside if not any(part[0] == '.' for part in path.parts))


def _group(paths: Sequence[Path], key: Callable[[Path], Key | None]) -> dict[Key, list[Path]]:
    """Sort files by a key; those without one are left out."""
    groups: dict[Key, list[Path]] = defaultdict(list)
    for path in paths:
        value = key(path)
        if value is not None:
            groups[value].append(path)
    return groups


def _match(
    left: Sequence[Path], right: Sequence[Path], key: Callable[[Path], Key | None]
) -> list[tuple[Path, Path]]:
    """Pair the files that are alone with their key on both sides."""
    first, second = _group(left, key), _group(right, key)
    return [
        (first[value][0], second[value][0])
        for value in first
        if len(first[value]) == len(second.get(value, ())) == 1
    ]


def _may_be_one_visit(first: Path, second: Path) -> bool:
    """Tell whether the labels of two files agree or, where one has none, their folders."""
    visits = visit_of(first), visit_of(second)
    if None not in visits:
        return visits[0] == visits[1]
    return first.parent == second.parent or Path() in (first.parent, second.parent)


def _check_left(
    left: Sequence[Path],
    right: Sequence[Path],
    prediction: Path,
    truth: Path,
    pairs: Mapping[Path, Path],
) -> None:
    """Refuse folders without a pair, and visits without one where the choice is open."""
    options = '--prediction-files and --truth-files'
    first, second = _group(left, visit_of), _group(right, visit_of)
    paired = {visit_of(path) for pair in pairs.items() for path in pair}
    for visit in sorted((first.keys() & second.keys()) - paired):
        raise UsageError(
            f'{name_visit(visit)}: several files of one visit, '
            f'{", ".join(path.name for path in [*first[visit], *second[visit]])}. '
            f'Choose one a visit with {options}.'
        )
    if not pairs:
        raise UsageError(
            f'{prediction} ({len(left)} images) and {truth} ({len(right)} images): no file of one '
            'has the path, the name (once in each folder, and not in sub-folders that differ), or '
            'the participant and session of a file of the other. '
            f'Choose files with {options}.'
        )


def _name(pairs: Sequence[tuple[Path, Path]], prediction: Path, truth: Path) -> tuple[Case, ...]:
    """Name cases ``sub-X_ses-Y`` where that is enough to tell them apart, else by their path."""
    visits = _group([first for first, _ in pairs], visit_of)
    cases = []
    for first, second in sorted(pairs):
        visit = visit_of(first)
        if visit is not None and len(visits[visit]) == 1:
            name = name_visit(visit)
        else:
            name = (first.parent / stem_of(first)).as_posix()
        cases.append(Case(name, prediction / first, truth / second))
    return tuple(cases)


def load_case(case: Case) -> Images:
    """Read the two images of a case and check that their voxels correspond.

    Returns
    -------
    Images

    Raises
    ------
    InputError
        If a file cannot be read, is no 3-D image, holds NaN, the truth holds fractions or has no
        voxel size, or the grids differ: in shape, or by half a voxel or more at some corner.
    """
    (predicted, first), (true, second) = _load(case.prediction), _load(case.truth)
    warning = _compare_grids(case, predicted, true)
    if not np.allclose(second, np.rint(second), rtol=0, atol=WHOLE):
        raise InputError(
            f'{case.truth}: holds fractions; a truth is a mask or labels. Threshold it first, or '
            'exchange the two if this is the prediction.'
        )
    spacing = spacing_mm(true)
    if not min(spacing) > 0:
        raise InputError(f'{case.truth}: the header gives voxels of {spacing} mm.')
    return Images(first, np.rint(second).astype(np.int32), spacing, warning)


def _load(path: Path) -> tuple[nib.spatialimages.SpatialImage, np.ndarray]:
    """Read one 3-D image; further axes of length 1 are dropped."""
    try:
        image = nib.load(path)
        if not isinstance(image, nib.spatialimages.SpatialImage):
            raise InputError(f'{path}: is no image of voxels ({type(image).__name__}).')
        data = np.asanyarray(image.dataobj)
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file.') from error
    except BROKEN as error:
        raise InputError(f'{path}: cannot be read as an image ({error}).') from error
    if data.ndim < 3 or any(size != 1 for size in data.shape[3:]):
        raise InputError(f'{path}: an image of shape {data.shape} was found, a 3-D one is needed.')
    data = data.reshape(data.shape[:3])
    if data.dtype.kind not in 'biuf':
        raise InputError(f'{path}: holds {data.dtype}, no plain numbers. Convert it to a mask.')
    if not np.isfinite(data).all():
        raise InputError(f'{path}: holds values that are not finite (NaN or infinity).')
    return image, data


def _compare_grids(
    case: Case, predicted: nib.spatialimages.SpatialImage, true: nib.spatialimages.SpatialImage
) -> str:
    """Return a warning for headers that differ a little; refuse those that differ more."""
    shapes = predicted.shape[:3], true.shape[:3]
    both = f'{case.prediction} and {case.truth}'
    if shapes[0] != shapes[1]:
        raise InputError(
            f'{both}: shapes {shapes[0]} and {shapes[1]} differ. Resample the prediction onto '
            "the truth's grid."
        )
    if same_grid(predicted, true):
        return ''
    shift = grid_shift_voxels(predicted.affine, true.affine, shapes[1])
    if not shift < LARGEST_SHIFT_VOXELS:
        raise InputError(
            f'{both}: the shapes agree but the headers place voxels up to {shift:.2g} voxels '
            "apart (another orientation or position). Resample the prediction onto the truth's "
            'grid.'
        )
    return (
        f'{both}: the headers place voxels up to {shift:.2g} voxels apart; voxels are compared '
        'one by one, with the voxel size of the truth.'
    )


def grid_shift_voxels(first: np.ndarray, second: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far two headers place the same voxel apart, at most, in voxels of the second.

    Parameters
    ----------
    first, second : (4, 4) ndarray
        Voxel indices to world, mm.
    shape : sequence of int
        The shape that both grids have.

    Returns
    -------
    float
        Largest of the eight corners, along the axis where it is largest; infinite if the second
        matrix cannot be inverted.

    Examples
    --------
    >>> moved = np.diag([2.0, 2, 2, 1]); moved[0, 3] = 0.5
    >>> grid_shift_voxels(moved, np.diag([2.0, 2, 2, 1]), (9, 9, 9))
    0.25
    """
    corners = corner_voxels(shape)
    try:
        matrix = np.linalg.inv(second) @ first
    except np.linalg.LinAlgError:
        return float('inf')
    moved = nib.affines.apply_affine(matrix, corners)
    return float(np.abs(moved - corners).max())
