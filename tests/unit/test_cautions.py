"""What the group level says before its numbers are read, and whom it takes."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from msapp.bids import dataset
from msapp.bids.dataset import write_description
from msapp.cli.app import _validate_input, main
from msapp.engine.record import Outcome
from msapp.errors import InputError, MissingDependencyError
from msapp.provenance import write_run_record, write_summary
from msapp.resources import Limits
from msapp.settings import Settings
from msapp.stats.columns import VISITS
from msapp.stats.tables import collect_group, write_table
from msapp.workflows.group import run_group

DONE = Outcome('sub-01', 'done', 9, 9, 0, None, None, None, 1.0, 0)


def visit(root, participant, session='ses-1', **values):
    """Write the summary of one visit, and its folder in the input."""
    name = '_'.join(filter(None, (participant, session)))
    path = root / 'out' / participant / (session or '') / 'anat' / f'{name}_desc-summary_stats.tsv'
    keys = {'participant_id': participant, 'session_id': session}
    write_table(path, [dict.fromkeys(VISITS) | keys | values], VISITS)
    (root / 'bids' / participant / (session or '') / 'anat').mkdir(parents=True)


def settings(root, *, levels=('group',), **values):
    return Settings(bids_dir=root / 'bids', output_dir=root / 'out', levels=levels, **values)


def record(root, name, *participants, **values):
    """Write the record of a run, with the settings in ``values``."""
    folder = root / 'out' / 'logs' / name
    write_run_record(folder, settings(root, **values), ['msapp'], Limits(1, 1.0))
    write_summary(folder, [replace(DONE, participant=label) for label in participants])
    return folder


def problems(root, **values):
    return collect_group(root / 'out', **values).problems


# --- Visits that cannot be compared -------------------------------------------------------------


def test_visits_whose_lesions_are_from_other_contrasts_are_named(tmp_path):
    for label, contrasts in (('sub-01', 'FLAIR,T1w'), ('sub-02', 'FLAIR'), ('sub-03', 'FLAIR')):
        visit(tmp_path, label, lesion_contrasts=contrasts)
    visit(tmp_path, 'sub-04')
    (problem,) = problems(tmp_path)
    assert problem.startswith('lesion_contrasts: not the same for all visits: FLAIR (n = 2), FLAIR')
    assert 'FLAIR and T1w (n = 1). Their numbers cannot be compared.' in problem


@pytest.mark.parametrize(('sloppy', 'count'), [((True, True), 3), ((True, False), 1)])
def test_a_study_made_with_sloppy_is_named_wholly_or_partly(tmp_path, sloppy, count):
    for label, session in (('sub-01', 'ses-1'), ('sub-02', 'ses-1'), ('sub-02', 'ses-2')):
        visit(tmp_path, label, session)
    for label, value in zip(('sub-01', 'sub-02'), sloppy, strict=True):
        record(tmp_path, label, label, sloppy=value)
    (problem,) = problems(tmp_path)
    assert problem.startswith(f'--sloppy: {count} of 3 visits were made with it')


def test_settings_that_change_numbers_are_named_with_how_many_visits_have_them(tmp_path):
    for label in ('sub-01', 'sub-02', 'sub-03'):
        visit(tmp_path, label)
    record(tmp_path, '1', 'sub-01', 'sub-02', tasks=('longitudinal', 'lesions'))
    record(tmp_path, '2', 'sub-03', flips=True, random_seed=3)
    flips, seed = problems(tmp_path)
    assert flips.startswith('--flips: not the same for all visits: no (n = 2), yes (n = 1). Their')
    assert '--random-seed: not the same for all visits: 0 (n = 2), 3 (n = 1)' in seed


def test_settings_that_change_no_number_are_not_named(tmp_path):
    for label in ('sub-01', 'sub-02'):
        visit(tmp_path, label)
    record(tmp_path, '1', 'sub-01')
    record(
        tmp_path,
        '2',
        'sub-02',
        participant_label=('02',),
        nprocs=2,
        omp_nthreads=2,
        mem_gb=3.0,
        low_mem=True,
        device='cpu',
        work_dir=tmp_path / 'work',
        output_spaces=('orig',),
        skip_bids_validation=True,
        write_graph=True,
    )
    assert problems(tmp_path) == ()


def test_other_code_of_the_same_version_is_named(tmp_path):
    for label in ('sub-01', 'sub-02'):
        visit(tmp_path, label)
        folder = record(tmp_path, label, label)
    (folder / 'versions.json').write_text('{"msapp": "0.1.0", "code": "abc"}')
    (problem,) = problems(tmp_path)
    assert problem.startswith('msapp: not the same for all visits: 0.1.0 ')
    assert '0.1.0 abc (n = 1)' in problem


def test_a_visit_is_of_the_newest_run_that_took_its_session(tmp_path):
    for session in ('ses-1', 'ses-2'):
        visit(tmp_path, 'sub-01', session)
    record(tmp_path, '1', 'sub-01', sloppy=True)
    record(tmp_path, '2', 'sub-01', session_label=('2',))
    (problem,) = problems(tmp_path)
    assert problem.startswith('--sloppy: 1 of 2 visits')
    record(tmp_path, '3', 'sub-01')
    assert problems(tmp_path) == ()


def record_killed(root, name, **values):
    """Write the record of a run of ``sub-01`` that was killed after a step."""
    folder = record(root, name, **values)
    (folder / 'summary.tsv').unlink()
    steps = 'participant\tstep\tstatus\nsub-01\tn4\tdone\n'
    (folder / 'timings.tsv').write_text(steps, encoding='utf-8')


KILLED = (
    'sub-01: its last run did not end well (it was killed, or is still at work). Numbers of it '
    'here are of an earlier run, or not all there.'
)


@pytest.mark.parametrize(
    ('sloppy', 'words'),
    [
        ((True, False), 'were, or may have been, made'),
        ((False, True), 'were, or may have been, made'),
        ((True, True), 'were made'),
        ((False, False), None),
    ],
)
def test_a_run_that_was_killed_may_have_made_the_files(tmp_path, sloppy, words):
    visit(tmp_path, 'sub-01')
    record(tmp_path, '1', 'sub-01', sloppy=True)
    record(tmp_path, '2', 'sub-01', sloppy=sloppy[0])
    record_killed(tmp_path, '3', sloppy=sloppy[1])
    *told, killed = problems(tmp_path)
    assert killed == KILLED
    assert [problem.partition(' with it')[0] for problem in told] == (
        [f'--sloppy: 1 of 1 visits {words}'] if words else []
    )


def test_settings_that_visits_may_have_been_made_with_are_named(tmp_path):
    visit(tmp_path, 'sub-01')
    record(tmp_path, '1', 'sub-01')
    record_killed(tmp_path, '2', flips=True)
    flips, killed = problems(tmp_path)
    assert flips.startswith('--flips: not known for all numbers: no or yes (n = 1), for a run that')
    assert killed == KILLED


@pytest.mark.parametrize('steps', [0, 9])
def test_a_page_that_could_not_be_written_is_no_failure_of_the_numbers(tmp_path, steps):
    visit(tmp_path, 'sub-01')
    record(tmp_path, '1', 'sub-01')
    failure = {'status': 'failed', 'error': 'is a folder', 'failed_step': 'report'}
    counts = {'steps_total': steps, 'steps_run': steps}
    folder = record(tmp_path, '2')
    write_summary(folder, [replace(DONE, **failure, **counts)])
    assert problems(tmp_path) == ()


@pytest.mark.parametrize('damage', ['settings.toml', 'versions.json', None])
def test_visits_whose_run_is_not_known_are_counted(tmp_path, damage):
    for label in ('sub-01', 'sub-02'):
        visit(tmp_path, label)
    record(tmp_path, '1', 'sub-01')
    if damage:
        (record(tmp_path, '2', 'sub-02') / damage).write_text('[')
    (problem,) = problems(tmp_path)
    assert problem.startswith('1 of 2 visits: ')
    assert 'tells no run that made them' in problem


# --- Whom the group level takes -----------------------------------------------------------------


def test_only_the_participants_and_sessions_asked_for_are_taken(tmp_path):
    for label in ('sub-01', 'sub-02', 'sub-03'):
        for session in ('ses-1', 'ses-2'):
            visit(tmp_path, label, session, brain_extraction=label)
    (tmp_path / 'out' / 'sub-04').mkdir()
    tables = collect_group(tmp_path / 'out', participants=('01',), sessions=('ses-2',))
    assert tables.visits[['participant_id', 'session_id']].values.tolist() == [['sub-01', 'ses-2']]
    assert tables.problems == ()
    assert tables.limited_to == ('sub-01', 'ses-2')


def test_those_asked_for_without_results_are_named(tmp_path):
    visit(tmp_path, 'sub-01')
    found = problems(tmp_path, participants=('01', '07', 'sub-08'), sessions=('1', '9'))
    assert [problem.partition(' found')[0] for problem in found] == [
        '--participant-label: no results of sub-07, sub-08',
        '--session-label: no results of ses-9',
    ]


def test_failures_of_others_than_those_asked_for_are_not_told(tmp_path):
    visit(tmp_path, 'sub-01')
    visit(tmp_path, 'sub-02')
    failed = replace(DONE, participant='sub-02', status='failed', error='no memory')
    write_summary(tmp_path / 'out' / 'logs' / '1', [failed])
    assert problems(tmp_path, participants=('01',)) == ()
    assert len(problems(tmp_path)) == 1


def test_where_nobody_asked_for_has_results_the_group_level_refuses(tmp_path):
    visit(tmp_path, 'sub-01')
    with pytest.raises(InputError, match='no visit of sub-07, ses-1 was processed yet') as caught:
        run_group(settings(tmp_path, participant_label=('07',), session_label=('1',)))
    assert caught.value.exit_code == 65
    assert '--participant-label: no results of sub-07 found' in str(caught.value)
    assert not (tmp_path / 'out' / 'group.html').exists()


def test_what_the_input_does_not_have_any_more_is_named_and_counted(tmp_path):
    for label, session in (('sub-01', 'ses-1'), ('sub-01', 'ses-2'), ('sub-02', 'ses-1')):
        visit(tmp_path, label, session)
    visit(tmp_path, 'sub-03', None)
    assert problems(tmp_path, bids_dir=tmp_path / 'bids') == ()
    for gone in ('sub-01/ses-2', 'sub-02', 'sub-03/anat'):
        (tmp_path / 'bids' / gone).rename(tmp_path / gone.replace('/', ''))
    tables = collect_group(tmp_path / 'out', bids_dir=tmp_path / 'bids')
    (problem,) = tables.problems
    assert 'does not hold sub-01 ses-2, sub-02, sub-03 without a session, of which' in problem
    assert len(tables.visits) == 4


def test_the_page_and_the_terminal_say_whom_the_numbers_are_of(tmp_path, capsys):
    visit(tmp_path, 'sub-01', mni_alignment=1.0)
    visit(tmp_path, 'sub-02')
    write_description(tmp_path / 'out', tmp_path / 'bids')
    folders = [str(tmp_path / name) for name in ('bids', 'out')]
    assert main([*folders, 'group', '--participant-label', '01']) == 0
    said = capsys.readouterr()
    assert said.out.startswith('group: 1 visits. Limited to sub-01. Report: ')
    assert 'msapp: warning: sub-01, ses-1: its match with the MNI template is weak' in said.err
    page = (tmp_path / 'out' / 'group.html').read_text()
    assert '<p>Limited to sub-01, as' in page
    assert 'sub-02' not in page


# --- Folders and programs -----------------------------------------------------------------------


@pytest.mark.parametrize('there', [False, True])
def test_a_mistyped_output_is_refused_and_nothing_is_made(tmp_path, capsys, there):
    out = tmp_path / 'other'
    (tmp_path / 'bids').mkdir()
    if there:
        out.mkdir()
        (out / 'dataset_description.json').write_text('{"GeneratedBy": [{"Name": "other"}]}')
    before = sorted(tmp_path.rglob('*'))
    assert main([str(tmp_path / 'bids'), str(out), 'group']) == 65
    assert sorted(tmp_path.rglob('*')) == before
    assert f'{out}: no visit was processed yet' in capsys.readouterr().err


def test_a_validator_that_is_not_installed_is_named_in_one_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dataset.shutil, 'which', lambda *_args, **_kwargs: None)
    with pytest.raises(MissingDependencyError, match='pip install bids-validator-deno'):
        dataset.validate(tmp_path)
    with caplog.at_level(logging.INFO, logger='test'):
        _validate_input(settings(tmp_path), logging.getLogger('test'))
    (line,) = caplog.messages
    assert line.startswith('The input was not validated: the BIDS validator is not installed.')
