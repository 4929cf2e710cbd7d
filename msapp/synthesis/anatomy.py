"""A head of soft tissue classes, grown around the MNI152 tissue maps inside nilearn.

Cortex, white matter and ventricles come from the maps of the ICBM152 2009a symmetric template;
everything around them (skull, scalp, face, neck) is drawn with the signed distances of
`msapp.synthesis.shapes`. Coordinates are MNI world millimetres, RAS.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.synthesis.contrast import Layers, composite, soft
from msapp.synthesis.shapes import (
    Points,
    Vector,
    blend,
    capsule,
    ellipsoid,
    mirrored_ellipsoids,
    signed_distance,
)

TISSUES = (
    'white_matter', 'cortex', 'deep_grey', 'csf', 'choroid', 'vessel',
    'bone', 'marrow', 'fat', 'muscle', 'skin', 'eye',
)  # fmt: skip
ZONES = {'periventricular': 1, 'juxtacortical': 2, 'deep': 3, 'infratentorial': 4}

# The head's field of view: the template's, longer below for the neck and in front for the nose.
FIRST_MM = (-98.0, -134.0, -124.0)
EXTENT_MM = (197.0, 251.0, 241.0)
# Thickness of the layers around an adult brain, mm.
SUBARACHNOID_MM, CALVARIUM_MM, SCALP_MM, SKIN_MM, SUBCUTANEOUS_MM = 2.5, 6.5, 6.5, 2.2, 3.5
COMPACT_BONE_MM = 1.8
# Gaps of the brain's outline narrower than twice this are bridged by the skull.
SKULL_CLOSING_MM = 18.0
# Exponent that narrows the blurred borders of population-average maps.
SHARPENING = 2.0


@dataclass(frozen=True)
class Anatomy:
    """One head.

    Attributes
    ----------
    tissues : dict of str to (I, J, K) ndarray of float32
        Share of each class of ``TISSUES`` in a voxel, 0 to 1; what is missing to 1 is air.
    brain : (I, J, K) ndarray of float32
        Share of the voxel inside the brain mask (ventricles and sulci included).
    zones : (I, J, K) ndarray of uint8
        Where lesions of each class of ``ZONES`` may start; 0 elsewhere.
    affine : (4, 4) ndarray
        Voxel to world, mm.
    """

    tissues: dict[str, np.ndarray]
    brain: np.ndarray
    zones: np.ndarray
    affine: np.ndarray


def head_grid(spacing_mm: int) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return shape and affine of the grid of a whole head, 1 or 2 mm isotropic, RAS."""
    i, j, k = (int(np.ceil(extent / spacing_mm)) for extent in EXTENT_MM)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = FIRST_MM
    return (i, j, k), affine


def grid_points(shape: tuple[int, int, int], affine: np.ndarray) -> Points:
    """Return world coordinates along the three axes of an unrotated grid, ready to broadcast.

    Parameters
    ----------
    shape : tuple of int
    affine : (4, 4) ndarray
        Voxel to world, mm; what is off the diagonal is not looked at.

    Returns
    -------
    (I, 1, 1), (1, J, 1) and (1, 1, K) ndarray of float32, mm
    """
    x, y, z = (
        (affine[axis, axis] * np.arange(n) + affine[axis, 3]).astype(np.float32)
        for axis, n in enumerate(shape)
    )
    return x[:, None, None], y[None, :, None], z[None, None, :]


