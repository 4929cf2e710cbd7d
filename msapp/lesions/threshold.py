"""The classical lesion baseline: bright FLAIR voxels in white matter, by robust statistics.

It is a baseline to compare networks with, not a detector to rely on: it knows nothing of shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from msapp.imaging.distance import distance_maps, erode_mm
from msapp.imaging.intensity import (
    CERTAIN_WHITE_MATTER,
    Distribution,
    lower_distribution,
    robust_distribution,
)
from msapp.lesions.instances import Instance, measure_instances, position_columns

NAME = 'threshold'
# A lesion is brighter than normal-appearing white matter and than grey matter, by so many robust
# standard deviations. Without the second limit the cortex of clinical FLAIR is taken for lesion.
WHITE_MATTER_SD = 3.0
GREY_MATTER_SD = 2.0
CERTAIN_GREY_MATTER = 0.7
# Smoothing that makes noise of single voxels harmless and keeps lesions of 3 mm.
SMOOTHING_MM = 0.7
# Lesions begin where the atlas sees some white matter, and reach on where it sees no cortex:
# beside the ventricles the atlas is off by more than a lesion's width.
POSSIBLE_WHITE_MATTER = 0.3
POSSIBLE_GREY_MATTER = 0.3
SURFACE_MM = 2.0
MINIMUM_MM3 = 3.0


@dataclass(frozen=True)
class Hyperintensity:
    """Heights above normal-appearing white matter, and what exceeds the threshold.

    Attributes
    ----------
    mask : (I, J, K) ndarray of bool
    height_sd : (I, J, K) ndarray of float32
        Robust standard deviations above the mode of normal-appearing white matter.
    white_matter : Distribution
        Of normal-appearing white matter in the smoothed image.
    """

    mask: np.ndarray
    height_sd: np.ndarray
    white_matter: Distribution


def find_hyperintensities(
    flair: np.ndarray,
    brain: np.ndarray,
    spacing_mm: tuple[float, float, float],
    *,
    white_matter: np.ndarray,
    grey_matter: np.ndarray,
) -> Hyperintensity:
    """Find FLAIR voxels far brighter than normal-appearing white matter and than grey matter.

    Parameters
    ----------
    flair : (I, J, K) ndarray
        Bias-corrected FLAIR.
    brain : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    white_matter, grey_matter : (I, J, K) ndarray
        Atlas probabilities, [0, 1].

    Returns
    -------
    Hyperintensity

    References
    ----------
    J.-C. Souplet et al., MS Lesion Segmentation Challenge, MICCAI 2008 (limit from grey matter).
    """
    smooth = _smooth(flair, spacing_mm)
    normal = lower_distribution(smooth[brain & (white_matter > CERTAIN_WHITE_MATTER)])
    inner = erode_mm(brain, SURFACE_MM, spacing_mm)
    grey = robust_distribution(smooth[inner & (grey_matter > CERTAIN_GREY_MATTER)])
    limit = max(
        normal.centre + WHITE_MATTER_SD * normal.spread, grey.centre + GREY_MATTER_SD * grey.spread
    )
    bright = (smooth > limit) & inner
    certain = bright & (white_matter > POSSIBLE_WHITE_MATTER)
    not_cortex = certain | (bright & (grey_matter < POSSIBLE_GREY_MATTER))
    mask = ndimage.binary_propagation(certain, mask=not_cortex)
    return Hyperintensity(mask, _height(smooth, normal), normal)


def heights(
    flair: np.ndarray,
    brain: np.ndarray,
    spacing_mm: tuple[float, float, float],
    white_matter: np.ndarray,
) -> np.ndarray:
    """Measure how far FLAIR lies above normal-appearing white matter.

    Parameters
    ----------
    flair, brain, spacing_mm, white_matter
        As for `find_hyperintensities`.

    Returns
    -------
    (I, J, K) ndarray of float32
        Robust standard deviations above the mode of normal-appearing white matter.
    """
    smooth = _smooth(flair, spacing_mm)
    return _height(
        smooth, lower_distribution(smooth[brain & (white_matter > CERTAIN_WHITE_MATTER)])
    )


def _smooth(flair: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    sigma = [SMOOTHING_MM / step for step in spacing_mm]
    smooth: np.ndarray = ndimage.gaussian_filter(flair.astype(np.float32), sigma)
    return smooth


def _height(smooth: np.ndarray, normal: Distribution) -> np.ndarray:
    height = (smooth - normal.centre) / max(normal.spread, 1e-6 * abs(normal.centre))
    return height.astype(np.float32)


def measure_lesions(
    labels: np.ndarray,
    height_sd: np.ndarray | None,
    brain: np.ndarray,
    affine: np.ndarray,
    to_mni: np.ndarray,
    *,
    probability: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Make the rows of the lesion table, one a lesion, without the visit's columns.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Lesion instances.
    height_sd : (I, J, K) ndarray, optional
        See `heights`.
    brain : (I, J, K) ndarray of bool
    affine : (4, 4) ndarray
        Voxel indices to world of ``individual``, mm.
    to_mni : (4, 4) ndarray
        World of ``individual`` to world of MNI, mm.
    probability : (I, J, K) ndarray, optional
        Of a network, in [0, 1].
    """
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    depth = distance_maps(brain, spacing).depth
    rows = []
    for lesion in measure_instances(labels, affine):
        inside = labels[lesion.box] == lesion.label
        row: dict[str, Any] = {'lesion': lesion.label, 'volume_mm3': lesion.volume_mm3}
        row |= position_columns(lesion.centre_mm, to_mni)
        row |= {
            'extent_mm': lesion.extent_mm,
            'contrast_sd': _mean(height_sd, lesion, inside),
            'depth_mm': _mean(depth, lesion, inside),
            'mean_probability': _mean(probability, lesion, inside),
        }
        rows.append(row)
    return rows


def _mean(values: np.ndarray | None, lesion: Instance, inside: np.ndarray) -> float | None:
    """Return the mean of a map over a lesion; None without a map."""
    return None if values is None else float(values[lesion.box][inside].mean())
