"""One worker process: the loop it runs, and the handle its parent holds.

Every worker has its own pipe, so the death of one touches no other. Workers are spawned,
not forked: a fork would copy the locks of ITK's, OpenBLAS's and CUDA's threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing as mp
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from traceback import format_exception

import psutil

from msapp.errors import EXIT_SOME_FAILED, MsappError
from msapp.inference.device import GPU_VARIABLE

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CLEAR_PEAK_RSS = '5'  # proc(5), /proc/PID/clear_refs
KIB_PER_MB = 1024
STOP_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 3.0


class WorkerDiedError(MsappError):
    """A step's worker was killed, or ended by itself, each time it was tried."""

    exit_code = EXIT_SOME_FAILED
    advice = (
        'The kernel kills a process (SIGKILL) when memory runs out: '
        'give the run more memory, fewer --nprocs, or --low-mem.'
    )


@dataclass(frozen=True)
class Usage:
    """What one step took.

    ``start`` is seconds since the epoch; ``cpu_s`` counts all threads and child processes;
    ``peak_rss_mb`` and ``rss_mb`` are the worker's memory in units of 2**20 bytes, at its
    highest during the step and after it.
    """

    start: float
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    rss_mb: float


@dataclass(frozen=True)
class Reply:
    """What a worker sends back: the traceback of a failed step, or None, and its usage."""

    traceback: list[str] | None
    usage: Usage


def thread_environment(omp_nthreads: int) -> dict[str, str]:
    """Return the variables that hold numerical libraries to a number of threads.

    They are read when a library is loaded, so they must be set before a worker starts.
    """
    names = (
        'OMP_NUM_THREADS',
        'OPENBLAS_NUM_THREADS',
        'MKL_NUM_THREADS',
        'NUMEXPR_NUM_THREADS',
        'ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS',
    )
    quiet = {'MPLBACKEND': 'Agg', 'NO_ET': '1', 'NIPYPE_NO_ET': '1'}
    return dict.fromkeys(names, str(omp_nthreads)) | quiet


# ---------------------------------------------------------------- inside the worker


def serve(connection: Connection, parent_pid: int, cwd: str, log_file: str | None) -> None:
    """Run tasks from a pipe until the parent closes it.

    A task is a GPU slot or None, and a pickled ``(node, updatehash)``.
    """
    _die_with_parent(parent_pid)
    # Ctrl-C reaches the whole process group; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if log_file is not None:
        _redirect_output(log_file)
    while True:
        try:
            gpu, payload = connection.recv()
        except (EOFError, OSError):
            return
        os.chdir(cwd)
        with _gpu(gpu):
            reply = run_task(payload)
        try:
            connection.send(reply)
        except OSError:
            return


def take_paths_literally() -> None:
    """Let nipype find its own files below folders with ``[``, ``?`` or ``*`` in their names.

    It would find no earlier result there, and compute everything anew in each run.
    """
    from nipype.pipeline.engine import nodes

    nodes.glob = _glob_below


def _glob_below(pattern: str) -> list[str]:
    """Return what matches the last part of a pattern; the folders before it are plain text."""
    folder, name = os.path.split(pattern)
    return [str(path) for path in Path(folder).glob(name)]


