"""What a process may be started without, as in containers: no run fails for that.

Standard streams may be closed, or have nobody who reads them; a user may have no home and no name.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TextIO

from msapp.errors import InternalError, MsappError
from msapp.files import storage_error

BUG = 'This is a bug in msapp; please report it.'
# Of a user who has none.
USER = 'msapp'


def open_missing_streams() -> None:
    """Give the process the standard streams that it was started without.

    Otherwise the next file it opens takes the number of one, and what a library or a child process
    prints goes into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        if getattr(sys, name) is None:
            mode = 'w' if number else 'r'
            setattr(sys, name, open(number, mode, encoding='utf-8', closefd=False))  # noqa: SIM115


def ensure_user() -> None:
    """Give a user without a home one that holds nothing, and one without a name a name.

    pybids demands a home, MONAI a name, when they are imported.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ['HOME'] = os.devnull
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ['USER'] = USER


def explain(error: OSError) -> MsappError:
    """Return what to tell of a failure of the system that no step of the program explains."""
    place = error.filename or 'a file'
    known = storage_error(error, place)
    return known or InternalError(f'{place}: {error.strerror or error}.')


def say(text: str) -> None:
    """Write to standard output."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write to standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    """Write at once; where that cannot be (a pipe nobody reads, a full disk) the text is lost."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What could not be written is kept and tried again at the end, with a traceback.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def report_bug(program: str, error: Exception) -> int:
    """Tell of a failure that nothing foresaw, keep its traceback, and return the exit code."""
    trace = traceback.format_exc()
    # Where there is no room for a file it is told at length.
    with contextlib.suppress(OSError):
        path = Path(tempfile.mkstemp(prefix=f'{program}-', suffix='.txt')[1])
        path.write_text(trace, encoding='utf-8')
        trace = str(path)
    name = type(error).__name__
    complain(f'{program}: internal error: {name}: {error}. {BUG} Traceback: {trace}\n')
    return InternalError.exit_code
