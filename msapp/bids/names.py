"""Names of the derivatives, built by pybids from entities in the order BIDS gives them."""

from __future__ import annotations

from pathlib import Path

from msapp.errors import InternalError

FOLDER = 'sub-{subject}[/ses-{session}]/anat/'
STEM = (
    'sub-{subject}[_ses-{session}][_ce-{ceagent}][_from-{from}][_to-{to}][_mode-{mode}]'
    '[_space-{space}][_label-{label}][_desc-{desc}]_{suffix}{extension}'
)
FIGURES = 'sub-{subject}/figures/'


def derivative_path(
    participant: str, session: str | None, *, figure: bool = False, **entities: str
) -> Path:
    """Return the path of a derivative below the output folder.

    Parameters
    ----------
    participant, session : str
        Labels with their prefixes (``sub-01``, ``ses-1``); None without sessions.
    figure : bool
        Whether it belongs to the report's figures.
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
    from bids.layout.writing import build_path

    given = {'subject': participant.removeprefix('sub-'), **entities}
    if session is not None:
        given['session'] = session.removeprefix('ses-')
    pattern = (FIGURES if figure else FOLDER) + STEM
    name = build_path(given, [pattern], strict=True)
    if name is None:
        raise InternalError(f'no name can be built from {given}; see msapp/bids/names.py.')
    return Path(name)


def contrast_entities(contrast: str) -> dict[str, str]:
    """Return suffix and contrast agent of a contrast.

    Examples
    --------
    >>> contrast_entities('ceT1w')
    {'ceagent': 'gadolinium', 'suffix': 'T1w'}
    """
    if contrast == 'ceT1w':
        return {'ceagent': 'gadolinium', 'suffix': 'T1w'}
    return {'suffix': contrast}
