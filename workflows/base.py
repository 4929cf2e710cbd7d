"""The graph of a run: one workflow a participant, from raw images to figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from msapp import __version__
from msapp.bids.names import contrast_entities, derivative_path
from msapp.bids.query import Participant, Visit, interval_days
from msapp.models.registry import models_for
from msapp.settings import Settings
from msapp.workflows import changes, lesions, longitudinal, midpoint, newlesions, session
from msapp.workflows.nodes import safe_name
from msapp.workflows.outputs import ParticipantSinks, Source, VisitSinks

# nipype's hashes do not see code, so every version has a work folder of its own.
WORKFLOW_NAME = safe_name(f'msapp_{__version__}_wf')

GivenMasks = Mapping[tuple[str, str | None], Path]


def init_msapp_wf(
    *,
    participants: Sequence[Participant],
    settings: Settings,
    given_masks: GivenMasks | None = None,
) -> tuple[pe.Workflow, dict[str, str]]:
    """Build the graph of all participants.

    Parameters
    ----------
    participants : sequence of Participant
        Those without an error.
    settings : Settings
    given_masks : mapping, optional
        Brain masks found in ``--derivatives``, by participant and session.

    Returns
    -------
    workflow : nipype.Workflow
        With ``base_dir`` set to the work folder.
    names : dict
        Name of each participant's workflow to its label.
    """
    workflow = pe.Workflow(name=WORKFLOW_NAME, base_dir=str(settings.work_path.absolute()))
    names = {}
    for participant in participants:
        child = init_participant_wf(
            participant=participant, settings=settings, given_masks=given_masks or {}
        )
        workflow.add_nodes([child])
        names[child.name] = participant.label
    return workflow, names


def init_participant_wf(
    *, participant: Participant, settings: Settings, given_masks: GivenMasks
) -> pe.Workflow:
    """Build the graph of one participant.

    Workflow Graph
        each visit's fit -> midpoint -> each visit in ``individual`` -> lesions; each visit with
        FLAIR and the last one before with FLAIR -> candidates, new lesions by a network; lesions
        of all visits -> changes; everything -> sinks and figures.

    Parameters
    ----------
    participant : Participant
    settings : Settings
    given_masks : mapping
        Brain masks by participant and session.
    """
    workflow = pe.Workflow(name=f'{safe_name(participant.label)}_wf')
    visits = participant.visits
    fits = [
        session.init_visit_fit_wf(
            visit=visit,
            settings=settings,
            given_mask=given_masks.get((participant.label, visit.session)),
        )
        for visit in visits
    ]
    space = midpoint.init_midpoint_wf(visits=visits, settings=settings)
    applied = []
    for number, (visit, fit) in enumerate(zip(visits, fits, strict=True), start=1):
        workflow.connect(
            [
                (
                    fit,
                    space,
                    [
                        (f'outputnode.n4_{visit.reference}', f'inputnode.image{number}'),
                        ('outputnode.brain', f'inputnode.brain{number}'),
                        ('outputnode.from_mni', f'inputnode.from_mni{number}'),
                    ],
                )
            ]
        )
        applied.append(_add_applied(workflow, visit, fit, space, number, settings))
    _add_outputs(workflow, participant, settings, fits, applied, space)
    return workflow


def _add_outputs(
    workflow: pe.Workflow,
    participant: Participant,
    settings: Settings,
    fits: Sequence[pe.Workflow],
    applied: Sequence[pe.Workflow],
    space: pe.Workflow,
) -> None:
    """Add everything that visits in ``individual`` are for, and the sinks of all files."""
    visits = participant.visits
    sinks = [
        VisitSinks(
            workflow=workflow,
            settings=settings,
            participant=participant.label,
            visit=visit,
            space_reference=_space_reference(participant),
        )
        for visit in visits
    ]
    measures = [_measures(*parts) for parts in zip(visits, fits, applied, strict=True)]
    columns = [_summary_columns(participant.label, visit) for visit in visits]
    found, new = {}, {}
    pairs = longitudinal.compared_visits(visits, settings)
    used = lesions.used_contrasts(visits, settings) if 'lesions' in settings.tasks else {}
    partial = lesions.add_partial(sinks, used, applied)
    for index, visit in enumerate(visits):
        session.add_visit_outputs(fits[index], applied[index], sinks[index])
        if index in used:
            graphs = fits[index], applied[index], space
            found[index] = _add_lesions(sinks[index], used[index], partial.get(index), *graphs)
            measures[index]['lesions'] = found[index], 'outputnode.measures'
        if index in pairs:
            before = pairs[index]
            since = visits[before]
            both = [fits[before], fits[index]], [applied[before], applied[index]]
            found_candidates = _add_candidates(sinks[index], since, *both, space)
            measures[index]['candidates'] = found_candidates, 'outputnode.measures'
            if 'longitudinal' in models_for(settings):
                detected = _add_new_lesions(sinks[index], since, *both, space, found_candidates)
                measures[index]['new_lesions'] = detected, 'outputnode.measures'
                new[before, index] = detected
            columns[index] |= pair_columns(since, visit)
    for index, (since, source) in _add_changes(sinks, found, new, applied).items():
        measures[index]['changes'] = source
        compared = pair_columns(since, visits[index])
        columns[index]['lesions_since_session'] = compared['since_session']
        columns[index]['lesions_interval_days'] = compared['interval_days']
    for index, sink in enumerate(sinks):
        sink.summary(measures[index], columns[index])


def _space_reference(participant: Participant) -> str:
    """Return the BIDS URI of the image that defines ``individual``."""
    first = participant.visits[0]
    path = derivative_path(
        participant.label,
        first.session,
        space='individual',
        desc='preproc',
        extension='.nii.gz',
        **contrast_entities(first.reference),
    )
    return f'bids::{path.as_posix()}'


def _add_applied(
    workflow: pe.Workflow,
    visit: Visit,
    fit: pe.Workflow,
    space: pe.Workflow,
    number: int,
    settings: Settings,
) -> pe.Workflow:
    """Add the graph that brings a visit into ``individual``, and connect it."""
    applied = session.init_visit_apply_wf(visit=visit, settings=settings)
    fields = [*session.carried(settings), *(f'n4_{contrast}' for contrast in visit.images)]
    fields += [f'to_reference_{name}' for name in visit.images if name != visit.reference]
    workflow.connect(
        [
            (fit, applied, [(f'outputnode.{name}', f'inputnode.{name}') for name in fields]),
            (
                space,
                applied,
                [
                    (f'outputnode.to_individual{number}', 'inputnode.to_individual'),
                    ('outputnode.to_mni', 'inputnode.to_mni'),
                ],
            ),
        ]
    )
    return applied


def first_columns(participant: str, visit: Visit) -> dict[str, Any]:
    """Return the columns that name a row."""
    return {'participant_id': participant, 'session_id': visit.session}


def pair_columns(previous: Visit, visit: Visit) -> dict[str, Any]:
    """Return the columns that name the visit before."""
    days = interval_days(previous, visit)
    # Visits in the order of their labels may have times that deny it.
    known = days is not None and days >= 0
    return {'since_session': previous.session, 'interval_days': days if known else None}


def _summary_columns(participant: str, visit: Visit) -> dict[str, Any]:
    """Return the columns of a visit's summary that are known before anything is measured."""
    return {
        **first_columns(participant, visit),
        'acq_time': visit.acq_time,
        'contrasts': ','.join(visit.images),
        'reference_contrast': visit.reference,
    }


