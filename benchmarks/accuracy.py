"""Brain masks, midpoint and candidates against the manual work of `ljubljana-longitudinal`.

    msapp DATA/ljubljana-longitudinal OUT participant
    python benchmarks/accuracy.py DATA/ljubljana-longitudinal OUT

The transforms and masks are those of the source (Lesjak et al., Neuroinformatics 2016). Nothing
is printed without its n.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from msapp.evaluation.voxel import dice
from msapp.imaging import geometry
from msapp.lesions.candidates import find_candidates
from msapp.lesions.instances import FACES

# Its manual brain mask is too large (see the README of the data).
WRONG_MASK = ('sub-ljub19',)


class Case:
    """The files of one participant."""

    def __init__(self, bids: Path, out: Path, participant: str) -> None:
        self.participant = participant
        self.manual = bids / 'derivatives' / 'manual' / participant
        self.out = out / participant
        self.sessions = sorted(path.name for path in (bids / participant).glob('ses-*'))

    def load(self, root: Path, session: str | None, name: str) -> nib.Nifti1Image | None:
        """Load an image of one visit (or of the participant); None where there is none."""
        stem = '_'.join(filter(None, (self.participant, session)))
        path = root / (session or '') / 'anat' / f'{stem}_{name}.nii.gz'
        return nib.load(path) if path.exists() else None

    def transform(self, root: Path, session: str, name: str) -> np.ndarray:
        """Load a transform of one visit."""
        stem = f'{self.participant}_{session}_{name}_mode-image_xfm.txt'
        return geometry.load_transform(root / session / 'anat' / stem)


def brain_rows(case: Case) -> list[dict[str, object]]:
    """Compare the brain masks in the FLAIR's own grid."""
    rows = []
    for session in case.sessions:
        manual = case.load(case.manual, session, 'space-FLAIR_desc-brain_mask')
        ours = case.load(case.out, session, 'space-orig_desc-brain_mask')
        if manual is None or ours is None:
            continue
        a, b = (np.asanyarray(image.dataobj) > 0 for image in (ours, manual))
        ml = geometry.voxel_volume_mm3(manual) / 1000
        rows.append(
            {
                'participant': case.participant,
                'session': session,
                'dice': dice(a, b),
                'ours_ml': a.sum() * ml,
                'manual_ml': b.sum() * ml,
                'usable': case.participant not in WRONG_MASK,
            }
        )
    return rows


def pair_row(case: Case) -> dict[str, object]:
    """Compare the midpoint with the source's transforms, and count candidates."""
    first, second = case.sessions
    ours = [case.transform(case.out, name, 'from-orig_to-individual') for name in case.sessions]
    theirs = [case.transform(case.manual, name, 'from-FLAIR_to-common') for name in case.sessions]
    masks = [
        case.load(case.out, name, 'space-individual_desc-brain_mask') for name in case.sessions
    ]
    both = np.logical_and(*(np.asanyarray(mask.dataobj) > 0 for mask in masks))
    points = geometry.mask_points_mm(geometry.like(both, masks[0]))
    points = nib.affines.apply_affine(ours[0], points)
    distance = geometry.displacement_mm(
        ours[1] @ np.linalg.inv(ours[0]), theirs[1] @ np.linalg.inv(theirs[0]), points
    )
    since = first.removeprefix('ses-')
    table = case.out / second / 'anat' / f'{case.participant}_{second}_desc-summary_stats.tsv'
    summary = pd.read_csv(table, sep='\t').iloc[0]
    labels = case.load(case.out, second, f'space-individual_desc-candidatessince{since}_dseg')
    truth, number = true_lesions(case, labels, ours[1], theirs[1])
    return {
        'participant': case.participant,
        'mean_mm': distance.mean(),
        'p95_mm': np.percentile(distance, 95),
        'correlation': summary['visit_correlation'],
        'residual_mm': summary['visit_motion_mm'],
        **counts(np.asanyarray(labels.dataobj), truth, number),
        **without_levels(case, both, truth, number),
    }


def true_lesions(
    case: Case, grid: nib.Nifti1Image, ours: np.ndarray, theirs: np.ndarray
) -> tuple[np.ndarray, int]:
    """Bring the parts of the change mask that became brighter, numbered, to our space.

    Returns their number in the source, too: a small one may have no voxel here.
    """
    mask = case.load(case.manual, None, 'space-common_label-change_desc-increase_mask')
    numbers, number = ndimage.label(np.asanyarray(mask.dataobj) > 0, structure=FACES)
    image = nib.Nifti1Image(numbers.astype(np.float32), mask.affine)
    moved = geometry.resample(image, grid, np.linalg.inv(theirs) @ ours, order=0)
    return moved.astype(int), number


def counts(labels: np.ndarray, truth: np.ndarray, number: int) -> dict[str, object]:
    """Count the true lesions that candidates touch, of the number that there is."""
    touched = set(np.unique(truth[labels > 0])) - {0}
    return {
        'candidates': int(labels.max()),
        'lesions': f'{len(touched)}/{number}',
        'voxel_recall': (labels > 0)[truth > 0].mean(),
    }


def without_levels(
    case: Case, both: np.ndarray, truth: np.ndarray, number: int
) -> dict[str, object]:
    """Count again without grey levels, on the saved images (rigid, not affine)."""
    images = [
        case.load(case.out, name, 'space-individual_desc-preproc_FLAIR') for name in case.sessions
    ]
    before, after = (np.asanyarray(image.dataobj, dtype=np.float32) for image in images)
    found = find_candidates(before, after, both, geometry.spacing_mm(images[0]), levels=None)
    result = counts(found.labels, truth, number)
    return {f'{name}_no_levels': value for name, value in result.items()}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('output_dir', type=Path)
    given = parser.parse_args()
    cases = [
        Case(given.bids_dir, given.output_dir, path.name)
        for path in sorted(given.bids_dir.glob('sub-*'))
        if (given.output_dir / path.name).is_dir()
    ]
    brains = pd.DataFrame([row for case in cases for row in brain_rows(case)])
    print(brains.round(3).to_string(index=False))
    usable = brains[brains['usable']]
    print(
        f'brain mask Dice: mean {usable["dice"].mean():.3f}, lowest {usable["dice"].min():.3f}, '
        f'n = {len(usable)} visits of {usable["participant"].nunique()} patients\n'
    )
    pairs = pd.DataFrame([pair_row(case) for case in cases if len(case.sessions) == 2])
    print(pairs.round(3).T.to_string(header=False))
    print(f'n = {len(pairs)} pairs of visits')


if __name__ == '__main__':
    main()
