"""How participants ended: their pages, the lines about them and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from msapp.cli.console import explain, say
from msapp.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    InternalError,
    MissingDependencyError,
    MsappError,
    UsageError,
)

if TYPE_CHECKING:
    import logging
    from pathlib import Path

    from nipype.pipeline.engine import Workflow

    from msapp.bids.query import Participant
    from msapp.engine.record import Outcome, Status
    from msapp.settings import Settings


class Made(NamedTuple):
    """What a participant's files were made with and from, and what to tell of it.

    ``versions`` are `msapp.provenance.versions` of that run; None where it is not known.
    """

    settings: Settings
    participant: Participant
    versions: dict[str, str | None] | None
    errors: list[str]
    warnings: list[str]


def left_out(label: str, status: Status, error: MsappError, step: str | None = None) -> Outcome:
    """Return the outcome of a participant for whom nothing was run."""
    from msapp.engine.record import Outcome

    return Outcome(
        participant=label,
        status=status,
        steps_total=0,
        steps_run=0,
        steps_reused=0,
        error=str(error),
        failed_step=step,
        crash_file=None,
        wall_s=0.0,
        exit_code=error.exit_code,
    )


def as_made(settings: Settings, participant: Participant, logger: logging.Logger) -> Made:
    """Return what a report must tell that is written from a participant's files alone."""
    from msapp.bids.query import plan_participants
    from msapp.provenance import read_versions
    from msapp.runs import find_runs
    from msapp.settings import load_toml, make_settings

    run, before = find_runs(settings.output_dir, participant.label)
    errors = [run.error or 'see the log'] if run and not run.whole else []
    try:
        if run is None:
            raise UsageError(f'{settings.output_dir / "logs"}: no run that made its files.')
        values = load_toml(run.folder / 'settings.toml')
        folders = ['bids_dir', 'output_dir', 'work_dir']
        folders += ['derivatives'] if settings.derivatives else []
        values |= {name: getattr(settings, name) for name in folders}
        values['participant_label'] = [participant.label]
        recorded = make_settings(values)
        used = read_versions(run.folder)
        others = [*_other_code(used), *_other_models(run.folder, recorded)]
        if before and not run.whole:
            others.append(
                f'The last run ({run.folder.name}) did not end well: what it did not write is of '
                f'{before.folder.name}, or earlier. The page tells settings and versions of the '
                'last one; run again for results of one run.'
            )
        planned = next(iter(plan_participants(recorded)), participant)
    except (UsageError, MissingDependencyError) as error:
        told = (
            'The report tells methods and versions of this command, which may not be those that '
            f'made the files. {error}'
        )
        logger.warning('%s: %s', participant.label, told)
        return Made(settings, participant, None, errors, [told])
    return Made(recorded, planned, used, errors, others)


def _other_code(used: Mapping[str, str | None]) -> list[str]:
    """Say in one sentence if msapp is not what it was when a participant's files were made."""
    from msapp.provenance import versions

    found = versions()
    then, now = (' '.join(filter(None, map(item.get, ('msapp', 'code')))) for item in (used, found))
    if then == now:
        return []
    return [
        f'The files were made by other code (msapp {then}) than this page (msapp {now}): what it '
        'says of methods and limits may not be what was done.'
    ]


def _other_models(log_dir: Path, settings: Settings) -> list[str]:
    """Say in one sentence if models are not what they were when a participant's files were made."""
    from msapp.models.registry import models_for, with_confirming
    from msapp.provenance import check_models

    try:
        check_models(log_dir, with_confirming(models_for(settings)))
    except UsageError as error:
        return [
            'What the page says of networks is of those that are installed now, which may not '
            f'have made the files. {error}'
        ]
    return []


def warn_of_leftovers(graph: Workflow, settings: Settings, participant: str) -> list[str]:
    """Name the results of a participant that are of earlier runs, in one sentence if any."""
    from msapp.workflows.nodes import leftovers

    files = leftovers(graph, settings.output_dir, participant)
    if not files:
        return []
    others = f' and {len(files) - 1} more' if len(files) > 1 else ''
    return [
        f'{files[0]}{others} are of an earlier run with other settings or visits and were not '
        'made anew. Remove them, or do not mix them with those of this run.'
    ]


