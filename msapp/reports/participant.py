"""The report of one participant: one page that opens anywhere, without a network.

Figures and tables are gathered from the output folder, so a report is made of whatever is
there: after a failure it says what was not made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from msapp.lesions.dissemination import HEADING, NOT_MEASURED
from msapp.reports.doubts import find_doubts
from msapp.reports.html import count, write_page
from msapp.reports.views import FigureView, Files, TableView, common_note, either, if_made, present
from msapp.stats.change_columns import (
    CANDIDATES,
    CHANGES,
    DISSEMINATION,
    NEW_LESIONS,
    SELF_CHECK,
)
from msapp.stats.columns import LESIONS, VISITS

# What a reader asks first comes first; how well it was measured follows.
_FIRST = (
    'acq_time',
    'since_session',
    'interval_days',
    'lesion_count',
    'lesion_volume_ml',
    'largest_lesion_ml',
    'lesions_since_session',
    'lesions_interval_days',
    'new_lesion_count',
    'new_lesion_volume_ml',
    'grown_lesion_count',
    'grown_lesion_volume_ml',
    'enlarged_lesion_count',
    'enlarged_lesion_change_ml',
    'shrunken_lesion_count',
    'shrunken_lesion_change_ml',
    'resolved_lesion_count',
    'resolved_lesion_volume_ml',
    'merged_lesion_count',
    'merged_lesion_change_ml',
    'split_lesion_count',
    'split_lesion_change_ml',
    'stable_lesion_count',
    'stable_lesion_change_ml',
    'unconfirmed_lesion_count',
    'unconfirmed_lesion_volume_ml',
    'detected_new_count',
    'detected_new_volume_ml',
    'detected_new_least_mm3',
    'detected_outside_count',
    'detected_outside_volume_ml',
    'candidate_count',
    'candidate_volume_ml',
    'brain_volume_ml',
    'contrasts',
)
_HIDDEN = ('participant_id', 'session_id')
SUMMARY_ROWS = (*_FIRST, *(name for name in VISITS if name not in (*_FIRST, *_HIDDEN)))
LESION_COLUMNS = tuple(name for name in LESIONS if name not in _HIDDEN)
_HIDDEN_OF_PAIR = (*_HIDDEN, 'since_session', 'interval_days')
CHANGE_COLUMNS = tuple(name for name in CHANGES if name not in _HIDDEN_OF_PAIR)
NEW_LESION_COLUMNS = tuple(name for name in NEW_LESIONS if name not in _HIDDEN_OF_PAIR)
_CHECKED = ('since_session', 'detected_new_model', 'detected_new_model_sha256')
SELF_CHECK_COLUMNS = tuple(name for name in SELF_CHECK if name not in (*_HIDDEN_OF_PAIR, *_CHECKED))
CANDIDATE_COLUMNS = tuple(
    name for name in CANDIDATES if name not in _HIDDEN_OF_PAIR and not name.startswith('patch_')
)
# What a reader asks of lesions first; stable ones are folded away.
KINDS_IN_ORDER = ('new', 'resolved', 'enlarged', 'shrunken', 'split', 'merged', 'unconfirmed')


@dataclass(frozen=True)
class VisitSection:
    """What one visit brought: the images that were used, and what was left out and why.

    ``found`` holds mappings with ``contrast``, ``file``, ``voxel_size_mm`` and ``note``.
    """

    session: str | None
    acq_time: str | None
    found: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class ParticipantReport:
    """Everything in a report that is not on disk.

    ``followed`` tells whether this run followed lesions over visits; what another one left behind
    is not shown.
    """

    participant: str
    visits: tuple[VisitSection, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    change_cautions: tuple[str, ...] = ()
    methods: str = ''
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    followed: bool = True


@dataclass(frozen=True)
class ChangesView:
    """What became of lesions since ``since``; stable ones have a table of their own."""

    since: str
    counts: str
    panel: FigureView
    map: FigureView
    table: TableView
    stable: TableView


@dataclass(frozen=True)
class CourseView:
    """All visits together; ``heading`` goes with the table, ``obstacle`` stands for its notes."""

    timeline: FigureView | None
    heading: str
    dissemination: TableView
    obstacle: str | None


@dataclass(frozen=True)
class DetectedView:
    """What a network found to be new."""

    model: str
    figures: tuple[FigureView, ...]
    table: TableView
    check: TableView | None
    painted: FigureView | None


@dataclass(frozen=True)
class PairView:
    """A visit and the one before that it was compared with."""

    since: str
    flicker: tuple[FigureView, FigureView]
    figures: tuple[FigureView, ...]
    mosaic: FigureView
    table: TableView
    detected: DetectedView | None


@dataclass(frozen=True)
class VisitView:
    """One visit as the template reads it; ``key`` is a safe anchor."""

    key: str
    name: str
    section: VisitSection
    summary: Mapping[str, Any] | None
    lesions: tuple[FigureView, ...]
    lesion_table: TableView
    viewer: str | None
    quality: tuple[FigureView, ...]
    mosaics: tuple[FigureView, ...]
    changes: ChangesView | None
    pair: PairView | None


def _bids(label: str, prefix: str) -> str:
    """Return a label with its prefix exactly once."""
    return f'{prefix}-{label.removeprefix(f"{prefix}-")}'


def _contrasts(section: VisitSection) -> tuple[str, list[str]]:
    """Return the reference contrast and the others that were found."""
    found = [str(item.get('contrast', '')) for item in section.found]
    reference = 'T1w' if 'T1w' in found and 'FLAIR' not in found else 'FLAIR'
    return reference, [
        name for name in ('T1w', 'T2w', 'ceT1w') if name in found and name != reference
    ]


def _pair(files: Files, since: str, summary: Mapping[str, Any] | None) -> PairView:
    table = files.table('candidates', CANDIDATES, CANDIDATE_COLUMNS)
    return PairView(
        since=since,
        flicker=(
            files.figure('before', 'FLAIR', f'Before and after: {since} and this visit'),
            files.figure('after', 'FLAIR', 'After'),
        ),
        figures=(
            files.panel('candidates', 'The largest candidates', len(table.rows)),
            files.figure('visits', 'FLAIR', f'Alignment with {since}'),
        ),
        mosaic=files.figure('candidatemosaic', 'FLAIR', 'All candidates'),
        table=table,
        detected=_detected(files, summary),
    )


def _detected(files: Files, summary: Mapping[str, Any] | None) -> DetectedView | None:
    """Read what a network found to be new; None where the summary names no network."""
    model = (summary or {}).get('detected_new_model')
    if not isinstance(model, str):
        return None
    table = files.table('newlesions', NEW_LESIONS, NEW_LESION_COLUMNS)
    check = files.table('selfcheck', SELF_CHECK, SELF_CHECK_COLUMNS)
    painted = files.figure('selfcheck', 'FLAIR', 'Painted lesions')
    # An earlier run may have checked another network, or another pair.
    found = tuple((summary or {}).get(name) for name in _CHECKED)
    checked = painted.uri and all(
        tuple(row[name] for name in _CHECKED) == found for row in check.rows
    )
    return DetectedView(
        model=model,
        figures=(
            files.panel('detected', 'New or enlarged places, before and now', len(table.rows)),
            files.figure('detectedmosaic', 'FLAIR', 'All new or enlarged places'),
        ),
        table=table,
        check=check if checked else None,
        painted=painted if checked else None,
    )


def _changes(files: Files, summary: Mapping[str, Any] | None) -> ChangesView | None:
    """Read what became of lesions; None where the summary says that they were not compared."""
    since = (summary or {}).get('lesions_since_session')
    if not isinstance(since, str):
        return None
    table = files.table('changes', CHANGES, CHANGE_COLUMNS)
    stable = tuple(row for row in table.rows if row['kind'] == 'stable')
    events = sorted(
        (row for row in table.rows if row['kind'] in KINDS_IN_ORDER),
        key=lambda row: (
            KINDS_IN_ORDER.index(row['kind']),
            -np.nanmax([row['volume_before_ml'], row['volume_after_ml']]),
        ),
    )
    found = Counter(row['kind'] for row in table.rows)
    counts = ', '.join(f'{found[kind]} {kind}' for kind in (*KINDS_IN_ORDER, 'stable'))
    return ChangesView(
        since=since,
        counts=counts,
        panel=files.panel('newlesions', 'New lesions, before and now', found['new']),
        map=files.figure('changemap', 'FLAIR', 'What became of each lesion'),
        table=replace(table, rows=tuple(events)),
        stable=replace(table, rows=stable),
    )


def _course(output_dir: Path, participant: str, visits: Sequence[VisitView]) -> CourseView | None:
    """Read what is told of all visits together; None where lesions were not followed."""
    files = Files(output_dir, participant, None)
    table = files.participant_table('dissemination', DISSEMINATION)
    timeline = files.figure('timeline', 'FLAIR', 'Lesions over the visits')
    compared = any(visit.changes for visit in visits)
    if not compared and not table.rows:
        return None
    obstacle = common_note(table, NOT_MEASURED)
    if obstacle:
        table = replace(table, names=tuple(name for name in table.names if name != 'note'))
    return CourseView(timeline if compared else None, HEADING, table, obstacle)


def _since(summary: Mapping[str, Any] | None, previous: VisitView | None) -> str | None:
    """Name of the visit compared with: from the table; without one, the last before with FLAIR."""
    value = (summary or {}).get('since_session')
    if isinstance(value, str) and value:
        return value
    return previous.name if summary is None and previous is not None else None


def _visit(
    output_dir: Path,
    participant: str,
    number: int,
    section: VisitSection,
    previous: VisitView | None,
    *,
    followed: bool,
) -> VisitView:
    session = _bids(section.session, 'ses') if section.session else None
    files = Files(output_dir, participant, session)
    summary_table = files.table('summary', VISITS, SUMMARY_ROWS)
    summary = summary_table.rows[0] if len(summary_table.rows) == 1 else None
    reference, others = _contrasts(section)
    since = _since(summary, previous)
    return VisitView(
        key=f'visit-{number}',
        name=session or 'the visit',
        section=section,
        summary=summary,
        lesions=(
            either(files, 'lesions', reference, 'Lesions'),
            *if_made(files, 'uncertainty', reference, 'How sure the network is'),
        ),
        lesion_table=files.table(
            'lesions', LESIONS, LESION_COLUMNS, (summary or {}).get('lesion_count')
        ),
        viewer=files.viewer(),
        quality=(
            either(files, 'brain', reference, 'Brain mask'),
            *if_made(files, 'zones', reference, 'Zones of the brain'),
            *present(files, 'alignment', others, f'Alignment of {{}} with {reference}'),
        ),
        mosaics=tuple(present(files, 'mosaic', [reference, *others], '{}')),
        changes=_changes(files, summary) if followed else None,
        pair=_pair(files, since, summary) if since is not None else None,
    )


def _verdict(report: ParticipantReport, visits: Sequence[VisitView]) -> tuple[str, str]:
    """Return the class and the sentence of the line at the top."""
    unmeasured = [visit.name for visit in visits if visit.summary is None]
    if report.errors:
        return 'bad', f'Not complete: {count(len(report.errors), "error")}. Results are partial.'
    if unmeasured:
        return 'bad', f'Not complete: no measures for {", ".join(unmeasured)}.'
    if not visits:
        return 'bad', 'Not complete: no visit was processed.'
    if report.warnings:
        return 'fair', f'Complete, with {count(len(report.warnings), "warning")} to read first.'
    return 'good', 'Complete, without a warning. Check the figures before using the numbers.'


def write_participant_report(output_dir: Path, report: ParticipantReport) -> Path:
    """Write ``sub-X.html`` from the figures and tables that are on disk.

    Parameters
    ----------
    output_dir : Path
        Root of the derivatives.
    report : ParticipantReport
        Visits in the order of time, errors, warnings, methods, versions and settings.

    Returns
    -------
    Path
        The page; it holds all its pictures and loads nothing.
    """
    participant = _bids(report.participant, 'sub')
    visits: list[VisitView] = []
    for number, section in enumerate(report.visits, start=1):
        with_flair = [view for view in visits if _contrasts(view.section)[0] == 'FLAIR']
        previous = with_flair[-1] if with_flair else None
        view = _visit(output_dir, participant, number, section, previous, followed=report.followed)
        visits.append(view)
    doubts = find_doubts({visit.name: visit.summary or {} for visit in visits})
    report = replace(report, warnings=(*report.warnings, *doubts))
    state, sentence = _verdict(report, visits)
    return write_page(
        output_dir / f'{participant}.html',
        'participant.html.j2',
        report=report,
        participant=participant,
        visits=visits,
        course=_course(output_dir, participant, visits) if report.followed else None,
        state=state,
        sentence=sentence,
        columns=VISITS,
        summary_rows=SUMMARY_ROWS,
    )
