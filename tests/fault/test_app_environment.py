"""The app in odd surroundings: locales, names, homes, clocks, moved folders, signals, streams."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from app_runs import Answer, Call, Undisturbed, damaged, differences, snapshot, temporaries

# A user the system has no name for; without the administrator's rights, with the same files.
UNKNOWN_USER = ('unshare', '--user', '--map-user=65432', '--map-group=65432')
ODD_FOLDER = 'Große Studie/données [1] 50%'
# It says where the input was.
DESCRIPTION = 'dataset_description.json'
FAR_FUTURE = 4_102_444_800  # 2100-01-01
QUICKLY_S = 15
GOES_ON = ('the same command goes on from there', 'Run the same command again to go on')


def date(folder: Path, seconds: float) -> None:
    """Give every file of a folder one time of change."""
    for path in [folder, *folder.rglob('*')]:
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def completes(answer: Answer, call: Call, expected: Undisturbed, *but: str) -> None:
    """State that a run left what the undisturbed one left, and said nothing it should not."""
    assert answer.code == 0, answer.text
    assert 'Traceback' not in answer.text
    assert set(differences(snapshot(call.out), expected.files)) <= set(but)
    assert damaged(call.out) == []
    assert temporaries(call.out) == []


# --- Names, languages, zones, clocks ------------------------------------------------------------


def test_names_of_folders_language_and_zone_change_no_result(bids, undisturbed, tmp_path):
    home = tmp_path / ODD_FOLDER
    shutil.copytree(bids, home / 'bids')
    description = home / 'bids' / DESCRIPTION
    description.write_text('{"Name": "Große Studie", "BIDSVersion": "1.10.0"}', encoding='utf-8')
    call = Call(
        home / 'bids',
        home / 'results',
        (*undisturbed.call.flags, '--work-dir', home / 'wörk'),
        environment={'LC_ALL': 'C', 'PYTHONUTF8': None, 'TZ': 'Pacific/Chatham'},
    )
    completes(call.run(), call, undisturbed, DESCRIPTION)
    assert 'Große Studie' in (call.out / DESCRIPTION).read_text(encoding='utf-8').encode().decode(
        'unicode_escape'
    )
    again = call.run()
    assert re.search(r', 0 steps run, [1-9]\d* reused', again.out)
    completes(again, call, undisturbed, DESCRIPTION)


@pytest.mark.slow
def test_an_ascii_locale_and_an_unknown_zone_change_no_result(bids, undisturbed, tmp_path):
    source = shutil.copytree(bids, tmp_path / 'bids')
    text = '{"Name": "Große Studie", "BIDSVersion": "1.10.0"}'
    (source / DESCRIPTION).write_text(text, encoding='utf-8')
    date(source, FAR_FUTURE)
    environment = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'TZ': 'Nowhere/Nothing'}
    call = Call(source, tmp_path / 'out', undisturbed.call.flags, environment=environment)
    completes(call.run(), call, undisturbed, DESCRIPTION)


@pytest.mark.slow
def test_an_ascii_locale_and_other_letters_in_a_path_are_told_how_to_go_together(bids, tmp_path):
    call = Call(bids, tmp_path / 'données', environment={'LC_ALL': 'C', 'PYTHONUTF8': '0'})
    answer = call.run()
    assert answer.code == 2
    assert 'Set PYTHONUTF8=1, or LC_ALL=C.UTF-8.' in answer.err
    assert not call.out.exists()


@pytest.mark.slow
def test_moved_folders_and_clocks_that_jump_change_no_result(bids, undisturbed, tmp_path):
    source, work, out = (tmp_path / name for name in ('bids', 'work', 'out'))
    shutil.copytree(bids, source)
    date(source, 0)
    call = Call(source, out, (*undisturbed.call.flags, '--work-dir', work))
    completes(call.run(), call, undisturbed, DESCRIPTION)

    date(tmp_path, FAR_FUTURE)
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    for folder in (source, work):
        folder.rename(elsewhere / folder.name)
    moved = Call(
        elsewhere / 'bids', out, (*undisturbed.call.flags, '--work-dir', elsewhere / 'work')
    )
    shutil.rmtree(out / 'sub-01')
    answer = moved.run()
    completes(answer, moved, undisturbed, DESCRIPTION)
    assert f'{elsewhere}/bids' in (out / DESCRIPTION).read_text()
    assert not source.exists()
    assert not work.exists()


# --- Users, homes, temporary files --------------------------------------------------------------


@pytest.fixture
def unknown_user() -> tuple[str, ...]:
    """Give what makes a command run as a user that the system does not know."""
    result = subprocess.run([*UNKNOWN_USER, 'true'], capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip(f'no user namespaces here ({result.stderr.strip()})')
    return UNKNOWN_USER


def read_only(folder: Path) -> Path:
    folder.mkdir(mode=0o555)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    'kind', ['no home, no folder of temporary files', 'both read-only', 'both files']
)
def test_a_user_without_a_name_a_home_or_temporary_files_gets_all_results(
    undisturbed, unknown_user, tmp_path, kind
):
    place = tmp_path / 'place'
    home: Path | None = place
    if kind == 'both read-only':
        read_only(place)
    elif kind == 'both files':
        place.touch()
    else:
        home = None
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    if home is None:
        shutil.rmtree(call.out)  # this one from the beginning
    call.environment = {'HOME': home and str(home), 'TMPDIR': str(place), 'USER': None}
    call.environment |= {'LOGNAME': None}
    call.prefix, call.cwd = unknown_user, read_only(tmp_path / 'cwd')
    completes(call.run(), call, undisturbed)
    assert not list(call.cwd.iterdir())


@pytest.mark.slow
def test_no_place_at_all_for_temporary_files_is_no_hindrance(undisturbed, tmp_path):
    """As in a read-only container: what a run needs it writes to its work folder."""
    places = {'/mnt': tmp_path, '/media': undisturbed.call.bids.parent}
    binds = [f'mount --rbind "{source}" {target}' for target, source in places.items()]
    steps = [*binds, *(f'mount -t tmpfs -o ro tmpfs {name}' for name in ('/tmp', '/var/tmp'))]
    steps += ['mount -t tmpfs -o ro tmpfs /dev/shm', 'cd /proc', 'exec "$@"']
    prefix = ('unshare', '--mount', 'sh', '-c', ' && '.join(steps), 'sh')
    if subprocess.run([*prefix, 'true'], capture_output=True, check=False).returncode:
        pytest.skip('no mount namespaces here; run as root')
    bids = Path('/media') / undisturbed.call.bids.name
    answer = Call(bids, Path('/mnt/out'), undisturbed.call.flags, prefix=prefix).run()
    completes(answer, Call(bids, tmp_path / 'out'), undisturbed, DESCRIPTION)


# --- Signals ------------------------------------------------------------------------------------


def stops(call: Call, moment: str, number: int, *, group: bool = False) -> None:
    """Send a signal when a run has begun, or ended a step; state how that ends."""
    name, rows = {'start': ('msapp.log', 0), 'steps': ('timings.tsv', 2)}[moment]
    earlier = set((call.out / 'logs').glob('*'))

    def reached() -> bool:
        files = (call.out / 'logs').glob(f'*/{name}')
        return any(
            path.parent not in earlier and path.read_text(encoding='utf-8').count('\n') >= rows
            for path in files
        )

    run = call.start()
    run.wait_for(reached)
    assert not run.ended()
    begin = time.monotonic()
    (os.killpg if group else os.kill)(run.process.pid, number)
    answer = run.end()
    assert time.monotonic() - begin < QUICKLY_S
    assert answer.code == 130, answer.text
    assert 'Traceback' not in answer.text
    assert any(text in answer.err for text in GOES_ON), answer.err
    assert run.survivors() == []
    assert damaged(call.out) == []
    assert temporaries(call.out) == []


@pytest.mark.slow
def test_ctrl_c_stops_a_run_and_the_same_command_goes_on(undisturbed, tmp_path):
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    stops(call, 'steps', signal.SIGINT, group=True)
    completes(call.run(), call, undisturbed)


@pytest.mark.slow
def test_termination_stops_a_run_at_any_time_and_the_same_command_goes_on(undisturbed, tmp_path):
    """As batch systems do at the end of the time allowed."""
    call = Call(undisturbed.call.bids, tmp_path / 'out', undisturbed.call.flags)
    stops(call, 'start', signal.SIGTERM)
    stops(call, 'start', signal.SIGTERM, group=True)
    stops(call, 'steps', signal.SIGTERM)
    stops(call, 'steps', signal.SIGTERM, group=True)
    completes(call.run(), call, undisturbed)


# --- Standard streams ---------------------------------------------------------------------------


@pytest.mark.slow
def test_without_standard_streams_the_results_are_whole(undisturbed, tmp_path):
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    call.prefix = ('sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh')
    completes(call.run(), call, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    'pipe',
    ['2>&1 | head -n 1', '2>/dev/null | true', '2>/dev/full >/dev/full'],
    ids=['one line is read', 'nothing is read', 'a full disk reads'],
)
def test_a_reader_that_went_away_changes_no_result(undisturbed, tmp_path, pipe):
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    call.prefix = ('bash', '-c', f'set -o pipefail; "$@" {pipe}', 'bash')
    completes(call.run(), call, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize('pipe', ['2>/dev/full', '2>&1 | true', '<&- >&- 2>&-'])
def test_an_error_keeps_its_exit_code_where_nobody_hears_it(tmp_path, pipe):
    prefix = ('bash', '-c', f'set -o pipefail; "$@" {pipe}', 'bash')
    assert Call(tmp_path / 'missing', tmp_path / 'out', prefix=prefix).run().code == 2
