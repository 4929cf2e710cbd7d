"""What a run would do, in words: for ``--dry-run`` and for the reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msapp.bids.query import Participant, Visit
from msapp.errors import MissingDependencyError
from msapp.settings import Settings

# Tasks whose networks later versions bring; see models/.
WITHOUT_MODEL = ('enhancement', 'cord', 'filling')


def check_available(settings: Settings) -> None:
    """Refuse, before any work, what needs a model or a program that is not there.

    Raises
    ------
    MissingDependencyError
        Naming the flag, what is missing and what to use instead.
    """
    from msapp.imaging.brain import require_fsl

    wanted = [task for task in settings.tasks if task in WITHOUT_MODEL]
    if wanted:
        raise MissingDependencyError(
            f'--tasks {" ".join(wanted)}: this version ships no model for it. Available: lesions, '
            'longitudinal.'
        )
    if settings.lesion_model != 'threshold':
        raise MissingDependencyError(
            f'--lesion-model {settings.lesion_model}: no such model is installed. '
            'Available: threshold.'
        )
    if settings.brain_extraction == 'network':
        raise MissingDependencyError(
            '--brain-extraction network: this version ships no network for it. Use template.'
        )
    if settings.brain_extraction == 'bet':
        require_fsl()
    if settings.mc_samples or settings.explain:
        raise MissingDependencyError(
            '--mc-samples and --explain need a network; the classical model in this version has '
            'no uncertainty and no relevance to show.'
        )
    if settings.device == 'cuda' or settings.gpus:
        raise MissingDependencyError(
            '--device cuda and --gpus: this version has no step that uses a GPU. Leave them out.'
        )


def not_done(visit: Visit, previous: Visit | None, settings: Settings) -> Iterator[str]:
    """Say what is not done for a visit, and why."""
    if 'FLAIR' not in visit.images:
        yield 'Lesions are not measured: there is no FLAIR.'
    absent = [name for name in ('T1w', 'T2w') if name not in visit.images]
    if absent:
        yield f'{" and ".join(absent)}: not found; nothing in this version needs it.'
    if previous is None or 'longitudinal' not in settings.tasks:
        return
    if visit.session is not None:
        lacking = [item.name for item in (previous, visit) if 'FLAIR' not in item.images]
        if lacking:
            yield f'Not compared with {previous.name}: no FLAIR in {", ".join(lacking)}.'


def describe(participants: Sequence[Participant], settings: Settings) -> Iterator[str]:
    """Give the lines of ``--dry-run``, participant by participant."""
    for participant in participants:
        if participant.error:
            yield f'{participant.label}: left out. {participant.error}'
            continue
        yield f'{participant.label}: {len(participant.visits)} visit(s)'
        yield from (f'  left out: {reason}' for reason in participant.left_out)
        previous = None
        for visit in participant.visits:
            yield f'  {visit.name}' + (f', {visit.acq_time}' if visit.acq_time else '')
            yield from (f'    {name}: {path.name}' for name, path in visit.images.items())
            yield f'    would run: {"; ".join(_steps(visit, previous, settings))}'
            reasons = [*visit.left_out, *not_done(visit, previous, settings)]
            yield from (f'    left out: {reason}' for reason in reasons)
            previous = visit


def _steps(visit: Visit, previous: Visit | None, settings: Settings) -> Iterator[str]:
    """Name the steps of a visit."""
    yield 'bias correction'
    yield f'brain extraction ({settings.brain_extraction})'
    others = [name for name in visit.images if name != visit.reference]
    if others:
        yield f'registration of {", ".join(others)} to {visit.reference}'
    yield 'midpoint space'
    if 'lesions' in settings.tasks and 'FLAIR' in visit.images:
        yield f'lesions ({settings.lesion_model})'
    pair = [previous, visit] if previous is not None else []
    if 'longitudinal' in settings.tasks and pair and all('FLAIR' in item.images for item in pair):
        yield f'candidates of new lesions since {pair[0].name}'
