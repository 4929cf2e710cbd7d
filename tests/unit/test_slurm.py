"""What ``msapp-slurm`` writes, submits and reports, with programs that stand in for SLURM."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msapp.bids.query import plan_participants
from msapp.cli.slurm import main
from msapp.cli.slurm_status import State, find_states, read_settings
from msapp.provenance import SUMMARY_COLUMNS

LABELS = ('sub-01', 'sub-02', 'sub-03')
# All that the scripts may use; whatever else is installed here is not seen.
TOOLS = ('bash', 'mkdir', 'rm', 'sed', 'sh', 'touch', 'uname', 'wc')
REPOSITORY = Path(__file__).parents[2]
# Each call adds a line; the answer is a new number of a job.
SBATCH = """#!/bin/bash
printf '%q ' "$@" >> {calls}
echo "SLURM_MEM_PER_CPU=${{SLURM_MEM_PER_CPU:-}}" >> {calls}
{then}
echo $((100 + $(wc -l < {calls})))
"""


class Site:
    """A dataset, an output folder, and a PATH on which programs stand in for SLURM's."""

    def __init__(self, root: Path) -> None:
        self.bids, self.out, self.bin = root / "it's bids", root / 'an out', root / 'bin'
        self.calls = root / 'calls'
        self.bin.mkdir(parents=True)
        for label in LABELS:
            (self.bids / label).mkdir(parents=True)
        for tool in TOOLS:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.program('sbatch')

    def program(self, name: str, text: str | None = None, then: str = '') -> None:
        """Put a program on PATH; by default the ``sbatch`` that records its arguments."""
        path = self.bin / name
        path.write_text(text or SBATCH.format(calls=shlex.quote(str(self.calls)), then=then))
        path.chmod(0o755)

    def call(self, *arguments: str) -> int:
        return main([str(self.bids), str(self.out), *arguments])

    def submitted(self) -> list[list[str]]:
        """Give the arguments of every call of sbatch."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        return [shlex.split(line)[:-1] for line in lines]

    def states(self, labels: Sequence[str], *options: str) -> list[State]:
        """Say how far participants are, for a run of msapp with these options."""
        return find_states(read_settings(self.bids, self.out, options), labels)

    def image(self, session: str, name: str = 'FLAIR', label: str = 'sub-01') -> None:
        """Put an image into the dataset, of which only the name counts."""
        path = self.bids / label / session / 'anat' / f'{label}_{session}_{name}.nii.gz'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    @property
    def folder(self) -> Path:
        """The folder of the newest submission."""
        return max((self.out / 'logs' / 'slurm').iterdir())

    def finished(
        self,
        label: str,
        status: str = 'done',
        *,
        run: str = '20260101T000000-1',
        code: int = 0,
        steps: int = 9,
        step: str = 'input check',
    ) -> None:
        """Leave what a run leaves: a summary, and, where it was done, the outputs."""
        cells = dict.fromkeys(SUMMARY_COLUMNS, '0')
        cells |= {'participant_id': label, 'status': status, 'exit_code': str(code)}
        cells |= {'failed_step': 'n/a', 'error': 'n/a', 'steps_total': str(steps)}
        if status != 'done':
            cells |= {'failed_step': step, 'error': 'the "file" is cut short.'}
        path = self.out / 'logs' / run / 'summary.tsv'
        path.parent.mkdir(parents=True, exist_ok=True)
        header = '\t'.join(SUMMARY_COLUMNS)
        old = path.read_text() if path.exists() else header + '\n'
        path.write_text(old + '\t'.join(cells.values()) + '\n')
        if status == 'done':
            folder = self.out / label / 'ses-1' / 'anat'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'{label}_ses-1_desc-summary_stats.tsv').touch()
            (self.out / f'{label}.html').touch()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv('PATH', str(made.bin))
    return made


def run_script(site: Site, script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a task of a job."""
    return subprocess.run(
        ['bash', str(script)],
        env={'PATH': os.environ['PATH'], 'SLURM_JOB_ID': '7', **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def record(site: Site, name: str) -> Path:
    """Put a program on PATH that writes its arguments, a line each; give that file."""
    seen = site.bin / f'{name}.seen'
    site.program(name, f'#!/bin/sh\nprintf "%s\\n" "$@" > {shlex.quote(str(seen))}\n')
    return seen


# --- The scripts --------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['participant.sbatch', 'group.sbatch'])
def test_scripts_are_valid_bash_before_and_after_they_are_filled_in(site, name):
    assert site.call('--', '--bids-filter-file', "a'b c.json") == 0
    for script in (REPOSITORY / 'scripts' / 'slurm' / name, site.folder / name):
        checked = subprocess.run(['bash', '-n', str(script)], capture_output=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, b''), script


def test_limits_replace_the_defaults_and_requeue_stays(site):
    flags = ['--mem=3G', '--cpus=2', '--time=10', '--partition=long', '--sbatch-option=--qos=high']
    assert site.call(*flags) == 0
    text = (site.folder / 'participant.sbatch').read_text()
    options = [line.partition(' ')[2] for line in text.splitlines() if line.startswith('#SBATCH')]
    log = shlex.quote(f'--output={site.folder}/%A_%a.out')
    given = ['--partition=long', '--time=10', '--mem=3G', '--cpus-per-task=2', '--qos=high']
    kept = ['--job-name=msapp', '--requeue', '--open-mode=append']
    assert options == [*kept, log, *given]
    # bash and SLURM stop reading options at the first command.
    assert text.rindex('#SBATCH') < text.index('\nMSAPP_BIDS=')


def test_options_for_gpus_do_not_reach_the_group_level(site):
    gpus = ['--gres=gpu:1', '--gpus-per-node=1', '-G 1', '--cpus-per-gpu=4', '--mem-per-gpu=9G']
    others = ['--qos=high', '--account=x', '--partition=gpu', '--gid=5']
    assert site.call(*(f'--sbatch-option={option}' for option in [*gpus, *others])) == 0
    for name, given in (('participant', [*gpus, *others]), ('group', others)):
        lines = (site.folder / f'{name}.sbatch').read_text().splitlines()
        found = [line.removeprefix('#SBATCH ') for line in lines if line.startswith('#SBATCH')]
        assert found[-len(given) :] == given
        assert not [option for option in gpus if option in found and option not in given]


def test_the_help_says_where_options_go(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert 'Options of msapp come last, after "--", as in: msapp-slurm /bids /out' in said
    assert "the group level's job gets it too, unless it asks for GPUs (--gres," in said


def test_a_task_runs_its_own_participant_in_its_own_work_folder(site):
    seen = record(site, 'msapp')
    assert site.call('--', '--sloppy', '--bids-filter-file', "a'b c.json") == 0
    done = run_script(site, site.folder / 'participant.sbatch', SLURM_ARRAY_TASK_ID='2')
    assert done.returncode == 0, done.stderr
    assert seen.read_text().splitlines() == [
        str(site.bids),
        str(site.out),
        'participant',
        '--participant-label',
        '02',
        '--work-dir',
        str(site.out / 'work' / 'sub-02'),
        '--skip-bids-validation',
        '--sloppy',
        '--bids-filter-file',
        "a'b c.json",
    ]
    assert (site.out / 'work' / 'sub-02').is_dir()


def test_a_task_ends_with_the_exit_code_of_msapp_and_keeps_its_work_folder(site):
    site.program('msapp', '#!/bin/sh\nexit 65\n')
    assert site.call('--remove-work') == 0
    script = site.folder / 'participant.sbatch'
    assert run_script(site, script, SLURM_ARRAY_TASK_ID='1').returncode == 65
    assert (site.out / 'work' / 'sub-01').is_dir()
    site.program('msapp', '#!/bin/sh\nexit 0\n')
    assert run_script(site, script, SLURM_ARRAY_TASK_ID='1').returncode == 0
    assert not (site.out / 'work' / 'sub-01').exists()


def test_scratch_is_the_folder_that_the_node_names_and_is_left_empty(site, tmp_path):
    seen = record(site, 'msapp')
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    assert site.call('--scratch', 'NODE_DISK') == 0
    script = site.folder / 'participant.sbatch'
    done = run_script(site, script, SLURM_ARRAY_TASK_ID='1', NODE_DISK=str(scratch))
    assert done.returncode == 0, done.stderr
    assert str(scratch / 'msapp-7') in seen.read_text().splitlines()
    assert list(scratch.iterdir()) == []
    without = run_script(site, script, SLURM_ARRAY_TASK_ID='1')
    assert without.returncode == 2
    assert '$NODE_DISK is no folder on this node' in without.stderr


def test_an_image_is_run_contained_with_the_limits_of_slurm(site, tmp_path):
    seen = record(site, 'apptainer')
    image, choice = tmp_path / 'msapp.sif', tmp_path / 'choice.json'
    image.touch()
    choice.touch()
    assert site.call('--image', str(image), '--', '--bids-filter-file', str(choice)) == 0
    script = site.folder / 'participant.sbatch'
    limits = {'SLURM_CPUS_PER_TASK': '2', 'SLURM_MEM_PER_NODE': '3000'}
    done = run_script(site, script, SLURM_ARRAY_TASK_ID='3', **limits)
    assert done.returncode == 0, done.stderr
    arguments = seen.read_text().splitlines()
    at = arguments.index(str(image))
    work = site.out / 'work' / 'sub-03'
    binds = [f'{site.bids}:{site.bids}:ro', str(site.out), str(work), f'{work}/tmp:/tmp']
    assert arguments[:3] == ['run', '--containall', '--no-home']
    assert arguments[3:11] == [word for bind in binds for word in ('-B', bind)]
    assert 'SLURM_MEM_PER_NODE=3000' in arguments[11:at]
    assert 'SLURM_CPUS_PER_TASK=2' in arguments[11:at]
    assert arguments[at + 1 : at + 4] == [str(site.bids), str(site.out), 'participant']
    assert f'APPTAINER_BIND={choice}' in script.read_text()


def test_scripts_used_by_hand_say_what_is_not_set(site):
    done = run_script(site, REPOSITORY / 'scripts' / 'slurm' / 'participant.sbatch')
    assert done.returncode == 2
    assert 'MSAPP_BIDS is not set' in done.stderr


def test_without_msapp_or_apptainer_a_task_says_so(site, tmp_path):
    assert site.call() == 0
    script = site.folder / 'participant.sbatch'
    done = run_script(site, script, SLURM_ARRAY_TASK_ID='1')
    assert (done.returncode, 'msapp is not on PATH' in done.stderr) == (69, True)
    values = {'MSAPP_BIDS': str(site.bids), 'MSAPP_OUT': str(site.out), 'MSAPP_IMAGE': 'a.sif'}
    done = run_script(site, REPOSITORY / 'scripts' / 'slurm' / 'group.sbatch', **values)
    assert (done.returncode, 'apptainer is not on PATH' in done.stderr) == (69, True)


# --- Who is submitted ---------------------------------------------------------------------------


def test_all_are_submitted_as_an_array_and_the_group_level_after_it(site, capsys):
    assert site.call('--max-tasks', '2') == 0
    folder = site.folder
    assert site.submitted() == [
        ['--parsable', '--array=1-3%2', str(folder / 'participant.sbatch'), '0'],
        ['--parsable', '--dependency=afterany:101', str(folder / 'group.sbatch')],
    ]
    assert (folder / 'participants.txt').read_text().split() == list(LABELS)
    said = capsys.readouterr().out
    assert 'Submitted 3 participants: job 101.' in said
    assert 'Submitted the group level: job 102.' in said


def test_a_second_call_submits_only_who_is_not_done(site, capsys):
    site.finished('sub-01')
    site.finished('sub-02', 'failed', code=65)
    assert site.call() == 0
    assert (site.folder / 'participants.txt').read_text().split() == ['sub-02', 'sub-03']
    assert site.call('--participant-label', '01', 'sub-03') == 0
    assert (site.folder / 'participants.txt').read_text().split() == ['sub-03']
    assert site.call('--all') == 0
    assert (site.folder / 'participants.txt').read_text().split() == list(LABELS)


def test_nothing_is_submitted_when_all_are_done_but_a_missing_group_page_is(site, capsys):
    for label in LABELS:
        site.finished(label)
    assert site.call() == 0
    assert [call[1:] for call in site.submitted()] == [[str(site.folder / 'group.sbatch')]]
    (site.out / 'group.html').touch()
    assert site.call() == 0
    assert len(site.submitted()) == 1
    assert 'Nothing to submit.' in capsys.readouterr().out


def test_who_is_in_the_queue_is_not_submitted_again(site, capsys):
    assert site.call() == 0
    site.program('squeue', '#!/bin/sh\necho 101 2\necho 102 N/A\n')
    assert site.call('--all') == 0
    assert (site.folder / 'participants.txt').read_text().split() == ['sub-01', 'sub-03']
    capsys.readouterr()
    assert site.call('--status') == 1
    said = capsys.readouterr().out
    assert 'queued: sub-02: waits or runs as 101_2' in said
    assert '3 participants: 2 missing, 1 queued.' in said


def test_more_participants_than_an_array_may_have_become_several(site):
    site.program('scontrol', '#!/bin/sh\necho "MaxArraySize            = 3"\n')
    assert site.call('--max-tasks', '5') == 0
    script = str(site.folder / 'participant.sbatch')
    assert [call[1:] for call in site.submitted()] == [
        ['--array=1-2%5', script, '0'],
        ['--array=1-1%5', '--dependency=afterany:101', script, '2'],
        ['--dependency=afterany:101:102', str(site.folder / 'group.sbatch')],
    ]
    seen = record(site, 'msapp')
    subprocess.run(['bash', script, '2'], env=os.environ | {'SLURM_ARRAY_TASK_ID': '1'}, check=True)
    assert '03' in seen.read_text().splitlines()
    site.program('squeue', '#!/bin/sh\necho 102 1\n')
    states = site.states(LABELS)
    assert [state.status for state in states] == ['missing', 'missing', 'queued']


def test_limits_of_the_job_it_is_called_in_are_not_handed_on(site, monkeypatch):
    monkeypatch.setenv('SLURM_MEM_PER_CPU', '10')
    assert site.call() == 0
    assert site.calls.read_text().splitlines()[0].endswith('SLURM_MEM_PER_CPU=')


def test_a_dry_run_writes_and_submits_nothing(site, capsys):
    site.finished('sub-01')
    before = sorted(site.out.rglob('*'))
    assert site.call('--dry-run') == 0
    said = capsys.readouterr().out
    assert '#SBATCH --mem=16G' in said
    assert 'Would submit 2: sub-02 sub-03' in said
    assert (site.submitted(), sorted(site.out.rglob('*'))) == ([], before)


# --- How far everyone is ------------------------------------------------------------------------


def test_the_newest_run_and_the_files_say_who_is_done(site):
    site.finished('sub-01', 'failed', run='20260101T000000-9')
    site.finished('sub-01', run='20260102T000000-1')
    site.finished('sub-02', run='20260101T000000-9')
    site.finished('sub-02', 'failed', run='20260102T000000-1', code=65)
    site.finished('sub-03')
    (site.out / 'sub-03.html').unlink()
    assert site.states([*LABELS, 'sub-04']) == [
        State('sub-01', 'done', '', 0),
        State('sub-02', 'failed', 'input check: the "file" is cut short.', 65),
        State('sub-03', 'missing', 'a run of it was done, but there is no sub-03.html.', 1),
        State('sub-04', 'missing', 'no run of it has come to an end.', 1),
    ]


def test_outputs_without_numbers_are_not_done(site):
    site.finished('sub-01')
    next(site.out.glob('sub-01/**/*_stats.tsv')).unlink()
    (state,) = site.states(['sub-01'])
    assert state.status == 'missing'
    assert 'sub-01/**/*_desc-summary_stats.tsv' in state.reason


def test_a_visit_that_was_added_after_the_run_is_not_done(site):
    site.image('ses-1')
    site.finished('sub-01')
    assert [state.status for state in site.states(['sub-01'])] == ['done']
    site.image('ses-2')
    (state,) = site.states(['sub-01'])
    assert state.status == 'missing'
    assert 'there is no sub-01/ses-2/anat/sub-01_ses-2_desc-summary_stats.tsv' in state.reason
    assert [item.status for item in site.states(['sub-01'], '--session-label', '1')] == ['done']
    assert site.call('--participant-label', '01') == 0
    assert (site.folder / 'participants.txt').read_text().split() == ['sub-01']


@pytest.mark.parametrize(
    ('name', 'options', 'status'),
    [
        ('T1w', {}, 'missing'),
        ('part-mag_FLAIR', {}, 'missing'),
        ('T2w', {}, 'done'),
        ('ce-gad_T1w', {}, 'done'),
        ('part-phase_FLAIR', {}, 'done'),
        ('acq-2D_FLAIR', {'flair': {'acquisition': '3D'}}, 'done'),
        ('acq-3D_FLAIR', {'flair': {'acquisition': '3D'}}, 'missing'),
    ],
)
def test_visits_that_msapp_leaves_out_are_not_waited_for(site, tmp_path, name, options, status):
    filters = tmp_path / 'filters.json'
    filters.write_text(json.dumps(options))
    site.image('ses-1', 'acq-3D_FLAIR')
    site.image('ses-2', name)
    site.finished('sub-01')
    given = ['--bids-filter-file', str(filters)]
    assert [state.status for state in site.states(['sub-01'], *given)] == [status]
    # The images are whole for msapp itself, which reads them.
    for path in site.bids.glob('sub-01/*/anat/*.nii.gz'):
        nib.save(
            nib.Nifti1Image(np.eye(64, dtype=np.float32)[..., None] + np.ones(64), np.eye(4)), path
        )
    settings = read_settings(site.bids, site.out, [*given, '--participant-label', '01'])
    (plan,) = plan_participants(settings)
    assert plan.error is None
    assert ('ses-2' in [visit.session for visit in plan.visits]) == (status == 'missing')


def test_a_dataset_that_cannot_be_read_any_more_says_so(site):
    site.finished('sub-01')
    shutil.rmtree(site.bids / 'sub-01')
    (site.bids / 'sub-01').symlink_to('sub-01')
    (state,) = site.states(['sub-01'])
    assert state.status == 'missing'
    assert 'sub-01: cannot be read' in state.reason


def test_a_run_that_was_refused_does_not_hide_the_one_that_was_at_work(site):
    first, second = '20260101T100000-1', '20260101T100500-2'
    site.finished('sub-01', 'not run', run=second, code=75, steps=0)
    assert [state.status for state in site.states(['sub-01'])] == ['failed']
    site.finished('sub-01', run=first)
    assert [state.status for state in site.states(['sub-01'])] == ['done']
    # One that was interrupted has steps, and some of them are not done.
    site.finished('sub-01', 'not run', run=second, code=130, steps=9)
    assert [state.status for state in site.states(['sub-01'])] == ['failed']


def test_a_group_page_older_than_the_newest_run_is_not_done(site, capsys):
    for label in LABELS:
        site.finished(label)
    page = site.out / 'group.html'
    page.touch()
    assert (site.call('--status'), site.call()) == (0, 0)
    assert site.submitted() == []
    os.utime(page, (0, 0))
    capsys.readouterr()
    assert site.call('--status') == 1
    said = capsys.readouterr().out
    assert 'missing: group level: group.html is older than the newest run.' in said
    assert '3 participants: 3 done.\nTo submit again' in said
    assert site.call() == 0
    assert [call[1:] for call in site.submitted()] == [[str(site.folder / 'group.sbatch')]]
    site.program('squeue', '#!/bin/sh\necho 101 N/A\n')
    assert site.call() == 0
    assert len(site.submitted()) == 1
    capsys.readouterr()
    assert site.call('--status') == 1
    assert 'queued: group level: waits or runs as 101' in capsys.readouterr().out


def test_status_goes_by_the_options_of_the_newest_submission(site, capsys):
    for label in LABELS:
        site.image('ses-1', label=label)
    assert site.call('--', '--session-label', '1') == 0
    for label in LABELS:
        site.finished(label)
        site.image('ses-2', label=label)
    (site.out / 'group.html').touch()
    assert site.call('--status') == 0
    assert site.call('--status', '--', '--session-label', '2') == 1
    assert site.call('--status', '--', '--session-label', '1', '2') == 1


def test_who_has_none_of_the_sessions_asked_for_is_not_submitted(site, capsys):
    for label in LABELS:
        site.image('ses-1', label=label)
    site.image('ses-2')
    assert site.call('--', '--session-label', '2') == 0
    assert (site.folder / 'participants.txt').read_text().split() == ['sub-01']
    site.finished('sub-01')
    (site.out / 'sub-01/ses-2/anat').mkdir(parents=True, exist_ok=True)
    (site.out / 'sub-01/ses-2/anat/sub-01_ses-2_desc-summary_stats.tsv').touch()
    (site.out / 'group.html').touch()
    assert site.call('--status') == 0
    assert '1 participants: 1 done.' in capsys.readouterr().out


def test_a_killed_run_is_not_the_one_before_that_was_done(site):
    site.finished('sub-01', run='20260101T000000-9')
    killed = site.out / 'logs' / '20260102T000000-1'
    killed.mkdir()
    (killed / 'participants.txt').write_text('sub-01\n')
    (state,) = site.states(['sub-01'])
    assert (state.status, state.exit_code) == ('missing', 1)
    assert 'its last run did not end' in state.reason


@pytest.mark.parametrize('steps', [0, 9])
def test_a_page_that_could_not_be_written_is_mended_by_a_newer_one(site, steps):
    page = site.out / 'sub-01.html'
    site.finished('sub-01', run='20260101T000000-1')
    site.finished('sub-01', 'failed', run='20260102T000000-1', code=70, steps=steps, step='report')
    os.utime(page, (0, 0))
    # A run of pages alone left the results as they were, and the page that tells of them.
    states = [State('sub-01', 'failed', 'report: the "file" is cut short.', 70)]
    assert site.states(['sub-01']) == (states if steps else [State('sub-01', 'done', '', 0)])
    page.unlink()
    page.mkdir()
    (state,) = site.states(['sub-01'])
    assert state.status == ('failed' if steps else 'missing')
    page.rmdir()
    page.touch()
    os.utime(page, ns=(2**62, 2**62))
    assert site.states(['sub-01']) == [State('sub-01', 'done', '', 0)]


def test_status_names_the_log_and_the_command_to_go_on(site, capsys):
    flags = ['--mem=3G', '--sbatch-option=--qos=high', '--', '--sloppy']
    assert site.call(*flags) == 0
    log = site.folder / '101_2.out'
    log.touch()
    capsys.readouterr()
    site.finished('sub-01')
    assert site.call('--status') == 1
    said = capsys.readouterr().out.splitlines()
    command = shlex.join(['msapp-slurm', str(site.bids), str(site.out), *flags])
    assert said == [
        'done: sub-01',
        f'missing: sub-02: no run of it has come to an end. See {log}',
        'missing: sub-03: no run of it has come to an end.',
        '3 participants: 1 done, 2 missing.',
        f'To submit again who is not done: {command}',
    ]
    assert site.call('--status', '--participant-label', '01') == 0
    assert capsys.readouterr().out == 'done: sub-01\n1 participants: 1 done.\n'


def test_one_reason_for_all_is_the_exit_code(site):
    for label in LABELS:
        site.finished(label, 'failed', code=65)
    assert site.call('--status') == 65
    site.finished('sub-01', run='20260102T000000-1')
    assert site.call('--status') == 1


def test_wait_ends_with_the_jobs_and_tells_who_is_done(site, capsys, monkeypatch):
    asked = site.bin / 'asked'
    site.program('squeue', f'#!/bin/sh\n[ -e {asked} ] || echo 101 1\ntouch {asked}\n')
    monkeypatch.setattr('msapp.cli.slurm_status.WAIT_FIRST_S', 0.01)
    site.finished('sub-01')
    assert site.call('--wait') == 1
    assert asked.exists()
    assert '3 participants: 1 done, 2 missing.' in capsys.readouterr().out


# --- What cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--participant-label', '9'], '--participant-label: sub-9 not found in'),
        (['--sbatch-option=qos=a'], 'write it as in --sbatch-option=--qos=long'),
        (['--image', 'no.sif'], 'no.sif: no such file.'),
        (['--', '--work-dir', 'w'], 'after "--": --work-dir is set by msapp-slurm itself'),
        (['--', '--participant-label', '1'], 'after "--": --participant-label is set by'),
        (['--', 'group'], 'after "--": a level is set by msapp-slurm itself'),
        (['--', '--random-seed', '1', '--nprocs', '0'], '--nprocs: '),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_submitted(site, capsys, arguments, message):
    assert site.call(*arguments) == 2
    assert message in capsys.readouterr().err
    assert site.submitted() == []


def test_an_unknown_option_of_msapp_is_refused_here_and_not_by_every_task(site, capsys):
    with pytest.raises(SystemExit) as stop:
        site.call('--', '--slopy-typo')
    assert stop.value.code == 2
    assert '--slopy-typo' in capsys.readouterr().err
    assert site.submitted() == []


def test_a_folder_without_participants_is_no_dataset(site, capsys, tmp_path):
    assert main([str(tmp_path / 'none'), str(site.out)]) == 2
    assert 'holds no sub-* folder' in capsys.readouterr().err


def test_an_output_inside_the_dataset_is_refused(site, capsys):
    assert main([str(site.bids), str(site.bids / 'out')]) == 2
    assert 'lies inside the input dataset' in capsys.readouterr().err


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
def test_participants_without_a_folder_are_left_out_with_a_warning(site, capsys, encoding):
    (site.bids / 'participants.tsv').write_text(
        'participant_id\tage\nsub-01\t30\nsub-77\t40\n', encoding=encoding
    )
    assert site.call() == 0
    assert 'participants.tsv names sub-77, without a folder' in capsys.readouterr().err
    assert (site.folder / 'participants.txt').read_text().split() == list(LABELS)


def test_a_full_disk_is_told_with_what_to_do(site, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'the disk')

    monkeypatch.setattr('msapp.cli.slurm.fill', refuse)
    assert site.call() == 1
    told = 'msapp-slurm: error: the disk: No space left on device. Free some space'
    assert capsys.readouterr().err.startswith(told)


def test_without_sbatch_the_exit_code_is_69_but_status_still_works(site, capsys):
    (site.bin / 'sbatch').unlink()
    assert site.call() == 69
    assert 'sbatch is not on PATH' in capsys.readouterr().err
    assert site.call('--status') == 1
    assert not (site.out / 'logs').exists()


def test_what_sbatch_refuses_is_told_with_the_jobs_that_are_in_the_queue(site, capsys):
    refuse = '[[ $* != *group* ]] || { echo "sbatch: error: no such qos" >&2; exit 1; }'
    site.program('sbatch', then=refuse)
    assert site.call() == 2
    said = capsys.readouterr().err
    assert 'it says: sbatch: error: no such qos.' in said
    assert 'to take back, scancel 101' in said


def test_help_loads_nothing_that_takes_long():
    code = 'import sys; from msapp.cli.slurm import build_parser; build_parser().format_help();'
    code += 'print({"nibabel", "nipype", "numpy", "pandas", "pydantic"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('set()\n', '')
