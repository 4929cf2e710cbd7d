"""What was run, with what, and what came of it: the record in ``logs/<run>/``.

`msapp.runs` reads what came of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from msapp import __version__
from msapp.errors import UsageError
from msapp.files import write_atomic
from msapp.settings import Settings

# The libraries whose version can change a result.
LIBRARIES = (
    'antspyx',
    'fslpy',
    'matplotlib',
    'monai',
    'nibabel',
    'nilearn',
    'nipype',
    'nitransforms',
    'numpy',
    'pandas',
    'pillow',
    'pybids',
    'pydantic',
    'scikit-image',
    'scipy',
    'torch',
)
MODELS_FILE = 'models.json'
VERSIONS_FILE = 'versions.json'
# Who a run begins with, a line each.
PARTICIPANTS_FILE = 'participants.txt'
TIMINGS_FILE = 'timings.tsv'
SUMMARY_FILE = 'summary.tsv'
# Whose the steps in timings are that are of no single participant.
SHARED = 'all'
# The failed step where all steps were done and the page could not be written.
PAGE_STEP = 'report'
SUMMARY_COLUMNS = (
    'participant_id',
    'status',
    'exit_code',
    'steps_total',
    'steps_run',
    'steps_reused',
    'wall_s',
    'failed_step',
    'error',
)
NOT_AVAILABLE = 'n/a'
# Of the SHA-256 of the code, as of those of models in tables.
CODE_DIGITS = 12


class LimitsLike(Protocol):
    """CPUs and memory a run was given; see `msapp.resources.Limits`."""

    @property
    def n_cpus(self) -> int:
        """Whole CPUs."""

    @property
    def memory_gb(self) -> float:
        """Memory, GB of 2**30 bytes."""


class OutcomeLike(Protocol):
    """What came of one participant; see `msapp.engine.run.Outcome`."""

    @property
    def participant(self) -> str:
        """Label, as ``sub-01``."""

    @property
    def status(self) -> str:
        """``done``, ``failed`` or ``not run``."""

    @property
    def exit_code(self) -> int:
        """Exit code this participant alone would cause; 0 when done."""

    @property
    def steps_total(self) -> int:
        """Steps in its graph."""

    @property
    def steps_run(self) -> int:
        """Steps run to their end this time."""

    @property
    def steps_reused(self) -> int:
        """Steps whose result was taken from the work folder."""

    @property
    def wall_s(self) -> float:
        """Time from its first step to its last, s."""

    @property
    def failed_step(self) -> str | None:
        """The first step that failed."""

    @property
    def error(self) -> str | None:
        """Why, in one or two lines."""


class ModelLike(Protocol):
    """A trained model; see `msapp.models.spec.ModelSpec`."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def weights(self) -> Path:
        """File of its weights."""


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open('rb') as stream:
        return hashlib.file_digest(stream, 'sha256').hexdigest()


@cache
def code_digest() -> str:
    """Return the SHA-256 of all of msapp's code, as 64 hexadecimal digits.

    A result of other code is computed anew, even where it would be the same.
    """
    found = hashlib.sha256()
    root = Path(__file__).parent
    # Models and workflows are links in the source tree.
    for folder, below, names in os.walk(root, followlinks=True):
        below.sort()
        for name in sorted(name for name in names if name.endswith('.py')):
            path = Path(folder) / name
            found.update(path.relative_to(root).as_posix().encode())
            found.update(path.read_bytes())
    return found.hexdigest()


@cache
def programs_digest() -> str:
    """Return the SHA-256 of `code_digest` and the versions of `LIBRARIES`, 64 hexadecimal digits.

    A result of other libraries is computed anew as well.
    """
    return hashlib.sha256(json.dumps([code_digest(), _libraries()]).encode()).hexdigest()


def _libraries() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def versions() -> dict[str, str | None]:
    """Return the versions of Python, msapp and its libraries, and of the code its first digits.

    None stands for a library that is not installed.
    """
    return {
        'python': platform.python_version(),
        'msapp': __version__,
        **_libraries(),
        'code': code_digest()[:CODE_DIGITS],
    }


def read_versions(log_dir: Path) -> dict[str, str | None]:
    """Return the `versions` that a run used.

    Raises
    ------
    UsageError
        If its record cannot be read.
    """
    path = log_dir / VERSIONS_FILE
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f'{path}: cannot be read ({error}).') from error


def write_run_record(
    log_dir: Path,
    settings: Settings,
    argv: Sequence[str],
    limits: LimitsLike,
    models: Mapping[str, ModelLike] = MappingProxyType({}),
) -> None:
    """Write what a run is.

    ``settings.toml`` (repeats the run when given to ``--config-file``), ``versions.json``,
    ``command.txt``, ``limits.json``, and ``models.json``, see `describe_models`.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    used = {'n_cpus': limits.n_cpus, 'memory_gb': round(limits.memory_gb, 3)}
    write_atomic(log_dir / 'settings.toml', settings.to_toml())
    write_atomic(log_dir / VERSIONS_FILE, json.dumps(versions(), indent=2) + '\n')
    write_atomic(log_dir / 'command.txt', shlex.join(argv) + '\n')
    write_atomic(log_dir / 'limits.json', json.dumps(used, indent=2) + '\n')
    write_atomic(log_dir / MODELS_FILE, json.dumps(describe_models(models), indent=2) + '\n')


def describe_models(models: Mapping[str, ModelLike]) -> dict[str, dict[str, str]]:
    """Return name, version and SHA-256 of the weights, as the file is now, of each model."""
    return {
        use: {'name': item.name, 'version': item.version, 'sha256': sha256_file(item.weights)}
        for use, item in models.items()
    }


def check_models(log_dir: Path, models: Mapping[str, ModelLike]) -> None:
    """Make sure that these are the models that a run used.

    Raises
    ------
    UsageError
        If they are not, or the run has not said.
    """
    path = log_dir / MODELS_FILE
    try:
        used = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UsageError(f'{path}: cannot be read ({error}).') from error
    try:
        now = describe_models(models)
    except OSError as error:
        raise UsageError(f'{error.filename}: cannot be read ({error.strerror}).') from error
    if used != now:
        raise UsageError(f'{path}: the models are not those that are installed now.')


def write_participants(log_dir: Path, labels: Iterable[str]) -> None:
    """Write ``participants.txt``, so that a run that is killed is known to have begun with them."""
    write_atomic(log_dir / PARTICIPANTS_FILE, ''.join(f'{label}\n' for label in labels))


def write_summary(log_dir: Path, outcomes: Iterable[OutcomeLike]) -> Path:
    """Write ``summary.tsv``, a line a participant, and return its path."""
    lines = ['\t'.join(SUMMARY_COLUMNS)]
    for outcome in outcomes:
        cells = (
            outcome.participant,
            outcome.status,
            outcome.exit_code,
            outcome.steps_total,
            outcome.steps_run,
            outcome.steps_reused,
            f'{outcome.wall_s:.1f}',
            outcome.failed_step,
            outcome.error,
        )
        lines.append('\t'.join(tsv_cell(cell) for cell in cells))
    log_dir.mkdir(parents=True, exist_ok=True)
    path = log_dir / SUMMARY_FILE
    write_atomic(path, '\n'.join(lines) + '\n')
    return path


def tsv_cell(value: object) -> str:
    r"""Return a value as one TSV cell; BIDS writes a missing one as ``n/a``.

    Examples
    --------
    >>> tsv_cell(None), tsv_cell('two\nlines')
    ('n/a', 'two lines')
    """
    return NOT_AVAILABLE if value is None else ' '.join(str(value).split()) or NOT_AVAILABLE
