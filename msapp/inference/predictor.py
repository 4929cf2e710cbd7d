"""Running a network over a whole image by sliding windows, on a GPU while it has the memory."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from msapp.inference.dropout import set_dropout

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ['Measure', 'measure_samples', 'predict']

# What several samples of a window say: logits (B, C_out, I, J, K) of each to maps (B, M, I, J, K).
Measure = Callable[[Iterator[np.ndarray]], np.ndarray]

# A window that does not fit the memory of a GPU is halved, to a multiple of this, and never
# below what leaves a network some context.
WINDOW_STEP = 16
MIN_WINDOW = 32
LEFT_RIGHT = 0  # axis of the volume, whose axes point right, anterior, superior
# What CUDA's libraries say instead of raising torch.OutOfMemoryError.
OUT_OF_MEMORY_SIGNS = ('out of memory', 'ALLOC_FAILED')


@dataclass(frozen=True)
class _Plan:
    """How one pass is done."""

    device: torch.device
    window: tuple[int, int, int]
    batch: int
    overlap: float
    flips: tuple[int, ...]
    with_variance: bool


@dataclass(frozen=True)
class _Sampling:
    """Several passes with dropout over each window."""

    samples: int
    seed: int
    measure: Measure


def _run(
    network: nn.Module, channels: np.ndarray, asked: _Plan, sampling: _Sampling | None = None
) -> np.ndarray:
    """Go over an image as `_infer`, with less memory where it runs out."""
    import torch

    _check(network, channels, asked)
    volume = torch.from_numpy(np.ascontiguousarray(channels, dtype=np.float32))[None]
    plan = asked
    while True:
        try:
            return _infer(network, volume, plan, sampling)
        except RuntimeError as error:
            if plan.device.type == 'cpu' or not _is_out_of_memory(error):
                raise
        # Outside of the handler, whose traceback would keep the tensors of the pass.
        torch.cuda.empty_cache()
        plan = _smaller(network, asked, plan)


def _check(network: nn.Module, channels: np.ndarray, plan: _Plan) -> None:
    """Check that the image and the plan fit the network."""
    if channels.ndim != 4:
        raise ValueError(f'channels must be (C, I, J, K), got {channels.ndim} axes')
    if not np.isfinite(channels).all():
        raise ValueError('channels must be finite')
    divisor = getattr(network, 'divisor', 1)
    if any(side % divisor for side in plan.window):
        raise ValueError(f'window must be multiples of {divisor}, got {plan.window}')
    if plan.batch < 1:
        raise ValueError(f'batch must be at least 1, got {plan.batch}')


def _smaller(network: nn.Module, asked: _Plan, plan: _Plan) -> _Plan:
    """Return what to try next on a GPU that ran out of memory, and say so."""
    import torch

    step = math.lcm(WINDOW_STEP, getattr(network, 'divisor', 1))
    window = tuple(_halved(side, step) for side in plan.window)
    if plan.batch > 1:
        following = replace(plan, batch=plan.batch // 2)
        says = f'trying {following.batch} windows at once instead of {plan.batch}'
    elif plan.window == asked.window and window != plan.window:
        following = replace(plan, window=(window[0], window[1], window[2]))
        says = f'trying windows of {window} voxels instead of {plan.window}, which changes '
        says += 'results a little'
    else:
        # As if the CPU had been asked for from the start: the same result.
        following = replace(asked, device=torch.device('cpu'))
        says = 'going on on the CPU, which is slower'
    logging.getLogger('msapp.inference').warning('%s: out of memory; %s.', plan.device, says)
    return following


def predict(
    network: nn.Module,
    channels: np.ndarray,
    *,
    window: tuple[int, int, int],
    overlap: float = 0.5,
    batch: int = 1,
    device: torch.device | str = 'cpu',
    flips: bool | Sequence[int] = False,
    with_variance: bool = False,
) -> np.ndarray:
    """Run a network over an image.

    Windows are blended with Gaussian weights; an image smaller than the window is padded with
    zeros. On a GPU with bfloat16 arithmetic the network runs in that. When a GPU runs out of
    memory, fewer windows are taken at once, then windows of half the side (once), then the
    CPU, with a warning each; a CPU that runs out of memory is an error.

    Parameters
    ----------
    network : torch.nn.Module
        Maps ``(B, C, I, J, K)`` to logits ``(B, C_out, I, J, K)``. It is moved to the device
        and left there, in ``eval`` mode.
    channels : (C, I, J, K) ndarray
        Normalised intensities, axes pointing right, anterior, superior.
    window : tuple of int
        Sides of the window, voxels: multiples of the network's ``divisor``.
    overlap : float
        Of neighbouring windows, in [0, 1).
    batch : int
        Windows at once.
    device : torch.device or str
        See `msapp.inference.device.current_device`.
    flips : bool or sequence of int
        Average the logits over mirrored images: True for left-right, or axes of the volume,
        in all their combinations.
    with_variance : bool
        Add the network's ``log_variance`` behind the logits.

    Returns
    -------
    (C_out, I, J, K) ndarray of float32
        Logits; with ``with_variance`` (2 * C_out, I, J, K).

    Raises
    ------
    ValueError
        If image, window or batch do not fit.
    """
    plan = _make_plan(window, overlap, batch, device, flips, with_variance)
    network.eval()
    return _run(network, channels, plan)


def measure_samples(
    network: nn.Module,
    channels: np.ndarray,
    measure: Measure,
    *,
    samples: int,
    seed: int,
    window: tuple[int, int, int],
    overlap: float = 0.5,
    batch: int = 1,
    device: torch.device | str = 'cpu',
    flips: bool | Sequence[int] = False,
    with_variance: bool = False,
) -> np.ndarray:
    """Run a network over each window several times with dropout on, and measure its samples.

    What is measured in the windows is blended, not the samples: each window, and each mirror image
    of it, draws dropout of its own, and samples that were blended first would agree better wherever
    more windows meet.

    Parameters
    ----------
    measure : callable
        Takes the samples of some windows, one after the other: logits of `predict` as (B, C_out, I,
        J, K) ndarray of float32. Returns M maps of them: (B, M, I, J, K) ndarray of float32.
    samples : int
        How many.
    seed : int
        Of the dropout. Numbers drawn on a GPU differ from those drawn on a CPU.
    network, channels, window, overlap, batch, device, flips, with_variance
        As for `predict`.

    Returns
    -------
    (M, I, J, K) ndarray of float32

    Raises
    ------
    ValueError
        As `predict`, or if the network has no dropout: all samples would be the same.
    """
    plan = _make_plan(window, overlap, batch, device, flips, with_variance)
    network.eval()
    if set_dropout(network, active=True) == 0:
        raise ValueError('this network has no dropout to sample from')
    try:
        return _run(network, channels, plan, _Sampling(samples, seed, measure))
    finally:
        set_dropout(network, active=False)


def _make_plan(
    window: tuple[int, int, int],
    overlap: float,
    batch: int,
    device: torch.device | str,
    flips: bool | Sequence[int],
    with_variance: bool,
) -> _Plan:
    import torch

    axes = ((LEFT_RIGHT,) if flips else ()) if isinstance(flips, bool) else tuple(flips)
    return _Plan(torch.device(device), window, batch, overlap, axes, with_variance)


def _infer(
    network: nn.Module, volume: torch.Tensor, plan: _Plan, sampling: _Sampling | None = None
) -> np.ndarray:
    """Go over ``(1, C, I, J, K)`` as planned; return ``(C_out, I, J, K)``, or maps of samples."""
    import torch
    from monai.inferers import sliding_window_inference

    network.to(plan.device)
    volume = volume.to(plan.device)
    bfloat16 = plan.device.type == 'cuda' and torch.cuda.is_bf16_supported(False)

    def forward(windows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(plan.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            if plan.with_variance:
                logits = torch.cat(network.forward_with_variance(windows), dim=1)  # type: ignore[operator]
            else:
                logits = network(windows)
        return logits.float()

    def measure(windows: torch.Tensor) -> torch.Tensor:
        assert sampling is not None
        draws = (forward(windows).cpu().numpy() for _ in range(sampling.samples))
        return torch.from_numpy(sampling.measure(draws)).to(windows)

    mirrors = [
        axes
        for count in range(len(plan.flips) + 1)
        for axes in itertools.combinations([axis + 2 for axis in plan.flips], count)
    ]
    total: torch.Tensor | None = None
    with torch.inference_mode(), _seeded(sampling, plan.device):
        for axes in mirrors:
            blended = sliding_window_inference(
                torch.flip(volume, axes),
                plan.window,
                plan.batch,
                measure if sampling else forward,
                overlap=plan.overlap,
                mode='gaussian',
            )
            blended = torch.flip(blended, axes)
            total = blended if total is None else total.add_(blended)
        assert total is not None
        return (total[0] / len(mirrors)).cpu().numpy()


@contextmanager
def _seeded(sampling: _Sampling | None, device: torch.device) -> Iterator[None]:
    """Seed torch's generators for sampling, then put them back."""
    import torch

    if sampling is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        torch.manual_seed(sampling.seed)
        yield


def _halved(side: int, step: int) -> int:
    return max(min(side, MIN_WINDOW), side // 2 // step * step)


def _is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out, also where a library wrapped or reworded it."""
    import torch

    cause: BaseException | None = error
    while cause is not None:
        signs = any(sign in str(cause) for sign in OUT_OF_MEMORY_SIGNS)
        if isinstance(cause, torch.OutOfMemoryError) or (isinstance(cause, RuntimeError) and signs):
            return True
        cause = cause.__cause__
    return False
