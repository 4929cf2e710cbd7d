"""Writing files so that nothing half-written ever stands under a final name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place when the block ends well.

    The temporary name is hidden and keeps the suffixes, so that image writers know the format.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / 'a.txt'
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text('whole')
    >>> target.read_text()
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{uuid.uuid4().hex}.tmp-{path.name}')
    try:
        yield temporary
        with temporary.open('rb') as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, to a file in one step; folders are made."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode('utf-8') if isinstance(data, str) else data)
