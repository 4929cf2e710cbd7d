"""Where lesions lie: distances to ventricles, cortex and posterior fossa, classes, and a table.

The classes are those of the McDonald criteria 2017 (A. J. Thompson et al., Lancet Neurol.
2018;17:162-173) as M. Filippi et al. (Brain 2019;142:1858-1875) define them: *periventricular*
lesions touch the lateral ventricles, *juxtacortical* ones (cortical included) touch or lie in the
cortex, *infratentorial* ones lie in brain stem or cerebellum; all others are *deep*. A lesion
that touches several of them has one class all the same, so its distances and the share of its
volume in each class are given beside it.

Four rules make this hold on zone maps of a network, which knows no lesions:

- Zones inside lesions do not count. A lesion may carry any label (cortex, ventricle); distances
  are measured to the zones outside all lesions.
- Small islands of a zone are no part of it: see `MIN_VENTRICLE_MM3` and `MIN_TISSUE_MM3`.
- What is nearer to brain stem and cerebellum than to the cerebrum belongs to the posterior fossa:
  lesions whatever their label, and the fourth ventricle with the aqueduct, which makes nothing
  periventricular.
- Nothing is deep unless ventricles, cortex and posterior fossa are all on the map: being far from
  what was not seen is no finding.

All widths suit the grid of ``individual``, 1 mm; where voxels are longer than 2 mm, neighbours do
not touch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from msapp.imaging.tissue import MM3_PER_ML, zone_mask
from msapp.lesions.contrast import normal_white_matter, surround_contrast
from msapp.lesions.instances import measure_instances

# Code in a class image: index + 1, the numbers that LST-AI writes too; 0 is not known.
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
CEREBRUM = ('cortex', 'white_matter', 'deep_grey')
POSTERIOR_FOSSA = ('brain_stem', 'cerebellum')
CORNERS = np.ones((3, 3, 3), bool)

# The columns of the table, each with its meaning and unit.
COLUMNS = {
    'lesion': 'label of the lesion',
    'ventricle_mm': 'smallest distance to the cerebral ventricles, mm',
    'cortex_mm': 'smallest distance to the cerebral cortex, mm',
    'posterior_fossa_mm': 'smallest distance to brain stem and cerebellum, mm; 0 if in them',
    'location': 'one of LOCATIONS; see classify_lesion',
    'periventricular_fraction': 'share of its volume that classify_voxels calls so, 0 to 1',
    'juxtacortical_fraction': 'the same',
    'deep_fraction': 'the same',
    'infratentorial_fraction': 'the same; the four add up to 1',
    'surround_contrast': 'see surround_contrast; 0.3 is 30 % of white matter brighter',
}

Spacing = tuple[float, float, float]


class Locations(NamedTuple):
    """Where the lesions of a visit lie.

    Attributes
    ----------
    table : pandas.DataFrame
        One line a lesion, by label, with the columns `COLUMNS`. What was not given or cannot be
        told is missing (NaN, None): so are the distance to what is not on the map, and all four
        shares of a lesion with a voxel of unknown class.
    voxels : (I, J, K) ndarray of uint8
        Class of each lesion voxel, index into `LOCATIONS` plus 1; 0 outside, and if not known.
    """

    table: pd.DataFrame
    voxels: np.ndarray


def locate_lesions(
    labels: np.ndarray, zones: np.ndarray, spacing_mm: Spacing, *, flair: np.ndarray | None = None
) -> Locations:
    """Tell where lesions lie, by lesion and by voxel.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Lesion instances, 0 outside.
    zones : (I, J, K) ndarray of int
        Index into `msapp.imaging.tissue.ZONES`.
    spacing_mm : tuple of float
        Voxel size, mm.
    flair : (I, J, K) ndarray, optional
        White matter's mode at 1; for ``surround_contrast``, which is NaN without.

    Returns
    -------
    Locations

    Raises
    ------
    ValueError
        If labels and zones differ in shape.
    """
    lesions = labels > 0
    distances = measure_distances(zones, lesions, spacing_mm)
    white = None if flair is None else normal_white_matter(zones, lesions, spacing_mm)
    rows = []
    for lesion in measure_instances(labels, np.diag([*spacing_mm, 1.0])):
        inside = labels[lesion.box] == lesion.label
        contrast = np.nan
        if flair is not None and white is not None:
            contrast = surround_contrast(lesion, labels, flair, white, spacing_mm)
        places = _place_columns(distances[:, *lesion.box][:, inside])
        rows.append({'lesion': lesion.label, **places, 'surround_contrast': contrast})
    kinds = dict.fromkeys(COLUMNS, float) | {'lesion': int, 'location': object}
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
    return Locations(table, classify_voxels(distances) * lesions)


def count_locations(
    voxels: np.ndarray, table: pd.DataFrame, spacing_mm: Spacing
) -> dict[str, float]:
    """Count lesions and their volume in each class.

    Parameters
    ----------
    voxels, table
        See `Locations`.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    dict of str to float
        Of each of `LOCATIONS`: ``*_lesion_count`` by lesion, and ``*_lesion_volume_ml`` by voxel,
        ml. Lesions and voxels whose class is not known are in none of them.
    """
    voxel_ml = float(np.prod(spacing_mm)) / MM3_PER_ML
    counts: dict[str, float] = {}
    for code, name in enumerate(LOCATIONS, start=1):
        counts[f'{name}_lesion_count'] = int((table['location'] == name).sum())
        counts[f'{name}_lesion_volume_ml'] = float(np.sum(voxels == code)) * voxel_ml
    return counts


def measure_distances(zones: np.ndarray, lesions: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Measure how far every voxel lies from ventricles, cortex and posterior fossa.

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
    (3, I, J, K) ndarray of float32
        To the cerebral ventricles, to the cortex, and to brain stem and cerebellum, mm, from
        voxel centre to voxel centre. 0 inside them; in lesions at least one voxel, but for the
        posterior fossa's lesions, which lie in it. Infinite where a structure is not on the map,
        and outside the box around zones and lesions.

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
    whole = np.full((3, *zones.shape), np.inf, np.float32)
    # A head fills a fifth of its grid, and time goes with the volume.
    for box in ndimage.find_objects(((zones > 0) | lesions).astype(np.uint8)):
        whole[:, *box] = _measure_in_box(zones[box], lesions[box], spacing_mm)
    return whole


def _measure_in_box(zones: np.ndarray, lesions: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Do what `measure_distances` does, without looking for the box."""
    outside = np.where(lesions, 0, zones)
    to_fossa = _distance_mm(zone_mask(outside, *POSTERIOR_FOSSA), spacing_mm)
    below = to_fossa < _distance_mm(zone_mask(outside, *CEREBRUM), spacing_mm)
    ventricles = zone_mask(outside, 'ventricles') & ~below
    return np.stack(
        [
            _distance_mm(ventricles, spacing_mm, MIN_VENTRICLE_MM3),
            _distance_mm(zone_mask(outside, 'cortex'), spacing_mm),
            np.where(lesions & below, 0, to_fossa),
        ]
    )


