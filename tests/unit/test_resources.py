"""Every limit that can bind a process, read from made-up kernel files."""

from __future__ import annotations

import pytest

from msapp.resources import Limits, available_limits

GB = 1024**3


@pytest.fixture
def machine(tmp_path):
    """Build a tree of kernel files: 64 GB available, and what the arguments say."""

    def _machine(files, cgroup=''):
        files = {
            'proc/meminfo': f'MemTotal: {128 * 2**20} kB\nMemAvailable: {64 * 2**20} kB\n',
            'proc/self/cgroup': cgroup,
            **files,
        }
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return _machine


def limits(root, environ=None, affinity=16):
    return available_limits(root, environ or {}, affinity)


def test_without_any_limit_the_affinity_and_the_available_memory_count(machine):
    assert limits(machine({})) == Limits(16, 64.0)


def test_the_total_counts_where_the_kernel_does_not_say_what_is_available(machine):
    root = machine({'proc/meminfo': f'MemTotal: {8 * 2**20} kB\n'})
    assert limits(root).memory_gb == 8


def test_cgroup_v2_quota_and_memory(machine):
    root = machine(
        {
            'sys/fs/cgroup/job/cpu.max': '350000 100000\n',
            'sys/fs/cgroup/job/memory.max': f'{6 * GB}\n',
        },
        cgroup='0::/job\n',
    )
    assert limits(root) == Limits(3, 6.0)


def test_a_limit_on_a_level_above_the_process_binds(machine):
    root = machine(
        {
            'sys/fs/cgroup/slice/cpu.max': '200000 100000\n',
            'sys/fs/cgroup/slice/memory.max': f'{3 * GB}\n',
            'sys/fs/cgroup/slice/job/step/cpu.max': 'max 100000\n',
            'sys/fs/cgroup/slice/job/step/memory.max': 'max\n',
        },
        cgroup='0::/slice/job/step\n',
    )
    assert limits(root) == Limits(2, 3.0)


def test_cgroup_v1_in_its_two_folder_spellings(machine):
    root = machine(
        {
            'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us': '400000\n',
            'sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us': '100000\n',
            'sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes': f'{5 * GB}\n',
        },
        cgroup='4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n',
    )
    assert limits(root) == Limits(4, 5.0)


def test_inside_a_container_the_path_may_exist_only_outside(machine):
    root = machine(
        {
            'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '150000\n',
            'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
            'sys/fs/cgroup/memory/memory.limit_in_bytes': f'{2 * GB}\n',
        },
        cgroup='2:memory:/docker/xyz\n1:cpu:/../../docker/xyz\n',
    )
    assert limits(root) == Limits(1, 2.0)


def test_no_limit_is_written_in_three_ways(machine):
    root = machine(
        {
            'sys/fs/cgroup/cpu/cpu.cfs_quota_us': '-1\n',
            'sys/fs/cgroup/cpu/cpu.cfs_period_us': '100000\n',
            'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
            'sys/fs/cgroup/unified/memory.max': 'max\n',
        },
        cgroup='2:memory:/\n1:cpu:/\n0::/\n',
    )
    assert limits(root) == Limits(16, 64.0)


def test_a_quota_below_one_cpu_still_gives_one(machine):
    root = machine({'sys/fs/cgroup/cpu.max': '50000 100000\n'}, cgroup='0::/\n')
    assert limits(root).n_cpus == 1


@pytest.mark.parametrize(
    ('environ', 'expected'),
    [
        ({'SLURM_CPUS_PER_TASK': '4', 'SLURM_CPUS_ON_NODE': '8'}, Limits(4, 64.0)),
        ({'SLURM_CPUS_ON_NODE': '8', 'SLURM_MEM_PER_NODE': '20480'}, Limits(8, 20.0)),
        ({'SLURM_CPUS_ON_NODE': '8', 'SLURM_MEM_PER_CPU': '2048'}, Limits(8, 16.0)),
        ({'SLURM_CPUS_PER_TASK': '2', 'SLURM_MEM_PER_CPU': '2048'}, Limits(2, 4.0)),
        ({'SLURM_MEM_PER_NODE': '0'}, Limits(16, 64.0)),
        ({'SLURM_MEM_PER_NODE': 'unknown', 'SLURM_CPUS_PER_TASK': ''}, Limits(16, 64.0)),
    ],
)
def test_slurm_allocations(machine, environ, expected):
    assert limits(machine({}), environ) == expected


def test_the_affinity_binds_when_it_is_the_smallest(machine):
    assert limits(machine({}), {'SLURM_CPUS_PER_TASK': '8'}, affinity=3).n_cpus == 3
