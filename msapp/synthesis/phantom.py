"""Writer of the phantom: a BIDS dataset of synthetic patients, and its truth as a derivative."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from msapp import __version__
from msapp.errors import UsageError
from msapp.imaging.geometry import save_transform
from msapp.synthesis import contrast
from msapp.synthesis.anatomy import Anatomy, deform, template_head
from msapp.synthesis.artefacts import (
    Scan,
    add_rician_noise,
    bias_field,
    plan_scans,
    smooth_field,
)
from msapp.synthesis.lesions import (
    Lesion,
    Patch,
    fullest_voxels,
    paint_visit,
    plan_lesions,
    sample_patch,
)

logger = logging.getLogger(__name__)

Variant = Literal['mixed', 'thick', 'iso']
TRUTH = Path('derivatives', 'truth')
BIDS_VERSION = '1.10.0'
# Scanner units of the brightest tissue; noise then spans tens of grey levels.
INTENSITY_SCALE = 1000
COMPRESSION_LEVEL = 3
FIRST_VISIT = datetime(2024, 1, 15, 9, 0)

# Acquisition parameters that the sidecars report; times in seconds, typical of 3 T.
SEQUENCES: dict[str, dict[str, Any]] = {
    'FLAIR': {'RepetitionTime': 9.0, 'EchoTime': 0.12, 'InversionTime': 2.5, 'FlipAngle': 150},
    'T1w': {'RepetitionTime': 2.3, 'EchoTime': 0.003, 'InversionTime': 0.9, 'FlipAngle': 9},
    'T2w': {'RepetitionTime': 5.0, 'EchoTime': 0.09, 'FlipAngle': 150},
    'ce-gadolinium_T1w': {
        'RepetitionTime': 2.3, 'EchoTime': 0.003, 'InversionTime': 0.9, 'FlipAngle': 9,
        'ContrastBolusIngredient': 'GADOLINIUM',
    },
}  # fmt: skip

LESION_COLUMNS: dict[str, Any] = {
    'zone': {'Description': 'Where the lesion started, by the zones of the McDonald criteria'},
    'volume_mm3': {'Description': 'True volume, before any sampling', 'Units': 'mm^3'},
    'mask_volume_mm3': {'Description': 'Volume of its voxels in the mask', 'Units': 'mm^3'},
    'x_mm': {'Description': 'Centre of mass in the world of this FLAIR, RAS', 'Units': 'mm'},
    'y_mm': {'Description': 'See x_mm', 'Units': 'mm'},
    'z_mm': {'Description': 'See x_mm', 'Units': 'mm'},
    'new': {'Description': '1 if it appeared since the visit before'},
    'enhancing': {'Description': '1 if it takes up gadolinium at this visit'},
}

README = """A phantom written by msapp-phantom {version} (seed {seed}): no person was scanned.

