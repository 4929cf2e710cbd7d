"""How a run ends: whose settings a report tells, and the exit code."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from msapp.bids import query
from msapp.bids.query import Participant
from msapp.cli.outcomes import as_made, exit_code, left_out
from msapp.errors import InputError
from msapp.models.registry import models_for, with_confirming
from msapp.provenance import describe_models
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
    found, participant, errors = as_made(settings, GIVEN, LOGGER)
    assert found.random_seed == 3
    assert found.bids_dir == settings.bids_dir
    assert participant == Participant('sub-01', error=('2',))
    assert errors == []


def test_a_report_tells_what_failed_in_the_run_that_made_the_files(settings):
    folder = record(settings, settings.to_toml())
    (folder / 'summary.tsv').write_text(SUMMARY.replace('done\tn/a', 'failed\tno memory'))
    assert as_made(settings, GIVEN, LOGGER)[2] == ['no memory']


@pytest.mark.parametrize('text', [None, 'not = [toml', 'random_seed = "many"\n', 'colour = 1\n'])
def test_where_they_are_not_known_the_log_says_whose_are_told(settings, caplog, text):
    if text is not None:
        record(settings, text)
    assert as_made(settings, GIVEN, LOGGER) == (settings, GIVEN, [])
    assert 'sub-01: its report tells the methods of this command' in caplog.text


@pytest.mark.parametrize('text', [None, '{', '{}'])
def test_methods_of_other_models_than_are_installed_are_not_told(settings, caplog, text):
    folder = record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    (folder / 'models.json').unlink()
    if text is not None:
        (folder / 'models.json').write_text(text, encoding='utf-8')
    assert as_made(settings, GIVEN, LOGGER) == (settings, GIVEN, [])
    assert 'models.json' in caplog.text


def test_settings_of_another_participant_are_not_taken(settings, caplog):
    record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    other = Participant('sub-02')
    assert as_made(settings, other, LOGGER) == (settings, other, [])
    assert 'sub-02' in caplog.text


def test_the_exit_code_is_that_of_one_reason_alone():
    bad = left_out('sub-01', 'failed', InputError('no image'))
    done, other = replace(bad, status='done', exit_code=0), replace(bad, exit_code=70)
    assert exit_code([]) == exit_code([done]) == 0
    assert exit_code([bad]) == exit_code([bad, bad]) == 65
    assert exit_code([bad, done]) == exit_code([bad, other]) == 1
