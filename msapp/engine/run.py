"""Run the graph of all participants and say what came of each one."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

from msapp.engine.plugin import ReportingMixin, ResilientPlugin
from msapp.engine.progress import make_progress
from msapp.engine.record import Outcome, Recorder
from msapp.engine.worker import take_paths_literally
from msapp.errors import InternalError, InterruptedRunError, MsappError, StorageError, UsageError
from msapp.files import storage_errors
from msapp.provenance import tsv_cell

__all__ = ['Outcome', 'run_graph']

SAMPLE_PERIOD_S = 1.0
BYTES_PER_MB = 1024**2
# Both are this plugin's ancestors; a plugin file that names one of them gets this one.
OWN_PLUGINS = ('MultiProc', 'LegacyMultiProc', 'Resilient')
# Batch systems are asked at this interval, s; the local plugin waits for events instead.
BATCH_POLL_S = 2.0


def run_graph(
    graph: Any,
    *,
    participants: Mapping[str, str],
    nprocs: int,
    memory_gb: float,
    omp_nthreads: int,
    n_gpu_procs: int = 0,
    log_dir: Path,
    stop_on_first_crash: bool = False,
    progress: bool | None = None,
    use_plugin: Path | None = None,
    resource_monitor: bool = False,
) -> list[Outcome]:
    """Run a graph; a step that fails stops only its own participant.

    Parameters
    ----------
    graph : nipype.Workflow
        Its direct children are one workflow a participant; ``base_dir`` is the work folder.
    participants : mapping
        Name of a child workflow to the participant's label, in the order to finish them.
    nprocs : int
        Steps' ``n_procs`` that may run at once.
    memory_gb : float
        Steps' ``mem_gb`` that may run at once, GB of 2**30 bytes.
    omp_nthreads : int
        Threads of the numerical libraries in each worker.
    n_gpu_procs : int
        Steps that may use a GPU at once.
    log_dir : Path
        Gets ``participants.txt``, ``timings.tsv``, ``nipype.log``, what workers print, and the
        crash files.
    stop_on_first_crash : bool
        Stop everything at the first failure.
    progress : bool, optional
        Live table (True) or log lines (False); by default a table on a terminal.
    use_plugin : Path, optional
        YAML file with ``plugin`` and ``plugin_args``, to run on a batch system.
    resource_monitor : bool
        Also sample memory and CPU of the running steps into ``resources.tsv``.

    Returns
    -------
    list of Outcome
        One a participant, in the order of ``participants``.

    Raises
    ------
    InterruptedRunError
        On SIGINT or SIGTERM, after every worker has been ended; it knows the outcomes.
    UsageError
        If ``use_plugin`` cannot be used.
    """
    _check_graph(graph, participants)
    take_paths_literally()
    log_dir = log_dir.absolute()
    log_dir.mkdir(parents=True, exist_ok=True)
    arguments = {
        'n_procs': nprocs,
        'memory_gb': memory_gb,
        'n_gpu_procs': n_gpu_procs,
        'omp_nthreads': omp_nthreads,
        'log_dir': str(log_dir),
    }
    plugin = _make_plugin(use_plugin, arguments)
    _check_work_folder(graph.base_dir, plugin)
    recorder = Recorder(participants, log_dir, make_progress(progress, nprocs))
    plugin.recorder = recorder
    local = isinstance(plugin, ResilientPlugin)
    _configure(graph, log_dir, stop_on_first_crash, poll_s=0.0 if local else BATCH_POLL_S)
    with contextlib.ExitStack() as stack:
        stack.callback(recorder.close)
        stack.enter_context(_nipype_log(log_dir / 'nipype.log'))
        stack.enter_context(_each_file_hashed_once())
        check = stack.enter_context(_signals(raise_at_once=not local))
        if isinstance(plugin, ResilientPlugin):
            plugin.check_interrupted = check
            if resource_monitor:
                stack.enter_context(_sampler(plugin.running, log_dir / 'resources.tsv'))
        try:
            _run(graph, plugin, recorder, log_dir)
        except InterruptedRunError as interrupt:
            recorder.stopped = str(interrupt)
            interrupt.outcomes = tuple(recorder.outcomes())
            raise
        return recorder.outcomes()


def _run(graph: Any, plugin: Any, recorder: Recorder, log_dir: Path) -> None:
    """Run; what the recorder knows to have failed needs no exception as well.

    The coordinating process itself writes only to ``log_dir``; where that cannot be, the run
    stops, and what is not done by then says why.
    """
    try:
        with storage_errors(log_dir):
            graph.run(plugin=plugin)
    except StorageError as error:
        recorder.stopped = str(error)
    except KeyboardInterrupt as interrupt:
        raise _interrupted('a signal') from interrupt
    except MsappError:
        raise
    except Exception as error:
        if not recorder.failed:
            raise
        recorder.stopped = f'Stopped before it was complete ({type(error).__name__}: {error}).'


def _check_graph(graph: Any, participants: Mapping[str, str]) -> None:
    if not graph.base_dir:
        raise InternalError(f'{graph.name}: the graph has no work folder (base_dir).')
    children = {name.split('.')[0] for name in graph.list_node_names()}
    missing = sorted(set(participants) - children)
    if missing:
        raise InternalError(f'{graph.name}: no workflow named {", ".join(missing)} in the graph.')


def check_plugin(use_plugin: Path, work_dir: Path) -> None:
    """Refuse what `run_graph` would refuse, before anything is removed for a run.

    Parameters
    ----------
    use_plugin : Path
        Plugin file of nipype, YAML.
    work_dir : Path

    Raises
    ------
    UsageError
        If the plugin, or the work folder with it, cannot be used.
    """
    _check_work_folder(str(work_dir), _make_plugin(use_plugin, {'n_procs': 1, 'memory_gb': 1.0}))


def _check_work_folder(base_dir: str, plugin: Any) -> None:
    """Refuse paths that nipype's batch plugins cannot quote for the batch system."""
    if not isinstance(plugin, ResilientPlugin) and any(sign in str(base_dir) for sign in ' \'"\t'):
        raise UsageError(
            f'--use-plugin: the work folder "{base_dir}" has a space or a quote in its path, '
            'which the batch system would break. Choose another with --work-dir.'
        )


