"""``msapp-slurm``: run msapp on a SLURM cluster, one array task a participant."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msapp import __version__
from msapp.cli.console import explain
from msapp.cli.parser import positive
from msapp.cli.slurm_status import (
    COMMAND,
    DONE,
    FAILED,
    JOBS,
    LABELS,
    MISSING,
    PROGRAM,
    QUEUED,
    choose_labels,
    describe,
    drop_others,
    find_group,
    find_states,
    newest_command,
    read_settings,
    split_options,
    wait,
)
from msapp.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    MissingDependencyError,
    MsappError,
    UsageError,
)
from msapp.files import write_atomic

if TYPE_CHECKING:
    from msapp.settings import Settings

# A link to scripts/slurm, whose files are also for use by hand.
TEMPLATES = Path(__file__).parent / 'sbatch'
MARK = '# Values of msapp-slurm.\n'
SCRIPTS = ('participant.sbatch', 'group.sbatch')
# Slurm's own default, where `scontrol` does not say.
MAX_ARRAY_SIZE = 1001
# What a task sets by itself, or what would make a task do nothing.
OWN_OPTIONS = ('participant_label', 'work_dir', 'dry_run', 'boilerplate_only')
# The group level runs no network, and would wait for a GPU.
GPU_OPTION = re.compile(r'--(gres|gpu|(cpus|mem|ntasks)-per-gpu|tres)|-G')


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``msapp-slurm``, without what follows ``--``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=f'{PROGRAM} BIDS_DIR OUTPUT_DIR [options] [-- options of msapp]',
        description='Submit a BIDS dataset to SLURM: an array with one task a participant, then '
        'the group level. A second call submits only who is not done. Options of msapp come last, '
        f'after "--", as in: {PROGRAM} /bids /out --mem 32G -- --tasks lesions --session-label 1. '
        'msapp takes memory and CPUs from SLURM, and does not run the BIDS validator.',
        epilog='Exit codes: 0 submitted, or with --wait and --status all done; 1 some participant '
        'or the group level is not done (65 and the like where all failed for one reason); 2 wrong '
        'usage, or SLURM refused the job; 69 sbatch is not installed.',
    )
    parser.add_argument('bids_dir', type=Path, help='root of a BIDS dataset')
    parser.add_argument('output_dir', type=Path, help='where derivatives are written')
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    what = parser.add_argument_group('what to do')
    what.add_argument(
        '--participant-label',
        '--participant_label',
        nargs='+',
        metavar='LABEL',
        help='participants, with or without "sub-"; default: all',
    )
    what.add_argument('--all', action='store_true', help='submit also those that are done')
    what.add_argument('--dry-run', action='store_true', help='print the scripts, submit nothing')
    what.add_argument(
        '--status', action='store_true', help='say who is done, failed or missing, and submit none'
    )
    what.add_argument('--wait', action='store_true', help='wait for the end, then say the same')
    _add_job_options(parser.add_argument_group('the jobs'))
    return parser


def _add_job_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--image', type=Path, metavar='SIF', help='run by Apptainer; default: msapp from PATH'
    )
    group.add_argument('--partition', metavar='NAME')
    group.add_argument('--account', metavar='NAME')
    group.add_argument('--time', metavar='TIME', help='of one participant; default: 06:00:00')
    group.add_argument('--mem', metavar='SIZE', help='of one participant; default: 16G')
    group.add_argument(
        '--cpus', type=positive, metavar='N', help='CPUs of one participant; default: 4'
    )
    group.add_argument(
        '--max-tasks', type=positive, metavar='N', help='participants at once; default: no limit'
    )
    group.add_argument(
        '--sbatch-option',
        action='append',
        default=[],
        metavar='=--OPTION=VALUE',
        help='more for sbatch, as in --sbatch-option=--qos=long; may be repeated; the group '
        "level's job gets it too, unless it asks for GPUs (--gres, --gpus and the like)",
    )
    group.add_argument(
        '-w',
        '--work-dir',
        type=Path,
        metavar='DIR',
        help='root of the work folders, one a participant; all nodes must see it, so that a '
        'task goes on where it stopped; default: OUTPUT_DIR/work',
    )
    group.add_argument(
        '--scratch',
        metavar='VARIABLE',
        help='work in the folder of the node that this variable names there, such as TMPDIR; a '
        'task that is queued again then starts anew',
    )
    group.add_argument(
        '--remove-work', action='store_true', help='remove the work folder of who is done'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp-slurm``.

    Returns
    -------
    int
        0; 1 if someone is not done after ``--wait`` or by ``--status``; else the exit code of
        the class in ``msapp.errors`` that says what went wrong.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    own, options = split_options(given)
    args = build_parser().parse_args(own, argparse.Namespace(options=options))
    try:
        return run(args)
    except MsappError as error:
        sys.stderr.write(f'{PROGRAM}: error: {error}\n')
        return error.exit_code
    except OSError as error:
        known = explain(error)
        sys.stderr.write(f'{PROGRAM}: error: {known}\n')
        return known.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(f'{PROGRAM}: interrupted. What was submitted goes on; see --status.\n')
        return 130


def run(args: argparse.Namespace) -> int:
    """Submit who is not done, or say who is."""
    for name in ('bids_dir', 'output_dir', 'image', 'work_dir'):
        if getattr(args, name) is not None:
            setattr(args, name, getattr(args, name).absolute())
    labels = choose_labels(args.bids_dir, args.participant_label)
    if args.status:
        _, options = split_options(newest_command(args.bids_dir, args.output_dir))
        settings = read_settings(args.bids_dir, args.output_dir, args.options or options)
        labels = drop_others(labels, settings)
    else:
        if shutil.which('sbatch') is None and not args.dry_run:
            raise MissingDependencyError(
                'sbatch is not on PATH. Call this on a node from which jobs are submitted, or '
                'run msapp itself.'
            )
        settings = check(args)
        labels = drop_others(labels, settings)
        submit_missing(args, settings, labels)
        if args.dry_run or not args.wait:
            return EXIT_DONE
        wait(args.output_dir)
    states = find_states(settings, labels)
    command = newest_command(args.bids_dir, args.output_dir)
    if args.participant_label:
        command[3:3] = ['--participant-label', *args.participant_label]
    elif all(state.status == DONE for state in states):
        states.append(find_group(args.output_dir))
    sys.stdout.write('\n'.join(describe(states, shlex.join(command))) + '\n')
    codes = {state.exit_code for state in states}
    return codes.pop() if len(codes) == 1 else EXIT_SOME_FAILED


# --- before anything is submitted --------------------------------------------------------------


def check(args: argparse.Namespace) -> Settings:
    """Refuse now what would make every task fail hours later; return the settings of msapp.

    Raises
    ------
    UsageError
        If msapp would refuse the folders or options, or the container could not see them.
    """
    from msapp.bids.checks import check_folders
    from msapp.cli.parser import build_parser as build_msapp_parser

    call = [str(args.bids_dir), str(args.output_dir), 'participant', *args.options]
    given = vars(build_msapp_parser().parse_args(call))
    own = [f'--{name.replace("_", "-")}' for name in OWN_OPTIONS if name in given]
    if own or given['levels'] != ['participant']:
        raise UsageError(
            f'after "--": {" ".join(own) or "a level"} is set by {PROGRAM} itself; see '
            f'{PROGRAM} --help for the option to use.'
        )
    more = ['--work-dir', str(args.work_dir)] if args.work_dir else []
    more += ['--dry-run'] if args.dry_run else []
    settings = read_settings(args.bids_dir, args.output_dir, [*args.options, *more])
    check_folders(settings)
    for option in args.sbatch_option:
        if not option.startswith('-'):
            raise UsageError(f'--sbatch-option {option}: write it as in --sbatch-option=--qos=long')
    if args.image is not None:
        if not args.image.is_file():
            raise UsageError(f'--image {args.image}: no such file.')
        values = (given[name] for name in given if name not in ('bids_dir', 'output_dir'))
        args.binds = [path for value in values for path in _paths(value)]
        _check_binds([args.bids_dir, args.output_dir, args.work_dir, *args.binds])
    return settings


def _paths(value: object) -> Iterator[Path]:
    """Give the paths in the value of an option; text with a separator is the path of a model."""
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, Path) or (isinstance(item, str) and os.sep in item):
            yield Path(item)


def _check_binds(paths: Sequence[Path | None]) -> None:
    """Refuse paths that a container would not see at the same place."""
    for path in paths:
        if path is not None and (not path.is_absolute() or set(str(path)) & set(',:')):
            raise UsageError(
                f'{path}: with --image, paths must be absolute and hold no comma and no colon.'
            )


# --- submitting ---------------------------------------------------------------------------------


def submit_missing(args: argparse.Namespace, settings: Settings, labels: Sequence[str]) -> None:
    """Write the scripts for who is not done and submit them, then the group level."""
    states = find_states(settings, labels)
    wanted = (FAILED, MISSING, DONE) if args.all else (FAILED, MISSING)
    todo = [state.participant for state in states if state.status in wanted]
    queued = sum(state.status == QUEUED for state in states)
    if queued:
        sys.stdout.write(f'{queued} participants are in the queue already.\n')
    if not todo and (queued or find_group(args.output_dir).status != MISSING):
        sys.stdout.write('Nothing to submit. With --all, those that are done are run again.\n')
        return
    folder = _new_folder(args.output_dir / 'logs' / 'slurm', make=not args.dry_run)
    scripts = {name: fill(name, args, folder) for name in SCRIPTS}
    if args.dry_run:
        for name, text in scripts.items():
            sys.stdout.write(f'# {folder / name}\n{text}\n')
        sys.stdout.write(f'Would submit {len(todo)}: {" ".join(todo)}\n')
        return
    for name, text in scripts.items():
        write_atomic(folder / name, text)
    write_atomic(folder / LABELS, ''.join(f'{label}\n' for label in todo))
    write_atomic(folder / COMMAND, shlex.join(_command(args)) + '\n')
    _submit(folder, len(todo), args.max_tasks)


def _new_folder(parent: Path, *, make: bool) -> Path:
    """Return a folder of its own for this submission, named by the time."""
    stamp = f'{datetime.now():%Y%m%dT%H%M%S}'
    name, number = stamp, 1
    while (parent / name).exists():
        number += 1
        name = f'{stamp}-{number}'
    if make:
        (parent / name).mkdir(parents=True)
    return parent / name


def fill(name: str, args: argparse.Namespace, folder: Path) -> str:
    """Return a script with its ``#SBATCH`` lines and settings filled in."""
    participant = name == SCRIPTS[0]
    logs = str(folder).replace('%', '%%')
    options = [f'--output={logs}/{"%A_%a" if participant else "group-%j"}.out']
    given = {'partition': args.partition, 'account': args.account}
    settings = {'MSAPP_BIDS': args.bids_dir, 'MSAPP_OUT': args.output_dir}
    if participant:
        given |= {'time': args.time, 'mem': args.mem, 'cpus-per-task': args.cpus}
        settings |= {
            'MSAPP_LABELS': folder / LABELS,
            'MSAPP_OPTIONS': shlex.join(args.options),
            'MSAPP_WORK': args.work_dir or '',
            'MSAPP_SCRATCH': args.scratch or '',
            'MSAPP_REMOVE_WORK': 'yes' if args.remove_work else '',
        }
    options += [f'--{key}={value}' for key, value in given.items() if value is not None]
    lines = [f'#SBATCH {shlex.quote(option)}' for option in options]
    more = [item for item in args.sbatch_option if participant or not GPU_OPTION.match(item)]
    lines += [f'#SBATCH {option}' for option in more]
    settings['MSAPP_IMAGE'] = args.image or ''
    lines += ['', *(f'{key}={shlex.quote(str(value))}' for key, value in settings.items())]
    if getattr(args, 'binds', None):
        binds = shlex.quote(','.join(map(str, args.binds)))
        lines.append(f'export APPTAINER_BIND={binds}"${{APPTAINER_BIND:+,$APPTAINER_BIND}}"')
    text = (TEMPLATES / name).read_text(encoding='utf-8')
    for option in [*options, *more]:
        text = re.sub(rf'^#SBATCH {re.escape(option.split("=")[0])}(=.*)?\n', '', text, flags=re.M)
    return text.replace(MARK, '\n'.join(lines) + '\n')


