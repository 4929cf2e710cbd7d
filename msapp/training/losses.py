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


# In a target: of any class but the first, and nobody knows of which.
SOME_CLASS = 255


def merge_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of the first class, and of all others together.

    Parameters
    ----------
    logits : (B, C, I, J, K) tensor

    Returns
    -------
    (B, 2, I, J, K) tensor
    """
    return torch.cat([logits[:, :1], logits[:, 1:].logsumexp(dim=1, keepdim=True)], dim=1)


class PartialDiceCELoss(nn.Module):
    """Dice and cross-entropy of all classes, or of the first and the others where no more is known.

    Parameters
    ----------
    **arguments
        Of `monai.losses.DiceCELoss`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, **arguments)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits ``(B, C, I, J, K)`` for a target of classes.

        In a sample with `SOME_CLASS` all classes but the first are one (label-set loss: Fidon et
        al., MICCAI 2021).
        """
        partly = (target == SOME_CLASS).flatten(1).any(dim=1)
        loss = logits.new_zeros(())
        for chosen in (~partly, partly):
            if not chosen.any():
                continue
            found, true = logits[chosen], target[chosen]
            if chosen is partly:
                found, true = merge_classes(found), (true > 0).long()
            loss = loss + chosen.float().mean() * self._loss(found, true)
        return loss


# Draws of noise on the logits, each with its mirror image.
NOISE_PAIRS = 4


def marginal_logits(
    logits: torch.Tensor, log_variance: torch.Tensor, pairs: int = NOISE_PAIRS
) -> torch.Tensor:
    """Return the logits of the mean probability over Gaussian noise on the logits.

    Any loss of them teaches the variance, too: noise takes certainty away, and so what is wrong
    costs less where there is more of it.

    Parameters
    ----------
    logits, log_variance : (B, C, I, J, K) tensor
        Mean and logarithm of the variance of the logits: of lesion, or of classes that compete.
    pairs : int
        Draws from torch's generator; with each, its mirror image counts, so that noise on a logit
        of 0 leaves the probability at exactly 0.5.

    Returns
    -------
    (B, C, I, J, K) tensor

    Notes
    -----
    A. Kendall and Y. Gal, NeurIPS 2017, equation 12: the mean is of probabilities, not of losses,
    which any noise makes larger. They see the variance only through the probability: where half of
    the labels are lesion whatever the image shows, they say nothing for or against it.
    """
    noise = (log_variance / 2).exp() * torch.randn(pairs, *logits.shape, device=logits.device)
    noisy = torch.cat([logits + noise, logits - noise])
    if logits.shape[1] > 1:
        return functional.log_softmax(noisy, dim=2).logsumexp(dim=0)
    lesion, other = (functional.logsigmoid(values).logsumexp(dim=0) for values in (noisy, -noisy))
    return lesion - other


LOSSES: Mapping[str, Callable[..., nn.Module]] = {
    'dice_ce': PartialDiceCELoss,
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
