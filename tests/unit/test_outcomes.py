"""How a run ends: whose settings a report tells, and the exit code."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from msapp.cli.outcomes import exit_code, left_out, settings_of_results
from msapp.errors import InputError
from msapp.models.registry import models_for, with_confirming
from msapp.provenance import describe_models
from msapp.settings import Settings

LOGGER = logging.getLogger('test')
SUMMARY = 'participant_id\tsteps_total\nsub-01\t12\n'


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


def test_a_report_tells_the_settings_of_the_run_that_made_the_files(settings, tmp_path):
    made = settings.model_copy(update={'random_seed': 3, 'bids_dir': tmp_path / 'elsewhere'})
    record(settings, made.to_toml())
    found = settings_of_results(settings, 'sub-01', LOGGER)
    assert found.random_seed == 3
    assert found.bids_dir == settings.bids_dir


@pytest.mark.parametrize('text', [None, 'not = [toml', 'random_seed = "many"\n', 'colour = 1\n'])
def test_where_they_are_not_known_the_log_says_whose_are_told(settings, caplog, text):
    if text is not None:
        record(settings, text)
    assert settings_of_results(settings, 'sub-01', LOGGER) is settings
    assert 'sub-01: its report tells the methods of this command' in caplog.text


@pytest.mark.parametrize('text', [None, '{', '{}'])
def test_methods_of_other_models_than_are_installed_are_not_told(settings, caplog, text):
    folder = record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    (folder / 'models.json').unlink()
    if text is not None:
        (folder / 'models.json').write_text(text, encoding='utf-8')
    assert settings_of_results(settings, 'sub-01', LOGGER) is settings
    assert 'models.json' in caplog.text


def test_settings_of_another_participant_are_not_taken(settings, caplog):
    record(settings, settings.model_copy(update={'random_seed': 3}).to_toml())
    assert settings_of_results(settings, 'sub-02', LOGGER) is settings
    assert 'sub-02' in caplog.text


def test_the_exit_code_is_that_of_one_reason_alone():
    bad = left_out('sub-01', 'failed', InputError('no image'))
    done, other = replace(bad, status='done', exit_code=0), replace(bad, exit_code=70)
    assert exit_code([]) == exit_code([done]) == 0
    assert exit_code([bad]) == exit_code([bad, bad]) == 65
    assert exit_code([bad, done]) == exit_code([bad, other]) == 1
