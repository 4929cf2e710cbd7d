"""Probability of lesion by a network for lesions, and how sure it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.inference.normalise import clip_white_matter
from msapp.inference.predictor import measure_samples, predict
from msapp.inference.prior import find_shift
from msapp.lesions.uncertainty import SampleUncertainty, UncertaintyMaps, binary_entropy
from msapp.networks import predicts_variance

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.models.spec import ModelSpec

# Of a brain without its border: share that a contrast may leave out.
BORDER_VOXELS, MOST_UNSEEN = 4, 0.001


def predict_lesions(
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    flips: bool = False,
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
        Of a model whose task is ``lesions`` or ``longitudinal``.
    flips : bool
        Average the logits of the head and of its mirror image.
    device : torch.device or str

    Returns
    -------
    (I, J, K) ndarray of float32
        In [0, 1]; 0 outside the brain. Of a model that names its prior, adapted to the share of
        lesion in this brain, see `msapp.inference.prior`; then, as logits, divided by the model's
        temperature, which so leaves a mask at 0.5 as it is.

    Raises
    ------
    InputError
        If the model needs a contrast that is not there.
    """
    place = _Place.of(images, brain, spec)
    logits = _predict(place, network, spec, flips, device)
    return place.paste(_probability(logits, place.find_shift(logits, spec), spec))


def sample_lesions(
    images: Mapping[str, np.ndarray],
    brain: np.ndarray,
    network: nn.Module,
    spec: ModelSpec,
    *,
    samples: int,
    seed: int = 0,
    flips: bool = False,
    device: torch.device | str = 'cpu',
) -> UncertaintyMaps:
    """Run the network with dropout several times and say where it disagrees with itself.

    Parameters
    ----------
    images, brain, network, spec, flips, device
        As for `predict_lesions`.
    samples : int
        How many.
    seed : int

    Returns
    -------
    UncertaintyMaps
        Of (I, J, K) maps; 0 outside the brain. They are of probabilities adapted and divided as by
        `predict_lesions`, of which the mask is made; ``predicted_variance`` is that of the
        network's own logits, None if it predicts none.

    Raises
    ------
    InputError
        As `predict_lesions`.
    ValueError
        If the network has no dropout.

    Notes
    -----
    All samples are shifted as the pass without dropout is, which is done once more for it: the
    mask is its mask, and how common lesions are is one fact of the brain. A shift of each sample's
    own would take out what the samples disagree on.
    """
    place = _Place.of(images, brain, spec)
    shift = 0.0
    if spec.prior is not None:
        shift = place.find_shift(_predict(place, network, spec, flips, device), spec)
    with_variance = predicts_variance(network)
    names = ['probability', 'variance', 'mutual_information']
    if with_variance:
        names.append('predicted_variance')

    def measure(draws: Iterator[np.ndarray]) -> np.ndarray:
        found = SampleUncertainty()
        for values in draws:
            logits, *log_variance = np.split(values, 2, axis=1) if with_variance else [values]
            found.add(_probability(logits, shift, spec), *map(np.exp, log_variance))
        maps = found.maps()
        return np.concatenate([getattr(maps, name) for name in names], axis=1)

    measured = measure_samples(
        network,
        place.channels,
        measure,
        samples=samples,
        seed=seed,
        window=spec.window,
        overlap=spec.overlap,
        device=device,
        flips=flips,
        with_variance=with_variance,
    )
    found = dict(zip(names, measured, strict=True))
    found['entropy'] = binary_entropy(np.clip(found['probability'], 0, 1))
    return UncertaintyMaps(**{name: place.paste(values) for name, values in found.items()})


def find_partial(images: Mapping[str, np.ndarray], brain: np.ndarray) -> list[tuple[str, int]]:
    """Find the contrasts whose field of view does not hold the whole brain.

    A network would take what is missing of them for tissue, and miss lesions there.

    Parameters
    ----------
    images : mapping of str to (I, J, K) ndarray
        By contrast, 0 outside the field of view.
    brain : (I, J, K) ndarray of bool

    Returns
    -------
    list of (str, int)
        Contrast, and how many voxels of the brain it does not show.
    """
    # The border of a mask of its own says nothing of the field of view.
    inside = ndimage.binary_erosion(brain, iterations=BORDER_VOXELS)
    most = MOST_UNSEEN * inside.sum()
    unseen = [(name, int(_beyond(image)[inside].sum())) for name, image in images.items()]
    return [(name, voxels) for name, voxels in unseen if voxels > most]


