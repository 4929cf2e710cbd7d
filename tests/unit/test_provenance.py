"""The record of a run, and how a failure is put into words."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

import msapp
from msapp.engine.record import MORE_MEMORY, explain, step_label
from msapp.errors import StorageError, UsageError
from msapp.files import write_atomic
from msapp.logs import close_logging, setup_logging
from msapp.provenance import LIBRARIES, sha256_file, write_run_record, write_summary
from msapp.resources import Limits
from msapp.settings import Settings, load_toml, make_settings


@dataclass
class Result:
    participant: str = 'sub-01'
    status: str = 'failed'
    exit_code: int = 65
    steps_total: int = 9
    steps_run: int = 3
    steps_reused: int = 2
    wall_s: float = 12.34
    failed_step: str | None = 'ses-1 n4'
    error: str | None = 'two\nlines\tand a tab'


def test_the_summary_has_one_clean_line_a_participant(tmp_path):
    whole = Result('sub-02', 'done', 0, 9, 9, 0, 60.0, None, None)
    lines = write_summary(tmp_path / 'new', [Result(), whole]).read_text().splitlines()
    assert lines[0].split('\t')[:3] == ['participant_id', 'status', 'exit_code']
    first = ['sub-01', 'failed', '65', '9', '3', '2', '12.3', 'ses-1 n4', 'two lines and a tab']
    assert lines[1].split('\t') == first
    assert lines[2].split('\t')[-2:] == ['n/a', 'n/a']


def test_the_settings_of_a_run_can_be_given_to_the_next(tmp_path):
    settings = Settings(bids_dir='/bids', output_dir='/out', levels=('participant',), mc_samples=5)
    argv = ['msapp', '/my bids', '/out', 'participant']
    write_run_record(tmp_path, settings, argv, Limits(4, 7.5))
    assert make_settings(load_toml(tmp_path / 'settings.toml')) == settings
    assert (tmp_path / 'command.txt').read_text() == "msapp '/my bids' /out participant\n"
    assert json.loads((tmp_path / 'limits.json').read_text()) == {'n_cpus': 4, 'memory_gb': 7.5}
    versions = json.loads((tmp_path / 'versions.json').read_text())
    assert versions['nipype'].split('.')[0] == '1'


def test_libraries_are_those_that_the_code_imports():
    root, imported = Path(msapp.__file__).parent, set[str]()
    for folder, _, names in os.walk(root, followlinks=True):  # models and workflows are links
        for path in (Path(folder, name) for name in names if name.endswith('.py')):
            code = path.read_text(encoding='utf-8')
            imported |= set(re.findall(r'^ *(?:import|from) (\w+)', code, flags=re.MULTILINE))
    found = metadata.packages_distributions()
    libraries = {name.lower() for module in imported for name in found.get(module, ())}
    # Those that change no result of a run: files, pages, processes and training.
    others = {'filelock', 'jinja2', 'lightning', 'msapp', 'psutil', 'pyyaml', 'rich', 'safetensors'}
    assert libraries - {*others, 'tomli_w', 'torchio'} == set(LIBRARIES)
    assert {'pillow', 'fslpy'} <= set(LIBRARIES)


@dataclass
class Model:
    weights: Path
    name: str = 'toy'
    version: str = '1.0.0'


def test_the_models_of_a_run_are_named_with_the_hash_of_their_weights(tmp_path):
    settings = Settings(bids_dir='/bids', output_dir='/out', levels=('participant',))
    write_run_record(tmp_path, settings, ['msapp'], Limits(4, 7.5))
    assert json.loads((tmp_path / 'models.json').read_text()) == {}
    weights = tmp_path / 'weights'
    weights.write_bytes(b'abc')
    write_run_record(tmp_path, settings, ['msapp'], Limits(4, 7.5), {'lesions': Model(weights)})
    assert json.loads((tmp_path / 'models.json').read_text()) == {
        'lesions': {
            'name': 'toy',
            'version': '1.0.0',
            'sha256': hashlib.sha256(b'abc').hexdigest(),
        }
    }


def test_the_gpus_of_a_run_can_be_given_to_the_next(tmp_path):
    for gpus in (None, 0, 2):
        given = Settings(bids_dir='/bids', output_dir='/out', levels=('group',), gpus=gpus)
        write_run_record(tmp_path, given, ['msapp'], Limits(4, 7.5))
        assert make_settings(load_toml(tmp_path / 'settings.toml')).gpus == gpus


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'file.txt'
    write_atomic(path, 'old')
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, 'new \ud800')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_names_the_file_and_not_the_temporary_one(tmp_path):
    path = tmp_path / 'file.txt'
    path.mkdir()
    with pytest.raises(OSError, match='directory') as caught:
        write_atomic(path, 'new')
    assert caught.value.filename == str(path)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / 'data'
    path.write_bytes(b'abc' * 100_000)
    assert sha256_file(path) == hashlib.sha256(b'abc' * 100_000).hexdigest()


def test_the_log_file_has_what_the_console_leaves_out(tmp_path, capsys):
    logger = setup_logging(tmp_path / 'logs')
    setup_logging(tmp_path / 'logs')  # twice must not write every line twice
    logging.getLogger('msapp.any').debug('a detail')
    logging.getLogger('msapp.any').info('a step')
    close_logging(logger)
    console = capsys.readouterr().err
    assert console.count('a step') == 1
    assert 'a detail' not in console
    assert (tmp_path / 'logs' / 'msapp.log').read_text().count('a detail') == 1


def test_a_log_folder_that_cannot_be_made_is_a_usage_error(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UsageError, match='cannot write the log there'):
        setup_logging(tmp_path / 'file' / 'logs')


def test_a_log_folder_on_a_full_disk_is_no_usage_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(StorageError, match='No space left on device'):
        setup_logging(tmp_path / 'logs')


NESTED = """Traceback (most recent call last):
  File "/a/worker.py", line 80, in run_task
    node.run(updatehash=updatehash)
nipype.pipeline.engine.nodes.NodeExecutionError: Exception raised while executing Node n4.

Traceback:
\tTraceback (most recent call last):
\t  File "/a/core.py", line 402, in run
\t    runtime = self._run_interface(runtime)
\t              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
\t  File "/a/toy.py", line 3, in _run_interface
\t    raise problem
\t{raised}

"""


@pytest.mark.parametrize(
    ('raised', 'expected'),
    [
        ('msapp.errors.InputError: one\n\tName: two', ('one\nName: two', 65)),
        ('msapp.errors.MissingDependencyError: no model', ('no model', 69)),
        ('msapp.errors.NoSuchError: odd', ('ses-1 n4: NoSuchError: odd', 70)),
        ('ValueError: bad: value', ('ses-1 n4: ValueError: bad: value', 70)),
        ('AssertionError', ('ses-1 n4: AssertionError', 70)),
        ('MemoryError', (f'ses-1 n4: memory ran out. {MORE_MEMORY}', 1)),
        (
            'RuntimeError: std::bad_alloc',
            (f'ses-1 n4: memory ran out (std::bad_alloc). {MORE_MEMORY}', 1),
        ),
    ],
)
def test_a_failure_is_told_by_the_exception_that_was_raised(raised, expected):
    assert explain('ses-1 n4', NESTED.replace('{raised}', raised)) == expected


def test_a_step_is_named_by_the_workflows_around_it():
    assert step_label(['ses_01_wf', 'midpoint_wf', 'rigid']) == 'ses-01 midpoint rigid'
