"""Scanners of two visits: what one scanner keeps from visit to visit, and its slices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from msapp.synthesis import appearance, warp
from msapp.synthesis.acquisition import AcquisitionSettings
from msapp.synthesis.appearance import FLAIR, LesionSettings
from msapp.synthesis.generator import GeneratorSettings
from msapp.synthesis.heads import NAMES

# Between two visits at one scanner, relative standard deviation.
SIGNAL_SPREAD = 0.02
# Brightness of one lesion at two visits at one scanner, relative.
SAME_CONTRAST = 0.06
SHORTEST_STACK = 4


@dataclass(frozen=True)
class Slices:
    """How a stack of slices lies: its axis, and the slices' thickness; None is a 3-D image."""

    axis: int
    thickness_mm: float | None


@dataclass(frozen=True)
class Scanner:
    """What two visits at one scanner share.

    Attributes
    ----------
    signals : (T,) ndarray
        Of each tissue; white matter is 1.
    lesions : LesionSettings
    seed : int
        Of texture and of the brightness of rims, folds and halos.
    blur_mm : float
    slices : Slices
    """

    signals: np.ndarray
    lesions: LesionSettings
    seed: int
    blur_mm: float
    slices: Slices


def draw_scanner(
    contrast: float, spread: float, settings: GeneratorSettings, rng: np.random.Generator
) -> Scanner:
    """Draw a scanner and its protocol.

    Parameters
    ----------
    contrast : float
        How much brighter than white matter lesions are on average.
    spread : float
        Relative range about it.
    """
    how = settings.acquisition
    return Scanner(
        signals=appearance.family_signals(FLAIR, rng),
        lesions=_about(settings.lesions, contrast, spread, rng),
        seed=int(rng.integers(2**31)),
        blur_mm=rng.uniform(*how.blur_mm),
        slices=draw_slices(how, rng),
    )


def _about(
    lesions: LesionSettings, contrast: float, spread: float, rng: np.random.Generator
) -> LesionSettings:
    """Fix how bright lesions are."""
    drawn = contrast * rng.uniform(1 - spread, 1 + spread)
    return replace(lesions, flair=(drawn, drawn))


def visit_again(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    """Return the same scanner some time later: signals off by a few percent."""
    signals = scanner.signals * rng.normal(1, SIGNAL_SPREAD, len(scanner.signals))
    signals[NAMES.index('white_matter')] = 1
    lesions = _about(scanner.lesions, scanner.lesions.flair[0], SAME_CONTRAST, rng)
    return replace(
        scanner,
        signals=signals.astype(np.float32),
        lesions=lesions,
        blur_mm=scanner.blur_mm * rng.uniform(0.9, 1.1),
    )


def visit_elsewhere(
    scanner: Scanner, other: Scanner, spread: float, rng: np.random.Generator
) -> Scanner:
    """Return a scanner such that it images the head that another one images.

    What is the head's own stays: texture, and how bright rims, folds, halos and, but for a relative
    ``spread``, choroid plexus are.
    """
    signals = scanner.signals.copy()
    choroid = NAMES.index('choroid')
    signals[choroid] = other.signals[choroid] * rng.uniform(1 - spread, 1 + spread)
    return replace(scanner, signals=signals, seed=other.seed)


def draw_slices(settings: AcquisitionSettings, rng: np.random.Generator) -> Slices:
    """Draw direction and thickness of slices; most often they are axial."""
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    thick = rng.random() < settings.thick
    return Slices(axis, rng.uniform(*settings.slice_mm) if thick else None)


def stack_of(
    image: torch.Tensor, spacing_mm: float, slices: Slices, offset: int
) -> tuple[torch.Tensor, torch.Size]:
    """Average an image over thick slices that begin ``offset`` voxels before it.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
    spacing_mm : float
    slices : Slices
        With a thickness.
    offset : int
        0 to the thickness in voxels.

    Returns
    -------
    stack : tensor of float32
        With fewer voxels along the slices' axis.
    padded : torch.Size
        Shape that it was averaged from; see `unstack`.
    """
    assert slices.thickness_mm is not None
    room = _room(slices.thickness_mm, spacing_mm)
    padding = [0] * 6
    # torch names the last axis first.
    padding[4 - 2 * slices.axis] = offset
    padding[5 - 2 * slices.axis] = room - offset
    padded = functional.pad(image[None, None], padding, mode='replicate')[0, 0]
    counts = list(padded.shape)
    count = round(counts[slices.axis] * spacing_mm / slices.thickness_mm)
    counts[slices.axis] = max(SHORTEST_STACK, count)
    stack = functional.interpolate(padded[None, None], size=tuple(counts), mode='area')[0, 0]
    return stack, padded.shape


def unstack(
    stack: torch.Tensor, padded: torch.Size, axis: int, offset: int, length: int
) -> torch.Tensor:
    """Interpolate a stack back to the voxels that `stack_of` took it from.

    Parameters
    ----------
    stack : tensor of float32
    padded : torch.Size
        As `stack_of` returned them.
    axis : int
        Along which the slices lie.
    offset : int
        As `stack_of` was given it, voxels.
    length : int
        Voxels along the axis of the image.

    Returns
    -------
    (I, J, K) tensor of float32
    """
    fine = functional.interpolate(stack[None, None], size=tuple(padded), mode='trilinear')[0, 0]
    return fine.narrow(axis, offset, length)


def _room(thickness_mm: float, spacing_mm: float) -> int:
    return int(np.ceil(thickness_mm / spacing_mm))


def draw_offset(slices: Slices, spacing_mm: float, rng: np.random.Generator) -> int:
    """Draw where, in voxels, the first slice begins."""
    return int(rng.integers(_room(slices.thickness_mm or 0, spacing_mm) + 1))


def image_slices(
    image: torch.Tensor,
    spacing_mm: float,
    scanner: Scanner,
    offset: int,
    acquired: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Image a volume with the point spread and the slices of a scanner.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
    offset : int
        See `stack_of`.
    acquired : callable
        What is done to the stack of slices.

    Returns
    -------
    (I, J, K) tensor of float32
        Interpolated back to the grid.
    """
    image = warp.blur(image, scanner.blur_mm / spacing_mm)
    slices = scanner.slices
    if slices.thickness_mm is None or slices.thickness_mm <= spacing_mm:
        return acquired(image)
    stack, padded = stack_of(image, spacing_mm, slices, offset)
    return unstack(acquired(stack), padded, slices.axis, offset, image.shape[slices.axis])
