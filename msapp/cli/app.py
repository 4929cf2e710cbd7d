"""``msapp``: the BIDS App."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msapp.cli.parser import parse
from msapp.errors import EXIT_DONE, EXIT_SOME_FAILED, InternalError, MsappError

if TYPE_CHECKING:
    import logging

    from msapp.bids.query import Participant
    from msapp.engine.record import Outcome
    from msapp.resources import Limits
    from msapp.settings import Settings

# The default share of memory that steps may plan with.
MEMORY_SHARE = 0.9
BUG = 'This is a bug in msapp; please report it.'


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp``.

    Returns
    -------
    int
        0; 1 if some participant failed and others finished; else the exit code of the class in
        ``msapp.errors`` that says what went wrong.
    """
    command = list(sys.argv[1:] if argv is None else argv)
    try:
        values, verbosity = parse(command)
        return run(values, verbosity, ['msapp', *command])
    except MsappError as error:
        sys.stderr.write(f'msapp: error: {error}\n')
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write('msapp: interrupted. Run the same command again to go on.\n')
        return 130
    except OSError as error:
        sys.stderr.write(f'msapp: error: {error.filename or "a file"}: {error.strerror}.\n')
        return InternalError.exit_code
    except Exception as error:  # noqa: BLE001 (the last resort: a message, a code of our own)
        trace = Path(tempfile.mkstemp(prefix='msapp-', suffix='.txt')[1])
        trace.write_text(traceback.format_exc(), encoding='utf-8')
        name = type(error).__name__
        sys.stderr.write(f'msapp: internal error: {name}: {error}. {BUG} Traceback: {trace}\n')
        return InternalError.exit_code


def run(values: dict[str, object], verbosity: int, command: Sequence[str]) -> int:
    """Do what the settings ask for.

    Parameters
    ----------
    values : dict
        For `msapp.settings.make_settings`.
    verbosity : int
    command : sequence of str
        The command line, for the record.
    """
    # nipype asks the network for a newer version of itself unless told not to.
    os.environ.update(NO_ET='1', NIPYPE_NO_ET='1')
    from msapp.bids.checks import check_folders
    from msapp.cli.plan import check_available, describe
    from msapp.settings import make_settings

    settings = make_settings(values)
    check_available(settings)
    check_folders(settings)
    if settings.dry_run:
        from msapp.bids.query import plan_participants

        sys.stdout.write('\n'.join(describe(plan_participants(settings), settings)) + '\n')
        return EXIT_DONE
    code = EXIT_DONE
    if 'participant' in settings.levels:
        code = run_participants(settings, verbosity, command)
    if 'group' in settings.levels:
        code = _add_group_level(settings, code)
    return code


def run_participants(settings: Settings, verbosity: int, command: Sequence[str]) -> int:
    """Process the participants and write their reports."""
    from msapp.bids.dataset import write_description
    from msapp.bids.query import plan_participants
    from msapp.logs import close_logging, setup_logging
    from msapp.models.registry import models_for
    from msapp.provenance import write_run_record, write_summary
    from msapp.resources import available_limits
    from msapp.workflows.reports import methods_text

    limits = available_limits()
    if settings.boilerplate_only:
        sys.stdout.write(methods_text(settings, plan_participants(settings)) + '\n')
        return EXIT_DONE
    write_description(settings.output_dir, settings.bids_dir)
    # Runs on several nodes share the folder, so a process number would not tell them apart.
    run_name = f'{datetime.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}'
    log_dir = settings.output_dir / 'logs' / run_name
    write_run_record(log_dir, settings, command, limits, models_for(settings))
    logger = setup_logging(log_dir, verbosity)
    try:
        _validate_input(settings, logger)
        planned = plan_participants(settings)
        for participant in planned:
            if participant.error:
                logger.error('%s: left out. %s', participant.label, participant.error)
        sound = [participant for participant in planned if not participant.error]
        outcomes = []
        if sound and not settings.reports_only:
            outcomes = _process(settings, sound, log_dir, limits)
        outcomes += [_refused(participant) for participant in planned if participant.error]
        _write_reports(settings, planned, outcomes, logger)
        write_summary(log_dir, sorted(outcomes, key=lambda outcome: outcome.participant))
    finally:
        close_logging(logger)
    _print_summary(outcomes, settings)
    return exit_code(outcomes)


def _validate_input(settings: Settings, logger: logging.Logger) -> None:
    """Warn of what the BIDS validator finds; images are checked one by one later."""
    from msapp.bids.dataset import validate

    if settings.skip_bids_validation:
        return
    problems = validate(settings.bids_dir)
    if problems:
        logger.warning('The BIDS validator finds errors in %s:\n%s', settings.bids_dir, problems)


