"""Probability of a new lesion between two visits, by whatever kind of network a model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from msapp.imaging.distance import distance_maps
from msapp.inference.lesions import predict_lesions
from msapp.inference.patches import Patch, corners, merge_nearest
from msapp.lesions.candidates import find_candidates, patch_of
from msapp.lesions.instances import measure_instances
from msapp.models.registry import HYBRID

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.models.spec import ModelSpec


def predict_new_lesions(
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    flips: bool = False,
    device: torch.device | str = 'cpu',
) -> np.ndarray:
    """Return the probability that a voxel became lesion.

    Parameters
    ----------
    images : mapping of str to (I, J, K) ndarray
        ``previous`` and ``current``: FLAIRs in ``individual``, the earlier one registered to the
        later one, the mode of white matter of each scaled to 1.
    brain : (I, J, K) ndarray of bool
        Intersection of both visits' brain masks.
    network, spec, flips, device
        As for `msapp.inference.lesions.predict_lesions`; the model's task is ``longitudinal``.

    Returns
    -------
    (I, J, K) ndarray of float32
        In [0, 1]; 0 outside the brain. By the hybrid method, 0 outside the patches about its
        candidates too.

    Raises
    ------
    InputError
        If the brain is empty, or an image has one intensity only.
    """
    if spec.architecture.name != HYBRID:
        return predict_lesions(images, brain, network, spec, flips=flips, device=device)
    return _predict_candidates(images, brain, network, spec, flips=flips, device=device)


def _predict_candidates(
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    flips: bool,
    device: torch.device | str,
) -> np.ndarray:
    """Run the hybrid method: candidates, the network on the patch of each, and their merging.

    Patches go through the network one by one: most have few hundred voxels.
    """
    import torch

    found = find_candidates(images['previous'], images['current'], brain, spec.spacing_mm)
    maps = distance_maps(brain, spec.spacing_mm)
    levels = np.stack([found.previous_levels, found.current_levels])
    distances = np.stack([maps.depth, maps.below_vertex, maps.from_occiput])
    patches, values = [], []
    network = network.to(device).eval()
    with torch.inference_mode():
        for instance in measure_instances(found.labels, np.eye(4)):
            start, stop = corners(patch_of(instance, brain.shape))
            patch = Patch(label=instance.label, start=start, stop=stop)
            inputs = [
                torch.from_numpy(array[:, *patch.box].astype(np.float32))[None].to(device)
                for array in (levels, distances)
            ]
            logits = network(*inputs)
            if flips:
                mirrored = network(*(array.flip(2) for array in inputs)).flip(2)
                logits = (logits + mirrored) / 2
            patches.append(patch)
            values.append(torch.sigmoid(logits[0, 0] / spec.temperature).cpu().numpy())
    merged = merge_nearest(brain.shape, patches, values, spacing_mm=spec.spacing_mm)
    return merged * brain
