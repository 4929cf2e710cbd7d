"""Scores of a mask against a reference mask, voxel by voxel and surface to surface.

What a mask without lesions leaves undefined is NaN (``n/a`` in tables), never a number that
flatters:

=========================  =====================  ===================  ==================
score                      both masks empty       reference empty      prediction empty
=========================  =====================  ===================  ==================
Dice, Jaccard              NaN                    0                    0
sensitivity                NaN                    NaN                  0
PPV                        NaN                    0                    NaN
specificity, NPV           from their formulas: the background is there in every case
volume errors              NaN                    NaN                  -100 %, 100 %
distances                  NaN                    NaN                  NaN
=========================  =====================  ===================  ==================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from msapp.lesions.instances import FACES, crop_box

Spacing = tuple[float, float, float]

# The neighbourhood of SimpleITK's BinaryErode with radius (1, 1, 0): the 3 x 3 voxels of a slice.
# Its ball of radius 1 takes in the diagonals.
SLICE_SQUARE = np.ones((3, 3, 1), bool)
HAUSDORFF_PERCENTILE = 95


@dataclass(frozen=True)
class VoxelScores:
    """Agreement of a predicted mask with a reference mask.

    Attributes
    ----------
    dice, jaccard : float
        0 to 1.
    sensitivity, specificity, ppv, npv : float
        0 to 1. Specificity and NPV grow with the empty space around the head.
    relative_volume_error_percent : float
        Predicted less reference volume, over the reference volume, %; positive is too much.
    absolute_volume_difference_percent : float
        The same without its sign, % (AVD of the WMH challenge).
    hd95_mm : float
        95th percentile Hausdorff distance by the rule of the WMH challenge, mm.
    assd_mm : float
        Average symmetric surface distance, mm.
    predicted_ml, reference_ml : float
        Volumes, ml.
    """

    dice: float
    jaccard: float
    sensitivity: float
    specificity: float
    ppv: float
    npv: float
    relative_volume_error_percent: float
    absolute_volume_difference_percent: float
    hd95_mm: float
    assd_mm: float
    predicted_ml: float
    reference_ml: float


def ratio(part: SupportsFloat, whole: SupportsFloat) -> float:
    """Divide; NaN where there is nothing to divide by.

    Examples
    --------
    >>> ratio(1, 4), ratio(0, 0)
    (0.25, nan)
    """
    return float(part) / float(whole) if whole else float('nan')


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Return the Dice coefficient of two masks, 0 to 1; NaN if both are empty, 0 if one is.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool

    References
    ----------
    L. R. Dice, Ecology 1945;26:297-302: twice the intersection over the sum of the sizes.

    Examples
    --------
    >>> dice(np.array([1, 1, 0], bool), np.array([0, 1, 1], bool))
    0.5
    """
    shared = np.count_nonzero(prediction & reference)
    return ratio(2 * shared, np.count_nonzero(prediction) + np.count_nonzero(reference))


def surface_mm(
    mask: np.ndarray, spacing_mm: Spacing, structure: np.ndarray, *, open_border: bool
) -> np.ndarray:
    """Return the centres of the voxels that erosion takes off a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    structure : ndarray of bool
        Neighbourhood of the erosion.
    open_border : bool
        Whether a mask is thought to go on beyond the edge of the image (as ITK does), so that
        the edge makes no surface.

    Returns
    -------
    (N, 3) ndarray, mm
        Along the axes of the array.
    """
    inner = ndimage.binary_erosion(mask, structure, border_value=int(open_border))
    return np.argwhere(mask & ~inner) * np.asarray(spacing_mm, float)


def surface_distances_mm(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance from each point of two surfaces to the nearest of the other.

    Parameters
    ----------
    first : (N, 3) ndarray, mm
    second : (M, 3) ndarray, mm

    Returns
    -------
    tuple of (N,) and (M,) ndarray, mm
        Empty if one of the surfaces has no point.
    """
    if not len(first) or not len(second):
        return np.empty(0), np.empty(0)
    return KDTree(second).query(first)[0], KDTree(first).query(second)[0]


def hausdorff95_mm(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> float:
    """Return the 95th percentile Hausdorff distance by the rule of the WMH challenge.

    It is the larger of the two directed 95th percentiles. A surface is what an erosion by 3 x 3
    voxels within each slice (the third axis counts the slices) takes off the mask, so a mask of
    one slice has an inside, and the top and bottom of a lesion do not count.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    float
        mm; NaN if one of the masks is empty.

    References
    ----------
    H. J. Kuijf et al., IEEE Trans. Med. Imaging 2019;38:2556-2568, and ``evaluation.py`` of the
    challenge.
    """
    box = crop_box(prediction, reference)
    first, second = (
        surface_mm(mask[box], spacing_mm, SLICE_SQUARE, open_border=True)
        for mask in (prediction, reference)
    )
    there, back = surface_distances_mm(first, second)
    if not there.size:
        return float('nan')
    return float(max(np.percentile(way, HAUSDORFF_PERCENTILE) for way in (there, back)))


def average_surface_distance_mm(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing
) -> float:
    """Return the average symmetric surface distance: the mean over the voxels of both surfaces.

    A surface is made of the voxels of a mask that share a face with the outside, where the edge
    of the image counts as outside. Equals MONAI's ``compute_average_surface_distance`` with
    ``symmetric=True``.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    float
        mm; NaN if one of the masks is empty.
    """
    box = crop_box(prediction, reference)
    first, second = (
        surface_mm(mask[box], spacing_mm, FACES, open_border=False)
        for mask in (prediction, reference)
    )
    distances = np.concatenate(surface_distances_mm(first, second))
    return float(distances.mean()) if distances.size else float('nan')


def score_voxels(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> VoxelScores:
    """Compare two masks voxel by voxel and surface to surface.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
        On one grid. Crop both to a brain mask if specificity and NPV shall mean the brain.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    VoxelScores
        See the top of this module for masks without lesions.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f'shapes must be equal, got {prediction.shape} and {reference.shape}')
    true_positive = np.count_nonzero(prediction & reference)
    predicted, present = np.count_nonzero(prediction), np.count_nonzero(reference)
    false_positive, false_negative = predicted - true_positive, present - true_positive
    true_negative = prediction.size - true_positive - false_positive - false_negative
    error = 100 * ratio(predicted - present, present)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    return VoxelScores(
        dice=ratio(2 * true_positive, predicted + present),
        jaccard=ratio(true_positive, predicted + present - true_positive),
        sensitivity=ratio(true_positive, present),
        specificity=ratio(true_negative, true_negative + false_positive),
        ppv=ratio(true_positive, predicted),
        npv=ratio(true_negative, true_negative + false_negative),
        relative_volume_error_percent=error,
        absolute_volume_difference_percent=abs(error),
        hd95_mm=hausdorff95_mm(prediction, reference, spacing_mm),
        assd_mm=average_surface_distance_mm(prediction, reference, spacing_mm),
        predicted_ml=predicted * voxel_ml,
        reference_ml=present * voxel_ml,
    )
