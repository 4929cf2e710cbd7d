"""Lesions of known volume and place: planning over visits, painting, and sampling as truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.synthesis.anatomy import ZONES, Anatomy
from msapp.synthesis.artefacts import Scan, acquire

# Zone and diameter (mm) of every lesion at the first visit, largest first.
BASELINE = (
    ('periventricular', 15.0), ('periventricular', 11.0), ('periventricular', 8.0),
    ('periventricular', 6.0), ('deep', 9.0), ('deep', 5.0), ('juxtacortical', 8.0),
    ('juxtacortical', 5.0), ('juxtacortical', 3.5), ('infratentorial', 6.0),
    ('infratentorial', 4.0), ('deep', 3.0),
)  # fmt: skip
# And of every lesion that a later visit adds.
LATER = (('periventricular', 7.0), ('juxtacortical', 5.5), ('deep', 4.0))
# One of the baseline lesions grows: volume at a visit relative to the visit before.
GROWING, GROWTH = 4, 1.6


@dataclass(frozen=True)
class Lesion:
    """A lesion over all visits.

    Attributes
    ----------
    identifier : int
        Stable over visits, from 1.
    zone : str
        One of ``msapp.synthesis.anatomy.ZONES``.
    centre_mm : (3,) tuple of float
        World of the head.
    volume_mm3 : tuple of float
        One a visit; 0 where the lesion is not there yet.
    enhancing : tuple of bool
        One a visit.
    contrast : float
        Share of the full lesion signal, 0 to 1.
    seed : int
        Of the shape, so that it stays itself when it grows.
    """

    identifier: int
    zone: str
    centre_mm: tuple[float, float, float]
    volume_mm3: tuple[float, ...]
    enhancing: tuple[bool, ...]
    contrast: float
    seed: int

    def is_new(self, visit: int) -> bool:
        """Tell whether the lesion appeared since the visit before (index from 0)."""
        return visit > 0 and self.volume_mm3[visit] > 0 and self.volume_mm3[visit - 1] == 0


@dataclass(frozen=True)
class Patch:
    """A piece of a volume: shares (I, J, K) of float32, and the voxel its corner lies on."""

    share: np.ndarray
    corner: tuple[int, int, int]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the patch lies in its volume."""
        i, j, k = (slice(c, c + n) for c, n in zip(self.corner, self.share.shape, strict=True))
        return i, j, k

    def affine(self, volume_affine: np.ndarray) -> np.ndarray:
        """Voxel to world of the patch, mm."""
        return volume_affine @ nib.affines.from_matvec(np.eye(3), self.corner)

    def centre_mm(self, volume_affine: np.ndarray) -> np.ndarray:
        """Return the centre of mass, world mm."""
        return nib.affines.apply_affine(
            self.affine(volume_affine), ndimage.center_of_mass(self.share)
        )


def sphere_volume_mm3(diameter_mm: float) -> float:
    """Return the volume of a sphere.

    Examples
    --------
    >>> round(sphere_volume_mm3(10), 1)
    523.6
    """
    return float(np.pi / 6 * diameter_mm**3)


def irregular_distance(
    offsets_mm: np.ndarray, rng: np.random.Generator, *, irregularity: float, radius_mm: float
) -> np.ndarray:
    """Return a distance to the centre whose levels are rough ellipsoids, mm.

    Parameters
    ----------
    offsets_mm : (3, I, J, K) ndarray
        Position relative to the centre.
    rng : numpy.random.Generator
        Source of randomness.
    irregularity : float
        Roughness relative to the radius; 0 gives spheres.
    radius_mm : float
        Expected size of the level wanted.
    """
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    stretch = np.exp(irregularity * rng.standard_normal(3))
    # Roughness is a few plane waves, so that the shape does not depend on the grid.
    waves = rng.standard_normal((8, 3)) * (1.6 / radius_mm)
    phases = rng.uniform(0, 2 * np.pi, 8)
    turned = np.einsum('ab,bijk->aijk', axes, offsets_mm) * stretch[:, None, None, None]
    rough = sum(
        np.sin(np.einsum('a,aijk->ijk', w, offsets_mm) + p)
        for w, p in zip(waves, phases, strict=True)
    )
    return np.sqrt((turned**2).sum(axis=0)) + irregularity * radius_mm * rough / 4


