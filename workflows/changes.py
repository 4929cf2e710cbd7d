"""All visits of a participant: what became of every lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.query import Visit, interval_days
from msapp.interfaces.lesions import TakePair, TrackLesions
from msapp.interfaces.lists import Merge
from msapp.lesions import change
from msapp.models.registry import models_for
from msapp.settings import Settings
from msapp.workflows.lesions import can_find_lesions
from msapp.workflows.outputs import LARGE_GB, Source, VisitSinks, make_node

NAME = 'changes_wf'
METHODS = f"""\
Lesions of consecutive visits were linked if they share at least
{100 * change.LEAST_OVERLAP:.0f} % of the smaller one (where neither has a link, if they do so when
grown by a voxel, for {100 * change.LEAST_NEAR:.0f} %). Linked lesions that change by at least
{100 * change.LEAST_CHANGE:.0f} % (spinalcordtoolbox issue 4786) and more than
{change.LEAST_CHANGE_MM3:g} mm3 (animaLesionEvolutionDetection) are enlarged or shrunken, else
stable; several that become fewer are merged, and split if they become more. Lesions of at least
{change.LEAST_LESION_MM3:g} mm3 (Anima) that only the later or the earlier visit shows are new or
resolved, smaller ones unconfirmed. """
CAUTION = (
    'Change classes compare two segmentations that were made independently of each other and are '
    'only as good as these: look at every new, enlarged and resolved lesion before you count it.'
)
BASELINE_CAUTION = (
    'These lesions come from the classical baseline. Where it finds a lesion at one visit and '
    'misses it at the other, the lesion is called new or resolved, which happens often.'
)
# Limits of `msapp.lesions.change` with their unit and source, for sidecars.
LIMITS: dict[str, dict[str, Any]] = {
    'LeastOverlap': {
        'Value': change.LEAST_OVERLAP,
        'Units': 'share of the smaller lesion',
        'Source': 'animaSegPerfAnalyzer (MSSEG 2016), ivadomed',
    },
    'LeastOverlapGrown': {
        'Value': change.LEAST_NEAR,
        'Units': f'share of the smaller lesion, the other grown by {change.REACH_VOXELS} voxel',
        'Source': 'msapp; for lesions without another link',
    },
    'LeastChange': {
        'Value': change.LEAST_CHANGE,
        'Units': 'share of the earlier volume',
        'Source': 'spinalcordtoolbox issue 4786',
    },
    'LeastChangeMM3': {
        'Value': change.LEAST_CHANGE_MM3,
        'Units': 'mm^3',
        'Source': 'animaLesionEvolutionDetection (Anima)',
    },
    'LeastLesionMM3': {
        'Value': change.LEAST_LESION_MM3,
        'Units': 'mm^3',
        'Source': 'animaLesionEvolutionDetection (Anima)',
    },
}


def cautions(settings: Settings) -> tuple[str, ...]:
    """Return what a reader of change classes must know."""
    if not _tracks(settings):
        return ()
    return (CAUTION,) if 'lesions' in models_for(settings) else (BASELINE_CAUTION, CAUTION)


def methods(settings: Settings) -> str:
    """Return the sentences of the report about change classes."""
    return METHODS if _tracks(settings) else ''


def _tracks(settings: Settings) -> bool:
    return {'lesions', 'longitudinal'} <= set(settings.tasks)


def tracked_visits(visits: Sequence[Visit], settings: Settings) -> tuple[int, ...]:
    """Return the numbers of the visits whose lesions are compared; none if there are not two.

    Lesions must have been found on FLAIR: against those found on T1w alone, which shows far fewer,
    most would be new.
    """
    found = [
        number
        for number, visit in enumerate(visits)
        if 'FLAIR' in visit.images and can_find_lesions(visit, settings)
    ]
    return tuple(found) if _tracks(settings) and len(found) > 1 else ()


def init_changes_wf(*, visits: Sequence[Visit], settings: Settings) -> pe.Workflow:
    """Build the graph that follows lesions over visits.

    Workflow Graph
        Lesion instances of all visits -> tracks -> each pair of consecutive visits.

    Parameters
    ----------
    visits : sequence of Visit
        Those of :func:`tracked_visits`.
    settings : Settings

    Inputs
    ------
    labels<n>
        Lesion instances of visit n, counted from 1.

    Outputs
    -------
    classes<n>, rows<n>, measures<n>
        Of `msapp.interfaces.lesions.TakePair`, visit n against the one before; from 2 on.
    """
    workflow = pe.Workflow(name=NAME)
    numbers = range(1, len(visits) + 1)
    names = [f'labels{number}' for number in numbers]
    inputnode = pe.Node(niu.IdentityInterface(names), name='inputnode')
    fields = ('classes', 'rows', 'measures')
    outputnode = pe.Node(
        niu.IdentityInterface([f'{field}{number}' for number in numbers[1:] for field in fields]),
        name='outputnode',
    )
    merge = make_node(Merge(len(visits)), 'merge_labels', work_dir=str(settings.work_path))
    track = make_node(TrackLesions(), 'track_lesions', mem_gb=LARGE_GB, years=_years(visits))
    workflow.connect(merge, 'out', track, 'labels')
    for number, name in zip(numbers, names, strict=True):
        workflow.connect(inputnode, name, merge, f'in{number}')
    for number in numbers[1:]:
        take = make_node(TakePair(), f'take{number}', index=number - 2)
        workflow.connect(
            [
                (track, take, [(field, field) for field in fields]),
                (take, outputnode, [(field, f'{field}{number}') for field in fields]),
            ]
        )
    return workflow


def _years(visits: Sequence[Visit]) -> list[float]:
    """Return the years between visits; 0 where times are absent, the same or in reverse order."""
    days = [interval_days(*pair) or 0.0 for pair in pairwise(visits)]
    return [max(gap, 0.0) / change.DAYS_PER_YEAR for gap in days]


def add_change_outputs(
    changes: Mapping[str, Source],
    applied: Sequence[pe.Workflow],
    sinks: VisitSinks,
    since: Visit,
    common: dict[str, Any],
) -> None:
    """Write what became of lesions since the visit before: class image, table, figures.

    Parameters
    ----------
    changes : mapping of str to Source
        As for `VisitSinks.changes`.
    applied : sequence of nipype.Workflow
        Of `msapp.workflows.session.init_visit_apply_wf`, of the earlier and the later visit.
    sinks : VisitSinks
        Of the later visit.
    since : Visit
        The earlier visit.
    common : dict
        Columns that all rows of the table share.
    """
    model = models_for(sinks.settings).get('lesions')
    sinks.image(
        changes['classes'],
        space='individual',
        contrasts=('FLAIR',),
        since=since,
        desc='change',
        suffix='dseg',
        metadata={
            'Description': 'What became of each lesion since the earlier visit; resolved lesions '
            'lie where the earlier visit shows them.',
            'ComparedWith': since.session or '',
            'Model': model.name if model else sinks.settings.lesion_model,
            'Thresholds': LIMITS,
        },
    )
    sinks.names('change', ('none', *change.CLASSES))
    sinks.table(changes['rows'], 'changes', common)
    before, now = ((visit, 'outputnode.preproc_FLAIR') for visit in applied)
    brain = (applied[1], 'outputnode.brain_mask')
    sinks.changes(before, now, brain, changes, (since.name, sinks.visit.name))
