"""The nipype plugin that runs steps: a dead worker fails one step, and nothing ever hangs.

nipype's own ``MultiProcPlugin`` waits for ever when a worker is killed, for instance by the
kernel for its memory: the done-callback of its pool raises before the task is marked done.
Its scheduling is kept here; its pool is replaced by workers that each have their own pipe.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.base import DistributedPluginBase
from nipype.pipeline.plugins.multiproc import MultiProcPlugin

from msapp.engine.record import Recorder
from msapp.engine.worker import Reply, Worker, WorkerDiedError, thread_environment
from msapp.errors import InternalError

# How long one wait for a worker lasts; an answer or a death ends it at once.
POLL_S = 0.5
# A worker that still holds more than this after a step is replaced: nipype counts the
# memory of running steps only, so idle workers must not keep much.
RETIRE_RSS_MB = 1500.0
# Passes without any running, finished or started step before the scheduler gives up.
MAX_STALLED_PASSES = 200
STALL_SLEEP_S = 0.02
MAX_ATTEMPTS = 2


@dataclass
class _Task:
    payload: bytes
    node: Any
    attempts: int = 0
    gpu: int | None = None


class WorkerPool:
    """Workers that are started when needed, kept while useful, and replaced when they die."""

    def __init__(self, *, omp_nthreads: int, log_dir: Path | None) -> None:
        """Start nothing yet."""
        self._environment = thread_environment(omp_nthreads)
        self._log_dir = log_dir
        self._cwd = _existing_cwd()
        self._started = 0
        self._idle: list[Worker] = []
        self.busy: dict[int, Worker] = {}

    def run(self, taskid: int, payload: bytes, gpu: int | None = None) -> None:
        """Give a task to the worker that was used last, or to a new one.

        A worker that was on the same GPU comes first, and for other tasks one that was on
        none: what CUDA keeps in every process that uses it is then taken by few.
        """
        for worker in [worker for worker in self._idle if not worker.process.is_alive()]:
            self._idle.remove(worker)
            worker.kill()
        fit = [worker for worker in self._idle if worker.gpu == gpu] or self._idle
        worker = fit[-1] if fit else self._start()
        if worker in self._idle:
            self._idle.remove(worker)
        self.busy[taskid] = worker
        worker.send(payload, gpu)

    def collect(self, timeout_s: float) -> list[tuple[int, Reply | str]]:
        """Wait for the next events.

        Returns
        -------
        list of tuple
            Task number, and its `Reply` or, when its worker died, how that happened.
        """
        owner: dict[Any, int] = {
            item: taskid for taskid, worker in self.busy.items() for item in worker.waitables
        }
        ready = connection.wait(list(owner), timeout_s) if owner else []
        events: list[tuple[int, Reply | str]] = []
        for taskid in dict.fromkeys(owner[item] for item in ready):
            worker = self.busy.pop(taskid)
            reply = worker.reply()
            if reply is None:
                worker.kill()
                events.append((taskid, worker.death()))
                continue
            events.append((taskid, reply))
            # After an error on a GPU, CUDA may refuse everything else in that process.
            broken = worker.gpu is not None and reply.traceback is not None
            if broken or reply.usage.rss_mb > RETIRE_RSS_MB:
                worker.kill()
            else:
                self._idle.append(worker)
        return events

    def drop_idle(self) -> None:
        """Give back the memory of workers that have nothing to do."""
        while self._idle:
            self._idle.pop().kill()

    def stop(self) -> None:
        """End every worker: idle ones by themselves, busy ones by force."""
        for worker in self.busy.values():
            worker.kill()
        self.busy.clear()
        while self._idle:
            self._idle.pop().stop()

    def kill(self) -> None:
        """End every worker now."""
        for worker in [*self.busy.values(), *self._idle]:
            worker.kill()
        self.busy.clear()
        self._idle.clear()

    def _start(self) -> Worker:
        self._started += 1
        log_file = None
        if self._log_dir is not None:
            folder = self._log_dir / 'workers'
            folder.mkdir(parents=True, exist_ok=True)
            log_file = folder / f'worker-{self._started:03}.log'
        return Worker(cwd=self._cwd, log_file=log_file, environment=self._environment)


class ReportingMixin(DistributedPluginBase):
    """Tell a `Recorder` what happens to each step; goes before any distributed plugin."""

    recorder: Recorder

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Count the steps, then run them."""
        self._owners: dict[str, Any] = {}
        self.recorder.begin(graph.nodes())
        super().run(graph, config, updatehash=updatehash)

    def whole(self, node: Any) -> Any:
        """Return the step that a node is, or is a part of (a ``MapNode`` runs as parts)."""
        return self._owners.get(node.output_dir(), node)

    def _submit_mapnode(self, jobid: int) -> bool:
        known = len(self.procs)
        submitted = super()._submit_mapnode(jobid)
        for part in self.procs[known:]:
            self._owners[part.output_dir()] = self.procs[jobid]
        return bool(submitted)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        super()._task_finished_cb(jobid, cached=cached)
        if jobid not in self.mapnodesubids:  # the parts of a step are not steps
            self.recorder.finished(self.procs[jobid], reused=cached)

    def _report_crash(self, node: Any, result: Any = None) -> Any:
        lines = result['traceback'] if result is not None else format_exception(*sys.exc_info())
        text = ''.join(lines)
        if result is not None:
            # nipype appends to the traceback in place, and takes it to be a list.
            result = {**result, 'traceback': text.splitlines(keepends=True)}
        crash_file = super()._report_crash(node, result=result)
        self.recorder.crashed(self.whole(node), text, Path(crash_file))
        return crash_file


