"""Where lesions lie: distances to ventricles, cortex and posterior fossa, classes, and a table.

The classes are those of the McDonald criteria 2017 (A. J. Thompson et al., Lancet Neurol.
2018;17:162-173) as M. Filippi et al. (Brain 2019;142:1858-1875) define them: *periventricular*
lesions touch the lateral ventricles, *juxtacortical* ones (cortical included) touch or lie in the
cortex, *infratentorial* ones lie in brain stem or cerebellum; all others are *deep*. A lesion
that touches several of them has one class all the same, so its distances and the share of its
volume in each class are given beside it.

Three rules make this hold on zone maps of a network, which knows no lesions:

- Zones inside lesions do not count. A lesion may carry any label (cortex, ventricle); distances
  are measured to the zones outside all lesions.
- Small islands of a zone are no part of it: see `MIN_VENTRICLE_MM3` and `MIN_TISSUE_MM3`.
- What is nearer to brain stem and cerebellum than to the cerebrum belongs to the posterior fossa:
  lesions whatever their label, and the fourth ventricle with the aqueduct, which makes nothing
  periventricular.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, spatial

from msapp.imaging.distance import dilate_mm, erode_mm
from msapp.imaging.tissue import zone_mask
from msapp.lesions.instances import Instance, measure_instances, position_columns

# Code in a class image: index + 1, the numbers that LST-AI writes too.
LOCATIONS = ('periventricular', 'juxtacortical', 'deep', 'infratentorial')
PERIVENTRICULAR, JUXTACORTICAL, DEEP, INFRATENTORIAL = range(1, 5)

# Distances run from voxel centre to voxel centre. A neighbour by face, edge or corner is up to
# 1.73 mm away on a grid of 1 mm (LST-AI asks for no more); the rest lets one voxel lie between,
# since zones are told apart on voxels of 2 mm.
TOUCHING_MM = 2.0
# Voxels this near count as at the wall; 3 mm is the juxtaventricular band of K. W. Kim et al.,
# Biol. Psychiatry 2008;64:273-280. For the cortex there is no agreed width: the same is used.
PERIVENTRICULAR_MM = 3.0
JUXTACORTICAL_MM = 3.0
# Smallest part of the ventricles. In the 20 label maps that zones are learnt from, cut-off parts
# of the temporal horns have 58 mm3 and more, and nothing lies between that and 34 mm3.
MIN_VENTRICLE_MM3 = 50.0
# Smallest part of every other zone; specks of cortex in those maps have up to 17 mm3.
MIN_TISSUE_MM3 = 1000.0
# Normal-appearing white matter is looked for in this range around a lesion: beyond its blurred
# rim, and before the bias field and other tracts matter.
RIM_MM = 2.0
SURROUND_MM = 10.0
MIN_SURROUND_MM3 = 30.0
PARTIAL_VOLUME_MM = 1.0
CEREBRUM = ('cortex', 'white_matter', 'deep_grey')
POSTERIOR_FOSSA = ('brain_stem', 'cerebellum')
CORNERS = np.ones((3, 3, 3), bool)

# The columns of the table, each with its meaning and unit.
COLUMNS = {
    'lesion': 'label of the lesion',
    'volume_mm3': 'volume, mm3',
    'x_individual_mm': 'mean of its voxel centres in individual space, mm, towards right',
    'y_individual_mm': 'the same, towards anterior',
    'z_individual_mm': 'the same, towards superior',
    'x_mni_mm': 'that point in MNI space, mm',
    'y_mni_mm': 'the same',
    'z_mni_mm': 'the same',
    'extent_x_mm': 'side of the box around it along the first axis of the grid, mm',
    'extent_y_mm': 'along the second axis',
    'extent_z_mm': 'along the third axis',
    'diameter_mm': 'longest straight line in it, mm; see longest_diameter_mm',
    'mean_probability': 'mean of the probability map over it, 0 to 1',
    'ventricle_mm': 'smallest distance to the cerebral ventricles, mm',
    'cortex_mm': 'smallest distance to the cerebral cortex, mm',
    'posterior_fossa_mm': 'smallest distance to brain stem and cerebellum, mm; 0 if in them',
    'location': 'one of LOCATIONS; see classify_lesion',
    'periventricular_fraction': 'share of its volume that classify_voxels calls so, 0 to 1',
    'juxtacortical_fraction': 'the same',
    'deep_fraction': 'the same',
    'infratentorial_fraction': 'the same; the four add up to 1',
    'surround_contrast': 'see Contrast; 0.3 is 30 % of white matter brighter',
}
KINDS = {'lesion': int, 'location': object}

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Distances:
    """Distances to the structures that lesions are classified by, mm.

    They run between voxel centres and are infinite where the structure was not found.

    Attributes
    ----------
    ventricle, cortex : ndarray of float32
        To the cerebral ventricles and to the cortex; 0 inside, at least one voxel in lesions.
    posterior_fossa : ndarray of float32
        To brain stem and cerebellum; 0 inside, and in lesions there.
    """

    ventricle: np.ndarray
    cortex: np.ndarray
    posterior_fossa: np.ndarray

    def __getitem__(self, index: np.ndarray | tuple[slice, ...]) -> Distances:
        """Return the distances of some voxels, by mask or box."""
        return Distances(self.ventricle[index], self.cortex[index], self.posterior_fossa[index])


def measure_distances(zones: np.ndarray, lesions: np.ndarray, spacing_mm: Spacing) -> Distances:
    """Measure how far every voxel is from ventricles, cortex and posterior fossa.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Index into `msapp.imaging.tissue.ZONES`.
    lesions : (I, J, K) ndarray of bool
        All lesions; what ``zones`` says inside them does not count.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    Distances, of (I, J, K)
        Infinite outside the box around zones and lesions.

    Raises
    ------
    ValueError
        If the two differ in shape.

    Notes
    -----
    A lesion voxel lies in the posterior fossa if brain stem or cerebellum is nearer than cerebral
    cortex, white matter and deep grey matter. Ventricle voxels are sorted out by the same rule: of
    7 label maps with the ventricles told apart, it takes out the whole fourth ventricle, at most
    9 % of the third and nothing of the lateral ones.
    """
    if zones.shape != lesions.shape:
        raise ValueError(f'zones are {zones.shape} and lesions {lesions.shape}; one grid is needed')
    whole = [np.full(zones.shape, np.inf, np.float32) for _ in range(3)]
    boxes = ndimage.find_objects(((zones > 0) | lesions).astype(np.uint8))
    if boxes:
        zones, lesions = zones[boxes[0]], lesions[boxes[0]]
        outside = np.where(lesions, 0, zones)
        to_fossa = _distance_mm(zone_mask(outside, *POSTERIOR_FOSSA), spacing_mm)
        below = to_fossa < _distance_mm(zone_mask(outside, *CEREBRUM), spacing_mm)
        to_fossa[lesions & below] = 0
        ventricles = zone_mask(outside, 'ventricles') & ~below
        found = (
            _distance_mm(ventricles, spacing_mm, MIN_VENTRICLE_MM3),
            _distance_mm(zone_mask(outside, 'cortex'), spacing_mm),
            to_fossa,
        )
        for target, part in zip(whole, found, strict=True):
            target[boxes[0]] = part
    return Distances(*whole)


def drop_islands(mask: np.ndarray, minimum_mm3: float, voxel_mm3: float) -> np.ndarray:
    """Remove the small parts of a mask; voxels that share a corner are one part.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
    minimum_mm3 : float
        Parts of less are removed, mm3.
    voxel_mm3 : float
        Volume of a voxel, mm3.

    Returns
    -------
    (I, J, K) ndarray of bool

    Examples
    --------
    >>> mask = np.array([1, 0, 1, 1, 0], bool).reshape(5, 1, 1)
    >>> drop_islands(mask, 2.0, 1.0).ravel().tolist()
    [False, False, True, True, False]
    """
    labels, _ = ndimage.label(mask, structure=CORNERS)
    large = np.bincount(labels.ravel()) * voxel_mm3 >= minimum_mm3 * (1 - 1e-6)
    large[0] = False
    return large[labels]


def _distance_mm(
    mask: np.ndarray, spacing_mm: Spacing, minimum_mm3: float = MIN_TISSUE_MM3
) -> np.ndarray:
    """Return the distance to a mask without its islands, mm; infinite if nothing is left."""
    kept = drop_islands(mask, minimum_mm3, float(np.prod(spacing_mm)))
    if not kept.any():
        return np.full(mask.shape, np.inf, np.float32)
    return ndimage.distance_transform_edt(~kept, sampling=spacing_mm).astype(np.float32)


def classify_voxels(distances: Distances) -> np.ndarray:
    """Give each voxel the class of its place, whatever lesion it belongs to.

    The first that holds: in the posterior fossa; within `PERIVENTRICULAR_MM` of the ventricles;
    within `JUXTACORTICAL_MM` of the cortex; deep. Ventricles come before cortex as in LST-AI
    (T. Wiltgen et al., NeuroImage Clin. 2024;42:103611).

    Parameters
    ----------
    distances : Distances, of any shape

    Returns
    -------
    ndarray of uint8
        Index into `LOCATIONS` plus 1; only inside lesions does it mean anything.

    Examples
    --------
    >>> place = Distances(*np.array([[1, 9, 9, 3], [9, 1, 9, 1], [50, 50, 50, 0]], float))
    >>> [LOCATIONS[code - 1] for code in classify_voxels(place)]
    ['periventricular', 'juxtacortical', 'deep', 'infratentorial']
    """
    return np.select(
        [
            distances.posterior_fossa == 0,
            distances.ventricle <= PERIVENTRICULAR_MM,
            distances.cortex <= JUXTACORTICAL_MM,
        ],
        [INFRATENTORIAL, PERIVENTRICULAR, JUXTACORTICAL],
        DEEP,
    ).astype(np.uint8)


def measure_locations(
    labels: np.ndarray,
    distances: Distances,
    affine: np.ndarray,
    to_mni: np.ndarray,
    *,
    probability: np.ndarray | None = None,
    contrast: Contrast | None = None,
) -> pd.DataFrame:
    """Make the table of lesions: size, place, class and contrast of each.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Lesion instances, 0 outside.
    distances : Distances, of (I, J, K)
        From `measure_distances`, of the same lesions.
    affine : (4, 4) ndarray
        Voxel indices to world of ``individual``, mm.
    to_mni : (4, 4) ndarray
        World of ``individual`` to world of MNI, mm.
    probability : (I, J, K) ndarray, optional
        Of a network, in [0, 1].
    contrast : Contrast, optional
        Where ``surround_contrast`` is taken from.

    Returns
    -------
    pandas.DataFrame
        One line a lesion, by label, with the columns `COLUMNS`; without lesions, no line. What
        was not asked for or cannot be told is NaN; a distance to what is not there is infinite.
    """
    rows = []
    for lesion in measure_instances(labels, affine):
        inside = labels[lesion.box] == lesion.label
        places = distances[lesion.box][inside]
        shares = np.bincount(classify_voxels(places), minlength=len(LOCATIONS) + 1)[1:]
        row: dict[str, Any] = {'lesion': lesion.label, 'volume_mm3': lesion.volume_mm3}
        row |= position_columns(lesion.centre_mm, to_mni)
        row |= _sides(inside, affine)
        row |= {
            'mean_probability': (
                np.nan if probability is None else float(probability[lesion.box][inside].mean())
            ),
            'ventricle_mm': float(places.ventricle.min()),
            'cortex_mm': float(places.cortex.min()),
            'posterior_fossa_mm': float(places.posterior_fossa.min()),
            'location': classify_lesion(places),
            'surround_contrast': np.nan if contrast is None else contrast.of(labels, lesion),
        }
        row |= {
            f'{name}_fraction': share / shares.sum()
            for name, share in zip(LOCATIONS, shares, strict=True)
        }
        rows.append(row)
    kinds = {name: KINDS.get(name, float) for name in COLUMNS}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


def classify_lesion(places: Distances) -> str:
    """Give a lesion the one class that the criteria would.

    Parameters
    ----------
    places : Distances, of (N,)
        Of its voxels, at least one.

    Returns
    -------
    str
        The first that holds: ``infratentorial`` if at least half of its voxels lie in the
        posterior fossa (touching does not count, for occipital lesions lie on the cerebellum);
        ``periventricular`` if a voxel is within `TOUCHING_MM` of the ventricles;
        ``juxtacortical`` if one is within `TOUCHING_MM` of the cortex; ``deep``.
    """
    if np.mean(places.posterior_fossa == 0) >= 0.5:
        return LOCATIONS[INFRATENTORIAL - 1]
    if places.ventricle.min() <= TOUCHING_MM:
        return LOCATIONS[PERIVENTRICULAR - 1]
    if places.cortex.min() <= TOUCHING_MM:
        return LOCATIONS[JUXTACORTICAL - 1]
    return LOCATIONS[DEEP - 1]


def _sides(inside: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """Return the columns of size of a lesion that fills its box ``inside``."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sides = np.array(inside.shape) * spacing
    columns = {f'extent_{axis}_mm': float(side) for axis, side in zip('xyz', sides, strict=True)}
    return columns | {'diameter_mm': longest_diameter_mm(inside, tuple(spacing))}


