"""Lesions that come, grow, shrink or vanish between two visits, and which of them an image shows.

Masks lie on the grid of a bank of lesions, or on a part of it, with voxels of 1 mm and in
MNI's size: in a head they have about 0.7 of their volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from msapp.synthesis.lesion_bank import (
    LARGEST_COMPONENT_MM3,
    RIGID_TO_MNI,
    SHAPE,
    LesionBank,
    LoadSettings,
)
from msapp.synthesis.lesions import fullest_voxels

# A voxel is lesion from this share on.
LESION_SHARE = 0.5
# Exactly one component of the bank; exactly one patient's mask.
ONE = LoadSettings(none=0, patient=0, singles=0)
PATIENT = LoadSettings(none=0, patient=1, second=0, thinned=0, singles=0)
# New lesions are small: the smaller of two components is taken this often, and scaled down by up
# to this factor in half of the cases.
SMALLER, SMALLEST_SCALE = 0.7, 0.6
# Some are large: this share is scaled to a volume drawn from this range, evenly in its logarithm.
LARGE, LARGE_MM3 = 0.12, (400.0, 5000.0)
# Components of another patient's mask that appear at once: the mean above one.
TOGETHER = 6.0
# Lesions grow this far around a point of theirs: small ones as a whole, confluent ones in a part.
GROWING_PART_MM = (4.0, 10.0)
# Room around a lesion, or around the part of the bank's grid that an image covers: the largest
# growth, and a voxel.
ROOM = 4
TOUCHING = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), axis=-1).reshape(-1, 3)
# Lesions that are brighter than what was there by less, relative to white matter, are not seen.
SEEN = 0.12
# Lesions from this size on are painted as drawn; how factors grow below it; the largest.
AS_PAINTED_MM3, STRENGTHENED, STRONGEST = 200.0, 0.25, 2.5


@dataclass(frozen=True)
class ChangeSettings:
    """What becomes of the lesions of a pair of visits between which some change.

    Attributes
    ----------
    enlarged, shrunken, vanished : float
        Share of the lesions with this fate; the others are stable.
    growth_mm : tuple of float
        How far lesions grow or shrink.
    new : float
        Mean number of single new lesions (exponential distribution).
    most_new : int
        Their largest number.
    another : float
        Share of the pairs in which lesions of another patient's mask appear at once.
    """

    enlarged: float = 0.12
    shrunken: float = 0.06
    vanished: float = 0.04
    growth_mm: tuple[float, float] = (1.0, 2.0)
    new: float = 4.0
    most_new: int = 10
    another: float = 0.15


def draw_new(
    bank: LesionBank, before: np.ndarray, rng: np.random.Generator, settings: ChangeSettings
) -> np.ndarray:
    """Draw lesions that appear, none of which touches one that is there.

    Parameters
    ----------
    bank : LesionBank
    before : (182, 218, 182) ndarray of bool
        Lesions that are there, on the bank's grid.

    Returns
    -------
    (182, 218, 182) ndarray of bool
    """
    new = np.zeros(SHAPE, bool)
    for _ in range(min(int(rng.exponential(settings.new)), settings.most_new)):
        voxels = _draw_single(bank, rng)
        around = (voxels[:, None] + TOUCHING).reshape(-1, 3)
        around = around[((around >= 0) & (around < SHAPE)).all(axis=1)]
        if not before[tuple(around.T)].any():
            new[tuple(voxels.T)] = True
    if rng.random() < settings.another:
        new |= _draw_together(bank, before, rng)
    return new


def _draw_single(bank: LesionBank, rng: np.random.Generator) -> np.ndarray:
    """Return the voxels, (N, 3), of one component, mostly a small one, now and then a large one."""
    found = [voxels_of(bank.draw(rng, ONE)) for _ in range(2 if rng.random() < SMALLER else 1)]
    voxels = min(found, key=len)
    if len(voxels) and rng.random() < LARGE:
        return _scale_to(voxels, float(np.exp(rng.uniform(*np.log(LARGE_MM3)))))
    if len(voxels) and rng.random() < 0.5:
        middle = voxels.mean(axis=0)
        scaled = middle + (voxels - middle) * rng.uniform(SMALLEST_SCALE, 1)
        voxels = np.unique(np.rint(scaled).astype(int), axis=0)
    return voxels


def _scale_to(voxels: np.ndarray, volume_mm3: float) -> np.ndarray:
    """Return the voxels, of 1 mm3, of a component of the same shape and about this volume."""
    first = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - first + 3, np.float32)
    mask[tuple((voxels - first + 1).T)] = 1
    factor = (volume_mm3 / len(voxels)) ** (1 / 3)
    # As many voxels as the volume has: a threshold would thicken flat lesions.
    scaled = fullest_voxels(ndimage.zoom(mask, factor, order=1), round(volume_mm3))
    moved = voxels_of(scaled) + np.rint(
        voxels.mean(axis=0) - (np.array(scaled.shape) - 1) / 2
    ).astype(int)
    inside: np.ndarray = moved[((moved >= 0) & (moved < SHAPE)).all(axis=1)]
    return inside


def voxels_of(mask: np.ndarray) -> np.ndarray:
    """Return the voxels, (N, 3), of a mask."""
    # Several times as quick as np.argwhere.
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _draw_together(bank: LesionBank, before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return some lesions of a patient, apart from those that are there."""
    labels, _ = ndimage.label(bank.draw(rng, PATIENT), np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    # The limit is of a patient's own size; lesions are laid down in MNI's.
    free = sizes <= LARGEST_COMPONENT_MM3 * np.linalg.det(RIGID_TO_MNI)
    free[0] = False
    free[np.unique(labels[ndimage.binary_dilation(before, np.ones((3, 3, 3)))])] = False
    keep = np.zeros(len(sizes), bool)
    count = 1 + int(rng.exponential(TOGETHER))
    keep[rng.permutation(np.flatnonzero(free))[:count]] = True
    appeared: np.ndarray = keep[labels]
    return appeared


def change_lesions(
    before: np.ndarray, rng: np.random.Generator, settings: ChangeSettings
) -> np.ndarray:
    """Let some lesions grow, shrink or vanish.

    Parameters
    ----------
    before : (I, J, K) ndarray of bool
        Lesions on a grid of 1 mm.

    Returns
    -------
    (I, J, K) ndarray of bool
        What becomes of them; growth ends where another lesion was.
    """
    labels, count = ndimage.label(before, np.ones((3, 3, 3)))
    after = before.copy()
    fates = rng.random(count)
    limits = np.cumsum([settings.enlarged, settings.shrunken, settings.vanished])
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        fate = int(np.searchsorted(limits, fates[number - 1], side='right'))
        if fate == len(limits):
            continue
        wide = tuple(
            slice(max(side.start - ROOM, 0), min(side.stop + ROOM, length))
            for side, length in zip(box, before.shape, strict=True)
        )
        lesion = labels[wide] == number
        reach_mm = rng.uniform(*settings.growth_mm)
        if fate == 0:
            after[wide] |= _grow(lesion, reach_mm, rng)
        elif fate == 1:
            after[wide] &= ~lesion | (ndimage.distance_transform_edt(lesion) > reach_mm)
        else:
            after[wide] &= ~lesion
    return after


def _grow(lesion: np.ndarray, reach_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Dilate a lesion around one of its voxels; large ones grow in a part only."""
    voxels = np.argwhere(lesion)
    middle = voxels[rng.integers(len(voxels))][:, None, None, None]
    away_mm = np.sqrt(((np.indices(lesion.shape) - middle) ** 2).sum(axis=0))
    near = ndimage.distance_transform_edt(~lesion) <= reach_mm
    grown: np.ndarray = lesion | (near & (away_mm <= rng.uniform(*GROWING_PART_MM)))
    return grown


def became(share: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the share of lesion in voxels that are lesion now and were none before; else 0.

    Parameters
    ----------
    share, before : (I, J, K) tensor of float32
        Share of lesion now and before, 0 to 1; lesion is what exceeds `LESION_SHARE`.

    Returns
    -------
    (I, J, K) tensor of float32
    """
    return torch.where((share > LESION_SHARE) & (before <= LESION_SHARE), share, 0.0)


def drop_unseen(
    lesions: torch.Tensor, change: torch.Tensor, *, least_voxels: int = 1
) -> torch.Tensor:
    """Return the lesions that an image shows; readers would not mark the others.

    Parameters
    ----------
    lesions : (I, J, K) tensor of bool
    change : (I, J, K) tensor of float32
        What they add to the image, relative to white matter.
    least_voxels : int
        Smaller components are left out, too.

    Returns
    -------
    (I, J, K) tensor of bool
        Components to which at least `SEEN` is added on average.
    """
    if not lesions.any():
        return lesions
    labels, count = ndimage.label(lesions.cpu().numpy())
    seen = ndimage.mean(change.cpu().numpy(), labels, np.arange(count + 1)) >= SEEN
    seen &= np.bincount(labels.ravel()) >= least_voxels
    seen[0] = False
    return torch.from_numpy(seen[labels]).to(lesions.device)


def strengthen_small(lesions: torch.Tensor, spacing_mm: float) -> torch.Tensor:
    """Return how much stronger small lesions are to be painted, for slices and blur dim them.

    Those that readers mark are as bright as others.

    Parameters
    ----------
    lesions : (I, J, K) tensor of float32
        Share of lesion.

    Returns
    -------
    (I, J, K) tensor of float32
        1 and more; 1 outside lesions.
    """
    labels, count = ndimage.label(lesions.cpu().numpy() > 0, np.ones((3, 3, 3)))
    mm3 = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm**3
    factors = np.clip((AS_PAINTED_MM3 / np.maximum(mm3, 1)) ** STRENGTHENED, 1, STRONGEST)
    factors[0] = 1
    return torch.from_numpy(factors[labels].astype(np.float32)).to(lesions.device)