def paint_blob(
    allowed: np.ndarray,
    affine: np.ndarray,
    centre_mm: tuple[float, float, float],
    volume_mm3: float,
    rng: np.random.Generator,
    *,
    irregularity: float = 0.2,
    softness_mm: float = 0.5,
) -> Patch:
    """Paint a blob with a soft border and exactly the volume asked for.

    Parameters
    ----------
    allowed : (I, J, K) ndarray
        Share of each voxel that the blob may take, 0 to 1.
    affine : (4, 4) ndarray
        Voxel to world, mm.
    centre_mm : three floats
        World position.
    volume_mm3 : float
        Sum of the shares times the voxel volume.
    rng : numpy.random.Generator
        Of the shape.
    irregularity : float
        0 gives a sphere.
    softness_mm : float
        Scale of the logistic border; a fifth of the radius at most, so that a small blob has
        a core.

    Returns
    -------
    Patch

    Raises
    ------
    ValueError
        If there is no room for that volume around ``centre_mm``.
    """
    radius = (volume_mm3 * 3 / 4 / np.pi) ** (1 / 3)
    softness_mm = min(softness_mm, radius / 5)
    reach = 2.2 * radius + 6 * softness_mm + 2
    spacing = nib.affines.voxel_sizes(affine)
    middle = nib.affines.apply_affine(np.linalg.inv(affine), centre_mm)
    low = np.maximum(np.floor(middle - reach / spacing), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach / spacing) + 1, allowed.shape).astype(int)
    room = allowed[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    voxel_mm3 = float(abs(np.linalg.det(affine[:3, :3])))
    if room.size == 0 or float(room.sum()) * voxel_mm3 < 2 * volume_mm3:
        raise ValueError(f'no room for {volume_mm3:.0f} mm3 around {tuple(centre_mm)} mm')
    index = np.indices(room.shape, dtype=float) + low[:, None, None, None]
    offsets = np.einsum('ab,bijk->aijk', affine[:3, :3], index)
    offsets += (affine[:3, 3] - np.asarray(centre_mm))[:, None, None, None]
    distance = irregular_distance(offsets, rng, irregularity=irregularity, radius_mm=radius)

    def share(level: float) -> np.ndarray:
        return room / (1 + np.exp(np.clip((distance - level) / softness_mm, -30, 30)))

    inner, outer = float(distance.min()) - 20 * softness_mm, float(distance.max())
    for _ in range(50):
        level = (inner + outer) / 2
        if share(level).sum() * voxel_mm3 < volume_mm3:
            inner = level
        else:
            outer = level
    return Patch(share(outer).astype(np.float32), (int(low[0]), int(low[1]), int(low[2])))


def choose_sites(
    zones: np.ndarray,
    affine: np.ndarray,
    wanted: list[tuple[int, float]],
    rng: np.random.Generator,
    *,
    gap_mm: float = 4.0,
) -> list[tuple[float, float, float] | None]:
    """Draw places for lesions that stay apart.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Codes of the zones; 0 elsewhere.
    affine : (4, 4) ndarray
        Voxel to world, mm.
    wanted : list of (int, float)
        Code of the zone and diameter, mm, of each lesion; the largest first is best.
    rng : numpy.random.Generator
        Source of randomness.
    gap_mm : float
        Least distance between the surfaces of two lesions, were they spheres.

    Returns
    -------
    list of (3,) tuple of float, or None
        World positions, mm; ``None`` where the zone has no room left.
    """
    taken: list[tuple[np.ndarray, float]] = []
    sites: list[tuple[float, float, float] | None] = []
    for code, diameter in wanted:
        places = nib.affines.apply_affine(affine, np.argwhere(zones == code))
        for other, size in taken:
            # Lesions are not spheres: half as much again as the radii.
            apart = 0.75 * (diameter + size) + gap_mm
            places = places[np.linalg.norm(places - other, axis=1) >= apart]
        if len(places) == 0:
            sites.append(None)
            continue
        place = places[rng.integers(len(places))]
        taken.append((place, diameter))
        sites.append((float(place[0]), float(place[1]), float(place[2])))
    return sites


def sample_patch(patch: Patch, volume_affine: np.ndarray, scan: Scan) -> Patch | None:
    """Sample a patch of a head on a scan's grid.

    Parameters
    ----------
    patch : Patch
    volume_affine : (4, 4) ndarray
        Voxel to world of the volume that it is a piece of, mm.
    scan : Scan

    Returns
    -------
    Patch or None
        Of the scan's grid; ``None`` if the patch lies outside the scan.
    """
    own = patch.affine(volume_affine)
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(patch.share.shape) - 1)
    seen = nib.affines.apply_affine(np.linalg.inv(scan.affine) @ scan.pose @ own, corners)
    low = np.maximum(np.floor(seen.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(seen.max(axis=0)) + 2, scan.shape).astype(int)
    if np.any(high <= low):
        return None
    i, j, k = (int(n) for n in high - low)
    moved = scan.affine @ nib.affines.from_matvec(np.eye(3), low)
    share = acquire(patch.share, own, (i, j, k), moved, scan.to_head)
    if share.max() <= 0:
        return None
    return Patch(share, (int(low[0]), int(low[1]), int(low[2])))


def fullest_voxels(share: np.ndarray, count: int | None = None) -> np.ndarray:
    """Turn shares into a mask of the same volume: the voxels that are filled most.

    Other than a threshold, it neither loses a lesion thinner than a slice nor shrinks it.

    Parameters
    ----------
    share : (I, J, K) ndarray
        0 to 1.
    count : int, optional
        Voxels of the mask; by default the sum of the shares.

    Returns
    -------
    (I, J, K) ndarray of bool
        At least one voxel is inside, unless every share is 0.

    Examples
    --------
    >>> fullest_voxels(np.array([0.4, 0.9, 0.7, 0.0])).tolist()
    [False, True, True, False]
    """
    count = max(1, round(float(share.sum(dtype=float)))) if count is None else count
    mask = np.zeros(share.size, bool)
    mask[np.argsort(-share, axis=None, kind='stable')[:count]] = True
    return mask.reshape(share.shape) & (share > 0)


def plan_lesions(anatomy: Anatomy, sessions: int, rng: np.random.Generator) -> list[Lesion]:
    """Decide size, place and course of every lesion of one participant.

    At every visit at least one lesion enhances: one old at the first, the first new one later.
    """
    wanted = [(zone, diameter, 0) for zone, diameter in BASELINE]
    for visit in range(1, sessions):
        wanted += [(zone, diameter, visit) for zone, diameter in LATER]
    diameters = [diameter * rng.uniform(0.9, 1.0) for _, diameter, _ in wanted]
    codes = [ZONES[zone] for zone, _, _ in wanted]
    sites = choose_sites(
        anatomy.zones, anatomy.affine, list(zip(codes, diameters, strict=True)), rng
    )
    lesions: list[Lesion] = []
    for index, ((zone, _, onset), site) in enumerate(zip(wanted, sites, strict=True)):
        course = [0.0] * onset + [sphere_volume_mm3(diameters[index])] * (sessions - onset)
        if index == GROWING:
            course = [volume * GROWTH ** min(visit, 2) for visit, volume in enumerate(course)]
        active = rng.random() < 0.5 if onset else index == 1 or rng.random() < 0.1
        active = active or (onset > 0 and wanted[index - 1][2] < onset)
        enhancing = tuple(bool(active and visit == onset) for visit in range(sessions))
        strength, shape_seed = rng.uniform(0.8, 1.0), int(rng.integers(2**31))
        if site is not None:
            lesions.append(
                Lesion(len(lesions) + 1, zone, site, tuple(course), enhancing, strength, shape_seed)
            )
    return lesions


def paint_visit(plan: Iterable[Lesion], visit: int, anatomy: Anatomy) -> list[tuple[Lesion, Patch]]:
    """Paint the lesions of one visit into brain tissue, never into fluid."""
    allowed = sum(anatomy.tissues[name] for name in ('white_matter', 'cortex', 'deep_grey'))
    return [
        (
            lesion,
            paint_blob(
                np.asarray(allowed),
                anatomy.affine,
                lesion.centre_mm,
                lesion.volume_mm3[visit],
                np.random.default_rng(lesion.seed),
            ),
        )
        for lesion in plan
        if lesion.volume_mm3[visit] > 0
    ]
