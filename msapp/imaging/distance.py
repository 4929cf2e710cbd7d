"""Distances inside the brain, in mm: from its surface, from its vertex, from the occiput.

The three maps DM, DMz and DMx tell a candidate region where in the brain it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class DistanceMaps:
    """Distance maps of one brain on a grid aligned with MNI axes (RAS), mm; 0 outside the mask.

    Attributes
    ----------
    depth : (I, J, K) ndarray of float32
        DM, from the brain's surface (pial) inwards.
    below_vertex : (I, J, K) ndarray of float32
        DMz, from the vertex down to the neck.
    from_occiput : (I, J, K) ndarray of float32
        DMx, from the occiput forward to the nose.
    """

    depth: np.ndarray
    below_vertex: np.ndarray
    from_occiput: np.ndarray


def distance_maps(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> DistanceMaps:
    """Compute the three distance maps of a brain mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        On a grid whose axes run to the right, to the front and up.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    DistanceMaps

    Raises
    ------
    ValueError
        If the mask is empty.

    Examples
    --------
    >>> maps = distance_maps(np.ones((3, 3, 3), bool), (1.0, 1.0, 2.0))
    >>> maps.below_vertex[0, 0].tolist(), maps.from_occiput[0, :, 0].tolist()
    ([4.0, 2.0, 0.0], [0.0, 1.0, 2.0])
    """
    if not mask.any():
        raise ValueError('the brain mask is empty; distances in it are not defined')
    depth = _depth_mm(mask, spacing_mm)
    _, along_y, along_z = np.nonzero(mask)
    j = np.arange(mask.shape[1])[None, :, None]
    k = np.arange(mask.shape[2])[None, None, :]
    below_vertex = (along_z.max() - k) * spacing_mm[2] * mask
    from_occiput = (j - along_y.min()) * spacing_mm[1] * mask
    return DistanceMaps(
        depth.astype(np.float32), below_vertex.astype(np.float32), from_occiput.astype(np.float32)
    )


def erode_mm(
    mask: np.ndarray, radius_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Shrink a mask by a distance in millimetres, whatever the voxel shape.

    Voxels of the mask within ``radius_mm`` of a voxel outside (centre to centre) are removed; what
    lies beyond the array counts as outside.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    radius_mm : float
        Distance to shrink by, mm.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    ValueError
        If ``radius_mm`` is negative.

    Examples
    --------
    >>> erode_mm(np.ones((5, 1, 1), bool), 1.0, (1.0, 3.0, 3.0)).ravel().tolist()
    [False, True, True, True, False]
    """
    if radius_mm < 0:
        raise ValueError(f'radius_mm must be at least 0, got {radius_mm}')
    return mask & (_depth_mm(mask, spacing_mm) > radius_mm)


def _depth_mm(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the distance to the nearest voxel outside, beyond the array too; 0 outside, mm."""
    depth = np.zeros(mask.shape)
    # Nothing outside the box is nearer than what surrounds it.
    for box in ndimage.find_objects(mask.astype(np.uint8)):
        padded = np.pad(mask[box], 1)
        distance = ndimage.distance_transform_edt(padded, sampling=spacing_mm)
        depth[box] = distance[1:-1, 1:-1, 1:-1]
    return depth


def dilate_mm(
    mask: np.ndarray, radius_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Grow a mask by a distance in millimetres, whatever the voxel shape.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    radius_mm : float
        Distance to grow by, mm, measured from voxel centre to voxel centre.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    ValueError
        If ``radius_mm`` is negative.

    Examples
    --------
    >>> m = np.zeros((5, 1, 1), bool); m[2] = True
    >>> dilate_mm(m, 2.0, (2.0, 1.0, 1.0)).ravel().tolist()
    [False, True, True, True, False]
    """
    if radius_mm < 0:
        raise ValueError(f'radius_mm must be at least 0, got {radius_mm}')
    if not mask.any():
        return mask.copy()
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= radius_mm


def open_mm(
    mask: np.ndarray, radius_mm: float, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """Erode, then dilate a mask by a distance in millimetres; thin structures vanish.

    Along axes whose voxels are larger than ``radius_mm`` nothing is eroded, so that one slice
    thick regions survive.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    radius_mm : float
        Distance to erode and dilate by, mm.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    ValueError
        If ``radius_mm`` is negative.

    Examples
    --------
    >>> open_mm(np.array([1, 0, 1, 1, 1, 0], bool).reshape(6, 1, 1), 1.0, (1., 5., 5.)).ravel()
    array([False, False,  True,  True,  True, False])
    """
    ball = ball_mm(radius_mm, spacing_mm)
    return ndimage.binary_opening(mask, structure=ball)


def ball_mm(radius_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the voxels within a distance of a centre voxel, as a structuring element.

    Parameters
    ----------
    radius_mm : float
        Distance, mm, measured from voxel centre to voxel centre.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (2 R_i + 1, 2 R_j + 1, 2 R_k + 1) ndarray of bool
        ``R`` is the number of voxels that the distance reaches along each axis.

    Raises
    ------
    ValueError
        If ``radius_mm`` is negative.

    Examples
    --------
    >>> int(ball_mm(1.0, (1.0, 1.0, 1.0)).sum()), ball_mm(1.0, (1.0, 1.0, 3.0)).shape
    (7, (3, 3, 1))
    """
    if radius_mm < 0:
        raise ValueError(f'radius_mm must be at least 0, got {radius_mm}')
    reach = [int(radius_mm / step + 1e-6) for step in spacing_mm]
    axes = [np.arange(-r, r + 1) * step for r, step in zip(reach, spacing_mm, strict=True)]
    grid = np.meshgrid(*axes, indexing='ij')
    return sum(axis**2 for axis in grid) <= radius_mm**2 + 1e-6
