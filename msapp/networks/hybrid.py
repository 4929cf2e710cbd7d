"""The network of the hybrid method for new lesions: patches of any size, no pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ['HybridNet', 'MaskedBatchNorm']

FLAIRS = 2
DISTANCE_MAPS = 3
BLOCKS = 7
# Grey levels of the discretised FLAIRs; they go in as shares of the brightest.
GREY_LEVELS = 6
# About half of the height and length of a brain, so that distances in it are of order one, as the
# features beside them.
DISTANCE_SCALE_MM = 100.0


class MaskedBatchNorm(nn.BatchNorm3d):
    """Batch normalisation whose statistics leave padded voxels out.

    In ``eval`` mode, and without a mask, it is torch's own.
    """

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise features.

        Parameters
        ----------
        features : (B, C, I, J, K) tensor
        mask : (B, 1, I, J, K) tensor of bool, optional
            True where voxels count. In ``train`` mode all others come back as 0.

        Returns
        -------
        (B, C, I, J, K) tensor

        Raises
        ------
        ValueError
            In ``train`` mode, if fewer than two voxels count: they have no variance.
        """
        if mask is None or not self.training:
            return super().forward(features)
        inside = mask[:, 0]
        by_voxel = features.movedim(1, -1)
        normalised = torch.zeros_like(by_voxel)
        normalised[inside] = self._normalise_voxels(by_voxel[inside])
        return normalised.movedim(-1, 1)

    def _normalise_voxels(self, voxels: torch.Tensor) -> torch.Tensor:
        """Normalise ``(N, C)`` and count it in the running statistics.

        The module itself takes five axes. Given voxels as (1, C, N, 1, 1), strided as here, torch
        2.13 on a CPU gives right values and wrong gradients.
        """
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        return functional.batch_norm(
            voxels,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum,
            eps=self.eps,
        )


class HybridNet(nn.Module):
    """Seven convolutions at full resolution that tell new lesions from other candidates.

    ::

        both FLAIRs - conv1 - conv2 - conv3 - + - conv4 - + - conv5 - conv6 - + - conv7 - head
                 |              |             |           |                   |
                 |              |     distance maps       |                   |
                 |              +------- short skip ------+                   |
                 +--------------- visit 2 only: long skip --------------------+

    A block is a convolution of 3x3x3 voxels (no stride, padding of 1), batch normalisation and
    ReLU; whatever joins at ``+`` is concatenated. The head is a plain 1x1x1 convolution. One
    logit depends on 15x15x15 voxels of the FLAIRs and on 9x9x9 of the distance maps; nothing is
    pooled, so that a patch may have any size.

    Patches of several sizes share a batch by padding and a mask. What is padded is set to 0 before
    every convolution, which is what a convolution finds beyond the border of a patch on its own,
    and is left out of the statistics of the normalisation: a patch has the same logits alone
    and in a batch.

    Parameters
    ----------
    channels : sequence of int
        Feature maps of the seven blocks. The source does not give them; these are thin: 115
        thousand multiplications a voxel and as many weights, since a training set has only dozens
        of new lesions a pair of visits, and every candidate of a pair has to go through a CPU.
    grey_levels : int
        Of the discretised FLAIRs, which are divided by it.
    distance_scale_mm : float
        The distance maps are divided by it, mm.

    Attributes
    ----------
    divisor : int
        1: a side may have any length.

    Raises
    ------
    ValueError
        If there are not seven numbers of channels, all positive, or a scale is not positive.

    References
    ----------
    The hybrid method of the MSSEG-2 workshop (MICCAI 2021); see also
    `msapp.lesions.candidates`.
    """

    divisor = 1

    def __init__(
        self,
        *,
        channels: Sequence[int] = (16, 16, 32, 32, 32, 16, 16),
        grey_levels: int = GREY_LEVELS,
        distance_scale_mm: float = DISTANCE_SCALE_MM,
    ) -> None:
        super().__init__()
        if len(channels) != BLOCKS or min(channels) < 1:
            raise ValueError(f'channels must be {BLOCKS} positive numbers, got {tuple(channels)}')
        if grey_levels < 1 or distance_scale_mm <= 0:
            raise ValueError(
                'grey_levels and distance_scale_mm must be positive, got '
                f'{grey_levels} and {distance_scale_mm}'
            )
        self.grey_levels = grey_levels
        self.distance_scale_mm = distance_scale_mm
        one, two, three, four, five, six, seven = channels
        self.conv1 = _Block(FLAIRS, one)
        self.conv2 = _Block(one, two)
        self.conv3 = _Block(two, three)
        self.conv4 = _Block(three + DISTANCE_MAPS, four)
        self.conv5 = _Block(four + two, five)
        self.conv6 = _Block(five, six)
        self.conv7 = _Block(six + 1, seven)
        self.head = nn.Conv3d(seven, 1, kernel_size=1)

    def forward(
        self, image: torch.Tensor, distances: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits of patches.

        Parameters
        ----------
        image : (B, 2, I, J, K) tensor
            Discretised FLAIRs of the first and the second visit, grey levels.
        distances : (B, 3, I, J, K) tensor
            Distance maps DM, DMz and DMx, mm; see `msapp.imaging.distance.DistanceMaps`.
        mask : (B, 1, I, J, K) tensor of bool, optional
            False where a patch is padded; there the inputs may have any value, and the logit means
            nothing. Without it all voxels count.

        Returns
        -------
        (B, 1, I, J, K) tensor

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        _check_shapes(image, distances, mask)
        inside = None if mask is None else mask.bool()
        image = _keep(image / self.grey_levels, inside)
        distances = _keep(distances / self.distance_scale_mm, inside)
        short = self.conv2(self.conv1(image, inside), inside)
        deep = self.conv3(short, inside)
        deep = self.conv4(torch.cat([deep, distances], dim=1), inside)
        deep = self.conv5(torch.cat([deep, short], dim=1), inside)
        deep = self.conv6(deep, inside)
        deep = self.conv7(torch.cat([deep, image[:, 1:]], dim=1), inside)
        logits: torch.Tensor = self.head(deep)
        return logits


class _Block(nn.Module):
    """Convolution, batch normalisation and ReLU; what is padded comes out as 0."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The normalisation has a bias.
        self.convolution = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.normalisation = MaskedBatchNorm(out_channels)

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        normalised = self.normalisation(self.convolution(features), mask)
        return _keep(torch.relu(normalised), mask)


def _keep(features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set what is outside of a mask to 0, whatever it was."""
    return features if mask is None else features.masked_fill(~mask, 0)


def _check_shapes(image: torch.Tensor, distances: torch.Tensor, mask: torch.Tensor | None) -> None:
    batch, *sides = len(image), *image.shape[2:]
    given = {'image': (image, FLAIRS), 'distances': (distances, DISTANCE_MAPS)}
    if mask is not None:
        given['mask'] = (mask, 1)
    for name, (tensor, channels) in given.items():
        wanted = (batch, channels, *sides)
        if tensor.ndim != 5 or tensor.shape != wanted:
            raise ValueError(f'{name} must be {wanted}, got {tuple(tensor.shape)}')
