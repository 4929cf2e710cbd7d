"""``msapp``: the BIDS App."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msapp.cli.console import (
    complain,
    ensure_user,
    explain,
    open_missing_streams,
    report_bug,
    say,
)
from msapp.cli.outcomes import (
    exit_code,
    left_out,
    print_summary,
    warn_of_leftovers,
    write_reports,
)
from msapp.cli.parser import parse
from msapp.errors import (
    EXIT_DONE,
    InputError,
    InterruptedRunError,
    LockedError,
    MissingDependencyError,
    MsappError,
)
from msapp.files import remove_temporary

if TYPE_CHECKING:
    import logging

    from msapp.bids.query import Participant
    from msapp.engine.locks import Locks
    from msapp.engine.record import Outcome
    from msapp.resources import Limits
    from msapp.settings import Settings

# The default share of memory that steps may plan with.
MEMORY_SHARE = 0.9


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp``.

    Returns
    -------
    int
        0; 1 if some participant failed and others finished; else the exit code of the class in
        ``msapp.errors`` that says what went wrong.
    """
    open_missing_streams()
    command = list(sys.argv[1:] if argv is None else argv)
    try:
        with _terminated_like_interrupted():
            values, verbosity = parse(command)
            return run(values, verbosity, ['msapp', *command])
    except MsappError as error:
        complain(f'msapp: error: {error}\n')
        return error.exit_code
    except KeyboardInterrupt:
        complain('msapp: interrupted. Run the same command again to go on.\n')
        return 130
    except OSError as error:
        known = explain(error)
        complain(f'msapp: error: {known}\n')
        return known.exit_code
    except Exception as error:  # noqa: BLE001 (the last resort: a message, a code of our own)
        return report_bug('msapp', error)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM end a run with the same message as Ctrl-C; the engine has a way of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    ensure_user()
    from msapp.bids.checks import check_folders
    from msapp.cli.plan import check_available
    from msapp.settings import make_settings

    settings = make_settings(values)
    check_available(settings)
    check_folders(settings)
    if settings.dry_run:
        tell_plan(settings)
        return EXIT_DONE
    code = EXIT_DONE
    if 'participant' in settings.levels:
        code = run_participants(settings, verbosity, command)
    if 'group' in settings.levels and not settings.boilerplate_only:
        code = _add_group_level(settings, code)
    return code


def tell_plan(settings: Settings) -> None:
    """Print what would run."""
    from msapp.bids.dataset import check_output
    from msapp.bids.query import plan_participants
    from msapp.cli.plan import describe

    if 'participant' in settings.levels:
        say('\n'.join(describe(plan_participants(settings), settings)) + '\n')
    else:
        check_output(settings.output_dir)
    if 'group' in settings.levels:
        say(f'group: would write tables and a page from the results in {settings.output_dir}.\n')


def run_participants(settings: Settings, verbosity: int, command: Sequence[str]) -> int:
    """Process the participants and write their reports."""
    from msapp.bids.dataset import write_description
    from msapp.bids.query import plan_participants
    from msapp.engine.locks import Locks
    from msapp.logs import close_logging, setup_logging
    from msapp.models.registry import models_for, with_confirming
    from msapp.provenance import write_run_record, write_summary
    from msapp.resources import available_limits
    from msapp.workflows.reports import methods_text

    limits = available_limits()
    if settings.boilerplate_only:
        say(methods_text(settings, plan_participants(settings)) + '\n')
        return EXIT_DONE
    write_description(settings.output_dir, settings.bids_dir)
    # Runs on several nodes share the folder, so a process number would not tell them apart.
    run_name = f'{datetime.now():%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}'
    log_dir = settings.output_dir / 'logs' / run_name
    write_run_record(log_dir, settings, command, limits, with_confirming(models_for(settings)))
    logger = setup_logging(log_dir, verbosity)
    try:
        _validate_input(settings, logger)
        planned = plan_participants(settings)
        # In both folders another run may be at work on the same participants.
        with Locks([settings.output_dir, settings.work_path], len(planned)) as locks:
            ours, outcomes = _claim(planned, settings, locks, logger)
            sound = [participant for participant in ours if not participant.error]
            warnings: dict[str, list[str]] = {}
            interrupt = None
            if sound and not settings.reports_only:
                done, warnings, interrupt = _process(settings, sound, log_dir, limits)
                outcomes += done
                _remove_leftovers(settings, sound)  # of workers that were killed
            for label, sentences in warnings.items():
                logger.warning('%s: %s', label, ' '.join(sentences))
            untouched = {item.participant for item in outcomes if _was_not_begun(item)}
            pages = [item for item in ours if not (interrupt and item.label in untouched)]
            outcomes = write_reports(settings, pages, outcomes, warnings, logger)
        print_summary(outcomes, settings)
        write_summary(log_dir, sorted(outcomes, key=lambda outcome: outcome.participant))
    finally:
        close_logging(logger)
    if interrupt:
        raise interrupt
    return exit_code(outcomes)


