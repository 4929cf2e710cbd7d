"""The one exception tree of msapp; every class carries the exit code it causes.

A message says what is wrong, where, and what to do about it:
``sub-02 ses-1 FLAIR: 3 volumes found, one is needed. Name it with --bids-filter-file.``
"""

from __future__ import annotations

from typing import Any

EXIT_DONE = 0
EXIT_SOME_FAILED = 1


class MsappError(Exception):
    """Any failure msapp explains by itself, without a traceback."""

    exit_code = 70


class UsageError(MsappError):
    """The command line asks for something that cannot be (wrong folder, unknown label)."""

    exit_code = 2


class InputError(MsappError):
    """The input data cannot be processed (missing contrast, broken file)."""

    exit_code = 65


class NoBrainError(InputError):
    """The image is of another part of the body, such as the neck."""


class MissingDependencyError(MsappError):
    """A model or a program that was asked for is not installed."""

    exit_code = 69


class StorageError(MsappError):
    """A folder the run writes to is full, over its quota, or cannot be written any more."""

    exit_code = EXIT_SOME_FAILED


class LockedError(MsappError):
    """Another run is at work on the same participant, or on the group level."""

    exit_code = EXIT_SOME_FAILED


class InternalError(MsappError):
    """msapp broke one of its own rules; always worth a bug report."""

    exit_code = 70


class InterruptedRunError(MsappError):
    """The run was stopped by SIGINT or SIGTERM.

    Attributes
    ----------
    outcomes : tuple of msapp.engine.record.Outcome
        How far the participants had come by then.
    """

    exit_code = 130
    outcomes: tuple[Any, ...] = ()
