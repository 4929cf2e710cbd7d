"""Names of the derivatives, built by pybids from entities in the order BIDS gives them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msapp.errors import InternalError

FOLDER = 'sub-{subject}[/ses-{session}]/anat/'
STEM = (
    'sub-{subject}[_ses-{session}][_ce-{ceagent}][_from-{from}][_to-{to}][_mode-{mode}]'
    '[_space-{space}][_label-{label}][_desc-{desc}]_{suffix}{extension}'
)
PARTICIPANT_FOLDER = 'sub-{subject}/'
FIGURES = 'sub-{subject}/figures/'


def derivative_path(participant: str, session: str | None, **entities: str) -> Path:
    """Return the path of a derivative below the output folder.

    Parameters
    ----------
    participant, session : str
        Labels with their prefixes (``sub-01``, ``ses-1``); None without sessions.
    **entities : str
        BIDS entities by pybids' names, with ``suffix`` and ``extension``.

    Returns
    -------
    Path
        Relative to the output folder.

    Raises
    ------
    InternalError
        If an entity has no place in a name; none is ever dropped.

    Examples
    --------
    >>> derivative_path('sub-01', 'ses-2', space='orig', label='L', suffix='mask',
    ...                 extension='.nii.gz').as_posix()
    'sub-01/ses-2/anat/sub-01_ses-2_space-orig_label-L_mask.nii.gz'
    """
    return _build(FOLDER + STEM, participant, session, entities)


def participant_path(participant: str, **entities: str) -> Path:
    """Return the path of a derivative that is of no visit; see :func:`derivative_path`.

    Examples
    --------
    >>> participant_path('sub-01', desc='tracks', suffix='stats', extension='.tsv').as_posix()
    'sub-01/sub-01_desc-tracks_stats.tsv'
    """
    return _build(PARTICIPANT_FOLDER + STEM, participant, None, entities)


def figure_path(participant: str, session: str | None, **entities: str) -> Path:
    """Return the path of a figure of the report; see :func:`derivative_path`."""
    return _build(FIGURES + STEM, participant, session, entities)


def _build(pattern: str, participant: str, session: str | None, entities: dict[str, str]) -> Path:
    """Fill a pattern; every entity must find a place."""
    from bids.layout.writing import build_path

    unfit = {
        key: value
        for key, value in entities.items()
        if key != 'extension' and not re.fullmatch(r'[A-Za-z0-9]+', str(value))
    }
    if unfit:
        raise InternalError(f'{unfit}: entities of a name hold letters and digits alone.')
    given = {'subject': participant.removeprefix('sub-'), **entities}
    if session is not None:
        given['session'] = session.removeprefix('ses-')
    name = build_path(given, [pattern], strict=True)
    if name is None:
        raise InternalError(f'no name can be built from {given}; see msapp/bids/names.py.')
    return Path(name)


def since_label(session: str | None) -> str:
    """Return the ``desc`` of what is told since an earlier visit.

    Examples
    --------
    >>> since_label('ses-1')
    'since1'
    """
    return f'since{(session or "").removeprefix("ses-")}'


def contrast_entities(contrast: str) -> dict[str, Any]:
    """Return suffix and contrast agent of a contrast.

    Examples
    --------
    >>> contrast_entities('ceT1w')
    {'ceagent': 'gadolinium', 'suffix': 'T1w'}
    """
    if contrast == 'ceT1w':
        return {'ceagent': 'gadolinium', 'suffix': 'T1w'}
    return {'suffix': contrast}
