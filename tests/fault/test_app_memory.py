"""The app in less memory than a step needs: the step is named; with more memory all is done."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_runs import Call, damaged, differences, snapshot, temporaries

# Enough for what coordinates, for reading and N4; too little for ANTs.
LIMIT_BYTES = 420 * 2**20
CGROUPS = Path('/sys/fs/cgroup')
KILLED = 'brain_extraction: its worker was killed by SIGKILL, twice. The kernel kills a process'
ADVICE = 'give the run more memory, fewer --nprocs, or --low-mem.'


@pytest.fixture
def little_memory() -> Iterator[tuple[str, ...]]:
    """Make a control group with little memory; give what makes a command run in it."""
    second = (CGROUPS / 'cgroup.controllers').exists()
    root = CGROUPS if second else CGROUPS / 'memory'
    limit, swap = (
        ('memory.max', 'memory.swap.max')
        if second
        else ('memory.limit_in_bytes', 'memory.memsw.limit_in_bytes')
    )
    group = root / f'msapp-test-{uuid.uuid4().hex}'
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT_BYTES))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f'no group with a limit on memory can be made here ({error}); run as root')
    with contextlib.suppress(OSError):  # where there is no swap, or it is not counted
        (group / swap).write_text('0' if second else str(LIMIT_BYTES))
    yield 'sh', '-c', f'echo $$ > {group}/cgroup.procs && exec "$@"', 'sh'
    for _ in range(50):  # the last process may still be on its way out
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


@pytest.mark.slow
def test_a_step_that_needs_more_memory_than_there_is_is_named_and_costs_nothing_else(
    undisturbed, little_memory, tmp_path
):
    call = Call(
        undisturbed.call.bids, tmp_path / 'out', undisturbed.call.flags, prefix=little_memory
    )
    run = call.start()
    answer = run.end()
    assert answer.code == 1, answer.text
    assert 'Traceback' not in answer.text
    line = next(line for line in answer.out.splitlines() if line.startswith('sub-01: failed. '))
    assert KILLED in line
    assert line.endswith(ADVICE)
    assert 'one more try, alone' in answer.err
    assert KILLED in (call.out / 'sub-01.html').read_text(encoding='utf-8')
    assert run.survivors() == []
    assert damaged(call.out) == []
    assert temporaries(call.out) == []

    call.prefix = ()
    again = call.run()
    assert again.code == 0, again.text
    assert ', 0 reused' not in again.out
    assert differences(snapshot(call.out), undisturbed.files) == []
