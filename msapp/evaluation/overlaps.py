"""Which lesions of two masks lie on each other, and by how much: what every lesion count needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from msapp.lesions.instances import crop_box

# Neighbours of a voxel and scipy's name for them: faces; and edges; and corners.
CONNECTIVITY = {6: 1, 18: 2, 26: 3}
# Headers store voxel sizes with about 7 digits; a size limit must not depend on the last one.
SIZE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Overlaps:
    """The lesions of a prediction and of a reference, and the pairs that share voxels.

    Attributes
    ----------
    predicted_voxels : (P,) ndarray of int
        Size of each predicted lesion.
    reference_voxels : (R,) ndarray of int
        Size of each reference lesion.
    predicted, reference : (N,) ndarray of int
        The two lesions of each pair that shares voxels, counted from 0.
    voxels : (N,) ndarray of int
        Number of voxels that the pair shares, at least 1.
    voxel_mm3 : float
        Volume of a voxel, mm3.
    predicted_labels : (P,) ndarray of int
        Value of each predicted lesion in its label image.
    reference_labels : (R,) ndarray of int
        Value of each reference lesion in its label image.
    """

    predicted_voxels: np.ndarray
    reference_voxels: np.ndarray
    predicted: np.ndarray
    reference: np.ndarray
    voxels: np.ndarray
    voxel_mm3: float
    predicted_labels: np.ndarray
    reference_labels: np.ndarray

    def swapped(self) -> Overlaps:
        """Return the same overlaps with the prediction taken for the reference."""
        return Overlaps(
            predicted_voxels=self.reference_voxels,
            reference_voxels=self.predicted_voxels,
            predicted=self.reference,
            reference=self.predicted,
            voxels=self.voxels,
            voxel_mm3=self.voxel_mm3,
            predicted_labels=self.reference_labels,
            reference_labels=self.predicted_labels,
        )

    def covered_voxels(self) -> np.ndarray:
        """Return how much of each reference lesion lies in some predicted lesion, (R,) voxels."""
        return _sum_by(self.reference, self.voxels, self.reference_voxels.size)


def _sum_by(group: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Add up whole numbers by group, (count,)."""
    return np.bincount(group, weights=values, minlength=count).astype(np.int64)


def label_lesions(
    mask: np.ndarray, voxel_mm3: float, *, connectivity: int = 6, above_mm3: float = 0.0
) -> np.ndarray:
    """Number the connected regions of a mask.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    voxel_mm3 : float
        Volume of a voxel, mm3.
    connectivity : {6, 18, 26}
        Voxels that share a face, an edge or a corner belong together.
    above_mm3 : float
        Only regions strictly larger than this are kept, mm3. This is the rule of Anima; see
        `msapp.lesions.instances.label_instances` for a minimum that is itself kept.

    Returns
    -------
    (I, J, K) ndarray of int32
        0 outside.

    Raises
    ------
    ValueError
        If the connectivity is none of the three.

    Examples
    --------
    >>> mask = np.array([1, 0, 1, 1, 0], bool).reshape(5, 1, 1)
    >>> label_lesions(mask, 1.0).ravel().tolist()
    [1, 0, 2, 2, 0]
    >>> label_lesions(mask, 1.0, above_mm3=1.0).ravel().tolist()
    [0, 0, 1, 1, 0]
    """
    if connectivity not in CONNECTIVITY:
        raise ValueError(f'connectivity must be one of {[*CONNECTIVITY]}, got {connectivity}')
    structure = ndimage.generate_binary_structure(3, CONNECTIVITY[connectivity])
    labels, count = ndimage.label(mask, structure=structure, output=np.int32)
    sizes_mm3 = np.bincount(labels.ravel(), minlength=count + 1) * voxel_mm3
    kept = sizes_mm3 > above_mm3 * (1 + SIZE_TOLERANCE)
    kept[0] = False
    if kept.sum() == count:
        return labels
    numbers = np.zeros(count + 1, np.int32)
    numbers[kept] = np.arange(1, kept.sum() + 1)
    return numbers[labels]


def pair_labels(prediction: np.ndarray, reference: np.ndarray, voxel_mm3: float) -> Overlaps:
    """Find the lesions of two label images that share voxels.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of int
        0 outside, one positive value a lesion; values may be missing.
    voxel_mm3 : float
        Volume of a voxel, mm3.

    Returns
    -------
    Overlaps
        Lesions in the order of their values.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> found = pair_labels(np.array([[[0, 1, 1, 7]]]), np.array([[[2, 2, 0, 0]]]), 1.0)
    >>> found.predicted_voxels.tolist(), found.reference_voxels.tolist(), found.voxels.tolist()
    ([2, 1], [2], [1])
    """
    if prediction.shape != reference.shape:
        raise ValueError(f'shapes must be equal, got {prediction.shape} and {reference.shape}')
    predicted_sizes = np.bincount(prediction.ravel(), minlength=1)
    reference_sizes = np.bincount(reference.ravel(), minlength=1)
    both = (prediction > 0) & (reference > 0)
    width = predicted_sizes.size
    keys = reference[both].astype(np.int64) * width + prediction[both]
    pairs, voxels = np.unique(keys, return_counts=True)
    predicted_labels = np.flatnonzero(predicted_sizes[1:]) + 1
    reference_labels = np.flatnonzero(reference_sizes[1:]) + 1
    return Overlaps(
        predicted_voxels=predicted_sizes[predicted_labels],
        reference_voxels=reference_sizes[reference_labels],
        predicted=np.searchsorted(predicted_labels, pairs % width),
        reference=np.searchsorted(reference_labels, pairs // width),
        voxels=voxels,
        voxel_mm3=float(voxel_mm3),
        predicted_labels=predicted_labels,
        reference_labels=reference_labels,
    )


def pair_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    voxel_mm3: float,
    *,
    connectivity: int = 6,
    above_mm3: float = 0.0,
) -> Overlaps:
    """Separate the lesions of two masks and find those that share voxels.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    voxel_mm3, connectivity, above_mm3
        See `label_lesions`; the same for both masks.

    Returns
    -------
    Overlaps

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f'shapes must be equal, got {prediction.shape} and {reference.shape}')
    box = crop_box(prediction, reference)
    first, second = (
        label_lesions(mask[box], voxel_mm3, connectivity=connectivity, above_mm3=above_mm3)
        for mask in (prediction, reference)
    )
    return pair_labels(first, second, voxel_mm3)
