"""Node that finds new lesions between two visits by a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


class _SegmentNewLesionsInput(NetworkInterfaceInputSpec):
    previous = File(exists=True, mandatory=True, desc='bias-corrected FLAIR on its own grid')
    current = File(exists=True, mandatory=True, desc='in individual space')
    previous_to_current = File(exists=True, mandatory=True, desc='affine')
    current_to_individual = File(exists=True, mandatory=True)
    previous_white_matter = File(exists=True, mandatory=True, desc='in individual space')
    previous_mask = File(exists=True, mandatory=True)
    current_mask = File(exists=True, mandatory=True)
    to_mni = File(exists=True, mandatory=True)
    model = traits.Str(mandatory=True, nohash=True, desc='name or folder')
    weights_sha256 = traits.Str(mandatory=True, desc='another model gives another result')
    flips = traits.Bool(False, usedefault=True, desc='average over the mirror image')


class _SegmentNewLesionsOutput(TraitedSpec):
    mask = File(exists=True)
    probability = File(exists=True)
    labels = File(exists=True)
    rows = traits.List(traits.Dict())
    measures = traits.Dict()


class SegmentNewLesions(NodeInterface):
    """A network for new lesions; see `msapp.training.pairs` for what it is fed.

    The previous FLAIR is resampled from its own grid once, through its affine map onto the
    current visit. Each FLAIR is scaled by the mode of its own white matter.
    """

    input_spec, output_spec = _SegmentNewLesionsInput, _SegmentNewLesionsOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry
        from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, normalize
        from msapp.inference.device import current_device
        from msapp.inference.lesions import predict_lesions
        from msapp.lesions.instances import label_instances, measure_new_lesions
        from msapp.models.registry import load_network, load_spec

        inputs = self.inputs
        spec, grid = load_spec(inputs.model), geometry.individual_grid()
        seen = mask_array(inputs.previous_mask)
        both = seen & mask_array(inputs.current_mask)
        through = matrix(inputs.previous_to_current) @ matrix(inputs.current_to_individual)
        previous = geometry.resample(load(inputs.previous), grid, through)
        white = (array(inputs.previous_white_matter) > CERTAIN_WHITE_MATTER) & seen
        images = {'previous': normalize(previous, white), 'current': array(inputs.current)}
        probability = predict_lesions(
            images,
            both,
            load_network(spec),
            spec,
            flips=inputs.flips,
            device=current_device(),
        )
        labels = label_instances(
            probability >= spec.threshold,
            geometry.voxel_volume_mm3(grid),
            minimum_mm3=spec.minimum_mm3,
        )
        rows = measure_new_lesions(
            labels, grid.affine, np.linalg.inv(matrix(inputs.to_mni)), probability, images
        )
        return {
            'mask': save(labels > 0, grid, folder / 'new.nii.gz'),
            'probability': save(probability, grid, folder / 'probability.nii.gz'),
            'labels': save(labels, grid, folder / 'labels.nii.gz'),
            'rows': rows,
            'measures': {
                'new_lesion_model': spec.name,
                'detected_new_count': len(rows),
                'detected_new_volume_ml': sum(row['volume_mm3'] for row in rows) / 1000,
            },
        }
