"""The tables msapp writes: their columns, one visit's files, and those of a whole study.

Tables follow the BIDS rules for tabular files (BIDS 1.10, "Tabular files"): tab-separated,
one header line, ``n/a`` for what is missing, and a JSON data dictionary beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from msapp.errors import InputError, InternalError
from msapp.files import write_atomic

MISSING = 'n/a'
# Six significant digits keep 0.001 ml in a brain of 1,500 ml and 0.001 mm in a head.
SIGNIFICANT_DIGITS = 6
TEXT_COLUMNS = frozenset(
    {
        'participant_id',
        'session_id',
        'acq_time',
        'contrasts',
        'reference_contrast',
        'brain_extraction',
        'lesion_model',
        'since_session',
    }
)

Column = dict[str, str]
Columns = Mapping[str, Column]


def _column(description: str, units: str | None = None, source: str = 'msapp') -> Column:
    """Make one entry of a BIDS data dictionary; text columns have no unit."""
    entry = {'Description': description}
    if units is not None:
        entry['Units'] = units
    return entry | {'Source': source}


_PARTICIPANT: dict[str, Column] = {
    'participant_id': _column('Participant label with its prefix, sub-X.', source='BIDS name'),
    'session_id': _column(
        'Session label with its prefix, ses-Y; n/a in a dataset without sessions.',
        source='BIDS name',
    ),
}
_INTERVAL: dict[str, Column] = {
    'since_session': _column(
        'The visit before, with which this one was compared; n/a for the first visit.',
        source='order of acq_time, else of the session labels',
    ),
    'interval_days': _column(
        'Time since the visit before.', 'day', 'acq_time of the two visits in scans/sessions.tsv'
    ),
}


def _position(what: str) -> dict[str, Column]:
    """Six columns: the centre of mass of ``what`` in the two spaces."""
    names = {
        'individual': "the participant's own space (rigid, 1 mm, aligned with MNI)",
        'mni': 'MNI152NLin2009aSym (affine from the individual space)',
    }
    sense = {'x': 'right', 'y': 'anterior', 'z': 'superior'}
    return {
        f'{axis}_{space}_mm': _column(
            f'Centre of mass of the {what} in {name}; grows towards {sense[axis]}.',
            'mm',
            f'mean of the voxel centres of the {what}',
        )
        for space, name in names.items()
        for axis in 'xyz'
    }


def _alignment(contrast: str) -> Column:
    return _column(
        f'Alignment of {contrast} with the reference contrast: normalised mutual information '
        'inside the brain mask, 1 (unrelated) to 2 (identical).',
        'arbitrary',
        '(H(A) + H(B)) / H(A, B), Studholme et al., Pattern Recognition 1999;32:71-86',
    )


VISITS: dict[str, Column] = {
    **_PARTICIPANT,
    'acq_time': _column('Date and time of the scan.', source='scans.tsv, sessions.tsv or JSON'),
    'contrasts': _column('Contrasts that were used, separated by commas.', source='BIDS names'),
    'reference_contrast': _column('Contrast on whose grid the visit was read: FLAIR, else T1w.'),
    'slice_thickness_mm': _column(
        'Largest voxel size of the reference image.', 'mm', 'header of the reference image'
    ),
    'voxel_volume_mm3': _column(
        'Voxel volume of the reference image.', 'mm^3', 'header of the reference image'
    ),
    'brain_extraction': _column(
        'Method of brain extraction that was used.', source='--brain-extraction'
    ),
    'brain_volume_ml': _column('Volume of the brain mask.', 'mL', 'brain mask, individual space'),
    'lesion_model': _column('Name of the lesion model.', source='--lesion-model'),
    'lesion_count': _column(
        'Number of separate lesions.', 'count', 'connected components of the lesion mask'
    ),
    'lesion_volume_ml': _column(
        'Total volume of the lesions.', 'mL', 'lesion mask, individual space'
    ),
    'largest_lesion_ml': _column('Volume of the largest lesion.', 'mL', 'lesion instances'),
    'nawm_noise_fraction': _column(
        'Noise: robust standard deviation of normal-appearing white matter over its mode.',
        'arbitrary',
        '1.4826 * median distance below the mode / mode, reference image, white matter',
    ),
    'mni_alignment': _column(
        'Alignment of the reference contrast with the MNI152NLin2009aSym template: normalised '
        'mutual information inside the template brain, 1 (unrelated) to 2 (identical).',
        'arbitrary',
        '(H(A) + H(B)) / H(A, B), Studholme et al., Pattern Recognition 1999;32:71-86',
    ),
    'T1w_alignment': _alignment('T1w'),
    'T2w_alignment': _alignment('T2w'),
    'ceT1w_alignment': _alignment('post-contrast T1w'),
    **_INTERVAL,
    'visit_motion_mm': _column(
        'Mean displacement of the brain left between this visit and the one before after the '
        'rigid alignment; large values point to a failed alignment or to distortion.',
        'mm',
        'affine between the visits against the rigid maps, averaged over the brain mask',
    ),
    'visit_correlation': _column(
        'Pearson correlation of the FLAIR with the FLAIR of the visit before, inside the brain.',
        'arbitrary',
        'aligned and intensity-matched FLAIR images',
    ),
    'candidate_count': _column(
        'Number of candidate new or enlarged lesions since the visit before (not confirmed).',
        'count',
        'intensity changes between the two FLAIR images',
    ),
    'candidate_volume_ml': _column(
        'Total volume of the candidates (not confirmed).', 'mL', 'candidate mask, individual space'
    ),
}

LESIONS: dict[str, Column] = {
    **_PARTICIPANT,
    'lesion': _column('Number of the lesion in the instance image.', 'count', 'instance label'),
    'volume_mm3': _column('Volume of the lesion.', 'mm^3', 'voxels of 1 mm^3, individual space'),
    **_position('lesion'),
    'extent_mm': _column(
        'Largest side of the box around the lesion.', 'mm', 'bounding box, individual space'
    ),
    'contrast_sd': _column(
        'Mean height of the lesion above the mode of normal-appearing white matter.',
        'robust standard deviations',
        'reference image, SD as 1.4826 * median distance below the mode of white matter',
    ),
    'depth_mm': _column(
        'Mean distance of the lesion to the brain surface.', 'mm', 'distance map of the brain mask'
    ),
}

CHANGES: dict[str, Column] = {
    **_PARTICIPANT,
    **_INTERVAL,
    'candidate': _column('Number of the candidate in its image.', 'count', 'instance label'),
    'volume_mm3': _column('Volume of the candidate.', 'mm^3', 'voxels of 1 mm^3'),
    **_position('candidate'),
    'intensity_ratio': _column(
        'Mean FLAIR intensity in this visit over that in the visit before.',
        'arbitrary',
        'after intensity matching; above 1 means brighter now',
    ),
    'depth_mm': _column(
        'Distance to the brain surface (DM).', 'mm', 'distance map of the brain mask'
    ),
    'below_vertex_mm': _column(
        'Distance below the highest point of the brain (DMz).', 'mm', 'brain mask'
    ),
    'from_occiput_mm': _column(
        'Distance in front of the rearmost point of the brain (DMx).', 'mm', 'brain mask'
    ),
    **{
        f'patch_{side}_{axis}': _column(
            f'{word} voxel of the patch around the candidate along axis {axis}, {rule}.',
            'voxel',
            'individual grid, counted from 0',
        )
        for axis in 'ijk'
        for side, word, rule in (('start', 'First', 'inclusive'), ('stop', 'End', 'exclusive'))
    },
}


@dataclass(frozen=True)
class GroupTables:
    """The tables of a study, and a sentence for each one that could not be read."""

    visits: pd.DataFrame
    lesions: pd.DataFrame
    changes: pd.DataFrame
    problems: tuple[str, ...]


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
        The data dictionary: `VISITS`, `LESIONS`, `CHANGES` or one of their form.

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


AGAIN = 'Run msapp again at participant level for'


def _load(
    path: Path, columns: Columns, participant: str, problems: list[str]
) -> pd.DataFrame | None:
    """Read and check one table; a problem is told, never raised."""
    try:
        table = read_table(path)
    except InputError as error:
        problems.append(f'{error} It was left out. {AGAIN} {participant}.')
        return None
    absent = [name for name in columns if name not in table.columns]
    if absent:
        named = ', '.join(absent[:3]) + (f' and {len(absent) - 3} more' if len(absent) > 3 else '')
        problems.append(
            f'{path}: columns are missing ({named}), so it is damaged or of another version of '
            f'msapp. It was left out. {AGAIN} {participant}.'
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
    """Add the three tables of one visit to ``frames``."""
    session = folder.parent.name if folder.parent.name.startswith('ses-') else None
    stem = f'{participant}_{session}' if session else participant
    summary = _load(folder / f'{stem}_desc-summary_stats.tsv', VISITS, participant, problems)
    if summary is not None and len(summary) != 1:
        problems.append(
            f'{folder / f"{stem}_desc-summary_stats.tsv"}: {len(summary)} rows, one is expected. '
            f'It was left out. {AGAIN} {participant}.'
        )
        summary = None
    if summary is None:
        return
    frames['visits'].append(summary)
    expected: list[tuple[str, Columns]] = []
    if pd.notna(summary['lesion_count'].iloc[0]):
        expected.append(('lesions', LESIONS))
    if pd.notna(summary['candidate_count'].iloc[0]):
        expected.append(('changes', CHANGES))
    for name, columns in expected:
        table = _load(folder / f'{stem}_desc-{name}_stats.tsv', columns, participant, problems)
        if table is not None:
            frames[name].append(table)


def collect_group(output_dir: Path) -> GroupTables:
    """Gather the tables of all participants from the derivatives alone.

    Parameters
    ----------
    output_dir : Path
        Output folder of the participant level, with ``sub-*`` folders.

    Returns
    -------
    GroupTables
        A table that is absent or broken gives a sentence in ``problems``, never an exception.
    """
    frames: dict[str, list[pd.DataFrame]] = {'visits': [], 'lesions': [], 'changes': []}
    problems: list[str] = []
    participants = sorted(path for path in output_dir.glob('sub-*') if path.is_dir())
    if not participants:
        problems.append(
            f'{output_dir}: no sub-* folder found. Run msapp at participant level first.'
        )
    for participant_dir in participants:
        for folder in _visit_folders(participant_dir):
            _collect_visit(folder, participant_dir.name, frames, problems)
    return GroupTables(
        visits=_stack(frames['visits'], VISITS),
        lesions=_stack(frames['lesions'], LESIONS),
        changes=_stack(frames['changes'], CHANGES),
        problems=tuple(problems),
    )


def write_group_tables(output_dir: Path, tables: GroupTables) -> tuple[Path, ...]:
    """Write ``group_desc-{visits,lesions,changes}_stats.tsv`` with their dictionaries."""
    paths = []
    for name, columns in (('visits', VISITS), ('lesions', LESIONS), ('changes', CHANGES)):
        frame: pd.DataFrame = getattr(tables, name)
        rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict('records')]
        path = output_dir / f'group_desc-{name}_stats.tsv'
        write_table(path, rows, columns)
        paths.append(path)
    return tuple(paths)
