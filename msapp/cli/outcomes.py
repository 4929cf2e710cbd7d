"""How participants ended: their pages, the lines about them and the exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from msapp.cli.console import say
from msapp.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    MissingDependencyError,
    MsappError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    import logging

    from nipype.pipeline.engine import Workflow

    from msapp.bids.query import Participant
    from msapp.engine.record import Outcome, Status
    from msapp.settings import Settings


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


def as_made(
    settings: Settings, participant: Participant, logger: logging.Logger
) -> tuple[Settings, Participant, list[str]]:
    """Return what a participant's files were made with and from, and what failed then.

    It is what a report must tell that is written from these files alone.
    """
    from msapp.bids.query import plan_participants
    from msapp.models.registry import models_for, with_confirming
    from msapp.provenance import check_models, find_run
    from msapp.settings import load_toml, make_settings

    run = find_run(settings.output_dir, participant.label)
    errors = [run.error or 'see the log'] if run and run.status != 'done' else []
    try:
        if run is None:
            raise UsageError(f'{settings.output_dir / "logs"}: no run that made its files.')
        values = load_toml(run.folder / 'settings.toml')
        folders = ('bids_dir', 'output_dir', 'work_dir', 'derivatives')
        values |= {name: getattr(settings, name) for name in folders}
        values['participant_label'] = [participant.label]
        recorded = make_settings(values)
        check_models(run.folder, with_confirming(models_for(recorded)))
        planned = next(iter(plan_participants(recorded)), participant)
    except (UsageError, MissingDependencyError) as error:
        logger.warning(
            '%s: its report tells the methods of this command, which may not be those that made '
            'its files. %s',
            participant.label,
            error,
        )
        return settings, participant, errors
    return recorded, planned, errors


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


def _recall(
    settings: Settings, participant: Participant, logger: logging.Logger
) -> tuple[Settings, Participant, list[str], list[str]]:
    """Return settings, participant, errors and warnings of the run that made the files."""
    from msapp.workflows.base import init_msapp_wf

    made_with, planned, errors = as_made(settings, participant, logger)
    if planned.error:
        return made_with, planned, errors, []
    graph, _ = init_msapp_wf(participants=[planned], settings=made_with)
    return made_with, planned, errors, warn_of_leftovers(graph, made_with, planned.label)


def write_reports(
    settings: Settings,
    participants: Sequence[Participant],
    outcomes: Sequence[Outcome],
    warnings: Mapping[str, Sequence[str]],
    logger: logging.Logger,
) -> list[Outcome]:
    """Write a page for every participant, also for those that failed; return how all ended."""
    from msapp.cli.plan import not_done
    from msapp.workflows.reports import write_report

    known = {item.participant: item for item in outcomes}
    for participant in participants:
        made_with, planned, errors = settings, participant, []
        found = list(warnings.get(participant.label, ()))
        outcome = known.get(participant.label)
        if outcome and outcome.status != 'done' and outcome.failed_step != 'input check':
            errors = [_explain(outcome)]
        try:
            if settings.reports_only:
                made_with, planned, errors, found = _recall(settings, participant, logger)
            page = write_report(
                planned, made_with, not_done=not_done, errors=errors, warnings=found
            )
            logger.info('%s: report %s', participant.label, page)
        except StorageError as error:
            logger.error('%s: no report. %s', participant.label, error)
            if outcome is None or outcome.status == 'done':
                failed = left_out(participant.label, 'failed', error, 'report')
                known[participant.label] = (
                    failed
                    if outcome is None
                    else replace(
                        outcome,
                        status='failed',
                        error=failed.error,
                        failed_step='report',
                        exit_code=failed.exit_code,
                    )
                )
    return list(known.values())


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
