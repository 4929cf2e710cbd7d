"""Patches of an image and their values, put together where they overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ['Patch', 'corners', 'merge_nearest']

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A box of an image around one candidate region.

    Attributes
    ----------
    label : int
        The candidate's number in its label image.
    start, stop : tuple of int
        First voxel, and first voxel beyond, on each axis.
    """

    label: int
    start: Triple
    stop: Triple

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """What to index an image with."""
        i, j, k = map(slice, self.start, self.stop)
        return i, j, k

    @property
    def shape(self) -> Triple:
        """Number of voxels on each axis."""
        i, j, k = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return i, j, k


def corners(box: Sequence[slice]) -> tuple[Triple, Triple]:
    """Return ``start`` and ``stop`` of a patch from what indexes an image.

    Examples
    --------
    >>> corners((slice(1, 4), slice(0, 2), slice(5, 9)))
    ((1, 0, 5), (4, 2, 9))
    """
    i, j, k = box
    return (i.start, j.start, k.start), (i.stop, j.stop, k.stop)


def merge_nearest(
    shape: Triple,
    patches: Sequence[Patch],
    values: Sequence[np.ndarray],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> np.ndarray:
    """Put the values of patches into one image; where they overlap the nearest centre counts.

    Beyond the result one more image of its size is held, in 32 bits.

    Parameters
    ----------
    shape : tuple of int
        Of the image, ``(I, J, K)``.
    patches : sequence of Patch
        Each with a label of its own. Their order does not matter.
    values : sequence of ndarray
        One for each patch, of its shape.
    spacing_mm : tuple of float
        Voxel size, mm, in which distances to centres are measured.

    Returns
    -------
    (I, J, K) ndarray of float32
        Each voxel has the value of the patch around it whose centre is nearest, of equally near
        ones that with the lowest label; 0 in no patch.

    Raises
    ------
    ValueError
        If a label occurs twice, a patch is not within the image, or values do not fit their
        patch.

    References
    ----------
    The inference of the hybrid method for new lesions, MSSEG-2 workshop (MICCAI 2021).

    Examples
    --------
    >>> first = Patch(label=1, start=(0, 0, 0), stop=(3, 1, 1))
    >>> second = Patch(label=2, start=(1, 0, 0), stop=(5, 1, 1))
    >>> values = [np.full(patch.shape, patch.label) for patch in (first, second)]
    >>> merge_nearest((6, 1, 1), [first, second], values).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0, 2.0, 0.0]
    """
    _check(shape, patches, values)
    merged = np.zeros(shape, np.float32)
    nearest = np.full(shape, np.inf, np.float32)
    # By label, so that of equally near patches the lowest keeps the voxel.
    for index in sorted(range(len(patches)), key=lambda index: patches[index].label):
        patch = patches[index]
        distance = _distance_from_centre(patch.shape, spacing_mm)
        closer = distance < nearest[patch.box]
        nearest[patch.box][closer] = distance[closer]
        merged[patch.box][closer] = values[index][closer]
    return merged


def _distance_from_centre(shape: Triple, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the squared distance of each voxel's centre from that of the box, mm2.

    Examples
    --------
    >>> _distance_from_centre((4, 1, 1), (2.0, 1.0, 1.0)).ravel().tolist()
    [9.0, 1.0, 1.0, 9.0]
    """
    i, j, k = (
        ((np.arange(length) - (length - 1) / 2) * step) ** 2
        for length, step in zip(shape, spacing_mm, strict=True)
    )
    squared: np.ndarray = i[:, None, None] + j[None, :, None] + k[None, None, :]
    return squared.astype(np.float32)


def _check(shape: Triple, patches: Sequence[Patch], values: Sequence[np.ndarray]) -> None:
    if len(patches) != len(values):
        raise ValueError(f'{len(patches)} patches need as many values, got {len(values)}')
    if len({patch.label for patch in patches}) < len(patches):
        raise ValueError('labels of patches must be unique')
    for patch, inside in zip(patches, values, strict=True):
        if any(
            not 0 <= start < stop <= side
            for start, stop, side in zip(patch.start, patch.stop, shape, strict=True)
        ):
            raise ValueError(
                f'patch {patch.label} must lie within {shape}, it is {patch.start} to {patch.stop}'
            )
        if inside.shape != patch.shape:
            raise ValueError(
                f'values of patch {patch.label} must be {patch.shape}, got {inside.shape}'
            )