def longest_diameter_mm(mask: np.ndarray, spacing_mm: Spacing) -> float:
    """Measure the longest straight line in a lesion, exactly.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        Not empty.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    float
        mm: the largest distance between two voxel centres plus the mean edge of a voxel, so that
        a row of n voxels of 1 mm is n mm long.

    Examples
    --------
    >>> round(longest_diameter_mm(np.ones((4, 1, 3), bool), (1.0, 1.0, 1.0)), 3)
    4.606
    """
    ends = mask
    for axis in range(mask.ndim):
        # Only a voxel at an end of its line along every axis can end a diameter.
        before = np.cumsum(mask, axis)
        ends = ends & ((before == 1) | (before == before.max(axis, keepdims=True)))
    points = np.argwhere(ends) * np.asarray(spacing_mm)
    return float(np.mean(spacing_mm) + spatial.distance.pdist(points).max(initial=0.0))


@dataclass(frozen=True)
class Contrast:
    """An image, and the white matter that its lesions are compared with.

    Attributes
    ----------
    image : (I, J, K) ndarray
        White matter's mode at 1, as `msapp.imaging.intensity.normalize` leaves it.
    white_matter : (I, J, K) ndarray of bool
        See `normal_white_matter`.
    spacing_mm : tuple of float
        Voxel size, mm.
    """

    image: np.ndarray
    white_matter: np.ndarray
    spacing_mm: Spacing

    def of(self, labels: np.ndarray, lesion: Instance) -> float:
        """Return the mean of a lesion minus the median of the white matter within 10 mm of it.

        NaN where there are less than 30 mm3 of that white matter.
        """
        box = tuple(
            slice(max(side.start - more, 0), side.stop + more)
            for side, step in zip(lesion.box, self.spacing_mm, strict=True)
            for more in [int(np.ceil(SURROUND_MM / step))]
        )
        inside = labels[box] == lesion.label
        near = dilate_mm(inside, SURROUND_MM, self.spacing_mm) & self.white_matter[box]
        if near.sum() * np.prod(self.spacing_mm) < MIN_SURROUND_MM3:
            return float('nan')
        image = self.image[box]
        return float(image[inside].mean() - np.median(image[near]))


def normal_white_matter(zones: np.ndarray, lesions: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return white matter that appears normal: off lesions and off the border of its zone.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Index into `msapp.imaging.tissue.ZONES`; the brain stem, mostly white, counts as white
        matter, or infratentorial lesions would have nothing to be compared with.
    lesions : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    (I, J, K) ndarray of bool
        More than 2 mm from every lesion and more than 1 mm from every other zone.
    """
    white = zone_mask(zones, 'white_matter', 'brain_stem') | lesions
    inner = erode_mm(white, PARTIAL_VOLUME_MM, spacing_mm)
    return inner & ~dilate_mm(lesions, RIM_MM, spacing_mm)
