"""The engine under faults. Every run is a process of its own, so a hang fails by its timeout."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 40

# A participant is a chain first -> second -> third; ``spec`` says what is odd about which step.
SCRIPT = """
import dataclasses, json, logging, sys
from pathlib import Path

def build(spec, base):
    from nipype.pipeline import engine as pe
    from nodes import Toy
    graph = pe.Workflow('whole', base_dir=base)
    for name, steps in spec.items():
        part = pe.Workflow(name)
        before = None
        for step, options in steps.items():
            over = options.pop('over', None)
            if over:
                node = pe.MapNode(Toy(**options), iterfield=['value'], name=step)
                node.inputs.value = over
            else:
                node = pe.Node(Toy(**options), name=step, run_without_submitting=True)
                node.n_procs = 9 if node.inputs.mode == "allocate" else 1
            part.add_nodes([node])
            if before is not None:
                part.connect(before, 'value', node, 'value')
            before = node
        graph.add_nodes([part])
    return graph

def main():
    from msapp.engine.run import run_graph
    from msapp.errors import InterruptedRunError
    from msapp.logs import setup_logging
    job = json.loads(sys.argv[1])
    logs = Path(job['logs'])
    setup_logging(logs)
    graph = build(job['spec'], job['base'])
    if job['options'].get('use_plugin'):
        job['options']['use_plugin'] = Path(job['options']['use_plugin'])
    labels = {name: name.replace('sub_', 'sub-') for name in job['spec']}
    try:
        outcomes = run_graph(graph, participants=labels, memory_gb=4, omp_nthreads=1, log_dir=logs,
                             **job['options'])
    except InterruptedRunError as error:
        print('INTERRUPTED', error, [outcome.status for outcome in error.outcomes])
        sys.exit(error.exit_code)
    print(json.dumps([dataclasses.asdict(outcome) for outcome in outcomes], default=str))

if __name__ == '__main__':
    main()