def _measures(visit: Visit, fit: pe.Workflow, applied: pe.Workflow) -> dict[str, Any]:
    """Return where the numbers of every visit come from."""
    sources: dict[str, Any] = {
        'extraction': (fit, 'outputnode.measures'),
        'brain': (applied, 'outputnode.measures_brain'),
        'noise': (applied, 'outputnode.measures_noise'),
    }
    for contrast in visit.images:
        if contrast != visit.reference:
            field = f'alignment_{contrast}'
            sources[field] = (applied, f'outputnode.{field}')
    return sources


def _add_lesions(
    sinks: VisitSinks,
    contrasts: tuple[str, ...],
    partial: Source | None,
    fit: pe.Workflow,
    applied: pe.Workflow,
    space: pe.Workflow,
) -> pe.Workflow:
    """Add the lesions of a visit and their outputs; return their graph."""
    workflow = sinks.workflow
    visit = sinks.visit
    found = lesions.init_lesions_wf(
        name=f'{sinks.prefix}_lesions_wf',
        sources={contrast: sinks.raw(contrast) for contrast in contrasts},
        settings=sinks.settings,
    )
    fields = [f'preproc_{contrast}' for contrast in contrasts]
    fields += ['brain_mask', *(name for name in session.carried(sinks.settings) if name != 'brain')]
    workflow.connect(space, 'outputnode.to_mni', found, 'inputnode.to_mni')
    if partial is not None:
        workflow.connect(*partial, found, 'inputnode.partial')
    workflow.connect(
        [
            (applied, found, [(f'outputnode.{name}', f'inputnode.{name}') for name in fields]),
            (
                applied,
                found,
                [(f'outputnode.xfm_{visit.reference}', 'inputnode.to_individual')],
            ),
            (fit, found, [(f'outputnode.n4_{visit.reference}', 'inputnode.reference')]),
        ]
    )
    common = first_columns(sinks.participant, sinks.visit)
    lesions.add_lesion_outputs(found, applied, sinks, contrasts, common)
    return found


