"""What ``msapp`` refuses: the exit code, what is wrong, where, and what to do about it."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msapp.bids.dataset import write_description
from msapp.cli.app import main

FLAIR = 'sub-{label}/ses-1/anat/sub-{label}_ses-1_FLAIR.nii.gz'
# Where NIfTI-1 keeps the voxel size and the codes that say which orientation counts.
PIXDIM_BYTE, CODES_BYTE = 80, 252


@dataclass(frozen=True)
class Answer:
    """What a call in this process answered."""

    code: int
    text: str


@pytest.fixture
def msapp(capsys) -> Callable[..., Answer]:
    """Call ``msapp`` in this process; no answer may be a traceback."""

    def call(*arguments: str | Path) -> Answer:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        captured = capsys.readouterr()
        text = captured.out + captured.err
        assert 'Traceback' not in text
        return Answer(code, text)

    return call


@pytest.fixture
def dataset(fast_phantom, tmp_path) -> Path:
    """Give one participant with one FLAIR."""
    root = tmp_path / 'bids'
    copy_flair(fast_phantom, root, '01')
    return root


def copy_flair(phantom: Path, root: Path, label: str) -> Path:
    """Copy the first FLAIR of a participant into a dataset of its own."""
    path = root / FLAIR.format(label=label)
    path.parent.mkdir(parents=True)
    shutil.copy(phantom / 'dataset_description.json', root)
    shutil.copy(phantom / FLAIR.format(label=label), path)
    return path


def copy_visit(path: Path, session: str) -> Path:
    """Copy the FLAIR of a participant to another visit."""
    copy = Path(str(path).replace('ses-1', session))
    copy.parent.mkdir(parents=True)
    return shutil.copy(path, copy)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    data = change(np.asanyarray(image.dataobj))
    nib.save(nib.Nifti1Image(data, image.affine), path)


def add_volumes(path: Path) -> None:
    rewrite(path, lambda data: np.stack([data] * 3, axis=-1))


def add_nan(path: Path) -> None:
    def spoil(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[5:7, 5, 5] = np.nan
        return data

    rewrite(path, spoil)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b'')


def make_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b'no image' * 100))


def blacken(path: Path) -> None:
    rewrite(path, np.zeros_like)


def crop(path: Path) -> None:
    rewrite(path, lambda data: data[:, :, 10:12])


def flatten_affine(path: Path) -> None:
    image = nib.load(path)
    image = nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header)
    image.header.set_sform(np.diag([0, 0, 0, 1]), 1)
    nib.save(image, path)


def spoil_voxel_size(path: Path) -> None:
    """Write 0 mm for every side of a voxel, in a header without any orientation."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into('<3f', content, PIXDIM_BYTE, 0.0, 0.0, 0.0)
    struct.pack_into('<2h', content, CODES_BYTE, 0, 0)
    path.write_bytes(gzip.compress(bytes(content)))


def become_t2w(path: Path) -> None:
    path.rename(path.with_name(path.name.replace('FLAIR', 'T2w')))


# --- Images that cannot be used: 65 -------------------------------------------------------------


