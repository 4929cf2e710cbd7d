"""How far each participant of a SLURM run is: from the outputs, and from the queue."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msapp.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    InputError,
    MissingDependencyError,
    UsageError,
)

if TYPE_CHECKING:
    from msapp.runs import Run
    from msapp.settings import Settings

PROGRAM = 'msapp-slurm'
LABELS, JOBS, COMMAND = 'participants.txt', 'jobs.tsv', 'command.txt'
GROUP = 'group level'
# How often SLURM is asked whether jobs have ended: soon at first, then rarely.
WAIT_FIRST_S, WAIT_MOST_S, WAIT_GROWTH = 2.0, 30.0, 1.3
DONE, FAILED, MISSING, QUEUED = 'done', 'failed', 'missing', 'queued'


@dataclass(frozen=True)
class State:
    """How far a participant is: ``done``, ``failed``, ``missing`` or ``queued``, and why.

    ``exit_code`` is what this participant alone makes ``--status`` end with.
    """

    participant: str
    status: str
    reason: str = ''
    exit_code: int = EXIT_SOME_FAILED


@dataclass(frozen=True)
class Submission:
    """What one call submitted: its folder, its participants, and its jobs by number.

    ``jobs`` maps the number of a job to its first line in the list of participants, less one;
    None for the group level.
    """

    folder: Path
    labels: tuple[str, ...]
    jobs: Mapping[str, int | None]

    def tasks(self) -> dict[str, str]:
        """Return the task (``job_index``) of each participant that was submitted."""
        starts = {first: job for job, first in self.jobs.items() if first is not None}
        found = {}
        job, first = '', 0
        for line, label in enumerate(self.labels):
            job, first = (starts[line], line) if line in starts else (job, first)
            if job:
                found[label] = f'{job}_{line - first + 1}'
        return found


def choose_labels(bids_dir: Path, wanted: Sequence[str] | None) -> list[str]:
    """Return the participants (``sub-X``), sorted: those asked for, or every folder.

    The folders count, as in msapp; ``participants.tsv`` is only read to warn of who has none.

    Raises
    ------
    UsageError
        If there are none, or one that was asked for has no folder.
    """
    from msapp.bids.query import find_labels, name_first
    from msapp.bids.times import read_rows

    labels = find_labels(bids_dir, wanted or ())
    if not labels:
        raise UsageError(
            f'{bids_dir}: holds no sub-* folder. Give the root of a BIDS dataset, the folder '
            'that holds dataset_description.json.'
        )
    if not wanted:
        rows = read_rows(bids_dir / 'participants.tsv')
        without = sorted({row.get('participant_id', '') for row in rows} - {*labels, ''})
        if without:
            sys.stderr.write(
                f'{PROGRAM}: warning: participants.tsv names {name_first(without)}, without a '
                f'folder in {bids_dir}: left out.\n'
            )
    return labels


def drop_others(labels: Sequence[str], settings: Settings) -> list[str]:
    """Leave out who has none of the sessions that are asked for."""
    from msapp.bids.query import not_in_run

    others = not_in_run(settings)
    return [label for label in labels if label not in others]


def find_states(settings: Settings, labels: Sequence[str]) -> list[State]:
    """Say how far each participant is, from the outputs, and from the queue where there is one.

    Parameters
    ----------
    settings : Settings
        Of msapp: they say which visits are to be processed.
    labels : sequence of str
    """
    from msapp.runs import last_runs

    last = last_runs(settings.output_dir)
    tasks: dict[str, tuple[str, Path]] = {}
    for submission in find_submissions(settings.output_dir):
        for label, task in submission.tasks().items():
            tasks[label] = (task, submission.folder / f'{task}.out')
    waiting = ask_queue() if tasks else None
    states = []
    for label in labels:
        task, log = tasks.get(label, ('', None))
        if waiting and task in waiting:
            states.append(State(label, QUEUED, f'waits or runs as {task}'))
        else:
            states.append(_state(settings, label, last.get(label), log))
    return states


def _state(settings: Settings, label: str, run: Run | None, log: Path | None) -> State:
    """Judge one participant by its last run and by the files that must be there."""
    from msapp.runs import NOT_ENDED

    where, page = _see(log), settings.output_dir / f'{label}.html'
    if run is None:
        return State(label, MISSING, f'no run of it has come to an end.{where}')
    if run.status == NOT_ENDED:
        return State(label, MISSING, f'its last run did not end: {run.error}.{where}')
    if run.status != 'done' and not (run.whole and _is_newer(page, run)):
        step = f'{run.failed_step}: ' if run.failed_step else ''
        reason = f'{step}{run.error or "no reason was noted"}'
        return State(label, FAILED, reason, run.exit_code or EXIT_SOME_FAILED)
    absent = [] if page.is_file() else [page.name]
    if not any((settings.output_dir / label).glob('**/*_desc-summary_stats.tsv')):
        absent.append(f'{label}/**/*_desc-summary_stats.tsv')
    try:
        absent = absent or list(_absent_numbers(settings, label))
    except InputError as error:
        return State(label, MISSING, str(error))
    if absent:
        files = ' and no '.join(absent)
        return State(label, MISSING, f'a run of it was done, but there is no {files}.{where}')
    return State(label, DONE, exit_code=EXIT_DONE)


def _is_newer(page: Path, run: Run) -> bool:
    """Tell whether a page was written after a run had ended, as ``--reports-only`` does."""
    from msapp.provenance import SUMMARY_FILE

    ended = (run.folder / SUMMARY_FILE).stat().st_mtime_ns
    return page.is_file() and page.stat().st_mtime_ns > ended


def _see(log: Path | None) -> str:
    return f' See {log}' if log is not None and log.exists() else ''


def _absent_numbers(settings: Settings, label: str) -> Iterator[str]:
    """Name the tables that are not there of the visits that msapp would process."""
    from msapp.bids.files import list_sessions
    from msapp.bids.query import wanted_sessions

    sessions: Sequence[str | None] = list_sessions(settings.bids_dir / label)[0] or [None]
    wanted = wanted_sessions(settings)
    for session in sessions:
        stem = '_'.join(filter(None, (label, session)))
        table = Path(label, session or '', 'anat', f'{stem}_desc-summary_stats.tsv')
        if (settings.output_dir / table).is_file() or (wanted and session not in wanted):
            continue
        if _is_processed(settings, label, session):
            yield table.as_posix()


def _is_processed(settings: Settings, label: str, session: str | None) -> bool:
    """Tell whether msapp processes a visit: it leaves out those with neither FLAIR nor T1w.

    As `msapp.bids.query.plan_participants`, which reads the images; a test compares the two.
    """
    from msapp.bids.files import EXTENSIONS, list_images, passes, read_filters

    filters = read_filters(settings.bids_filter_file)
    images, _ = list_images(settings.bids_dir, label, session)
    for contrast in ('FLAIR', 'T1w'):
        wanted = {'suffix': contrast, 'extension': list(EXTENSIONS), 'part': [None, 'mag']}
        wanted |= filters.get(contrast, {})
        found = [image.entities for image in images if passes(image.entities, wanted)]
        # A T1w with a contrast agent is none.
        if any(contrast == 'FLAIR' or 'ceagent' not in entities for entities in found):
            return True
    return False


def find_group(output_dir: Path) -> State:
    """Say whether the group's page tells of all runs, or its job is in the queue."""
    from msapp.provenance import SUMMARY_FILE

    submissions = find_submissions(output_dir)
    jobs = {job for item in submissions for job, line in item.jobs.items() if line is None}
    waiting = jobs & (ask_queue() or set()) if jobs else set()
    if waiting:
        return State(GROUP, QUEUED, f'waits or runs as {max(waiting)}')
    page = output_dir / 'group.html'
    if not page.is_file():
        return State(GROUP, MISSING, 'there is no group.html.')
    summaries = (output_dir / 'logs').glob(f'*/{SUMMARY_FILE}')
    ended = max((path.stat().st_mtime_ns for path in summaries), default=0)
    if page.stat().st_mtime_ns < ended:
        return State(GROUP, MISSING, 'group.html is older than the newest run.')
    return State(GROUP, DONE, exit_code=EXIT_DONE)


