"""The text of a participant's report, and the group level: both from what is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msapp.bids.nifti import open_image
from msapp.bids.query import Participant, Visit
from msapp.errors import InputError
from msapp.imaging.geometry import spacing_mm
from msapp.models.registry import models_for, with_confirming
from msapp.provenance import versions
from msapp.reports.participant import ParticipantReport, VisitSection, write_participant_report
from msapp.settings import Settings
from msapp.stats.cautions import SETTINGS, describe_settings
from msapp.workflows import changes, lesions, longitudinal, midpoint, newlesions, session

# Settings that the columns of the tables tell; the page tells them with `SETTINGS`.
METHOD_SETTINGS = ('lesion_model', 'new_lesion_method', 'brain_extraction')
CAUTION = 'Research software, not a medical device: no decision about a patient may rest on it.'


def methods_text(settings: Settings, participants: Sequence[Participant]) -> str:
    """Return the methods with their citations, as they apply to these participants."""
    visits = [visit for participant in participants for visit in participant.visits]
    references = sorted({visit.reference for visit in visits}) or ['FLAIR']
    text = session.FIT_METHODS.format(
        reference=' or '.join(references), brain=session.brain_methods(settings)
    )
    text += midpoint.METHODS
    if 'lesions' in settings.tasks:
        text += lesions.methods(settings)
    if any(len(changes.tracked_visits(item.visits, settings)) > 1 for item in participants):
        text += changes.methods(settings)
    if any(longitudinal.compared_visits(item.visits, settings) for item in participants):
        text += longitudinal.METHODS + newlesions.methods(settings)
    return ' '.join((text + CAUTION).split())


def write_report(
    participant: Participant,
    settings: Settings,
    *,
    not_done: Callable[[Sequence[Visit], int, Settings], Iterator[str]],
    errors: Sequence[str] = (),
    warnings: Sequence[str] = (),
    made_with: Mapping[str, str | None] | None = None,
) -> Path:
    """Write one participant's page from the figures and tables that are on disk.

    Parameters
    ----------
    participant : Participant
    settings : Settings
    not_done : callable
        Gives sentences about what is not done for the visit of a number.
    errors, warnings : sequence of str
        Of the run.
    made_with : mapping, optional
        `msapp.provenance.versions` of the run that made the files; by default those of now.

    Returns
    -------
    Path
    """
    sections = []
    for number, visit in enumerate(participant.visits):
        reasons = (*visit.left_out, *not_done(participant.visits, number, settings))
        found = tuple(_found(name, path) for name, path in visit.images.items())
        sections.append(VisitSection(visit.session, visit.acq_time, found, reasons))
    given = [error for error in (participant.error, *errors) if error]
    report = ParticipantReport(
        participant=participant.label,
        visits=tuple(sections),
        errors=tuple(given),
        warnings=(*participant.left_out, *warnings, *_warnings(participant, settings)),
        change_cautions=changes.cautions(settings),
        followed=changes.follows_lesions(settings),
        methods=methods_text(settings, [participant]),
        versions={name: text for name, text in (made_with or versions()).items() if text},
        settings=describe_settings(dict(settings), (*METHOD_SETTINGS, *SETTINGS)),
    )
    return write_participant_report(settings.output_dir, report)


def _warnings(participant: Participant, settings: Settings) -> Iterator[str]:
    """Give what a reader must know before reading any number."""
    if settings.sloppy:
        yield 'Made with --sloppy: the numbers are not results.'
    models = models_for(settings)
    compared = longitudinal.compared_visits(participant.visits, settings)
    done = ['lesions', *(['longitudinal'] if compared else [])]
    trained = with_confirming({task: models[task] for task in done if task in models})
    for name, spec in {spec.name: spec for spec in trained.values()}.items():
        if spec.training.synthetic_only:
            yield f"The network '{name}' was trained on synthetic images alone."
    if 'lesions' in settings.tasks and 'lesions' not in models:
        yield (
            'Lesions come from the classical baseline, which misses faint lesions and outlines '
            'bright normal tissue: check every outline.'
        )


def _found(contrast: str, path: Path) -> dict[str, str]:
    """Describe one image for the report, also one that is gone since it was processed."""
    size, note = '', ''
    try:
        size = ' x '.join(f'{step:.2f}' for step in spacing_mm(open_image(path)))
    except InputError as error:
        note = f'Voxel size not known: {error}'
    return {'contrast': contrast, 'file': path.name, 'voxel_size_mm': size, 'note': note}