@pytest.mark.parametrize(
    ('spoil', 'wrong', 'remedy'),
    [
        (add_volumes, '3 volumes found, one is needed', '--bids-filter-file'),
        (add_nan, '2 voxels are NaN or infinite', 'Replace them'),
        (truncate, 'the file is cut short or damaged', 'Copy or convert it again'),
        (empty, 'not a readable NIfTI image', 'Convert it again'),
        (make_text, 'not a readable NIfTI image', 'Convert it again'),
        (blacken, 'the image is empty', ''),
        (crop, 'the image has 108 x 132 x 2 voxels; at least 8 are needed', 'single slice'),
        (flatten_affine, 'the orientation in the header (qform, sform) is broken', 'DICOM'),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_a_bad_image_is_named_with_the_reason_and_the_remedy(
    msapp, dataset, tmp_path, spoil, wrong, remedy
):
    path = dataset / FLAIR.format(label='01')
    spoil(path)
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--skip-bids-validation')
    assert answer.code == 65
    assert f'sub-01 ses-1 FLAIR: {wrong}' in answer.text
    assert remedy in answer.text
    assert f'File: {path}' in answer.text
    page = (tmp_path / 'out' / 'sub-01.html').read_text(encoding='utf-8')
    assert wrong in page


def test_a_voxel_size_of_zero_is_refused(msapp, fast_phantom, tmp_path):
    path = copy_flair(fast_phantom, tmp_path / 'bids', '02')  # isotropic: a brain of 1 mm fits
    spoil_voxel_size(path)
    answer = msapp(tmp_path / 'bids', tmp_path / 'out', 'participant', '--dry-run')
    assert 'sub-02 ses-1 FLAIR: the voxel size is 0 x 0 x 0 mm' in answer.text


def test_a_participant_without_flair_and_t1w_is_refused(msapp, dataset, tmp_path):
    become_t2w(dataset / FLAIR.format(label='01'))
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--skip-bids-validation')
    assert answer.code == 65
    assert 'sub-01: ses-1: neither FLAIR nor T1w found (found: T2w).' in answer.text
    assert 'A FLAIR or a T1w image is needed.' in answer.text


def test_the_group_level_needs_processed_visits(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'group')
    assert answer.code == 65
    assert f'{tmp_path / "out"}: no visit was processed yet.' in answer.text
    assert 'Run msapp at participant level first.' in answer.text


# --- Folders and flags that make no sense: 2 ----------------------------------------------------


def test_a_missing_input_folder_is_named(msapp, tmp_path):
    answer = msapp(tmp_path / 'none', tmp_path / 'out', 'participant')
    assert answer.code == 2
    assert f'{tmp_path / "none"}: no such folder. Give the root of a BIDS dataset.' in answer.text
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_participants_is_no_dataset(msapp, dataset, tmp_path):
    folder = dataset / 'sub-01' / 'ses-1'
    answer = msapp(folder, tmp_path / 'out', 'participant')
    assert answer.code == 2
    assert f'{folder}: holds no sub-* folder' in answer.text
    assert 'Give the folder that holds dataset_description.json' in answer.text


@pytest.mark.parametrize('inside', ['', 'out', 'sub-01/out', 'derivatives/../out'])
def test_the_output_may_not_lie_in_the_input(msapp, dataset, inside):
    before = sorted(dataset.rglob('*'))
    answer = msapp(dataset, dataset / inside, 'participant')
    assert answer.code == 2
    assert 'the output folder lies inside the input dataset' in answer.text
    assert str(dataset / 'derivatives' / 'msapp') in answer.text
    assert sorted(dataset.rglob('*')) == before


def test_the_derivatives_folder_of_the_input_is_a_place_for_the_output(msapp, dataset):
    answer = msapp(dataset, dataset / 'derivatives' / 'msapp', 'participant', '--dry-run')
    assert answer.code == 0


def test_an_output_that_is_a_file_is_refused(msapp, dataset, tmp_path):
    target = tmp_path / 'out'
    target.write_text('precious')
    answer = msapp(dataset, target, 'participant')
    assert answer.code == 2
    assert f'{target}: cannot be written (File exists)' in answer.text
    assert 'Choose another folder' in answer.text
    assert target.read_text() == 'precious'


@pytest.mark.parametrize('flag', ['output', '--work-dir'])
def test_a_folder_that_cannot_be_written_is_refused(msapp, dataset, tmp_path, flag):
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o555)
    # The administrator may write anywhere but below a file.
    target = locked / 'x' if os.geteuid() else dataset / 'dataset_description.json' / 'x'
    folders = (target,) if flag == 'output' else (tmp_path / 'out',)
    options = () if flag == 'output' else (flag, target)
    answer = msapp(dataset, *folders, 'participant', *options)
    assert answer.code == 2
    assert f'{target}: ' in answer.text or f'{target}/work: ' in answer.text
    assert 'Choose a' in answer.text


def test_the_output_of_another_program_is_kept(msapp, dataset, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    description = '{"Name": "x", "GeneratedBy": [{"Name": "other"}]}'
    (out / 'dataset_description.json').write_text(description)
    answer = msapp(dataset, out, 'participant', '--skip-bids-validation')
    assert answer.code == 2
    assert 'holds the output of another program' in answer.text
    assert (out / 'dataset_description.json').read_text() == description


def test_an_unknown_participant_is_named_beside_those_there_are(msapp, dataset, tmp_path):
    answer = msapp(
        dataset, tmp_path / 'out', 'participant', '--participant-label', '09', 'sub-01', '--dry-run'
    )
    assert answer.code == 2
    assert f'--participant-label: sub-09 not found in {dataset}. It holds sub-01.' in answer.text


def test_an_unknown_session_is_named(msapp, dataset, tmp_path):
    answer = msapp(
        dataset, tmp_path / 'out', 'participant', '--session-label', '1', '7', '--dry-run'
    )
    assert answer.code == 2
    assert '--session-label: ses-7 not found for any participant.' in answer.text


def test_who_lacks_the_session_asked_for_keeps_the_report_of_before(
    msapp, dataset, fast_phantom, tmp_path
):
    copy_flair(fast_phantom, tmp_path / 'other', '02')
    shutil.move(tmp_path / 'other' / 'sub-02', dataset / 'sub-02')
    add_nan(copy_visit(dataset / FLAIR.format(label='02'), 'ses-2'))
    page = tmp_path / 'out' / 'sub-01.html'
    page.parent.mkdir()
    page.write_text('full report')
    flags = ('--skip-bids-validation', '--session-label', '2')
    dry = msapp(dataset, tmp_path / 'out', 'participant', *flags, '--dry-run')
    assert 'sub-01: has no ses-2; not part of this run.' in dry.text.splitlines()
    answer = msapp(dataset, tmp_path / 'out', 'participant', *flags)
    assert answer.code == 65  # of sub-02 alone
    assert 'sub-01: has no ses-2; not part of this run.' in answer.text
    assert 'sub-01: failed' not in answer.text
    assert page.read_text() == 'full report'


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--colour'], 'unrecognized arguments: --colour'),
        (['--mem', 'lots'], '"lots" is no amount of memory; try 8G or 8000M'),
        (['--nprocs', '0'], '--nprocs: Input should be greater than or equal to 1'),
        (['--mem', '0'], 'error: --mem: Input should be greater than 0'),
        (['--tasks', 'tea'], "invalid choice: 'tea'"),
    ],
)
def test_a_wrong_flag_is_named(msapp, dataset, tmp_path, flags, message):
    answer = msapp(dataset, tmp_path / 'out', 'participant', *flags)
    assert answer.code == 2
    assert message in answer.text


