"""N4 at several resolutions: its CPU time and how even it leaves certain white matter.

    msapp BIDS OUT participant
    python benchmarks/bias.py BIDS OUT/work --participant-label ljub01 --session-label 1

Evenness is the robust standard deviation over the median (lower is better).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel as nib

from msapp.imaging import geometry, intensity
from msapp.workflows.base import WORKFLOW_NAME

SETTINGS = (
    (3.0, (50, 50, 50, 50)),
    (4.0, (20, 20, 10, 5)),
    (6.0, (50, 50, 50, 50)),
    (6.0, (50, 50, 30)),
    (8.0, (50, 50, 50, 50)),
    (8.0, (50, 50, 30)),
)


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--participant-label', required=True)
    parser.add_argument('--session-label', required=True)
    parser.add_argument('--contrast', default='FLAIR')
    given = parser.parse_args()
    participant, session = f'sub-{given.participant_label}', f'ses-{given.session_label}'
    folder = given.bids_dir / participant / session / 'anat'
    image = nib.load(folder / f'{participant}_{session}_{given.contrast}.nii.gz')
    fit = given.work_dir / WORKFLOW_NAME / f'sub_{given.participant_label}_wf'
    white = nib.load(fit / f'ses_{given.session_label}_fit_wf' / 'brain_extraction' / 'wm.nii.gz')
    inside = geometry.resample(white, image) > intensity.CERTAIN_WHITE_MATTER
    for voxel_mm, iterations in SETTINGS:
        start = time.process_time()
        corrected = intensity.correct_bias(image, iterations=iterations, voxel_mm=voxel_mm)
        cpu_s = time.process_time() - start
        values = intensity.robust_distribution(corrected.get_fdata()[inside])
        evenness = values.spread / values.centre
        print(f'{voxel_mm:g} mm {iterations}: CPU {cpu_s:.1f} s, evenness {evenness:.4f}')


if __name__ == '__main__':
    main()