def _command(args: argparse.Namespace) -> list[str]:
    """Return the command that submits again with the same values."""
    names = ['image', 'partition', 'account', 'time', 'mem', 'cpus']
    names += ['max_tasks', 'work_dir', 'scratch']
    values = {name.replace('_', '-'): getattr(args, name) for name in names}
    command = [PROGRAM, str(args.bids_dir), str(args.output_dir)]
    command += [f'--{name}={value}' for name, value in values.items() if value is not None]
    command += [f'--sbatch-option={option}' for option in args.sbatch_option]
    command += ['--remove-work'] if args.remove_work else []
    return [*command, '--', *args.options] if args.options else command


def _submit(folder: Path, count: int, max_tasks: int | None) -> None:
    """Submit arrays as long as SLURM allows, then the group level; note and print the jobs."""
    size = _array_limit()
    rows = ['job_id\tafter_line']
    jobs: list[str] = []
    for first in range(0, count, size):
        array = f'--array=1-{min(size, count - first)}' + (f'%{max_tasks}' if max_tasks else '')
        # Arrays that follow one another keep to --max-tasks together.
        after = [f'--dependency=afterany:{jobs[-1]}'] if jobs and max_tasks else []
        jobs.append(_sbatch([array, *after, str(folder / SCRIPTS[0]), str(first)], jobs))
        rows.append(f'{jobs[-1]}\t{first}')
        write_atomic(folder / JOBS, '\n'.join(rows) + '\n')
    after = [f'--dependency=afterany:{":".join(jobs)}'] if jobs else []
    group = _sbatch([*after, str(folder / SCRIPTS[1])], jobs)
    write_atomic(folder / JOBS, '\n'.join([*rows, f'{group}\tn/a']) + '\n')
    if jobs:
        sys.stdout.write(f'Submitted {count} participants: job {", ".join(jobs)}.\n')
    sys.stdout.write(f'Submitted the group level: job {group}.\nScripts and logs: {folder}\n')


