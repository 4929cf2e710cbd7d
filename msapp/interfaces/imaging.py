"""Nodes of one image: conforming, bias, brain, registration, resampling, distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, traits

from msapp.interfaces.base import (
    InterfaceInputSpec,
    NetworkInterfaceInputSpec,
    NodeInterface,
    TraitedSpec,
    array,
    load,
    mask_array,
    matrix,
    save,
    save_matrix,
)

# Iterations, and voxels of linear registration, that suffice to test a graph (--sloppy).
SLOPPY_BIAS_ITERATIONS = (5,)
SLOPPY_WARP_ITERATIONS = (10, 0, 0)
SLOPPY_VOXEL_MM = 3.0


class _OneImageInput(InterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    sloppy = traits.Bool(False, usedefault=True)


class _OneImageOutput(TraitedSpec):
    out_file = File(exists=True)


def _resolution(sloppy: bool) -> dict[str, Any]:
    """Return at what voxels images are compared, where it is not that of a registration."""
    return {'voxel_mm': SLOPPY_VOXEL_MM} if sloppy else {}


class ConformImage(NodeInterface):
    """Check an image again and write it as one float32 volume with a clean header."""

    input_spec, output_spec = _OneImageInput, _OneImageOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.bids.checks import check_image

        image = check_image(Path(self.inputs.in_file))
        data = np.asanyarray(image.dataobj, dtype=np.float32)
        return {'out_file': save(data, image, folder / 'conformed.nii')}


class CorrectBias(NodeInterface):
    """N4; see `msapp.imaging.intensity.correct_bias`."""

    input_spec, output_spec = _OneImageInput, _OneImageOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.intensity import BIAS_ITERATIONS, correct_bias

        iterations = SLOPPY_BIAS_ITERATIONS if self.inputs.sloppy else BIAS_ITERATIONS
        image = correct_bias(load(self.inputs.in_file), iterations=iterations)
        return {'out_file': save(image.get_fdata(dtype=np.float32), image, folder / 'n4.nii')}


class _SegmentAnatomyInput(NetworkInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    model = traits.Str(mandatory=True, nohash=True, desc='name or folder')
    model_sha256 = traits.Str(mandatory=True, desc='of description and weights')


class _SegmentAnatomyOutput(TraitedSpec):
    zones = File(exists=True, desc='probability of each zone, 4-D')


class SegmentAnatomy(NodeInterface):
    """Zones of a head; see `msapp.inference.anatomy`."""

    input_spec, output_spec = _SegmentAnatomyInput, _SegmentAnatomyOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.inference.anatomy import predict_zones
        from msapp.inference.device import current_device
        from msapp.models.registry import load_network, load_spec

        spec = load_spec(self.inputs.model)
        zones = predict_zones(
            load(self.inputs.in_file), load_network(spec), spec, device=current_device()
        )
        return {'zones': save(np.asanyarray(zones.dataobj), zones, folder / 'zones.nii')}


class _ExtractBrainInput(_OneImageInput):
    method = traits.Enum('network', 'template', 'bet', mandatory=True)
    zones = File(exists=True, desc='by the network, for the method of this name')
    given_mask = File(exists=True, desc='a mask to use in place of one found here')
    model = traits.Dict({}, usedefault=True, desc='sidecar keys of the network')
    seed = traits.Int(0, usedefault=True)


class _ExtractBrainOutput(TraitedSpec):
    brain = File(exists=True)
    white_matter = File(exists=True)
    grey_matter = File(exists=True)
    from_mni = File(exists=True)
    measures = traits.Dict()
    metadata = traits.Dict(desc='sidecar keys that say how the brain was found')


class ExtractBrain(NodeInterface):
    """Brain probability and map from MNI; see `msapp.imaging.brain.extract_brain`."""

    input_spec, output_spec = _ExtractBrainInput, _ExtractBrainOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import bet, brain

        image = load(self.inputs.in_file)
        given = None
        if self.inputs.given_mask:
            given = load(self.inputs.given_mask)
        elif self.inputs.method == 'bet':
            given = bet.bet_mask(image)
        options: dict[str, Any] = {'given_mask': given, 'seed': self.inputs.seed}
        options |= _resolution(self.inputs.sloppy)
        if self.inputs.method == 'network':
            found = brain.brain_from_zones(image, load(self.inputs.zones), **options)
        else:
            if self.inputs.sloppy:
                options['warp_iterations'] = SLOPPY_WARP_ITERATIONS
            found = brain.extract_brain(image, **options)
        used = 'already skull-stripped' if found.was_stripped else self.inputs.method
        used = 'given mask' if self.inputs.given_mask else used
        metadata = {'Method': used}
        if used == 'network':
            metadata |= self.inputs.model
        if self.inputs.given_mask:
            metadata['Description'] = f'Given as {Path(self.inputs.given_mask).name}'
        return {
            'brain': save(found.brain.get_fdata(), found.brain, folder / 'brain.nii.gz'),
            'white_matter': save(found.white_matter.get_fdata(), found.brain, folder / 'wm.nii.gz'),
            'grey_matter': save(found.grey_matter.get_fdata(), found.brain, folder / 'gm.nii.gz'),
            'from_mni': save_matrix(found.from_mni, folder / 'from_mni.txt'),
            'measures': {'mni_alignment': found.similarity, 'brain_extraction': used},
            'metadata': metadata,
        }


class _RegisterInput(InterfaceInputSpec):
    fixed = File(exists=True, mandatory=True)
    moving = File(exists=True, mandatory=True)
    fixed_brain = File(exists=True, mandatory=True)
    kind = traits.Enum('Rigid', 'Affine', usedefault=True)
    initial_fixed = File(exists=True, desc='individual to fixed')
    initial_moving = File(exists=True, desc='individual to moving')
    seed = traits.Int(0, usedefault=True)
    sloppy = traits.Bool(False, usedefault=True)


class _RegisterOutput(TraitedSpec):
    transform = File(exists=True, desc='resamples moving onto fixed')


class Register(NodeInterface):
    """Linear registration; see `msapp.imaging.registration.register_linear`.

    Two contrasts of one visit start from the scanner's coordinates or the centres of mass; two
    visits start from where the midpoint space puts them.
    """

    input_spec, output_spec = _RegisterInput, _RegisterOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.registration import better_start, register_linear

        fixed, moving = load(self.inputs.fixed), load(self.inputs.moving)
        brain = load(self.inputs.fixed_brain)
        if not self.inputs.initial_fixed:
            initial = better_start(fixed, moving, brain)
        else:
            to_moving, to_fixed = map(
                matrix, (self.inputs.initial_moving, self.inputs.initial_fixed)
            )
            initial = to_moving @ np.linalg.inv(to_fixed)
        found = register_linear(
            fixed,
            moving,
            kind=self.inputs.kind,
            mask=brain,
            initial=initial,
            seed=self.inputs.seed,
            **_resolution(self.inputs.sloppy),
        )
        return {'transform': save_matrix(found, folder / 'moving_to_fixed.txt')}


class _MidpointInput(InterfaceInputSpec):
    images = InputMultiObject(File(exists=True), mandatory=True)
    brains = InputMultiObject(File(exists=True), mandatory=True)
    from_mni = InputMultiObject(File(exists=True), mandatory=True)
    seed = traits.Int(0, usedefault=True)
    sloppy = traits.Bool(False, usedefault=True)


class _MidpointOutput(TraitedSpec):
    to_individual = traits.List(File(exists=True), desc='one a visit')
    to_mni = File(exists=True, desc='resamples individual onto MNI')


class FindMidpoint(NodeInterface):
    """The individual space; see `msapp.imaging.midpoint.find_midpoint`."""

    input_spec, output_spec = _MidpointInput, _MidpointOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.midpoint import find_midpoint

        midpoint = find_midpoint(
            [load(path) for path in self.inputs.images],
            [load(path) for path in self.inputs.brains],
            [matrix(path) for path in self.inputs.from_mni],
            seed=self.inputs.seed,
            **_resolution(self.inputs.sloppy),
        )
        return {
            'to_individual': [
                save_matrix(transform, folder / f'visit{number}_to_individual.txt')
                for number, transform in enumerate(midpoint.to_visit)
            ],
            'to_mni': save_matrix(midpoint.from_mni, folder / 'individual_to_mni.txt'),
        }


class _ComposeInput(InterfaceInputSpec):
    to_individual = File(exists=True, mandatory=True, desc='of the reference contrast')
    to_reference = File(exists=True, mandatory=True, desc='of this contrast')


class ComposeTransforms(NodeInterface):
    """From a contrast to ``individual``, through the visit's reference contrast."""

    input_spec, output_spec = _ComposeInput, _OneImageOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        composed = matrix(self.inputs.to_reference) @ matrix(self.inputs.to_individual)
        return {'out_file': save_matrix(composed, folder / 'to_individual.txt')}


