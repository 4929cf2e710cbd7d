"""GPUs: how many there are, how many a run uses, and which one a step was given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msapp.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ['GPU_VARIABLE', 'choose_gpus', 'count_gpus', 'current_device']

# A worker sets this to the index of the slot of a step that was given a GPU, and to nothing
# for any other step; see msapp.engine.worker.
GPU_VARIABLE = 'MSAPP_GPU'
# NVIDIA's driver under Linux, and under Windows' subsystem for Linux.
DEVICE_FILES = ('nvidia[0-9]*', 'dxg')
REMEDY = (
    'In a container give it the GPUs (docker run --gpus all; apptainer run --nv), under SLURM '
    'ask for them (--gres=gpu:1), or leave the flag out to run on the CPU.'
)


def count_gpus(folder: Path = Path('/dev')) -> int:
    """Return how many GPUs PyTorch can use.

    torch, which takes seconds to import, is not asked where ``folder`` shows no device file of
    NVIDIA's driver.
    """
    if not any(next(folder.glob(pattern), None) for pattern in DEVICE_FILES):
        return 0
    import torch

    return torch.cuda.device_count()


def choose_gpus(device: Literal['auto', 'cpu', 'cuda'], wanted: int | None) -> int:
    """Return how many steps may use a GPU at once; each has one to itself.

    Parameters
    ----------
    device : {'auto', 'cpu', 'cuda'}
        Of ``--device``: whatever there is, none, or at least one.
    wanted : int or None
        Of ``--gpus``; None stands for all.

    Raises
    ------
    MissingDependencyError
        If a GPU is asked for and there is none, or more than there are.
    UsageError
        If the two contradict each other.
    """
    if device == 'cpu' and wanted:
        raise UsageError(f'--device cpu and --gpus {wanted} contradict each other: give one.')
    if device == 'cuda' and wanted == 0:
        raise UsageError('--device cuda and --gpus 0 contradict each other: give one.')
    if device == 'cpu' or wanted == 0:
        return 0
    found = count_gpus()
    if wanted is not None and wanted > found:
        raise MissingDependencyError(f'--gpus {wanted}: {_seen(found)}. {REMEDY}')
    if device == 'cuda' and not found:
        raise MissingDependencyError(f'--device cuda: {_seen(found)}. {REMEDY}')
    return found if wanted is None else wanted


def current_device() -> torch.device:
    """Return the device this step was given: a GPU slot's, else the CPU."""
    import torch

    slot = os.environ.get(GPU_VARIABLE)
    return torch.device('cpu') if slot is None else torch.device('cuda', int(slot))


def _seen(found: int) -> str:
    return f'{found or "no"} GPU{"s" if found > 1 else ""} can be used here'
