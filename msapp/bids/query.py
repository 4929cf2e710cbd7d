"""Which images a run uses: participants, visits, contrasts, and what is left out and why."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import nibabel as nib

from msapp.bids.checks import check_image, check_label, printable
from msapp.bids.files import (
    EXTENSIONS,
    ImageFile,
    list_folder,
    list_images,
    list_sessions,
    misnamed_participants,
    passes,
    read_filters,
)
from msapp.bids.masks import (
    check_derivatives,
    check_given_mask,
    find_given_mask,
    find_given_masks,
)
from msapp.bids.nifti import orientation_notes
from msapp.bids.times import natural_key, read_times
from msapp.errors import InputError, NoBrainError, UsageError
from msapp.imaging.geometry import spacing_mm, voxel_volume_mm3
from msapp.settings import Settings

__all__ = [
    'CONTRASTS',
    'Participant',
    'Visit',
    'find_given_masks',
    'find_participants',
    'interval_days',
    'not_in_run',
    'plan_participants',
    'read_filters',
    'read_times',
    'sort_visits',
]

logger = logging.getLogger(__name__)

CONTRASTS = ('FLAIR', 'T1w', 'T2w', 'ceT1w')
# Of a complex image only the magnitude is anatomy.
MAGNITUDE = {'part': [None, 'mag']}

Filters = Mapping[str, Mapping[str, Any]]


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
    return find_labels(settings.bids_dir, settings.participant_label)


def find_labels(bids_dir: Path, asked: Sequence[str]) -> list[str]:
    """Return the labels (``sub-X``) that are asked for, or all, sorted.

    Raises
    ------
    UsageError
        If a label that was asked for does not exist.
    """
    present = sorted(path.name for path in bids_dir.glob('sub-*') if path.is_dir())
    wanted = sorted({f'sub-{label.removeprefix("sub-")}' for label in asked})
    unknown = [label for label in wanted if label not in present]
    if unknown:
        raise UsageError(
            f'--participant-label: {name_first(unknown)} not found in {bids_dir}. '
            f'It holds {name_first(present) or "no sub-* folder"}.'
        )
    return wanted or present


def name_first(names: Sequence[str], most: int = 8) -> str:
    """List the first names and count the rest."""
    rest = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(names[:most]) + rest


def plan_participants(settings: Settings) -> list[Participant]:
    """Find the images of every participant and check them.

    Returns
    -------
    list of Participant
        Those whose images cannot be used have their ``error`` set; those of :func:`not_in_run`
        are not among them.
    """
    labels = find_participants(settings)
    filters = read_filters(settings.bids_filter_file)
    _check_sessions_exist(settings, labels)
    check_derivatives(settings.derivatives)
    others = not_in_run(settings)
    for sentence in others.values():
        logger.info(sentence)
    planned = [_plan_safely(label, settings, filters) for label in labels if label not in others]
    if not settings.participant_label:
        misnamed = misnamed_participants(settings.bids_dir)
        planned += [Participant(label, error=error) for label, error in misnamed.items()]
    return sorted(planned, key=lambda participant: participant.label)


def not_in_run(settings: Settings) -> dict[str, str]:
    """Return who has none of the sessions of ``--session-label``, by label, with a sentence."""
    wanted = wanted_sessions(settings)
    found = {}
    for label in find_participants(settings) if wanted else []:
        with contextlib.suppress(InputError):  # planning names what cannot be read
            if wanted.isdisjoint(path.name for path in list_folder(settings.bids_dir / label)):
                lacking = ' or '.join(sorted(wanted, key=natural_key))
                found[label] = f'{printable(label)}: has no {lacking}; not part of this run.'
    return found


def wanted_sessions(settings: Settings) -> set[str]:
    """Return the labels (``ses-1``) of ``--session-label``; none asks for all."""
    return {f'ses-{label.removeprefix("ses-")}' for label in settings.session_label}


def _check_sessions_exist(settings: Settings, labels: list[str]) -> None:
    """Refuse session labels that no participant has."""
    wanted = wanted_sessions(settings)
    found = {path.name for label in labels for path in (settings.bids_dir / label).glob('ses-*')}
    missing = sorted(wanted - found)
    if missing:
        raise UsageError(
            f'--session-label: {", ".join(missing)} not found for any participant. '
            f'There are {name_first(sorted(found, key=natural_key)) or "no sessions"}.'
        )


def _plan_safely(label: str, settings: Settings, filters: Filters) -> Participant:
    """Plan one participant; an input error becomes its ``error``."""
    try:
        check_label(label)
        return _plan(label, settings, filters)
    except InputError as error:
        return Participant(printable(label), error=str(error))


def _plan(label: str, settings: Settings, filters: Filters) -> Participant:
    """Collect the visits of one participant in order of time."""
    found, left_out = list_sessions(settings.bids_dir / label)
    sessions: list[str | None] = [*sorted(found, key=natural_key)] or [None]
    if found and not settings.session_label:
        left_out += _outside_sessions(settings.bids_dir, label)
    if wanted := wanted_sessions(settings):
        sessions = [session for session in sessions if session in wanted]
    times = read_times(settings.bids_dir, label)
    visits: list[Visit] = []
    for session in sessions:
        visit = _find_visit(settings.bids_dir, label, session, filters, times)
        if 'FLAIR' in visit.images or 'T1w' in visit.images:
            mask, notes = find_given_mask(label, visit, settings.derivatives)
            if mask is not None:
                check_given_mask(label, visit, mask)
            visits.append(replace(visit, left_out=(*visit.left_out, *notes)))
        else:
            present = ', '.join(visit.images) or 'nothing'
            left_out.append(f'{visit.name}: neither FLAIR nor T1w found (found: {present}).')
            left_out += visit.left_out
    if not visits:
        reasons = ' '.join(left_out) or 'no visit found.'
        raise InputError(f'{label}: {reasons} A FLAIR or a T1w image is needed.')
    visits = sort_visits(visits)
    return Participant(label, tuple(visits), (*left_out, *_doubtful_order(visits)))


def _outside_sessions(bids_dir: Path, label: str) -> list[str]:
    """Name the images that lie in no session's folder beside those that do."""
    images, left_out = list_images(bids_dir, label, None)
    return left_out + [
        f'{image.path.name}: not used, for {label} has sessions and this lies in none. Move it to '
        "a session's folder."
        for image in images
        if image.entities.get('suffix') in CONTRASTS
    ]


