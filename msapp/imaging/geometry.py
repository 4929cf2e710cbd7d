"""Grids, rigid and affine maps, and the one place where images are resampled.

Linear maps are 4x4 matrices between world coordinates (RAS, mm). A *transform* from A to B is
written the way ANTs and ITK use it: a matrix that takes a point of B's world to the same anatomy
in A's world, so that it resamples an image of A onto a grid of B.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import linalg, ndimage

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# What sform and qform of one image may be apart, mm: the quaternion, in 32 bits, loses up to
# 3e-4 rad near half a turn.
SAME_PLACE_MM = 0.2
# What voxels of one grid may be apart, mm: numbers of 32 bits are off by 0.0001 mm over a head, and
# numbers that a program rounds to 1e-5 of their size by up to 0.007 mm.
SAME_GRID_MM = 0.01

# The grid of MNI152NLin2009aSym at 1 mm, as the template inside nilearn has it.
MNI_SHAPE = (197, 233, 189)
MNI_AFFINE = np.array([[1, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]], float)


def individual_grid() -> nib.Nifti1Image:
    """Return an empty image on the 1 mm grid that ``individual`` and MNI space share.

    Returns
    -------
    nibabel.Nifti1Image
        Zeros, (197, 233, 189) uint8, 1 mm, RAS.
    """
    image = nib.Nifti1Image(np.zeros(MNI_SHAPE, np.uint8), MNI_AFFINE)
    image.header.set_xyzt_units('mm')
    return image


def spacing_mm(image: nib.spatialimages.SpatialImage) -> tuple[float, float, float]:
    """Return the voxel size of an image, mm, from its affine."""
    i, j, k = nib.affines.voxel_sizes(image.affine)
    return float(i), float(j), float(k)


def voxel_volume_mm3(image: nib.spatialimages.SpatialImage) -> float:
    """Return the volume of one voxel, mm3."""
    return float(abs(np.linalg.det(image.affine[:3, :3])))


def same_grid(
    first: nib.spatialimages.SpatialImage,
    second: nib.spatialimages.SpatialImage,
    within_mm: float = SAME_GRID_MM,
) -> bool:
    """Tell whether two images have the same shape, and all voxels lie less than that apart."""
    if first.shape[:3] != second.shape[:3]:
        return False
    apart_mm = displacement_mm(first.affine, second.affine, corner_voxels(first.shape))
    return bool((apart_mm < within_mm).all())


def corner_voxels(shape: Sequence[int], beyond: float = 0.0) -> np.ndarray:
    """Return the centres of a grid's corner voxels, or points ``beyond`` them, (8, 3), voxels."""
    ends = [(-beyond, n - 1 + beyond) for n in shape[:3]]
    return np.array(np.meshgrid(*ends)).reshape(3, -1).T


def like(data: np.ndarray, grid: nib.spatialimages.SpatialImage) -> nib.Nifti1Image:
    """Make an image of ``data`` on the grid of another, with a clean header in mm.

    Boolean data becomes uint8 and floating data float32. Orientation is written twice, as sform
    and qform, since programs differ in which they read; a sheared one has no qform.
    """
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif np.issubdtype(data.dtype, np.floating):
        data = data.astype(np.float32)
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units('mm')
    image.set_qform(grid.affine, 'aligned')
    apart_mm = displacement_mm(image.get_qform(), grid.affine, corner_voxels(data.shape))
    if apart_mm.max() > SAME_PLACE_MM:
        image.set_qform(grid.affine, 'unknown')
    return image


def resample(
    image: nib.spatialimages.SpatialImage,
    grid: nib.spatialimages.SpatialImage,
    transform: np.ndarray | None = None,
    *,
    order: int = 1,
    fill: float | None = 0.0,
) -> np.ndarray:
    """Resample an image onto a grid through a linear transform, in one interpolation.

    Parameters
    ----------
    image : nibabel image, 3-D
    grid : nibabel image
        Gives shape and affine of the result.
    transform : (4, 4) ndarray, optional
        World of ``grid`` (RAS, mm) to world of ``image``; identity by default.
    order : int
        0 nearest neighbour, 1 linear, 3 cubic spline. Results of order 3 are clipped to the
        range of the image, so that ringing makes no negative intensities.
    fill : float or None
        Value outside the image's field of view; None repeats the outermost voxels.

    Returns
    -------
    (I, J, K) ndarray of float32

    Examples
    --------
    >>> image = nib.Nifti1Image(np.arange(8.0).reshape(2, 2, 2), np.eye(4))
    >>> shift = np.eye(4); shift[0, 3] = 1
    >>> resample(image, image, shift)[0, 0, 0]
    np.float32(4.0)
    """
    transform = np.eye(4) if transform is None else transform
    matrix = np.linalg.inv(image.affine) @ transform @ grid.affine
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    # With plain 'constant', rounding would turn voxels on the very border into the fill value.
    result = ndimage.affine_transform(
        data,
        matrix,
        output_shape=grid.shape[:3],
        order=order,
        mode='nearest' if fill is None else 'grid-constant',
        cval=fill or 0.0,
        output=np.float32,
    )
    if order > 1:
        ends = [data.min(), data.max(), *(() if fill is None else (fill,))]
        np.clip(result, min(ends), max(ends), out=result)
    return result


def resample_mask(
    mask: nib.spatialimages.SpatialImage,
    grid: nib.spatialimages.SpatialImage,
    transform: np.ndarray | None = None,
) -> np.ndarray:
    """Resample a mask: linear interpolation, then at least one half.

    Returns
    -------
    (I, J, K) ndarray of bool
    """
    binary = nib.Nifti1Image((np.asanyarray(mask.dataobj) > 0).astype(np.float32), mask.affine)
    return resample(binary, grid, transform) >= 0.5


