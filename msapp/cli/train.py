"""``msapp-train``: train a network from a recipe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msapp import __version__
from msapp.cli.console import ensure_user, explain, report_bug
from msapp.errors import EXIT_DONE, MissingDependencyError, MsappError, UsageError
from msapp.logs import setup_logging

MOST_MINUTES = 366 * 24 * 60
# What NumPy and torch take.
MOST_SEED = 2**32 - 1
EPILOG = """\
Training may be stopped at any time; the same command goes on from the last checkpoint. Seed,
precision and the files of real patients may change in between, which is not told.

To go on from a model of msapp with your own patients, copy the recipe lesions, give it a name and
version of yours, put your patients in place of ours ([[data.real]], [data.folds]), leave out prior
(it is that of drawn heads), lesion_priors and held_out_priors unless you have those masks, and give
--from lesions with a lower --learning-rate (2e-4), few --steps (200) and --keep-start 0.5. A BIDS
dataset is listed by itself; masks are looked for as PARTICIPANT/SESSION/anat/*_mask.nii.gz:

  [data.bids]
  folder = "study"               # below --data
  masks = "derivatives/manual"   # below the dataset
  mask_names = "*_mask.nii*"     # after participant and session; this if left out
  leave_out = ["sub-02_ses-1"]   # participants and visits without a mask

Images are used as the scanner made them; the mask must lie on the FLAIR, or on the first image of
the recipe's channels. With synthetic_share = 0 nothing is drawn: leave heads and held_out_heads
out. Else heads names your label maps, and held_out_heads some of them. Each participant of a BIDS
dataset is a fold: --fold sub-01 does not learn from sub-01 and measures Dice on it, whole
(validation_dice_real in log/*/metrics.csv and in curves.png), before --keep-start mixes anything.

What is exported is the running mean of the weights (schedule.average): after few steps much of it
is still what they began with.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp-train``; return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return run(arguments)
    except MsappError as error:
        sys.stderr.write(f'msapp-train: error: {error}\n')
        return error.exit_code
    except OSError as error:
        known = explain(error)
        sys.stderr.write(f'msapp-train: error: {known}\n')
        return known.exit_code
    except KeyboardInterrupt:
        sys.stderr.write('msapp-train: interrupted. Run the same command again to go on.\n')
        return 130
    except Exception as error:  # noqa: BLE001 (the last resort: a message, a code of our own)
        return report_bug('msapp-train', error)


def run(arguments: argparse.Namespace) -> int:
    """Train as asked and print where the model is."""
    ensure_user()
    log = setup_logging(None)
    # Registrations on several threads differ a little from run to run, and so would what is drawn.
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
    try:
        from msapp.training.fit import train
    except ImportError as error:
        raise MissingDependencyError(
            f'{error.name} is not installed; training needs the extra of msapp: '
            "pip install 'msapp[training]'."
        ) from error
    import torch

    from msapp.inference.device import choose_gpus
    from msapp.training.recipe import load_recipe

    if not 0 <= arguments.keep_start <= 1:
        raise UsageError(f'--keep-start {arguments.keep_start:g}: must be between 0 and 1.')
    if arguments.keep_start and not arguments.start_from:
        raise UsageError('--keep-start needs --from.')
    if arguments.max_minutes is not None and not 0 < arguments.max_minutes <= MOST_MINUTES:
        raise UsageError(
            f'--max-minutes {arguments.max_minutes:g}: must be above 0, and no more than a year.'
        )
    for name, least in (('workers', 0), ('threads', 1), ('random_seed', 0)):
        value = getattr(arguments, name)
        if value is not None and not least <= value <= MOST_SEED:
            flag = f'--{name.replace("_", "-")}'
            raise UsageError(f'{flag} {value}: must be a whole number from {least} on.')
    given = {name: getattr(arguments, name) for name in ('steps', 'learning_rate', 'only')}
    changes = {name: value for name, value in given.items() if value is not None}
    recipe = load_recipe(arguments.recipe, changes)
    if recipe.schedule.only and not arguments.start_from:
        raise UsageError(
            '--only (schedule.only in the recipe) needs --from: what does not learn would stay '
            'random.'
        )
    device = 'cuda' if choose_gpus(arguments.device, None) else 'cpu'
    bfloat16 = arguments.precision == 'bf16' or (not arguments.precision and device == 'cuda')
    if bfloat16 and device == 'cpu' and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning('--precision bf16: this CPU does not have it; steps take many times as long.')
    folder = train(
        recipe,
        data=arguments.data.absolute(),
        out=arguments.output_dir.absolute(),
        device=device,
        bfloat16=bfloat16,
        workers=arguments.workers,
        threads=arguments.threads,
        fold=arguments.fold,
        start_from=arguments.start_from,
        keep_start=arguments.keep_start,
        seed=arguments.random_seed,
        max_minutes=arguments.max_minutes,
    )
    sys.stdout.write(f'Model: {folder}\n')
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='msapp-train',
        description='Train a network of msapp from a recipe.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('recipe', help='anatomy, lesions, newlesions, hybrid, or a TOML file')
    parser.add_argument('output_dir', type=Path, help='checkpoints, log, pictures and the model')
    parser.add_argument(
        '--data', type=Path, required=True, help="folder that the recipe's paths start from"
    )
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument(
        '--precision',
        choices=('32', 'bf16'),
        help='arithmetic (bf16 on a GPU, else 32 bits); bf16 halves the time on CPUs that have it',
    )
    parser.add_argument(
        '--steps', type=int, help="in place of the recipe's number of steps; not of hybrid"
    )
    parser.add_argument('--learning-rate', type=float, help="in place of the recipe's highest")
    parser.add_argument(
        '--max-minutes',
        type=float,
        help='stop and export after so many minutes; hybrid ends the epoch that it is in',
    )
    parser.add_argument(
        '--fold', help='do not learn from the real cases of this fold, and validate on them'
    )
    parser.add_argument(
        '--from', dest='start_from', metavar='MODEL', help='start from the weights of this model'
    )
    parser.add_argument(
        '--only',
        metavar='PART',
        help='part of the network that learns, as variance_head; all else stays as in --from',
    )
    parser.add_argument(
        '--keep-start',
        type=float,
        default=0.0,
        metavar='SHARE',
        help='share, 0 to 1, of the weights of --from in those that are exported (0)',
    )
    parser.add_argument('--workers', type=int, default=1, help='processes that draw heads (1)')
    parser.add_argument('--threads', type=int, help="CPU threads of the network (torch's choice)")
    parser.add_argument('--random-seed', type=int, default=0)
    parser.add_argument('--version', action='version', version=f'msapp {__version__}')
    return parser


if __name__ == '__main__':
    sys.exit(main())
