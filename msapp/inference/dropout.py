"""Dropout at inference: each pass is then a sample of what the network might have said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def set_dropout(network: nn.Module, active: bool) -> int:
    """Turn the dropout layers of a network on or off; every other layer stays as it is.

    With dropout on, passes through a trained network sample an approximate posterior (Gal and
    Ghahramani, ICML 2016). ``network.train()`` and ``network.eval()`` undo this.

    Returns
    -------
    int
        How many layers drop anything; 0 means that there is nothing to sample from.
    """
    from torch.nn.modules.dropout import _DropoutNd

    found = [layer for layer in network.modules() if isinstance(layer, _DropoutNd)]
    for layer in found:
        layer.train(active)
    return sum(layer.p > 0 for layer in found)
