"""How a run ends: whose settings a report tells, and the exit code."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from msapp.bids import query
from msapp.bids.query import Participant, Visit
from msapp.cli.outcomes import as_made, exit_code, left_out, write_reports
from msapp.errors import InputError
from msapp.models.registry import models_for, with_confirming
from msapp.provenance import describe_models, versions
from msapp.settings import Settings

LOGGER = logging.getLogger('test')
SUMMARY = (
    'participant_id\tstatus\terror\tsteps_total\tsteps_run\tsteps_reused\n'
    'sub-01\tdone\tn/a\t12\t12\t0\n'
)


@pytest.fixture
def settings(tmp_path):
    return Settings(
        bids_dir=tmp_path / 'bids',
        output_dir=tmp_path / 'out',
        levels=('participant',),
        reports_only=True,
        random_seed=7,
    )


def record(settings, text, name='run-1') -> Path:
    folder = settings.output_dir / 'logs' / name
    folder.mkdir(parents=True)
    (folder / 'summary.tsv').write_text(SUMMARY, encoding='utf-8')
    (folder / 'settings.toml').write_text(text, encoding='utf-8')
    used = describe_models(with_confirming(models_for(settings)))
    (folder / 'models.json').write_text(json.dumps(used), encoding='utf-8')
    (folder / 'versions.json').write_text(json.dumps(versions()), encoding='utf-8')
    return folder


@pytest.fixture(autouse=True)
def planned(monkeypatch):
    """Plan a participant of whatever is asked for: whose choice of images it is can be seen."""

    def plan(settings):
        return [Participant(label, error=settings.session_label) for label in ('sub-01',)]

    monkeypatch.setattr(query, 'plan_participants', plan)


GIVEN = Participant('sub-01', error='planned by this command')


def test_a_report_tells_the_settings_and_images_of_the_run_that_made_the_files(settings, tmp_path):
    changes = {'random_seed': 3, 'bids_dir': tmp_path / 'elsewhere', 'session_label': ('2',)}
    record(settings, settings.model_copy(update=changes).to_toml())
    made = as_made(settings, GIVEN, LOGGER)
    assert made.settings.random_seed == 3
    assert made.settings.bids_dir == settings.bids_dir
    assert made.participant == Participant('sub-01', error=('2',))
    assert made.versions == versions()
    assert made.errors == made.warnings == []


def test_a_report_tells_what_failed_in_the_run_that_made_the_files(settings):
    folder = record(settings, settings.to_toml())
    (folder / 'summary.tsv').write_text(SUMMARY.replace('done\tn/a', 'failed\tno memory'))
    assert as_made(settings, GIVEN, LOGGER).errors == ['no memory']


def test_a_run_that_did_not_end_well_may_have_left_results_of_the_run_before(settings):
    record(settings, settings.to_toml())
    folder = record(settings, settings.model_copy(update={'sloppy': True}).to_toml(), 'run-2')
    (folder / 'summary.tsv').write_text(SUMMARY.replace('done\tn/a', 'failed\tno memory'))
    made = as_made(settings, GIVEN, LOGGER)
    assert made.settings.sloppy
    (warning,) = made.warnings
    assert warning.startswith(
        'The last run (run-2) did not end well: what it did not write is of run'
    )


def test_a_page_that_could_not_be_written_is_no_failure_of_the_results(settings):
    folder = record(settings, settings.to_toml())
    summary = 'participant_id\tstatus\tfailed_step\terror\tsteps_total\tsteps_run\n'
    (folder / 'summary.tsv').write_text(f'{summary}sub-01\tfailed\treport\tis a folder\t12\t12\n')
    assert as_made(settings, GIVEN, LOGGER)[3:] == ([], [])


@pytest.mark.parametrize('text', [None, 'not = [toml', 'random_seed = "many"\n', 'colour = 1\n'])
def test_where_they_are_not_known_the_log_says_whose_are_told(settings, caplog, text):
    if text is not None:
        record(settings, text)
    made = as_made(settings, GIVEN, LOGGER)
    assert made[:4] == (settings, GIVEN, None, [])
    words = 'The report tells methods and versions of this command'
    assert f'sub-01: {words}' in caplog.text
    assert made.warnings[0].startswith(words)


@pytest.mark.parametrize('text', [None, '{', '{}'])
def test_other_models_than_are_installed_are_warned_of_and_settings_stay(settings, text):
    folder = record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    used = versions() | {'antspyx': '0.0.1'}
    (folder / 'versions.json').write_text(json.dumps(used), encoding='utf-8')
    (folder / 'models.json').unlink()
    if text is not None:
        (folder / 'models.json').write_text(text, encoding='utf-8')
    made = as_made(settings, GIVEN, LOGGER)
    assert made.settings.random_seed == 3
    assert made.versions == used
    (warning,) = made.warnings
    assert warning.startswith('What the page says of networks is of those that are installed now')
    assert 'models.json: ' in warning


def test_a_model_that_is_not_installed_any_more_leaves_only_the_settings_of_now(settings):
    record(settings, settings.model_copy(update={'lesion_model': 'mine'}).to_toml())
    made = as_made(settings, GIVEN, LOGGER)
    assert made[:4] == (settings, GIVEN, None, [])
    assert made.warnings[0].startswith('The report tells methods and versions of this command')


def test_versions_are_those_of_the_run_that_made_the_files(settings):
    folder = record(settings, settings.to_toml())
    used = versions() | {'antspyx': '0.0.1', 'code': 'abc'}
    (folder / 'versions.json').write_text(json.dumps(used), encoding='utf-8')
    made = as_made(settings, GIVEN, LOGGER)
    assert made.versions == used
    (warning,) = made.warnings
    assert warning.startswith(f'The files were made by other code (msapp {used["msapp"]} abc) than')


@pytest.mark.parametrize('text', [None, '{', '3'])
def test_a_run_without_its_versions_is_not_known(settings, text):
    path = record(settings, settings.to_toml()) / 'versions.json'
    path.unlink()
    if text is not None:
        path.write_text(text, encoding='utf-8')
    made = as_made(settings, GIVEN, LOGGER)
    assert made.versions is None
    assert 'versions.json: cannot be read' in made.warnings[0]


def test_the_derivatives_of_a_run_are_told_unless_this_command_gives_others(settings, tmp_path):
    folders = (tmp_path / 'then', tmp_path / 'now')
    record(settings, settings.model_copy(update={'derivatives': folders[:1]}).to_toml())
    assert as_made(settings, GIVEN, LOGGER).settings.derivatives == (folders[0],)
    given = settings.model_copy(update={'derivatives': (folders[1],)})
    assert as_made(given, GIVEN, LOGGER).settings.derivatives == (folders[1],)


def test_settings_of_another_participant_are_not_taken(settings, caplog):
    record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    other = Participant('sub-02')
    assert as_made(settings, other, LOGGER)[:4] == (settings, other, None, [])
    assert 'sub-02' in caplog.text


# --- Pages --------------------------------------------------------------------------------------


DONE = replace(left_out('sub-01', 'done', InputError('')), error=None, exit_code=0)


def test_a_page_that_fails_costs_nobody_else_and_is_a_failure(settings, monkeypatch, caplog):
    def fail(participant, *_args, **_values):
        if participant.label == 'sub-02':
            raise FileNotFoundError(2, 'No such file', 'x.nii.gz')
        return settings.output_dir / f'{participant.label}.html'

    monkeypatch.setattr('msapp.workflows.reports.write_report', fail)
    labels = ('sub-01', 'sub-02', 'sub-03')
    outcomes = write_reports(
        settings.model_copy(update={'reports_only': False}),
        [Participant(label) for label in labels],
        [replace(DONE, participant=label) for label in labels],
        {},
        LOGGER,
    )
    assert [item.status for item in outcomes] == ['done', 'failed', 'done']
    assert outcomes[1].failed_step == 'report'
    assert outcomes[1].exit_code == 70
    assert outcomes[1].error == 'x.nii.gz: No such file.'
    assert 'sub-02: no report. x.nii.gz: No such file.' in caplog.text


def test_an_image_that_is_gone_is_told_on_the_page(settings, tmp_path):
    visit = Visit('ses-1', {'T1w': tmp_path / 'sub-01_ses-1_T1w.nii.gz'})
    given = settings.model_copy(update={'reports_only': False})
    (outcome,) = write_reports(given, [Participant('sub-01', (visit,))], [DONE], {}, LOGGER)
    assert outcome.status == 'done'
    page = (settings.output_dir / 'sub-01.html').read_text(encoding='utf-8')
    assert 'sub-01_ses-1_T1w.nii.gz</td><td></td><td>Voxel size not known: the file does' in page


@pytest.mark.parametrize('label', ['sub_01', 'sub-01_old', 'sub-'])
def test_a_misnamed_folder_has_no_page(settings, label):
    given = settings.model_copy(update={'reports_only': False})
    bad = left_out(label, 'failed', InputError('rename it'), 'input check')
    misnamed = Participant(label, error='rename it')
    assert write_reports(given, [misnamed], [bad], {}, LOGGER) == [bad]
    assert not list(settings.output_dir.glob('*.html'))


def test_a_page_tells_all_settings_that_change_numbers(settings, tmp_path):
    changes = {
        'reports_only': False,
        'flips': True,
        'mc_samples': 3,
        'bids_filter_file': tmp_path / 'filter.json',
        'derivatives': (tmp_path / 'masks',),
    }
    write_reports(settings.model_copy(update=changes), [Participant('sub-01')], [DONE], {}, LOGGER)
    page = (settings.output_dir / 'sub-01.html').read_text(encoding='utf-8')
    told = dict(re.findall(r'<dt>(--[^<]*)</dt><dd class="file">([^<]*)</dd>', page))
    assert told == {
        '--lesion-model': 'lesions',
        '--new-lesion-method': 'newlesions',
        '--brain-extraction': 'network',
        '--tasks': 'lesions longitudinal',
        '--flips': 'yes',
        '--mc-samples': '3',
        '--random-seed': '7',
        '--bids-filter-file': str(tmp_path / 'filter.json'),
        '--derivatives': str(tmp_path / 'masks'),
    }


def test_the_exit_code_is_that_of_one_reason_alone():
    bad = left_out('sub-01', 'failed', InputError('no image'))
    done, other = replace(bad, status='done', exit_code=0), replace(bad, exit_code=70)
    assert exit_code([]) == exit_code([done]) == 0
    assert exit_code([bad]) == exit_code([bad, bad]) == 65
    assert exit_code([bad, done]) == exit_code([bad, other]) == 1
