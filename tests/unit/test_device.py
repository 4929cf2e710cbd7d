"""Which GPUs a run uses, and what it says where there are none."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from msapp.errors import MissingDependencyError, UsageError
from msapp.inference import device
from msapp.inference.device import choose_gpus, count_gpus, current_device


@pytest.fixture
def gpus(monkeypatch):
    """Pretend to see a number of GPUs."""

    def _gpus(number):
        monkeypatch.setattr(device, 'count_gpus', lambda: number)

    return _gpus


def test_torch_is_not_imported_where_no_driver_shows(tmp_path):
    code = (
        'import sys; from pathlib import Path; from msapp.inference.device import count_gpus; '
        f'print(count_gpus(Path({str(tmp_path)!r})), "torch" in sys.modules)'
    )
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout == '0 False\n'


@pytest.mark.parametrize('name', ['nvidia0', 'nvidia12', 'dxg'])
def test_torch_counts_where_a_driver_shows(tmp_path, monkeypatch, name):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 3)
    (tmp_path / 'nvidiactl').touch()  # stands in containers that were given no GPU
    assert count_gpus(tmp_path) == 0
    (tmp_path / name).touch()
    assert count_gpus(tmp_path) == 3


@pytest.mark.parametrize(
    ('flag', 'wanted', 'found', 'slots'),
    [
        ('auto', None, 0, 0),
        ('auto', None, 4, 4),
        ('auto', 2, 4, 2),
        ('auto', 0, 4, 0),
        ('cpu', None, 4, 0),
        ('cpu', 0, 4, 0),
        ('cuda', None, 4, 4),
        ('cuda', 1, 4, 1),
    ],
)
def test_a_run_uses_what_is_there_and_no_more_than_wanted(gpus, flag, wanted, found, slots):
    gpus(found)
    assert choose_gpus(flag, wanted) == slots


@pytest.mark.parametrize(
    ('flag', 'wanted', 'found', 'message'),
    [
        ('cuda', None, 0, '--device cuda: no GPU can be used here. In a container '),
        ('auto', 1, 0, '--gpus 1: no GPU can be used here. In a container '),
        ('cuda', 3, 1, '--gpus 3: 1 GPU can be used here. In a container '),
        ('auto', 3, 2, '--gpus 3: 2 GPUs can be used here. In a container '),
    ],
)
def test_more_than_there_is_is_refused(gpus, flag, wanted, found, message):
    gpus(found)
    with pytest.raises(MissingDependencyError) as raised:
        choose_gpus(flag, wanted)
    assert str(raised.value).startswith(message)
    assert '--gpus all' in str(raised.value)
    assert '--nv' in str(raised.value)


@pytest.mark.parametrize(('flag', 'wanted'), [('cpu', 1), ('cuda', 0)])
def test_flags_that_contradict_each_other_are_refused(gpus, flag, wanted):
    gpus(4)
    with pytest.raises(UsageError, match='contradict'):
        choose_gpus(flag, wanted)


def test_a_step_computes_on_the_gpu_it_was_given(monkeypatch):
    monkeypatch.delenv('MSAPP_GPU', raising=False)
    assert current_device() == torch.device('cpu')
    monkeypatch.setenv('MSAPP_GPU', '2')
    assert current_device() == torch.device('cuda:2')
