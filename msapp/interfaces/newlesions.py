"""Nodes that find new lesions between two visits by a network, and check how well it does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import File, traits

from msapp.interfaces.base import (
    NetworkInterfaceInputSpec,
    NodeInterface,
    TraitedSpec,
    array,
    load,
    mask_array,
    matrix,
    save,
)

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage


class _PairInput(NetworkInterfaceInputSpec):
    previous = File(exists=True, mandatory=True, desc='bias-corrected FLAIR on its own grid')
    current = File(exists=True, mandatory=True, desc='in individual space')
    previous_to_current = File(exists=True, mandatory=True, desc='affine')
    current_to_individual = File(exists=True, mandatory=True)
    previous_white_matter = File(exists=True, mandatory=True, desc='on the grid of previous')
    previous_brain = File(exists=True, mandatory=True, desc='probability, on the same grid')
    current_mask = File(exists=True, mandatory=True)
    model = traits.Str(mandatory=True, nohash=True, desc='name or folder')
    model_sha256 = traits.Str(mandatory=True, desc='of description and weights')
    flips = traits.Bool(False, usedefault=True, desc='average over the mirror image')


@dataclass(frozen=True)
class _Visit:
    """A FLAIR, and the probability of lesion where a model confirms by it what is new."""

    image: np.ndarray
    lesions: np.ndarray | None = None


class _Pair:
    """Two visits as the network is fed them; see `msapp.training.visits`.

    The previous FLAIR, its brain and its white matter are resampled from their own grid once,
    through the affine map onto the current visit. Each FLAIR is scaled by the mode of its own
    white matter.
    """

    def __init__(self, inputs: Any) -> None:
        from msapp.imaging import geometry
        from msapp.imaging.brain import mask_on_grid
        from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, normalize
        from msapp.inference.device import current_device
        from msapp.models.registry import confirming_model, load_network, load_spec

        self.grid = geometry.individual_grid()
        through = matrix(inputs.previous_to_current) @ matrix(inputs.current_to_individual)
        previous, white = (
            geometry.resample(load(path), self.grid, through)
            for path in (inputs.previous, inputs.previous_white_matter)
        )
        seen = mask_on_grid(load(inputs.previous_brain), self.grid, through)
        previous = normalize(previous, (white > CERTAIN_WHITE_MATTER) & seen)
        self.brain = seen & mask_array(inputs.current_mask)
        self.spec = load_spec(inputs.model)
        self._network, self._flips = load_network(self.spec), inputs.flips
        self._device = current_device()
        self.model = {
            'detected_new_model': self.spec.name,
            'detected_new_model_sha256': self.spec.identity,
        }
        self._confirming = None
        if (confirming := confirming_model(self.spec)) is not None:
            self._confirming = load_network(confirming), confirming
            self.model['detected_new_model_sha256'] += f'+{confirming.identity}'
        self.images = {'previous': previous, 'current': array(inputs.current)}

    @cached_property
    def previous(self) -> _Visit:
        """The earlier visit."""
        return self.visit(self.images['previous'])

    @cached_property
    def current(self) -> _Visit:
        """The later visit."""
        return self.visit(self.images['current'])

    def least_mm3(self, probability: np.ndarray) -> float | None:
        """Return the least volume of a new lesion in white matter, if that is measured."""
        from msapp.inference.newlesions import least_volumes_mm3

        if self.spec.confirmed_by is None:
            return None
        (least,) = least_volumes_mm3([1.0], probability, self.images, self.brain, self.spec)
        return round(float(least), 1)

    def visit(self, image: np.ndarray) -> _Visit:
        """Return a visit of this FLAIR, with what confirms its new lesions."""
        from msapp.inference.newlesions import predict_confirming

        if self._confirming is None:
            return _Visit(image)
        lesions = predict_confirming(image, self.brain, *self._confirming, device=self._device)
        return _Visit(image, lesions)

    def find(self, previous: _Visit, current: _Visit) -> tuple[np.ndarray, np.ndarray]:
        """Return the probability that a lesion is new, and the instances."""
        from msapp.inference.newlesions import label_new_lesions, predict_new_lesions

        images = {'previous': previous.image, 'current': current.image}
        probability = predict_new_lesions(
            images, self.brain, self._network, self.spec, flips=self._flips, device=self._device
        )
        labels = label_new_lesions(
            probability,
            images,
            self.brain,
            self.spec,
            before=previous.lesions,
            after=current.lesions,
        )
        return probability, labels


class _SegmentNewLesionsInput(_PairInput):
    to_mni = File(exists=True, mandatory=True)


class _SegmentNewLesionsOutput(TraitedSpec):
    mask = File(exists=True)
    gone = File(exists=True, desc='what is a lesion at the earlier visit alone')
    probability = File(exists=True)
    labels = File(exists=True)
    rows = traits.List(traits.Dict())
    measures = traits.Dict()


class SegmentNewLesions(NodeInterface):
    """A network for new lesions, and in reverse for those gone, with the one that confirms them."""

    input_spec, output_spec = _SegmentNewLesionsInput, _SegmentNewLesionsOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.lesions.instances import measure_new_lesions

        pair = _Pair(self.inputs)
        probability, labels = pair.find(pair.previous, pair.current)
        _, gone = pair.find(pair.current, pair.previous)
        grid: SpatialImage = pair.grid
        to_mni = np.linalg.inv(matrix(self.inputs.to_mni))
        rows = measure_new_lesions(labels, grid.affine, to_mni, probability, pair.images)
        return {
            'mask': save(labels > 0, grid, folder / 'new.nii.gz'),
            'gone': save(gone > 0, grid, folder / 'gone.nii.gz'),
            'probability': save(probability, grid, folder / 'probability.nii.gz'),
            'labels': save(labels, grid, folder / 'labels.nii.gz'),
            'rows': rows,
            'measures': {
                **pair.model,
                'detected_new_count': len(rows),
                'detected_new_volume_ml': sum(row['volume_mm3'] for row in rows) / 1000,
                'detected_new_least_mm3': pair.least_mm3(probability),
            },
        }


class _CheckDetectorInput(_PairInput):
    scan = File(exists=True, mandatory=True, desc='later FLAIR on its own grid')
    current_white_matter = File(exists=True, mandatory=True, desc='in individual space')
    found = File(exists=True, mandatory=True, desc='what the network found as it is')
    seed = traits.Int(0, usedefault=True)


class _CheckDetectorOutput(TraitedSpec):
    image = File(exists=True, desc='later FLAIR with the painted lesions')
    examples = File(exists=True, desc='one painted lesion of each size')
    rows = traits.List(traits.Dict(), desc='one a size')


class CheckDetector(NodeInterface):
    """How many painted lesions of known size the network finds; see `msapp.synthesis.injection`."""

    input_spec, output_spec = _CheckDetectorInput, _CheckDetectorOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.synthesis.injection import count_recovered, inject_lesions

        inputs, pair = self.inputs, _Pair(self.inputs)
        painted = inject_lesions(
            (pair.images['previous'], pair.images['current']),
            array(inputs.current_white_matter) * pair.brain,
            mask_array(inputs.found),
            pair.grid.affine,
            load(inputs.scan),
            matrix(inputs.current_to_individual),
            np.random.default_rng(inputs.seed),
        )
        _, labels = pair.find(pair.previous, pair.visit(painted.image))
        return {
            'image': save(painted.image, pair.grid, folder / 'painted.nii.gz'),
            'examples': save(painted.examples(), pair.grid, folder / 'examples.nii.gz'),
            'rows': [row | pair.model for row in count_recovered(painted, labels > 0)],
        }
