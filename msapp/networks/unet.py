"""A U-Net whose last layer is a plain 1x1x1 convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets import UNet
from torch import nn

# Bounds the logarithm of a logit's variance, on both sides: noise of 12 logits says all there is to
# say against a logit, and without a limit it would grow for ever where labels are random.
MOST_LOG_VARIANCE = 5.0


class HeadedUNet(nn.Module):
    """MONAI's residual U-Net, then a 1x1x1 convolution that gives the logits.

    MONAI's ``UNet`` with residual units normalises the map it gives out. With one output
    channel that map would be the logits themselves, rescaled image by image, so that no
    threshold fits two images. Here it gives ``features`` maps, which one plain convolution
    combines. The first layer already halves the grid, so little is computed at full
    resolution and the network is quick on a CPU.

    Parameters
    ----------
    in_channels, out_channels : int
        Contrasts that go in, and maps of logits that come out.
    channels : sequence of int
        Feature maps at each level, the first at the first stride.
    strides : sequence of int
        Factor between levels, one fewer than ``channels``; default 2 everywhere.
    num_res_units : int
        Convolutions of a residual unit.
    features : int
        Maps at full resolution that go into the head.
    dropout : float
        Probability of dropout after every convolution; see `msapp.inference.dropout`.
    variance_head : bool
        Add a second head, the logarithm of the variance of each logit (Kendall and Gal,
        NeurIPS 2017).

    Attributes
    ----------
    divisor : int
        Every side of an input must be a multiple of this.

    Raises
    ------
    ValueError
        If the numbers of channels and strides do not fit.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (16, 32, 64, 128, 192),
        strides: Sequence[int] | None = None,
        num_res_units: int = 2,
        features: int = 8,
        dropout: float = 0.0,
        variance_head: bool = False,
    ) -> None:
        super().__init__()
        strides = (2,) * (len(channels) - 1) if strides is None else tuple(strides)
        if len(strides) != len(channels) - 1:
            raise ValueError(
                f'strides must be one fewer than channels, got {len(strides)} and {len(channels)}'
            )
        self.divisor = math.prod(strides)
        self.unet = UNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=features,
            channels=tuple(channels),
            strides=strides,
            num_res_units=num_res_units,
            norm=('INSTANCE', {'affine': True}),
            dropout=dropout,
        )
        self.head = nn.Conv3d(features, out_channels, kernel_size=1)
        self.variance_head = (
            nn.Conv3d(features, out_channels, kernel_size=1) if variance_head else None
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits ``(B, out_channels, I, J, K)`` of ``(B, in_channels, I, J, K)``."""
        logits: torch.Tensor = self.head(self.unet(image))
        return logits

    def forward_with_variance(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits and the logarithm of their variance, of the same shape.

        It is within 5 of 0 (`MOST_LOG_VARIANCE`).

        Raises
        ------
        ValueError
            If the network was built without ``variance_head``.
        """
        if self.variance_head is None:
            raise ValueError('this network has no variance head; build it with variance_head=true')
        features = self.unet(image)
        log_variance = torch.tanh(self.variance_head(features) / MOST_LOG_VARIANCE)
        return self.head(features), MOST_LOG_VARIANCE * log_variance
