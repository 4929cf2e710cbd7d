"""Shapes that a head is drawn with, as signed distances: negative inside, positive outside, mm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

# Coordinates along x, y and z, mm, that broadcast against each other.
Points = tuple[np.ndarray, np.ndarray, np.ndarray]
Vector = Sequence[float]


def ellipsoid(points: Points, centre: Vector, radii: Vector) -> np.ndarray:
    """Return the distance to an ellipsoid, mm; exact for a sphere, else right in sign only."""
    squares = [((p - c) / r) ** 2 for p, c, r in zip(points, centre, radii, strict=True)]
    return (np.sqrt(squares[0] + squares[1] + squares[2]) - 1) * min(radii)


def mirrored_ellipsoids(points: Points, centre: Vector, radii: Vector) -> np.ndarray:
    """Return the distance to an ellipsoid and its mirror image in the midsagittal plane, mm."""
    return ellipsoid((np.abs(points[0]), points[1], points[2]), centre, radii)


def capsule(points: Points, start: Vector, stop: Vector, radius_mm: float) -> np.ndarray:
    """Return the signed distance to a tube with round ends from ``start`` to ``stop``, mm."""
    axis = [float(b - a) for a, b in zip(start, stop, strict=True)]
    offset = [p - float(c) for p, c in zip(points, start, strict=True)]
    dot = offset[0] * axis[0] + offset[1] * axis[1] + offset[2] * axis[2]
    along = np.clip(dot / sum(a * a for a in axis), 0, 1)
    gaps = [(o - along * a) ** 2 for o, a in zip(offset, axis, strict=True)]
    return np.sqrt(gaps[0] + gaps[1] + gaps[2]) - radius_mm


def blend(distances_mm: Iterable[np.ndarray], radius_mm: float) -> np.ndarray:
    """Unite shapes with rounded seams (polynomial smooth minimum, I. Quilez, 2013).

    Parameters
    ----------
    distances_mm : iterable of ndarray
        Signed distances.
    radius_mm : float
        Size of the rounding.
    """
    first, *others = distances_mm
    for other in others:
        seam = np.maximum(radius_mm - np.abs(first - other), 0) / radius_mm
        first = np.minimum(first, other) - seam**2 * (radius_mm / 4)
    return first


def signed_distance(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return the distance to the border of a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    spacing_mm : float
        Of the grid, isotropic.

    Returns
    -------
    (I, J, K) ndarray of float32, mm
        Negative inside.
    """
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ((outside - inside) * spacing_mm).astype(np.float32)
