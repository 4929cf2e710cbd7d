"""Compare two msapp output folders: same files, same images, same tables.

``python compare.py HOST CONTAINER`` prints what differs and exits 1 where anything does. Run
records (``logs/``) and intermediate files (``work/``) are left out; of reports and JSON files only
the presence counts, since they hold paths and dates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

# A voxel of a mask or label image that changes differs by at least 1; intensities are of order 1
# to 1000. Two runs on one machine are expected to be identical; other CPUs round differently.
TOLERANCE = 1e-3
LEFT_OUT = ('logs', 'work')


def list_files(root: Path) -> set[str]:
    """Return the files below a folder, relative to it, without run records and work files.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: no such folder')
    paths = (path.relative_to(root) for path in root.rglob('*') if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] not in LEFT_OUT}


def image_difference(first: Path, second: Path, tolerance: float) -> str | None:
    """Return how two images differ, or None.

    Parameters
    ----------
    first, second : Path
        NIfTI files.
    tolerance : float
        Largest allowed absolute difference of a voxel, in the images' own unit, and of an element
        of the affine, mm.
    """
    one, two = nib.load(first), nib.load(second)
    if one.shape != two.shape:
        return f'shape {one.shape} and {two.shape}'
    if not np.allclose(one.affine, two.affine, rtol=0, atol=tolerance):
        return 'different affines'
    a, b = np.asanyarray(one.dataobj, float), np.asanyarray(two.dataobj, float)
    if (np.isfinite(a) != np.isfinite(b)).any():
        return 'not finite in different voxels'
    difference = np.abs(np.nan_to_num(a) - np.nan_to_num(b))
    worst = float(difference.max(initial=0.0))
    if worst <= tolerance:
        return None
    where = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    count = int((difference > tolerance).sum())
    return f'{count} voxels differ, most at {where}: {a[where]:g} and {b[where]:g}'


def table_difference(first: Path, second: Path, tolerance: float) -> str | None:
    """Return how two tables (TSV) differ, or None; numbers may differ by the tolerance."""
    one, two = (pd.read_csv(path, sep='\t') for path in (first, second))
    try:
        pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=tolerance, atol=tolerance)
    except AssertionError as error:
        return ' '.join(str(error).split())
    return None


def differences(first: Path, second: Path, tolerance: float = TOLERANCE) -> Iterator[str]:
    """Yield one line for everything in which two output folders differ.

    Parameters
    ----------
    first, second : Path
        Output folders of msapp.
    tolerance : float
        For images see `image_difference`; for numbers in tables absolute and relative.
    """
    names, others = list_files(first), list_files(second)
    yield from (f'{name}: only in {first}' for name in sorted(names - others))
    yield from (f'{name}: only in {second}' for name in sorted(others - names))
    for name in sorted(names & others):
        problem = None
        if name.endswith(('.nii', '.nii.gz')):
            problem = image_difference(first / name, second / name, tolerance)
        elif name.endswith('.tsv'):
            problem = table_difference(first / name, second / name, tolerance)
        if problem:
            yield f'{name}: {problem}'


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two folders.

    Returns
    -------
    int
        0 if they agree, 1 if they differ or hold no image.
    """
    parser = argparse.ArgumentParser(description='Compare two output folders of msapp.')
    parser.add_argument('first', type=Path)
    parser.add_argument('second', type=Path)
    parser.add_argument('--tolerance', type=float, default=TOLERANCE, help='default: %(default)s')
    args = parser.parse_args(argv)
    found = list(differences(args.first, args.second, args.tolerance))
    files = list_files(args.first)
    images = sum(name.endswith(('.nii', '.nii.gz')) for name in files)
    if not images:
        found.append(f'{args.first}: holds no image, so nothing was compared')
    sys.stdout.writelines(f'{line}\n' for line in found)
    verdict = f'{len(found)} differences' if found else 'no difference'
    sys.stdout.write(
        f'{len(files)} files, {images} images, tolerance {args.tolerance:g}: {verdict}\n'
    )
    return 1 if found else 0


if __name__ == '__main__':
    sys.exit(main())
