"""``msapp-evaluate``: score lesion masks or probability maps against manual masks."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msapp import __version__
from msapp.cli.console import complain, explain, report_bug, say
from msapp.errors import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    InputError,
    InterruptedRunError,
    MsappError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    from msapp.evaluation.cases import Matches
    from msapp.evaluation.study import Study

PROGRAM = 'msapp-evaluate'
# As in msapp.evaluation.study, whose import takes too long for --help; a test compares them.
RULES = ('anima', 'wmh', 'isbi', 'ivadomed')
THRESHOLD = 0.5
SIZE_EDGES_MM3 = (0.0, 10.0, 100.0, 1000.0, float('inf'))
# What is printed of each case; the table holds the rest.
SHOWN = ('case', 'dice', 'anima_f1', 'anima_sensitivity', 'anima_ppv', 'wmh_f1', 'ivadomed_f1')
SHOWN_LAST = ('hd95_mm', 'relative_volume_error_percent', 'reference_ml')
DESCRIPTION = """\
Score lesion masks, or maps of lesion probability, against manual masks.

PRED and TRUTH are two NIfTI files on one grid, or two folders. In folders, files belong
together that have the same path, else the same name, else the same sub- and ses-. A name
counts if each folder has it once and neither sub- and ses- nor the sub-folders differ.
"""
EPILOG = """\
rules (scores by voxel are always given: Dice, sensitivity, ..., distances in mm, volumes in mL):
  anima     MSSEG-2016 and MSSEG-2: lesions larger than 3 mm3; more than 10 % covered, by
            predicted lesions that lie outside by 70 % at most
  wmh       WMH challenge 2017: Dice, 95th percentile Hausdorff distance (mm), volume difference
            (%), recall and F1 of lesions; label 2 of TRUTH is left out
  isbi      ISBI 2015: shares of false and of found lesions; the score over all cases is printed
  ivadomed  a tenth of a lesion covered; as the spinal-cord lesion models are evaluated
MSGC 2008 is no rule: its score compares each error with that of the challenge's second rater, which
is not known here. With a second rater of your own, msapp.evaluation.challenges.msgc2008_score gives
it.

Scores that nothing defines are n/a, and n says how many cases a mean is of.

output: TABLE (one line a case), TABLE_summary (mean, SD, median, n) and, with --by-size,
TABLE_sizes, each with a JSON file that explains the columns. With several thresholds TABLE has
one line a case and threshold, and TABLE_summary one line a threshold.

exit codes: 0 done; 1 some cases could not be scored, or a truth has no prediction; 2 usage;
65 no case could be scored; 70 internal error; 130 interrupted.
"""


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers separated by commas."""
    return tuple(float(part) for part in text.split(','))


def thresholds(text: str) -> tuple[float, ...]:
    """Read probabilities, above 0 and at most 1, separated by commas."""
    values = numbers(text)
    if not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f'must be above 0 and at most 1, got {text}')
    return tuple(sorted(set(values)))


def edges(text: str) -> tuple[float, ...]:
    """Read two or more increasing sizes, separated by commas."""
    values = numbers(text)
    if len(values) < 2 or not all(low < high for low, high in itertools.pairwise(values)):
        raise argparse.ArgumentTypeError(f'must be two or more increasing sizes, got {text}')
    return values


def rules(text: str) -> tuple[str, ...]:
    """Read names of rules, separated by commas."""
    names = tuple(part.strip() for part in text.split(','))
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise argparse.ArgumentTypeError(f'must be of {", ".join(RULES)}; got {unknown[0]!r}')
    return names


