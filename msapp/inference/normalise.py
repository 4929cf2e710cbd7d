"""Bringing intensities to the scale a network was trained with; one place for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Of the voxels above the mean: fat and fluid beyond it are clipped.
HEAD_QUANTILE = 0.98
# torch.quantile takes 16 million values at most; a part of them gives the same quantile.
MAX_VALUES = 200_000
# Of white matter's mode; bright lesions and fluid lie below.
WHITE_MATTER_LIMIT = 3.0

HEAD, WHITE_MATTER = 'head', 'white_matter'


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
