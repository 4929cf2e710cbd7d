"""What several tests share: a phantom, one whole run on it, and the folder of real data."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from msapp.synthesis.phantom import write_phantom

SCRIPTS = Path(sys.executable).parent
RUN_TIMEOUT_S = 1200
# What is left of the phantom for the whole run: every contrast, none but FLAIR, some of them.
VISITS = {
    ('sub-01', 'ses-1'): ('FLAIR', 'T1w', 'T2w', 'ceT1w'),
    ('sub-01', 'ses-2'): ('FLAIR', 'T1w'),
    ('sub-02', 'ses-1'): ('FLAIR',),
    ('sub-02', 'ses-2'): ('FLAIR',),
}
# Folders in the order in which their tests run: the fast ones first.
ORDER = ('unit', 'property', 'workflow', 'container', 'hpc', 'integration', 'fault')
NAMES = {'FLAIR': 'FLAIR', 'T1w': 'T1w', 'T2w': 'T2w', 'ceT1w': 'ce-gadolinium_T1w'}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by their folder; doctests, which lie in none of them, come first."""
    folders = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: folders.get(item.path.parent.name, -1))


@dataclass(frozen=True)
class Run:
    """One call of ``msapp``: how it was called and what came of it."""

    arguments: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    cpu_s: float


@dataclass(frozen=True)
class Processed:
    """A dataset, the output of the first run on it, and that run."""

    bids: Path
    out: Path
    run: Run
    visits: dict[tuple[str, str], tuple[str, ...]]

    def again(self, *flags: str) -> Run:
        """Repeat the run, with more flags if given."""
        return run_msapp(*self.run.arguments, *flags)


def run_msapp(*arguments: str | Path) -> Run:
    """Call ``msapp`` in a process of its own, as users do."""
    command = [str(SCRIPTS / 'msapp'), *map(str, arguments)]
    # The validator is found as in an activated environment.
    environment = {**os.environ, 'PATH': f'{SCRIPTS}{os.pathsep}{os.environ["PATH"]}'}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
        env=environment,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Not the wall time, which says as much about a busy machine as about msapp.
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(tuple(command[1:]), result.returncode, result.stdout, result.stderr, cpu_s)


@pytest.fixture(scope='session')
def call_msapp() -> Callable[..., Run]:
    """The function that calls ``msapp``; test modules cannot import it from here."""
    return run_msapp


@pytest.fixture(scope='session')
def fast_phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two participants (thick slices; isotropic), two visits, four contrasts, 2 mm; read only."""
    out = tmp_path_factory.mktemp('phantom') / 'data'
    write_phantom(out, participants=2, sessions=2, fast=True)
    return out


@pytest.fixture(scope='session')
def processed(fast_phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processed]:
    """One whole run, participant and group level, on visits with different contrasts."""
    root = tmp_path_factory.mktemp('processed')
    bids, out = root / 'bids', root / 'out'
    shutil.copytree(fast_phantom, bids)
    for (participant, session), contrasts in VISITS.items():
        for contrast in NAMES.keys() - set(contrasts):
            stem = f'{participant}_{session}_{NAMES[contrast]}'
            for path in (bids / participant / session / 'anat').glob(f'{stem}.*'):
                path.unlink()
    run = run_msapp(bids, out, 'participant', 'group', '--sloppy')
    yield Processed(bids, out, run, VISITS)
    shutil.rmtree(out / 'work', ignore_errors=True)


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of real data; a wrong setting is a failure, none at all a skip."""
    value = os.environ.get('MSAPP_TEST_DATA')
    if not value:
        pytest.skip('MSAPP_TEST_DATA is not set: it names the folder of the real data')
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f'MSAPP_TEST_DATA={value}: no such folder')
    return folder
