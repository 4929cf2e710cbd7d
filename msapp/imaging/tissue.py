"""The zones of a head: what the anatomy network tells apart, and how zone maps are read."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.imaging import geometry

# In the order of the network's classes; a zone map holds indices into this.
ZONES = (
    'background', 'ventricles', 'csf', 'cortex', 'white_matter', 'deep_grey', 'brain_stem',
    'cerebellum',
)  # fmt: skip

MM3_PER_ML = 1000.0


def zone_mask(zones: np.ndarray, *names: str) -> np.ndarray:
    """Return where a zone map shows one of some zones.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Index into `ZONES`.
    *names : str
        Names of zones.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    ValueError
        If a name is not one of `ZONES`.

    Examples
    --------
    >>> zone_mask(np.array([0, 6, 7, 3]), 'brain_stem', 'cerebellum').tolist()
    [False, True, True, False]
    """
    return np.isin(zones, _numbers(names))


def zones_on_grid(
    probabilities: nib.Nifti1Image,
    mask: np.ndarray,
    grid: nib.spatialimages.SpatialImage,
    transform: np.ndarray,
) -> np.ndarray:
    """Bring zones onto a grid: inside the brain the likeliest that is not background.

    Parameters
    ----------
    probabilities : nibabel.Nifti1Image, (I, J, K, 8)
        Probability of each of `ZONES`.
    mask : ndarray of bool
        The brain, on the grid.
    grid : nibabel image
    transform : (4, 4) ndarray
        World of the grid to world of the probabilities, mm.

    Returns
    -------
    ndarray of uint8
        Index into `ZONES`; 0 outside the mask, and inside where no zone reaches.
    """
    zones = np.zeros(mask.shape, np.uint8)
    shares = np.asanyarray(probabilities.dataobj)
    for box in ndimage.find_objects(mask.astype(np.uint8)):
        about_brain = grid.slicer[box]
        inside, highest = zones[box], np.zeros(about_brain.shape, np.float32)
        for number in range(1, len(ZONES)):
            share = geometry.resample(
                geometry.like(shares[..., number], probabilities), about_brain, transform
            )
            higher = share > highest
            inside[higher], highest[higher] = number, share[higher]
    zones[~mask] = 0
    return zones


def zone_volumes_ml(zones: np.ndarray, voxel_volume_mm3: float) -> dict[str, float]:
    """Return the volume of every zone but the background, ml.

    Examples
    --------
    >>> zone_volumes_ml(np.array([1, 1, 4]), 500.0)['ventricles']
    1.0
    """
    counts = np.bincount(zones.ravel(), minlength=len(ZONES))
    return {
        name: float(counts[number] * voxel_volume_mm3 / MM3_PER_ML)
        for number, name in enumerate(ZONES)
        if number
    }


def _numbers(names: tuple[str, ...]) -> list[int]:
    unknown = sorted(set(names) - set(ZONES))
    if unknown:
        raise ValueError(f'zones must be of {ZONES}, got {unknown}')
    return [ZONES.index(name) for name in names]
