"""Two runs at once: one participant is never processed by both, and the others go on."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from app_runs import Answer, Call, damaged, differences, snapshot, temporaries

from msapp.engine.locks import Locks
from msapp.errors import LockedError, StorageError

HELD = re.compile(
    r'sub-01: another run is at work on it in (?P<folder>\S+) \(host (?P<host>\S+), process '
    r'(?P<pid>\d+), since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00\)\. Let it end, then run the same '
    r'command again\.'
)


# --- The lock itself ----------------------------------------------------------------------------


def test_a_lock_can_be_taken_once_and_again_when_given_back(tmp_path):
    with Locks([tmp_path]) as first:
        first.take('sub-01')
        first.take('sub-02')
        with Locks([tmp_path]) as second:
            second.take('sub-03')
            with pytest.raises(LockedError) as raised:
                second.take('sub-01')
    found = HELD.fullmatch(str(raised.value))
    assert (found['folder'], found['host'], int(found['pid'])) == (
        str(tmp_path),
        socket.gethostname(),
        os.getpid(),
    )
    with Locks([tmp_path]) as third:
        third.take('sub-01')


def test_a_lock_that_is_held_in_one_of_two_folders_is_taken_in_neither(tmp_path):
    folders = [tmp_path / name for name in ('a', 'b')]
    for folder in folders:
        folder.mkdir()
    with Locks(folders[1:]) as other:
        other.take('sub-01')
        with Locks(folders) as mine, pytest.raises(LockedError, match=f'{folders[1]} '):
            mine.take('sub-01')
        with Locks(folders[:1]) as free:
            free.take('sub-01')


def test_a_folder_under_two_names_is_locked_once(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'a')
    with Locks([tmp_path / 'a', tmp_path / 'link']) as locks:
        locks.take('sub-01')


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_where_the_file_system_has_no_locks_a_run_goes_on_with_one_warning(
    tmp_path, monkeypatch, caplog, number
):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, 'flock', refuse)
    with caplog.at_level(logging.WARNING, 'msapp.engine'), Locks([tmp_path]) as locks:
        locks.take('sub-01')
        locks.take('sub-02')
    assert [record.getMessage() for record in caplog.records] == [
        f'{tmp_path}: cannot be locked ({os.strerror(number)}). See to it that no two runs '
        'process the same participant at once.'
    ]


def test_a_full_disk_is_told_apart_from_a_missing_lock(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'mkdir', refuse)
    with Locks([tmp_path]) as locks, pytest.raises(StorageError, match=r'\.locks|No space left'):
        locks.take('sub-01')


def test_more_participants_than_files_may_be_open_are_locked(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip(f'this system allows {hard} open files')
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with Locks([tmp_path], 1000) as locks:
            for number in range(1000):
                locks.take(f'sub-{number:04}')
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- The app ------------------------------------------------------------------------------------


@pytest.mark.parametrize('which', ['out', 'work'])
def test_a_participant_another_run_is_at_work_on_is_left_alone(undisturbed, tmp_path, which):
    out, work = tmp_path / 'out', tmp_path / 'work'
    locked = {'out': out, 'work': work}[which]
    for folder in (out, work):
        folder.mkdir()
    (out / 'sub-01.html').write_text('the other run')
    flags = (*undisturbed.call.flags, '--work-dir', work)
    with Locks([locked]) as locks:
        locks.take('sub-01')
        answer = Call(undisturbed.call.bids, out, flags).run()
    assert answer.code == 1
    assert HELD.search(answer.err)['folder'] == str(locked)
    line = answer.out.strip()
    assert line.startswith('sub-01: not run. another run is at work on it in ')
    assert line.count('sub-01') == 1
    assert (out / 'sub-01.html').read_text() == 'the other run'
    assert not (out / 'sub-01').exists()
    assert not list(work.glob('msapp*'))


def test_the_group_level_has_a_lock_of_its_own(undisturbed):
    with Locks([undisturbed.call.out]) as locks:
        locks.take('group')
        call = Call(undisturbed.call.bids, undisturbed.call.out, levels=('group',))
        answer = call.run()
    assert answer.code == 1
    assert 'msapp: error: group: another run is at work on it in ' in answer.err
    assert not list(undisturbed.call.out.glob('group*'))


@dataclass(frozen=True)
class Crowd:
    """Three runs that were started at once in one output folder: two of sub-01, one of sub-02."""

    bids: Path
    out: Path
    same: tuple[Answer, Answer]
    other: Answer


@pytest.fixture(scope='module')
def crowd(undisturbed, tmp_path_factory) -> Iterator[Crowd]:
    """Start the three runs and wait for them."""
    bids, out = undisturbed.call.bids, tmp_path_factory.mktemp('crowd') / 'out'
    calls = [Call(bids, out, ('--participant-label', label)) for label in ('01', '01', '02')]
    first, second, other = [run.end() for run in [call.start() for call in calls]]
    yield Crowd(bids, out, (first, second), other)
    shutil.rmtree(out / 'work')


@pytest.mark.slow
def test_of_two_runs_of_one_participant_exactly_one_does_it(crowd, undisturbed):
    done, left = sorted(crowd.same, key=lambda answer: answer.code)
    assert (done.code, left.code) == (0, 1), done.text + left.text
    assert re.match(r'sub-01: done, [1-9]\d* steps run, 0 reused', done.out)
    assert left.out.startswith('sub-01: not run. another run is at work on it in ')
    assert HELD.search(left.err)['folder'] == str(crowd.out)
    files = {name: data for name, data in snapshot(crowd.out).items() if 'sub-02' not in name}
    assert differences(files, undisturbed.files) == []


@pytest.mark.slow
def test_runs_of_different_participants_share_an_output_folder(crowd, undisturbed):
    assert crowd.other.code == 0, crowd.other.text
    assert damaged(crowd.out) == []
    assert temporaries(crowd.out) == []
    assert json.loads((crowd.out / 'dataset_description.json').read_text())['Name']
    files = snapshot(crowd.out)
    for name, data in undisturbed.files.items():
        if name.endswith('.nii.gz'):
            assert files[name.replace('sub-01', 'sub-02')] == data, name


@pytest.mark.slow
def test_where_one_participant_is_locked_the_others_go_on(crowd):
    page = crowd.out / 'sub-01.html'
    before = page.stat().st_mtime_ns
    with Locks([crowd.out]) as locks:
        locks.take('sub-01')
        answer = Call(crowd.bids, crowd.out).run()
    assert answer.code == 1
    first, second = answer.out.splitlines()
    assert first.startswith('sub-01: not run. another run is at work on it in ')
    assert second.startswith('sub-02: done, ')
    assert page.stat().st_mtime_ns == before
