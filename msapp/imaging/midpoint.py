"""The subject's own space: rigid, 1 mm, with MNI's axes, at the unbiased midpoint of the visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from msapp.imaging import geometry, registration

# Registration to the mean image is repeated this often.
PASSES = 1
PAIR_VOXEL_MM = 1.5


@dataclass(frozen=True)
class Midpoint:
    """Where each visit lies in ``individual`` space.

    Attributes
    ----------
    to_visit : tuple of (4, 4) ndarray
        World of ``individual`` to world of each visit (RAS, mm), rigid: resamples that visit's
        image onto the individual grid.
    from_mni : (4, 4) ndarray
        World of MNI152NLin2009aSym to world of ``individual``, affine: resamples images in
        ``individual`` onto MNI.
    """

    to_visit: tuple[np.ndarray, ...]
    from_mni: np.ndarray


def recentre(from_common: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Move a common space to the midpoint: the mean of the maps into it becomes the identity.

    Parameters
    ----------
    from_common : sequence of (4, 4) ndarray
        World of a common space to world of each visit, rigid.

    Returns
    -------
    list of (4, 4) ndarray
        The same from the midpoint; every pair of visits keeps its relation.
    """
    # mean_rigid of maps into the common space, seen from the common space itself.
    to_common = [np.linalg.inv(matrix) for matrix in from_common]
    shift = geometry.mean_rigid(to_common)
    return [matrix @ shift for matrix in from_common]


def find_midpoint(
    images: Sequence[nib.spatialimages.SpatialImage],
    brains: Sequence[nib.spatialimages.SpatialImage],
    from_mni: Sequence[np.ndarray],
    *,
    voxel_mm: float = PAIR_VOXEL_MM,
    seed: int = 0,
) -> Midpoint:
    """Find the unbiased midpoint space of any number of visits.

    The visits are first laid upon the first one, then upon their mean image at the midpoint,
    which moves with them; so no visit is favoured. The space takes its axes from MNI by the
    rigid part of the mean affine map.

    Parameters
    ----------
    images : sequence of nibabel images
        One bias-corrected image of the same kind a visit (FLAIR, where all visits have it).
    brains : sequence of nibabel images
        Brain probability of each visit, in its world.
    from_mni : sequence of (4, 4) ndarray
        World of MNI to world of each visit, affine.
    voxel_mm : float
        Resolution at which the images are compared, mm.
    seed : int

    Returns
    -------
    Midpoint

    References
    ----------
    M. Reuter et al., NeuroImage 61:1402, 2012 (unbiased within-subject template).
    """
    from_first = [np.eye(4)]
    for image, own in zip(images[1:], from_mni[1:], strict=True):
        start = geometry.nearest_rigid(own) @ np.linalg.inv(geometry.nearest_rigid(from_mni[0]))
        from_first.append(
            registration.register_linear(
                images[0],
                image,
                mask=brains[0],
                initial=start,
                voxel_mm=voxel_mm,
                seed=seed,
            )
        )
    to_visit = _align_with_mni(from_first, from_mni)
    if len(images) > 1:
        for _ in range(PASSES):
            to_visit = _register_to_mean(images, brains, to_visit, voxel_mm, seed)
    return Midpoint(tuple(to_visit), _mean_affine(to_visit, from_mni))


def _mean_affine(to_visit: Sequence[np.ndarray], from_mni: Sequence[np.ndarray]) -> np.ndarray:
    """Average the visits' affine maps from MNI after bringing them into the common space."""
    return np.mean(
        [np.linalg.inv(rigid) @ own for rigid, own in zip(to_visit, from_mni, strict=True)], axis=0
    )


def _align_with_mni(
    from_common: Sequence[np.ndarray], from_mni: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Move a common space to the midpoint of the visits and turn it to MNI's axes."""
    centred = recentre(from_common)
    turn = geometry.nearest_rigid(_mean_affine(centred, from_mni))
    return [matrix @ turn for matrix in centred]


def _register_to_mean(
    images: Sequence[nib.spatialimages.SpatialImage],
    brains: Sequence[nib.spatialimages.SpatialImage],
    to_visit: Sequence[np.ndarray],
    voxel_mm: float,
    seed: int,
) -> list[np.ndarray]:
    """Register every visit to the mean image at the midpoint, and take the midpoint anew."""
    grid = geometry.isotropic_grid(geometry.individual_grid(), voxel_mm)
    total = np.zeros(grid.shape, np.float32)
    inside = np.ones(grid.shape, bool)
    for image, brain, matrix in zip(images, brains, to_visit, strict=True):
        data = geometry.resample(image, grid, matrix)
        mask = geometry.resample_mask(brain, grid, matrix)
        total += data / max(float(np.median(data[mask])), 1e-6)
        inside &= mask
    mean, mask_image = geometry.like(total, grid), geometry.like(inside, grid)
    refined = [
        registration.register_linear(
            mean,
            image,
            mask=mask_image,
            initial=matrix,
            voxel_mm=voxel_mm,
            iterations=(20, 100, 50),
            seed=seed,
        )
        for image, matrix in zip(images, to_visit, strict=True)
    ]
    # Only the small common drift is taken out; the axes stay MNI's.
    drift = geometry.mean_rigid(
        [np.linalg.inv(old) @ new for old, new in zip(to_visit, refined, strict=True)]
    )
    return [matrix @ np.linalg.inv(drift) for matrix in refined]
