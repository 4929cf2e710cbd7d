"""The command line and the settings file: what is understood in which order and form."""

from __future__ import annotations

from pathlib import Path

import pytest

from msapp.cli.parser import build_parser, parse
from msapp.cli.plan import check_available
from msapp.errors import MissingDependencyError, UsageError
from msapp.settings import Settings, make_settings, setting_name

FOLDERS = {'bids_dir': Path('/b'), 'output_dir': Path('/o')}


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('/b /o participant --dry-run', {'dry_run': True}),
        ('/b /o --dry-run participant', {'dry_run': True}),
        ('/b --dry-run /o participant', {'dry_run': True}),
        ('/b --nprocs 2 /o participant --low-mem', {'nprocs': 2, 'low_mem': True}),
        (
            '/b /o participant --nprocs 2 group',
            {'nprocs': 2, 'levels': ['participant', 'group']},
        ),
        ('--participant-label 01 02 -- /b /o participant', {'participant_label': ['01', '02']}),
    ],
)
def test_folders_and_levels_may_stand_among_flags(line, expected):
    values, _ = parse(line.split())
    assert values == {**FOLDERS, 'levels': ['participant'], **expected}


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('/b /o participant --colour red', 'unrecognized arguments: --colour red'),
        ('/b /o --low-mem subject', '"subject" is no level of analysis'),
        ('/b --nprocs two /o participant', "argument --nprocs/--n-cpus: invalid int value: 'two'"),
        (
            '/b --low-mem',
            'missing: output_dir, participant or group (the level of analysis)\n',
        ),
        (
            '/b /o --participant-label 01 participant',
            'missing: participant or group (the level of analysis). --participant-label took '
            '"participant" as one of its values: write folders and level before it\n',
        ),
    ],
)
def test_a_wrong_line_ends_with_what_is_wrong(capsys, line, message):
    with pytest.raises(SystemExit) as caught:
        parse(line.split())
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith('usage: msapp [-h]')
    assert '[bids_dir] [output_dir] [{participant,group} ...]' in error
    assert message in error


@pytest.mark.parametrize(
    ('text', 'gigabytes'),
    [('mem = "8G"', 8), ('mem = 8000', 8), ('mem-gb = 8', 8), ('\ufeffmem-gb = 8', 8)],
)
def test_memory_in_a_settings_file(tmp_path, text, gigabytes):
    path = tmp_path / 'settings.toml'
    path.write_text(text, encoding='utf-8')
    values, _ = parse(['/b', '/o', 'participant', '--config-file', str(path)])
    assert make_settings(values).mem_gb == gigabytes
    values, _ = parse(['/b', '/o', 'participant', '--config-file', str(path), '--mem', '2G'])
    assert make_settings(values).mem_gb == 2


def test_an_amount_of_memory_that_is_none_is_refused(tmp_path):
    path = tmp_path / 'settings.toml'
    path.write_text('mem = "lots"')
    with pytest.raises(UsageError, match=r'toml: mem: "lots" is no amount of memory; try 8G'):
        parse(['/b', '/o', 'participant', '--config-file', str(path)])


def test_an_unknown_setting_is_named_as_it_is_written(tmp_path):
    path = tmp_path / 'settings.toml'
    path.write_text('n-cpus = 2\nlow-mem = true\nmy_colour = 1\n')
    with pytest.raises(UsageError) as caught:
        parse(['/b', '/o', 'participant', '--config-file', str(path)])
    told = f'{path}: no setting is called n-cpus, my_colour. As in logs/<run>/settings.toml, a '
    assert str(caught.value).startswith(told)


def test_a_setting_has_the_first_long_name_of_its_flag():
    flags = [
        next(flag for flag in action.option_strings if flag.startswith('--'))
        for action in build_parser()._actions
        if action.option_strings
    ]
    names = {setting_name(flag.removeprefix('--')) for flag in flags}
    positional = {'bids_dir', 'output_dir', 'levels'}
    assert {*Settings.model_fields} - positional - names == {'mem_gb'}, 'for which mem may stand'
    assert 'mem' in names


def test_every_setting_is_named_as_in_the_help():
    text = build_parser().format_help()
    for name in Settings.model_fields:
        with pytest.raises(UsageError) as caught:
            make_settings({**FOLDERS, 'levels': ('group',), name: object()})
        shown = str(caught.value).partition(':')[0]
        assert shown in text or name == 'levels'
        assert name != 'levels' or shown == 'the level of analysis (participant, group)'


def test_a_level_of_a_settings_file_may_not_be_empty(tmp_path, capsys):
    path = tmp_path / 'settings.toml'
    path.write_text('levels = []\n')
    with pytest.raises(SystemExit):
        parse(['/b', '/o', '--config-file', str(path)])
    assert 'missing: participant or group (the level of analysis)' in capsys.readouterr().err


def test_samples_for_uncertainty_need_the_task_of_lesions():
    values = {**FOLDERS, 'levels': ('participant',), 'mc_samples': 5, 'tasks': ('longitudinal',)}
    with pytest.raises(MissingDependencyError, match='lesions, which are not among --tasks'):
        check_available(make_settings(values))


def test_the_group_level_needs_no_gpu_and_no_model(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    values = {**FOLDERS, 'device': 'cuda', 'lesion_model': 'nosuch'}
    check_available(make_settings({**values, 'levels': ('group',)}))
    with pytest.raises(MissingDependencyError):
        check_available(make_settings({**values, 'levels': ('participant', 'group')}))
