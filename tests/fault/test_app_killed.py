"""The app under SIGKILL at any moment: nothing broken stays, and the same command goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time

import psutil
import pytest
from app_runs import Call, Started, Undisturbed, damaged, differences, snapshot, temporaries

KINDS = ('worker', 'main process', 'process group')
N_MOMENTS = 10
SEED = 7
# The last moments of a run that is a little faster this time would come too late.
LATEST = 0.95


def moments() -> list[tuple[str, float]]:
    """Draw a moment in each tenth of a run, with what is killed then in turn."""
    draw = random.Random(SEED)
    shares = [LATEST * (number + draw.random()) / N_MOMENTS for number in range(N_MOMENTS)]
    return list(zip(itertools.cycle(KINDS), shares, strict=False))


def kill(run: Started, kind: str, draw: random.Random) -> bool:
    """Kill a part of a run; False if the run was over by then."""
    if kind == 'worker':
        run.wait_for(run.workers)
        workers = run.workers()
        if workers:
            draw.choice(workers).kill()
        return bool(workers)
    if run.ended():
        return False
    (os.killpg if kind == 'process group' else os.kill)(run.process.pid, signal.SIGKILL)
    return True


def check(run: Started, call: Call, kind: str, expected: Undisturbed, said: str) -> None:
    """State what must hold after a kill, and after the same command again."""
    killed = run.end()
    assert damaged(call.out) == [], said
    assert run.survivors() == [], said
    if kind == 'worker':
        assert killed.code == 0, f'{said}: {killed.text}'
    else:
        assert killed.code == -signal.SIGKILL, f'{said}: {killed.text}'
        again = call.run()
        assert again.code == 0, f'{said}, again: {again.text}'
    assert differences(snapshot(call.out), expected.files) == [], said
    assert temporaries(call.out) == [], said


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'share'), moments())
def test_a_run_killed_at_any_moment_leaves_nothing_broken_and_goes_on(
    undisturbed, tmp_path, kind, share
):
    draw = random.Random(share)
    moment_s = share * undisturbed.wall_s
    for attempt in range(4):  # where this run is so much faster that it was over, earlier
        call = Call(undisturbed.call.bids, tmp_path / str(attempt), undisturbed.call.flags)
        run = call.start()
        time.sleep(moment_s)
        if kill(run, kind, draw):
            break
        run.end()
        moment_s *= 0.8
    else:
        pytest.fail(f'the run was always over before {moment_s:.1f} s')
    said = f'after SIGKILL of the {kind} at {moment_s:.2f} s of {undisturbed.wall_s:.1f} s'
    check(run, call, kind, undisturbed, said)


@pytest.mark.parametrize('kind', ['worker', 'process group'])
def test_a_run_killed_while_it_writes_results_goes_on(undisturbed, tmp_path, kind):
    call = undisturbed.copy(tmp_path, *undisturbed.call.flags)
    run, seen = call.start(), []
    run.wait_for(lambda: seen.extend(call.out.glob('sub-*/**/.*.tmp-*')) or seen)
    assert seen, 'the run was over before anything was seen half-written'
    killed = []
    if kind == 'worker':
        for worker in run.workers():  # whichever it is that writes
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
                killed.append(worker.pid)
    else:
        os.killpg(run.process.pid, signal.SIGKILL)
        killed.append(run.process.pid)
    assert killed
    said = f'after SIGKILL of the {kind} that wrote {seen[0].name}'
    check(run, call, kind, undisturbed, said)
