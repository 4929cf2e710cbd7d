"""What a run would do, in words: for ``--dry-run`` and for the reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

from msapp.bids.query import Participant, Visit, not_in_run
from msapp.errors import MissingDependencyError, UsageError
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
        If ``--device`` and ``--gpus`` contradict each other, ``--use-plugin`` is of no use, or
        ``--boilerplate-only`` has nothing to print.
    """
    from msapp.imaging.bet import require_fsl
    from msapp.inference.device import choose_gpus
    from msapp.models.registry import check_weights, models_for, with_confirming

    if 'participant' not in settings.levels:
        if settings.boilerplate_only:
            raise UsageError(
                '--boilerplate-only: prints the methods of the participant level. Give that level, '
                'or leave the flag out.'
            )
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
    if settings.use_plugin:
        from msapp.engine.run import check_plugin

        check_plugin(settings.use_plugin, settings.work_path)


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
    if 'lesions' not in settings.tasks:
        raise MissingDependencyError(
            '--mc-samples is for the network for lesions, which are not among --tasks. Add them, '
            'or leave it out.'
        )
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


def not_done(visits: Sequence[Visit], number: int, settings: Settings) -> Iterator[str]:
    """Say what is not done for the visit of a number, from 0, and why."""
    from msapp.workflows.lesions import lacking_contrasts, taken_contrasts

    visit, wanted = visits[number], 'lesions' in settings.tasks
    needed = lacking_contrasts(visit, settings) if wanted else ()
    if needed:
        yield f'Lesions are not measured: there is no {" and no ".join(needed)}.'
    elif wanted and 'FLAIR' not in visit.images:
        yield 'FLAIR: not found. Lesions are measured on T1w alone, which shows far fewer of them.'
    elif not wanted and not number and 'FLAIR' not in visit.images:
        yield 'FLAIR: not found; new lesions are not sought.'
    elif 'longitudinal' in settings.tasks and not visits[1:]:
        yield 'No other visit to compare with; new lesions are not sought.'
    taken = taken_contrasts(settings) if wanted else ()
    for name in ('T1w', 'T2w'):
        if name in (*visit.images, *needed):
            continue
        without = (
            'lesions are found without it' if name in taken else 'nothing that is measured uses it'
        )
        yield f'{name}: not found; {without}.'
    if wanted:
        yield from _not_used(visits, number, settings)
    if number and 'longitudinal' in settings.tasks:
        yield from _not_compared(visits, number, settings)


def _not_used(visits: Sequence[Visit], number: int, settings: Settings) -> Iterator[str]:
    """Say which contrasts of a visit its lesions are not found from, since another has none."""
    from msapp.workflows.lesions import taken_contrasts, used_contrasts

    used, visit = used_contrasts(visits, settings), visits[number]
    for name in taken_contrasts(settings):
        if number not in used or name not in visit.images or name in used[number]:
            continue
        without = [visits[other] for other in used if name not in visits[other].images]
        yield (
            f'{name} of {visit.name} is not used for lesions, since {_names(without)} '
            f'{"have" if without[1:] else "has"} none: lesions of all visits with FLAIR are found '
            'from the same contrasts, so that they can be compared.'
        )


def _not_compared(visits: Sequence[Visit], number: int, settings: Settings) -> Iterator[str]:
    """Say with which visits before a visit is not compared: both need FLAIR."""
    from msapp.workflows.longitudinal import compared_visits

    since = compared_visits(visits, settings).get(number)
    if 'FLAIR' not in visits[number].images:
        yield f'Not compared with a visit before: no FLAIR in {visits[number].name}.'
    elif since is None:
        yield f'Not compared with a visit before: no FLAIR in {_names(visits[:number])}.'
    elif skipped := visits[since + 1 : number]:
        yield f'Compared with {visits[since].name}, not with {_names(skipped)}: no FLAIR there.'


def _names(visits: Sequence[Visit]) -> str:
    return ', '.join(visit.name for visit in visits)


def describe(participants: Sequence[Participant], settings: Settings) -> Iterator[str]:
    """Give the lines of ``--dry-run``, participant by participant."""
    from msapp.workflows.changes import tracked_visits
    from msapp.workflows.longitudinal import compared_visits

    for participant in participants:
        if participant.error:
            yield f'{participant.label}: left out. {participant.error}'
            continue
        yield f'{participant.label}: {len(participant.visits)} visit(s)'
        yield from (f'  left out: {reason}' for reason in participant.left_out)
        visits = participant.visits
        pairs, tracked = compared_visits(visits, settings), tracked_visits(visits, settings)
        since = {now: visits[before].name for before, now in pairwise(tracked)}
        for number, visit in enumerate(visits):
            yield f'  {visit.name}' + (f', {visit.acq_time}' if visit.acq_time else '')
            yield from (f'    {name}: {path.name}' for name, path in visit.images.items())
            before = visits[pairs[number]] if number in pairs else None
            steps = [*_steps(visit, before, settings)]
            if number in since:
                steps.append(f'changes of lesions since {since[number]}')
            yield f'    would run: {"; ".join(steps)}'
            reasons = [*visit.left_out, *not_done(visits, number, settings)]
            yield from (f'    left out: {reason}' for reason in reasons)
    yield from not_in_run(settings).values()


def _steps(visit: Visit, before: Visit | None, settings: Settings) -> Iterator[str]:
    """Name the steps of a visit, which is compared with one before or with none."""
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
    if before is not None:
        yield f'candidates of new lesions since {before.name}'
        if settings.new_lesion_method != CLASSICAL['longitudinal']:
            check = ', with self-check' if settings.self_check else ''
            yield f'new lesions since {before.name} ({settings.new_lesion_method}){check}'
