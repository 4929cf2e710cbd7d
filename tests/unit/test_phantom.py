"""Facts about the phantom: volumes, transforms, contrast, repeatability, valid BIDS."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msapp.cli.phantom import main
from msapp.errors import UsageError
from msapp.imaging.geometry import load_transform, resample_mask
from msapp.synthesis import anatomy, artefacts, contrast, lesions
from msapp.synthesis.phantom import write_phantom

VALIDATOR = Path(sys.executable).with_name('bids-validator-deno')


@pytest.fixture(scope='session')
def phantom(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('phantom') / 'data'
    write_phantom(out, participants=2, sessions=2, seed=0, fast=True)
    return out


@pytest.fixture(scope='session')
def head() -> anatomy.Anatomy:
    return anatomy.template_head(2)


def load(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image


def visit(root: Path, subject: str, session: int) -> tuple[str, Path, Path]:
    stem = f'sub-{subject}_ses-{session}'
    folder = Path(f'sub-{subject}', f'ses-{session}', 'anat')
    return stem, root / folder, root / 'derivatives' / 'truth' / folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream, delimiter='\t'))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


# --- Functions on arrays -----------------------------------------------------------------------


@pytest.mark.parametrize('diameter_mm', [3.0, 8.0, 15.0])
def test_sphere_has_the_volume_asked_for(diameter_mm):
    affine = nib.affines.from_matvec(np.eye(3), (-25, -25, -25))
    volume = lesions.sphere_volume_mm3(diameter_mm)
    patch = lesions.paint_blob(
        np.ones((51, 51, 51), np.float32), affine, (1.0, -2.0, 3.0), volume,
        np.random.default_rng(0), irregularity=0.0,
    )  # fmt: skip
    assert patch.share.sum() == pytest.approx(volume, rel=1e-3)
    assert patch.centre_mm(affine) == pytest.approx([1, -2, 3], abs=0.05)
    assert lesions.fullest_voxels(patch.share).sum() == pytest.approx(volume, abs=0.51)
    if diameter_mm > 5:  # the surface of half shares lies at the radius
        assert (patch.share >= 0.5).sum() == pytest.approx(volume, rel=0.1)


def test_lesion_never_leaves_what_it_may_take():
    allowed = np.ones((40, 40, 40), np.float32)
    allowed[:20] = 0
    patch = lesions.paint_blob(allowed, np.eye(4), (21, 20, 20), 300.0, np.random.default_rng(1))
    whole = np.zeros_like(allowed)
    whole[patch.slices] = patch.share
    assert whole[:20].sum() == 0
    assert whole.sum() == pytest.approx(300, rel=1e-3)


def test_lesion_without_room_is_refused():
    with pytest.raises(ValueError, match='no room for 500 mm3'):
        lesions.paint_blob(
            np.zeros((9, 9, 9)), np.eye(4), (4, 4, 4), 500.0, np.random.default_rng(0)
        )


def test_thick_slices_average_and_keep_the_mean():
    volume = np.zeros((32, 32, 32), np.float32)
    volume[8:24, 8:24, 8:24] = np.random.default_rng(0).random((16, 16, 16))
    affine = nib.affines.from_matvec(np.diag([1.0, 1.0, 4.0]), (0, 0, 1.5))
    thick = artefacts.acquire(volume, np.eye(4), (32, 32, 8), affine, np.eye(4))
    expected = volume.reshape(32, 32, 8, 4).mean(axis=3)
    assert thick == pytest.approx(expected, abs=1e-6)
    assert thick.mean() == pytest.approx(volume.mean(), rel=1e-6)


def test_rician_noise_in_air_is_rayleigh():
    noise = artefacts.add_rician_noise(np.zeros(200_000), 2.0, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)


def test_smooth_field_is_standardised():
    fields = [
        artefacts.smooth_field((8, 9, 10), np.random.default_rng(i), order=3) for i in range(300)
    ]
    assert np.mean(fields) == pytest.approx(0, abs=0.01)
    assert np.var(fields) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize('orientation', ['RAS', 'ASR', 'LPI'])
def test_acquisition_grid_is_centred_and_oriented(orientation):
    affine = artefacts.acquisition_affine(
        (11, 21, 31), (1, 2, 3), (5, -4, 3), orientation=orientation, tilt_deg=5
    )
    assert ''.join(nib.aff2axcodes(affine)) == orientation
    assert nib.affines.voxel_sizes(affine) == pytest.approx([1, 2, 3])
    assert nib.affines.apply_affine(affine, (5, 10, 15)) == pytest.approx([5, -4, 3])


def test_random_rigid_keeps_its_limits():
    for i in range(20):
        matrix = artefacts.random_rigid(
            np.random.default_rng(i), shift_mm=3, angle_deg=4, pivot_mm=(0, 0, 0)
        )
        assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3))
        assert 0.9 <= np.linalg.norm(matrix[:3, 3]) <= 3
        assert 1.19 <= np.degrees(np.arccos((np.trace(matrix[:3, :3]) - 1) / 2)) <= 4.01


def test_tissue_shares_never_exceed_a_voxel(head):
    total = sum(head.tissues.values())
    assert set(head.tissues) == set(anatomy.TISSUES)
    assert total.min() >= 0
    assert total.max() <= 1 + 1e-4
    # Brain is filled, the corners of the field of view are air.
    assert total[head.brain > 0.99].min() > 0.99
    assert total[0, 0, 0] == total[-1, -1, -1] == 0


def test_head_has_human_proportions(head):
    brain_ml = head.brain.sum() * 8 / 1000
    assert 1700 < brain_ml < 2000  # the volume of the ICBM152 mask
    solid = sum(head.tissues.values()) > 0.5
    width, length = (np.ptp(np.flatnonzero(solid.any(axis=a))) * 2 for a in ((1, 2), (0, 2)))
    assert 150 < width < 195
    assert 190 < length < 245


@pytest.mark.parametrize(
    ('name', 'order'),
    [
        ('T1w', ['csf', 'cortex', 'white_matter', 'fat']),
        ('T2w', ['bone', 'white_matter', 'cortex', 'csf']),
        ('FLAIR', ['csf', 'white_matter', 'cortex']),
    ],
)
def test_tissues_keep_their_order(head, name, order):
    image = contrast.render(head.tissues, contrast.CONTRASTS[name])
    means = [float(image[head.tissues[tissue] > 0.8].mean()) for tissue in order]
    assert means == sorted(means)


def test_tissue_without_signal_is_refused():
    with pytest.raises(ValueError, match='no signal for fat'):
        contrast.render({'fat': np.ones((1, 1, 1))}, {'bone': 0.0})


def test_lesions_stay_apart(head):
    sites = lesions.choose_sites(
        head.zones, head.affine, [(1, 10.0)] * 4, np.random.default_rng(0), gap_mm=4
    )
    assert None not in sites
    gaps = [np.linalg.norm(np.subtract(a, b)) for a in sites for b in sites if a != b]
    assert min(gaps) >= 0.75 * 20 + 4


# --- The dataset -------------------------------------------------------------------------------


def test_same_seed_gives_the_same_bytes(phantom, tmp_path):
    write_phantom(tmp_path / 'again', participants=1, sessions=2, seed=0, fast=True)
    for folder in ('sub-01', 'derivatives/truth/sub-01'):
        assert contents(tmp_path / 'again' / folder) == contents(phantom / folder)


def test_another_seed_gives_another_dataset(phantom, tmp_path):
    (tmp_path / 'other').mkdir()  # an existing empty folder is filled
    code = main(
        [str(tmp_path / 'other'), '--sessions', '1', '--participants', '1', '--seed', '1', '--fast']
    )
    assert code == 0
    stem, folder, _ = visit(phantom, '01', 1)
    _, other, _ = visit(tmp_path / 'other', '01', 1)
    name = f'{stem}_FLAIR.nii.gz'
    assert (folder / name).read_bytes() != (other / name).read_bytes()
    assert not (other.parent.parent / 'ses-2').exists()
    assert {p.name for p in (tmp_path / 'other').iterdir()} == {
        'README', 'dataset_description.json', 'derivatives', 'participants.json',
        'participants.tsv', 'sub-01',
    }  # fmt: skip


@pytest.mark.parametrize('subject', ['01', '02'])
def test_lesions_move_by_the_true_transform(phantom, subject):
    stem, _, truth = visit(phantom, subject, 2)
    matrix = load_transform(truth / f'{stem}_from-orig_to-ses1_mode-image_xfm.txt')
    tables = []
    for session in (1, 2):
        name, _, folder = visit(phantom, subject, session)
        table = rows(folder / f'{name}_space-orig_desc-lesions_dseg.tsv')
        tables.append({row['index']: row for row in table})
    before, after = tables
    assert set(before) < set(after)
    grown = [i for i in before if before[i]['volume_mm3'] != after[i]['volume_mm3']]
    assert len(grown) == 1
    for index in set(before) - set(grown):
        here, there = (
            np.array([float(table[index][f'{axis}_mm']) for axis in 'xyz']) for table in tables
        )
        assert nib.affines.apply_affine(matrix, here) == pytest.approx(there, abs=0.03)


@pytest.mark.parametrize('subject', ['01', '02'])
def test_new_lesions_were_not_there_before(phantom, subject):
    stem, _, truth = visit(phantom, subject, 2)
    first, _, truth1 = visit(phantom, subject, 1)
    matrix = load_transform(truth / f'{stem}_from-orig_to-ses1_mode-image_xfm.txt')
    old, image = load(truth1 / f'{first}_space-orig_label-L_mask.nii.gz')
    new, grid = load(truth / f'{stem}_space-orig_label-new_desc-since1_mask.nii.gz')
    # from-orig_to-ses1 takes visit 1 to visit 2; visit 1 is pulled with its inverse.
    moved = resample_mask(image, grid, np.linalg.inv(matrix))
    current, _ = load(truth / f'{stem}_space-orig_label-L_mask.nii.gz')
    assert old.any()
    assert new.any()
    assert not (moved & (new > 0)).any()
    assert np.all(current[new > 0] > 0)
    overlap = 2 * (moved & (current > 0)).sum() / (moved.sum() + (current > 0).sum())
    assert overlap > 0.5


@pytest.mark.parametrize('subject', ['01', '02'])
@pytest.mark.parametrize('session', [1, 2])
def test_table_agrees_with_the_masks(phantom, subject, session):
    stem, _, truth = visit(phantom, subject, session)
    labels, image = load(truth / f'{stem}_space-orig_desc-lesions_dseg.nii.gz')
    voxel_mm3 = float(np.prod(image.header.get_zooms()))
    table = rows(truth / f'{stem}_space-orig_desc-lesions_dseg.tsv')
    assert {int(row['index']) for row in table} == set(np.unique(labels)) - {0}
    for row in table:
        measured = (labels == int(row['index'])).sum() * voxel_mm3
        assert measured == pytest.approx(float(row['mask_volume_mm3']), abs=0.02)
        # The mask has the true volume, to the nearest voxel; two lesions may share one.
        assert measured == pytest.approx(max(float(row['volume_mm3']), voxel_mm3), abs=voxel_mm3)
    for key, name in (('new', 'new_desc-since1'), ('enhancing', 'enhancing')):
        path = truth / f'{stem}_space-orig_label-{name}_mask.nii.gz'
        wanted = [int(row['index']) for row in table if row[key] == '1']
        if session == 2 or key == 'enhancing':
            assert wanted
            assert np.array_equal(load(path)[0] > 0, np.isin(labels, wanted))
        else:
            assert not wanted
            assert not path.exists()


@pytest.mark.parametrize('subject', ['01', '02'])
def test_lesions_look_like_lesions(phantom, subject):
    stem, folder, truth = visit(phantom, subject, 2)
    flair, grid = load(folder / f'{stem}_FLAIR.nii.gz')
    masks = {
        name: nib.load(truth / f'{stem}_space-orig_{name}_mask.nii.gz')
        for name in ('label-L', 'label-enhancing', 'desc-brain')
    }
    lesion, brain = (np.asanyarray(masks[name].dataobj) > 0 for name in ('label-L', 'desc-brain'))
    # White matter is darker than the median of the brain.
    assert flair[lesion].mean() > 1.3 * np.median(flair[brain & ~lesion])
    means = {}
    for name in ('T1w', 'ce-gadolinium_T1w'):
        entities, _, suffix = name.rpartition('_')
        part = f'{entities}_' if entities else ''
        matrix = load_transform(truth / f'{stem}_{part}from-{suffix}_to-orig_mode-image_xfm.txt')
        data, image = load(folder / f'{stem}_{name}.nii.gz')
        moved = {key: resample_mask(m, image, np.linalg.inv(matrix)) for key, m in masks.items()}
        assert moved['label-enhancing'].any()
        # The brightest fifth of the brain on T1w is white matter.
        white = np.percentile(data[moved['desc-brain']], 80)
        means[name] = data[moved['label-enhancing']].mean() / white
    assert means['T1w'] < 0.9
    assert means['ce-gadolinium_T1w'] > 1.05
    assert same_grid_as(grid, masks['label-L'])


def same_grid_as(first: nib.Nifti1Image, second: nib.Nifti1Image) -> bool:
    return first.shape == second.shape and np.array_equal(first.affine, second.affine)


def test_variants_have_their_voxels(phantom):
    for subject, is_thick in (('01', True), ('02', False)):
        stem, folder, _ = visit(phantom, subject, 1)
        zooms = nib.load(folder / f'{stem}_FLAIR.nii.gz').header.get_zooms()
        assert bool(max(zooms) > 2 * min(zooms)) is is_thick
        fields = json.loads((folder / f'{stem}_FLAIR.json').read_text())
        assert fields['MRAcquisitionType'] == ('2D' if is_thick else '3D')
        assert fields['SliceThickness'] == pytest.approx(max(zooms))


def test_visits_have_dates(phantom):
    visits = rows(phantom / 'sub-01' / 'sub-01_sessions.tsv')
    assert [row['session_id'] for row in visits] == ['ses-1', 'ses-2']
    days = np.diff([np.datetime64(row['acq_time'], 'D') for row in visits]).astype(int)
    assert 90 <= days[0] < 270


@pytest.mark.skipif(not VALIDATOR.exists(), reason='bids-validator-deno is not installed')
@pytest.mark.parametrize('part', ['.', 'derivatives/truth'])
def test_dataset_is_valid_bids(phantom, part):
    done = subprocess.run(
        [VALIDATOR, phantom / part, '--json'], capture_output=True, text=True, check=False
    )
    issues = json.loads(done.stdout)['issues']['issues']
    assert [issue for issue in issues if issue['severity'] == 'error'] == []


# --- The command line --------------------------------------------------------------------------


def test_folder_with_files_is_refused(tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('mine')
    assert main([str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith('msapp-phantom: error: ')
    assert 'is not empty' in message
    assert [p.name for p in tmp_path.iterdir()] == ['mine.txt']


def test_file_is_refused(tmp_path):
    path = tmp_path / 'file'
    path.write_text('')
    with pytest.raises(UsageError, match='is a file'):
        write_phantom(path)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def broken(*_args):
        raise OSError(28, 'No space left on device', 'disk')

    monkeypatch.setattr('msapp.synthesis.phantom.fill_dataset', broken)
    assert main([str(tmp_path / 'new')]) == 2
    told = f'{tmp_path / "new"}: cannot write (No space left on device)'
    assert told in capsys.readouterr().err, 'not the temporary folder'
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('flag', ['--participants', '--sessions'])
def test_numbers_start_at_one(flag, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / 'x'), flag, '0'])
    assert stop.value.code == 2
    assert 'must be at least 1' in capsys.readouterr().err
