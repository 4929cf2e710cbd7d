"""Probability of lesion by a network for lesions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.inference.normalise import clip_white_matter
from msapp.inference.predictor import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.models.spec import ModelSpec


def predict_lesions(
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    device: torch.device | str = 'cpu',
) -> np.ndarray:
    """Return the probability of lesion of every voxel.

    Parameters
    ----------
    images : mapping of str to (I, J, K) ndarray
        Contrast to image in ``individual``, the mode of white matter scaled to 1. Contrasts the
        model does not know are not used; one that may be missing is filled with 0.
    brain : (I, J, K) ndarray of bool
    network, spec
        Of a model whose task is ``lesions``.
    device : torch.device or str

    Returns
    -------
    (I, J, K) ndarray of float32
        In [0, 1]; 0 outside the brain.

    Raises
    ------
    InputError
        If the model needs a contrast that is not there.
    """
    import torch

    needed = [item.name for item in spec.channels if not item.may_be_missing]
    known = [item.name for item in spec.channels if item.name in images]
    lacking = [name for name in needed if name not in images]
    if lacking or not known:
        wanted = ' and '.join(lacking) or ' or '.join(item.name for item in spec.channels)
        raise InputError(f'model {spec.name} needs {wanted}, which this visit does not have.')
    probability = np.zeros(brain.shape, np.float32)
    boxes = ndimage.find_objects(brain.astype(np.uint8))
    if not boxes:
        raise InputError('the brain mask is empty. Check the image, or give a mask of your own.')
    box = boxes[0]
    inside = brain[box]
    empty = np.zeros(inside.shape, np.float32)
    channels = [
        images[item.name][box] * inside if item.name in images else empty for item in spec.channels
    ]
    scaled = clip_white_matter(torch.from_numpy(np.stack(channels).astype(np.float32)))
    logits = predict(
        network, scaled.numpy(), window=spec.window, overlap=spec.overlap, device=device
    )
    scores = torch.sigmoid(torch.from_numpy(logits[0]) / spec.temperature).numpy()
    probability[box] = np.where(inside, scores, 0)
    return probability
