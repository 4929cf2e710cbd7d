"""The methods that `newlesions.py` compares: two FLAIRs in, a mask of what is new out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np

from msapp.imaging.distance import dilate_mm
from msapp.inference.lesions import predict_lesions
from msapp.inference.newlesions import (
    label_new_lesions,
    predict_confirming,
    predict_new_lesions,
)
from msapp.lesions.candidates import find_candidates
from msapp.lesions.change import CLASSES, compare_visits
from msapp.lesions.instances import label_instances
from msapp.models.registry import confirming_model, load_network, load_spec
from msapp.models.spec import ModelSpec
from msapp.synthesis.pairs import CHANNELS

SPACING_MM = (1.0, 1.0, 1.0)
# Differencing of two masks: what lies this near to an old lesion is not new.
NEAR_MM, LEAST_MM3 = 2.0, 10.0

# Takes the earlier and the later FLAIR, (2, I, J, K), and the brain; gives a mask.
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def methods_of(name: str, given: argparse.Namespace) -> dict[str, Method]:
    """Return the methods that a patient is measured with."""
    methods: dict[str, Method] = {'ratio': by_ratio}
    if given.lesions:
        methods['difference'] = partial(by_difference, model=given.lesions)
    for title, items in (('hybrid', given.hybrid), ('network', given.model)):
        chosen = dict(item.split('=', 1) if '=' in item else ('', item) for item in items)
        if model := chosen.get(name) or chosen.get(''):
            methods[title] = partial(
                by_network,
                model=model,
                flips=given.flips,
                marked=given.marked,
                unconfirmed=given.unconfirmed,
            )
            if given.lesions and title == 'network':
                methods['class new'] = partial(
                    by_class, finds=methods[title], lesions=given.lesions
                )
    return methods


def by_ratio(images: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return the candidates of step one of the hybrid method."""
    return find_candidates(images[0], images[1], brain, SPACING_MM).labels > 0


def by_difference(images: np.ndarray, brain: np.ndarray, *, model: str) -> np.ndarray:
    """Subtract the lesions of the earlier visit from those of the later one."""
    spec = load_spec(model)
    before, after = lesions_of_both(images, brain, spec)
    new = after & ~dilate_mm(before, NEAR_MM, SPACING_MM)
    return label_instances(new, 1.0, minimum_mm3=LEAST_MM3) > 0


def lesions_of_both(images: np.ndarray, brain: np.ndarray, spec: ModelSpec) -> list[np.ndarray]:
    """Return the mask of lesions of each FLAIR."""
    network = load_network(spec)
    return [
        predict_lesions({'FLAIR': image}, brain, network, spec) >= spec.threshold
        for image in images
    ]


def by_network(
    images: np.ndarray,
    brain: np.ndarray,
    *,
    model: str,
    flips: bool = False,
    marked: bool = False,
    unconfirmed: bool = False,
) -> np.ndarray:
    """Run a network for new lesions."""
    spec = load_spec(model)
    if unconfirmed:
        spec = spec.model_copy(update={'confirmed_by': None})
    channels = dict(zip(CHANNELS, images, strict=True))
    found = predict_new_lesions(channels, brain, load_network(spec), spec, flips=flips)
    if marked:
        return label_instances(found >= spec.threshold, 1.0, minimum_mm3=spec.minimum_mm3) > 0
    lesions, confirming = {}, confirming_model(spec)
    if confirming is not None:
        other = load_network(confirming)
        for name, image in zip(('before', 'after'), images, strict=True):
            lesions[name] = predict_confirming(image, brain, other, confirming)
    return label_new_lesions(found, channels, brain, spec, **lesions) > 0


def by_class(images: np.ndarray, brain: np.ndarray, *, finds: Method, lesions: str) -> np.ndarray:
    """Return the lesions of the later visit that the app calls new: its class, of whole lesions."""
    spec = load_spec(lesions)
    before, after = (
        label_instances(mask, 1.0, minimum_mm3=spec.minimum_mm3)
        for mask in lesions_of_both(images, brain, spec)
    )
    found = compare_visits(before, after, 1.0, new=finds(images, brain), seen=(brain, brain))
    return found.classes == CLASSES['new']
