"""Brain masks that other programs made, found in the datasets of ``--derivatives``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msapp.bids.checks import check_mask, printable
from msapp.bids.nifti import open_image
from msapp.errors import InputError, UsageError
from msapp.imaging.geometry import SAME_GRID_MM, same_grid

if TYPE_CHECKING:
    from msapp.bids.query import Participant, Visit

# How far rounding puts a grid off that has a qform alone.
QFORM_MM = 0.4


def check_derivatives(derivatives: Iterable[Path]) -> None:
    """Refuse datasets of ``--derivatives`` that do not exist.

    Raises
    ------
    UsageError
        If a folder does not exist.
    """
    for root in derivatives:
        if not root.is_dir():
            raise UsageError(f'--derivatives {printable(str(root))}: no such folder.')


def find_given_masks(
    participants: Iterable[Participant], derivatives: Iterable[Path]
) -> dict[tuple[str, str | None], Path]:
    """Find brain masks in other derivative datasets, by participant and session.

    Raises
    ------
    UsageError
        If a folder does not exist.
    InputError
        As :func:`find_given_mask`.
    """
    roots = list(derivatives)
    check_derivatives(roots)
    found = {}
    for participant in participants:
        for visit in participant.visits:
            mask, _ = find_given_mask(participant.label, visit, roots)
            if mask is not None:
                found[participant.label, visit.session] = mask
    return found


def find_given_mask(
    label: str, visit: Visit, derivatives: Iterable[Path]
) -> tuple[Path | None, list[str]]:
    """Find the brain mask of one visit in other derivative datasets.

    Parameters
    ----------
    label : str
        Of the participant (``sub-01``).
    visit : Visit
    derivatives : iterable of Path
        Datasets, the first with a mask counts. Masks are named ``..._desc-brain_mask`` and lie
        in ``orig``, in the reference contrast's space, or name no space and have its grid.

    Returns
    -------
    mask : Path or None
    left_out : list of str
        Sentences: which mask is not used, and that none is where some were asked for.

    Raises
    ------
    InputError
        If a mask cannot be opened; `check_given_mask` looks at its voxels.
    """
    roots, left_out = list(derivatives), list[str]()
    image = visit.images[visit.reference]
    stem = '_'.join(filter(None, (label, visit.session)))
    for root in roots:
        for space in ('_space-orig', f'_space-{visit.reference}', ''):
            name = f'{stem}{space}_desc-brain_mask.nii.gz'
            path = root / label / (visit.session or '') / 'anat' / name
            if not os.path.lexists(path):  # a broken link is named, not passed over
                continue
            with _named(label, visit, path):
                mask = open_image(path)
            # As fMRIPrep writes it, it belongs to the T1w, whose world may be another.
            allowed_mm = SAME_GRID_MM if mask.header['sform_code'] else QFORM_MM
            if space or same_grid(mask, open_image(image), allowed_mm):
                return path, left_out
            left_out.append(
                f'{name}: not used, for it names no space and its grid is not that of '
                f'{image.name}. If it lies on that image, name it '
                f'{stem}_space-{visit.reference}_desc-brain_mask.nii.gz.'
            )
    if roots:
        left_out.append(
            f'Brain mask: none of --derivatives fits; the brain is found in {image.name}.'
        )
    return None, left_out


def check_given_mask(label: str, visit: Visit, path: Path) -> None:
    """Check that the mask that was found for a visit can be used.

    Raises
    ------
    InputError
        If it cannot be read whole, is empty, holds several volumes, or lies outside the image.
    """
    with _named(label, visit, path):
        check_mask(path, open_image(visit.images[visit.reference]))


@contextmanager
def _named(label: str, visit: Visit, path: Path) -> Iterator[None]:
    """Say in errors whose mask it is, and where."""
    try:
        yield
    except InputError as error:
        where = ' '.join(filter(None, (label, visit.session, 'brain mask of --derivatives')))
        raise InputError(f'{where}: {error} File: {printable(str(path))}') from error
