"""The tables msapp writes: their columns, one visit's files, and those of a whole study.

Tables follow the BIDS rules for tabular files (BIDS 1.10, "Tabular files"): tab-separated,
one header line, ``n/a`` for what is missing, and a JSON data dictionary beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msapp.errors import InputError, InternalError
from msapp.files import write_atomic
from msapp.stats.cautions import (
    AGAIN,
    mixed_methods,
    mixed_runs,
    not_in_input,
    unfinished,
    with_prefix,
    without_results,
)
from msapp.stats.change_columns import (
    CANDIDATES,
    CHANGES,
    DISSEMINATION,
    NEW_LESIONS,
    SELF_CHECK,
    TRACKS,
)
from msapp.stats.columns import LESIONS, OUTCOMES, TEXT_COLUMNS, VISITS, Columns

MISSING = 'n/a'
# Six significant digits keep 0.001 ml in a brain of 1,500 ml and 0.001 mm in a head.
SIGNIFICANT_DIGITS = 6
# The tables of a study, by the name of their file.
GROUP_TABLES: dict[str, Columns] = {
    'visits': VISITS,
    'lesions': LESIONS,
    'changes': CHANGES,
    'newlesions': NEW_LESIONS,
    'candidates': CANDIDATES,
}
# All tables with any number of rows, those of a participant too.
TABLES: dict[str, Columns] = GROUP_TABLES | {
    'selfcheck': SELF_CHECK,
    'tracks': TRACKS,
    'dissemination': DISSEMINATION,
}
# The tables that a visit has where its summary has this measure.
DUE = {
    'lesions': 'lesion_count',
    'changes': 'new_lesion_count',
    'newlesions': 'detected_new_count',
    'candidates': 'candidate_count',
}


@dataclass(frozen=True)
class GroupTables:
    """The tables of a study, and what to know before reading them.

    Attributes
    ----------
    visits, lesions, changes, newlesions, candidates : DataFrame
        With the columns of `GROUP_TABLES`.
    problems : tuple of str
        Sentences: tables that could not be read, visits that are not comparable or not all there.
    limited_to : tuple of str
        Labels (``sub-01``, ``ses-1``) of those who were asked for; none where all were.
    """

    visits: pd.DataFrame
    lesions: pd.DataFrame
    changes: pd.DataFrame
    newlesions: pd.DataFrame
    candidates: pd.DataFrame
    problems: tuple[str, ...]
    limited_to: tuple[str, ...] = ()


def format_cell(value: Any) -> str:
    """Return a table cell: ``n/a`` for what is missing, numbers to 6 significant digits.

    Examples
    --------
    >>> [format_cell(v) for v in (None, float('nan'), 3, 1234.56789, ('FLAIR', 'T1w'), '')]
    ['n/a', 'n/a', '3', '1234.57', 'FLAIR,T1w', 'n/a']
    """
    if isinstance(value, (list, tuple)):
        return ','.join(format_cell(item) for item in value) or MISSING
    if value is None or value is pd.NA or value is pd.NaT:
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return f'{number:.{SIGNIFICANT_DIGITS}g}' if math.isfinite(number) else MISSING
    return ' '.join(str(value).split()) or MISSING


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Columns) -> None:
    """Write a TSV file and its JSON data dictionary, each atomically.

    Parameters
    ----------
    path : Path
        Name of the table, ending in ``.tsv``.
    rows : sequence of mapping
        One mapping a line, with exactly the keys of ``columns``.
    columns : mapping
        The data dictionary, as those in `msapp.stats.columns`.

    Raises
    ------
    InternalError
        If a row lacks a column or has one that the dictionary does not know.
    """
    if path.suffix != '.tsv':
        raise InternalError(f'{path}: a table is a .tsv file.')
    for number, row in enumerate(rows, start=1):
        unknown, absent = sorted(set(row) - set(columns)), sorted(set(columns) - set(row))
        if unknown or absent:
            raise InternalError(
                f'{path.name}, row {number}: unknown columns {unknown}, missing columns {absent}. '
                'Every column of the data dictionary is needed, and no other.'
            )
    lines = ['\t'.join(columns)]
    lines += ['\t'.join(format_cell(row[name]) for name in columns) for row in rows]
    dictionary = json.dumps(dict(columns), indent=2, ensure_ascii=False) + '\n'
    write_atomic(path.with_suffix('.json'), dictionary.encode('utf-8'))
    write_atomic(path, ('\n'.join(lines) + '\n').encode('utf-8'))


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of msapp: labels stay text (``01`` is not 1), measures become numbers.

    Raises
    ------
    InputError
        If the file is absent, is no table, or a measure holds text.
    """
    try:
        table = pd.read_csv(
            path, sep='\t', dtype=str, keep_default_na=False, na_values=[MISSING], encoding='utf-8'
        )
    except FileNotFoundError as error:
        raise InputError(f'{path}: the table is missing.') from error
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: cannot be read as a table ({error}).') from error
    for name in table.columns:
        if name in TEXT_COLUMNS:
            table[name] = table[name].astype(object).where(table[name].notna(), None)
            continue
        try:
            table[name] = pd.to_numeric(table[name]).astype(float)
        except (ValueError, TypeError) as error:
            raise InputError(f'{path}: column {name} holds text ({error}).') from error
    return table


def _empty(columns: Columns) -> pd.DataFrame:
    kinds = {name: object if name in TEXT_COLUMNS else float for name in columns}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})


