"""Runs of the whole app for the fault tests: start, disturb, and compare what they leave."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
from PIL import Image

from msapp.imaging.geometry import load_transform

MSAPP = Path(sys.executable).with_name('msapp')
# One thread and one seed: the same numbers to the last bit.
FLAGS = ('--sloppy', '--random-seed', '1', '--omp-nthreads', '1', '--nprocs', '2')
FLAGS += ('--skip-bids-validation', '--brain-extraction', 'template')
FLAGS += ('--new-lesion-method', 'candidates')
TIMEOUT_S = 900
DEATH_S = 10
# Where runs keep what is theirs alone; everything else is the result.
NOT_RESULTS = ('work', 'logs', '.locks')
# nilearn gives each page of the viewer a number of its own.
PAGE_NUMBER = re.compile(rb'[0-9a-f]{32}')
RUN_VARIABLE = 'MSAPP_FAULT_RUN'


@dataclass(frozen=True)
class Answer:
    """What came of a run."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass
class Call:
    """One command line; the same call can be made again and again."""

    bids: Path
    out: Path
    flags: tuple[str | Path, ...] = ()
    levels: tuple[str, ...] = ('participant',)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    cwd: Path | None = None

    def start(self) -> Started:
        """Start it in a process group of its own."""
        tag = uuid.uuid4().hex
        values = {**os.environ, RUN_VARIABLE: tag, **self.environment}
        command = [*self.prefix, MSAPP, self.bids, self.out, *self.levels, *FLAGS, *self.flags]
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding='utf-8',
            errors='surrogateescape',
            env={name: value for name, value in values.items() if value is not None},
            cwd=self.cwd,
            start_new_session=True,
        )
        return Started(process, self.out, tag)

    def run(self) -> Answer:
        """Run it to its end."""
        return self.start().end()


@dataclass
class Started:
    """A run that is going on."""

    process: subprocess.Popen[str]
    out: Path
    tag: str

    def end(self) -> Answer:
        """Wait for the end; a run that hangs is killed and fails the test."""
        try:
            out, err = self.process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            raise AssertionError(f'the run hangs: {self.process.communicate()}') from None
        return Answer(self.process.returncode, out, err)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes there are now."""
        found = []
        for child in self._children():
            try:
                if any('spawn_main' in word for word in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def _children(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return []

    def steps_done(self) -> int:
        """Count the steps that ran in this run."""
        tables = sorted((self.out / 'logs').glob('*/timings.tsv'), key=lambda path: path.parent)
        if not tables:
            return 0
        rows = tables[-1].read_text(encoding='utf-8').splitlines()
        return sum(row.split('\t')[2] == 'done' for row in rows if row.count('\t') > 2)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until something is so, or the run has ended."""
        end = time.monotonic() + TIMEOUT_S
        while not condition() and not self.ended():
            assert time.monotonic() < end, 'it never came'
            time.sleep(0.02)

    def survivors(self) -> list[int]:
        """Return the processes of this run that are alive some seconds after its end."""
        end = time.monotonic() + DEATH_S
        while (alive := self._alive()) and time.monotonic() < end:
            time.sleep(0.1)
        return alive

    def _alive(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(RUN_VARIABLE) == self.tag:
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found


@dataclass(frozen=True)
class Undisturbed:
    """A whole run that nothing disturbed, and how long it took."""

    call: Call
    files: Mapping[str, bytes]
    wall_s: float

    def copy(self, root: Path, *flags: str | Path) -> Call:
        """Return a call for a copy whose intermediate files are there and results are not."""
        call = Call(self.call.bids, root / 'out', flags)
        shutil.copytree(self.call.out / 'work', call.out / 'work')
        return call


def results(out: Path) -> Iterator[Path]:
    """Give every file of an output folder that is a result, hidden ones too."""
    for path in sorted(out.iterdir()):
        if path.name in NOT_RESULTS:
            continue
        yield from (
            [path] if path.is_file() else (item for item in path.rglob('*') if item.is_file())
        )


def snapshot(out: Path) -> dict[str, bytes]:
    """Return the results by name; what may differ from run to run is taken out of the pages."""
    files = {}
    for path in results(out):
        content = path.read_bytes()
        page = path.suffix == '.html'
        files[path.relative_to(out).as_posix()] = PAGE_NUMBER.sub(b'', content) if page else content
    return files


def differences(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> list[str]:
    """Name the files that only one side has or that differ."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


def is_temporary(path: Path) -> bool:
    return path.name.startswith('.') and '.tmp-' in path.name


def temporaries(out: Path) -> list[Path]:
    """Return what is left of files that were being written."""
    return [path for path in results(out) if is_temporary(path)]


def damaged(out: Path) -> list[str]:
    """Name every file under a final name, the logs' too, that is not whole."""
    logs = [path for path in (out / 'logs').rglob('*') if path.is_file()]
    bad = []
    for path in [*results(out), *logs]:
        if is_temporary(path):
            continue
        try:
            _read_whole(path)
        except Exception as error:  # noqa: BLE001 (any reason is a reason)
            bad.append(f'{path}: {error!r}')
    return bad


def _read_whole(path: Path) -> None:
    """Read a file to its end; raises if that cannot be done."""
    if path.name.endswith('.nii.gz'):
        with gzip.open(path) as stream:
            while stream.read(1 << 22):
                pass
        np.asanyarray(nib.load(path).dataobj)
    elif path.suffix == '.json':
        json.loads(path.read_text(encoding='utf-8'))
    elif path.suffix == '.tsv':
        _read_table(path.read_text(encoding='utf-8'))
    elif path.suffix == '.png':
        Image.open(io.BytesIO(path.read_bytes())).load()
    elif path.suffix == '.html':
        assert path.read_text(encoding='utf-8').rstrip().endswith('</html>')
    elif path.name.endswith('_xfm.txt'):
        load_transform(path)


def _read_table(text: str) -> None:
    assert text.endswith('\n')
    rows = list(csv.reader(text.splitlines(), delimiter='\t'))
    assert len({len(row) for row in rows}) == 1
