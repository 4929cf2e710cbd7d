"""Candidate regions of new lesions between two visits: step one of the hybrid method.

New lesions are like their surroundings in the first FLAIR and bright in the second: after the
intensities are matched and rounded to a few grey levels, voxels are kept whose level rises by
more than 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from msapp.errors import InputError
from msapp.imaging import distance, intensity
from msapp.lesions.instances import (
    Instance,
    label_instances,
    measure_instances,
    position_columns,
)

GREY_LEVELS = 6
RATIO = 1.15
OPENING_MM = 1.0
MINIMUM_MM3 = 7.0
SURFACE_MM = 1.0
PATCH_PADDING_VOXELS = 2
# Grey levels span the range of the second visit without its outermost half percent.
RANGE_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Candidates:
    """What step one finds between two visits.

    Attributes
    ----------
    labels : (I, J, K) ndarray of int32
        Candidate regions, 1 the largest.
    previous_levels, current_levels : (I, J, K) ndarray of uint8
        The discretised FLAIRs, 1 to 6 inside the mask.
    previous : (I, J, K) ndarray of float32
        The first visit's FLAIR matched to the second; 0 outside the mask.
    ratio : (I, J, K) ndarray of float32
        Second over first visit after matching, before discretisation; 0 outside the mask.
    """

    labels: np.ndarray
    previous: np.ndarray
    previous_levels: np.ndarray
    current_levels: np.ndarray
    ratio: np.ndarray


def find_candidates(
    previous: np.ndarray,
    current: np.ndarray,
    mask: np.ndarray,
    spacing_mm: tuple[float, float, float],
    *,
    levels: int | None = GREY_LEVELS,
    ratio: float = RATIO,
) -> Candidates:
    """Find candidate regions of new lesions.

    Parameters
    ----------
    previous, current : (I, J, K) ndarray
        Bias-corrected FLAIRs of two visits on one grid; ``previous`` registered (affine).
    mask : (I, J, K) ndarray of bool
        Intersection of both visits' brain masks.
    spacing_mm : tuple of float
        Voxel size, mm; all sizes below hold in mm at any voxel size.
    levels : int or None
        Number of grey levels; None compares the matched intensities themselves.
    ratio : float
        Smallest ratio of second to first visit (exceeded).

    Returns
    -------
    Candidates

    Raises
    ------
    InputError
        If the masks do not overlap, or an image is constant.

    References
    ----------
    The hybrid method of the MSSEG-2 workshop (MICCAI 2021): landmark histogram matching with the
    second visit as reference, 6 grey levels, ratio over 1.15, opening of 1 mm, regions of at
    least 7 mm3, brain mask eroded by 1 mm.
    """
    if not mask.any():
        raise InputError('the brain masks of the two visits do not overlap; one of them is wrong.')
    low, high = np.percentile(current[mask], RANGE_PERCENTILES)
    if high <= low:
        raise InputError('the later FLAIR has one intensity only inside the brain mask.')
    matched = intensity.match_histogram(previous, current, mask)
    steps = levels or GREY_LEVELS
    before, after = (
        intensity.discretize(image, mask, levels=steps, low=float(low), high=float(high))
        for image in (matched, current)
    )
    exact_ratio = np.zeros(mask.shape, np.float32)
    np.divide(current, matched, out=exact_ratio, where=mask & (matched > 0), casting='unsafe')
    if levels is None:
        rising = exact_ratio > ratio
    else:
        rising = mask & (after > ratio * np.maximum(before, 1).astype(np.float32))
    opened = distance.open_mm(rising, OPENING_MM, spacing_mm)
    inner = distance.erode_mm(mask, SURFACE_MM, spacing_mm)
    labels = label_instances(opened & inner, float(np.prod(spacing_mm)), minimum_mm3=MINIMUM_MM3)
    return Candidates(labels, matched, before, after, exact_ratio)


def patch_of(
    instance: Instance, shape: tuple[int, ...], *, padding: int = PATCH_PADDING_VOXELS
) -> tuple[slice, ...]:
    """Return the patch around a candidate: its box and ``padding`` voxels on every side.

    Parameters
    ----------
    instance : Instance
    shape : tuple of int
        Shape of the image; the patch is cut at its border.
    """
    return tuple(
        slice(max(side.start - padding, 0), min(side.stop + padding, length))
        for side, length in zip(instance.box, shape, strict=True)
    )


def measure_candidates(
    candidates: Candidates,
    maps: distance.DistanceMaps,
    affine: np.ndarray,
    to_mni: np.ndarray,
) -> list[dict[str, float]]:
    """Make the rows of the table of candidates, one a candidate, without the visit's columns.

    Parameters
    ----------
    candidates : Candidates
    maps : DistanceMaps
        Of the intersection mask.
    affine : (4, 4) ndarray
        Voxel indices to world of ``individual``, mm.
    to_mni : (4, 4) ndarray
        World of ``individual`` to world of MNI, mm.
    """
    rows = []
    for found in measure_instances(candidates.labels, affine):
        inside = candidates.labels[found.box] == found.label
        voxel = np.round(np.linalg.inv(affine) @ [*found.centre_mm, 1.0])[:3].astype(int)
        centre = tuple(np.clip(voxel, 0, np.array(candidates.labels.shape) - 1))
        row: dict[str, float] = {'candidate': found.label, 'volume_mm3': found.volume_mm3}
        row |= position_columns(found.centre_mm, to_mni)
        row |= {
            'intensity_ratio': float(candidates.ratio[found.box][inside].mean()),
            'depth_mm': float(maps.depth[centre]),
            'below_vertex_mm': float(maps.below_vertex[centre]),
            'from_occiput_mm': float(maps.from_occiput[centre]),
        }
        patch = patch_of(found, candidates.labels.shape)
        for axis, side in zip('ijk', patch, strict=True):
            row |= {f'patch_start_{axis}': side.start, f'patch_stop_{axis}': side.stop}
        rows.append(row)
    return rows
