"""The group level: tables and plots of a study, from the derivatives alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from msapp.errors import InputError
from msapp.provenance import versions
from msapp.settings import Settings


@dataclass(frozen=True)
class GroupResult:
    """The page, how many visits it holds, and what could not be read."""

    page: Path
    visits: int
    problems: tuple[str, ...]


def run_group(settings: Settings) -> GroupResult:
    """Collect all participants' tables and write the group's tables and ``group.html``.

    Raises
    ------
    InputError
        If no visit was processed yet.
    """
    from msapp.reports.group import write_group_report
    from msapp.stats.tables import collect_group, write_group_tables

    tables = collect_group(settings.output_dir)
    if tables.visits.empty:
        raise InputError(
            f'{settings.output_dir}: no visit was processed yet. '
            + ' '.join(tables.problems or ('Run the participant level first.',))
        )
    write_group_tables(settings.output_dir, tables)
    found = {name: version for name, version in versions().items() if version}
    page = write_group_report(settings.output_dir, tables, versions=found)
    return GroupResult(page, len(tables.visits), tables.problems)