def _process(
    settings: Settings, participants: Sequence[Participant], log_dir: Path, limits: Limits
) -> list[Outcome]:
    """Build the graph of the participants and run it."""
    from msapp.bids.query import find_given_masks
    from msapp.engine.run import run_graph
    from msapp.workflows.base import WORKFLOW_NAME, init_msapp_wf

    if settings.clean_workdir:
        shutil.rmtree(settings.work_path / WORKFLOW_NAME, ignore_errors=True)
    graph, names = init_msapp_wf(
        participants=participants,
        settings=settings,
        given_masks=find_given_masks(participants, settings.derivatives),
    )
    if settings.write_graph:
        # Graphviz draws the picture; without it the graph is still written, as text.
        kind = 'svg' if shutil.which('dot') else 'dot'
        graph.write_graph(str(log_dir / 'graph.dot'), graph2use='colored', format=kind)
    return run_graph(
        graph,
        participants=names,
        nprocs=1 if settings.low_mem else settings.nprocs or limits.n_cpus,
        memory_gb=settings.mem_gb or limits.memory_gb * MEMORY_SHARE,
        omp_nthreads=settings.omp_nthreads or 1,
        n_gpu_procs=_gpu_slots(settings),
        log_dir=log_dir,
        stop_on_first_crash=settings.stop_on_first_crash,
        use_plugin=settings.use_plugin,
        resource_monitor=settings.resource_monitor,
    )


def _gpu_slots(settings: Settings) -> int:
    """Return how many steps may use a GPU at once; without a network nobody looks for one."""
    from msapp.inference.device import choose_gpus
    from msapp.models.registry import models_for

    return choose_gpus(settings.device, settings.gpus) if models_for(settings) else 0


def _refused(participant: Participant) -> Outcome:
    """Return the outcome of a participant whose input cannot be used."""
    from msapp.engine.record import Outcome
    from msapp.errors import InputError

    return Outcome(
        participant=participant.label,
        status='failed',
        steps_total=0,
        steps_run=0,
        steps_reused=0,
        error=participant.error,
        failed_step='input check',
        crash_file=None,
        wall_s=0.0,
        exit_code=InputError.exit_code,
    )


def _write_reports(
    settings: Settings,
    participants: Sequence[Participant],
    outcomes: Sequence[Outcome],
    logger: logging.Logger,
) -> None:
    """Write a page for every participant, also for those that failed."""
    from msapp.cli.plan import not_done
    from msapp.workflows.reports import write_report

    failed = {item.participant: item for item in outcomes if item.failed_step != 'input check'}
    for participant in participants:
        outcome = failed.get(participant.label)
        errors = []
        if outcome is not None and outcome.status != 'done':
            errors = [_explain(outcome)]
        page = write_report(participant, settings, not_done=not_done, errors=errors)
        logger.info('%s: report %s', participant.label, page)


def _print_summary(outcomes: Sequence[Outcome], settings: Settings) -> None:
    """Print one line a participant."""
    for item in sorted(outcomes, key=lambda outcome: outcome.participant):
        if item.status == 'done':
            line = f'done, {item.steps_run} steps run, {item.steps_reused} reused, '
            line += f'{item.wall_s:.0f} s. Report: {settings.output_dir / item.participant}.html'
        else:
            line = f'{item.status}. {_explain(item)}'
        sys.stdout.write(f'{item.participant}: {line}\n')


def _explain(outcome: Outcome) -> str:
    """Return why a participant was not done, with the step where the message lacks it."""
    error, step = outcome.error or 'see the log', outcome.failed_step
    return error if step is None or step in error else f'{step}: {error}'


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return the exit code of a run: 1 once anyone finished or reasons differ.

    Where nobody finished and all failed for one reason, that reason's code is returned.
    """
    codes = {outcome.exit_code for outcome in outcomes}
    if not codes or codes == {EXIT_DONE}:
        return EXIT_DONE
    return codes.pop() if len(codes) == 1 else EXIT_SOME_FAILED


def _add_group_level(settings: Settings, code: int) -> int:
    """Run the group level; the participants' exit code, if not 0, counts before its own."""
    try:
        group_code = run_group_level(settings)
    except MsappError as error:
        if code == EXIT_DONE:
            raise
        sys.stderr.write(f'msapp: error: {error}\n')
        return code
    return code or group_code


def run_group_level(settings: Settings) -> int:
    """Write the group's tables and page."""
    from msapp.workflows.group import run_group

    result = run_group(settings)
    for problem in result.problems:
        sys.stderr.write(f'msapp: warning: {problem}\n')
    sys.stdout.write(f'group: {result.visits} visits. Report: {result.page}\n')
    return EXIT_DONE