def _stack(frames: list[pd.DataFrame], columns: Columns) -> pd.DataFrame:
    """Concatenate tables of the same columns; a list without rows gives an empty table."""
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else _empty(columns)


def _load(
    path: Path, columns: Columns, participant: str, problems: list[str]
) -> pd.DataFrame | None:
    """Read and check one table; a problem is told, never raised."""
    try:
        table = read_table(path)
    except InputError as error:
        problems.append(f'{error} It was left out. {AGAIN} for {participant}.')
        return None
    absent = [name for name in columns if name not in table.columns]
    if absent:
        named = ', '.join(absent[:3]) + (f' and {len(absent) - 3} more' if len(absent) > 3 else '')
        problems.append(
            f'{path}: columns are missing ({named}), so it is damaged or of another version of '
            f'msapp. It was left out. {AGAIN} for {participant}.'
        )
        return None
    if not (table['participant_id'] == participant).all():
        problems.append(
            f'{path}: participant_id does not match the folder {participant}. It was left out; '
            'move the file to where it belongs.'
        )
        return None
    return table[list(columns)]


def _visit_folders(participant_dir: Path) -> list[Path]:
    sessions = sorted(folder for folder in participant_dir.glob('ses-*') if folder.is_dir())
    folders = [folder / 'anat' for folder in sessions]
    if not folders or (participant_dir / 'anat').is_dir():
        folders.insert(0, participant_dir / 'anat')
    return folders


def _collect_visit(
    folder: Path, participant: str, frames: dict[str, list[pd.DataFrame]], problems: list[str]
) -> None:
    """Add the tables of one visit to ``frames``."""
    session = folder.parent.name if folder.parent.name.startswith('ses-') else None
    stem = f'{participant}_{session}' if session else participant
    summary = _load(folder / f'{stem}_desc-summary_stats.tsv', VISITS, participant, problems)
    if summary is not None and len(summary) != 1:
        problems.append(
            f'{folder / f"{stem}_desc-summary_stats.tsv"}: {len(summary)} rows, one is expected. '
            f'It was left out. {AGAIN} for {participant}.'
        )
        summary = None
    if summary is None:
        return
    tables: dict[str, pd.DataFrame] = {}
    for name, measure in DUE.items():
        if pd.isna(summary[measure].iloc[0]):
            continue
        path = folder / f'{stem}_desc-{name}_stats.tsv'
        table = _load(path, GROUP_TABLES[name], participant, problems)
        if table is None:
            continue
        # A run that was cut off has written some of its tables, over those of an earlier one.
        for column, counted in _counts(name, table).items():
            told = summary[column].iloc[0]
            if counted != told:
                problems.append(
                    f'{path}: {counted} of what {column} of the visit counts {told:g}, so the two '
                    f'are of different runs. The visit was left out. {AGAIN} for {participant}.'
                )
                return
        tables[name] = table
    frames['visits'].append(summary)
    for name, table in tables.items():
        frames[name].append(table)


def _counts(name: str, table: pd.DataFrame) -> dict[str, int]:
    """Return how many a table has of what the summary counts, by the column there; see `DUE`."""
    if name != 'changes':
        return {DUE[name]: len(table)}
    return {f'{kind}_lesion_count': int((table['kind'] == kind).sum()) for kind in OUTCOMES}


def collect_group(
    output_dir: Path,
    *,
    bids_dir: Path | None = None,
    participants: Collection[str] = (),
    sessions: Collection[str] = (),
) -> GroupTables:
    """Gather the tables of participants from the derivatives alone.

    Parameters
    ----------
    output_dir : Path
        Output folder of the participant level, with ``sub-*`` folders.
    bids_dir : Path or None
        The input, to name visits that it does not have any more.
    participants, sessions : collection of str
        Labels, with or without prefix, of those to take; none for all.

    Returns
    -------
    GroupTables
        A table that is absent or broken gives a sentence in ``problems``, never an exception.
    """
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in GROUP_TABLES}
    problems: list[str] = []
    wanted, chosen = with_prefix('sub', participants), with_prefix('ses', sessions)
    folders = sorted(path for path in output_dir.glob('sub-*') if path.is_dir())
    if not folders:
        problems.append(
            f'{output_dir}: no sub-* folder found. Run msapp at participant level first.'
        )
    for participant_dir in folders:
        if wanted and participant_dir.name not in wanted:
            continue
        for folder in _visit_folders(participant_dir):
            if not chosen or folder.parent.name in chosen:
                _collect_visit(folder, participant_dir.name, frames, problems)
    stacked = {name: _stack(frames[name], columns) for name, columns in GROUP_TABLES.items()}
    visits = stacked['visits']
    problems += without_results(visits, wanted, chosen)
    problems += mixed_methods(visits)
    problems += mixed_runs(visits, output_dir)
    problems += not_in_input(visits, bids_dir) if bids_dir else ()
    problems += unfinished(output_dir, wanted)
    limited_to = (*sorted(wanted), *sorted(chosen))
    return GroupTables(**stacked, problems=tuple(problems), limited_to=limited_to)


def write_group_tables(output_dir: Path, tables: GroupTables) -> tuple[Path, ...]:
    """Write ``group_desc-*_stats.tsv`` of `GROUP_TABLES` with their dictionaries."""
    paths = []
    for name, columns in GROUP_TABLES.items():
        frame: pd.DataFrame = getattr(tables, name)
        rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict('records')]
        path = output_dir / f'group_desc-{name}_stats.tsv'
        write_table(path, rows, columns)
        paths.append(path)
    return tuple(paths)
