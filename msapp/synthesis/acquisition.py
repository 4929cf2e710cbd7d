"""From signals to an image, in torch: blur, thick slices, shading, noise, motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from msapp.synthesis import warp

# Standard deviation of the blur of noise that is alike in neighbouring voxels, voxels.
BLOTCHES = (0.3, 0.7)


@dataclass(frozen=True)
class AcquisitionSettings:
    """Ranges of what a scanner does; signals are relative to white matter's.

    Attributes
    ----------
    blur_mm : tuple of float
        Standard deviation of the point spread.
    thick : float
        Share of images with slices thicker than the grid.
    slice_mm : tuple of float
        Thickness of those, in a random direction, most often axial.
    bias : float
        Largest standard deviation of the logarithm of the shading.
    noise : float
        Largest standard deviation of Rician noise.
    corrupted : float
        Share of images with motion or ghosts (TorchIO).
    gamma : float
        Largest change of the exponent that bends the grey scale.
    blotchy : float
        Share of images whose noise is alike in neighbouring voxels, as in images that the scanner
        or a registration has interpolated.
    """

    blur_mm: tuple[float, float] = (0.3, 0.9)
    thick: float = 0.5
    slice_mm: tuple[float, float] = (2.0, 6.0)
    bias: float = 0.3
    noise: float = 0.08
    corrupted: float = 0.05
    gamma: float = 0.0
    blotchy: float = 0.0


def acquire(
    image: torch.Tensor,
    spacing_mm: float,
    settings: AcquisitionSettings,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Image a volume.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
        Signals, white matter about 1.
    spacing_mm : float
        Of the grid, isotropic.

    Returns
    -------
    (I, J, K) tensor of float32
        On the same grid; thick slices are interpolated back to it.
    """
    return acquire_part(image, torch.zeros_like(image), spacing_mm, settings, rng)[0]


def acquire_part(
    image: torch.Tensor,
    part: torch.Tensor,
    spacing_mm: float,
    settings: AcquisitionSettings,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image a volume as `acquire`; and what a part of its signal adds to it, without noise.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
        Signals, white matter about 1.
    part : (I, J, K) tensor of float32
        What of them is the part's.
    spacing_mm : float
        Of the grid, isotropic.
    settings : AcquisitionSettings
    rng : numpy.random.Generator

    Returns
    -------
    image : (I, J, K) tensor of float32
    part : (I, J, K) tensor of float32
        As blurred, and averaged over slices, as the image.
    """
    blur = rng.uniform(*settings.blur_mm) / spacing_mm
    image = warp.blur(image, blur)
    shape = tuple(image.shape)
    points = (int(rng.integers(2, 5)), int(rng.integers(2, 5)), int(rng.integers(2, 5)))
    strength = rng.uniform(0, settings.bias)
    field = warp.smooth_noise(shape, points, rng, image.device)[0]
    image = image * torch.exp(strength * field)
    coarse = _slice_counts(shape, spacing_mm, settings, rng)
    if coarse is not None:
        image = functional.interpolate(image[None, None], size=coarse, mode='area')[0, 0]
    image = _rician(image, rng.uniform(0, settings.noise), settings.blotchy, rng)
    if rng.random() < settings.corrupted:
        image = _corrupt(image, rng)
    if coarse is not None:
        image = functional.interpolate(image[None, None], size=shape, mode='trilinear')[0, 0]
    if settings.gamma:
        image = image.clamp(min=0) ** float(np.exp(rng.uniform(-1, 1) * settings.gamma))
    part = warp.blur(part, blur)
    if coarse is not None:
        averaged = functional.interpolate(part[None, None], size=coarse, mode='area')
        part = functional.interpolate(averaged, size=shape, mode='trilinear')[0, 0]
    return image, part


def _slice_counts(
    shape: tuple[int, ...],
    spacing_mm: float,
    settings: AcquisitionSettings,
    rng: np.random.Generator,
) -> tuple[int, ...] | None:
    """Draw how many slices the image has; None where they are as thin as the grid."""
    if rng.random() >= settings.thick:
        return None
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    thickness = rng.uniform(*settings.slice_mm)
    if thickness <= spacing_mm:
        return None
    counts = list(shape)
    counts[axis] = max(4, round(shape[axis] * spacing_mm / thickness))
    return tuple(counts)


def _rician(
    image: torch.Tensor, sigma: float, blotchy: float, rng: np.random.Generator
) -> torch.Tensor:
    """Add the noise of a magnitude image (Gudbjartsson & Patz, MRM 34:910, 1995)."""
    noise = warp.noise_like((2, *image.shape), rng, image.device)
    if blotchy and rng.random() < blotchy:
        width = rng.uniform(*BLOTCHES)
        noise = torch.stack([warp.blur(half, width) for half in noise])
        noise /= noise.std()
    noise = noise * sigma
    return torch.hypot(image + noise[0], noise[1])


def _corrupt(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Move the head during the scan, or let it ghost."""
    import torchio as tio

    seed = int(rng.integers(2**31))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if rng.random() < 0.5:
            transform = tio.RandomGhosting(num_ghosts=(2, 6), intensity=(0.1, 0.5))
        else:
            transform = tio.RandomMotion(degrees=4, translation=4, num_transforms=2)
        moved = transform(tio.ScalarImage(tensor=image[None].cpu())).data[0]
    return moved.to(image.device).float()
