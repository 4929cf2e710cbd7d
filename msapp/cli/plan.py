"""What a run would do, in words: for ``--dry-run`` and for the reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

from msapp.bids.query import Participant, Visit, not_in_run
from msapp.errors import MissingDependencyError
from msapp.settings import Settings, Task

if TYPE_CHECKING:
    from msapp.models.registry import ModelSpec

# What a task of --tasks cannot be done without: models for these tasks of the registry.
NEEDED_MODELS = {
    'enhancement': ('enhancement',),
    'cord': ('cord', 'cordlesions'),
    'filling': ('filling',),
}
# Tasks of the registry whose network has a step in the graph of a participant. A model alone
# does nothing, so one for another task is refused rather than left unused.
NETWORKS_IN_GRAPH = frozenset({'anatomy', 'lesions', 'longitudinal'})
# Those that --flips is for, and those that --mc-samples is not for.
MIRRORED, NEVER_SAMPLED = {'lesions', 'longitudinal'}, {'anatomy', 'longitudinal'}


def check_available(settings: Settings) -> None:
    """Refuse, before any work, what needs a model, a program or a GPU that is not there.

    The group level reads tables and needs none of them.

    Raises
    ------
    MissingDependencyError
        Naming the flag, what is missing and what to use instead.
    UsageError
        If ``--device`` and ``--gpus`` contradict each other.
    """
    from msapp.imaging.brain import require_fsl
    from msapp.inference.device import choose_gpus
    from msapp.models.registry import check_weights, models_for, with_confirming

    if 'participant' not in settings.levels:
        return
    _check_tasks(settings.tasks)
    models = models_for(settings)
    _check_networks(settings, models)
    for spec in with_confirming(models).values():
        check_weights(spec)
    if settings.brain_extraction == 'bet':
        require_fsl()
    _check_supported(settings, models)
    if settings.device == 'cuda' or settings.gpus:
        choose_gpus(settings.device, settings.gpus)


def _check_tasks(tasks: Sequence[str]) -> None:
    wanted = [task for task in tasks if not _can_be_done(task)]
    if wanted:
        available = [task for task in get_args(Task) if _can_be_done(task)]
        raise MissingDependencyError(
            f'--tasks {" ".join(wanted)}: this version ships no model for it. Available: '
            f'{", ".join(available)}.'
        )


def _can_be_done(task: str) -> bool:
    from msapp.models.registry import find_model_for

    needed = NEEDED_MODELS.get(task, ())
    return all(name in NETWORKS_IN_GRAPH and find_model_for(name) for name in needed)


def _check_networks(settings: Settings, models: Mapping[str, ModelSpec]) -> None:
    if settings.brain_extraction == 'network' and 'anatomy' not in models:
        raise MissingDependencyError(
            '--brain-extraction network: this version ships no network for it. Use template.'
        )


def _check_supported(settings: Settings, models: Mapping[str, ModelSpec]) -> None:
    """Refuse flags that no model of the run is made for."""
    if settings.flips and not MIRRORED & set(models):
        raise MissingDependencyError(
            '--flips needs a network for lesions: name one by --lesion-model or '
            '--new-lesion-method, or leave it out.'
        )
    if settings.self_check and 'longitudinal' not in models:
        raise MissingDependencyError(
            '--self-check needs a network for new lesions: --tasks with longitudinal, and a model '
            'by --new-lesion-method. Or leave it out.'
        )
    if settings.explain:
        raise MissingDependencyError(
            '--explain: this version of msapp makes no relevance maps. Leave it out.'
        )
    if not settings.mc_samples:
        return
    able = [spec for task, spec in models.items() if task not in NEVER_SAMPLED]
    if not able:
        raise MissingDependencyError(
            '--mc-samples needs a network; the classical model has no uncertainty to show.'
        )
    if not any('mc-samples' in spec.supports for spec in able):
        names = ', '.join(spec.name for spec in able)
        raise MissingDependencyError(
            f'--mc-samples: no model of this run was made for it ({names}). Leave it out.'
        )


def not_done(visit: Visit, previous: Visit | None, settings: Settings) -> Iterator[str]:
    """Say what is not done for a visit, and why."""
    from msapp.workflows.lesions import lacking_contrasts

    needed = lacking_contrasts(visit, settings)
    if needed:
        yield f'Lesions are not measured: there is no {" and no ".join(needed)}.'
    elif 'FLAIR' not in visit.images:
        yield 'FLAIR: not found. Lesions are measured on T1w alone, which shows far fewer of them.'
    absent = [name for name in ('T1w', 'T2w') if name not in (*visit.images, *needed)]
    if absent:
        yield f'{" and ".join(absent)}: not found; what is measured does not need it.'
    if previous is None or 'longitudinal' not in settings.tasks:
        return
    if visit.session is not None:
        lacking = [item.name for item in (previous, visit) if 'FLAIR' not in item.images]
        if lacking:
            yield f'Not compared with {previous.name}: no FLAIR in {", ".join(lacking)}.'


def describe(participants: Sequence[Participant], settings: Settings) -> Iterator[str]:
    """Give the lines of ``--dry-run``, participant by participant."""
    from msapp.workflows.changes import tracked_visits

    for participant in participants:
        if participant.error:
            yield f'{participant.label}: left out. {participant.error}'
            continue
        yield f'{participant.label}: {len(participant.visits)} visit(s)'
        yield from (f'  left out: {reason}' for reason in participant.left_out)
        visits, previous = participant.visits, None
        tracked = tracked_visits(visits, settings)
        since = {now: visits[before].name for before, now in pairwise(tracked)}
        for number, visit in enumerate(visits):
            yield f'  {visit.name}' + (f', {visit.acq_time}' if visit.acq_time else '')
            yield from (f'    {name}: {path.name}' for name, path in visit.images.items())
            steps = [*_steps(visit, previous, settings)]
            if number in since:
                steps.append(f'changes of lesions since {since[number]}')
            yield f'    would run: {"; ".join(steps)}'
            reasons = [*visit.left_out, *not_done(visit, previous, settings)]
            yield from (f'    left out: {reason}' for reason in reasons)
            previous = visit
    yield from not_in_run(settings).values()


def _steps(visit: Visit, previous: Visit | None, settings: Settings) -> Iterator[str]:
    """Name the steps of a visit."""
    from msapp.models.registry import CLASSICAL
    from msapp.workflows.lesions import can_find_lesions

    yield 'bias correction'
    yield f'brain extraction ({settings.brain_extraction})'
    others = [name for name in visit.images if name != visit.reference]
    if others:
        yield f'registration of {", ".join(others)} to {visit.reference}'
    yield 'midpoint space'
    if 'lesions' in settings.tasks and can_find_lesions(visit, settings):
        yield f'lesions ({settings.lesion_model})'
    pair = [previous, visit] if previous is not None else []
    if 'longitudinal' in settings.tasks and pair and all('FLAIR' in item.images for item in pair):
        yield f'candidates of new lesions since {pair[0].name}'
        if settings.new_lesion_method != CLASSICAL['longitudinal']:
            check = ', with self-check' if settings.self_check else ''
            yield f'new lesions since {pair[0].name} ({settings.new_lesion_method}){check}'