def describe(states: Sequence[State], again: str) -> Iterator[str]:
    """Give the lines of ``--status``; ``again`` is the command that submits who is not done."""
    people = [state for state in states if state.participant != GROUP]
    groups = {
        status: [state for state in people if state.status == status]
        for status in (DONE, FAILED, MISSING, QUEUED)
    }
    if groups[DONE]:
        yield f'done: {" ".join(state.participant for state in groups[DONE])}'
    told = [state for status in (FAILED, MISSING, QUEUED) for state in groups[status]]
    told += [state for state in states if state.participant == GROUP and state.status != DONE]
    yield from (f'{state.status}: {state.participant}: {state.reason}' for state in told)
    counts = ', '.join(f'{len(group)} {status}' for status, group in groups.items() if group)
    yield f'{len(people)} participants: {counts}.'
    if any(state.status != QUEUED for state in told):
        yield f'To submit again who is not done: {again}'


def find_submissions(output_dir: Path) -> list[Submission]:
    """Return what was submitted for an output folder, oldest first."""
    from msapp.bids.times import read_rows

    found = []
    for path in sorted((output_dir / 'logs' / 'slurm').glob(f'*/{JOBS}')):
        labels = (path.parent / LABELS).read_text(encoding='utf-8').splitlines()
        rows = ((row['job_id'], row['after_line']) for row in read_rows(path))
        jobs = {job: int(line) if line.isdecimal() else None for job, line in rows}
        found.append(Submission(path.parent, tuple(labels), jobs))
    return found