def _array_limit() -> int:
    """Return how many tasks an array may have."""
    text = ''
    if shutil.which('scontrol') is not None:
        call = ['scontrol', 'show', 'config']
        text = subprocess.run(call, capture_output=True, text=True, check=False).stdout
    match = re.search(r'^MaxArraySize\s*=\s*(\d+)', text, flags=re.M)
    # The size counts from index 0, which is not used.
    return max(1, (int(match[1]) if match else MAX_ARRAY_SIZE) - 1)


def _sbatch(arguments: Sequence[str], before: Sequence[str]) -> str:
    """Submit a script; return the number of the job.

    Raises
    ------
    UsageError
        With what sbatch says, and the jobs that are in the queue already.
    """
    # Inside a job, its limits would be handed on and taken for those of the new job.
    keep = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith('SLURM_') or name == 'SLURM_CONF'
    }
    call = ['sbatch', '--parsable', *arguments]
    result = subprocess.run(call, capture_output=True, text=True, check=False, env=keep)
    job = result.stdout.strip().partition(';')[0]
    if result.returncode or not job.isdecimal():
        said = ' '.join((result.stderr or result.stdout).split()) or 'nothing'
        back = f' Submitted before: to take back, scancel {" ".join(before)}.' if before else ''
        raise UsageError(f'sbatch refused {shlex.join(arguments)}; it says: {said}.{back}')
    return job
