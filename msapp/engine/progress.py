"""Showing how far a run is: plain lines everywhere, and a live table on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from msapp.logs import LOGGER_NAME, ConsoleHandler
from msapp.provenance import OutcomeLike

REFRESHES_PER_S = 2
MAX_ROWS = 20  # of the live table; more participants than this do not fit on a screen
SECONDS_PER_MINUTE = 60


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours from one hour on.

    Examples
    --------
    >>> clock(62.4), clock(3723)
    ('1:02', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), SECONDS_PER_MINUTE)
    hours, minutes = divmod(minutes, SECONDS_PER_MINUTE)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


class Progress:
    """Progress as log lines: one a step, and one at each start, end and failure."""

    def __init__(self) -> None:
        """Log to ``msapp.progress``."""
        self._log = logging.getLogger(f'{LOGGER_NAME}.progress')
        self._totals: dict[str, int] = {}

    def begin(self, totals: Mapping[str, int]) -> None:
        """Learn how many steps each participant has."""
        self._totals = dict(totals)

    def participant_started(self, participant: str, total: int) -> None:
        """The first step of a participant begins, or is found done."""
        self._log.info('%s started: %d steps', participant, total)

    def step_started(self, participant: str, step: str) -> None:
        """A step goes to a worker."""
        self._log.debug('%s begins %s', participant, step)

    def step_ended(
        self, participant: str, step: str, done: int, wall_s: float, *, reused: bool
    ) -> None:
        """A step has its result; a reused one is worth no line on the console."""
        total = self._totals.get(participant, 0)
        if reused:
            self._log.debug('%s [%d/%d] %s reused', participant, done, total, step)
        else:
            self._log.info('%s [%d/%d] %s %.1f s', participant, done, total, step, wall_s)

    def step_failed(self, participant: str, step: str, error: str, crash_file: Path | None) -> None:
        """A step failed; the participant will not be complete."""
        where = f' (details: {crash_file})' if crash_file else ''
        at = '' if error.startswith(step) else f' at {step}'
        self._log.error('%s FAILED%s: %s%s', participant, at, error, where)

    def participant_ended(self, outcome: OutcomeLike) -> None:
        """A participant is complete, or will not be."""
        self._log.info(
            '%s %s: %d of %d steps (%d reused), %s',
            outcome.participant,
            outcome.status,
            outcome.steps_run + outcome.steps_reused,
            outcome.steps_total,
            outcome.steps_reused,
            clock(outcome.wall_s),
        )

    def close(self) -> None:
        """Nothing more will come; safe to call again."""


@dataclass
class _Row:
    participant: str
    total: int
    done: int = 0
    status: str = 'waiting'
    steps: list[str] = field(default_factory=list)
    first: float | None = None
    last: float | None = None

    @property
    def elapsed_s(self) -> float:
        if self.first is None:
            return 0.0
        return (self.last or time.monotonic()) - self.first


class LiveProgress(Progress):
    """Log lines for the file, and on the terminal a table that is always up to date.

    While it is shown the console handler lets only warnings through, above the table.
    """

    def __init__(self, nprocs: int, console: Console | None = None) -> None:
        """Prepare the table; `begin` shows it."""
        super().__init__()
        self._nprocs = nprocs
        self._rows: dict[str, _Row] = {}
        self._walls: list[float] = []
        self._begin = time.monotonic()
        self._levels: list[tuple[logging.Handler, int]] = []
        self._live = Live(
            console=console or Console(stderr=True),
            refresh_per_second=REFRESHES_PER_S,
            get_renderable=self.table,
            transient=True,
        )

    def begin(self, totals: Mapping[str, int]) -> None:
        """Put the table on the screen."""
        super().begin(totals)
        self._rows = {name: _Row(name, total) for name, total in totals.items()}
        self._begin = time.monotonic()
        for handler in logging.getLogger(LOGGER_NAME).handlers:
            if isinstance(handler, ConsoleHandler):
                self._levels.append((handler, handler.level))
                handler.setLevel(max(handler.level, logging.WARNING))
        self._live.start()

    def participant_started(self, participant: str, total: int) -> None:
        """Start the participant's clock."""
        super().participant_started(participant, total)
        row = self._rows[participant]
        row.first, row.status = time.monotonic(), 'running'

    def step_started(self, participant: str, step: str) -> None:
        """Name the step in the participant's row."""
        super().step_started(participant, step)
        row = self._rows.get(participant)
        if row is not None and step not in row.steps:
            row.steps = [*row.steps, step]

    def step_ended(
        self, participant: str, step: str, done: int, wall_s: float, *, reused: bool
    ) -> None:
        """Count the step."""
        super().step_ended(participant, step, done, wall_s, reused=reused)
        self._drop(participant, step)
        row = self._rows.get(participant)
        if row is not None:
            row.done = done
        if not reused:
            self._walls.append(wall_s)

    def step_failed(self, participant: str, step: str, error: str, crash_file: Path | None) -> None:
        """Mark the participant; the reason is printed above the table."""
        super().step_failed(participant, step, error, crash_file)
        self._drop(participant, step)
        row = self._rows.get(participant)
        if row is not None:
            row.status = 'failed'

    def participant_ended(self, outcome: OutcomeLike) -> None:
        """Stop the participant's clock."""
        super().participant_ended(outcome)
        row = self._rows[outcome.participant]
        row.status, row.last, row.steps = outcome.status, time.monotonic(), []

    def close(self) -> None:
        """Take the table off the screen and let the console handler speak again."""
        self._live.stop()
        for handler, level in self._levels:
            handler.setLevel(level)
        self._levels = []

    def remaining_s(self) -> float | None:
        """Estimate the time to the end from the mean step so far, s; None before any ended."""
        if not self._walls:
            return None
        open_rows = [row for row in self._rows.values() if row.status in ('waiting', 'running')]
        steps = sum(row.total - row.done for row in open_rows)
        return steps * fmean(self._walls) / max(1, min(self._nprocs, steps))

    def table(self) -> Group:
        """Return the table as it stands: running participants first, as many as fit."""
        order = {'running': 0, 'failed': 1, 'waiting': 2}
        rows = sorted(self._rows.values(), key=lambda row: order.get(row.status, 3))
        done = sum(row.status == 'done' for row in rows)
        remaining = self.remaining_s()
        caption = f'{done} of {len(rows)} participants done, {clock(self._total_s())} so far'
        if remaining is not None:
            caption += f', about {clock(remaining)} to go'
        table = Table(box=None, pad_edge=False)
        for name in ('participant', 'status', 'steps', 'elapsed', 'now'):
            table.add_column(name, justify='right' if name in ('steps', 'elapsed') else 'left')
        for row in rows[:MAX_ROWS]:
            now = ', '.join(row.steps)
            table.add_row(
                row.participant, row.status, f'{row.done}/{row.total}', clock(row.elapsed_s), now
            )
        return Group(table, caption)

    def _total_s(self) -> float:
        return time.monotonic() - self._begin

    def _drop(self, participant: str, step: str) -> None:
        row = self._rows.get(participant)
        if row is not None:
            row.steps = [name for name in row.steps if name != step]


def make_progress(show: bool | None, nprocs: int) -> Progress:
    """Return a live table on a terminal, plain lines elsewhere; ``show`` decides by force."""
    live = sys.stderr.isatty() if show is None else show
    return LiveProgress(nprocs) if live else Progress()
