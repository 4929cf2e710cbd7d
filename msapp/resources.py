"""How many CPUs and how much memory this process may really use.

A container or a cluster job sees the whole machine in ``/proc``, yet is killed when it
uses more than its share. So every limit that can apply is read, and the smallest holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# nipype counts ``mem_gb`` in units of 2**30 bytes, so these limits do too.
BYTES_PER_GB = 1024**3
KIB = 1024
MB_PER_GB = 1024
# cgroup v1 writes "no limit" as the largest page-aligned 64-bit number.
NO_LIMIT_BYTES = 2**60


@dataclass(frozen=True)
class Limits:
    """What a run may use: whole CPUs, and memory in GB of 2**30 bytes."""

    n_cpus: int
    memory_gb: float


def available_limits(
    root: Path = Path('/'),
    environ: Mapping[str, str] | None = None,
    affinity: int | None = None,
) -> Limits:
    """Return the smallest of all CPU and memory limits on this process.

    Parameters
    ----------
    root : Path
        Folder under which ``proc`` and ``sys`` are read.
    environ : mapping, optional
        Environment with the SLURM variables; the process's own when left out.
    affinity : int, optional
        Number of CPUs the process may be scheduled on; asked from the kernel when left out.

    Returns
    -------
    Limits
        At least one CPU. Memory is the smallest of the cgroup limits (v1 and v2, on every
        level above the process), the SLURM allocation and ``MemAvailable``.
    """
    environ = os.environ if environ is None else environ
    if affinity is None:
        affinity = _affinity()
    cpus = [float(affinity), *_cgroup_cpus(root), *_slurm_cpus(environ)]
    n_cpus = max(1, int(min(cpus)))
    memory = [*_cgroup_bytes(root), *_slurm_bytes(environ, n_cpus), *_physical_bytes(root)]
    return Limits(n_cpus=n_cpus, memory_gb=min(memory, default=float(BYTES_PER_GB)) / BYTES_PER_GB)


def _affinity() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: Path) -> str | None:
    """Return the text of a kernel file, or None where this kernel has no such file."""
    try:
        return path.read_text(encoding='ascii').strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(text: str | None) -> float | None:
    """Return a positive number, or None for anything else (``max``, ``-1``, ``0``, nothing)."""
    try:
        value = float(text or '')
    except ValueError:
        return None
    return value if value > 0 else None


def _levels(root: Path, controller: str | None) -> Iterator[Path]:
    """Yield the cgroup folders of this process, its own first, then every one above it.

    ``controller`` is a v1 controller, or None for the v2 tree. Inside a container the path
    in ``/proc/self/cgroup`` may not exist under the mount; the levels above it still count.
    """
    mount = root / 'sys/fs/cgroup'
    for line in (_read(root / 'proc/self/cgroup') or '').splitlines():
        names, path = [*line.split(':', 2), '', '', ''][1:3]
        if controller is None:
            bases = [mount, mount / 'unified'] if not names else []
        else:
            found = controller in names.split(',')
            bases = [mount / folder for folder in {names, controller}] if found else []
        parts = [part for part in PurePosixPath(path).parts if part not in ('/', '..')]
        for base in bases:
            for depth in range(len(parts), -1, -1):
                yield base.joinpath(*parts[:depth])


def _cgroup_cpus(root: Path) -> Iterator[float]:
    for folder in _levels(root, None):
        quota, period = [*(_read(folder / 'cpu.max') or '').split(), '', ''][:2]
        yield from _ratio(quota, period)
    for folder in _levels(root, 'cpu'):
        quota, period = (_read(folder / f'cpu.cfs_{key}_us') or '' for key in ('quota', 'period'))
        yield from _ratio(quota, period)


def _ratio(quota: str, period: str) -> Iterator[float]:
    numbers = _number(quota), _number(period)
    if numbers[0] is not None and numbers[1] is not None:
        yield numbers[0] / numbers[1]


def _cgroup_bytes(root: Path) -> Iterator[float]:
    files = [folder / 'memory.max' for folder in _levels(root, None)]
    files += [folder / 'memory.limit_in_bytes' for folder in _levels(root, 'memory')]
    for file in files:
        value = _number(_read(file))
        if value is not None and value < NO_LIMIT_BYTES:
            yield value


def _slurm_cpus(environ: Mapping[str, str]) -> Iterator[float]:
    for name in ('SLURM_CPUS_PER_TASK', 'SLURM_CPUS_ON_NODE'):
        value = _number(environ.get(name))
        if value is not None:
            yield value


def _slurm_bytes(environ: Mapping[str, str], n_cpus: int) -> Iterator[float]:
    """SLURM gives memory in MB; 0 means the whole node, that is, no limit of its own."""
    per_node = _number(environ.get('SLURM_MEM_PER_NODE'))
    per_cpu = _number(environ.get('SLURM_MEM_PER_CPU'))
    if per_node is not None:
        yield per_node / MB_PER_GB * BYTES_PER_GB
    if per_cpu is not None:
        cpus = _number(environ.get('SLURM_CPUS_ON_NODE')) or n_cpus
        yield per_cpu * cpus / MB_PER_GB * BYTES_PER_GB


def _physical_bytes(root: Path) -> Iterator[float]:
    """Memory that can be had without swapping; the total where the kernel does not say."""
    lines = (_read(root / 'proc/meminfo') or '').splitlines()
    values = {line.partition(':')[0]: line.partition(':')[2].split() for line in lines}
    for key in ('MemAvailable', 'MemTotal'):
        value = _number(values[key][0]) if values.get(key) else None
        if value is not None:
            yield value * KIB
            return