def _configure(graph: Any, log_dir: Path, stop_on_first_crash: bool, *, poll_s: float) -> None:
    """Set nipype's options on this graph alone."""
    graph.config['execution'].update(
        {
            'check_version': False,
            'crashdump_dir': str(log_dir),
            'crashfile_format': 'txt',
            'create_report': False,
            'hash_method': 'content',
            'local_hash_check': True,
            'poll_sleep_duration': poll_s,
            'remove_node_directories': False,
            # With this on, a step's hash would depend on which of its results others use.
            'remove_unnecessary_outputs': False,
            'stop_on_first_crash': stop_on_first_crash,
            # A work folder may be moved or copied; what is in it must not point to the old place.
            'use_relative_paths': True,
        }
    )


def _make_plugin(use_plugin: Path | None, arguments: dict[str, Any]) -> Any:
    if use_plugin is None:
        return ResilientPlugin(arguments)
    name, given = _read_plugin_file(use_plugin)
    try:
        if name in OWN_PLUGINS:
            return ResilientPlugin({**arguments, **given})
        return _find_plugin(name, use_plugin)(plugin_args=given)
    except (TypeError, ValueError) as error:
        raise UsageError(f'{use_plugin}: plugin_args cannot be used: {error}.') from error


def _find_plugin(name: str, use_plugin: Path) -> type:
    from nipype.pipeline import plugins
    from nipype.pipeline.plugins.base import DistributedPluginBase

    found = getattr(plugins, f'{name}Plugin', None)
    if found is None or not issubclass(found, DistributedPluginBase):
        raise UsageError(
            f'{use_plugin}: plugin {name} cannot be used here. '
            'MultiProc, SLURM, SGE, PBS, LSF, OAR and Condor can.'
        )
    return type(found.__name__, (ReportingMixin, found), {})


