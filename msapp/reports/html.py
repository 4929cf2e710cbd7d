"""What all report pages share: the template environment, embedded pictures, table cells."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from numbers import Number
from pathlib import Path
from typing import Any

import jinja2

from msapp.files import write_atomic
from msapp.stats.columns import Columns
from msapp.stats.tables import MISSING, format_cell

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
NOT_MEASURED = 'not measured'
# Where a row has no word, such as a note, and where nothing was left out.
NO_WORD, NOTHING = '–', 'none'
UNIT_NAMES = {
    'mL': 'ml',
    'mm^3': 'mm³',
    'day': 'days',
    'arbitrary': '',
    'count': '',
    'robust standard deviations': 'robust SD',
}
HEADINGS = {
    'acq_time': 'scan time',
    'since_session': 'compared with',
    'nawm_noise_fraction': 'noise in NAWM (fraction)',
    'contrast_sd': 'contrast',
}


def count(number: int, noun: str) -> str:
    """Return a number of things in words.

    Examples
    --------
    >>> count(1, 'visit'), count(0, 'visit')
    ('1 visit', '0 visits')
    """
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def show(value: Any, name: str = '') -> str:
    """Return a value as a reader wants it: short numbers, ``not measured`` for what is missing.

    Parameters
    ----------
    value : Any
    name : str
        Of its column: an alignment, of which wrong ones differ by a hundredth, has four decimals.

    Examples
    --------
    >>> [show(v) for v in (None, 'n/a', 3.0, 0.123456, 1402.34, -12.345, 'FLAIR')]
    ['not measured', 'not measured', '3', '0.123', '1402.3', '-12.3', 'FLAIR']
    >>> show(1.0146, 'mni_alignment')
    '1.0146'
    """
    cell = format_cell(value)
    if cell == MISSING:
        return NOT_MEASURED
    if not isinstance(value, float):
        return cell
    if name.endswith('_alignment'):
        return f'{value:.4f}'
    if value == int(value):
        return str(int(value))
    decimals = 1 if abs(value) >= 10 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f'{value:.{min(decimals, 6)}f}'


def lacking(columns: Columns, name: str, row: Mapping[str, Any]) -> str:
    """Return what stands for a value that a row does not have: *not measured* for a number."""
    if 'Units' in columns[name]:
        return NOT_MEASURED
    looked = format_cell(row.get('lesion_contrasts')) != MISSING
    return NOTHING if name == 'lesion_contrasts_left_out' and looked else NO_WORD


def cell(columns: Columns, name: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text and the CSS class of a cell.

    Examples
    --------
    >>> columns = {'volume': {'Units': 'mL'}, 'note': {}}
    >>> [cell(columns, name, {'volume': 1.5, 'note': None}) for name in columns]
    [('1.50', 'number'), ('–', 'none')]
    """
    value = row[name]
    if format_cell(value) == MISSING:
        return lacking(columns, name, row), 'none'
    return show(value, name), 'number' if isinstance(value, Number) else 'text'


def heading(name: str) -> str:
    """Return a column name in words: ``lesion_volume_ml`` becomes ``lesion volume``.

    Examples
    --------
    >>> heading('lesion_volume_ml'), heading('x_mni_mm'), heading('T1w_alignment')
    ('lesion volume', 'x MNI', 'T1w alignment')
    """
    if name in HEADINGS:
        return HEADINGS[name]
    words = name.split('_')
    if words[-1] in {'ml', 'mm', 'mm3', 'days', 'id'}:
        words = words[:-1]
    return ' '.join({'mni': 'MNI', 'nawm': 'NAWM', 'sd': 'SD'}.get(word, word) for word in words)


def unit(columns: Columns, name: str) -> str:
    """Return the unit of a column as it is printed, empty for none."""
    units = columns[name].get('Units', '')
    return UNIT_NAMES.get(units, units)


def png_data_uri(path: Path) -> str | None:
    """Return a PNG file as a ``data:`` address; None if it is absent or no PNG."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return encode_png(data) if data.startswith(PNG_SIGNATURE) else None


def encode_png(data: bytes) -> str:
    """Return PNG bytes as a ``data:`` address."""
    return f'data:image/png;base64,{b64encode(data).decode("ascii")}'


@cache
def environment() -> jinja2.Environment:
    """Return the template environment; everything is escaped."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(heading=heading)
    made.globals.update(unit=unit, describe_cell=cell)
    return made


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill ``template`` and write the page atomically."""
    text = environment().get_template(template).render(**values)
    write_atomic(path, text.encode('utf-8'))
    return path