def _beyond(image: np.ndarray) -> np.ndarray:
    """Return where an image is 0 from the border of the grid on: not fluid that is stored as 0."""
    parts, _ = ndimage.label(np.pad(image == 0, 1, constant_values=True))
    return (parts == parts[0, 0, 0])[1:-1, 1:-1, 1:-1]


def whole_contrasts(contrasts: Sequence[str], partial: Iterable[tuple[str, int]]) -> list[str]:
    """Return the contrasts that show the whole brain; if none does, the one that shows most of it.

    Parameters
    ----------
    contrasts : sequence of str
        Of all visits that are compared.
    partial : iterable of (str, int)
        Of `find_partial`, at each of these visits.

    Examples
    --------
    >>> whole_contrasts(['FLAIR', 'T1w'], [('T1w', 900)])
    ['FLAIR']
    >>> whole_contrasts(['FLAIR', 'T1w'], [('FLAIR', 40), ('T1w', 900), ('T1w', 20)])
    ['FLAIR']
    """
    # Of a contrast that is there several times the last counts, which lacks most.
    most = dict(sorted(partial, key=lambda seen: seen[1]))
    whole = [name for name in contrasts if name not in most]
    return whole or sorted(contrasts, key=most.__getitem__)[:1]


@dataclass(frozen=True)
class _Place:
    """The box around the brain, and what a network is fed of it."""

    box: tuple[slice, ...]
    brain: np.ndarray
    channels: np.ndarray

    @classmethod
    def of(cls, images: Mapping[str, np.ndarray], brain: np.ndarray, spec: ModelSpec) -> _Place:
        import torch

        needed = [item.name for item in spec.channels if not item.may_be_missing]
        known = [item.name for item in spec.channels if item.name in images]
        lacking = [name for name in needed if name not in images]
        if lacking or not known:
            wanted = ' and '.join(lacking) or ' or '.join(item.name for item in spec.channels)
            raise InputError(f'model {spec.name} needs {wanted}, which this visit does not have.')
        boxes = ndimage.find_objects(brain.astype(np.uint8))
        if not boxes:
            raise InputError(
                'the brain mask is empty. Check the image, or give a mask of your own.'
            )
        box = boxes[0]
        inside = brain[box]
        empty = np.zeros(inside.shape, np.float32)
        channels = [
            images[item.name][box] * inside if item.name in images else empty
            for item in spec.channels
        ]
        scaled = clip_white_matter(torch.from_numpy(np.stack(channels).astype(np.float32)))
        return cls(box, brain, scaled.numpy())

    def find_shift(self, logits: np.ndarray, spec: ModelSpec) -> float:
        """Return what adapts logits of the box to this brain; 0 for a model without a prior."""
        return 0.0 if spec.prior is None else find_shift(logits[self.brain[self.box]], spec.prior)

    def paste(self, values: np.ndarray) -> np.ndarray:
        """Put values of the box back into the whole, 0 outside the brain."""
        whole = np.zeros(self.brain.shape, np.float32)
        whole[self.box] = np.where(self.brain[self.box], values, 0)
        return whole


def _predict(
    place: _Place, network: nn.Module, spec: ModelSpec, flips: bool, device: torch.device | str
) -> np.ndarray:
    """Return the network's own logits in the box."""
    logits: np.ndarray = predict(
        network,
        place.channels,
        window=spec.window,
        overlap=spec.overlap,
        device=device,
        flips=flips,
    )[0]
    return logits


def _probability(logits: np.ndarray, shift: float, spec: ModelSpec) -> np.ndarray:
    import torch

    adapted = torch.from_numpy(logits) + shift
    probability: np.ndarray = torch.sigmoid(adapted / spec.temperature).numpy()
    return probability
