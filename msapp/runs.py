"""How participants ended in the runs of an output folder, from the records in ``logs/<run>/``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from msapp.provenance import (
    NOT_AVAILABLE,
    PAGE_STEP,
    PARTICIPANTS_FILE,
    SHARED,
    SUMMARY_FILE,
    TIMINGS_FILE,
)

# What is said of a run that left no summary.
NOT_ENDED = 'did not end'
NOT_ENDED_ERROR = 'it was killed, or is still at work'


@dataclass(frozen=True)
class Run:
    """A run, and how one participant ended in it.

    Attributes
    ----------
    folder : Path
        Of its record, below ``logs``.
    participant, status : str
        As in ``summary.tsv``; `NOT_ENDED` where there is none.
    error, failed_step : str
        Empty where there is none.
    exit_code : int
        0 where it is not known.
    steps, taken : int
        How many there were to do (of a run that did not end: how many are known), and how many
        were run or reused.
    """

    folder: Path
    participant: str
    status: str
    error: str = ''
    failed_step: str = ''
    exit_code: int = 0
    steps: int = 0
    taken: int = 0

    @property
    def began(self) -> bool:
        """Whether it may have written any file of the participant."""
        return bool(self.taken) or (self.status in ('failed', NOT_ENDED) and bool(self.steps))

    @property
    def whole(self) -> bool:
        """Whether the results are all there, though perhaps not the page."""
        return self.status == 'done' or self.failed_step == PAGE_STEP

    @property
    def tells(self) -> bool:
        """Whether it says anything of the results.

        One that left the participant out, since another was at work on it, and one that wrote
        pages alone say nothing.
        """
        return bool(self.steps) or (self.status != 'not run' and self.failed_step != PAGE_STEP)


def read_runs(output_dir: Path) -> Iterator[Run]:
    """Give every participant of every run, the newest run first.

    A run without ``summary.tsv`` was killed or is still at work: its participants are those of
    ``participants.txt``, and those of whom ``timings.tsv`` has a step.
    """
    for folder in sorted((output_dir / 'logs').glob('*'), reverse=True):
        ended = (folder / SUMMARY_FILE).exists()
        yield from _read_summary(folder) if ended else _read_not_ended(folder)


def _read_summary(folder: Path) -> Iterator[Run]:
    for row in _rows((folder / SUMMARY_FILE).read_text(encoding='utf-8')):
        code, steps, run, reused = (
            int(text) if (text := row.get(name, '')).isdecimal() else 0
            for name in ('exit_code', 'steps_total', 'steps_run', 'steps_reused')
        )
        participant, status, error, step = (
            row.get(name, '').removeprefix(NOT_AVAILABLE)
            for name in ('participant_id', 'status', 'error', 'failed_step')
        )
        yield Run(folder, participant, status, error, step, code, steps, run + reused)


def _read_not_ended(folder: Path) -> Iterator[Run]:
    """Give the participants that it began with, and how many of their steps have come to an end."""
    ended: dict[str, list[bool]] = {
        label: [] for label in _whole_lines(folder / PARTICIPANTS_FILE).splitlines()
    }
    for row in _rows(_whole_lines(folder / TIMINGS_FILE)):
        if (participant := row.get('participant', '')) != SHARED:
            ended.setdefault(participant, []).append(row.get('status') in ('done', 'reused'))
    for participant, done in ended.items():
        yield Run(folder, participant, NOT_ENDED, NOT_ENDED_ERROR, steps=len(done), taken=sum(done))


def _whole_lines(path: Path) -> str:
    """Read a text without its last line where that was cut off; nothing where there is none."""
    if not path.is_file():
        return ''
    text = path.read_text(encoding='utf-8', errors='replace')
    return text[: text.rfind('\n') + 1]


def _rows(text: str) -> Iterator[dict[str, str]]:
    lines = text.splitlines()
    return csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, restval='')


def find_runs(output_dir: Path, participant: str) -> tuple[Run | None, Run | None]:
    """Return the last run that worked on a participant, and that before; None if none is known.

    Parameters
    ----------
    output_dir : Path
        Holds ``logs``.
    participant : str
        As in ``summary.tsv``.
    """
    runs = read_runs(output_dir)
    began = (run for run in runs if run.participant == participant and run.began)
    return next(began, None), next(began, None)


def last_runs(output_dir: Path) -> dict[str, Run]:
    """Return the last run of each participant, by label, sorted.

    One that says nothing of the results (`Run.tells`) counts only where there is no other.
    """
    telling: dict[str, Run] = {}
    others: dict[str, Run] = {}
    for run in read_runs(output_dir):
        (telling if run.tells else others).setdefault(run.participant, run)
    return dict(sorted((others | telling).items()))