def run_task(payload: bytes) -> Reply:
    """Run one pickled task; whatever it raises comes back as text."""
    start, clock, cpu_s = time.time(), time.perf_counter(), _cpu_s()
    children_mb = _children_peak_mb()
    _reset_peak()
    traceback = None
    try:
        take_paths_literally()
        node, updatehash = pickle.loads(payload)
        print(f'--- {time.strftime("%H:%M:%S")} {node.fullname}', flush=True)  # noqa: T201
        start, clock, cpu_s = time.time(), time.perf_counter(), _cpu_s()
        node.run(updatehash=updatehash)
    except BaseException:  # noqa: BLE001 - a step may raise anything, even SystemExit
        traceback = format_exception(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    peak_mb, rss_mb = _memory_mb()
    grown = _children_peak_mb()
    return Reply(
        traceback=traceback,
        usage=Usage(
            start=start,
            wall_s=time.perf_counter() - clock,
            cpu_s=_cpu_s() - cpu_s,
            # The kernel keeps one highest value for all children there ever were.
            peak_rss_mb=max(peak_mb, grown if grown > children_mb else 0.0),
            rss_mb=rss_mb,
        ),
    )


@contextlib.contextmanager
def _gpu(slot: int | None) -> Iterator[None]:
    """Tell a step which GPU it has; it leaves the memory there to the next step."""
    os.environ.pop(GPU_VARIABLE, None)
    if slot is None:
        yield
        return
    with _environment({GPU_VARIABLE: str(slot)}):
        yield
    torch = sys.modules.get('torch')
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        with contextlib.suppress(RuntimeError):  # a broken GPU shows in the step's own error
            torch.cuda.empty_cache()


def _die_with_parent(parent_pid: int) -> None:
    if sys.platform == 'linux':
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the request was made
        os._exit(1)


def _redirect_output(log_file: str) -> None:
    """Send everything libraries print, even from C, to a file instead of the terminal.

    Where there is no room for the file what they print is lost, not the worker.
    """
    try:
        descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _cpu_s() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _children_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / KIB_PER_MB


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # no /proc, or read-only: the peak is then since start
        Path('/proc/self/clear_refs').write_text(CLEAR_PEAK_RSS, encoding='ascii')


def _memory_mb() -> tuple[float, float]:
    """Return the highest and the present resident memory, MB."""
    try:
        lines = Path('/proc/self/status').read_text(encoding='utf-8').splitlines()
        values = {line.partition(':')[0]: line.partition(':')[2].split() for line in lines}
        return int(values['VmHWM'][0]) / KIB_PER_MB, int(values['VmRSS'][0]) / KIB_PER_MB
    except (OSError, KeyError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MB
        return peak, peak


# ---------------------------------------------------------------- in the parent


class Worker:
    """A worker process and the parent's end of its pipe."""

    def __init__(self, *, cwd: Path, log_file: Path | None, environment: Mapping[str, str]) -> None:
        """Start the process; it imports what its first task needs, and keeps it."""
        self.gpu: int | None = None
        context = mp.get_context('spawn')
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve,
            args=(theirs, os.getpid(), str(cwd), None if log_file is None else str(log_file)),
            name='msapp-worker',
        )
        resource_tracker.ensure_running()  # its own start would unblock SIGINT too early
        with _environment(environment), _sigint_blocked():
            self.process.start()
        theirs.close()

    def send(self, payload: bytes, gpu: int | None) -> None:
        """Give the worker a task. A worker that is already dead shows it in `reply`."""
        if gpu is not None:
            self.gpu = gpu  # from now on some of its memory is on that GPU
        with contextlib.suppress(OSError):
            self.connection.send((gpu, payload))

    @property
    def waitables(self) -> tuple[Connection, int]:
        """What to wait on: an answer, or the end of the process."""
        return self.connection, self.process.sentinel

    def reply(self) -> Reply | None:
        """Return the answer that is waiting, or None: the worker is dead."""
        try:
            if self.connection.poll():
                answer = self.connection.recv()
                if isinstance(answer, Reply):
                    return answer
        except (EOFError, OSError, pickle.UnpicklingError):
            pass
        return None

    def death(self) -> str:
        """Say in words how the process ended; call after `kill`."""
        code = self.process.exitcode
        if code is None:
            return 'could not be stopped'
        if code < 0:
            return f'was killed by {signal.Signals(-code).name}'
        return f'ended by itself with exit code {code}'

    def stop(self) -> None:
        """Let an idle worker end by itself; kill it if it does not."""
        self.connection.close()
        self.process.join(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the process and every program it started, whatever they are doing."""
        for child in self._descendants():
            with contextlib.suppress(psutil.Error):
                child.kill()
        if self.process.is_alive():
            self.process.kill()
        self.process.join(KILL_TIMEOUT_S)
        self.connection.close()

    def _descendants(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return []


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the child that is about to start, then put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Let a starting child inherit a blocked SIGINT: Ctrl-C must not end it half-started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
