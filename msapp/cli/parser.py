"""The command line of ``msapp``: flags to settings. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msapp import __version__

UNITS_GB = {'': 1e-3, 'K': 1e-6, 'M': 1e-3, 'G': 1.0, 'T': 1e3}
LEVELS = ('participant', 'group')
# What a call cannot do without, by the names of the help.
NEEDED = {
    'bids_dir': 'bids_dir',
    'output_dir': 'output_dir',
    'levels': 'participant or group (the level of analysis)',
}
# Flags that take as many values as follow.
GREEDY = ('participant_label', 'session_label', 'derivatives')
SPACES = ('orig', 'individual', 'MNI152NLin2009aSym')
TASKS = ('lesions', 'enhancement', 'longitudinal', 'cord', 'filling')


def memory_gb(text: str) -> float:
    """Read an amount of memory; without a unit it is megabytes, as in other BIDS Apps.

    Examples
    --------
    >>> memory_gb('8G'), memory_gb('1500'), memory_gb('500MB')
    (8.0, 1.5, 0.5)
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)B?', text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is no amount of memory; try 8G or 8000M')
    return float(match[1]) * UNITS_GB[match[2]]


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be at least 1, got {number}')
    return number


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``msapp``; flags that are not given set nothing."""
    parser = argparse.ArgumentParser(
        prog='msapp',
        description='BIDS App for multiple sclerosis MRI: brain masks, lesions, new lesions '
        'between visits and what became of each, a report a participant, and group tables. '
        'Research software, not a medical device.',
        epilog='Exit codes: 0 all done; 1 some participant failed, the others finished; 2 wrong '
        'usage; 65 the input data cannot be used; 69 a model or program is missing; 70 internal '
        'error; 130 interrupted. Run the same command again to go on where it stopped.',
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        'bids_dir', nargs='?', type=Path, default=None, help='root of a BIDS dataset'
    )
    parser.add_argument(
        'output_dir', nargs='?', type=Path, default=None, help='where derivatives are written'
    )
    parser.add_argument(
        'levels',
        nargs='*',
        metavar='{participant,group}',
        help='participant: process images; group: tables and plots from the derivatives alone; '
        'both may be given',
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    _add_input_flags(parser.add_argument_group('what to process'))
    _add_processing_flags(parser.add_argument_group('how to process'))
    _add_resource_flags(parser.add_argument_group('resources'))
    _add_run_flags(parser.add_argument_group('the run'))
    return parser


def _add_input_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--participant-label',
        '--participant_label',
        nargs='+',
        metavar='LABEL',
        help='participants, with or without "sub-"; default: all',
    )
    group.add_argument(
        '--session-label',
        '--session-id',
        nargs='+',
        metavar='LABEL',
        help='visits, with or without "ses-"; default: all',
    )
    group.add_argument(
        '--bids-filter-file',
        type=Path,
        metavar='FILE',
        help='JSON that says which image to take, e.g. {"flair": {"acquisition": "3D"}}; by '
        'default the finest of several is taken',
    )
    group.add_argument(
        '--bids-database-dir',
        type=Path,
        metavar='DIR',
        help='accepted, has no effect: the dataset is listed without an index',
    )
    group.add_argument(
        '--skip-bids-validation', action='store_true', help='do not run the BIDS validator'
    )
    group.add_argument(
        '-d',
        '--derivatives',
        nargs='+',
        type=Path,
        metavar='DIR',
        help='derivative datasets whose brain masks (desc-brain_mask in the FLAIR grid) are used',
    )


def _add_processing_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--tasks',
        nargs='+',
        choices=TASKS,
        help='default: lesions longitudinal (new lesions between visits); the others need models '
        'that this version does not ship',
    )
    group.add_argument(
        '--lesion-model',
        metavar='NAME',
        help='a model that is installed (default: lesions), or the path of a folder with one, such '
        'as ./mine; threshold: none, the classical baseline',
    )
    group.add_argument(
        '--new-lesion-method',
        metavar='NAME',
        help='a model for new lesions that is installed (newlesions, the default; hybrid), or the '
        'path of a folder with one; candidates: none, only regions that became brighter',
    )
    group.add_argument(
        '--brain-extraction',
        choices=('network', 'bet', 'template'),
        help='network (default): any contrast, tells zones of the brain as well; template: MNI '
        'template by ANTs; bet: FSL, where installed',
    )
    group.add_argument(
        '--output-spaces',
        nargs='+',
        choices=SPACES,
        help='spaces of the masks; individual is always written; default: all three',
    )
    group.add_argument(
        '--flips',
        action='store_true',
        help='average lesion networks over the head and its mirror image: twice the time',
    )
    group.add_argument(
        '--self-check',
        action='store_true',
        help='paint lesions of 3 to 12 mm into each later FLAIR and report how many the network '
        'for new lesions finds; needs one',
    )
    group.add_argument(
        '--mc-samples',
        type=int,
        metavar='N',
        help='samples for uncertainty; needs a network made for it, as lesions is',
    )
    group.add_argument('--explain', action='store_true', help='relevance maps; not in this version')
    group.add_argument(
        '--random-seed', type=int, metavar='N', help='seed of all sampling; default: 0'
    )
    group.add_argument(
        '--sloppy',
        action='store_true',
        help='few iterations and coarse registrations, to test a set-up; never for results',
    )


def _add_resource_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--nprocs',
        '--n-cpus',
        type=int,
        metavar='N',
        help='steps at once; default: the CPUs this process may use (cgroup, SLURM, affinity)',
    )
    group.add_argument(
        '--omp-nthreads', type=int, metavar='N', help='threads within a step; default: 1'
    )
    group.add_argument(
        '--mem',
        '--mem-mb',
        dest='mem_gb',
        type=memory_gb,
        metavar='SIZE',
        help='memory for all steps together, such as 8G (megabytes without a unit); default: 90 '
        'percent of what this process may use',
    )
    group.add_argument('--low-mem', action='store_true', help='one step at a time')
    group.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        help='where networks run; auto (default): on a GPU where one can be seen; cuda: on a GPU '
        'or not at all',
    )
    group.add_argument(
        '--gpus',
        type=int,
        metavar='N',
        help='GPUs to use, one step on each at once; 0: none; default: all that can be seen',
    )
    group.add_argument(
        '--use-plugin',
        type=Path,
        metavar='FILE',
        help='YAML with a nipype plugin (SLURM, SGE, ...) and its plugin_args',
    )


def _add_run_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '-w',
        '--work-dir',
        type=Path,
        metavar='DIR',
        help='intermediate files, about 250 MB a visit; the same folder resumes a run; default: '
        'OUTPUT_DIR/work',
    )
    group.add_argument(
        '--config-file',
        type=Path,
        metavar='FILE',
        help='TOML with settings, such as logs/<run>/settings.toml; flags given here come first',
    )
    group.add_argument('--dry-run', action='store_true', help='print what would run, run nothing')
    group.add_argument(
        '--reports-only', action='store_true', help='write the reports anew from the derivatives'
    )
    group.add_argument(
        '--boilerplate-only',
        action='store_true',
        help='print the methods text of the participant level, with citations, and do no more',
    )
    group.add_argument(
        '--stop-on-first-crash', action='store_true', help='stop everything at the first failure'
    )
    group.add_argument(
        '--clean-workdir',
        action='store_true',
        help='remove the intermediate files of the participants of this run first',
    )
    group.add_argument(
        '--resource-monitor', action='store_true', help='sample memory and CPU of each step'
    )
    group.add_argument(
        '--write-graph',
        action='store_true',
        help='write the graph of the run to its log folder: graph.dot, and graph.svg if Graphviz '
        'is installed',
    )
    group.add_argument(
        '--notrack', action='store_true', help='accepted for compatibility: nothing is ever sent'
    )
    group.add_argument('-v', '--verbose', action='count', help='more messages')


def parse(argv: Sequence[str] | None = None) -> tuple[dict[str, Any], int]:
    """Parse the command line.

    Returns
    -------
    values : dict
        For `msapp.settings.make_settings`: the settings file, overridden by flags.
    verbosity : int
    """
    parser = build_parser()
    # Folders and levels may stand among the flags.
    parsed = vars(parser.parse_intermixed_args(argv))
    given = {key: value for key, value in parsed.items() if value is not None and value != []}
    given.pop('notrack', None)
    verbosity = int(given.pop('verbose', 0))
    wrong = [level for level in given.get('levels', ()) if level not in LEVELS]
    if wrong:
        parser.error(
            f'"{" ".join(wrong)}" is no level of analysis; give participant, group or both'
        )
    values: dict[str, Any] = {}
    if 'config_file' in given:
        values = _load_settings(given.pop('config_file'))
    values |= given
    missing = [text for name, text in NEEDED.items() if not values.get(name)]
    if missing:
        parser.error(f'missing: {", ".join(missing)}{_taken_levels(given)}')
    return values, verbosity


def _taken_levels(given: Mapping[str, Any]) -> str:
    """Say which flag took the level for one of its values, where one did."""
    for name in GREEDY:
        for value in map(str, given.get(name, ())):
            if value in LEVELS:
                return (
                    f'. --{name.replace("_", "-")} took "{value}" as one of its values: write '
                    'folders and level before it'
                )
    return ''


def _load_settings(path: Path) -> dict[str, Any]:
    """Read a settings file, in which ``mem`` may stand for ``mem-gb``, written as for the flag.

    Raises
    ------
    UsageError
        If the file cannot be read, a setting is unknown, or the amount of memory is none.
    """
    from msapp.errors import UsageError
    from msapp.settings import Settings, read_toml, setting_name

    written = read_toml(path)
    unknown = [key for key in written if setting_name(key) not in {*Settings.model_fields, 'mem'}]
    if unknown:
        raise UsageError(
            f'{path}: no setting is called {", ".join(unknown)}. As in logs/<run>/settings.toml, '
            'a setting has the first long name of its flag in msapp --help.'
        )
    values = {setting_name(key): value for key, value in written.items()}
    if 'mem' in values:
        try:
            values['mem_gb'] = memory_gb(str(values.pop('mem')))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f'{path}: mem: {error}.') from error
    return values
