"""Which images a run uses: participants, visits, contrasts, and what is left out and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd

from msapp.bids.checks import check_image, check_label
from msapp.errors import InputError, UsageError
from msapp.imaging.geometry import spacing_mm, voxel_volume_mm3
from msapp.settings import Settings

CONTRASTS = ('FLAIR', 'T1w', 'T2w', 'ceT1w')
# Keys of --bids-filter-file, with and without the underscore that other apps use.
FILTER_KEYS = {'flair': 'FLAIR', 't1w': 'T1w', 't2w': 'T2w', 'cet1w': 'ceT1w', 't1w_ce': 'ceT1w'}


@dataclass(frozen=True)
class Visit:
    """One visit: the images that are used, and what is left out.

    Attributes
    ----------
    session : str or None
        Label with prefix (``ses-1``); None in a dataset without sessions.
    images : dict
        Contrast (`CONTRASTS`) to file.
    left_out : tuple of str
        Sentences: what is left out and why.
    acq_time : str or None
        As in ``sessions.tsv`` or ``scans.tsv``.
    """

    session: str | None
    images: dict[str, Path]
    left_out: tuple[str, ...] = ()
    acq_time: str | None = None

    @property
    def reference(self) -> str:
        """The contrast on whose grid the visit is read: FLAIR, else T1w."""
        return 'FLAIR' if 'FLAIR' in self.images else 'T1w'

    @property
    def name(self) -> str:
        """A name for messages: the session label or ``the visit``."""
        return self.session or 'the visit'


@dataclass(frozen=True)
class Participant:
    """One participant's plan: visits in order of time; ``error`` says why nothing can be done."""

    label: str
    visits: tuple[Visit, ...] = ()
    left_out: tuple[str, ...] = ()
    error: str | None = None


def find_participants(settings: Settings) -> list[str]:
    """Return the labels (``sub-X``) to process, sorted.

    Raises
    ------
    UsageError
        If a label that was asked for does not exist.
    """
    present = sorted(path.name for path in settings.bids_dir.glob('sub-*') if path.is_dir())
    if not settings.participant_label:
        return present
    wanted = sorted({f'sub-{label.removeprefix("sub-")}' for label in settings.participant_label})
    unknown = [label for label in wanted if label not in present]
    if unknown:
        raise UsageError(
            f'--participant-label: {", ".join(unknown)} not found in {settings.bids_dir}. '
            f'It holds {_some(present)}.'
        )
    return wanted


def _some(names: list[str], most: int = 8) -> str:
    """List the first names and count the rest."""
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + rest


def plan_participants(settings: Settings) -> list[Participant]:
    """Find the images of every participant and check them.

    Returns
    -------
    list of Participant
        Those whose images cannot be used have their ``error`` set.
    """
    labels = find_participants(settings)
    filters = read_filters(settings.bids_filter_file)
    sound, refused = [], []
    for label in labels:
        try:
            check_label(label)
            sound.append(label)
        except InputError as error:
            refused.append(Participant(label, error=str(error)))
    _check_sessions_exist(settings, labels)
    layout = open_layout(settings, sound) if sound else None
    planned = [_plan_safely(layout, label, settings, filters) for label in sound]
    return sorted([*planned, *refused], key=lambda participant: participant.label)


def _check_sessions_exist(settings: Settings, labels: list[str]) -> None:
    """Refuse session labels that no participant has."""
    wanted = {f'ses-{label.removeprefix("ses-")}' for label in settings.session_label}
    found = {path.name for label in labels for path in (settings.bids_dir / label).glob('ses-*')}
    missing = sorted(wanted - found)
    if missing:
        raise UsageError(
            f'--session-label: {", ".join(missing)} not found for any participant. '
            f'There are {_some(sorted(found, key=natural_key)) or "no sessions"}.'
        )