class ResilientPlugin(ReportingMixin, MultiProcPlugin):
    """Run steps in workers; survive the death of any of them.

    A step whose worker dies is tried once more, alone, in a new worker, when everything that
    was running has ended: a step killed for its memory then has all of it. If that worker
    dies too the step has failed, and what does not depend on it goes on.

    A step with ``use_gpu`` takes one of ``n_gpu_procs`` GPU slots, whatever its ``n_procs``,
    and learns its number from the variable ``MSAPP_GPU``. Where there is no slot at all it
    runs without, like any other.

    ``plugin_args``: ``n_procs``, ``memory_gb``, ``n_gpu_procs``, ``omp_nthreads`` and
    ``log_dir`` (text). Steps that ask for more than there is run alone.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        """Take the limits; nothing is started before `run`.

        Raises
        ------
        TypeError, ValueError
            If they are no numbers, or no step may run.
        """
        # Not MultiProcPlugin's: it makes the pool that is replaced here.
        DistributedPluginBase.__init__(self, plugin_args=plugin_args)
        self.processors = int(self.plugin_args['n_procs'])
        if self.processors < 1:
            raise ValueError(f'n_procs must be at least 1, got {self.processors}')
        self.memory_gb = float(self.plugin_args['memory_gb'])
        if not self.memory_gb > 0:
            raise ValueError(f'memory_gb must be above 0, got {self.memory_gb:g}')
        slots = int(self.plugin_args.get('n_gpu_procs', 0))
        if slots < 0:
            raise ValueError(f'n_gpu_procs must be at least 0, got {slots}')
        # nipype takes min(n_procs, n_gpu_procs) slots for a step: one, or none at all.
        self.n_gpu_procs = self.n_gpus_visible = min(slots, 1)
        self._free_gpus = list(range(slots))
        self.raise_insufficient = False
        log_dir = self.plugin_args.get('log_dir')
        self.pool = WorkerPool(
            omp_nthreads=int(self.plugin_args.get('omp_nthreads', 1)),
            log_dir=Path(log_dir) if log_dir else None,
        )
        self.check_interrupted: Callable[[], None] = lambda: None
        self._log = logging.getLogger('msapp.engine')
        self._stats = None
        self._taskid = 0
        self._tasks: dict[int, _Task] = {}
        self._taskresult: dict[int, dict[str, Any]] = {}
        self._retries: list[int] = []
        self._alone: int | None = None
        self._events = 0
        self._stalled = 0

    def run(self, graph: Any, config: Any, updatehash: bool = False) -> None:
        """Run a graph; no worker is left when this returns or raises."""
        for node in graph.nodes():
            # Nothing that can be killed or get stuck runs in the process that coordinates.
            node.run_without_submitting = False
        # nipype collects garbage on every pass; with what is alive now set apart it is quick.
        gc.collect()
        gc.freeze()
        try:
            super().run(graph, config, updatehash=updatehash)
        finally:
            self.pool.kill()
            gc.unfreeze()

    def running(self) -> list[tuple[int, str, str]]:
        """Return process id, participant and step of every busy worker."""
        pairs = [(worker, self._tasks.get(id_)) for id_, worker in list(self.pool.busy.items())]
        return [
            (worker.process.pid or 0, *self.recorder.label(self.whole(task.node)))
            for worker, task in pairs
            if task is not None
        ]

    def _prerun_check(self, graph: Any) -> None:
        """Skip nipype's: what asks for more than there is runs alone."""

    def _check_resources(self, running_tasks: Any) -> tuple[float, int, int]:
        memory_gb, processors, _ = super()._check_resources(running_tasks)
        return memory_gb, processors, len(self._free_gpus)

    def _postrun_check(self) -> None:
        self.pool.stop()

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        if getattr(node.interface, 'terminal_output', '') == 'stream':
            node.interface.terminal_output = 'allatonce'
        try:
            payload = bytes(ForkingPickler.dumps((node, updatehash)))
        except Exception:  # noqa: BLE001 - any class may refuse; it becomes the step's failure
            self._fail(self._taskid, format_exception(*sys.exc_info()))
        else:
            self._tasks[self._taskid] = _Task(payload, node)
            self._start(self._taskid)
        return self._taskid

    def _start(self, taskid: int) -> None:
        task = self._tasks[taskid]
        task.attempts += 1
        if self._free_gpus and task.node.is_gpu_node():
            task.gpu = self._free_gpus.pop(0)
        self.recorder.started(self.whole(task.node))
        self.pool.run(taskid, task.payload, task.gpu)

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        return self._taskresult.get(taskid)

    def _clear_task(self, taskid: int) -> None:
        self._taskresult.pop(taskid, None)
        self._tasks.pop(taskid, None)

    def _local_hash_check(self, jobid: int, graph: Any) -> Any:
        """Let a step run again whose result, or a file of it, is gone or damaged."""
        node = self.procs[jobid]
        try:
            node.result  # noqa: B018 - reading it makes sure that its files exist
        except FileNotFoundError:
            pass
        except Exception:  # noqa: BLE001 - of a damaged pickle, any
            self._log.warning('%s: its earlier result is not whole; it is made anew', node)
            Path(node.output_dir(), f'result_{node.name}.pklz').unlink(missing_ok=True)
        return super()._local_hash_check(jobid, graph)

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        self._events += 1
        super()._task_finished_cb(jobid, cached=cached)

    def _clean_queue(self, jobid: int, graph: Any, result: Any = None) -> Any:
        self._events += 1
        return super()._clean_queue(jobid, graph, result=result)

    def _sort_jobs(self, jobids: Any, scheduler: str = 'tsort') -> list[int]:
        """Order by participant, so that the first are complete while others wait."""
        return sorted(jobids, key=lambda jobid: (self.recorder.rank(self.procs[jobid]), jobid))

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        """Submit what is ready, then wait until something happens."""
        self.check_interrupted()
        before = (self._events, self._taskid, len(self.procs))
        if self._retries:
            if not self.pool.busy:
                self.pool.drop_idle()
                self._alone = self._retries.pop(0)
                self._start(self._alone)
        elif self._alone not in self.pool.busy:
            super()._send_procs_to_workers(updatehash=updatehash, graph=graph)
        moved = before != (self._events, self._taskid, len(self.procs))
        for taskid, event in self.pool.collect(0.0 if moved else POLL_S):
            self._take(taskid, event)
        if moved or self.pool.busy or self._taskresult or self._retries:
            self._stalled = 0
        else:
            self._stall()

    def _take(self, taskid: int, event: Reply | str) -> None:
        task = self._tasks[taskid]
        if task.gpu is not None:
            self._free_gpus = sorted([*self._free_gpus, task.gpu])
            task.gpu = None
        if isinstance(event, Reply):
            self.recorder.measured(self.whole(task.node), event.usage)
            self._taskresult[taskid] = {
                'result': None,
                'traceback': event.traceback,
                'taskid': taskid,
            }
            return
        participant, step = self.recorder.label(self.whole(task.node))
        if task.attempts < MAX_ATTEMPTS:
            self._log.warning('%s %s: its worker %s; one more try, alone', participant, step, event)
            self._retries.append(taskid)
            return
        name = f'{WorkerDiedError.__module__}.{WorkerDiedError.__qualname__}'
        message = f'{step}: its worker {event}, twice. {WorkerDiedError.advice}'
        self._fail(taskid, [f'{name}: {message}\n'])

    def _fail(self, taskid: int, lines: list[str]) -> None:
        self._taskresult[taskid] = {'result': None, 'traceback': lines, 'taskid': taskid}

    def _stall(self) -> None:
        """Give up rather than wait for ever when nipype's bookkeeping has no way on."""
        if all(self.proc_done) and not any(self.proc_pending):
            return
        self._stalled += 1
        time.sleep(STALL_SLEEP_S)
        if self._stalled > MAX_STALLED_PASSES:
            waiting = [
                node.fullname
                for node, done in zip(self.procs, self.proc_done, strict=True)
                if not done
            ]
            raise InternalError(f'No step can be started, yet these are left: {waiting[:5]}.')


def _existing_cwd() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path('/')