def template_maps(spacing_mm: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return grey matter, white matter and brain mask of the template on the head grid.

    Parameters
    ----------
    spacing_mm : int
        1 or 2.

    Returns
    -------
    grey, white : (I, J, K) ndarray of float32
        Probabilities, with borders narrowed.
    mask : (I, J, K) ndarray of bool
    """
    from nilearn import datasets

    shape, affine = head_grid(spacing_mm)
    maps = []
    for load in (
        datasets.load_mni152_gm_template,
        datasets.load_mni152_wm_template,
        datasets.load_mni152_brain_mask,
    ):
        image = load(resolution=spacing_mm)
        corner = np.rint((image.affine[:3, 3] - affine[:3, 3]) / spacing_mm).astype(int)
        data = np.zeros(shape, np.float32)
        data[tuple(slice(c, c + n) for c, n in zip(corner, image.shape, strict=True))] = (
            image.get_fdata(dtype=np.float32)
        )
        maps.append(data)
    grey, white = np.clip(maps[0], 0, 1), np.clip(maps[1], 0, 1)
    mask = ndimage.binary_fill_holes(maps[2] > 0.5)
    rest = np.clip(1 - grey - white, 0, 1)
    powers = [p**SHARPENING for p in (grey, white, rest)]
    total = np.maximum(powers[0] + powers[1] + powers[2], 1e-6)
    inside = ndimage.gaussian_filter(mask.astype(np.float32), 0.5)
    return powers[0] / total * inside, powers[1] / total * inside, mask


def skull_cavity(mask: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Return the distance to the inner table of the skull: the brain, closed and grown.

    Parameters
    ----------
    mask : (I, J, K) ndarray of bool
        The brain.
    spacing_mm : float
        Of the grid, isotropic.

    Returns
    -------
    (I, J, K) ndarray of float32, mm
        Negative inside.
    """
    step = max(1, round(2 / spacing_mm))
    coarse, spacing = mask[::step, ::step, ::step], spacing_mm * step
    grown = ndimage.distance_transform_edt(~coarse) * spacing <= SKULL_CLOSING_MM
    depth = ndimage.distance_transform_edt(grown) * spacing
    cavity = signed_distance(depth > SKULL_CLOSING_MM - SUBARACHNOID_MM, spacing)
    cavity = ndimage.gaussian_filter(cavity, 2.0 / spacing)
    return ndimage.zoom(cavity, np.divide(mask.shape, coarse.shape), order=1)


def head_outline(points: Points, cavity: np.ndarray) -> np.ndarray:
    """Return the distance to the skin: scalp, face, neck, nose, chin and ears united.

    Parameters
    ----------
    points : three ndarrays
        From :func:`grid_points`, mm.
    cavity : (I, J, K) ndarray
        From :func:`skull_cavity`, mm.

    Returns
    -------
    (I, J, K) ndarray, mm
        Negative inside.
    """
    x, y, z = points
    neck = (np.sqrt((x / 58) ** 2 + ((y + 36) / 57) ** 2) - 1) * 57
    return blend(
        [
            cavity - CALVARIUM_MM - SCALP_MM,
            ellipsoid(points, (0, 30, -68), (60, 62, 64)),
            np.maximum(neck, z + 55),
            ellipsoid(points, (0, 90, -55), (13, 20, 14)),
            ellipsoid(points, (0, 88, -38), (9, 12, 18)),
            ellipsoid(points, (0, 76, -108), (20, 14, 13)),
            mirrored_ellipsoids(points, (83, -24, -32), (7, 15, 26)),
        ],
        10.0,
    )


def spine_layers(points: Points) -> Layers:
    """Return cord, dural sac, vertebral bodies and arches below the foramen magnum."""
    top, bottom = (0, -46, -66), (0, -53, -140)
    z = points[2]
    body = capsule(points, (0, -29, -84), (0, -33, -140), 9.5)
    # Discs part the bodies every 18 mm.
    disc = 2.5 - np.abs((z + 95) % 18 - 9)
    vertebra = np.maximum(body, disc)
    below = z + 76
    return [
        ('white_matter', capsule(points, top, bottom, 5.5)),
        ('csf', capsule(points, top, bottom, 8.5)),
        ('marrow', vertebra + COMPACT_BONE_MM),
        ('bone', vertebra),
        ('bone', np.maximum(capsule(points, top, bottom, 11.5), below)),
    ]


def face_layers(points: Points) -> Layers:
    """Return the eyes, orbits, air spaces and jaw; ``None`` stands for air."""
    x, y, z = points
    arch = np.abs(np.sqrt((x / 47) ** 2 + ((y - 22) / 56) ** 2) - 1) * 47
    jaw = np.maximum(np.maximum(arch - 4.5, np.abs(z + 98) - 11), 8 - y)
    teeth = np.maximum(np.maximum(arch + 2 - 5.5, np.abs(z + 82) - 4), 45 - y)
    return [
        ('eye', mirrored_ellipsoids(points, (32, 64, -34), (12, 12, 12))),
        ('muscle', capsule((np.abs(x), y, z), (31, 52, -34), (12, 22, -28), 2.2)),
        ('fat', mirrored_ellipsoids(points, (29, 50, -34), (15, 25, 14))),
        (None, ellipsoid(points, (0, 20, -38), (11, 11, 9))),
        (None, mirrored_ellipsoids(points, (8, 58, -52), (5, 24, 15))),
        (None, mirrored_ellipsoids(points, (28, 52, -62), (12, 14, 13))),
        (None, mirrored_ellipsoids(points, (9, 84, 2), (9, 4, 8))),
        (None, capsule(points, (0, 18, -58), (0, -6, -130), 6.5)),
        (None, mirrored_ellipsoids(points, (54, -38, -42), (6, 9, 10))),
        (None, ellipsoid(points, (0, 45, -80), (22, 26, 2.5))),
        ('bone', teeth),
        ('marrow', jaw + COMPACT_BONE_MM),
        ('bone', jaw),
    ]


def wrap_layers(points: Points, mask: np.ndarray, spacing_mm: float) -> Layers:
    """Return every layer outside grey and white matter, from the inside out.

    Parameters
    ----------
    points : three ndarrays
        From :func:`grid_points`.
    mask : (I, J, K) ndarray of bool
        The brain.
    spacing_mm : float
        Voxel size.

    Returns
    -------
    list of (str or None, (I, J, K) ndarray)
        Tissue (``None`` is air) and signed distance, mm. The first that claims a voxel has it.
    """
    x, y, z = points
    brain = signed_distance(mask, spacing_mm)
    brain = ndimage.gaussian_filter(brain, 0.7)
    cavity = skull_cavity(mask, spacing_mm)
    outline = head_outline(points, cavity)
    fluid = np.maximum(brain - SUBARACHNOID_MM - 0.5, cavity)
    # The superior sagittal sinus lies on the midline between brain and skull.
    sinus = np.maximum(np.maximum(np.abs(x) - 3.2, np.abs(cavity + 2) - 3), 1 - brain)
    sinus = np.maximum(np.maximum(sinus, 5 - z), np.abs(y + 20) - 85)
    spine = spine_layers(points)
    skull = np.maximum(cavity - CALVARIUM_MM, -fluid)
    planes = fascia(mask.shape, spacing_mm)
    return [
        ('choroid', np.maximum(mirrored_ellipsoids(points, (23, -38, 10), (4, 6, 6)), brain + 12)),
        ('vessel', sinus),
        ('vessel', np.maximum(capsule(points, (0, -16, -22), (0, -24, -52), 1.8), 0.5 - brain)),
        *spine[:2],
        ('csf', np.maximum(fluid, -z - 90)),
        *face_layers(points),
        *spine[2:],
        ('marrow', skull + COMPACT_BONE_MM),
        ('bone', skull),
        ('fat', np.maximum(planes, outline + SKIN_MM)),
        ('muscle', outline + SKIN_MM + SUBCUTANEOUS_MM),
        ('fat', outline + SKIN_MM),
        ('skin', outline),
    ]


def fascia(shape: tuple[int, ...], spacing_mm: float) -> np.ndarray:
    """Return the distance to fat planes between muscles: the zero level of smooth noise, mm."""
    coarse = np.random.default_rng(152).standard_normal([s // 8 + 2 for s in (197, 251, 241)])
    zoom = [n / c for n, c in zip(shape, coarse.shape, strict=True)]
    noise = ndimage.zoom(ndimage.gaussian_filter(coarse, 1), zoom, order=1)
    slope_per_mm = float(np.std(np.gradient(noise, spacing_mm)[0])) * np.sqrt(3)
    return (np.abs(noise) / slope_per_mm - 0.8).astype(np.float32)


def lesion_zones(
    points: Points, white: np.ndarray, cortex: np.ndarray, mask: np.ndarray, spacing_mm: float
) -> np.ndarray:
    """Return where multiple-sclerosis lesions start, by the zones of the McDonald criteria 2017.

    Parameters
    ----------
    points : three ndarrays
        From :func:`grid_points`.
    white, cortex : (I, J, K) ndarray
        Shares, 0 to 1.
    mask : (I, J, K) ndarray of bool
        The brain.
    spacing_mm : float
        Voxel size.

    Returns
    -------
    (I, J, K) ndarray of uint8
        Codes of ``ZONES``; 0 elsewhere.
    """
    z = points[2]
    fluid = (
        mask
        & (white + cortex < 0.4)
        & (mirrored_ellipsoids(points, (0, -15, 10), (48, 68, 32)) < 0)
    )
    labels, _ = ndimage.label(fluid)
    lateral = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    to_ventricle, to_cortex = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    to_ventricle[box] = ndimage.distance_transform_edt(~lateral[box]) * spacing_mm
    to_cortex[box] = ndimage.distance_transform_edt(cortex[box] < 0.5) * spacing_mm
    core, above = white > 0.75, z > 2
    zones = np.zeros(mask.shape, np.uint8)
    zones[core & above & (to_cortex > 6) & (to_ventricle > 10)] = ZONES['deep']
    zones[core & above & (to_cortex <= 3) & (to_ventricle > 12)] = ZONES['juxtacortical']
    zones[core & (z > -5) & (to_ventricle > 1.5) & (to_ventricle < 6) & (to_cortex > 3)] = ZONES[
        'periventricular'
    ]
    stem = ellipsoid(points, (0, -27, -32), (13, 10, 22)) < 0
    peduncles = mirrored_ellipsoids(points, (20, -55, -36), (16, 14, 12)) < 0
    zones[(white > 0.4) & (stem | peduncles)] = ZONES['infratentorial']
    return zones


def template_head(spacing_mm: int = 1) -> Anatomy:
    """Build the head of the template; every participant is a deformation of it.

    Parameters
    ----------
    spacing_mm : int
        1 or 2.

    Returns
    -------
    Anatomy
    """
    shape, affine = head_grid(spacing_mm)
    points = grid_points(shape, affine)
    grey, white, mask = template_maps(spacing_mm)
    nuclei = soft(mirrored_ellipsoids(points, (0, -4, 5), (35, 33, 20)), 4.0).astype(np.float32)
    cortex, deep = grey * (1 - nuclei), grey * nuclei
    start = {'white_matter': white, 'cortex': cortex, 'deep_grey': deep}
    tissues = composite(start, wrap_layers(points, mask, spacing_mm), max(spacing_mm, 1.0))
    zones = lesion_zones(points, white, grey - deep, mask, spacing_mm)
    brain = ndimage.gaussian_filter(mask.astype(np.float32), 0.5)
    return Anatomy(tissues, brain, zones, affine)


def deform(anatomy: Anatomy, displacement_mm: np.ndarray, scale: Vector) -> Anatomy:
    """Give a head another shape.

    Parameters
    ----------
    anatomy : Anatomy
        The head to deform.
    displacement_mm : (3, I, J, K) ndarray
        Where each voxel of the result is taken from, relative to its scaled position, mm.
    scale : three floats
        Size of the result relative to ``anatomy`` along x, y, z, about the world's origin.

    Returns
    -------
    Anatomy
        On the same grid.
    """
    shape = anatomy.brain.shape
    spacing = nib.affines.voxel_sizes(anatomy.affine)
    coordinates = np.empty((3, *shape), np.float32)
    for axis, points in enumerate(grid_points((shape[0], shape[1], shape[2]), anatomy.affine)):
        source = points / scale[axis] + displacement_mm[axis]
        coordinates[axis] = (source - anatomy.affine[axis, 3]) / spacing[axis]

    def pull(data: np.ndarray, order: int) -> np.ndarray:
        # 'nearest' continues the neck below the grid.
        return ndimage.map_coordinates(data, coordinates, order=order, mode='nearest')

    tissues = {name: pull(share, 1) for name, share in anatomy.tissues.items()}
    return Anatomy(tissues, pull(anatomy.brain, 1), pull(anatomy.zones, 0), anatomy.affine)