class _BrainMasksInput(InterfaceInputSpec):
    brain = File(exists=True, mandatory=True)
    white_matter = File(exists=True, mandatory=True)
    grey_matter = File(exists=True, mandatory=True)
    zones = File(exists=True, desc='probability of each zone, 4-D')
    reference = File(exists=True, mandatory=True, desc='gives the orig grid')
    to_individual = File(exists=True, mandatory=True)


class _BrainMasksOutput(TraitedSpec):
    orig = File(exists=True)
    individual = File(exists=True)
    white_matter = File(exists=True)
    grey_matter = File(exists=True)
    zones = File(exists=True)
    measures = traits.Dict()


class BrainMasks(NodeInterface):
    """Brain mask in ``orig`` and ``individual``; tissue maps, and zones, in ``individual``."""

    input_spec, output_spec = _BrainMasksInput, _BrainMasksOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import brain, geometry, tissue

        grid, reference = geometry.individual_grid(), load(self.inputs.reference)
        transform = matrix(self.inputs.to_individual)
        probability = load(self.inputs.brain)
        individual = brain.mask_on_grid(probability, grid, transform)
        white, grey = (
            geometry.resample(load(path), grid, transform)
            for path in (self.inputs.white_matter, self.inputs.grey_matter)
        )
        voxel_mm3 = geometry.voxel_volume_mm3(grid)
        outputs: dict[str, Any] = {}
        volumes = {'brain_volume_ml': float(individual.sum() * voxel_mm3 / tissue.MM3_PER_ML)}
        if self.inputs.zones:
            zones = tissue.zones_on_grid(load(self.inputs.zones), individual, grid, transform)
            outputs['zones'] = save(zones, grid, folder / 'zones.nii.gz')
            for name, volume_ml in tissue.zone_volumes_ml(zones, voxel_mm3).items():
                volumes[f'{name}_ml'] = volume_ml
        return outputs | {
            'orig': save(
                brain.mask_on_grid(probability, reference), reference, folder / 'o.nii.gz'
            ),
            'individual': save(individual, grid, folder / 'individual.nii.gz'),
            'white_matter': save(white, grid, folder / 'white_matter.nii.gz'),
            'grey_matter': save(grey, grid, folder / 'grey_matter.nii.gz'),
            'measures': volumes
            | {
                'slice_thickness_mm': round(max(geometry.spacing_mm(reference)), 3),
                'voxel_volume_mm3': geometry.voxel_volume_mm3(reference),
            },
        }


