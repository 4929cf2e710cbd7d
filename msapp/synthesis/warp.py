"""Random affine and elastic maps of a head, and sampling through them; torch, CPU or GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional


@dataclass(frozen=True)
class WarpSettings:
    """Ranges of the maps.

    Attributes
    ----------
    rotation_deg : float
        Largest rotation about each axis.
    scale : float
        Largest relative change of size along each axis.
    shear : float
        Largest shear.
    elastic : tuple of (float, float)
        Distance between control points and largest standard deviation of their displacement, mm.
    """

    rotation_deg: float = 15.0
    scale: float = 0.12
    shear: float = 0.08
    elastic: tuple[tuple[float, float], ...] = ((40.0, 4.0), (16.0, 1.2))


def draw_affine(rng: np.random.Generator, settings: WarpSettings) -> np.ndarray:
    """Draw a linear map about the origin, mirrored left to right in half of the cases.

    Returns
    -------
    (3, 3) ndarray
    """
    angles = rng.uniform(-1, 1, 3) * settings.rotation_deg
    matrix = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * settings.shear
    matrix = matrix @ shear @ np.diag(1 + rng.uniform(-1, 1, 3) * settings.scale)
    return matrix * [1 if rng.random() < 0.5 else -1, 1, 1]


def noise_like(
    shape: tuple[int, ...], rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    """Return standard normal values, drawn on the device by torch, seeded from ``rng``.

    CPU and GPU have other generators: one state of ``rng`` gives other values on each.
    """
    seed = int(rng.integers(2**62))
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)


def control_points(
    shape: Sequence[int], spacing_mm: float, distance_mm: float
) -> tuple[int, int, int]:
    """Return how many points along each axis lie about so far apart; two at least.

    Examples
    --------
    >>> control_points((96, 96, 10), 1.0, 24.0)
    (5, 5, 2)
    """
    i, j, k = (max(2, round(n * spacing_mm / distance_mm) + 1) for n in shape)
    return i, j, k


def smooth_noise(
    shape: Sequence[int],
    points: tuple[int, int, int],
    rng: np.random.Generator,
    device: torch.device,
    *,
    channels: int = 1,
) -> torch.Tensor:
    """Draw a smooth field: normal values at few points, interpolated linearly between them.

    Returns
    -------
    (channels, I, J, K) tensor of float32
        Standard deviation 1 at the points.
    """
    coarse = torch.from_numpy(rng.standard_normal((1, channels, *points)).astype(np.float32))
    fine = functional.interpolate(
        coarse.to(device), size=tuple(shape), mode='trilinear', align_corners=True
    )
    return fine[0]


def draw_points(
    shape: tuple[int, int, int],
    spacing_mm: float,
    centre_mm: np.ndarray,
    rng: np.random.Generator,
    settings: WarpSettings,
    device: torch.device,
) -> torch.Tensor:
    """Draw where in the head each voxel of a grid lies.

    Parameters
    ----------
    shape, spacing_mm
        The grid; axes towards right, anterior, superior.
    centre_mm : (3,) ndarray
        Point of the head in the middle of the grid.

    Returns
    -------
    (3, I, J, K) tensor of float32
        World of the head, mm.
    """
    axes = [
        (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2) * spacing_mm
        for n in shape
    ]
    grid = torch.stack(torch.meshgrid(*axes, indexing='ij'))
    linear = torch.from_numpy(draw_affine(rng, settings).astype(np.float32)).to(device)
    points = torch.einsum('ab,bijk->aijk', linear, grid)
    for distance_mm, largest_mm in settings.elastic:
        size_mm = rng.uniform(0, largest_mm)
        points += size_mm * smooth_noise(
            shape, control_points(shape, spacing_mm, distance_mm), rng, device, channels=3
        )
    centre = torch.from_numpy(np.asarray(centre_mm, np.float32)).to(device)
    return points + centre[:, None, None, None]


def to_voxels(points: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
    """Turn world coordinates into voxel coordinates of an image.

    Parameters
    ----------
    points : (3, I, J, K) tensor
        World, mm.
    affine : (4, 4) ndarray
        Voxel to world of the image.

    Returns
    -------
    (3, I, J, K) tensor
    """
    inverse = torch.from_numpy(np.linalg.inv(affine).astype(np.float32)).to(points.device)
    moved = torch.einsum('ab,bijk->aijk', inverse[:3, :3], points)
    return moved + inverse[:3, 3, None, None, None]


def sample_labels(labels: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """Return the labels nearest to points; 0 outside.

    Parameters
    ----------
    labels : (L, M, N) tensor of uint8
    voxels : (3, I, J, K) tensor
        Voxel coordinates.

    Returns
    -------
    (I, J, K) tensor of uint8
    """
    index = voxels.round().long()
    size = torch.tensor(labels.shape, device=labels.device)[:, None, None, None]
    inside = ((index >= 0) & (index < size)).all(dim=0)
    flat = (index[0] * labels.shape[1] + index[1]) * labels.shape[2] + index[2]
    found = labels.reshape(-1)[torch.where(inside, flat, 0)]
    return torch.where(inside, found, 0)


def sample_share(volume: torch.Tensor, voxels: torch.Tensor) -> torch.Tensor:
    """Interpolate a volume linearly at points; 0 outside.

    Parameters
    ----------
    volume : (L, M, N) tensor of float32
    voxels : (3, I, J, K) tensor
        Voxel coordinates.

    Returns
    -------
    (I, J, K) tensor of float32
    """
    size = torch.tensor(volume.shape, device=voxels.device)[:, None, None, None]
    # torch counts from -1 to 1, the last axis first.
    unit = (2 * voxels / (size - 1) - 1).flip(0).permute(1, 2, 3, 0)
    sampled = functional.grid_sample(
        volume[None, None], unit[None], mode='bilinear', align_corners=True
    )
    return sampled[0, 0]


def dilate(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Dilate a mask by a cube that reaches this many voxels to each side.

    Parameters
    ----------
    mask : (I, J, K) tensor of float32, 0 or 1
    reach : int

    Returns
    -------
    (I, J, K) tensor of float32, 0 or 1
    """
    volume = mask[None, None]
    for axis in range(3):
        size = [2 * reach + 1 if axis == other else 1 for other in range(3)]
        padding = [reach if axis == other else 0 for other in range(3)]
        volume = functional.max_pool3d(volume, size, stride=1, padding=padding)
    return volume[0, 0]


def blur(volume: torch.Tensor, sigma_voxels: float) -> torch.Tensor:
    """Blur a volume with a Gaussian.

    Parameters
    ----------
    volume : (I, J, K) tensor of float32
    sigma_voxels : float
        Standard deviation, voxels; under 0.2 nothing is done.
    """
    if sigma_voxels < 0.2:
        return volume
    radius = max(1, int(np.ceil(3 * sigma_voxels)))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_voxels) ** 2)
    weights /= weights.sum()
    for axis in range(3):
        padding = [0] * 6
        # torch names the last axis first.
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = radius
        padded = functional.pad(volume[None, None], padding, mode='replicate')[0, 0]
        # Sums of shifted volumes: on a CPU over ten times as quick as a convolution.
        blurred = torch.zeros_like(volume)
        for shift, weight in enumerate(weights):
            blurred.add_(padded.narrow(axis, shift, volume.shape[axis]), alpha=float(weight))
        volume = blurred
    return volume
