"""Nodes that find lesions in a visit, and candidates for new ones between two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nipype.interfaces.base import File, isdefined, traits

from msapp.interfaces.base import (
    InterfaceInputSpec,
    NetworkInterfaceInputSpec,
    NodeInterface,
    TraitedSpec,
    array,
    load,
    mask_array,
    matrix,
    records,
    save,
)

if TYPE_CHECKING:
    import pandas as pd

    from msapp.lesions.uncertainty import UncertaintyMaps

# Maps of the Monte Carlo samples that are written; the last where the network predicts a variance.
UNCERTAINTIES = ('entropy', 'variance', 'mutual_information', 'predicted_variance')


class _FindLesionsInput(InterfaceInputSpec):
    flair = File(exists=True)
    brain_mask = File(exists=True, mandatory=True)
    white_matter = File(exists=True, mandatory=True)
    grey_matter = File(exists=True, mandatory=True)
    zones = File(exists=True, desc='tells where lesions lie')
    to_mni = File(exists=True, mandatory=True)


class _FindLesionsOutput(TraitedSpec):
    mask = File(exists=True)
    labels = File(exists=True)
    locations = File(exists=True, desc='class of the place of every lesion voxel')
    rows = traits.List(traits.Dict())
    measures = traits.Dict()


class FindLesions(NodeInterface):
    """The threshold baseline; see `msapp.lesions.threshold`."""

    input_spec, output_spec = _FindLesionsInput, _FindLesionsOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry
        from msapp.lesions import threshold

        found = threshold.find_hyperintensities(
            array(self.inputs.flair),
            mask_array(self.inputs.brain_mask),
            geometry.spacing_mm(load(self.inputs.flair)),
            white_matter=array(self.inputs.white_matter),
            grey_matter=array(self.inputs.grey_matter),
        )
        return _describe(
            self.inputs,
            found.mask,
            model=(threshold.NAME, None),
            contrasts=('FLAIR',),
            minimum_mm3=threshold.MINIMUM_MM3,
            folder=folder,
        )


class _FindPartialInput(InterfaceInputSpec):
    flair = File(exists=True)
    t1w = File(exists=True)
    brain_mask = File(exists=True, mandatory=True)


class _FindPartialOutput(TraitedSpec):
    partial = traits.List(
        traits.Tuple(traits.Str(), traits.Int()),
        desc='contrasts, and how many voxels of the brain each lacks',
    )


class FindPartial(NodeInterface):
    """Contrasts that do not show the whole brain; see `msapp.inference.lesions.find_partial`."""

    input_spec, output_spec = _FindPartialInput, _FindPartialOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.inference.lesions import find_partial

        return {'partial': find_partial(_images(self.inputs), mask_array(self.inputs.brain_mask))}


def _images(inputs: Any) -> dict[str, np.ndarray]:
    """Read the images that a node is given, by contrast."""
    given = {'FLAIR': inputs.flair, 'T1w': inputs.t1w}
    return {name: array(path) for name, path in given.items() if isdefined(path)}


class _SegmentLesionsInput(_FindLesionsInput, NetworkInterfaceInputSpec):
    t1w = File(exists=True)
    model = traits.Str(mandatory=True, nohash=True, desc='name or folder')
    model_sha256 = traits.Str(mandatory=True, desc='of description and weights')
    sources = traits.Dict(mandatory=True, desc='BIDS URI of each contrast')
    partial = traits.List(
        traits.Tuple(traits.Str(), traits.Int()), desc='of FindPartial, at all visits compared'
    )
    flips = traits.Bool(False, usedefault=True, desc='average over the mirror image')
    mc_samples = traits.Int(0, usedefault=True, desc='for uncertainty')
    seed = traits.Int(0, usedefault=True)


class _SegmentLesionsOutput(_FindLesionsOutput):
    probability = File(exists=True)
    metadata = traits.Dict(desc='which sources were used')
    entropy = File(exists=True)
    variance = File(exists=True)
    mutual_information = File(exists=True)
    predicted_variance = File(exists=True, desc='of a network with a variance head')


class SegmentLesions(NodeInterface):
    """A network for lesions; see `msapp.inference.lesions`."""

    input_spec, output_spec = _SegmentLesionsInput, _SegmentLesionsOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.inference.device import current_device
        from msapp.inference.lesions import predict_lesions, sample_lesions, whole_contrasts
        from msapp.models.registry import load_network, load_spec

        inputs = self.inputs
        spec = load_spec(inputs.model)
        network, brain = load_network(spec), mask_array(inputs.brain_mask)
        there = _images(inputs)
        partial = inputs.partial if isdefined(inputs.partial) else []
        images = {name: there[name] for name in whole_contrasts([*there], partial)}
        options: dict[str, Any] = {'flips': inputs.flips, 'device': current_device()}
        probability = predict_lesions(images, brain, network, spec, **options)
        maps, files = None, {}
        if inputs.mc_samples:
            options |= {'samples': inputs.mc_samples, 'seed': inputs.seed}
            maps = sample_lesions(images, brain, network, spec, **options)
            wanted = {name: getattr(maps, name) for name in UNCERTAINTIES}
            files = {name: values for name, values in wanted.items() if values is not None}
        described = _describe(
            inputs,
            probability >= spec.threshold,
            model=(spec.name, spec.identity),
            contrasts=tuple(images),
            minimum_mm3=spec.minimum_mm3,
            folder=folder,
            probability=probability,
            maps=maps,
        )
        unused = ','.join(sorted(there.keys() - images.keys()))
        described['measures']['lesion_contrasts_left_out'] = unused or None
        described['metadata'] = {'Sources': [inputs.sources[name] for name in images]}
        grid = load(inputs.brain_mask)
        for name, values in {'probability': probability, **files}.items():
            described[name] = save(values, grid, folder / f'{name}.nii.gz')
        return described


def _describe(
    inputs: Any,
    mask: np.ndarray,
    *,
    model: tuple[str, str | None],
    contrasts: tuple[str, ...],
    minimum_mm3: float,
    folder: Path,
    probability: np.ndarray | None = None,
    maps: UncertaintyMaps | None = None,
) -> dict[str, Any]:
    """Number the lesions of a mask and measure them: the outputs that all methods share.

    ``model`` is its name, and which weights it has.
    """
    from msapp.imaging import geometry
    from msapp.lesions import instances, location, threshold, uncertainty

    image, brain = load(inputs.brain_mask), mask_array(inputs.brain_mask)
    spacing = geometry.spacing_mm(image)
    labels = instances.label_instances(mask, float(np.prod(spacing)), minimum_mm3=minimum_mm3)
    heights = None
    if isdefined(inputs.flair):
        heights = threshold.heights(array(inputs.flair), brain, spacing, array(inputs.white_matter))
    rows = threshold.measure_lesions(
        labels,
        heights,
        brain,
        image.affine,
        np.linalg.inv(matrix(inputs.to_mni)),
        probability=probability,
    )
    volumes = [row['volume_mm3'] for row in rows]
    measures = {
        'lesion_model': model[0],
        'lesion_model_sha256': model[1],
        'lesion_contrasts': ','.join(contrasts),
        'lesion_count': len(rows),
        'lesion_volume_ml': sum(volumes) / 1000,
        'largest_lesion_ml': max(volumes, default=0.0) / 1000,
    }
    outputs: dict[str, Any] = {}
    if isdefined(inputs.zones):
        zones = np.asanyarray(load(inputs.zones).dataobj)
        shown = array(inputs.flair) if isdefined(inputs.flair) else None
        places = location.locate_lesions(labels, zones, spacing, flair=shown)
        measures |= location.count_locations(places.voxels, places.table, spacing)
        rows = _joined(rows, places.table)
        outputs['locations'] = save(places.voxels, image, folder / 'locations.nii.gz')
    if maps is not None:
        rows = _joined(rows, uncertainty.measure_lesion_uncertainty(labels, maps))
    return outputs | {
        'mask': save(labels > 0, image, folder / 'lesions.nii.gz'),
        'labels': save(labels, image, folder / 'labels.nii.gz'),
        'rows': rows,
        'measures': measures,
    }


def _joined(rows: list[dict[str, Any]], table: pd.DataFrame) -> list[dict[str, Any]]:
    """Add the columns of a table of lesions to rows."""
    more = {row['lesion']: row for row in records(table)}
    return [row | more[row['lesion']] for row in rows]


class _NoiseInput(InterfaceInputSpec):
    reference = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    white_matter = File(exists=True, mandatory=True)


class _MeasuresOutput(TraitedSpec):
    measures = traits.Dict()


class MeasureNoise(NodeInterface):
    """Spread of normal-appearing white matter over its mode."""

    input_spec, output_spec = _NoiseInput, _MeasuresOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, lower_distribution

        certain = array(self.inputs.white_matter) > CERTAIN_WHITE_MATTER
        inside = certain & mask_array(self.inputs.brain_mask)
        normal = lower_distribution(array(self.inputs.reference)[inside])
        return {'measures': {'nawm_noise_fraction': normal.spread / normal.centre}}


class _FindCandidatesInput(InterfaceInputSpec):
    previous = File(exists=True, mandatory=True, desc='bias-corrected FLAIR on its own grid')
    current = File(exists=True, mandatory=True, desc='bias-corrected FLAIR on its own grid')
    previous_to_current = File(exists=True, mandatory=True, desc='affine')
    previous_to_individual = File(exists=True, mandatory=True)
    current_to_individual = File(exists=True, mandatory=True)
    previous_mask = File(exists=True, mandatory=True)
    current_mask = File(exists=True, mandatory=True)
    to_mni = File(exists=True, mandatory=True)


class _FindCandidatesOutput(TraitedSpec):
    mask = File(exists=True)
    labels = File(exists=True)
    intersection = File(exists=True)
    rows = traits.List(traits.Dict())
    measures = traits.Dict()


class FindCandidates(NodeInterface):
    """Step one of the hybrid method; see `msapp.lesions.candidates`.

    The previous FLAIR is resampled from its own grid once, through its affine map onto the
    current visit.
    """

    input_spec, output_spec = _FindCandidatesInput, _FindCandidatesOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry
        from msapp.imaging.distance import distance_maps
        from msapp.imaging.registration import correlation
        from msapp.lesions.candidates import find_candidates, measure_candidates

        grid = geometry.individual_grid()
        to_current = matrix(self.inputs.current_to_individual)
        to_previous = matrix(self.inputs.previous_to_current) @ to_current
        rigid = matrix(self.inputs.previous_to_individual)
        previous = geometry.resample(load(self.inputs.previous), grid, to_previous)
        current = geometry.resample(load(self.inputs.current), grid, to_current)
        mask = mask_array(self.inputs.previous_mask) & mask_array(self.inputs.current_mask)
        found = find_candidates(previous, current, mask, geometry.spacing_mm(grid))
        maps = distance_maps(mask, geometry.spacing_mm(grid))
        to_mni = np.linalg.inv(matrix(self.inputs.to_mni))
        rows = measure_candidates(found, maps, grid.affine, to_mni)
        points = geometry.mask_points_mm(geometry.like(mask, grid))
        return {
            'mask': save(found.labels > 0, grid, folder / 'candidates.nii.gz'),
            'labels': save(found.labels, grid, folder / 'labels.nii.gz'),
            'intersection': save(mask, grid, folder / 'intersection.nii.gz'),
            'rows': rows,
            'measures': {
                'candidate_count': len(rows),
                'candidate_volume_ml': sum(row['volume_mm3'] for row in rows) / 1000,
                'visit_correlation': correlation(found.previous, current, mask),
                'visit_motion_mm': float(
                    geometry.displacement_mm(to_previous, rigid, points).mean()
                ),
            },
        }