def _doubtful_order(visits: Sequence[Visit]) -> Iterator[str]:
    """Say which visits are sorted by their labels and why, and where times deny the labels."""
    without = [visit.name for visit in visits if not visit.acq_time]
    if len(visits) < 2:
        return
    if not without:
        yield from _doubtful_times(visits)
        return
    yield (
        f'The visits are sorted by their labels: {", ".join(without)} '
        f'{"has" if len(without) == 1 else "have"} no acq_time in sessions.tsv or scans.tsv that '
        'can be read, as 2020-01-31T12:00:00.'
    )
    dated = [visit for visit in visits if visit.acq_time]
    for earlier, later in pairwise(dated):
        if (gap := interval_days(earlier, later)) is not None and gap < 0:
            yield (
                f'{later.name} comes after {earlier.name} by its label, but before it by acq_time. '
                'Give every visit a time: what is new and what is gone may be exchanged.'
            )


def _doubtful_times(visits: Sequence[Visit]) -> Iterator[str]:
    """Say where visits that all have a time share a day, or are not in the order of labels."""
    for day, together in groupby(visits, key=_day):
        names = [visit.name for visit in together]
        if len(names) > 1:
            yield (
                f'{", ".join(names)} have one date ({day}) in acq_time: they are sorted by their '
                'labels, and the time between them is taken as not known. Dates that were '
                'anonymised alike say nothing of the order.'
            )
    if list(visits) != sorted(visits, key=_label_key):
        yield (
            f'By acq_time the order of the visits is {", ".join(visit.name for visit in visits)}, '
            'which is not that of their labels. Check it: what is new and what is gone depend on '
            'it.'
        )


def sort_visits(visits: list[Visit]) -> list[Visit]:
    """Sort by date where every visit has one, those of one day by label; else all by label.

    The time of day is not used: where dates were anonymised to one day, it is arbitrary.
    """
    if all(visit.acq_time for visit in visits):
        return sorted(visits, key=lambda visit: (_day(visit), _label_key(visit)))
    return sorted(visits, key=_label_key)


