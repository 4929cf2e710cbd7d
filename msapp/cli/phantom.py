"""``msapp-phantom``: write a BIDS dataset of synthetic patients whose truth is known."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from msapp import __version__
from msapp.cli.parser import positive
from msapp.errors import EXIT_DONE, InterruptedRunError, MsappError, UsageError

PROGRAM = 'msapp-phantom'


def seed(text: str) -> int:
    """Read a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f'must be at least 0, got {number}')
    return number


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of ``msapp-phantom``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description='Write a BIDS dataset of synthetic heads with multiple sclerosis lesions: '
        'FLAIR, T1w, T2w and post-gadolinium T1w of every visit, and the truth under '
        'derivatives/truth. Nothing is downloaded.',
    )
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='folder to write; must be empty or new'
    )
    parser.add_argument(
        '--participants', type=positive, default=2, metavar='N', help='default: %(default)s'
    )
    parser.add_argument(
        '--sessions',
        type=positive,
        default=2,
        metavar='N',
        help='visits a participant, some months apart; default: %(default)s',
    )
    parser.add_argument(
        '--variant',
        choices=('mixed', 'thick', 'iso'),
        default='mixed',
        help='thick: axial slices of about 0.9 x 0.9 x 4 mm; iso: 1 mm isotropic; '
        'mixed: participants alternate, thick first; default: %(default)s',
    )
    parser.add_argument(
        '--seed',
        type=seed,
        default=0,
        metavar='N',
        help='the same seed gives the same files, bit by bit; default: %(default)s',
    )
    parser.add_argument(
        '--fast', action='store_true', help='coarse images (2 mm) for quick tests of a pipeline'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``msapp-phantom``.

    Returns
    -------
    int
        0, or the exit code of the class in ``msapp.errors`` that says what went wrong.
    """
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stderr)
    try:
        write(args)
    except MsappError as error:
        sys.stderr.write(f'{PROGRAM}: error: {error}\n')
        return error.exit_code
    return EXIT_DONE


def write(args: argparse.Namespace) -> None:
    """Write the dataset, turning what the system refuses into errors of msapp.

    Raises
    ------
    UsageError
        If the folder cannot be written.
    InterruptedRunError
        On Ctrl-C; nothing is left behind.
    """
    from msapp.synthesis.phantom import write_phantom

    try:
        write_phantom(
            args.out,
            participants=args.participants,
            sessions=args.sessions,
            seed=args.seed,
            variant=args.variant,
            fast=args.fast,
        )
    except OSError as error:
        raise UsageError(
            f'{args.out}: cannot write ({error.strerror or error}). '
            'Choose a folder with write permission and free space.'
        ) from error
    except KeyboardInterrupt:
        raise InterruptedRunError(f'{args.out}: interrupted, nothing was written.') from None
