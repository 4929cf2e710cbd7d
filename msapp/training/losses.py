"""Losses, by the name that recipes give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.losses import DiceCELoss, TverskyLoss
from torch import nn
from torch.nn import functional

from msapp.errors import UsageError


class TverskyBCELoss(nn.Module):
    """Binary cross-entropy with a weight on lesions, plus Tversky's index over the batch.

    Parameters
    ----------
    positive_weight : float
        Weight of a lesion's voxel in the cross-entropy.
    false_positive, false_negative : float
        Tversky's alpha and beta (Salehi et al., MLMI 2017).
    """

    def __init__(
        self,
        *,
        positive_weight: float = 3.0,
        false_positive: float = 0.3,
        false_negative: float = 0.7,
    ) -> None:
        super().__init__()
        self._weight = positive_weight
        # Over the whole batch: a patch without lesions has no index of its own.
        self._tversky = TverskyLoss(
            sigmoid=True, alpha=false_positive, beta=false_negative, batch=True
        )

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits ``(B, 1, I, J, K)`` for a target of 0 and 1."""
        weight = torch.tensor(self._weight, device=logits.device)
        entropy = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)
        index: torch.Tensor = self._tversky(logits, target)
        return entropy + index


def _dice_ce(**arguments: Any) -> nn.Module:
    loss: nn.Module = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, **arguments)
    return loss


LOSSES: Mapping[str, Callable[..., nn.Module]] = {
    'dice_ce': _dice_ce,
    'tversky_bce': TverskyBCELoss,
}


def make_loss(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a loss.

    Raises
    ------
    UsageError
        If the name is unknown, or an argument does not fit.
    """
    if name not in LOSSES:
        raise UsageError(f'loss {name}: unknown. There are {", ".join(LOSSES)}.')
    try:
        return LOSSES[name](**arguments)
    except TypeError as error:
        raise UsageError(f'loss {name}: {error}.') from error