def _add_changes(
    sinks: Sequence[VisitSinks],
    found: Mapping[int, pe.Workflow],
    new: Mapping[tuple[int, int], pe.Workflow],
    applied: Sequence[pe.Workflow],
) -> dict[int, tuple[Visit, Source]]:
    """Add what became of lesions; return the visit before and the numbers of each later visit.

    ``new`` is by the numbers of the earlier and the later visit.
    """
    settings, workflow = sinks[0].settings, sinks[0].workflow
    tracked = changes.tracked_visits([sink.visit for sink in sinks], settings)
    if not tracked:
        return {}
    visits = [sinks[index].visit for index in tracked]
    # Fewer visits are followed where the network for lesions needs more than FLAIR.
    judged = {
        number: new[pair] for number, pair in enumerate(pairwise(tracked), start=2) if pair in new
    }
    tracks = changes.init_changes_wf(visits=visits, settings=settings, judged=[*judged])
    for number, detected in judged.items():
        workflow.connect(detected, 'outputnode.mask', tracks, f'inputnode.new{number}')
        workflow.connect(detected, 'outputnode.gone', tracks, f'inputnode.gone{number}')
    for number, index in enumerate(tracked, start=1):
        workflow.connect(found[index], 'outputnode.labels', tracks, f'inputnode.labels{number}')
        brain = applied[index], 'outputnode.brain_mask'
        workflow.connect(*brain, tracks, f'inputnode.brain{number}')
        workflow.connect(found[index], 'outputnode.rows', tracks, f'inputnode.lesions{number}')
    everyone = ParticipantSinks(workflow, settings, sinks[0].participant)
    changes.add_course_outputs(tracks, everyone, visits)
    sources: dict[int, tuple[Visit, Source]] = {}
    for number, (before, now) in enumerate(pairwise(tracked), start=2):
        since, sink = sinks[before].visit, sinks[now]
        outcome: dict[str, Source] = {
            'classes': (tracks, f'outputnode.classes{number}'),
            'rows': (tracks, f'outputnode.rows{number}'),
            'lesions': (found[now], 'outputnode.labels'),
            'lesion_rows': (found[now], 'outputnode.rows'),
        }
        common = first_columns(sink.participant, sink.visit) | pair_columns(since, sink.visit)
        pair = [applied[before], applied[now]]
        changes.add_change_outputs(outcome, pair, sink, since, common, judged=number in judged)
        sources[now] = since, (tracks, f'outputnode.measures{number}')
    return sources


def _add_candidates(
    sinks: VisitSinks,
    previous: Visit,
    fits: Sequence[pe.Workflow],
    applied: Sequence[pe.Workflow],
    space: pe.Workflow,
) -> pe.Workflow:
    """Add the candidates between two visits and their outputs; return their graph."""
    workflow = sinks.workflow
    found = longitudinal.init_candidates_wf(
        name=f'{sinks.prefix}_candidates_wf', settings=sinks.settings
    )
    workflow.connect(space, 'outputnode.to_mni', found, 'inputnode.to_mni')
    workflow.connect(fits[1], 'outputnode.brain', found, 'inputnode.current_brain')
    for which, fit, visit in zip(('previous', 'current'), fits, applied, strict=True):
        workflow.connect(fit, 'outputnode.n4_FLAIR', found, f'inputnode.{which}_flair')
        workflow.connect(visit, 'outputnode.xfm_FLAIR', found, f'inputnode.{which}_to_individual')
        workflow.connect(visit, 'outputnode.brain_mask', found, f'inputnode.{which}_mask')
    common = first_columns(sinks.participant, sinks.visit) | pair_columns(previous, sinks.visit)
    longitudinal.add_candidate_outputs(found, applied[0], applied[1], sinks, previous, common)
    return found


def _add_new_lesions(
    sinks: VisitSinks,
    previous: Visit,
    fits: Sequence[pe.Workflow],
    applied: Sequence[pe.Workflow],
    space: pe.Workflow,
    candidates: pe.Workflow,
) -> pe.Workflow:
    """Add new lesions by a network between two visits and their outputs; return their graph."""
    workflow = sinks.workflow
    found = newlesions.init_new_lesions_wf(
        name=f'{sinks.prefix}_new_lesions_wf', settings=sinks.settings
    )
    before = {
        'n4_FLAIR': 'previous',
        'brain': 'previous_brain',
        'white_matter': 'previous_white_matter',
    }
    now = {
        'preproc_FLAIR': 'current',
        'xfm_FLAIR': 'current_to_individual',
        'brain_mask': 'current_mask',
        'white_matter': 'current_white_matter',
    }
    sources = [
        (fits[0], before),
        (fits[1], {'n4_FLAIR': 'reference'}),
        (applied[1], now),
        (candidates, {'previous_to_current': 'previous_to_current'}),
        (space, {'to_mni': 'to_mni'}),
    ]
    for source, fields in sources:
        for field, target in fields.items():
            workflow.connect(source, f'outputnode.{field}', found, f'inputnode.{target}')
    common = first_columns(sinks.participant, sinks.visit) | pair_columns(previous, sinks.visit)
    newlesions.add_new_lesion_outputs(found, applied[0], applied[1], sinks, previous, common)
    return found
