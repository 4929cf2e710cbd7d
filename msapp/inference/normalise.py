"""Bringing intensities to the scale a network was trained with; one place for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from msapp.imaging.intensity import match_histogram

if TYPE_CHECKING:
    import torch

# Of the voxels above the mean: fat and fluid beyond it are clipped.
HEAD_QUANTILE = 0.98
# torch.quantile takes 16 million values at most; a part of them gives the same quantile.
MAX_VALUES = 200_000
# Of white matter's mode; bright lesions and fluid lie below.
WHITE_MATTER_LIMIT = 3.0

HEAD = 'head'


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


def match_visits(previous: np.ndarray, current: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Bring the earlier of two FLAIRs to the contrast of the later one, by their histograms.

    Another scanner or protocol makes old lesions brighter or dimmer, as change does; the few voxels
    that changed hardly move the histogram of the brain.

    Parameters
    ----------
    previous, current : (I, J, K) ndarray
        The mode of white matter of each is 1.
    brain : (I, J, K) ndarray of bool
        Intersection of both visits' brain masks.

    Returns
    -------
    (I, J, K) ndarray of float32
        The earlier FLAIR, clipped as by `clip_white_matter`; 0 outside the brain. Where either
        image has one intensity alone, nothing is matched.
    """
    # The bins of a histogram end at its brightest voxel.
    earlier, later = (np.clip(image, 0, WHITE_MATTER_LIMIT) for image in (previous, current))
    inside = brain & (earlier > 0) & (later > 0)
    if not inside.any() or np.ptp(earlier[inside]) == 0 or np.ptp(later[inside]) == 0:
        return (earlier * brain).astype(np.float32)
    return match_histogram(earlier, later, inside)
