"""What happened to each participant, gathered step by step while a graph runs."""

from __future__ import annotations

import contextlib
import importlib
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from msapp.engine.progress import Progress
from msapp.engine.worker import Usage
from msapp.errors import EXIT_DONE, EXIT_SOME_FAILED, InternalError, MsappError
from msapp.files import storage_error
from msapp.provenance import (
    NOT_AVAILABLE,
    SHARED,
    TIMINGS_FILE,
    tsv_cell,
    write_participants,
)

Status = Literal['done', 'failed', 'not run']
TIMING_COLUMNS = ('participant', 'step', 'status', 'start', 'wall_s', 'cpu_s', 'peak_rss_mb')
ENTITY_PREFIX = re.compile(r'^(ses|acq|run|task)_(?=.)')
SYSTEM_ERROR = re.compile(r"\[Errno (?P<number>\d+)\] (?P<reason>[^:]*)(?:: '(?P<file>[^']*)')?")
# What numpy raises, and what C++ (ITK) and the system say, where memory is limited by ulimit.
MEMORY_ERRORS = ('MemoryError', '_ArrayMemoryError')
NO_MEMORY = re.compile(r'bad_alloc|(?i:(?:failed to|cannot) allocate memory)')
MORE_MEMORY = 'Give the run more memory, fewer --nprocs, or --low-mem.'
EXCEPTION_LINE = re.compile(r'^(?P<name>[A-Za-z_][\w.]*)(?:: ?(?P<message>.*))?$')


@dataclass(frozen=True)
class Outcome:
    """What came of one participant.

    ``steps_run`` counts steps that ran to their end this time, ``steps_reused`` those whose
    result was taken from the work folder. ``error`` is one or two readable lines; ``wall_s``
    is from the first step to the last, s. ``exit_code`` is what this participant alone
    would make the whole run end with.
    """

    participant: str
    status: Status
    steps_total: int
    steps_run: int
    steps_reused: int
    error: str | None
    failed_step: str | None
    crash_file: Path | None
    wall_s: float
    exit_code: int


@dataclass(frozen=True)
class Failure:
    """Why one step failed."""

    step: str
    error: str
    exit_code: int
    crash_file: Path | None


@dataclass
class _Tally:
    """The running count of one participant."""

    participant: str
    total: int = 0
    run: int = 0
    reused: int = 0
    first: float | None = None
    last: float | None = None
    failures: list[Failure] = field(default_factory=list)

    @property
    def done(self) -> int:
        return self.run + self.reused

    def touch(self) -> bool:
        """Note the time; True the first time."""
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
            return True
        return False

    @property
    def wall_s(self) -> float:
        return 0.0 if self.first is None or self.last is None else self.last - self.first


def step_label(parts: Iterable[str]) -> str:
    """Return a readable name for a step from the names of the workflows around it.

    Examples
    --------
    >>> step_label(['ses_1_wf', 'bias_correction'])
    'ses-1 bias_correction'
    """
    return ' '.join(ENTITY_PREFIX.sub(r'\1-', part.removesuffix('_wf')) for part in parts)


def last_exception(text: str) -> tuple[str, str]:
    r"""Return the class name and the message of the exception that ends a traceback.

    nipype hands an exception on as the text of its traceback, indented by tabs, inside the
    message of another exception: the innermost one is the one that was raised.

    Examples
    --------
    >>> last_exception('Traceback ...\n  File "a.py", line 1, in f\n    x\nKeyError: 3\n')
    ('KeyError', '3')
    """
    lines = [line.lstrip('\t') for line in text.rstrip().splitlines()]
    frames = [index for index, line in enumerate(lines) if line.startswith('  File "')]
    start = frames[-1] + 1 if frames else 0
    while start < len(lines) and (not lines[start].strip() or lines[start].startswith(' ')):
        start += 1
    match = EXCEPTION_LINE.match(lines[start]) if start < len(lines) else None
    if match is None:
        return '', lines[-1].strip() if lines else ''
    return match['name'], '\n'.join([match['message'] or '', *lines[start + 1 :]]).strip()