def table_path(text: str) -> Path:
    """Read the name of a table."""
    path = Path(text)
    if path.suffix != '.tsv':
        raise argparse.ArgumentTypeError(f'must end in .tsv, got {text}')
    return path


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``msapp-evaluate``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('prediction', type=Path, metavar='PRED', help='predicted mask or probabilities, or folder')
    add('truth', type=Path, metavar='TRUTH', help='manual mask or labels, or folder')
    add(
        '--probability',
        action='store_true',
        help='PRED holds probabilities, 0 to 1; without it, every value above 0 is lesion',
    )
    add(
        '--threshold',
        type=thresholds,
        metavar='P[,P...]',
        help='with --probability: values of P and more are lesion; several are compared by Dice '
        f'and lesion-wise F1 (anima), and the best of each is named; default: {THRESHOLD}',
    )
    add(
        '--label',
        type=int,
        metavar='N',
        help='the value of TRUTH that is lesion; default: every value above 0',
    )
    add(
        '--rules',
        type=rules,
        default=('anima',),
        metavar='R[,R...]',
        help=f'how lesions are counted, see below: {", ".join(RULES)}; default: anima',
    )
    add('--by-size', action='store_true', help='add scores by lesion size (rule anima)')
    add(
        '--size-edges',
        type=edges,
        default=SIZE_EDGES_MM3,
        metavar='MM3,MM3[,...]',
        help='limits of lesion size for --by-size, mm3; default: 0,10,100,1000,inf',
    )
    for name in ('prediction', 'truth'):
        add(
            f'--{name}-files',
            default='*',
            metavar='GLOB',
            help=f'which files of the {name} folder count, for example '
            '"*_space-orig_label-L_mask.nii.gz"',
        )
    add('--output', type=table_path, metavar='TABLE.tsv', help='tables to write; none by default')
    add('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp-evaluate``.

    Returns
    -------
    int
        0; 1 if some case could not be scored; else the exit code of the class in
        ``msapp.errors`` that says what went wrong.
    """
    args = build_parser().parse_args(argv)
    try:
        check(args)
        return evaluate(args)
    except MsappError as error:
        complain(f'{PROGRAM}: error: {error}\n')
        return error.exit_code
    except OSError as error:
        known = explain(error)
        complain(f'{PROGRAM}: error: {known}\n')
        return known.exit_code
    except KeyboardInterrupt:
        complain(f'{PROGRAM}: interrupted, no table was written.\n')
        return InterruptedRunError.exit_code
    except Exception as error:  # noqa: BLE001 (the last resort: a message, a code of our own)
        return report_bug(PROGRAM, error)


def check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises
    ------
    UsageError
    """
    if args.threshold and not args.probability:
        raise UsageError('--threshold: needs --probability; masks have no threshold.')
    if args.threshold and len(args.threshold) > 1 and (args.by_size or args.rules != ('anima',)):
        raise UsageError(
            '--threshold: several are compared by Dice and the rule anima alone. Leave out --rules '
            'and --by-size, or give one threshold.'
        )


def evaluate(args: argparse.Namespace) -> int:
    """Score the cases, print the scores and write the tables."""
    from msapp.evaluation.cases import find_cases

    matches = find_cases(
        args.prediction,
        args.truth,
        prediction_glob=args.prediction_files,
        truth_glob=args.truth_files,
    )
    several = len(args.threshold or ()) > 1
    study = (sweep if several else score)(args, matches)
    for name, problem in study.failures.items():
        complain(f'{PROGRAM}: {name} could not be scored: {problem}\n')
    return EXIT_SOME_FAILED if study.failures or matches.only_truth else EXIT_DONE


def run_study(matches: Matches, work: Callable[..., Study]) -> Study:
    """Score the cases of a study, saying what is left out and how far it is.

    Raises
    ------
    InputError
        If no case could be scored.
    """
    for path in matches.only_truth:
        warn(f'{path}: has no prediction; not part of any mean.')
    for path in matches.only_predicted:
        warn(f'{path}: has no truth.')
    total = len(matches.cases)
    done: list[str] = []

    def on_case(name: str) -> None:
        done.append(name)
        complain(f'\r\033[K{PROGRAM}: {len(done)}/{total} {name}')

    live = total > 1 and sys.stderr.isatty()
    study = work(on_case=on_case if live else None)
    if live:
        complain('\r\033[K')
    for warning in study.warnings:
        warn(warning)
    if not len(study.table):
        raise InputError('\n'.join(study.failures.values()))
    return study


def warn(text: str) -> None:
    """Write a warning to the terminal."""
    complain(f'{PROGRAM}: warning: {text}\n')


def score(args: argparse.Namespace, matches: Matches) -> Study:
    """Score masks, or probabilities at one threshold."""
    from functools import partial

    from msapp.evaluation.columns import SIZES, SUMMARY, case_columns
    from msapp.evaluation.lesiontables import score_by_size
    from msapp.evaluation.study import Scoring, score_study, summarize

    threshold = (args.threshold or (THRESHOLD,))[0] if args.probability else None
    scoring = Scoring(args.rules, threshold, args.label)
    study = run_study(matches, partial(score_study, matches.cases, scoring))
    columns = case_columns(scoring.rules)
    summary = summarize(study.table)
    tables = {'': (study.table, columns), '_summary': (summary, SUMMARY)}
    if args.by_size:
        tables['_sizes'] = (score_by_size(study.lesions, args.size_edges), SIZES)
    if len(study.table) == 1:
        show_one(study.table, columns)
    else:
        shown = [name for name in (*SHOWN, *SHOWN_LAST) if name in study.table]
        show(study.table[shown])
        show(summary)
    show_notes(study, args.rules)
    if args.by_size:
        show(tables['_sizes'][0])
    write(args.output, tables)
    return study


def sweep(args: argparse.Namespace, matches: Matches) -> Study:
    """Compare several thresholds."""
    from functools import partial

    from msapp.evaluation.columns import SWEEP, SWEEP_SUMMARY
    from msapp.evaluation.thresholds import best_thresholds, summarize_sweep, sweep_study

    study = run_study(
        matches, partial(sweep_study, matches.cases, args.threshold, label=args.label)
    )
    means = summarize_sweep(study.table)
    show(means)
    for name, (threshold, value) in best_thresholds(means).items():
        say(f'best mean {name}: {value:.3f} at threshold {threshold:g}\n')
    say('Chosen on these cases, so too good to be expected of others.\n')
    write(args.output, {'': (study.table, SWEEP), '_summary': (means, SWEEP_SUMMARY)})
    return study


def show(table: Any) -> None:
    """Print a table, numbers to three decimals or whole."""
    text = table.to_string(index=False, na_rep='n/a', float_format=lambda value: f'{value:.3f}')
    say(text + '\n\n')


def show_one(table: Any, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Print the scores of one case, one a line, with their units."""
    from msapp.stats.tables import format_cell

    row = table.iloc[0].to_dict()
    width = max(map(len, row))
    for name, value in row.items():
        units = columns[name].get('Units', '').replace('arbitrary', '')
        say(f'{name:<{width}}  {format_cell(value):>9}  {units}'.rstrip() + '\n')
    say('\n')


def show_notes(study: Study, chosen: Sequence[str]) -> None:
    """Print what the means do not tell: cases without lesions, and the score of ISBI 2015."""
    from msapp.evaluation.study import isbi_score
    from msapp.stats.tables import format_cell

    table = study.table
    empty = table[table['reference_ml'] == 0]
    if len(empty) and 'anima_false_count' in table:
        wrong = int((empty['anima_false_count'] > 0).sum())
        say(
            f'{len(empty)} of {len(table)} cases have no true lesion; false lesions in {wrong} '
            f'of them, {int(empty["anima_false_count"].sum())} in all, '
            f'{empty["anima_false_mm3"].sum():.0f} mm3.\n'
        )
    if 'isbi' in chosen:
        value = format_cell(isbi_score(table))
        say(f'ISBI 2015 score against this rater, not scaled: {value}\n')


def write(path: Path | None, tables: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> None:
    """Write the tables with their data dictionaries.

    Raises
    ------
    UsageError
        If a file cannot be written.
    """
    from msapp.stats.tables import write_table

    if path is None:
        return
    for ending, (table, columns) in tables.items():
        target = path.with_name(f'{path.stem}{ending}{path.suffix}')
        try:
            write_table(target, table.to_dict('records'), columns)
        except (OSError, StorageError) as error:
            reason = getattr(error.__cause__ or error, 'strerror', None) or error
            raise UsageError(
                f'{target}: cannot write ({reason}). Choose a folder with write permission and '
                'free space.'
            ) from error
        say(f'{target}\n')
