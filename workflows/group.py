"""The group level: tables and plots of a study, from the derivatives alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msapp.errors import InputError
from msapp.provenance import versions
from msapp.settings import Settings


@dataclass(frozen=True)
class GroupResult:
    """The page, how many visits it holds, of whom alone, and what to know before reading it."""

    page: Path
    visits: int
    limited_to: tuple[str, ...]
    problems: tuple[str, ...]
    doubts: tuple[str, ...]


def run_group(settings: Settings) -> GroupResult:
    """Collect the participants' tables and write the group's tables and ``group.html``.

    Raises
    ------
    InputError
        If no visit, or none of those asked for, was processed yet.
    """
    from msapp.reports.group import group_doubts, write_group_report
    from msapp.stats.tables import collect_group, write_group_tables

    tables = collect_group(
        settings.output_dir,
        bids_dir=settings.bids_dir,
        participants=settings.participant_label,
        sessions=settings.session_label,
    )
    if tables.visits.empty:
        asked = f' of {", ".join(tables.limited_to)}' if tables.limited_to else ''
        raise InputError(
            f'{settings.output_dir}: no visit{asked} was processed yet. '
            + ' '.join(tables.problems or ('Run the participant level first.',))
        )
    write_group_tables(settings.output_dir, tables)
    found = {name: version for name, version in versions().items() if version}
    page = write_group_report(settings.output_dir, tables, versions=found)
    return GroupResult(
        page,
        len(tables.visits),
        tables.limited_to,
        tables.problems,
        tuple(group_doubts(tables.visits)),
    )
