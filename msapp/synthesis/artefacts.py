"""What a scanner does to a head: position, slices, coil shading and noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation


def smooth_field(
    shape: tuple[int, ...], rng: np.random.Generator, *, order: int = 3, decay: float = 1.0
) -> np.ndarray:
    """Draw a smooth random field: a cosine series with normal coefficients.

    Parameters
    ----------
    shape : tuple of int
        (I, J, K) of the result.
    rng : numpy.random.Generator
        Source of randomness.
    order : int
        Number of half waves across the field of view, at most.
    decay : float
        Power with which coefficients fall with frequency.

    Returns
    -------
    (I, J, K) ndarray of float32
        Expected mean 0 and variance about 1; the same series at any resolution.
    """
    n = np.arange(order + 1)
    frequency = np.sqrt(n[:, None, None] ** 2 + n[None, :, None] ** 2 + n[None, None, :] ** 2)
    scale = 1.0 / np.maximum(frequency, 1) ** decay
    scale[0, 0, 0] = 0
    field = rng.standard_normal(scale.shape) * scale
    # A cosine has variance 1/2, the constant 1.
    halves = np.where(n == 0, 1.0, 0.5)
    variance = np.einsum('abc,a,b,c->', scale**2, halves, halves, halves)
    field = (field / np.sqrt(variance)).astype(np.float32)
    waves = [
        np.cos(np.pi * np.outer((np.arange(s) + 0.5) / s, n)).astype(np.float32) for s in shape
    ]
    # One axis at a time and without BLAS, so that the sum never depends on the threads.
    field = np.einsum('abc,kc->abk', field, waves[2])
    field = np.einsum('abk,jb->ajk', field, waves[1])
    return np.einsum('ajk,ia->ijk', field, waves[0])


def bias_field(
    shape: tuple[int, ...], rng: np.random.Generator, *, strength: float = 0.15
) -> np.ndarray:
    """Draw the multiplicative shading of a receive coil.

    Parameters
    ----------
    shape : tuple of int
        (I, J, K) of the result.
    rng : numpy.random.Generator
        Source of randomness.
    strength : float
        Standard deviation of the logarithm.

    Returns
    -------
    (I, J, K) ndarray of float32
        Positive, about 1.
    """
    return np.exp(strength * smooth_field(shape, rng, order=2, decay=1.5))


def add_rician_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add the noise of a magnitude image (Gudbjartsson & Patz, MRM 34:910, 1995).

    Parameters
    ----------
    image : ndarray
        Signal, at least 0.
    sigma : float
        Standard deviation of each of the two channels, in units of ``image``.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of float32
    """
    real = image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.hypot(real, imaginary)


