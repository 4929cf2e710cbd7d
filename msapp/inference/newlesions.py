"""New lesions between two visits, by whatever kind of network a model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, special, stats

from msapp.imaging.distance import distance_maps
from msapp.inference.lesions import predict_lesions
from msapp.inference.patches import Patch, corners, merge_nearest
from msapp.lesions.candidates import find_candidates, patch_of
from msapp.lesions.instances import label_instances, measure_instances
from msapp.models.registry import HYBRID

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.models.spec import ModelSpec


# A lesion of the whole-brain network grows to where its brightening has fallen to half, no farther
# than this, and only where the later FLAIR is as bright as a lesion, white matter being 1. Smaller
# places do not: their few voxels hardly tell how much a lesion brightened. Nor do those that hardly
# brightened: half of noise is found everywhere.
HALF = 0.5
LEAST_BRIGHTENING = 0.1
REACH_MM = 6.0
# Farther where a network for lesions tells how far they go.
CONFIRMED_REACH_MM = 12.0
LEAST_BRIGHTNESS = 1.15
LEAST_GROWING_MM3 = 50.0
# A place is no new lesion where none is likely at the later visit, or where the odds that it is new
# are not at least so many times those that it was one before. Set on drawn pairs of the training's
# label maps, where nothing changed.
LIKELY = 0.5
LEAST_ODDS_RATIO = 30.0
# Nor is one what was fluid before, wholly or in part, white matter being 1: fluid that begins to
# shine flows.
LEAST_TISSUE = 0.8
# Nor what is too small for two visits that do not compare well: less of it is likely to be lesion,
# mm3, than so many times the squared spread (standard deviation, white matter being 1) of either
# FLAIR where the other is as bright as there and nothing is marked. 13 mm3 at a spread of 0.05, 50
# at 0.1. These two were set on drawn pairs of the training's label maps.
LEAST_MM3 = 5000.0
# What is as bright, and what is not marked; of fewer voxels than the last, the nearest so many.
AS_BRIGHT, UNMARKED, FEWEST = 0.03, 0.1, 200
# Probabilities nearer to 0 and 1 are not told apart.
CERTAIN = 1e-3
SMOOTH_MM = 0.5


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


def predict_confirming(
    flair: np.ndarray,
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    device: torch.device | str = 'cpu',
) -> np.ndarray:
    """Return the probability of lesion at one visit that confirms what is new, from FLAIR alone.

    It is the network's own, not adapted to the load of the brain: the two visits are compared.

    Parameters
    ----------
    flair : (I, J, K) ndarray
        As for `predict_new_lesions`.
    brain : (I, J, K) ndarray of bool
    network, spec, device
        Of `msapp.models.registry.confirming_model`.

    Returns
    -------
    (I, J, K) ndarray of float32
        In [0, 1]; 0 outside the brain.

    Raises
    ------
    InputError
        As `predict_new_lesions`.
    """
    plain = spec.model_copy(update={'prior': None})
    return predict_lesions({'FLAIR': flair}, brain, network, plain, device=device)


def label_new_lesions(
    probability: np.ndarray,
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    spec: ModelSpec,
    *,
    before: np.ndarray | None = None,
    after: np.ndarray | None = None,
) -> np.ndarray:
    """Return the instances of new lesions: where the probability reaches the model's threshold.

    Of these regions a network for lesions confirms those where a lesion is likely at the later
    visit, and much less so at the earlier one (`LIKELY`, `LEAST_ODDS_RATIO`): other tissue and old
    lesions that have only brightened are no new lesions, and neither is fluid that shines at the
    later visit alone (`LEAST_TISSUE`). A network that sees the whole brain fills large lesions in
    part only: they grow, see `HALF`, where the network for lesions finds one at
    the later visit and none at the earlier one. Where what is likely to be lesion then is still too
    small to be told from how far the two visits differ elsewhere it is left out (`LEAST_MM3`).

    Parameters
    ----------
    probability : (I, J, K) ndarray
        Of `predict_new_lesions`, on its grid of 1 mm.
    images, brain, spec
        As for `predict_new_lesions`.
    before, after : (I, J, K) ndarray, optional
        Of `predict_confirming`, at the earlier and the later visit; for a model that needs it.

    Returns
    -------
    (I, J, K) ndarray of int
        0 outside, 1 for the largest, and so on; smaller ones than the model's least are left out.

    Raises
    ------
    ValueError
        If the model needs lesions that confirm what it marks, and they are not given.
    """
    mask = probability >= spec.threshold
    labels = label_instances(mask, 1.0, minimum_mm3=spec.minimum_mm3)
    if spec.architecture.name == HYBRID:
        return labels
    if spec.confirmed_by is not None:
        if before is None or after is None:
            raise ValueError(f'{spec.name}: needs the lesions that confirm what it marks')
        confirmed = _confirm(labels, probability, before, after, images['previous'])
        labels = label_instances(confirmed, 1.0, minimum_mm3=spec.minimum_mm3)
        free = brain & (before < LIKELY)
        allowed, reach_mm = free & (after >= LIKELY), CONFIRMED_REACH_MM
    else:
        free, allowed, reach_mm = brain, brain, REACH_MM
    grown = _grow(labels, images['previous'], images['current'], allowed, reach_mm)
    grown |= ndimage.binary_fill_holes(grown) & free
    labels = label_instances(grown, 1.0, minimum_mm3=spec.minimum_mm3)
    numbers = np.arange(1, labels.max() + 1)
    levels = np.asarray(ndimage.mean(images['previous'], labels, numbers))
    least = least_volumes_mm3(levels, probability, images, brain, spec)
    counted = labels if after is None or spec.confirmed_by is None else labels[after >= LIKELY]
    volumes_mm3 = np.bincount(counted.ravel(), minlength=labels.max() + 1)[1:]
    told = np.concatenate([[False], volumes_mm3 >= least])[labels]
    return label_instances(told, 1.0, minimum_mm3=spec.minimum_mm3)


def least_volumes_mm3(
    levels: Sequence[float] | np.ndarray,
    probability: np.ndarray,
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    spec: ModelSpec,
) -> np.ndarray:
    """Return how large a new lesion must be to be told from how far the visits differ elsewhere.

    Parameters
    ----------
    levels : sequence of float
        Brightness of the earlier FLAIR where the lesion comes, white matter being 1.
    probability, images, brain, spec
        As for `label_new_lesions`.

    Returns
    -------
    ndarray of float
        One a level, mm3; `LEAST_MM3`. The model's own least where no other model confirms it.
    """
    least = np.full(len(levels), spec.minimum_mm3)
    if spec.confirmed_by is None:
        return least
    unmarked = brain & (probability < UNMARKED)
    if not unmarked.any():
        return least
    earlier, later = (images[name][unmarked] for name in ('previous', 'current'))
    by_earlier, by_later = np.argsort(earlier), np.argsort(later)
    for number, level in enumerate(levels):
        there = later[_as_bright(earlier, by_earlier, level)]
        back = earlier[_as_bright(later, by_later, float(np.median(there)))]
        spread = max(stats.median_abs_deviation(side, scale='normal') for side in (there, back))
        least[number] = max(least[number], LEAST_MM3 * spread**2)
    return least


def _as_bright(values: np.ndarray, order: np.ndarray, level: float) -> np.ndarray:
    """Return the indices of values as bright as a level; ``order`` sorts them."""
    limits = level + AS_BRIGHT * np.array([-1, 0, 1])
    start, middle, stop = np.searchsorted(values, limits, sorter=order)
    start, stop = min(start, max(0, middle - FEWEST // 2)), max(stop, middle + FEWEST // 2)
    return order[start:stop]


def _confirm(
    labels: np.ndarray,
    probability: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    previous: np.ndarray,
) -> np.ndarray:
    """Leave out the instances that are no lesion now, or were one or fluid before."""
    numbers = np.arange(1, labels.max() + 1)
    likely = np.asarray(ndimage.maximum(after, labels, numbers)) >= LIKELY
    new, old, brightness = (
        np.asarray(ndimage.mean(values, labels, numbers))
        for values in (probability, before, previous)
    )
    kept = likely & (brightness >= LEAST_TISSUE)
    kept &= _log_odds(new) - _log_odds(old) >= np.log(LEAST_ODDS_RATIO)
    confirmed: np.ndarray = np.concatenate([[False], kept])[labels]
    return confirmed


def _log_odds(probability: np.ndarray) -> np.ndarray:
    """Return the logarithm of the odds of mean probabilities."""
    values: np.ndarray = special.logit(np.clip(probability, CERTAIN, 1 - CERTAIN))
    return values


def _grow(
    labels: np.ndarray,
    previous: np.ndarray,
    current: np.ndarray,
    allowed: np.ndarray,
    reach_mm: float,
) -> np.ndarray:
    """Grow the instances to where their brightening has fallen to half; return the mask."""
    brightened = ndimage.gaussian_filter(current - previous, SMOOTH_MM)
    bright = allowed & (current > LEAST_BRIGHTNESS)
    reach = int(np.ceil(reach_mm))
    grown: np.ndarray = labels > 0
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        around = tuple(slice(max(0, side.start - reach - 1), side.stop + reach + 1) for side in box)
        seed = labels[around] == label
        if seed.sum() < LEAST_GROWING_MM3:
            continue
        most = np.median(brightened[around][seed])
        if most < LEAST_BRIGHTENING:
            continue
        like = (brightened[around] >= HALF * most) & bright[around]
        near = ndimage.distance_transform_edt(~seed) <= reach_mm
        # Opened, so that it does not leak through what is one voxel thin.
        body = seed | ndimage.binary_opening(like & near | seed)
        parts, _ = ndimage.label(body)
        grown[around] |= np.isin(parts, np.unique(parts[seed]))
    return grown


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