def newest_command(bids_dir: Path, output_dir: Path) -> list[str]:
    """Return the command of the newest submission; without one, the shortest that submits."""
    submissions = find_submissions(output_dir)
    if not submissions:
        return [PROGRAM, str(bids_dir), str(output_dir)]
    return shlex.split((submissions[-1].folder / COMMAND).read_text(encoding='utf-8'))


def split_options(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before ``--``, and the options of msapp after it."""
    cut = command.index('--') if '--' in command else len(command)
    return [*command[:cut]], [*command[cut + 1 :]]


def read_settings(bids_dir: Path, output_dir: Path, options: Sequence[str]) -> Settings:
    """Return the settings of a participant level of msapp with these options."""
    from msapp.cli.parser import parse
    from msapp.settings import make_settings

    return make_settings(parse([str(bids_dir), str(output_dir), 'participant', *options])[0])


def ask_queue() -> set[str] | None:
    """Return jobs and tasks (``job`` and ``job_index``) of this user; None without an answer."""
    if shutil.which('squeue') is None:
        return None
    call = ['squeue', '--noheader', '--array', f'--user={os.getuid()}', '--format=%F %K']
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    if result.returncode:
        return None
    pairs = [line.split() for line in result.stdout.splitlines() if line.strip()]
    return {job for job, *_ in pairs} | {'_'.join(pair) for pair in pairs}


def wait(output_dir: Path) -> None:
    """Wait until no job that was submitted for this output folder is in the queue.

    Raises
    ------
    MissingDependencyError
        If the queue cannot be asked; a controller that does not answer is asked again.
    """
    if shutil.which('squeue') is None:
        raise MissingDependencyError('squeue is not on PATH, so --wait is not possible.')
    jobs = {job for submission in find_submissions(output_dir) for job in submission.jobs}
    pause_s = WAIT_FIRST_S
    while (queue := ask_queue()) is None or queue & jobs:
        time.sleep(pause_s)
        pause_s = min(WAIT_MOST_S, pause_s * WAIT_GROWTH)
