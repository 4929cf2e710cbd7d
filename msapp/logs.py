"""Logging: short lines on the console, everything in ``msapp.log``."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import TextIO

from msapp.errors import UsageError
from msapp.files import NO_ROOM, storage_error

LOGGER_NAME = 'msapp'
LOG_FILE = 'msapp.log'
CONSOLE_FORMAT = '%(asctime)s %(message)s'
FILE_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Write to whatever ``sys.stderr`` is at that moment.

    A live progress view replaces ``sys.stderr`` while it is on the screen, so that lines
    appear above it; a handler that kept the first stream would write through the view.
    """

    def __init__(self, level: int) -> None:
        """Take lines from ``level`` up."""
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current standard error."""
        return sys.stderr


def setup_logging(log_dir: Path | None, verbosity: int = 0) -> logging.Logger:
    """Send the ``msapp`` logger to the console and to a file; safe to call again.

    Parameters
    ----------
    log_dir : Path or None
        Folder of ``msapp.log``, made when missing; None for the console alone.
    verbosity : int
        Of the console: below 0 warnings, 0 progress, above 0 everything. The file has all.

    Raises
    ------
    UsageError
        If the folder or the file cannot be written.
    StorageError
        If there is no room for them.
    """
    # A line that finds no room on the disk is lost; it must not become a traceback on the terminal.
    logging.raiseExceptions = False
    logger = logging.getLogger(LOGGER_NAME)
    close_logging(logger)
    logger.setLevel(logging.DEBUG)
    level = logging.WARNING if verbosity < 0 else logging.DEBUG if verbosity else logging.INFO
    console = ConsoleHandler(level)
    console.setFormatter(logging.Formatter(CONSOLE_FORMAT, datefmt='%H:%M:%S'))
    logger.addHandler(console)
    if log_dir is not None:
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(log_dir / LOG_FILE, encoding='utf-8')
        except OSError as error:
            full = storage_error(error, log_dir) if error.errno in NO_ROOM else None
            raise full or UsageError(
                f'{log_dir}: cannot write the log there ({error.strerror}).'
            ) from error
        file.setFormatter(logging.Formatter(FILE_FORMAT))
        logger.addHandler(file)
    return logger


def close_logging(logger: logging.Logger) -> None:
    """Take away the handlers that `setup_logging` gave, closing the file."""
    for handler in list(logger.handlers):
        if isinstance(handler, ConsoleHandler | logging.FileHandler):
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # of a full disk: the last line is lost
                handler.close()