def test_a_wrong_level_is_named(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'subject')
    assert answer.code == 2
    assert 'give participant, group or both' in answer.text


def test_a_wrong_level_is_called_by_a_name_of_the_help(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'participant', 'subject')
    assert answer.code == 2
    assert 'subject' in answer.text
    assert '--levels' not in answer.text


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'cannot read the settings file (No such file or directory)'),
        ('tasks = [', 'not a valid TOML settings file'),
        ('colour = "red"\n', 'settings.toml: no setting is called colour'),
        ('mc-samples = "many"\n', '--mc-samples: Input should be a valid integer'),
        (
            'output-spaces = ["orig", "MNI152"]\n',
            "--output-spaces: Input should be 'orig', 'individual' or 'MNI152NLin2009aSym', "
            "got 'MNI152'",
        ),
    ],
    ids=['missing', 'broken', 'unknown key', 'wrong type', 'unknown space'],
)
def test_a_bad_settings_file_is_refused(msapp, dataset, tmp_path, content, message):
    path = tmp_path / 'settings.toml'
    if content is not None:
        path.write_text(content)
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--config-file', path)
    assert answer.code == 2
    assert message in answer.text


@pytest.mark.parametrize('content', ['{"flair": 3}', '{"t9w": {}}', '[1]', 'x'])
def test_a_bad_filter_file_is_refused(msapp, dataset, tmp_path, content):
    path = tmp_path / 'filter.json'
    path.write_text(content)
    answer = msapp(
        dataset, tmp_path / 'out', 'participant', '--bids-filter-file', path, '--dry-run'
    )
    assert answer.code == 2
    assert f'{path}: ' in answer.text


@pytest.mark.parametrize('flag', ['--clean-workdir', '--dry-run'])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'cannot read the plugin file'),
        ('plugin: SLUMR\n', 'plugin SLUMR cannot be used here'),
        ('SLURM\n', 'needs a line such as "plugin: SLURM"'),
        ('plugin: MultiProc\nplugin_args: {n_procs: many}\n', 'plugin_args cannot be used: inv'),
        ('plugin: MultiProc\nplugin_args: {n_procs: 0}\n', 'plugin_args cannot be used: n_procs'),
        (
            'plugin: MultiProc\nplugin_args: {memory_gb: 0}\n',
            'plugin_args cannot be used: memory_gb',
        ),
        (
            'plugin: MultiProc\nplugin_args: {n_gpu_procs: -1}\n',
            'plugin_args cannot be used: n_gpu',
        ),
        ('plugin: MultiProc\nplugin_args: {memory_gb: [1]}\n', 'plugin_args cannot be used: '),
        ('plugin: MultiProc\nplugin_args: {log_dir: 3}\n', 'plugin_args cannot be used: '),
    ],
)
def test_a_bad_plugin_file_is_refused_before_any_work(
    msapp, dataset, tmp_path, content, message, flag
):
    path = tmp_path / 'plugin.yml'
    if content is not None:
        path.write_text(content)
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--use-plugin', path, flag)
    assert answer.code == 2
    assert f'{path}: {message}' in answer.text
    assert not (tmp_path / 'out').exists()