def read_filters(path: Path | None) -> dict[str, dict[str, Any]]:
    """Read ``--bids-filter-file``: contrast to the entities its image must have.

    Raises
    ------
    UsageError
        If the file is not JSON of that form.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UsageError(f'{path}: cannot be read as JSON ({error}).') from error
    filters = {}
    for key, entities in content.items() if isinstance(content, dict) else [(str(content), 0)]:
        if key.lower() not in FILTER_KEYS or not isinstance(entities, dict):
            raise UsageError(
                f'{path}: "{key}" is not a contrast with entities. An example: '
                '{"flair": {"acquisition": "3D"}, "t1w": {"run": 2}}; '
                f'contrasts are {", ".join(sorted(FILTER_KEYS))}.'
            )
        filters[FILTER_KEYS[key.lower()]] = entities
    return filters


def open_layout(settings: Settings, labels: Iterable[str]) -> Any:
    """Index the participants' images with pybids, without reading every JSON file."""
    from bids import BIDSLayout
    from bids.layout import BIDSLayoutIndexer

    wanted = '|'.join(re.escape(label) for label in labels)
    skip = [
        re.compile(r'/(?:derivatives|code|sourcedata|models|\.[^/]+)(?:/|$)'),
        re.compile(rf'/(?=sub-)(?!(?:{wanted})(?:/|_|$))'),
        re.compile(r'/(?:func|dwi|fmap|meg|eeg|ieeg|pet|perf|beh|micr|motion|nirs)(?:/|$)'),
    ]
    if settings.bids_database_dir is not None:
        skip = [skip[0], skip[2]]
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=skip)
    return BIDSLayout(
        settings.bids_dir,
        validate=False,
        indexer=indexer,
        database_path=settings.bids_database_dir,
    )


def _plan_safely(
    layout: Any, label: str, settings: Settings, filters: dict[str, dict[str, Any]]
) -> Participant:
    """Plan one participant; an input error becomes its ``error``."""
    try:
        return _plan(layout, label, settings, filters)
    except InputError as error:
        return Participant(label, error=str(error))


def _plan(
    layout: Any, label: str, settings: Settings, filters: dict[str, dict[str, Any]]
) -> Participant:
    """Collect the visits of one participant in order of time."""
    subject = label.removeprefix('sub-')
    found: list[str] = layout.get_sessions(subject=subject)
    sessions: list[str | None] = [*sorted(found, key=natural_key)] or [None]
    if settings.session_label:
        wanted = {name.removeprefix('ses-') for name in settings.session_label}
        sessions = [session for session in sessions if session in wanted]
    times = read_times(settings.bids_dir, label)
    visits: list[Visit] = []
    left_out: list[str] = []
    for session in sessions:
        visit = _find_visit(layout, subject, session, filters, times)
        if 'FLAIR' in visit.images or 'T1w' in visit.images:
            visits.append(visit)
        else:
            present = ', '.join(visit.images) or 'nothing'
            left_out.append(f'{visit.name}: neither FLAIR nor T1w found (found: {present}).')
    if not visits:
        reasons = ' '.join(left_out) or 'no visit found.'
        raise InputError(f'{label}: {reasons} A FLAIR or a T1w image is needed.')
    return Participant(label, tuple(sort_visits(visits)), tuple(left_out))


def sort_visits(visits: list[Visit]) -> list[Visit]:
    """Sort by acquisition time where every visit has one, else by label."""
    times = [visit.acq_time for visit in visits]
    if all(times):
        return sorted(visits, key=lambda visit: datetime.fromisoformat(str(visit.acq_time)))
    return sorted(visits, key=lambda visit: natural_key(visit.session or ''))


def natural_key(label: str) -> list[tuple[int, str]]:
    """Return a sort key by which ``M6`` comes before ``M12``.

    Examples
    --------
    >>> sorted(['ses-M12', 'ses-M6', 'ses-BL'], key=natural_key)
    ['ses-BL', 'ses-M6', 'ses-M12']
    """
    parts = re.findall(r'\d+|\D+', label)
    return [(int(part), '') if part.isdigit() else (0, part) for part in parts]


def interval_days(previous: Visit, current: Visit) -> float | None:
    """Return the time between two visits, days; None where one has no time."""
    if not (previous.acq_time and current.acq_time):
        return None
    gap = datetime.fromisoformat(current.acq_time) - datetime.fromisoformat(previous.acq_time)
    return gap.total_seconds() / 86400


def read_times(bids_dir: Path, label: str) -> dict[str | None, str]:
    """Read acquisition times by session from ``sessions.tsv``; unreadable ones are left out.

    Without sessions, or where ``sessions.tsv`` says nothing, the first time in ``scans.tsv``
    counts.
    """
    times: dict[str | None, str] = {}
    folder = bids_dir / label
    for path in (folder / f'{label}_scans.tsv', *folder.glob('ses-*/*_scans.tsv')):
        session = path.parent.name if path.parent != folder else None
        for row in _rows(path):
            if _is_time(row.get('acq_time')):
                times.setdefault(session, str(row['acq_time']))
    for row in _rows(folder / f'{label}_sessions.tsv'):
        if _is_time(row.get('acq_time')):
            times[str(row.get('session_id'))] = str(row['acq_time'])
    return times


