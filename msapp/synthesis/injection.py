"""Known lesions painted into a patient's own image, to see how many a detector finds again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from msapp.imaging import geometry
from msapp.imaging.distance import dilate_mm
from msapp.imaging.intensity import CERTAIN_WHITE_MATTER
from msapp.lesions.matching import SUPPORT
from msapp.synthesis.artefacts import acquire
from msapp.synthesis.lesions import (
    choose_sites,
    fullest_voxels,
    paint_blob,
    sphere_volume_mm3,
)

# Diameters of spheres of the volumes that are painted, mm: 14 to 900 mm3.
DIAMETERS_MM = (3.0, 4.0, 6.0, 8.0, 12.0)
EACH = 6
# FLAIR of a painted lesion's core, the mode of white matter being 1.
BRIGHTNESS = (1.3, 1.7)
IRREGULARITY = 0.2
# Lesions begin in certain white matter where no visit is brighter than this.
BRIGHT = 1.15
# Distance of a painted lesion to what the detector found before any was painted, mm.
CLEAR_MM = 5.0
# Share of a lesion's volume that must be marked (Anima: animaSegPerfAnalyzer). Among the changes a
# lesion needs more (`SUPPORT`) to be new.
LEAST_MARKED = 0.1


@dataclass(frozen=True)
class Injection:
    """An image with painted lesions.

    Attributes
    ----------
    image : (I, J, K) ndarray of float32
    labels : (I, J, K) ndarray of int32
        Number of each lesion, 0 elsewhere.
    diameters_mm : tuple of float
        Of a sphere of the volume of lesion 1, 2, ...
    wanted_mm : tuple of float
        Diameters that were to be painted; for some there may have been no room.
    """

    image: np.ndarray
    labels: np.ndarray
    diameters_mm: tuple[float, ...]
    wanted_mm: tuple[float, ...]

    def examples(self) -> np.ndarray:
        """Return the labels of one lesion of each size alone."""
        first = [self.diameters_mm.index(size) + 1 for size in set(self.diameters_mm)]
        return np.where(np.isin(self.labels, first), self.labels, 0)


def inject_lesions(
    visits: tuple[np.ndarray, np.ndarray],
    white_matter: np.ndarray,
    found: np.ndarray,
    affine: np.ndarray,
    scan: nib.spatialimages.SpatialImage,
    to_scan: np.ndarray,
    rng: np.random.Generator,
    *,
    diameters_mm: Sequence[float] = DIAMETERS_MM,
    each: int = EACH,
) -> Injection:
    """Paint lesions into the later of two visits, as its scanner would have seen them.

    Each lesion is averaged over the voxels of the scan and brought back by the interpolation that
    the image itself went through; it is added, so that the noise of the image stays.

    Parameters
    ----------
    visits : two (I, J, K) ndarray
        FLAIR of the earlier and the later visit on one grid; the mode of white matter is 1.
    white_matter : (I, J, K) ndarray
        Probability, in [0, 1]; 0 outside both brains.
    found : (I, J, K) ndarray of bool
        What the detector found between the visits as they are: nothing is painted near it.
    affine : (4, 4) ndarray
        Voxel to world of the grid, mm.
    scan : nibabel image
        Later FLAIR on its own grid.
    to_scan : (4, 4) ndarray
        World of the grid to world of the scan.
    rng : numpy.random.Generator
    diameters_mm : sequence of float
        Of spheres of the volumes that are painted, mm.
    each : int
        Lesions of each size; fewer where there is no room.

    Returns
    -------
    Injection
    """
    x, y, z = (float(side) for side in nib.affines.voxel_sizes(affine))
    bright = (visits[0] >= BRIGHT) | (visits[1] >= BRIGHT)
    near = dilate_mm(found, CLEAR_MM, (x, y, z))
    free = white_matter * ~near
    places = ((free > CERTAIN_WHITE_MATTER) & ~bright).astype(np.uint8)
    sizes = sorted(list(diameters_mm) * each, reverse=True)
    sites = choose_sites(places, affine, [(1, size) for size in sizes], rng)
    shares, labels = np.zeros(free.shape, np.float32), np.zeros(free.shape, np.int32)
    painted: list[float] = []
    for size, site in zip(sizes, sites, strict=True):
        if site is None:
            continue
        volume = sphere_volume_mm3(size)
        try:
            patch = paint_blob(free, affine, site, volume, rng, irregularity=IRREGULARITY)
        except ValueError:  # there is no room for it
            continue
        painted.append(size)
        level = rng.uniform(*BRIGHTNESS) - 1
        shares[patch.slices] = np.maximum(shares[patch.slices], level * patch.share)
        labels[patch.slices][fullest_voxels(patch.share)] = len(painted)
    i, j, k = scan.shape[:3]
    seen = acquire(shares, affine, (i, j, k), scan.affine, np.linalg.inv(to_scan))
    back = geometry.resample(
        nib.Nifti1Image(seen, scan.affine),
        nib.Nifti1Image(labels, affine),
        to_scan,
    )
    image = (visits[1] + back).astype(np.float32)
    return Injection(image, labels, tuple(painted), tuple(diameters_mm))


def count_recovered(injection: Injection, found: np.ndarray) -> list[dict[str, float | None]]:
    """Count the painted lesions that a detector found, by size.

    Parameters
    ----------
    injection : Injection
    found : (I, J, K) ndarray of bool
        What the detector found between the earlier visit and ``injection.image``.

    Returns
    -------
    list of dict
        One row a size, smallest first: ``diameter_mm``, ``volume_mm3``, ``injected_count``,
        ``recovered_count``, ``recovered_fraction``, ``half_marked_count`` (more than half of whose
        volume was marked), ``marked_fraction`` (mean share of the volume that was marked). Both
        fractions are None for a size without room.
    """
    count = len(injection.diameters_mm)
    voxels = np.bincount(injection.labels.ravel(), minlength=count + 1)[1:]
    marked = np.bincount(injection.labels[found], minlength=count + 1)[1:]
    share = marked / np.maximum(voxels, 1)
    sizes = np.array(injection.diameters_mm)
    rows: list[dict[str, float | None]] = []
    for size in sorted(set(injection.wanted_mm)):
        of_size = share[sizes == size]
        painted, recovered = len(of_size), int((of_size >= LEAST_MARKED).sum())
        rows.append(
            {
                'diameter_mm': size,
                'volume_mm3': sphere_volume_mm3(size),
                'injected_count': painted,
                'recovered_count': recovered,
                'recovered_fraction': recovered / painted if painted else None,
                'half_marked_count': int((of_size > SUPPORT).sum()),
                'marked_fraction': float(of_size.mean()) if painted else None,
            }
        )
    return rows