Heads are random deformations of the MNI152 tissue maps that come with nilearn, inside a drawn
skull, scalp, face and neck. Lesions, head movements, coil shading, noise and slice thickness are
simulated; derivatives/truth has the true lesions and movements. Intensities follow the order of
tissues in real images, not their physics. Use it to test software, never to judge or to train a
model for patients.
"""


def write_phantom(
    out: Path,
    *,
    participants: int = 2,
    sessions: int = 2,
    seed: int = 0,
    variant: Variant = 'mixed',
    fast: bool = False,
) -> None:
    """Write a dataset; the same arguments give the same files, bit by bit.

    Parameters
    ----------
    out : Path
        New or empty folder. Nothing appears in it before all is written.
    participants, sessions : int
        Number of each, at least 1.
    seed : int
        At least 0. A participant stays the same however many others are asked for.
    variant : {'mixed', 'thick', 'iso'}
        ``thick``: axial slices of about 0.9 x 0.9 x 4 mm; ``iso``: 1 mm; ``mixed``: in turns.
    fast : bool
        Anatomy and images of about 2 mm.

    Raises
    ------
    UsageError
        If ``out`` is a file or holds anything, or a number is out of range.
    """
    if participants < 1 or sessions < 1 or seed < 0:
        raise UsageError('--participants and --sessions must be at least 1, --seed at least 0.')
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UsageError(f'{out}: is a file. Name a new folder.')
    if out.exists() and any(out.iterdir()):
        raise UsageError(f'{out}: is not empty. Name a new folder, or empty this one first.')
    # An existing folder may be a mount point, which cannot be replaced: it is filled from inside.
    name = f'.{out.name}-{os.getpid()}.partial'
    partial = out / name if out.exists() else out.with_name(name)
    try:
        partial.mkdir(parents=True)
        fill_dataset(partial, participants, sessions, seed, variant, fast)
        publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    logger.info('%s: %d participants, %d visits each.', out, participants, sessions)


def publish(partial: Path, out: Path) -> None:
    """Move a finished dataset to its place; the description, which makes it BIDS, comes last."""
    if not out.exists():
        partial.replace(out)
        return
    for child in sorted(partial.iterdir(), key=lambda p: p.name == 'dataset_description.json'):
        child.replace(out / child.name)
    partial.rmdir()


def fill_dataset(
    root: Path, participants: int, sessions: int, seed: int, variant: Variant, fast: bool
) -> None:
    """Write everything into an existing folder; see :func:`write_phantom`."""
    template = template_head(2 if fast else 1)
    rows = []
    for number in range(1, participants + 1):
        rng = np.random.default_rng([seed, number])
        kind = ('thick', 'iso')[(number - 1) % 2] if variant == 'mixed' else variant
        rows.append(
            {
                'participant_id': f'sub-{number:02d}',
                'age': int(rng.integers(22, 60)),
                'sex': 'FM'[int(rng.integers(2))],
                'acquisition': kind,
            }
        )
        write_participant(root, f'{number:02d}', template, sessions, kind == 'thick', fast, rng)
        logger.info('sub-%02d: written (%s).', number, kind)
    write_tsv(root / 'participants.tsv', rows)
    write_json(
        root / 'participants.json',
        {
            'age': {'Description': 'Invented age at the first visit', 'Units': 'year'},
            'sex': {'Description': 'Invented sex', 'Levels': {'F': 'female', 'M': 'male'}},
            'acquisition': {
                'Description': 'Kind of images',
                'Levels': {'thick': 'axial slices of about 4 mm', 'iso': 'isotropic voxels'},
            },
        },
    )
    write_descriptions(root, seed)


def write_descriptions(root: Path, seed: int) -> None:
    """Write the descriptions of the dataset and of the truth."""
    generator = [{'Name': 'msapp-phantom', 'Version': __version__}]
    common = {'BIDSVersion': BIDS_VERSION, 'License': 'CC0', 'GeneratedBy': generator}
    raw = {'Name': 'msapp phantom', 'DatasetType': 'raw', 'Authors': ['msapp-phantom']}
    truth = {
        'Name': 'Truth of the msapp phantom',
        'DatasetType': 'derivative',
        'Authors': ['msapp-phantom'],
        'DatasetLinks': {'raw': '../..'},
    }
    text = README.format(version=__version__, seed=seed)
    for folder, description in ((root, raw), (root / TRUTH, truth)):
        write_json(folder / 'dataset_description.json', description | common)
        (folder / 'README').write_text(text, encoding='utf-8')
    (root / TRUTH / '.bidsignore').write_text('*_xfm.txt\n', encoding='utf-8')


def write_participant(
    root: Path,
    label: str,
    template: Anatomy,
    sessions: int,
    thick: bool,
    fast: bool,
    rng: np.random.Generator,
) -> None:
    """Draw one head and its lesions, and write every visit."""
    anatomy = draw_anatomy(template, rng)
    plan = plan_lesions(anatomy, sessions, rng)
    texture = 1 + 0.025 * smooth_field(anatomy.brain.shape, rng, order=24, decay=0.5)
    visits = [plan_scans(contrast.CONTRASTS, thick, fast, visit, rng) for visit in range(sessions)]
    date, rows = FIRST_VISIT + timedelta(days=int(rng.integers(300))), []
    for visit, scans in enumerate(visits):
        session = f'{visit + 1}'
        rows.append({'session_id': f'ses-{session}', 'acq_time': date.isoformat()})
        date += timedelta(days=int(rng.integers(90, 270)))
        patches = paint_visit(plan, visit, anatomy)
        prefix = f'sub-{label}/ses-{session}/anat/sub-{label}_ses-{session}'
        write_images(root / prefix, anatomy, texture, patches, scans, visit, rng)
        write_truth(root / TRUTH / prefix, anatomy, patches, scans['FLAIR'], visit)
        write_transforms(root / TRUTH / prefix, scans, visits[0]['FLAIR'], visit)
    write_tsv(root / f'sub-{label}' / f'sub-{label}_sessions.tsv', rows)


def draw_anatomy(template: Anatomy, rng: np.random.Generator) -> Anatomy:
    """Deform the template: up to a few per cent in size, about 2 mm smoothly in shape."""
    shape = template.brain.shape
    amplitude_mm = 2.0
    displacement = np.stack(
        [amplitude_mm * smooth_field(shape, rng, order=5, decay=1.5) for _ in range(3)]
    )
    scale = rng.uniform(0.96, 1.04) * rng.uniform(0.98, 1.02, 3)
    return deform(template, displacement, scale.tolist())


def write_images(
    prefix: Path,
    anatomy: Anatomy,
    texture: np.ndarray,
    patches: Sequence[tuple[Lesion, Patch]],
    scans: Mapping[str, Scan],
    visit: int,
    rng: np.random.Generator,
) -> None:
    """Render, acquire and write the images of one visit."""
    for name, scan in scans.items():
        signals = contrast.CONTRASTS[name]
        image = contrast.render(anatomy.tissues, signals) * texture
        for lesion, patch in patches:
            kind = contrast.ENHANCING if lesion.enhancing[visit] else contrast.LESION
            contrast.overlay(image[patch.slices], patch.share * lesion.contrast, signals[kind])
        image = scan.acquire(image, anatomy.affine)
        image *= bias_field(scan.shape, rng, strength=0.12)
        image = add_rician_noise(image, rng.uniform(0.012, 0.02), rng)
        path = prefix.with_name(f'{prefix.name}_{name}.nii.gz')
        levels = np.clip(np.rint(image * INTENSITY_SCALE), 0, np.iinfo(np.int16).max)
        write_image(path, levels.astype(np.int16), scan.affine)
        flat = scan.slice_mm > 3
        write_json(
            sidecar(path),
            {
                'Modality': 'MR',
                'Manufacturer': 'msapp-phantom',
                'MagneticFieldStrength': 3,
                'MRAcquisitionType': '2D' if flat else '3D',
                'SliceThickness': scan.slice_mm,
                'SpacingBetweenSlices': scan.slice_mm,
                **SEQUENCES[name],
            },
        )


def write_truth(
    prefix: Path,
    anatomy: Anatomy,
    patches: Sequence[tuple[Lesion, Patch]],
    scan: Scan,
    visit: int,
) -> None:
    """Write brain, lesions, new and enhancing lesions of one visit on its FLAIR grid.

    A lesion's mask has as many voxels as fit its volume, see ``lesions.fullest_voxels``.
    """
    brain = scan.acquire(anatomy.brain, anatomy.affine)
    labels, best = np.zeros(scan.shape, np.uint16), np.zeros(scan.shape, np.float32)
    for lesion, patch in patches:
        seen = sample_patch(patch, anatomy.affine, scan)
        if seen is not None:
            mine = fullest_voxels(seen.share) & (seen.share > best[seen.slices])
            labels[seen.slices][mine] = lesion.identifier
            best[seen.slices][mine] = seen.share[mine]
    new = [lesion.identifier for lesion, _ in patches if lesion.is_new(visit)]
    enhancing = [lesion.identifier for lesion, _ in patches if lesion.enhancing[visit]]
    masks = {
        'desc-brain_mask': (brain >= 0.5, 'Brain'),
        'label-L_mask': (labels > 0, 'Lesion'),
        'label-enhancing_mask': (np.isin(labels, enhancing), 'Lesion'),
        'desc-lesions_dseg': (labels, None),
    }
    if visit > 0:
        masks[f'label-new_desc-since{visit}_mask'] = (np.isin(labels, new), 'Lesion')
    source = f'bids:raw:{"/".join(prefix.parts[-4:])}_FLAIR.nii.gz'
    for name, (data, kind) in masks.items():
        path = prefix.with_name(f'{prefix.name}_space-orig_{name}.nii.gz')
        write_image(path, data.astype(np.uint8) if kind else data, scan.affine)
        fields = {'SpatialReference': source, 'Sources': [source]}
        write_json(sidecar(path), fields | ({'Type': kind} if kind else LESION_COLUMNS))
    write_lesion_table(prefix, anatomy, patches, labels, scan, visit)


def write_lesion_table(
    prefix: Path,
    anatomy: Anatomy,
    patches: Sequence[tuple[Lesion, Patch]],
    labels: np.ndarray,
    scan: Scan,
    visit: int,
) -> None:
    """List the lesions of one visit beside their label image."""
    voxel_mm3 = float(abs(np.linalg.det(scan.affine[:3, :3])))
    counts = np.bincount(labels.ravel(), minlength=len(patches) + 1)
    rows = []
    for lesion, patch in patches:
        centre = nib.affines.apply_affine(scan.pose, patch.centre_mm(anatomy.affine))
        rows.append(
            {
                'index': lesion.identifier,
                'name': f'lesion{lesion.identifier:02d}',
                'zone': lesion.zone,
                'volume_mm3': f'{lesion.volume_mm3[visit]:.2f}',
                'mask_volume_mm3': f'{counts[lesion.identifier] * voxel_mm3:.2f}',
                **{f'{axis}_mm': f'{mm:.2f}' for axis, mm in zip('xyz', centre, strict=True)},
                'new': int(lesion.is_new(visit)),
                'enhancing': int(lesion.enhancing[visit]),
            }
        )
    write_tsv(prefix.with_name(f'{prefix.name}_space-orig_desc-lesions_dseg.tsv'), rows)


def write_transforms(prefix: Path, scans: Mapping[str, Scan], first: Scan, visit: int) -> None:
    """Write the true movements between contrasts, and since the first visit, as ITK text."""
    flair = scans['FLAIR']
    for name, scan in scans.items():
        if name != 'FLAIR':
            entities, _, suffix = name.rpartition('_')
            stem = '_'.join(part for part in (prefix.name, entities, f'from-{suffix}') if part)
            path = prefix.with_name(f'{stem}_to-orig_mode-image_xfm.txt')
            save_transform(path, scan.pose @ flair.to_head)
    if visit > 0:
        path = prefix.with_name(f'{prefix.name}_from-orig_to-ses1_mode-image_xfm.txt')
        save_transform(path, flair.pose @ first.to_head)


def sidecar(path: Path) -> Path:
    """Return the JSON file beside an image."""
    return path.with_name(path.name.removesuffix('.nii.gz') + '.json')


def write_image(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    """Write NIfTI so that equal data give equal bytes: no name or time in the gzip header."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units('mm')
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), COMPRESSION_LEVEL, mtime=0))


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + '\n', encoding='utf-8')


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; the first row names the columns."""
    lines = ['\t'.join(rows[0]), *('\t'.join(str(v) for v in row.values()) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
