"""Network architectures by name. torch is imported when a network is built, not before."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msapp.errors import MissingDependencyError

if TYPE_CHECKING:
    from torch import nn

__all__ = ['ARCHITECTURES', 'build_network', 'predicts_variance']

# Name in model.toml: the module and the class. Every class takes its arguments by keyword.
ARCHITECTURES = {
    'headed_unet': ('msapp.networks.unet', 'HeadedUNet'),
    'hybrid': ('msapp.networks.hybrid', 'HybridNet'),
}


def build_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Make a network with random weights.

    Parameters
    ----------
    name : str
        One of `ARCHITECTURES`.
    arguments : mapping
        Keyword arguments of its class, as TOML gives them (a list stands for a tuple).

    Returns
    -------
    torch.nn.Module
        It maps ``(B, in_channels, I, J, K)`` to logits ``(B, out_channels, I, J, K)``.

    Raises
    ------
    MissingDependencyError
        If the name is unknown, or the arguments do not fit.
    """
    if name not in ARCHITECTURES:
        raise MissingDependencyError(
            f'architecture {name}: not known to this version of msapp, which has '
            f'{", ".join(sorted(ARCHITECTURES))}. Install the version the model was made for.'
        )
    module, class_name = ARCHITECTURES[name]
    given = {
        key: tuple(item) if isinstance(item, list) else item for key, item in arguments.items()
    }
    try:
        network: nn.Module = getattr(importlib.import_module(module), class_name)(**given)
    except (TypeError, ValueError) as error:
        raise MissingDependencyError(
            f'architecture {name}: it cannot be built from these arguments: {error}. '
            'Correct them in model.toml.'
        ) from error
    return network


def predicts_variance(network: nn.Module) -> bool:
    """Tell whether a network predicts the variance of its logits (``forward_with_variance``)."""
    return getattr(network, 'variance_head', None) is not None
