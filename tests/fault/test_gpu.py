"""GPU slots of the engine. The toy steps need no GPU: they only say which one they were given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 60

# Every participant is a set of steps that do not depend on one another.
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path

def main():
    from gpu_nodes import GpuToy
    from nipype.pipeline import engine as pe
    from msapp.engine.run import run_graph
    job = json.loads(sys.argv[1])
    graph = pe.Workflow('whole', base_dir=job['base'])
    for name, steps in job['spec'].items():
        part = pe.Workflow(name)
        for step, options in steps.items():
            over = options.pop('over', None)
            n_procs = options.pop('n_procs', 1)
            toy = GpuToy(folder=job['folder'], name=step, **options)
            node = pe.MapNode(toy, ['name'], name=step) if over else pe.Node(toy, name=step)
            if over:
                node.inputs.name = over
            node.n_procs = n_procs
            part.add_nodes([node])
        graph.add_nodes([part])
    outcomes = run_graph(graph, participants={name: name for name in job['spec']}, memory_gb=8,
                         omp_nthreads=1, log_dir=Path(job['logs']), **job['options'])
    print(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], default=str))

if __name__ == '__main__':
    main()
"""


@pytest.fixture
def run(tmp_path):
    """Run steps to the end; give outcomes by participant, and the tries of every step."""
    script = tmp_path / 'job.py'
    script.write_text(SCRIPT)

    def _run(spec, *, environment=None, **options):
        folder = tmp_path / 'tries'
        folder.mkdir(exist_ok=True)
        job = {
            'spec': spec,
            'base': str(tmp_path / 'work'),
            'logs': str(tmp_path / 'logs'),
            'folder': str(folder),
            'options': {'nprocs': 3, **options},
        }
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(job)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=TIMEOUT_S,
            env={**os.environ, 'PYTHONPATH': str(HERE), **(environment or {})},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outcomes = {item['participant']: item for item in json.loads(done.stdout.splitlines()[-1])}
        tries = {
            path.name: [json.loads(line) for line in path.read_text().splitlines()]
            for path in folder.iterdir()
        }
        return outcomes, tries

    return _run


def gpu(**options):
    return {'use_gpu': True, **options}


def slots(tries):
    return {name: [slot for _, _, slot in rows] for name, rows in tries.items()}


def overlap(one, two):
    return one[0] < two[1] and two[0] < one[1]


def test_with_one_slot_steps_take_turns_and_others_run_meanwhile(run):
    outcomes, tries = run(
        {
            'one': {
                'a': gpu(mode='meet', partner='cpu'),
                'b': gpu(),
                'cpu': {'mode': 'meet', 'partner': 'a'},
            }
        },
        n_gpu_procs=1,
    )
    assert outcomes['one']['status'] == 'done'
    assert slots(tries) == {'a': ['0'], 'b': ['0'], 'cpu': [None]}
    assert not overlap(tries['a'][0], tries['b'][0])


def test_with_two_slots_steps_of_many_threads_run_at_once_each_on_its_own(run):
    outcomes, tries = run(
        {
            'one': {
                'a': gpu(mode='meet', partner='b', n_procs=3),
                'b': gpu(mode='meet', partner='a', n_procs=3),
            }
        },
        nprocs=6,
        n_gpu_procs=2,
    )
    assert outcomes['one']['status'] == 'done'
    assert sorted(slots(tries)['a'] + slots(tries)['b']) == ['0', '1']


def test_the_parts_of_a_step_over_a_list_take_a_slot_each(run):
    outcomes, tries = run({'one': {'mapped': gpu(over=['x', 'y', 'z'])}}, n_gpu_procs=2)
    assert outcomes['one']['status'] == 'done'
    assert {slot for rows in slots(tries).values() for slot in rows} <= {'0', '1'}
    assert len(tries) == 3
    x, y, z = (tries[name][0] for name in 'xyz')
    assert not (overlap(x, y) and overlap(y, z) and overlap(x, z))


def test_without_a_slot_steps_run_like_any_other(run):
    outcomes, tries = run(
        {'one': {'a': gpu(mode='meet', partner='b'), 'b': gpu(mode='meet', partner='a')}},
        n_gpu_procs=0,
        environment={'MSAPP_GPU': '7'},  # a user's own setting gives nobody a GPU
    )
    assert outcomes['one']['status'] == 'done'
    assert slots(tries) == {'a': [None], 'b': [None]}


def test_a_killed_step_gives_its_slot_back_and_takes_one_again(run):
    outcomes, tries = run({'one': {'a': gpu(mode='die_once')}, 'two': {'b': gpu()}}, n_gpu_procs=1)
    assert {item['status'] for item in outcomes.values()} == {'done'}
    assert slots(tries) == {'a': ['0', '0'], 'b': ['0']}
    assert not any(overlap(row, tries['b'][0]) for row in tries['a'])


def test_a_step_that_fails_gives_its_slot_back(run):
    outcomes, tries = run({'one': {'a': gpu(mode='raise')}, 'two': {'b': gpu()}}, n_gpu_procs=1)
    assert outcomes['one']['error'] == 'a: ValueError: the toy is broken'
    assert outcomes['two']['status'] == 'done'
    assert slots(tries) == {'a': ['0'], 'b': ['0']}


def test_a_result_is_reused_wherever_it_was_computed(run):
    first, _ = run({'one': {'a': gpu()}}, n_gpu_procs=1)
    again, tries = run({'one': {'a': {}}}, n_gpu_procs=0)
    assert (first['one']['steps_run'], again['one']['steps_reused']) == (1, 1)
    assert len(tries['a']) == 1
