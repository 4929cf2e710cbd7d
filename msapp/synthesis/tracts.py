"""Tracts, caps of the frontal horns and the septum that FLAIR shows bright in healthy people, too.

They are drawn as smooth tubes about courses that were laid over MNI's template by eye: near enough
to teach a network that what is bright on both sides in these places is no lesion.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from scipy import ndimage

from msapp.synthesis.warp import control_points, smooth_noise

# The grid on which they are drawn: MNI152, 2 mm, axes towards right, anterior, superior.
SHAPE, SPACING_MM = (91, 109, 91), 2.0
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
AFFINE[:3, 3] = -90, -126, -72
# Points along each tract at the right, MNI mm, the left being its mirror image; its radius, mm.
COURSES_MM: dict[str, tuple[tuple[tuple[float, float, float], ...], float]] = {
    'optic_radiation': (
        ((26, -27, -2), (37, -34, -2), (38, -48, 3), (31, -68, 5), (18, -84, 4)), 4.0
    ),
    'meyers_loop': (
        ((32, -20, -5), (40, -11, -13), (42, -20, -12), (41, -34, -5), (39, -48, 1)), 3.0
    ),
    'corticospinal': (
        ((30, -24, 54), (27, -21, 36), (24, -18, 18), (20, -15, 5), (14, -18, -8), (7, -22, -26)),
        4.0,
    ),
    # Higher than it lies: under the callosum, where label maps have white matter.
    'fornix': (((1, -10, 20), (1, -24, 21), (4, -37, 19), (16, -41, 15)), 2.5),
    'frontal_cap': (((17, 30, -8), (20, 33, 0), (21, 33, 9)), 4.0),
    'splenium': (((0, -37, 14), (13, -42, 16), (25, -58, 17), (20, -78, 12)), 4.0),
}  # fmt: skip
# Brightest tract, as a share of white matter; how much brighter one side is than the other at most,
# as a share of their mean.
BRIGHTEST, ASYMMETRY = 0.6, 0.3
# How much it varies along its course, and between which points.
PATCHY, PATCH_MM = 0.5, 20.0
# The septum: its extent, MNI mm, half of its width, and its signal, where white matter is 1.
SEPTUM_MM = ((-2.0, 2.0), (-24.0, 24.0), (0.0, 24.0))
SEPTUM_HALF_MM, SEPTUM_SIGNAL = 1.2, (0.7, 1.5)


def draw_tracts(rng: np.random.Generator) -> np.ndarray:
    """Draw how bright each tract is; half of them are not.

    Returns
    -------
    (I, J, K) ndarray of float32
        On `SHAPE`, `AFFINE`: what is added to white matter, as a share of its signal.
    """
    bright = np.zeros(SHAPE, np.float32)
    for tubes in _tubes():
        if rng.random() < 0.5:
            continue
        lean = rng.uniform(-ASYMMETRY, ASYMMETRY) / 2
        sides = rng.uniform(0, BRIGHTEST) * np.array([1 + lean, 1 - lean])
        for side, tube in zip(sides.astype(np.float32), tubes, strict=True):
            np.maximum(bright, side * tube, out=bright)
    points = control_points(SHAPE, SPACING_MM, PATCH_MM)
    patches = smooth_noise(SHAPE, points, rng, torch.device('cpu'))[0].numpy()
    varied: np.ndarray = np.clip(bright * (1 + PATCHY * patches), 0, BRIGHTEST)
    return varied


def draw_septum(rng: np.random.Generator) -> np.ndarray:
    """Draw how bright the septum between the ventricles is; in half of the cases it is not seen.

    Returns
    -------
    (I, J, K) ndarray of float32
        On `SHAPE`, `AFFINE`: signal, where white matter is 1; 0 beside it.
    """
    if rng.random() < 0.5:
        return np.zeros(SHAPE, np.float32)
    return np.float32(rng.uniform(*SEPTUM_SIGNAL)) * _septum()


@cache
def _tubes() -> list[tuple[np.ndarray, ...]]:
    """Return each tract at the right and at the left, 1 in its middle."""
    tubes = []
    for points, radius_mm in COURSES_MM.values():
        course = np.array(points, float)
        tubes.append(tuple(_tube(course * [side, 1, 1], radius_mm) for side in (1, -1)))
    return tubes


@cache
def _septum() -> np.ndarray:
    """Return the septum, 1 in its middle."""
    axes = [AFFINE[axis, 3] + SPACING_MM * np.arange(count) for axis, count in enumerate(SHAPE)]
    x, *_ = mm = np.meshgrid(*axes, indexing='ij')
    inside = np.ones(SHAPE, bool)
    for place, (low, high) in zip(mm, SEPTUM_MM, strict=True):
        inside &= (place >= low) & (place <= high)
    return (inside * np.exp(-((x / SEPTUM_HALF_MM) ** 2))).astype(np.float32)


def _tube(course_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    steps = np.linspace(0, len(course_mm) - 1, 40 * len(course_mm))
    places = [np.interp(steps, np.arange(len(course_mm)), axis) for axis in course_mm.T]
    world = np.stack([*places, np.ones_like(steps)])
    voxels = np.rint(np.linalg.inv(AFFINE) @ world)[:3].astype(int)
    outside = np.ones(SHAPE, bool)
    outside[tuple(voxels)] = False
    distance = ndimage.distance_transform_edt(outside) * SPACING_MM
    return np.exp(-((distance / radius_mm) ** 2)).astype(np.float32)
