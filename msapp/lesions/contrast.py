"""How much brighter a lesion is than the white matter around it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from msapp.imaging.distance import dilate_mm, erode_mm
from msapp.imaging.tissue import zone_mask
from msapp.lesions.instances import Instance

# Normal-appearing white matter is looked for in this range around a lesion: beyond its blurred
# rim, and before the bias field and other tracts matter.
RIM_MM = 2.0
SURROUND_MM = 10.0
MIN_SURROUND_MM3 = 30.0
PARTIAL_VOLUME_MM = 1.0

Spacing = tuple[float, float, float]


def surround_contrast(
    lesion: Instance,
    labels: np.ndarray,
    image: np.ndarray,
    white_matter: np.ndarray,
    spacing_mm: Spacing,
) -> float:
    """Compare a lesion with the white matter around it.

    Parameters
    ----------
    lesion : Instance
    labels : (I, J, K) ndarray of int
        Lesion instances.
    image : (I, J, K) ndarray
        White matter's mode at 1, as `msapp.imaging.intensity.normalize` leaves it.
    white_matter : (I, J, K) ndarray of bool
        See `normal_white_matter`.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    float
        Mean of the lesion minus the median of the white matter within `SURROUND_MM` of it; NaN
        where there is less than `MIN_SURROUND_MM3` of that.
    """
    box = tuple(
        slice(max(side.start - more, 0), side.stop + more)
        for side, step in zip(lesion.box, spacing_mm, strict=True)
        for more in [int(np.ceil(SURROUND_MM / step))]
    )
    inside = labels[box] == lesion.label
    near = dilate_mm(inside, SURROUND_MM, spacing_mm) & white_matter[box]
    if near.sum() * np.prod(spacing_mm) < MIN_SURROUND_MM3:
        return float('nan')
    return float(image[box][inside].mean() - np.median(image[box][near]))


def normal_white_matter(zones: np.ndarray, lesions: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return white matter that appears normal: off lesions and off the border of its zone.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Index into `msapp.imaging.tissue.ZONES`; the brain stem, mostly white, counts as white
        matter, or infratentorial lesions would have nothing to be compared with.
    lesions : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (I, J, K) ndarray of bool
        More than 2 mm from every lesion and more than 1 mm from every other zone.
    """
    white = zone_mask(zones, 'white_matter', 'brain_stem') | lesions
    normal = np.zeros(white.shape, bool)
    for box in ndimage.find_objects(white.astype(np.uint8)):
        inner = erode_mm(white[box], PARTIAL_VOLUME_MM, spacing_mm)
        normal[box] = inner & ~dilate_mm(lesions[box], RIM_MM, spacing_mm)
    return normal