def _recall(settings: Settings, participant: Participant, logger: logging.Logger) -> Made:
    """Return `as_made`, with a warning of results that are of earlier runs."""
    from msapp.workflows.base import init_msapp_wf

    made = as_made(settings, participant, logger)
    planned = made.participant
    if planned.error:
        return made
    graph, _ = init_msapp_wf(participants=[planned], settings=made.settings)
    leftovers = warn_of_leftovers(graph, made.settings, planned.label)
    return made._replace(warnings=made.warnings + leftovers)


def write_reports(
    settings: Settings,
    participants: Sequence[Participant],
    outcomes: Sequence[Outcome],
    warnings: Mapping[str, Sequence[str]],
    logger: logging.Logger,
) -> list[Outcome]:
    """Write a page for every participant, also for those that failed; return how all ended.

    A folder with a name that no participant has gets none: it would stay once it is renamed.
    """
    from msapp.bids.checks import LABEL

    known = {item.participant: item for item in outcomes}
    for participant in participants:
        label = participant.label
        if not (label.startswith('sub-') and LABEL.fullmatch(label.removeprefix('sub-'))):
            continue
        try:
            found = warnings.get(label, ())
            page = _write_page(settings, participant, known.get(label), found, logger)
            logger.info('%s: report %s', label, page)
        except Exception as error:  # one page must not cost the record of the whole run
            failure = _as_known(error)
            logger.error('%s: no report. %s', label, failure)
            logger.debug('%s: no report', label, exc_info=True)
            known[label] = _without_page(label, known.get(label), failure)
    return list(known.values())


def _write_page(
    settings: Settings,
    participant: Participant,
    outcome: Outcome | None,
    warnings: Sequence[str],
    logger: logging.Logger,
) -> Path:
    """Write the page of one participant."""
    from msapp.cli.plan import not_done
    from msapp.workflows.reports import write_report

    errors = []
    if outcome and outcome.status != 'done' and outcome.failed_step != 'input check':
        errors = [_explain(outcome)]
    made = Made(settings, participant, None, errors, [*warnings])
    if settings.reports_only:
        made = _recall(settings, participant, logger)
    return write_report(
        made.participant,
        made.settings,
        not_done=not_done,
        errors=made.errors,
        warnings=made.warnings,
        made_with=made.versions,
    )


def _as_known(error: Exception) -> MsappError:
    """Return an error with a message and an exit code of msapp."""
    if isinstance(error, MsappError):
        return error
    if isinstance(error, OSError):
        return explain(error)
    return InternalError(f'{type(error).__name__}: {error}')


def _without_page(label: str, outcome: Outcome | None, error: MsappError) -> Outcome:
    """Return the outcome of a participant whose page could not be written."""
    from msapp.provenance import PAGE_STEP

    failed = left_out(label, 'failed', error, PAGE_STEP)
    if outcome is None:
        return failed
    if outcome.status != 'done':
        return outcome
    return replace(
        outcome,
        status='failed',
        error=failed.error,
        failed_step=PAGE_STEP,
        exit_code=failed.exit_code,
    )


def print_summary(outcomes: Sequence[Outcome], settings: Settings) -> None:
    """Print one line a participant."""
    for item in sorted(outcomes, key=lambda outcome: outcome.participant):
        if item.status == 'done':
            line = f'done, {item.steps_run} steps run, {item.steps_reused} reused, '
            line += f'{item.wall_s:.0f} s. Report: {settings.output_dir / item.participant}.html'
        else:
            line = f'{item.status}. {_explain(item)}'
        say(f'{item.participant}: {line}\n')


def _explain(outcome: Outcome) -> str:
    """Return why a participant was not done, with the step where the message lacks it."""
    error, step = outcome.error or 'see the log', outcome.failed_step
    error = error.removeprefix(outcome.participant).lstrip(': ')
    return error if step is None or step in error else f'{step}: {error}'


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of a run: 1 once anyone finished or reasons differ.

    Where nobody finished and all failed for one reason, that reason's code is returned.
    """
    codes = {outcome.exit_code for outcome in outcomes}
    if not codes or codes == {EXIT_DONE}:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_SOME_FAILED