def explain(step: str, traceback: str, work_dir: Path = Path('the work folder')) -> tuple[str, int]:
    """Return a readable error for a failed step, and the exit code it calls for.

    An `MsappError` explains itself, so its message comes alone, and so does a full or unusable
    ``work_dir``; a step without memory gets advice; anything else is named with the step and the
    last line of its traceback.
    """
    name, message = last_exception(traceback)
    known = _msapp_error(name)
    if known is not None:
        return message, known.exit_code
    if found := SYSTEM_ERROR.match(message):
        error = OSError(int(found['number']), found['reason'], found['file'])
        if explained := storage_error(error, work_dir):
            return str(explained), explained.exit_code
    first = message.splitlines()[0] if message else ''
    kind = name.rpartition('.')[2] or 'error'
    if kind in MEMORY_ERRORS or NO_MEMORY.search(message):
        detail = f' ({first})' if first else ''
        return f'{step}: memory ran out{detail}. {MORE_MEMORY}', EXIT_SOME_FAILED
    return f'{step}: {kind}: {first}'.rstrip(': '), InternalError.exit_code


def _msapp_error(name: str) -> type[MsappError] | None:
    module_name, _, class_name = name.rpartition('.')
    if not module_name.startswith('msapp.'):
        return None
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, MsappError) else None


