"""What the fault tests of the app share: a small dataset, and one run that nothing disturbs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from app_runs import Call, Undisturbed, damaged, snapshot, temporaries

from msapp.synthesis.phantom import write_phantom

ONE = ('--participant-label', '01')


@pytest.fixture(scope='session')
def bids(tmp_path_factory) -> Path:
    """Give a dataset of two participants with the same FLAIR."""
    root = tmp_path_factory.mktemp('fault') / 'bids'
    write_phantom(root, participants=1, sessions=1, fast=True)
    shutil.rmtree(root / 'derivatives')
    anat = root / 'sub-01' / 'ses-1' / 'anat'
    for path in anat.iterdir():
        if 'FLAIR' not in path.name:
            path.unlink()
    second = root / 'sub-02' / 'ses-1' / 'anat'
    second.mkdir(parents=True)
    for path in anat.iterdir():
        shutil.copy(path, second / path.name.replace('sub-01', 'sub-02'))
    return root


@pytest.fixture(scope='session')
def undisturbed(bids, tmp_path_factory) -> Iterator[Undisturbed]:
    """Run one participant once, without any fault."""
    call = Call(bids, tmp_path_factory.mktemp('undisturbed') / 'out', ONE)
    begin = time.monotonic()
    answer = call.run()
    wall_s = time.monotonic() - begin
    assert answer.code == 0, answer.text
    assert damaged(call.out) == []
    assert temporaries(call.out) == []
    yield Undisturbed(call, snapshot(call.out), wall_s)
    shutil.rmtree(call.out / 'work')


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a small file system; give the function that does, and that changes its size."""
    mounted: list[Path] = []

    def mount(name: str, size: str, n_files: int = 0) -> Path:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        remount = path in mounted
        options = f'remount,size={size}' if remount else f'size={size},nr_inodes={n_files}'
        result = subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            pytest.skip(
                f'no small file system can be mounted ({result.stderr.strip()}); run as root, or '
                'the tests under: unshare --user --map-root-user --mount'
            )
        if not remount:
            mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(['umount', '--lazy', str(path)], check=True)
