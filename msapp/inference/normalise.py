"""Bringing intensities to the scale a network was trained with; one place for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from msapp.imaging.intensity import MAD_TO_SD

if TYPE_CHECKING:
    import torch

# Of the voxels above the mean: fat and fluid beyond it are clipped.
HEAD_QUANTILE = 0.98
# torch.quantile takes 16 million values at most; a part of them gives the same quantile.
MAX_VALUES = 200_000
# Of white matter's mode; bright lesions and fluid lie below.
WHITE_MATTER_LIMIT = 3.0

HEAD, WHITE_MATTER = 'head', 'white_matter'

# Voxels of two visits are compared with those of like brightness: shares of the brain, dimmest
# first. The brightest parts are small, for old lesions are there.
PARTS = (*np.linspace(0, 0.95, 39), 0.97, 0.98, 0.99, 0.995, 0.998, 1)
# Relative to white matter's mode: an image that is smoother than this is not trusted.
LEAST_SPREAD = 0.02
# Standard deviations to a unit of the channel, so that six are at `WHITE_MATTER_LIMIT`.
DEVIATIONS = 2.0


def scale_head(image: torch.Tensor) -> torch.Tensor:
    """Scale a head of any contrast to [0, 1] by a high quantile of its bright voxels.

    Parameters
    ----------
    image : tensor of float32
        Any shape; all 0 stays 0.

    Examples
    --------
    >>> import torch
    >>> scale_head(torch.tensor([0.0, 0.0, 50.0, 100.0, 100.0]))
    tensor([0.0000, 0.0000, 0.5000, 1.0000, 1.0000])
    """
    import torch

    bright = image[image > image.mean()]
    if bright.numel() == 0:
        return torch.zeros_like(image)
    step = -(-bright.numel() // MAX_VALUES)
    return (image / torch.quantile(bright[::step], HEAD_QUANTILE)).clamp(0, 1)


def clip_white_matter(image: torch.Tensor) -> torch.Tensor:
    """Clip an image whose white matter's mode is 1 (`msapp.imaging.intensity.normalize`)."""
    return image.clamp(0, WHITE_MATTER_LIMIT)


def rate_brightening(previous: np.ndarray, current: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Say where a later FLAIR is brighter than it is where the earlier one was as bright.

    Between two scanners or protocols all old lesions may brighten, and all cortex; a new lesion
    brightens more than what looked like it before.

    Parameters
    ----------
    previous, current : (I, J, K) ndarray
        The mode of white matter of each is 1.
    brain : (I, J, K) ndarray of bool

    Returns
    -------
    (I, J, K) ndarray of float32
        In units of `DEVIATIONS` standard deviations, from 0 to `WHITE_MATTER_LIMIT`; 0 outside the
        brain. Medians, and median absolute deviations, are those of a part of the brain (`PARTS`).

    Examples
    --------
    >>> previous, current = np.ones((10, 10, 10)), np.ones((10, 10, 10))
    >>> current[5, 5, 5] = 1.1
    >>> rate_brightening(previous, current, current > 0)[5, 5, 4:7].round(2)
    array([0. , 2.5, 0. ], dtype=float32)
    """
    rated = np.zeros(brain.shape, np.float32)
    later = current[brain].astype(np.float32)
    order = np.argsort(previous[brain], kind='stable')
    values = np.zeros_like(later)
    for part in np.split(order, np.rint(np.array(PARTS[1:-1]) * order.size).astype(int)):
        if part.size:
            above = later[part] - np.median(later[part])
            spread = MAD_TO_SD * np.median(np.abs(above))
            values[part] = above / max(spread, LEAST_SPREAD)
    rated[brain] = (values / DEVIATIONS).clip(0, WHITE_MATTER_LIMIT)
    return rated