def _read_plugin_file(path: Path) -> tuple[str, dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise UsageError(f'{path}: cannot read the plugin file ({error.strerror}).') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f'{path}: not a YAML file: {error}.') from error
    if not isinstance(content, dict) or not isinstance(content.get('plugin'), str):
        raise UsageError(f'{path}: needs a line such as "plugin: SLURM".')
    given = content.get('plugin_args') or {}
    if not isinstance(given, dict):
        raise UsageError(f'{path}: plugin_args must be names and values.')
    return content['plugin'], given


@contextlib.contextmanager
def _each_file_hashed_once() -> Iterator[None]:
    """Keep the content hashes of files while a graph runs.

    nipype hashes a file twice for every step that reads it, which is most of the time of a run
    that reuses everything. A file whose size, time of change or identity differs is read again.
    """
    from nipype.interfaces.base import specs

    plain, known = specs.hash_infile, {}

    def remembered(path: Any) -> str | None:
        try:
            status = Path(path).stat()
        except OSError:
            return plain(path)
        key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in known:
            known[key] = plain(path)
        return known[key]

    specs.hash_infile = remembered
    try:
        yield
    finally:
        specs.hash_infile = plain


@contextlib.contextmanager
def _nipype_log(path: Path) -> Iterator[None]:
    """Send nipype's own messages to a file instead of the terminal."""
    logger = logging.getLogger('nipype')
    handlers, propagate = list(logger.handlers), logger.propagate
    file = logging.FileHandler(path, encoding='utf-8')
    file.setFormatter(logging.Formatter('%(asctime)s %(levelname)s %(name)s: %(message)s'))
    logger.handlers[:] = [file]
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.propagate = propagate
        with contextlib.suppress(OSError):  # of a full disk
            file.close()


def _interrupted(by: str) -> InterruptedRunError:
    return InterruptedRunError(
        f'Stopped by {by}. Finished steps are kept: the same command goes on from there.'
    )


@contextlib.contextmanager
def _signals(*, raise_at_once: bool) -> Iterator[Callable[[], None]]:
    """Watch for SIGINT and SIGTERM; gives a function that raises when one came.

    The local plugin asks on every pass, so a signal never breaks into the middle of
    bookkeeping; a second signal, or any with ``raise_at_once``, raises where it comes.
    """
    came: list[str] = []
    stopping = threading.Event()

    def check() -> None:
        if came:
            stopping.set()
            raise _interrupted(came[0])

    def handle(number: int, _frame: object) -> None:
        came.append(signal.Signals(number).name)
        if not stopping.is_set() and (raise_at_once or len(came) > 1):
            stopping.set()
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _sampler(running: Callable[[], list[tuple[int, str, str]]], path: Path) -> Iterator[None]:
    """Write memory and CPU time of every running step, child programs included, each second."""
    done = threading.Event()

    def sample() -> None:
        # Samples are worth no failure: a full disk ends them, not the run.
        with contextlib.suppress(OSError), path.open('w', encoding='utf-8') as stream:
            stream.write('time\tparticipant\tstep\trss_mb\tcpu_s\n')
            _sample(running, stream, done)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sample(
    running: Callable[[], list[tuple[int, str, str]]], stream: IO[str], done: threading.Event
) -> None:
    while not done.wait(SAMPLE_PERIOD_S):
        for pid, participant, step in running():
            try:
                worker = psutil.Process(pid)
                family = [worker, *worker.children(recursive=True)]
                rss = sum(process.memory_info().rss for process in family)
                cpu = sum(sum(process.cpu_times()[:2]) for process in family)
            except psutil.Error:
                continue  # it ended between two questions
            row = (
                f'{time.time():.1f}',
                participant,
                step,
                f'{rss / BYTES_PER_MB:.1f}',
                f'{cpu:.2f}',
            )
            stream.write('\t'.join(tsv_cell(cell) for cell in row) + '\n')
        stream.flush()
