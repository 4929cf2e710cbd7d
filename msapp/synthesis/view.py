"""What of a head an image shows: skull stripping, defacing, and fields of view that end early."""

from __future__ import annotations

import numpy as np
import torch

from msapp.synthesis import warp

# The mask of a brain takes in what lies about it where a smooth field of standard deviation 1,
# between points this far apart, exceeds this.
LEAK_MM, LEAST_LEAK = 25.0, 1.2


def draw_stripping(
    zones: torch.Tensor, spacing_mm: float, rng: np.random.Generator, *, leaks_mm: float = 0.0
) -> torch.Tensor:
    """Draw the mask of a skull stripping that is a little too tight or too wide in places.

    Parameters
    ----------
    zones : (I, J, K) tensor of uint8
        Index into `heads.ZONES`.
    spacing_mm : float
        Of the grid, isotropic.
    rng : numpy.random.Generator
    leaks_mm : float
        How far it reaches beyond the brain in some places, at most: dura, the base of the skull.

    Returns
    -------
    (I, J, K) tensor of float32, 0 or 1
    """
    inside = warp.blur((zones > 0).float(), 2.0 / spacing_mm)
    points = warp.control_points(zones.shape, spacing_mm, 30)
    wobble = warp.smooth_noise(tuple(zones.shape), points, rng, zones.device)[0]
    level = np.clip(0.5 + rng.normal(0, 0.12), 0.2, 0.75)
    mask = (inside > (level + 0.08 * wobble).clamp(0.1, 0.85)).float()
    reach = round(rng.uniform(0, leaks_mm) / spacing_mm) if leaks_mm else 0
    if not reach:
        return mask
    points = warp.control_points(zones.shape, spacing_mm, LEAK_MM)
    places = warp.smooth_noise(tuple(zones.shape), points, rng, zones.device)[0] > LEAST_LEAK
    return torch.maximum(mask, warp.dilate(mask, reach) * places)


def draw_cuts(
    zones: torch.Tensor, spacing_mm: float, rng: np.random.Generator
) -> torch.Tensor | None:
    """Draw what a short field of view or defacing leaves; None is everything.

    Parameters
    ----------
    zones : (I, J, K) tensor of uint8
        Index into `heads.ZONES`; axes towards right, anterior, superior.
    spacing_mm : float
        Of the grid, isotropic.
    rng : numpy.random.Generator

    Returns
    -------
    (I, J, K) tensor of float32, 0 or 1, or None
    """
    shown = None
    if rng.random() < 0.3:
        shown = torch.ones(zones.shape, device=zones.device)
        # Along z at either end, through the head or a little of the brain.
        brain = torch.nonzero((zones > 0).any(dim=0).any(dim=0)).flatten()
        if len(brain):
            low, high = int(brain[0]), int(brain[-1])
            slack = round(25 / spacing_mm)
            if rng.random() < 0.7:
                shown[..., : max(0, low - int(rng.integers(-slack // 2, slack + 1)))] = 0
            if rng.random() < 0.5:
                shown[..., high + 1 + int(rng.integers(-slack // 5, slack + 1)) :] = 0
    if rng.random() < 0.4:
        cut = deface(zones, spacing_mm, rng)
        shown = cut if shown is None else shown * cut
    return shown


def deface(zones: torch.Tensor, spacing_mm: float, rng: np.random.Generator) -> torch.Tensor:
    """Draw what is left when the face is cut off by a plane in front of and below the brain.

    Parameters
    ----------
    zones : (I, J, K) tensor of uint8
        Index into `heads.ZONES`; axes towards right, anterior, superior.
    spacing_mm : float
        Of the grid, isotropic.
    rng : numpy.random.Generator

    Returns
    -------
    (I, J, K) tensor of float32, 0 or 1
    """
    brain = torch.nonzero(zones > 0).float()
    if not len(brain):
        return torch.ones(zones.shape, device=zones.device)
    angle = np.deg2rad(rng.uniform(25, 65))
    # The plane's normal points forward and down.
    normal = torch.tensor([0.0, np.cos(angle), -np.sin(angle)], device=zones.device).float()
    furthest = (brain @ normal).max() + rng.uniform(0, 15) / spacing_mm
    axes = [torch.arange(n, device=zones.device).float() for n in zones.shape]
    height = axes[1][:, None] * normal[1] + axes[2][None, :] * normal[2]
    return (height < furthest).float()[None].expand(*zones.shape)


def draw_view(
    shape: tuple[int, int, int], rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    """Draw a field of view that ends within the grid, most often along z.

    Parameters
    ----------
    shape : tuple of int
        Of the grid.
    rng : numpy.random.Generator
    device : torch.device

    Returns
    -------
    (I, J, K) tensor of float32, 0 or 1
    """
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    seen = torch.arange(shape[axis], device=device) < rng.uniform(0.2, 0.9) * shape[axis]
    if rng.random() < 0.5:
        seen = seen.flip(0)
    sides = [1, 1, 1]
    sides[axis] = shape[axis]
    return seen.reshape(sides).float().expand(*shape)