def _was_not_begun(outcome: Outcome) -> bool:
    return outcome.status == 'not run' and not outcome.steps_run + outcome.steps_reused


def _claim(
    planned: Sequence[Participant], settings: Settings, locks: Locks, logger: logging.Logger
) -> tuple[list[Participant], list[Outcome]]:
    """Lock the participants; return those no other run has, and the outcomes known by now."""
    ours, outcomes = [], []
    for participant in planned:
        try:
            locks.take(participant.label)
        except LockedError as error:
            outcomes.append(left_out(participant.label, 'not run', error))
            continue
        ours.append(participant)
        if participant.error:
            refusal = InputError(participant.error)
            outcomes.append(left_out(participant.label, 'failed', refusal, 'input check'))
    _remove_leftovers(settings, ours)  # of earlier runs
    for outcome in outcomes:
        logger.error('Left out: %s', outcome.error)
    return ours, outcomes


def _remove_leftovers(settings: Settings, participants: Sequence[Participant]) -> None:
    """Remove the half-written files of killed processes; the participants must be locked."""
    for participant in participants:
        names = f'{participant.label}.html', f'{participant.label}/**/*'
        remove_temporary(settings.output_dir, *names)


def _validate_input(settings: Settings, logger: logging.Logger) -> None:
    """Warn of what the BIDS validator finds; images are checked one by one later."""
    from msapp.bids.dataset import validate

    if settings.skip_bids_validation:
        return
    try:
        problems = validate(settings.bids_dir)
    except MissingDependencyError as error:
        logger.info('The input was not validated: %s', error)
        return
    if problems:
        logger.warning('The BIDS validator finds errors in %s:\n%s', settings.bids_dir, problems)


def _process(
    settings: Settings, participants: Sequence[Participant], log_dir: Path, limits: Limits
) -> tuple[list[Outcome], dict[str, list[str]], InterruptedRunError | None]:
    """Build the graph of the participants and run it.

    Returns how they ended, warnings of some of them, and what broke the run off, if anything did.
    """
    from msapp.bids.query import find_given_masks
    from msapp.engine.run import run_graph
    from msapp.workflows.base import WORKFLOW_NAME, init_msapp_wf
    from msapp.workflows.nodes import remove_old_figures

    graph, names = init_msapp_wf(
        participants=participants,
        settings=settings,
        given_masks=find_given_masks(participants, settings.derivatives),
    )
    if settings.clean_workdir:
        for name in names:  # no more: other runs may be at work on other participants
            shutil.rmtree(settings.work_path / WORKFLOW_NAME / name, ignore_errors=True)
    if settings.write_graph:
        # Graphviz draws the picture; without it the graph is still written, as text.
        kind = 'svg' if shutil.which('dot') else 'dot'
        graph.write_graph(str(log_dir / 'graph.dot'), graph2use='colored', format=kind)
    warnings = {}
    for participant in participants:
        remove_old_figures(graph, settings.output_dir, participant.label)
        if found := warn_of_leftovers(graph, settings, participant.label):
            warnings[participant.label] = found
    try:
        outcomes = run_graph(
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
    except InterruptedRunError as interrupt:
        return list(interrupt.outcomes), warnings, interrupt
    return outcomes, warnings, None


def _gpu_slots(settings: Settings) -> int:
    """Return how many steps may use a GPU at once; without a network nobody looks for one."""
    from msapp.inference.device import choose_gpus
    from msapp.models.registry import models_for

    return choose_gpus(settings.device, settings.gpus) if models_for(settings) else 0


def _add_group_level(settings: Settings, code: int) -> int:
    """Run the group level; the participants' exit code, if not 0, counts before its own."""
    try:
        group_code = run_group_level(settings)
    except MsappError as error:
        if code == EXIT_DONE:
            raise
        complain(f'msapp: error: {error}\n')
        return code
    return code or group_code


def run_group_level(settings: Settings) -> int:
    """Write the group's tables and page."""
    from msapp.bids.dataset import check_output
    from msapp.engine.locks import Locks
    from msapp.workflows.group import run_group

    check_output(settings.output_dir)
    with Locks([settings.output_dir]) as locks:
        locks.take('group')
        remove_temporary(settings.output_dir, 'group*')
        result = run_group(settings)
    for problem in (*result.problems, *result.doubts):
        complain(f'msapp: warning: {problem}\n')
    limited = f' Limited to {", ".join(result.limited_to)}.' if result.limited_to else ''
    say(f'group: {result.visits} visits.{limited} Report: {result.page}\n')
    return EXIT_DONE
