"""What is read of the records of runs: who ended how, and whose results are on disk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from msapp.engine.progress import Progress
from msapp.engine.record import Outcome, Recorder
from msapp.provenance import PAGE_STEP, PARTICIPANTS_FILE, TIMINGS_FILE, write_summary
from msapp.runs import NOT_ENDED, NOT_ENDED_ERROR, Run, find_runs, last_runs, read_runs

FAILED = Outcome('sub-01', 'failed', 9, 3, 2, 'no\nmemory', 'ses-1 n4', None, 1.0, 1)
DONE = Outcome('sub-01', 'done', 9, 9, 0, None, None, None, 1.0, 0)
INPUT = replace(FAILED, steps_total=0, steps_run=0, steps_reused=0, error='no image', exit_code=65)
REFUSED = replace(INPUT, status='not run', error='another run is at work', failed_step=None)
NO_PAGE = replace(INPUT, error='is a folder', failed_step=PAGE_STEP)


def unfinished(root):
    """Give the errors of those whose results are not those of their last run."""
    return {name: run.error for name, run in last_runs(root).items() if not run.whole}


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / 'logs' / '1'
    write_summary(folder, [FAILED, replace(DONE, participant='sub-02')])
    assert list(read_runs(tmp_path)) == [
        Run(folder, 'sub-01', 'failed', 'no memory', 'ses-1 n4', 1, 9, 5),
        Run(folder, 'sub-02', 'done', '', '', 0, 9, 9),
    ]


def test_the_run_that_made_results_is_the_last_that_took_steps(tmp_path):
    runs = [
        ('20260101T000000-ff', FAILED),
        ('20260102T000000-aa', FAILED),
        ('20260103T000000-00', replace(FAILED, participant='sub-02')),
        ('20260104T000000-00', INPUT),
    ]
    for name, result in runs:
        write_summary(tmp_path / 'logs' / name, [result])
    assert find_runs(tmp_path, 'sub-01')[0].folder == tmp_path / 'logs' / '20260102T000000-aa'
    assert find_runs(tmp_path, 'sub-02')[0].folder == tmp_path / 'logs' / '20260103T000000-00'
    assert find_runs(tmp_path, 'sub-01')[1].folder.name == '20260101T000000-ff'
    assert find_runs(tmp_path, 'sub-02')[1] is None
    assert find_runs(tmp_path, 'sub-03') == (None, None)


def test_a_run_that_stopped_before_a_participant_did_not_make_its_results(tmp_path):
    untouched = replace(FAILED, status='not run', steps_run=0, steps_reused=0)
    for name, result in (('1', FAILED), ('2', untouched)):
        write_summary(tmp_path / 'logs' / name, [result])
    assert find_runs(tmp_path, 'sub-01')[0].folder.name == '1'


@pytest.mark.parametrize(
    ('second', 'expected'),
    [
        (FAILED, {'sub-01': 'no memory'}),
        (DONE, {}),
        (replace(FAILED, status='not run', error='stopped'), {'sub-01': 'stopped'}),
        (REFUSED, {}),
        (INPUT, {'sub-01': 'no image'}),
        (NO_PAGE, {}),
        (replace(FAILED, failed_step=PAGE_STEP), {}),
    ],
)
def test_who_did_not_end_well_is_known_by_the_last_run(tmp_path, second, expected):
    write_summary(tmp_path / 'logs' / '1', [DONE])
    write_summary(tmp_path / 'logs' / '2', [second])
    assert unfinished(tmp_path) == expected


@pytest.mark.parametrize('second', [REFUSED, NO_PAGE])
def test_a_run_that_says_nothing_of_the_results_counts_where_there_is_no_other(tmp_path, second):
    write_summary(tmp_path / 'logs' / '2', [second])
    assert last_runs(tmp_path)['sub-01'].folder.name == '2'
    write_summary(tmp_path / 'logs' / '1', [FAILED])
    assert last_runs(tmp_path)['sub-01'].folder.name == '1'


# --- Runs that did not end ----------------------------------------------------------------------


def step(workflow):
    """Make a step as a `Recorder` sees it."""
    return SimpleNamespace(fullname=f'whole.{workflow}.n4', output_dir=lambda: workflow)


def test_a_run_that_was_killed_is_known_by_whom_it_began_with_and_their_steps(tmp_path):
    for label in ('sub-01', 'sub-02'):
        write_summary(tmp_path / 'logs' / f'1-{label}', [replace(DONE, participant=label)])
    folder = tmp_path / 'logs' / '2'
    folder.mkdir()
    names = {'sub_01': 'sub-01', 'sub_02': 'sub-02'}
    steps = [step(name) for name in (*names, 'shared')]
    recorder = Recorder(names, folder, Progress())
    recorder.begin(steps)
    error = dict.fromkeys(('sub-01', 'sub-02'), NOT_ENDED_ERROR)
    assert unfinished(tmp_path) == error
    assert find_runs(tmp_path, 'sub-01')[0].folder.name == '1-sub-01', 'no step of it has ended'
    for ended in (steps[0], steps[2]):
        recorder.finished(ended, reused=False)
    assert list(read_runs(tmp_path))[:2] == [
        Run(folder, 'sub-01', NOT_ENDED, NOT_ENDED_ERROR, steps=1, taken=1),
        Run(folder, 'sub-02', NOT_ENDED, NOT_ENDED_ERROR),
    ]
    assert find_runs(tmp_path, 'sub-01')[0].folder.name == '2'
    assert find_runs(tmp_path, 'sub-02')[0].folder.name == '1-sub-02'
    assert unfinished(tmp_path) == error
    write_summary(tmp_path / 'logs' / '3', [DONE])
    assert unfinished(tmp_path) == {'sub-02': NOT_ENDED_ERROR}


def test_what_is_cut_off_or_of_no_participant_tells_nothing(tmp_path):
    folder = tmp_path / 'logs' / '1'
    folder.mkdir(parents=True)
    rows = 'participant\tstep\tstatus\nall\tx\tdone\nsub-01\tn4\tfailed\nsub-02\tn4'
    (folder / TIMINGS_FILE).write_text(rows)
    assert [(run.participant, run.steps, run.taken) for run in read_runs(tmp_path)] == [
        ('sub-01', 1, 0)
    ]
    (folder / PARTICIPANTS_FILE).write_text('sub-03\nsub-04')
    assert list(last_runs(tmp_path)) == ['sub-01', 'sub-03']
