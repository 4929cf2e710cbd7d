"""When visits took place, from tables that may be missing, broken or written by a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from pathlib import Path

from msapp.bids.files import list_folder

UTF16_STARTS = (b'\xff\xfe', b'\xfe\xff')


def read_times(bids_dir: Path, label: str) -> dict[str | None, str]:
    """Read acquisition times by session from ``sessions.tsv``; unreadable ones are left out.

    Without sessions, or where ``sessions.tsv`` says nothing, the first time in ``scans.tsv``
    counts.
    """
    times: dict[str | None, str] = {}
    folder = bids_dir / label
    sessions = [path for path in list_folder(folder) if path.name.startswith('ses-')]
    for place in (folder, *sessions):
        session = place.name if place != folder else None
        for path in list_folder(place):
            if path.name.endswith('_scans.tsv'):
                for row in read_rows(path):
                    if time := read_time(row.get('acq_time')):
                        times.setdefault(session, time)
    for row in read_rows(folder / f'{label}_sessions.tsv'):
        if time := read_time(row.get('acq_time')):
            session = row.get('session_id', '').removeprefix('ses-')
            times[f'ses-{session}'] = time
    return times


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a TSV file as text, by column; one that is missing or broken has no rows.

    UTF-8 with and without a byte-order mark and UTF-16 are told apart; anything else is read as
    Latin-1, in which the letters, digits and tabs of a label or a time are what they are in ASCII.
    BIDS has no quoting; the quotes that a spreadsheet puts around a cell are taken away.
    """
    try:
        if not path.is_file():
            return []
        content = path.read_bytes()
        encoding = 'utf-16' if content.startswith(UTF16_STARTS) else 'utf-8-sig'
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            text = content.decode('latin-1')
        lines = io.StringIO(text, newline='')
        rows = list(csv.DictReader(lines, delimiter='\t', quoting=csv.QUOTE_NONE, restval=''))
    except (OSError, ValueError, csv.Error):
        return []
    # Cells beyond the last column, as from a tab at the end of each row, have no key.
    return [
        {_bare(key): _bare(cell) for key, cell in row.items() if isinstance(key, str)}
        for row in rows
    ]


def _bare(cell: str) -> str:
    return cell.strip().strip('"').strip()


def read_time(value: object) -> str | None:
    """Return an ISO 8601 time without a zone, None for what is none; times with one become UTC.

    Examples
    --------
    >>> read_time('2020-01-31T12:00:00'), read_time('2020-01-31T12:00:00.5+02:00')
    ('2020-01-31T12:00:00', '2020-01-31T10:00:00.500000')
    >>> read_time('n/a') is None
    True
    """
    try:
        time = datetime.fromisoformat(str(value))
        if time.tzinfo is None:
            return str(value)
        return time.astimezone(UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError):
        return None


def natural_key(label: str) -> list[tuple[int, str]]:
    """Return a sort key by which ``M6`` comes before ``M12``.

    Examples
    --------
    >>> sorted(['ses-M12', 'ses-M6', 'ses-BL'], key=natural_key)
    ['ses-BL', 'ses-M6', 'ses-M12']
    """
    parts = re.findall(r'[0-9]+|[^0-9]+', label)
    return [(int(part), '') if part[0] in '0123456789' else (0, part) for part in parts]