class _PrepareInput(InterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    to_individual = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    white_matter = File(exists=True, mandatory=True)


class _PrepareOutput(_OneImageOutput):
    metadata = traits.Dict(desc='sidecar keys of the image')


class PrepareContrast(NodeInterface):
    """One interpolation into ``individual``, and white matter scaled to 1."""

    input_spec, output_spec = _PrepareInput, _PrepareOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry
        from msapp.imaging.brain import is_skull_stripped
        from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, normalize

        grid, image = geometry.individual_grid(), load(self.inputs.in_file)
        data = geometry.resample(image, grid, matrix(self.inputs.to_individual))
        certain = array(self.inputs.white_matter) > CERTAIN_WHITE_MATTER
        brain = mask_array(self.inputs.brain_mask)
        normalized = normalize(data, certain & brain)
        brain_ml = float(brain.sum()) * geometry.voxel_volume_mm3(grid) / 1000
        return {
            'out_file': save(normalized, grid, folder / 'preproc.nii'),
            'metadata': {'SkullStripped': is_skull_stripped(image, brain_ml)},
        }


class _ToGridInput(InterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='a mask in individual space')
    grid = File(exists=True, desc='target grid; MNI where not given')
    transform = File(exists=True, mandatory=True)
    invert = traits.Bool(False, usedefault=True)


class MaskToGrid(NodeInterface):
    """Bring a mask from ``individual`` to ``orig`` or MNI."""

    input_spec, output_spec = _ToGridInput, _OneImageOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry

        # MNI and individual space share one grid.
        grid = load(self.inputs.grid) if self.inputs.grid else geometry.individual_grid()
        transform = matrix(self.inputs.transform)
        if self.inputs.invert:
            transform = np.linalg.inv(transform)
        moved = geometry.resample_mask(load(self.inputs.in_file), grid, transform)
        return {'out_file': save(moved, grid, folder / 'mask.nii.gz')}


class _AlignmentInput(InterfaceInputSpec):
    first = File(exists=True, mandatory=True)
    second = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    column = traits.Str(mandatory=True)


class _MeasuresOutput(TraitedSpec):
    measures = traits.Dict()


class MeasureAlignment(NodeInterface):
    """Normalised mutual information of two aligned contrasts inside the brain."""

    input_spec, output_spec = _AlignmentInput, _MeasuresOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.registration import normalized_mutual_information

        value = normalized_mutual_information(
            array(self.inputs.first), array(self.inputs.second), mask_array(self.inputs.brain_mask)
        )
        return {'measures': {self.inputs.column: value}}