def _rows(path: Path) -> list[dict[str, Any]]:
    """Read a TSV file as text; one that is missing or broken has no rows."""
    try:
        table = pd.read_csv(path, sep='\t', dtype=str, keep_default_na=False)
    except (OSError, ValueError):
        return []
    return [{str(key): value for key, value in row.items()} for row in table.to_dict('records')]


def _is_time(value: object) -> bool:
    """Tell whether a value is an ISO 8601 time without a zone that Python can compare."""
    try:
        return datetime.fromisoformat(str(value)).tzinfo is None
    except ValueError:
        return False


def _find_visit(
    layout: Any,
    subject: str,
    session: str | None,
    filters: dict[str, dict[str, Any]],
    times: dict[str | None, str],
) -> Visit:
    """Choose one checked image of each contrast of a visit."""
    name = f'ses-{session}' if session else None
    images: dict[str, Path] = {}
    left_out: list[str] = []
    for contrast in CONTRASTS:
        paths = _candidates(layout, subject, session, contrast, filters.get(contrast, {}))
        if not paths:
            if contrast in filters:
                left_out.append(f'{contrast}: no image passes the filter {filters[contrast]}.')
            continue
        where = f'sub-{subject} {name + " " if name else ""}{contrast}'
        images[contrast], others = _finest(paths, where)
        left_out += others
    return Visit(name, images, tuple(left_out), times.get(name))


def _finest(paths: list[Path], where: str) -> tuple[Path, list[str]]:
    """Choose the finest sound image of a contrast, and say of the others why they are not used.

    Raises
    ------
    InputError
        If none can be used; the message is that of the first.
    """
    sound, problems = [], []
    for path in paths:
        try:
            sound.append((_coarseness(check_image(path)), path))
        except InputError as error:
            problems.append(InputError(f'{where}: {error} File: {path}'))
    if not sound:
        raise problems[0]
    chosen, *others = [path for _, path in sorted(sound)]
    sentences = [
        f'{path.name}: {chosen.name} is finer or comes first and is used. '
        'Choose with --bids-filter-file.'
        for path in others
    ]
    return chosen, sentences + [str(problem) for problem in problems]


def _candidates(
    layout: Any, subject: str, session: str | None, contrast: str, filters: dict[str, Any]
) -> list[Path]:
    """Return the files of a contrast; a T1w with a contrast agent is ``ceT1w``."""
    entities: dict[str, Any] = {
        'subject': subject,
        'datatype': 'anat',
        'suffix': 'T1w' if contrast == 'ceT1w' else contrast,
        'extension': ['.nii', '.nii.gz'],
    }
    if session is not None:
        entities['session'] = session
    try:
        files = layout.get(**entities | filters)
    except ValueError as error:
        raise UsageError(
            f'--bids-filter-file: {" ".join(str(error).split())} Entities have their long names: '
            'acquisition, run, reconstruction, ...'
        ) from error
    with_agent = contrast == 'ceT1w'
    return [
        Path(file.path)
        for file in files
        if contrast in ('FLAIR', 'T2w') or ('ceagent' in file.get_entities()) is with_agent
    ]


def _coarseness(image: nib.spatialimages.SpatialImage) -> tuple[float, float]:
    """Sort key: volume of a voxel, then its longest side; the finest image comes first."""
    return round(voxel_volume_mm3(image), 3), max(spacing_mm(image))


def find_given_masks(
    participants: Iterable[Participant], derivatives: Iterable[Path]
) -> dict[tuple[str, str | None], Path]:
    """Find brain masks in other derivative datasets, by participant and session.

    Parameters
    ----------
    participants : iterable of Participant
    derivatives : iterable of Path
        Datasets, the first with a mask counts. Masks are named ``..._desc-brain_mask`` and lie
        in ``orig``, in the reference contrast's space, or name no space.

    Raises
    ------
    UsageError
        If a folder does not exist.
    """
    roots = list(derivatives)
    for root in roots:
        if not root.is_dir():
            raise UsageError(f'--derivatives {root}: no such folder.')
    found = {}
    for participant in participants:
        for visit in participant.visits:
            stem = '_'.join(filter(None, (participant.label, visit.session)))
            spaces = ('_space-orig', f'_space-{visit.reference}', '')
            paths = [
                root / participant.label / (visit.session or '') / 'anat' / f'{stem}{space}'
                for root in roots
                for space in spaces
            ]
            masks = [path.with_name(f'{path.name}_desc-brain_mask.nii.gz') for path in paths]
            existing = [mask for mask in masks if mask.exists()]
            if existing:
                found[participant.label, visit.session] = existing[0]
    return found