def random_rigid(
    rng: np.random.Generator, *, shift_mm: float, angle_deg: float, pivot_mm: tuple = (0, -30, -40)
) -> np.ndarray:
    """Draw a head movement.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shift_mm, angle_deg : float
        Largest shift and rotation; the smallest drawn is 30 % of it.
    pivot_mm : three floats
        Centre of rotation; by default below the brain, where a head turns.

    Returns
    -------
    (4, 4) ndarray
        Rigid map between world coordinates, mm.
    """
    matrix = np.eye(4)
    axis = rng.standard_normal(3)
    angle = np.deg2rad(angle_deg) * rng.uniform(0.3, 1)
    matrix[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    shift = rng.standard_normal(3)
    shift *= shift_mm * rng.uniform(0.3, 1) / np.linalg.norm(shift)
    pivot = np.asarray(pivot_mm, float)
    matrix[:3, 3] = pivot - matrix[:3, :3] @ pivot + shift
    return matrix


def acquisition_affine(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
    *,
    orientation: str = 'RAS',
    tilt_deg: float = 0.0,
) -> np.ndarray:
    """Place a scan's grid in the scanner.

    Parameters
    ----------
    shape : tuple of int
        Along the axes of the array.
    spacing_mm : tuple of float
        Along the axes of the array.
    centre_mm : tuple of float
        World position of the middle of the field of view.
    orientation : str
        Direction of the array's axes, as nibabel writes it: ``RAS`` is axial.
    tilt_deg : float
        Rotation about the left-right axis (the tilt of axial slices to the AC-PC line).

    Returns
    -------
    (4, 4) ndarray
        Voxel to world, mm.
    """
    axes = nib.orientations.axcodes2ornt(orientation)
    turn = Rotation.from_euler('x', tilt_deg, degrees=True).as_matrix()
    affine = np.eye(4)
    for axis, (world, sign) in enumerate(axes):
        affine[:3, axis] = turn[:, int(world)] * sign * spacing_mm[axis]
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def acquire(
    volume: np.ndarray,
    volume_affine: np.ndarray,
    shape: tuple[int, int, int],
    affine: np.ndarray,
    to_volume: np.ndarray,
) -> np.ndarray:
    """Sample a finer volume on a scan's grid, averaging across each voxel's whole extent.

    Thick slices are means over their thickness (a box profile), not single planes.

    Parameters
    ----------
    volume : (I, J, K) ndarray
        Signal or share.
    volume_affine : (4, 4) ndarray
        Voxel to world of ``volume``, mm.
    shape : tuple of int
        (L, M, N) of the scan.
    affine : (4, 4) ndarray
        Voxel to world of the scan, mm.
    to_volume : (4, 4) ndarray
        World of the scan to world of ``volume``.

    Returns
    -------
    (L, M, N) ndarray of float32
        0 outside ``volume``.
    """
    fine = float(nib.affines.voxel_sizes(volume_affine).min())
    ratio = nib.affines.voxel_sizes(affine) / fine
    samples = np.maximum(1, np.rint(ratio)).astype(int)
    step = np.diag([*(1 / samples), 1.0])
    # The first of n samples lies (n - 1) / 2n voxels before the voxel's centre.
    step[:3, 3] = (1 / samples - 1) / 2
    matrix = np.linalg.inv(volume_affine) @ to_volume @ affine @ step
    dense = ndimage.affine_transform(
        volume.astype(np.float32, copy=False), matrix,
        output_shape=tuple(int(n) for n in np.multiply(shape, samples)), order=1, mode='constant',
    )  # fmt: skip
    parts = [n for pair in zip(shape, samples, strict=True) for n in pair]
    return dense.reshape(parts).mean(axis=(1, 3, 5), dtype=np.float32)


@dataclass(frozen=True)
class Scan:
    """One image before it is acquired: where its voxels are and where the head was.

    Attributes
    ----------
    shape : tuple of int
        Voxels along the axes of the array.
    affine : (4, 4) ndarray
        Voxel to scanner world, mm.
    pose : (4, 4) ndarray
        World of the head to scanner world.
    slice_mm : float
        Slice thickness.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    pose: np.ndarray
    slice_mm: float

    @property
    def to_head(self) -> np.ndarray:
        """Scanner world to world of the head, mm."""
        return np.linalg.inv(self.pose)

    def acquire(self, volume: np.ndarray, volume_affine: np.ndarray) -> np.ndarray:
        """Sample a volume in the world of the head; see :func:`acquire`."""
        return acquire(volume, volume_affine, self.shape, self.affine, self.to_head)


def plan_scans(
    names: Iterable[str], thick: bool, fast: bool, visit: int, rng: np.random.Generator
) -> dict[str, Scan]:
    """Decide grid and head position of every image of one visit.

    Thick slices differ from visit to visit in thickness, tilt and position.

    Parameters
    ----------
    names : iterable of str
        Contrasts; the head moves between them, FLAIR is the visit's reference.
    thick, fast : bool
        See :func:`msapp.synthesis.phantom.write_phantom`.
    visit : int
        From 0.
    rng : numpy.random.Generator
        Source of randomness.
    """
    pose = random_rigid(rng, shift_mm=4.0, angle_deg=4.0)
    tilt = float(rng.uniform(-6, 6)) if thick else 0.0
    offset = rng.uniform(-2, 2, 3)
    scans = {}
    for name in names:
        if thick:
            slice_mm = (4.0, 3.5)[visit % 2] + (1.0 if fast else 0.0)
            plane_mm = 1.8 if fast else 0.9
            spacing = (plane_mm, plane_mm, slice_mm)
            field_mm, centre, orientation = (194.0, 238.0, 172.0), (0, -12, 14), 'RAS'
        else:
            slice_mm = 2.0 if fast else 1.0
            spacing = (slice_mm, slice_mm, slice_mm)
            # Sagittal slabs, as 3-D sequences are scanned.
            field_mm, centre, orientation = (240.0, 212.0, 188.0), (0, -12, 0), 'ASR'
        i, j, k = (round(f / s) for f, s in zip(field_mm, spacing, strict=True))
        affine = acquisition_affine(
            (i, j, k), spacing, tuple(centre + offset), orientation=orientation, tilt_deg=tilt
        )
        moved = np.eye(4)
        if name != 'FLAIR':
            moved = random_rigid(rng, shift_mm=1.0, angle_deg=1.0)
        scans[name] = Scan((i, j, k), affine, moved @ pose, slice_mm)
    return scans
