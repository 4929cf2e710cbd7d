"""The same command gives the same bytes, and the record of a run repeats it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from msapp import __version__
from msapp.synthesis.phantom import write_phantom

FLAGS = ('--sloppy', '--random-seed', '1', '--omp-nthreads', '1', '--skip-bids-validation')
FLAGS += ('--brain-extraction', 'template')
# What differs between runs and may: who holds the folders, when, on which machine; and the
# intermediate files, which are no result.
NO_RESULT = ('logs', 'work', '.locks')
# nilearn gives the elements of each viewer a random name.
RANDOM_NAME = re.compile(rb'[0-9a-f]{32}')
CONTRASTS = ('_FLAIR.', '_T1w.')

pytestmark = pytest.mark.slow


def digests(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every result; pages without the random names in them."""
    found = {}
    for path in sorted(out.rglob('*')):
        name = path.relative_to(out)
        if path.is_file() and name.parts[0] not in NO_RESULT:
            content = path.read_bytes()
            if path.suffix == '.html':
                content = RANDOM_NAME.sub(b'', content)
            found[name.as_posix()] = hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture(scope='module')
def bids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One participant, two visits with FLAIR and T1w."""
    root = tmp_path_factory.mktemp('reproducible') / 'bids'
    write_phantom(root, participants=1, sessions=2, fast=True)
    for path in root.glob('sub-*/ses-*/anat/*'):
        if not any(name in path.name for name in CONTRASTS) or '_ce-' in path.name:
            path.unlink()
    return root


@pytest.fixture(scope='module')
def first(bids: Path, call_msapp: Callable) -> Iterator[Path]:
    """Output of the first run, participant and group level."""
    out, work = bids.parent / 'first', bids.parent / 'first-work'
    run = call_msapp(bids, out, 'participant', 'group', '--work-dir', work, *FLAGS)
    assert run.returncode == 0, run.stderr
    yield out
    shutil.rmtree(work, ignore_errors=True)


def record(out: Path) -> Path:
    (folder,) = (out / 'logs').iterdir()
    return folder


def test_the_runs_have_the_results_to_compare(first):
    names = list(digests(first))
    # Eight images a visit (README), and three of the candidates at the second.
    for pattern, count in ((r'\.nii\.gz$', 19), (r'_xfm\.txt$', 6), (r'\.tsv$', 10)):
        assert sum(bool(re.search(pattern, name)) for name in names) >= count, pattern
    for figure in (r'figures/.*\.(svg|png|jpg|html)$', r'^sub-01\.html$', r'^group\.html$'):
        assert any(re.search(figure, name) for name in names), figure


def test_another_run_into_other_folders_gives_the_same_bytes(bids, first, call_msapp):
    out, work = bids.parent / 'second', bids.parent / 'second-work'
    run = call_msapp(bids, out, 'participant', 'group', '--work-dir', work, *FLAGS)
    assert run.returncode == 0, run.stderr
    shutil.rmtree(work)
    one, other = digests(first), digests(out)
    assert sorted(one) == sorted(other)
    assert [name for name in one if one[name] != other[name]] == []


def test_the_settings_of_a_run_alone_repeat_it_to_the_byte(bids, first, call_msapp):
    before = digests(first)
    settings = shutil.copy(record(first) / 'settings.toml', bids.parent / 'settings.toml')
    kept = first.rename(bids.parent / 'kept')
    shutil.rmtree(bids.parent / 'first-work')
    try:
        run = call_msapp('--config-file', settings)
        assert run.returncode == 0, run.stderr
        after = digests(first)
        assert sorted(after) == sorted(before)
        assert [name for name in before if before[name] != after[name]] == []
        assert (record(first) / 'settings.toml').read_bytes() == Path(settings).read_bytes()
    finally:
        shutil.rmtree(first, ignore_errors=True)
        kept.rename(first)


def test_the_record_of_a_run_is_whole(bids, first):
    folder = record(first)
    settings = tomllib.loads((folder / 'settings.toml').read_text(encoding='utf-8'))
    assert settings['bids-dir'] == str(bids)
    assert settings['output-dir'] == str(first)
    assert (settings['random-seed'], settings['omp-nthreads'], settings['sloppy']) == (1, 1, True)
    versions = json.loads((folder / 'versions.json').read_text(encoding='utf-8'))
    assert versions['msapp'] == __version__
    assert all(versions[name] for name in ('python', 'numpy', 'nibabel', 'antspyx', 'nipype'))
    command = shlex.split((folder / 'command.txt').read_text(encoding='utf-8'))
    assert command[0] == 'msapp'
    assert command[1:5] == [str(bids), str(first), 'participant', 'group']
    assert command[-len(FLAGS) :] == list(FLAGS)
    limits = json.loads((folder / 'limits.json').read_text(encoding='utf-8'))
    assert limits['n_cpus'] >= 1
    assert limits['memory_gb'] > 0


def test_every_step_has_its_time(first):
    timings = pd.read_csv(record(first) / 'timings.tsv', sep='\t')
    summary = pd.read_csv(record(first) / 'summary.tsv', sep='\t')
    assert list(summary['participant_id']) == ['sub-01']
    assert len(timings) == summary['steps_total'].sum()
    assert timings['step'].is_unique
    assert set(timings['status']) == {'done'}
    assert (timings['wall_s'] >= 0).all()
    assert timings['peak_rss_mb'].min() > 0
    assert pd.to_datetime(timings['start']).notna().all()
    for step in ('conform_FLAIR', 'bias_T1w', 'brain_extraction', 'register_T1w', 'midpoint'):
        assert timings['step'].str.contains(step).any(), step