def _day(visit: Visit) -> date:
    return datetime.fromisoformat(str(visit.acq_time)).date()


def _label_key(visit: Visit) -> list[tuple[int, str]]:
    return natural_key(visit.session or '')


def interval_days(previous: Visit, current: Visit) -> float | None:
    """Return the time between two visits, days; None where one has no time or both have one date.

    See :func:`sort_visits` for why the times of one day do not count.
    """
    if not (previous.acq_time and current.acq_time) or _day(previous) == _day(current):
        return None
    gap = datetime.fromisoformat(current.acq_time) - datetime.fromisoformat(previous.acq_time)
    return gap.total_seconds() / 86400


def _find_visit(
    bids_dir: Path,
    label: str,
    session: str | None,
    filters: Filters,
    times: Mapping[str | None, str],
) -> Visit:
    """Choose one checked image of each contrast of a visit."""
    images: dict[str, Path] = {}
    files, left_out = list_images(bids_dir, label, session)
    for contrast in CONTRASTS:
        paths, others = _candidates(files, contrast, filters.get(contrast, {}))
        left_out += others
        if not paths:
            if contrast in filters:
                left_out.append(f'{contrast}: no image passes the filter {filters[contrast]}.')
            continue
        where = ' '.join(filter(None, (label, session, contrast)))
        try:
            images[contrast], others = _finest(paths, where)
        except NoBrainError as error:
            # T2w of the cord lie beside images of the brain, which nothing here needs them for.
            if contrast == 'FLAIR' or (contrast == 'T1w' and 'FLAIR' not in images):
                raise
            others = [f'{error} It is left out.']
        left_out += others
    return Visit(session, images, tuple(left_out), times.get(session))


def _finest(paths: list[Path], where: str) -> tuple[Path, list[str]]:
    """Choose the finest sound image of a contrast, and say of the others why they are not used.

    Raises
    ------
    InputError
        If none can be used; the message is that of the first, of images of the brain if any is.
    """
    sound, problems = [], []
    for path in paths:
        try:
            sound.append((_coarseness(check_image(path)), path))
        except InputError as error:
            problems.append(type(error)(f'{where}: {error} File: {path}'))
    if not sound:
        raise min(problems, key=lambda problem: isinstance(problem, NoBrainError))
    chosen, *others = [path for _, path in sorted(sound)]
    sentences = [
        f'{path.name}: {chosen.name} is finer or comes first and is used. '
        'Choose with --bids-filter-file.'
        for path in others
    ]
    sentences += [f'{chosen.name}: {note}' for note in orientation_notes(chosen)]
    return chosen, sentences + [str(problem) for problem in problems]


def _candidates(
    files: Iterable[ImageFile], contrast: str, filters: Mapping[str, Any]
) -> tuple[list[Path], list[str]]:
    """Return the files of a contrast, and sentences on those that are no magnitude images.

    A T1w with a contrast agent is ``ceT1w``; a filter may ask for a ``part`` of complex images.
    """
    suffix = 'T1w' if contrast == 'ceT1w' else contrast
    # A filter may ask for another suffix.
    wanted = {'suffix': suffix, 'extension': list(EXTENSIONS), **filters}
    with_agent = contrast == 'ceT1w'
    found = [
        file
        for file in files
        if passes(file.entities, wanted)
        and (contrast in ('FLAIR', 'T2w') or ('ceagent' in file.entities) is with_agent)
    ]
    parts = {} if 'part' in filters else MAGNITUDE
    left_out = [
        f'{file.path.name}: not used, for it holds the part "{file.entities["part"]}" of a complex '
        'image, not its magnitude. Choose it with --bids-filter-file if it is what you need.'
        for file in found
        if not passes(file.entities, parts)
    ]
    return [file.path for file in found if passes(file.entities, parts)], left_out


def _coarseness(image: nib.spatialimages.SpatialImage) -> tuple[float, float]:
    """Sort key: volume of a voxel, then its longest side; the finest image comes first."""
    # Rounded, or noise in the affine would choose between images that are equal.
    return round(voxel_volume_mm3(image), 3), round(max(spacing_mm(image)), 3)