def _distance_mm(
    mask: np.ndarray, spacing_mm: Spacing, minimum_mm3: float = MIN_TISSUE_MM3
) -> np.ndarray:
    """Return the distance to a mask without its islands, mm; infinite if nothing is left.

    Parts that meet at a corner are one.
    """
    parts, _ = ndimage.label(mask, structure=CORNERS)
    large = np.bincount(parts.ravel()) * np.prod(spacing_mm) >= minimum_mm3 * (1 - 1e-6)
    large[0] = False
    if not large.any():
        return np.full(mask.shape, np.inf, np.float32)
    return ndimage.distance_transform_edt(~large[parts], sampling=spacing_mm).astype(np.float32)


def classify_voxels(distances: np.ndarray) -> np.ndarray:
    """Give each voxel the class of its place, whatever lesion it belongs to.

    The first that holds: in the posterior fossa; within `PERIVENTRICULAR_MM` of the ventricles;
    within `JUXTACORTICAL_MM` of the cortex; deep, if all three are somewhere. Ventricles come
    before cortex as in LST-AI (T. Wiltgen et al., NeuroImage Clin. 2024;42:103611).

    Parameters
    ----------
    distances : (3, ...) ndarray
        From `measure_distances`, mm; of a volume or of some voxels.

    Returns
    -------
    (...) ndarray of uint8
        Index into `LOCATIONS` plus 1; 0 is not known. Only inside lesions does it mean anything.

    Examples
    --------
    >>> codes = classify_voxels(np.array([[1, 9, 9, 3], [9, 1, 9, 1], [50, 50, 50, 0]], float))
    >>> [LOCATIONS[code - 1] for code in codes]
    ['periventricular', 'juxtacortical', 'deep', 'infratentorial']
    """
    ventricle_mm, cortex_mm, fossa_mm = distances
    return np.select(
        [
            fossa_mm == 0,
            ventricle_mm <= PERIVENTRICULAR_MM,
            cortex_mm <= JUXTACORTICAL_MM,
            np.isfinite(distances).all(axis=0),
        ],
        [INFRATENTORIAL, PERIVENTRICULAR, JUXTACORTICAL, DEEP],
        0,
    ).astype(np.uint8)


def _place_columns(places: np.ndarray) -> dict[str, Any]:
    """Return distances, class and shares of a lesion from the (3, N) distances of its voxels."""
    nearest_mm = places.min(axis=1).astype(float)
    names = ('ventricle_mm', 'cortex_mm', 'posterior_fossa_mm')
    unknown, *counts = np.bincount(classify_voxels(places), minlength=len(LOCATIONS) + 1)
    return {
        **dict(zip(names, np.where(np.isinf(nearest_mm), np.nan, nearest_mm), strict=True)),
        'location': classify_lesion(places),
        **{
            f'{name}_fraction': np.nan if unknown else count / sum(counts)
            for name, count in zip(LOCATIONS, counts, strict=True)
        },
    }


def classify_lesion(places: np.ndarray) -> str | None:
    """Give a lesion the one class that the criteria would.

    Parameters
    ----------
    places : (3, N) ndarray
        Distances of its voxels, at least one: see `measure_distances`.

    Returns
    -------
    str or None
        The first that holds: ``infratentorial`` if at least half of its voxels lie in the
        posterior fossa (touching does not count, for occipital lesions lie on the cerebellum);
        ``periventricular`` if a voxel is within `TOUCHING_MM` of the ventricles;
        ``juxtacortical`` if one is within `TOUCHING_MM` of the cortex; None if one of the three
        is not on the map; ``deep``.
    """
    ventricle_mm, cortex_mm, fossa_mm = places
    if np.mean(fossa_mm == 0) >= 0.5:
        return 'infratentorial'
    if ventricle_mm.min() <= TOUCHING_MM:
        return 'periventricular'
    if cortex_mm.min() <= TOUCHING_MM:
        return 'juxtacortical'
    return 'deep' if np.isfinite(places).all() else None
