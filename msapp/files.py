"""Writing files so that nothing half-written ever stands under a final name."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msapp.errors import StorageError

# What a file system answers when it has no room, and when it can no longer be used.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_USABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
# What every temporary file of `atomic_path` has in its name.
TEMPORARY = '.tmp-'


def storage_error(error: OSError, folder: Path | str) -> StorageError | None:
    """Return what to tell the user of a file system that failed; None for any other failure.

    Parameters
    ----------
    error : OSError
    folder : Path
        Named where the error does not say which file it was about.

    Examples
    --------
    >>> print(storage_error(OSError(errno.ENOSPC, 'No space left on device'), Path('/out')))
    /out: No space left on device. Free some space, or choose another folder (--work-dir for \
intermediate files); the same command goes on from where it stopped.
    """
    place = error.filename or folder
    if error.errno in NO_ROOM:
        advice = 'Free some space, or choose another folder (--work-dir for intermediate files)'
    elif error.errno in NOT_USABLE:
        advice = 'Make it usable again, or choose another folder'
    else:
        return None
    return StorageError(
        f'{place}: {error.strerror}. {advice}; the same command goes on from where it stopped.'
    )


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn a failure of the file system inside the block into a `StorageError`."""
    try:
        yield
    except OSError as error:
        explained = storage_error(error, folder)
        if explained is None:
            raise
        raise explained from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    The temporary name is hidden and keeps the suffixes, so that image writers know the format;
    errors name ``path``.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / 'a.txt'
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text('whole')
    >>> target.read_text()
    'whole'
    """
    temporary = path.with_name(f'.{uuid.uuid4().hex}{TEMPORARY}{path.name}')
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open('rb') as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError as error:
            if str(error.filename) == str(temporary):
                error.filename = str(path)
            raise
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to a file in one step; folders are made."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)


def remove_temporary(folder: Path, *patterns: str) -> None:
    """Remove what killed runs left of `atomic_path`; nobody else may be writing these files.

    Parameters
    ----------
    folder : Path
    *patterns : str
        Final names below the folder, as for ``Path.glob``.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / f'.0{TEMPORARY}a.txt').touch()
    >>> remove_temporary(root, '*.txt')
    >>> list(root.iterdir())
    []
    """
    for pattern in patterns:
        *places, name = pattern.split('/')
        for temporary in folder.glob('/'.join([*places, f'.*{TEMPORARY}{name}'])):
            temporary.unlink(missing_ok=True)