def nearest_rigid(matrix: np.ndarray) -> np.ndarray:
    """Return the rigid map nearest to an affine one, leaving its fixed centre where it was.

    The rotation is the orthogonal factor of the polar decomposition; the translation makes both
    maps agree at the origin of MNI space, near the middle of the brain.

    Parameters
    ----------
    matrix : (4, 4) ndarray

    Returns
    -------
    (4, 4) ndarray
        Rotation without reflection, and translation.

    Raises
    ------
    ValueError
        If the matrix mirrors space.

    Examples
    --------
    >>> nearest_rigid(np.diag([1.1, 0.9, 1.2, 1.0])).round(6).tolist() == np.eye(4).tolist()
    True
    """
    rotation, _ = linalg.polar(matrix[:3, :3])
    if np.linalg.det(rotation) < 0:
        raise ValueError('the matrix mirrors space; a rigid map cannot')
    rigid = np.eye(4)
    rigid[:3, :3] = rotation
    rigid[:3, 3] = matrix[:3, 3]
    return rigid


def mean_rigid(matrices: Sequence[np.ndarray], *, tolerance: float = 1e-10) -> np.ndarray:
    """Average rigid maps so that none is favoured: the Karcher mean on rotations.

    Parameters
    ----------
    matrices : sequence of (4, 4) ndarray
        Rigid maps from one common space.
    tolerance : float
        Norm of the mean logarithm at which the iteration stops.

    Returns
    -------
    (4, 4) ndarray

    References
    ----------
    M. Moakher, SIAM J. Matrix Anal. Appl. 24:1, 2002 (mean of rotations); translations are
    averaged as vectors.
    """
    from scipy.spatial.transform import Rotation

    rotations = Rotation.from_matrix(np.stack([m[:3, :3] for m in matrices]))
    centre = rotations[0]
    for _ in range(100):
        step = (centre.inv() * rotations).as_rotvec().mean(axis=0)
        centre = centre * Rotation.from_rotvec(step)
        if np.linalg.norm(step) < tolerance:
            break
    mean = np.eye(4)
    mean[:3, :3] = centre.as_matrix()
    mean[:3, 3] = np.mean([m[:3, 3] for m in matrices], axis=0)
    return mean


def displacement_mm(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distance between where two maps take the same points.

    Parameters
    ----------
    first, second : (4, 4) ndarray
    points : (N, 3) ndarray, mm

    Returns
    -------
    (N,) ndarray, mm
    """
    return np.linalg.norm(
        nib.affines.apply_affine(first, points) - nib.affines.apply_affine(second, points), axis=1
    )


def mask_points_mm(mask: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Return the world coordinates of every voxel inside a mask, (N, 3), mm."""
    indices = np.argwhere(np.asanyarray(mask.dataobj) > 0)
    return nib.affines.apply_affine(mask.affine, indices)


def centre_of_mass_mm(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Return the centre of mass of an image's intensities, (3,), world mm."""
    centre = ndimage.center_of_mass(np.asanyarray(image.dataobj, dtype=np.float32))
    return nib.affines.apply_affine(image.affine, centre)


def save_transform(path: Path, matrix: np.ndarray) -> None:
    """Write a transform as an ITK text file that ``antsApplyTransforms`` reads.

    Parameters
    ----------
    path : Path
        ``from-A_to-B_mode-image_xfm.txt``
    matrix : (4, 4) ndarray
        World of B to world of A (RAS, mm); see the top of this module.
    """
    lps = LPS @ matrix @ LPS
    # nitransforms writes six digits, which a head far from the origin is not placed by.
    numbers = ' '.join(repr(float(value)) for value in (*lps[:3, :3].ravel(), *lps[:3, 3]))
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n'
        f'Parameters: {numbers}\nFixedParameters: 0 0 0\n',
        encoding='utf-8',
    )


def load_transform(path: Path) -> np.ndarray:
    """Read a linear transform from an ITK text or ``.mat`` file.

    Returns
    -------
    (4, 4) ndarray
        In RAS mm, as :func:`save_transform` takes it.
    """
    from nitransforms.io.itk import ITKLinearTransform

    return np.asarray(ITKLinearTransform.from_filename(str(path)).to_ras(), dtype=float)


def isotropic_grid(
    image: nib.spatialimages.SpatialImage, voxel_mm: float, *, margin_mm: float = 0.0
) -> nib.Nifti1Image:
    """Return an empty RAS grid of cubic voxels that covers an image's field of view.

    Parameters
    ----------
    image : nibabel image
    voxel_mm : float
        Edge of a voxel of the new grid, mm.
    margin_mm : float
        How far the grid reaches beyond the field of view on every side, mm.
    """
    world = nib.affines.apply_affine(image.affine, corner_voxels(image.shape, 0.5))
    low, high = world.min(axis=0) - margin_mm, world.max(axis=0) + margin_mm
    shape = np.ceil((high - low) / voxel_mm - 1e-6).astype(int)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = low + voxel_mm / 2
    return nib.Nifti1Image(np.zeros(shape, np.uint8), affine)


def to_ants(data: np.ndarray, affine: np.ndarray) -> Any:
    """Make an ``ANTsImage`` of an array and its RAS affine (which may not be sheared)."""
    import ants

    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return ants.from_numpy(
        np.ascontiguousarray(data, dtype=np.float32),
        origin=tuple(lps[:3, 3]),
        spacing=tuple(spacing),
        direction=lps[:3, :3] / spacing,
    )