class Recorder:
    """Count steps per participant, write ``timings.tsv``, and feed the progress view."""

    def __init__(self, participants: Mapping[str, str], log_dir: Path, progress: Progress) -> None:
        """Take the labels by workflow name, in the order to finish them."""
        self._tallies = {name: _Tally(label) for name, label in participants.items()}
        self._order = {name: rank for rank, name in enumerate(participants)}
        self._shared = _Tally(SHARED)
        self._progress = progress
        self._log_dir = log_dir
        self._usage: dict[str, list[Usage]] = {}
        self._started: dict[str, float] = {}
        self._failed: set[str] = set()
        self._timings: IO[str] | None = None
        self.stopped = 'Stopped before it was complete.'

    @property
    def failed(self) -> bool:
        """Whether any step has failed."""
        return bool(self._failed)

    def begin(self, nodes: Iterable[Any]) -> None:
        """Count the steps there are to do, and note whose they are."""
        for node in nodes:
            self._tally(node).total += 1
        write_participants(self._log_dir, [item.participant for item in self._tallies.values()])
        self._timings = (self._log_dir / TIMINGS_FILE).open('w', encoding='utf-8')
        self._row(TIMING_COLUMNS)
        self._progress.begin({tally.participant: tally.total for tally in self._tallies.values()})

    def rank(self, node: Any) -> int:
        """Return the place of a node's participant, so that they end one after another."""
        return self._order.get(_parts(node)[0], -1)

    def label(self, node: Any) -> tuple[str, str]:
        """Return the participant and the readable step of a node."""
        return self._tally(node).participant, step_label(_parts(node)[1:]) or node.name

    def started(self, node: Any) -> None:
        """A step, or the first part of one that maps over a list, goes to a worker."""
        self._touch(node)
        self._started.setdefault(node.output_dir(), time.time())
        self._progress.step_started(*self.label(node))

    def measured(self, node: Any, usage: Usage) -> None:
        """Take in what a step, or a part of one, took."""
        self._usage.setdefault(node.output_dir(), []).append(usage)

    def finished(self, node: Any, *, reused: bool) -> None:
        """A step has its result."""
        if node.output_dir() in self._failed:
            return  # nipype also reports the end of a failed step that ran in its own process
        tally = self._touch(node)
        tally.reused += reused
        tally.run += not reused
        wall_s = self._timing(node, 'reused' if reused else 'done')
        participant, step = self.label(node)
        self._progress.step_ended(participant, step, tally.done, wall_s, reused=reused)
        if tally is not self._shared and tally.done == tally.total:
            self._progress.participant_ended(self._outcome(tally))

    def crashed(self, node: Any, traceback: str, crash_file: Path | None) -> None:
        """A step, or a part of one, failed."""
        if node.output_dir() in self._failed:
            return
        self._failed.add(node.output_dir())
        tally = self._touch(node)
        participant, step = self.label(node)
        error, exit_code = explain(step, traceback, Path(node.base_dir))
        tally.failures.append(Failure(step, error, exit_code, crash_file))
        self._timing(node, 'failed')
        self._progress.step_failed(participant, step, error, crash_file)

    def outcomes(self) -> list[Outcome]:
        """Return what came of each participant, in the order they were given."""
        outcomes = [self._outcome(tally) for tally in self._tallies.values()]
        for outcome in outcomes:
            if outcome.status != 'done':
                self._progress.participant_ended(outcome)
        return outcomes

    def close(self) -> None:
        """Close ``timings.tsv`` and the progress view; safe to call again."""
        if self._timings is not None:
            with contextlib.suppress(OSError):  # of a full disk; `stopped` says it
                self._timings.close()
            self._timings = None
        self._progress.close()

    def _tally(self, node: Any) -> _Tally:
        return self._tallies.get(_parts(node)[0], self._shared)

    def _touch(self, node: Any) -> _Tally:
        tally = self._tally(node)
        if tally.touch() and tally is not self._shared:
            self._progress.participant_started(tally.participant, tally.total)
        return tally

    def _timing(self, node: Any, status: str) -> float:
        """Write a row of ``timings.tsv``; return the wall time of the step, s."""
        usages = self._usage.pop(node.output_dir(), [])
        started = self._started.pop(node.output_dir(), None)
        begin = min((usage.start for usage in usages), default=started or time.time())
        end = max((usage.start + usage.wall_s for usage in usages), default=time.time())
        wall_s = 0.0 if status == 'reused' else max(0.0, end - begin)
        known = bool(usages) and status != 'reused'
        self._row(
            (
                *self.label(node),
                status,
                datetime.fromtimestamp(begin, UTC).isoformat(timespec='milliseconds'),
                f'{wall_s:.3f}',
                f'{sum(usage.cpu_s for usage in usages):.3f}' if known else NOT_AVAILABLE,
                f'{max(usage.peak_rss_mb for usage in usages):.1f}' if known else NOT_AVAILABLE,
            )
        )
        return wall_s

    def _row(self, cells: Iterable[object]) -> None:
        """Write at once: an interrupted run keeps what it measured."""
        if self._timings is not None:
            self._timings.write('\t'.join(tsv_cell(cell) for cell in cells) + '\n')
            self._timings.flush()

    def _outcome(self, tally: _Tally) -> Outcome:
        failure = tally.failures[0] if tally.failures else None
        status: Status = 'done' if tally.done == tally.total else 'not run'
        error, exit_code = None, EXIT_DONE
        if failure is not None:
            status, error, exit_code = 'failed', failure.error, failure.exit_code
            if len(tally.failures) > 1:
                error += f'\n({len(tally.failures) - 1} more steps failed; see the crash files)'
        elif status == 'not run':
            shared = self._shared.failures
            error = shared[0].error if shared else self.stopped
            exit_code = EXIT_SOME_FAILED
        return Outcome(
            participant=tally.participant,
            status=status,
            steps_total=tally.total,
            steps_run=tally.run,
            steps_reused=tally.reused,
            error=error,
            failed_step=failure.step if failure else None,
            crash_file=failure.crash_file if failure else None,
            wall_s=tally.wall_s,
            exit_code=exit_code,
        )


def _parts(node: Any) -> list[str]:
    """Return the names below the whole graph: the participant's, then those inside it."""
    parts = str(node.fullname).split('.')
    return parts[1:] if len(parts) > 1 else parts
