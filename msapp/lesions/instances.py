"""Separate lesions of a mask: their box, labelling, size limits, and the numbers of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Voxels that share a face belong to one lesion (as in Anima and the MSSEG challenges).
FACES = ndimage.generate_binary_structure(3, 1)


@dataclass(frozen=True)
class Instance:
    """One connected region.

    Attributes
    ----------
    label : int
        Its value in the label image.
    volume_mm3 : float
    centre_mm : (3,) ndarray
        Mean of its voxel centres, world mm.
    extent_mm : float
        Longest side of its bounding box.
    box : tuple of slice
        Its bounding box, voxels.
    """

    label: int
    volume_mm3: float
    centre_mm: np.ndarray
    extent_mm: float
    box: tuple[slice, ...]


def crop_box(*masks: np.ndarray, margin: int = 1) -> tuple[slice, ...]:
    """Return the box around everything inside several masks.

    Parameters
    ----------
    *masks : (I, J, K) ndarray of bool
    margin : int
        Voxels to add on every side, as far as the array reaches.

    Returns
    -------
    tuple of slice
        Of no voxel if all the masks are empty.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 9), bool); mask[4, 3:5, 0] = True
    >>> [(side.start, side.stop) for side in crop_box(mask)]
    [(3, 6), (2, 6), (0, 2)]
    """
    union = np.logical_or.reduce(masks) if len(masks) > 1 else masks[0]
    found = ndimage.find_objects(union.astype(np.uint8))
    if not found:
        return tuple(slice(0, 0) for _ in union.shape)
    return tuple(
        slice(max(side.start - margin, 0), min(side.stop + margin, size))
        for side, size in zip(found[0], union.shape, strict=True)
    )


def label_instances(mask: np.ndarray, voxel_mm3: float, *, minimum_mm3: float = 0.0) -> np.ndarray:
    """Number the connected regions of a mask by size, largest first, dropping small ones.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    voxel_mm3 : float
        Volume of a voxel, mm3.
    minimum_mm3 : float
        Regions smaller than this are dropped, mm3.

    Returns
    -------
    (I, J, K) ndarray of int32
        0 outside; 1 is the largest region. Regions share faces (6-connected).

    Examples
    --------
    >>> label_instances(np.array([1, 0, 1, 1, 0], bool).reshape(5, 1, 1), 1.0).ravel().tolist()
    [2, 0, 1, 1, 0]
    """
    labels, count = ndimage.label(mask, structure=FACES)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] * voxel_mm3
    order = np.argsort(-sizes, kind='stable')
    order = order[sizes[order] >= minimum_mm3 * (1 - 1e-6)]
    numbers = np.zeros(count + 1, np.int32)
    numbers[order + 1] = np.arange(1, order.size + 1)
    return numbers[labels]


def measure_instances(labels: np.ndarray, affine: np.ndarray) -> Iterator[Instance]:
    """Give volume, centre and extent of each region of a label image.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
    affine : (4, 4) ndarray
        Voxel indices to world, mm.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        inside = np.argwhere(labels[box] == label)
        centre = inside.mean(axis=0) + [side.start for side in box]
        sides = np.array([side.stop - side.start for side in box]) * spacing
        yield Instance(
            label=label,
            volume_mm3=float(len(inside) * voxel_mm3),
            centre_mm=affine[:3, :3] @ centre + affine[:3, 3],
            extent_mm=float(sides.max()),
            box=box,
        )


def measure_outside(
    new: np.ndarray, later: np.ndarray, voxel_mm3: float, least_overlap: float
) -> tuple[float, ...]:
    """Return the volumes of marked places of which hardly anything is in a later lesion, mm3.

    Parameters
    ----------
    new : (I, J, K) ndarray of bool
        What a detector marked as new; each place is connected by faces.
    later : (I, J, K) ndarray of int
        Lesion instances.
    voxel_mm3 : float
        Volume of a voxel, mm3.
    least_overlap : float
        Places of which this share is in lesions do not count.

    Returns
    -------
    tuple of float
        Of places of which less than ``least_overlap`` is in lesions, largest first.
    """
    places = label_instances(new, voxel_mm3)
    voxels = np.bincount(places.ravel())
    inside = np.bincount(places[later > 0], minlength=voxels.size)
    outside = voxels[1:][inside[1:] < least_overlap * voxels[1:]]
    return tuple((outside * voxel_mm3).tolist())


def count_parts(
    labels: np.ndarray,
    chosen: np.ndarray,
    shown: np.ndarray | None,
    least_voxels: float,
) -> int:
    """Count instances of so many voxels or more, as a mask shows them.

    One that is shown altogether counts once; one that the mask cuts, as often as it is in parts.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
    chosen : (N,) ndarray of int
        Labels of the instances that are counted.
    shown : (I, J, K) ndarray of bool, or None
        None shows all.
    least_voxels : float

    Examples
    --------
    >>> rod = np.ones((1, 1, 9), int)
    >>> count_parts(rod, np.array([1]), np.arange(9)[None, None] != 4, 3)
    2
    """
    count = 0
    for label in chosen:
        whole = labels == label
        parts = np.array([whole.sum()])
        if shown is not None and not shown[whole].all():
            parts = np.bincount(ndimage.label(whole & shown, FACES)[0].ravel())[1:]
        count += int((parts >= least_voxels).sum())
    return count


def position_columns(centre_mm: np.ndarray, to_mni: np.ndarray) -> dict[str, float]:
    """Return the six position columns of a region.

    Parameters
    ----------
    centre_mm : (3,) ndarray
        World of ``individual``, mm.
    to_mni : (4, 4) ndarray
        World of ``individual`` to world of MNI, mm.

    Returns
    -------
    dict of str to float
        ``x_individual_mm`` and so on, then ``x_mni_mm`` and so on.
    """
    in_mni = to_mni[:3, :3] @ centre_mm + to_mni[:3, 3]
    return {
        f'{axis}_{space}_mm': float(value)
        for space, point in (('individual', centre_mm), ('mni', in_mni))
        for axis, value in zip('xyz', point, strict=True)
    }


def measure_new_lesions(
    labels: np.ndarray,
    affine: np.ndarray,
    to_mni: np.ndarray,
    probability: np.ndarray,
    images: Mapping[str, np.ndarray],
) -> list[dict[str, float]]:
    """Make the rows of the table of new lesions that a network found, without the visit's columns.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
    affine : (4, 4) ndarray
        Voxel indices to world of ``individual``, mm.
    to_mni : (4, 4) ndarray
        World of ``individual`` to world of MNI, mm.
    probability : (I, J, K) ndarray
        Of the network, in [0, 1].
    images : mapping of str to (I, J, K) ndarray
        The FLAIRs ``previous`` and ``current``; the mode of white matter is 1.
    """
    rows = []
    for found in measure_instances(labels, affine):
        inside = labels[found.box] == found.label
        row = {'new_lesion': found.label, 'volume_mm3': found.volume_mm3}
        row |= position_columns(found.centre_mm, to_mni)
        maps = {'mean_probability': probability}
        maps |= {f'{visit}_intensity': images[visit] for visit in ('previous', 'current')}
        row['extent_mm'] = found.extent_mm
        row |= {name: float(values[found.box][inside].mean()) for name, values in maps.items()}
        rows.append(row)
    return rows