"""

CHAIN = {'first': {}, 'second': {}, 'third': {}}


def chain(**changes):
    return {step: changes.get(step, {}) for step in CHAIN}


@pytest.fixture
def start(tmp_path):
    """Start a run in its own process; give it and its folder of logs."""
    script = tmp_path / 'job.py'
    script.write_text(SCRIPT)
    processes = []

    def _start(spec, run='run', **options):
        logs = tmp_path / run
        job = {
            'spec': spec,
            'base': str(tmp_path / 'work'),
            'logs': str(logs),
            'options': {'nprocs': 2, **options},
        }
        process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(HERE)},
        )
        processes.append(process)
        return process, logs

    yield _start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start):
    """Run to the end; give the outcomes by participant and the rows of timings.tsv."""

    def _run(spec, run='run', **options):
        process, logs = start(spec, run, **options)
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f'the engine hangs: {process.communicate()[1]}')
        assert process.returncode == 0, err
        with (logs / 'timings.tsv').open() as stream:
            rows = list(csv.DictReader(stream, delimiter='\t'))
        outcomes = {item['participant']: item for item in json.loads(out.splitlines()[-1])}
        return outcomes, rows, err

    return _run


def test_a_killed_worker_fails_its_step_and_nothing_else(run):
    outcomes, _, log = run(
        {'sub_01': chain(second={'mode': 'die'}), 'sub_02': chain(first={'mode': 'nap'})}
    )
    assert outcomes['sub-02']['status'] == 'done'
    failed = outcomes['sub-01']
    assert (failed['status'], failed['failed_step'], failed['steps_run']) == ('failed', 'second', 1)
    assert failed['exit_code'] == 1
    assert failed['error'].startswith('second: its worker was killed by SIGKILL, twice.')
    assert failed['error'].endswith('give the run more memory, fewer --nprocs, or --low-mem.')
    assert Path(failed['crash_file']).suffix == '.txt'
    assert 'SIGKILL' in Path(failed['crash_file']).read_text()
    assert 'sub-01 FAILED: second: its worker was killed' in log


def test_a_worker_killed_once_is_tried_again(run, tmp_path):
    marker = tmp_path / 'marker'
    outcomes, _, log = run(
        {
            'sub_01': chain(second={'mode': 'die_once', 'marker': str(marker)}),
            'sub_02': chain(second={'mode': 'nap'}),
        }
    )
    assert {item['status'] for item in outcomes.values()} == {'done'}
    assert marker.read_text() == 'xx'
    assert 'one more try, alone' in log


def test_a_killed_worker_costs_its_sibling_nothing(run, tmp_path):
    marker = tmp_path / 'sibling'
    run(
        {
            'sub_01': chain(first={'mode': 'die'}),
            'sub_02': chain(first={'mode': 'nap', 'marker': str(marker)}),
        }
    )
    assert marker.read_text() == 'x'  # ran once, through the other's death


def test_an_exception_stops_one_participant(run):
    outcomes, rows, _ = run({'sub_01': chain(second={'mode': 'raise'}), 'sub_02': chain()})
    assert outcomes['sub-02']['status'] == 'done'
    assert outcomes['sub-01']['error'] == 'second: ValueError: the toy is broken'
    assert outcomes['sub-01']['exit_code'] == 70
    status = {(row['participant'], row['step']): row['status'] for row in rows}
    assert status[('sub-01', 'second')] == 'failed'
    assert ('sub-01', 'third') not in status


def test_a_step_without_memory_is_named_with_advice_and_the_others_go_on(run):
    outcomes, _, _ = run({'sub_01': chain(second={'mode': 'exhaust'}), 'sub_02': chain()})
    assert outcomes['sub-02']['status'] == 'done'
    failed = outcomes['sub-01']
    assert (failed['failed_step'], failed['exit_code']) == ('second', 1)
    assert failed['error'].startswith('second: memory ran out (Unable to allocate 1.00 EiB ')
    assert failed['error'].endswith('). Give the run more memory, fewer --nprocs, or --low-mem.')


def test_an_error_of_ours_comes_through_alone(run):
    outcomes, _, _ = run({'sub_01': chain(second={'mode': 'explain'})}, nprocs=1)
    assert outcomes['sub-01']['error'] == (
        'sub-02 ses-1 FLAIR: 3 volumes found, one is needed.\nName it: really.'
    )
    assert outcomes['sub-01']['exit_code'] == 65


def test_a_second_run_reuses_all_and_a_changed_input_only_what_does_not_follow(run, tmp_path):
    marker, source = tmp_path / 'marker', tmp_path / 'number.txt'
    source.write_text('1')
    spec = {
        'sub_01': chain(
            first={'marker': str(marker)}, second={'marker': str(marker), 'in_file': str(source)}
        ),
    }
    first = run(spec)[0]['sub-01']
    assert (first['steps_run'], first['steps_reused']) == (3, 0)

    os.utime(source, (1, 1))  # another date, the same content
    again, rows, _ = run(spec, 'again')
    assert (again['sub-01']['steps_run'], again['sub-01']['steps_reused']) == (0, 3)
    assert {row['status'] for row in rows} == {'reused'}
    assert marker.read_text() == 'xx'

    source.write_text('5')
    changed, rows, _ = run(spec, 'changed')
    assert (changed['sub-01']['steps_run'], changed['sub-01']['steps_reused']) == (2, 1)
    assert [(row['step'], row['status']) for row in rows] == [
        ('first', 'reused'),
        ('second', 'done'),
        ('third', 'done'),
    ]
    assert marker.read_text() == 'xxx'


@pytest.mark.parametrize('broken', [False, True])
def test_a_step_whose_result_was_lost_runs_again_and_nothing_else_fails(run, tmp_path, broken):
    """As where a cluster empties its scratch folder, or the power fails while a file is written."""
    spec = {'sub_01': chain(), 'sub_02': chain(), 'sub_03': chain()}
    if broken:
        spec['sub_00'] = chain(second={'mode': 'raise'})
    run(spec)
    work = tmp_path / 'work/whole'
    (work / 'sub_01/first/value.txt').unlink()
    (work / 'sub_02/first/result_first.pklz').write_bytes(b'')
    outcomes, rows, _ = run(spec, 'again')
    assert [outcomes[f'sub-0{number}']['status'] for number in (1, 2, 3)] == ['done'] * 3
    again = {(row['participant'], row['step']) for row in rows if row['status'] == 'done'}
    assert {('sub-01', 'first'), ('sub-02', 'first')} <= again
    assert not any(participant == 'sub-03' for participant, _ in again)
    assert (work / 'sub_01/first/value.txt').read_text() == '1'


def test_stop_on_first_crash_leaves_the_others_not_run(run):
    outcomes, _, _ = run(
        {'sub_01': chain(first={'mode': 'raise'}), 'sub_02': chain(second={'mode': 'sleep'})},
        stop_on_first_crash=True,
    )
    assert outcomes['sub-01']['status'] == 'failed'
    assert outcomes['sub-02']['status'] == 'not run'
    assert outcomes['sub-02']['exit_code'] == 1


def test_a_step_that_asks_for_more_than_there_is_runs_alone_and_is_measured(run):
    _, rows, _ = run({'sub_01': {'only': {'mode': 'allocate'}, 'small': {}}}, nprocs=1)
    usage = {row['step']: row for row in rows}
    assert float(usage['only']['cpu_s']) >= 0.3
    assert float(usage['only']['wall_s']) >= 0.3
    grown = float(usage['only']['peak_rss_mb']) - float(usage['small']['peak_rss_mb'])
    assert 150 < grown < 300  # 200 MB of ones, given back before the next step


def test_a_step_over_a_list_counts_once_and_fails_as_one(run):
    spec = {
        'sub_01': {'mapped': {'over': [1, 2, 3]}},
        'sub_02': {'mapped': {'over': [1, 2], 'mode': 'raise'}},
    }
    outcomes, rows, _ = run(spec)
    assert (outcomes['sub-01']['steps_total'], outcomes['sub-01']['steps_run']) == (1, 1)
    assert (outcomes['sub-02']['status'], outcomes['sub-02']['failed_step']) == ('failed', 'mapped')
    assert [row['step'] for row in rows] == ['mapped', 'mapped']
    again, _, _ = run({'sub_01': spec['sub_01']}, 'again')
    assert again['sub-01']['steps_reused'] == 1


def test_a_finished_graph_of_100_steps_is_passed_in_under_3_s(run):
    spec = {f'sub_{i}': {f'step{j}': {} for j in range(20)} for i in range(5)}
    run(spec)
    outcomes, _, _ = run(spec, 'again')
    assert sum(item['steps_reused'] for item in outcomes.values()) == 100
    assert max(item['wall_s'] for item in outcomes.values()) < 3
    assert sum(item['wall_s'] for item in outcomes.values()) < 3


def test_a_plugin_file_can_give_the_limits_and_a_useless_one_is_refused(start, run, tmp_path):
    plugin = tmp_path / 'plugin.yml'
    plugin.write_text('plugin: LegacyMultiProc\nplugin_args: {n_procs: 1, memory_gb: 2}\n')
    outcomes, _, _ = run({'sub_01': chain()}, use_plugin=str(plugin))
    assert outcomes['sub-01']['status'] == 'done'
    assert 'Free processors: 1/1' in (tmp_path / 'run' / 'nipype.log').read_text()
    plugin.write_text('plugin: Linear\n')
    process, _ = start({'sub_01': chain()}, use_plugin=str(plugin))
    assert 'UsageError: ' in process.communicate(timeout=TIMEOUT_S)[1]


def test_the_live_table_and_the_monitor_leave_their_files(run, tmp_path):
    outcomes, _, _ = run(
        {'sub_01': {'only': {'mode': 'nap'}, 'next': {'mode': 'nap'}}},
        progress=True,
        resource_monitor=True,
    )
    assert outcomes['sub-01']['status'] == 'done'
    log = (tmp_path / 'run' / 'msapp.log').read_text()
    assert 'sub-01 started: 2 steps' in log
    assert 'sub-01 [1/2] only 1.0 s' in log
    assert 'sub-01 done: 2 of 2 steps (0 reused)' in log
    rows = (tmp_path / 'run' / 'resources.tsv').read_text().splitlines()
    assert rows[0].split('\t') == ['time', 'participant', 'step', 'rss_mb', 'cpu_s']
    assert rows[1].split('\t')[1:3] == ['sub-01', 'only']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('mode', ['sleep', 'compute'])
def test_a_signal_ends_the_run_and_every_worker(start, tmp_path, number, mode):
    markers = [tmp_path / 'one', tmp_path / 'two']
    process, _ = start(
        {
            f'sub_{index}': {'only': {'mode': mode, 'marker': str(marker)}}
            for index, marker in enumerate(markers)
        }
    )
    _wait_for(markers, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    begin = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert time.monotonic() - begin < 10
    assert process.returncode == 130, err
    assert f'INTERRUPTED Stopped by {number.name}.' in out
    assert "['not run', 'not run']" in out
    assert psutil.wait_procs(children, timeout=3)[1] == []


def test_workers_do_not_outlive_a_killed_parent(start, tmp_path):
    marker = tmp_path / 'one'
    process, _ = start({'sub_01': {'only': {'mode': 'compute', 'marker': str(marker)}}})
    _wait_for([marker], process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    assert psutil.wait_procs(children, timeout=5)[1] == []


def _wait_for(markers, process):
    end = time.monotonic() + TIMEOUT_S
    while not all(marker.exists() for marker in markers):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, 'the steps never started'
        time.sleep(0.05)
