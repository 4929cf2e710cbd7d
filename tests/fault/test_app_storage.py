"""The app on disks that are full, read-only, or not where a user would expect them."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_runs import Answer, Call, damaged, differences, snapshot, temporaries

ROOM = '400m'
FULL = 'No space left on device. Free some space, or choose another folder (--work-dir for'
GOES_ON = 'the same command goes on from where it stopped.'
# Takes from the administrator the right to write where the permissions forbid it.
BOUND = ('setpriv', '--bounding-set=-dac_override,-dac_read_search')
BOUND = BOUND if os.geteuid() == 0 else ()


def fill(folder: Path) -> Path:
    """Fill a file system up to its last byte; return the file that does."""
    filler = folder / 'filler'
    with contextlib.suppress(OSError), filler.open('wb', buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    return filler


def says_it_is_full(answer: Answer, folder: Path) -> None:
    assert answer.code == 1, answer.text
    assert 'Traceback' not in answer.text
    assert 'Logging error' not in answer.text
    line = next(line for line in answer.text.splitlines() if FULL in line)
    assert f' {folder}' in line
    assert GOES_ON in line


def completes(call: Call, expected) -> None:
    again = call.run()
    assert again.code == 0, again.text
    assert differences(snapshot(call.out), expected.files) == []
    assert temporaries(call.out) == []


# --- Full ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'size',
    [
        pytest.param('8k', marks=pytest.mark.slow, id='not even the record of the run'),
        pytest.param('40k', marks=pytest.mark.slow, id='no log'),
        pytest.param('400k', marks=pytest.mark.slow, id='no image'),
        pytest.param('32m', marks=pytest.mark.slow, id='no figure'),
        pytest.param('34m', marks=pytest.mark.slow, id='no report'),
    ],
)
def test_a_full_output_folder_is_named_and_the_same_command_completes(
    undisturbed, small_disk, tmp_path, size
):
    work = undisturbed.copy(tmp_path).out / 'work'
    out = small_disk('small', size)
    call = Call(undisturbed.call.bids, out, (*undisturbed.call.flags, '--work-dir', work))
    says_it_is_full(call.run(), out)
    assert damaged(out) == []
    assert temporaries(out) == []
    small_disk('small', ROOM)
    completes(call, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize('size', ['200k', '3m', '20m', '40m'])
def test_a_full_work_folder_is_named_and_the_same_command_completes(
    undisturbed, small_disk, tmp_path, size
):
    work = small_disk('small', size)
    flags = (*undisturbed.call.flags, '--work-dir', work)
    call = Call(undisturbed.call.bids, tmp_path / 'out', flags)
    says_it_is_full(call.run(), work)
    assert damaged(call.out) == []
    small_disk('small', ROOM)
    completes(call, undisturbed)


@pytest.mark.slow
def test_a_full_folder_of_temporary_files_is_no_bug(undisturbed, small_disk, tmp_path):
    place = small_disk('small', '4k')
    fill(place)
    call = Call(
        undisturbed.call.bids,
        tmp_path / 'out',
        undisturbed.call.flags,
        environment={'TMPDIR': str(place)},
    )
    answer = call.run()
    assert 'Traceback' not in answer.text
    assert damaged(call.out) == []
    if answer.code:
        says_it_is_full(answer, place)
    small_disk('small', ROOM)
    completes(call, undisturbed)


def test_a_disk_that_is_full_at_the_group_level_is_named(undisturbed, small_disk):
    out = small_disk('small', '60m')
    ignored = shutil.ignore_patterns('work', 'logs')
    shutil.copytree(undisturbed.call.out, out, dirs_exist_ok=True, ignore=ignored)
    filler = fill(out)
    call = Call(undisturbed.call.bids, out, levels=('group',))
    says_it_is_full(call.run(), out)
    assert [path.name for path in out.glob('*group*')] == []
    filler.unlink()
    assert call.run().code == 0
    assert (out / 'group.html').exists()
    assert damaged(out) == []


@pytest.mark.slow
def test_a_disk_without_room_for_another_file_is_named(undisturbed, small_disk, tmp_path):
    """The record of the run, the log, the lock, the logs of workers: each in turn has no room."""
    work = undisturbed.copy(tmp_path).out / 'work'
    flags = (*undisturbed.call.flags, '--work-dir', work)
    for n_files in (*range(1, 19), 30):
        out = small_disk(f'small{n_files}', ROOM, n_files)
        answer = Call(undisturbed.call.bids, out, flags).run()
        says_it_is_full(answer, out)
        assert damaged(out) == [], n_files
        assert temporaries(out) == [], n_files


# --- Read-only ----------------------------------------------------------------------------------


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    yield
    folder.chmod(mode)


def test_a_read_only_output_folder_is_refused_before_any_work(undisturbed, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    with read_only(out):
        answer = Call(undisturbed.call.bids, out, prefix=BOUND).run()
        assert answer.code == 2
        assert f'{out}: cannot be written (Permission denied). Choose another' in answer.text
        assert list(out.iterdir()) == []


def test_a_folder_that_becomes_read_only_on_the_way_is_named(undisturbed, tmp_path):
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    call.prefix = BOUND
    anat = call.out / 'sub-01' / 'ses-1' / 'anat'
    anat.mkdir(parents=True)
    with read_only(anat):
        answer = call.run()
    assert answer.code == 1, answer.text
    assert f'{anat}' in answer.text
    assert f'Permission denied. Make it usable again, or choose another folder; {GOES_ON}' in (
        answer.text
    )
    assert 'Traceback' not in answer.text
    assert list(anat.iterdir()) == []
    completes(call, undisturbed)
