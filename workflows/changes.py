"""All visits of a participant: what became of every lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.names import derivative_path, since_label
from msapp.bids.query import Visit, interval_days
from msapp.interfaces.course import AssessDissemination, TakePair, TrackLesions
from msapp.interfaces.lists import Merge
from msapp.lesions import change
from msapp.lesions.matching import LEAST_NEAR, LEAST_OVERLAP, REACH_VOXELS, SUPPORT
from msapp.models.registry import models_for
from msapp.settings import Settings
from msapp.workflows.lesions import can_find_lesions
from msapp.workflows.nodes import LARGE_GB, make_node
from msapp.workflows.outputs import NETWORK, ParticipantSinks, Source, VisitSinks, model_metadata

NAME = 'changes_wf'
# What `TakePair` takes out for each pair of visits.
OF_PAIR = ('classes', 'rows', 'measures')
# What `TrackLesions` takes of each visit, and under which name.
OF_VISIT = {'labels': 'labels', 'brain': 'brains'}
# Their files, as `derivative_path` names them.
FILES_OF_VISIT = ({'desc': 'lesions', 'suffix': 'dseg'}, {'desc': 'brain', 'suffix': 'mask'})
# What a network for new lesions marks between two visits: labels of its masks.
JUDGED = ('new', 'gone')
METHODS = f"""\
Lesions of each visit with FLAIR were linked to those of the last one before with FLAIR if they
share at least {100 * LEAST_OVERLAP:.0f} % of the smaller one (where neither has a link, if they do
so when grown by a voxel, for {100 * LEAST_NEAR:.0f} %). Linked lesions that change, in the part
that the brain masks of both visits hold, by at least
{100 * change.LEAST_CHANGE:.0f} % (spinalcordtoolbox issue 4786) and more than
{change.LEAST_CHANGE_MM3:g} mm3 (animaLesionEvolutionDetection) are enlarged or shrunken, else
stable; several that become fewer are merged, and split if they become more, lesions that the other
brain mask cuts being counted in parts. Lesions of at least
{change.LEAST_LESION_MM3:g} mm3 (Anima) that only the later or the earlier visit shows are new or
resolved, smaller ones unconfirmed, and so is what lies by half outside the other brain mask. """
JUDGED_METHODS = f"""\
Where the network for new lesions looked at both visits, a lesion that only the later one shows, or
of which earlier ones cover less than {100 * LEAST_OVERLAP:.0f} % (or up to half, where another
lesion shares more with these), is new, whatever its size, if more than {100 * SUPPORT:.0f} % of
what the earlier brain mask shows of it is in the mask of new lesions, and unconfirmed if not. A
lesion that only the earlier visit shows is resolved if as much of it is in
the mask of what is gone, else unconfirmed. """
CAUTION = (
    'Change classes compare two segmentations that were made independently of each other and are '
    'only as good as these: look at every new, enlarged and resolved lesion before you count it.'
)
BASELINE_CAUTION = (
    'These lesions come from the classical baseline. Where it finds a lesion at one visit and '
    'misses it at the other, the lesion is called new or resolved, which happens often, where no '
    'network for new lesions looked.'
)
# Why the imaging items of the McDonald criteria cannot be told.
NO_ZONES = (
    'where lesions lie is not known: it needs zones of the brain, which --brain-extraction '
    'network tells'
)
NO_NETWORK = (
    'lesions come from the classical baseline, which outlines normal tissue as well: no item may '
    'rest on it. Give a network by --lesion-model'
)
# Items rest on a network most of whose lesions are lesions, where that was measured: one false
# lesion in another place can meet an item.
PPV, LEAST_PPV = 'lesion-wise PPV', 0.5
NO_PPV = (
    "how many of the lesions that the network '{name}' marks are lesions was not measured: no item "
    'may rest on it. Measure it (msapp-evaluate) and add it to its model.toml as [[validation]] '
    f"with the measure '{PPV}'"
)
LOW_PPV = (
    "of the lesions that the network '{name}' marks, a share of {value:.2f} are lesions (n = {n}). "
    f'An item may rest on a network from {LEAST_PPV:g} on, for one false lesion can meet it. Give '
    f"one by {{flag}} whose model.toml has that '{PPV}', or judge the items from the images "
    'yourself: masks of lesions drawn by hand cannot be given'
)
FLAGS = {'lesions': '--lesion-model', 'longitudinal': '--new-lesion-method'}
# Limits of `msapp.lesions.change` and `matching` with their unit and source, for sidecars.
LIMITS: dict[str, dict[str, Any]] = {
    'LeastOverlap': {
        'Value': LEAST_OVERLAP,
        'Units': 'share of the smaller lesion',
        'Source': 'animaSegPerfAnalyzer (MSSEG 2016), ivadomed',
    },
    'LeastOverlapGrown': {
        'Value': LEAST_NEAR,
        'Units': f'share of the smaller lesion, the other grown by {REACH_VOXELS} voxel',
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
    'LeastMarked': {
        'Value': SUPPORT,
        'Units': 'share of a lesion of one visit alone that a network for new lesions marked',
        'Source': 'msapp; where such a network looked at the pair',
    },
    'LeastLesionMM3': {
        'Value': change.LEAST_LESION_MM3,
        'Units': 'mm^3',
        'Source': 'animaLesionEvolutionDetection (Anima)',
    },
}


def cautions(settings: Settings) -> tuple[str, ...]:
    """Return what a reader of change classes must know."""
    if not follows_lesions(settings):
        return ()
    return (CAUTION,) if 'lesions' in models_for(settings) else (BASELINE_CAUTION, CAUTION)


def methods(settings: Settings) -> str:
    """Return the sentences of the report about change classes."""
    if not follows_lesions(settings):
        return ''
    return METHODS + JUDGED_METHODS if 'longitudinal' in models_for(settings) else METHODS


def follows_lesions(settings: Settings) -> bool:
    """Tell whether lesions are followed over visits."""
    return {'lesions', 'longitudinal'} <= set(settings.tasks)


def tracked_visits(visits: Sequence[Visit], settings: Settings) -> tuple[int, ...]:
    """Return the numbers of the visits whose lesions are followed.

    Lesions must have been found on FLAIR: against those found on T1w alone, which shows far fewer,
    most would be new.
    """
    found = [
        number
        for number, visit in enumerate(visits)
        if 'FLAIR' in visit.images and can_find_lesions(visit, settings)
    ]
    return tuple(found) if follows_lesions(settings) else ()


def _obstacle(settings: Settings) -> str:
    """Say why dissemination cannot be told; empty where it can."""
    models = models_for(settings)
    if 'lesions' not in models:
        return NO_NETWORK
    if settings.brain_extraction != NETWORK:
        return NO_ZONES
    # Items in space rest on the one, those in time on the other.
    for task, flag in FLAGS.items():
        if task not in models:
            continue
        model = models[task]
        measured = [figure for figure in model.validation if figure.measure == PPV]
        if not measured:
            return NO_PPV.format(name=model.name)
        worst = min(measured, key=lambda figure: figure.value)
        if worst.value < LEAST_PPV:
            return LOW_PPV.format(name=model.name, value=worst.value, n=worst.n, flag=flag)
    return ''


def init_changes_wf(
    *, visits: Sequence[Visit], settings: Settings, judged: Sequence[int] = ()
) -> pe.Workflow:
    """Build the graph that follows lesions over visits.

    Workflow Graph
        Lesion instances of all visits -> tracks -> each two that follow each other; tracks,
        changes and tables of lesions -> dissemination.

    Parameters
    ----------
    visits : sequence of Visit
        Those of :func:`tracked_visits`.
    settings : Settings
    judged : sequence of int
        Visits, counted from 1, at which a network looked for lesions new since the one before.

    Inputs
    ------
    labels<n>, brain<n>, lesions<n>
        Lesion instances, brain mask and table of visit n, counted from 1.
    new<n>, gone<n>
        Masks of lesions that came and that went, of each visit of ``judged``.

    Outputs
    -------
    classes<n>, rows<n>, measures<n>
        Of `msapp.interfaces.course.TakePair`, visit n against the one before; from 2 on.
    tracks
        Each lesion at each visit.
    dissemination
        Rows of `msapp.interfaces.course.AssessDissemination`.
    """
    workflow = pe.Workflow(name=NAME)
    numbers = range(1, len(visits) + 1)
    pairs = [f'{field}{number}' for number in numbers[1:] for field in OF_PAIR]
    inputnode = pe.Node(
        niu.IdentityInterface(
            [f'{field}{n}' for field in (*OF_VISIT, 'lesions', *JUDGED) for n in numbers]
        ),
        name='inputnode',
    )
    outputnode = pe.Node(
        niu.IdentityInterface([*pairs, 'tracks', 'dissemination']), name='outputnode'
    )
    track = make_node(
        TrackLesions(),
        'track_lesions',
        mem_gb=LARGE_GB,
        years=_years(visits),
        sessions=[visit.session or '' for visit in visits],
    )
    for field, target in OF_VISIT.items():
        merge = make_node(Merge(len(visits)), f'merge_{target}', work_dir=str(settings.work_path))
        for number in numbers:
            workflow.connect(inputnode, f'{field}{number}', merge, f'in{number}')
        workflow.connect(merge, 'out', track, target)
    if judged:
        track.inputs.new_pairs = [number - 2 for number in judged]
        for field in JUDGED:
            gather = make_node(
                Merge(len(judged)), f'merge_{field}', work_dir=str(settings.work_path)
            )
            for place, number in enumerate(judged, start=1):
                workflow.connect(inputnode, f'{field}{number}', gather, f'in{place}')
            workflow.connect(gather, 'out', track, field)
    workflow.connect(track, 'tracks', outputnode, 'tracks')
    for number in numbers[1:]:
        take = make_node(TakePair(), f'take{number}', index=number - 2)
        workflow.connect(
            [
                (track, take, [(field, field) for field in OF_PAIR]),
                (take, outputnode, [(field, f'{field}{number}') for field in OF_PAIR]),
            ]
        )
    _add_dissemination(workflow, visits, settings, judged)
    return workflow


def _add_dissemination(
    workflow: pe.Workflow, visits: Sequence[Visit], settings: Settings, judged: Sequence[int]
) -> None:
    """Add the items of the McDonald criteria to the graph of :func:`init_changes_wf`."""
    assess = make_node(
        AssessDissemination(),
        'assess_dissemination',
        visits=[visit.name for visit in visits],
        obstacle=_obstacle(settings),
        judged=[number - 1 for number in judged],
    )
    # Rows are no files, so what lists them may move with the work folder.
    merge = make_node(niu.Merge(len(visits), no_flatten=True), 'merge_rows')
    inputnode, outputnode, track = map(
        workflow.get_node, ('inputnode', 'outputnode', 'track_lesions')
    )
    for number in range(1, len(visits) + 1):
        workflow.connect(inputnode, f'lesions{number}', merge, f'in{number}')
    workflow.connect(
        [
            (merge, assess, [('out', 'lesions')]),
            (track, assess, [(field, field) for field in ('tracks', 'measures')]),
            (track, assess, [('rows', 'changes')]),
            (assess, outputnode, [('rows', 'dissemination')]),
        ]
    )


def _years(visits: Sequence[Visit]) -> list[float]:
    """Return the years between visits; 0 where times are absent, too near or in reverse order."""
    days = [interval_days(*pair) or 0.0 for pair in pairwise(visits)]
    return [
        gap / change.DAYS_PER_YEAR if gap >= change.LEAST_INTERVAL_DAYS else 0.0 for gap in days
    ]


def add_course_outputs(
    tracks: pe.Workflow, sinks: ParticipantSinks, visits: Sequence[Visit]
) -> None:
    """Write what is of all visits together: tracks and timeline of two or more, dissemination.

    Parameters
    ----------
    tracks : nipype.Workflow
        Of :func:`init_changes_wf`.
    sinks : ParticipantSinks
    visits : sequence of Visit
        Those of :func:`tracked_visits`.
    """
    common = {'participant_id': sinks.participant}
    sinks.table((tracks, 'outputnode.dissemination'), 'dissemination', common)
    if len(visits) > 1:
        sinks.table((tracks, 'outputnode.tracks'), 'tracks', common)
        sinks.timeline((tracks, 'outputnode.tracks'), visits)


def add_change_outputs(
    changes: Mapping[str, Source],
    applied: Sequence[pe.Workflow],
    sinks: VisitSinks,
    since: Visit,
    common: dict[str, Any],
    *,
    judged: bool,
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
    judged : bool
        Whether a network for new lesions looked at the pair.
    """
    models = models_for(sinks.settings)
    model, detector = models.get('lesions'), models.get('longitudinal') if judged else None
    sinks.image(
        changes['classes'],
        space='individual',
        desc='change',
        suffix='dseg',
        metadata={
            'Sources': _sources(sinks, since, judged=judged),
            'Type': 'Lesion',
            'Description': 'What became of each lesion since the earlier visit; resolved lesions '
            'lie where the earlier visit shows them.',
            'ComparedWith': since.session or '',
            **(model_metadata(model) if model else {'Model': sinks.settings.lesion_model}),
            **({'NewLesionModel': model_metadata(detector)} if detector else {}),
            'Thresholds': LIMITS,
        },
    )
    sinks.names('change', ('none', *change.CLASSES))
    sinks.table(changes['rows'], 'changes', common)
    before, now = ((visit, 'outputnode.preproc_FLAIR') for visit in applied)
    brain = (applied[1], 'outputnode.brain_mask')
    sinks.changes(before, now, brain, changes, (since.name, sinks.visit.name))


def _sources(sinks: VisitSinks, since: Visit, *, judged: bool) -> list[str]:
    """Return the BIDS URIs of what changes are told from; as for :func:`add_change_outputs`."""

    def uri(visit: Visit, **entities: str) -> str:
        kind = {'space': 'individual', 'extension': '.nii.gz'}
        path = derivative_path(sinks.participant, visit.session, **kind, **entities)
        return f'bids::{path.as_posix()}'

    found = [uri(visit, **file) for visit in (since, sinks.visit) for file in FILES_OF_VISIT]
    if judged:
        marked = {'desc': since_label(since.session), 'suffix': 'mask'}
        found += [uri(sinks.visit, label=label, **marked) for label in JUDGED]
    return found
