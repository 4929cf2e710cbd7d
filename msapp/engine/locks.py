"""Locks that keep two runs off the same participant.

A lock is the kernel's (``flock``): it ends with the process that holds it, so a killed run leaves
none behind. The files stay; they only say who held the lock last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import shutil
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from msapp.errors import LockedError
from msapp.files import NO_ROOM, storage_error

FOLDER = '.locks'
# Files that the rest of a run may have open beside one a lock.
OTHER_FILES = 256
# Everyone who may write to the folder may lock in it, whatever the creator's umask.
FILE_MODE = 0o666


class Locks:
    """Locks in one or more folders, given back together when the block ends.

    Parameters
    ----------
    folders : iterable of Path
        Existing folders. One that is given twice, even under another name, counts once.
    number : int
        How many locks will be taken in each.
    """

    def __init__(self, folders: Iterable[Path], number: int = 1) -> None:
        """Take nothing yet; allow as many open files as the system lets us."""
        identity = {(item.stat().st_dev, item.stat().st_ino): item for item in folders}
        self._folders = list(identity.values())
        self._held = contextlib.ExitStack()
        self._without: set[Path] = set()
        _allow_open_files(number * len(self._folders) + OTHER_FILES)

    def __enter__(self) -> Locks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.close()

    def take(self, name: str) -> None:
        """Take the lock of a participant, or of the ``group``, in every folder.

        Raises
        ------
        LockedError
            If another run holds it; the message says which and since when.
        StorageError
            If there is no room for the file of the lock.
        """
        with contextlib.ExitStack() as taken:
            for folder in self._folders:
                self._take(name, folder, taken)
            self._held.push(taken.pop_all())

    def _take(self, name: str, folder: Path, taken: contextlib.ExitStack) -> None:
        path = folder / FOLDER / f'{name}.lock'
        # A marker file in place of flock would outlive a killed run.
        lock = FileLock(path, mode=FILE_MODE, fallback_to_soft=False)
        try:
            _make_folder(path.parent)
            lock.acquire(timeout=0)
        except Timeout:
            raise LockedError(
                f'{name}: another run is at work on it in {folder} ({_holder(path)}). Let it end, '
                'then run the same command again.'
            ) from None
        except (OSError, NotImplementedError) as error:
            self._go_on_without(folder, error)
            return
        taken.callback(lock.release)
        with contextlib.suppress(OSError):
            path.write_text(_signature(), encoding='utf-8')

    def _go_on_without(self, folder: Path, error: OSError | NotImplementedError) -> None:
        """Warn once: where there are no locks a run must still be possible."""
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise storage_error(error, folder) or error from error
        if folder not in self._without:
            self._without.add(folder)
            logging.getLogger('msapp.engine').warning(
                '%s: cannot be locked (%s). See to it that no two runs process the same '
                'participant at once.',
                folder,
                error.strerror if isinstance(error, OSError) else error,
            )


def _allow_open_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(number, hard)), hard))


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        shutil.copymode(folder.parent, folder)


def _signature() -> str:
    since = datetime.now(UTC).isoformat(sep=' ', timespec='seconds')
    return f'host {socket.gethostname()}, process {os.getpid()}, since {since}\n'


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8').strip() or 'which has just begun'
    except (OSError, UnicodeDecodeError):
        return f'see {path}'