# --- Models and programs that are not there: 69 --------------------------------------------------


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--lesion-model', 'foo'], 'no such model is installed. Available: anatomy'),
        (['--tasks', 'cord'], 'this version ships no model for it. Available: lesions'),
        (['--device', 'cuda'], 'leave the flag out to run on the CPU'),
        (['--gpus', '99'], 'leave the flag out to run on the CPU'),
        (['--mc-samples', '5', '--lesion-model', 'threshold'], 'needs a network'),
        (['--brain-extraction', 'bet'], 'FSL'),
    ],
)
def test_what_is_not_installed_is_refused_before_any_work(
    msapp, dataset, tmp_path, monkeypatch, flags, message
):
    monkeypatch.delenv('FSLDIR', raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('PATH', str(tmp_path))
    answer = msapp(dataset, tmp_path / 'out', 'participant', *flags)
    assert answer.code == 69
    assert flags[0] in answer.text
    assert message in answer.text
    assert not (tmp_path / 'out').exists()


# --- What would run -----------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_why_not(msapp, fast_phantom, tmp_path):
    root = tmp_path / 'bids'
    copy_flair(fast_phantom, root, '01')
    add_nan(copy_flair(fast_phantom, root / 'x', '02'))
    shutil.move(root / 'x' / 'sub-02', root / 'sub-02')
    shutil.rmtree(root / 'x')
    second = root / 'sub-01' / 'ses-2' / 'anat'
    second.mkdir(parents=True)
    shutil.copy(
        fast_phantom / 'sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz',
        second / 'sub-01_ses-2_T1w.nii.gz',
    )
    before = sorted(root.rglob('*'))
    answer = msapp(root, tmp_path / 'out', 'participant', '--dry-run')
    assert answer.code == 0
    lines = [line.strip() for line in answer.text.splitlines()]
    assert lines[0] == 'sub-01: 2 visit(s)'
    assert 'FLAIR: sub-01_ses-1_FLAIR.nii.gz' in lines
    assert 'left out: T1w: not found; lesions are found without it.' in lines
    assert 'left out: T2w: not found; nothing that is measured uses it.' in lines
    assert 'left out: Lesions are not measured: there is no FLAIR.' in lines
    assert 'left out: Not compared with a visit before: no FLAIR in ses-2.' in lines
    assert any(line.startswith('sub-02: left out. sub-02 ses-1 FLAIR: 2 voxels') for line in lines)
    assert not any('candidates of new lesions' in line for line in lines)
    assert sorted(root.rglob('*')) == before
    assert not (tmp_path / 'out').exists()


def test_a_dry_run_tells_only_of_the_tasks_asked_for(msapp, dataset, tmp_path):
    path = dataset / FLAIR.format(label='01')
    path.rename(path.with_name(path.name.replace('FLAIR', 'T1w')))
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--dry-run', '--tasks', 'longitudinal')
    assert answer.code == 0
    lines = [line.strip() for line in answer.text.splitlines()]
    assert [line for line in lines if line.startswith('left out')] == [
        'left out: FLAIR: not found; new lesions are not sought.',
        'left out: T2w: not found; nothing that is measured uses it.',
    ]


def test_a_dry_run_tells_that_one_visit_is_compared_with_none(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--dry-run', '--tasks', 'longitudinal')
    assert 'left out: No other visit to compare with; new lesions are not sought.' in answer.text


def test_a_dry_run_of_the_group_level_names_no_step_of_a_visit(msapp, dataset, tmp_path):
    out = tmp_path / 'out'
    assert msapp(dataset, out, 'group', '--dry-run').code == 65
    write_description(out, dataset)
    answer = msapp(dataset, out, 'group', '--dry-run')
    line = f'group: would write tables and a page from the results in {out}.\n'
    assert (answer.code, answer.text) == (0, line)
    both = msapp(dataset, tmp_path / 'new', 'participant', 'group', '--dry-run')
    assert both.text.startswith('sub-01: 1 visit(s)')
    assert both.text.endswith(f'the results in {tmp_path / "new"}.\n')


def test_the_methods_text_alone_writes_nothing(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'participant', '--boilerplate-only')
    assert answer.code == 0
    assert answer.text
    assert not (tmp_path / 'out').exists()


def test_the_group_level_has_no_methods_text(msapp, dataset, tmp_path):
    answer = msapp(dataset, tmp_path / 'out', 'group', '--boilerplate-only')
    assert answer.code == 2
    assert '--boilerplate-only: prints the methods of the participant level' in answer.text


def test_folders_may_come_from_the_settings_file(msapp, dataset, tmp_path):
    path = tmp_path / 'settings.toml'
    path.write_text(
        f'bids-dir = "{dataset}"\noutput-dir = "{tmp_path / "out"}"\nlevels = ["participant"]\n'
    )
    answer = msapp('--config-file', path, '--dry-run')
    assert answer.code == 0
    assert answer.text.startswith('sub-01: 1 visit(s)')


def test_a_call_without_folders_says_what_is_missing(msapp):
    answer = msapp()
    assert answer.code == 2
    assert 'missing: bids_dir, output_dir, participant or group' in answer.text


def test_relative_folders_are_seen_from_where_msapp_was_called(
    msapp, dataset, tmp_path, monkeypatch
):
    graphs = []

    def keep(graph, **_):
        graphs.append(graph._create_flat_graph())
        return []

    monkeypatch.setattr('msapp.engine.run.run_graph', keep)
    monkeypatch.chdir(tmp_path)
    answer = msapp(dataset.name, 'out', 'participant', '--skip-bids-validation')
    assert answer.code == 0
    nodes = [node for node in graphs[0].nodes if hasattr(node.inputs, 'output_dir')]
    assert {node.inputs.output_dir for node in nodes} == {str(tmp_path / 'out')}
    sources = {
        uri
        for node in nodes
        for uri in (node.inputs.get().get('metadata') or {}).get('Sources', [])
    }
    assert sources == {f'bids:raw:{FLAIR.format(label="01")}'}


# --- One bad participant does not stop the other --------------------------------------------------


@pytest.fixture(scope='module')
def mixed(fast_phantom, tmp_path_factory, call_msapp):
    """Run a good participant with one visit, and one whose FLAIR is 4-D."""
    root = tmp_path_factory.mktemp('mixed')
    copy_flair(fast_phantom, root / 'bids', '01')
    add_volumes(copy_flair(fast_phantom, root / 'bad', '02'))
    shutil.move(root / 'bad' / 'sub-02', root / 'bids' / 'sub-02')
    arguments = (root / 'bids', root / 'out', 'participant', '--sloppy')
    yield root / 'out', call_msapp(*arguments), arguments
    shutil.rmtree(root / 'out' / 'work', ignore_errors=True)


@pytest.mark.slow
def test_a_bad_participant_is_left_out_and_the_good_one_done(mixed):
    out, run, _ = mixed
    assert run.returncode == 1
    first, second = run.stdout.splitlines()
    assert first.startswith('sub-01: done, ')
    assert second.startswith('sub-02: failed')
    assert '3 volumes found, one is needed' in second
    assert 'Traceback' not in run.stdout + run.stderr
    assert (out / 'sub-01/ses-1/anat/sub-01_ses-1_space-orig_label-L_mask.nii.gz').exists()
    assert not (out / 'sub-02').exists()


@pytest.mark.slow
def test_the_report_of_the_bad_participant_says_why(mixed):
    out, _, _ = mixed
    assert '3 volumes found, one is needed' in (out / 'sub-02.html').read_text(encoding='utf-8')
    assert 'volumes found' not in (out / 'sub-01.html').read_text(encoding='utf-8')


@pytest.mark.slow
def test_a_single_visit_is_done_without_candidates(mixed, call_msapp):
    out, _, arguments = mixed
    alone = call_msapp(*arguments, '--participant-label', '01')
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.startswith('sub-01: done, 0 steps run, ')
    assert not list(out.glob('sub-01/**/*andidate*'))
    assert not list(out.glob('sub-01/**/*changes*'))
    assert 'ses-1' in (out / 'sub-01.html').read_text(encoding='utf-8')
