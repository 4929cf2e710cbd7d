"""Nodes about all visits of a participant together: what became of lesions, and dissemination."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, InputMultiObject, isdefined, traits

from msapp.interfaces.base import (
    InterfaceInputSpec,
    NodeInterface,
    TraitedSpec,
    label_array,
    load,
    mask_array,
    records,
    save,
)


class _TrackLesionsInput(InterfaceInputSpec):
    labels = InputMultiObject(
        File(exists=True), mandatory=True, desc='lesion instances of each visit, in order of time'
    )
    years = traits.List(
        traits.Float(), mandatory=True, desc='from each visit to the next; 0 if not known'
    )
    sessions = traits.List(traits.Str(), mandatory=True, desc='of each visit; empty without')
    brains = InputMultiObject(File(exists=True), mandatory=True, desc='mask of each visit')
    new = InputMultiObject(File(exists=True), desc='masks of new lesions by a detector')
    gone = InputMultiObject(File(exists=True), desc='the same, of lesions that are gone')
    new_pairs = traits.List(traits.Int(), desc='pair of visits of each of these masks, from 0')


class _TrackLesionsOutput(TraitedSpec):
    classes = File(exists=True, desc='class images of all pairs, along the fourth axis')
    rows = traits.List(traits.List(traits.Dict()), desc='changes of each pair')
    measures = traits.List(traits.Dict(), desc='of each pair')
    tracks = traits.List(traits.Dict(), desc='each lesion at each visit')


class TrackLesions(NodeInterface):
    """What became of every lesion from visit to visit; see `msapp.lesions.tracks`.

    The class images are one file, since the paths in a list of files do not move with the work
    folder. `TakePair` takes one of them out.
    """

    input_spec, output_spec = _TrackLesionsInput, _TrackLesionsOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging import geometry
        from msapp.lesions.tracks import track_lesions

        grid = load(self.inputs.labels[0])
        inputs = self.inputs
        new: list[np.ndarray | None] = [None] * (len(inputs.labels) - 1)
        gone = list(new)
        if isdefined(inputs.new):
            for pair, *paths in zip(inputs.new_pairs, inputs.new, inputs.gone, strict=True):
                new[pair], gone[pair] = map(mask_array, paths)
        found = track_lesions(
            [label_array(path) for path in inputs.labels],
            geometry.voxel_volume_mm3(grid),
            new=new,
            gone=gone,
            seen=[mask_array(path) for path in inputs.brains],
            years=[years or math.nan for years in inputs.years],
        )
        outputs: dict[str, Any] = {}
        if found.comparisons:
            classes = np.stack([pair.classes for pair in found.comparisons], axis=-1)
            outputs['classes'] = save(classes, grid, folder / 'classes.nii.gz')
        return outputs | {
            'rows': [records(pair.table()) for pair in found.comparisons],
            'measures': [pair.measures() for pair in found.comparisons],
            'tracks': [
                {**row, 'session_id': self.inputs.sessions[row['visit']]}
                for row in records(found.table)
            ],
        }


class _TakePairInput(InterfaceInputSpec):
    classes = File(exists=True, mandatory=True)
    rows = traits.List(traits.List(traits.Dict()), mandatory=True)
    measures = traits.List(traits.Dict(), mandatory=True)
    index = traits.Int(mandatory=True, desc='number of the pair, from 0')


class _TakePairOutput(TraitedSpec):
    classes = File(exists=True)
    rows = traits.List(traits.Dict())
    measures = traits.Dict()


class TakePair(NodeInterface):
    """What `TrackLesions` found for one pair of visits."""

    input_spec, output_spec = _TakePairInput, _TakePairOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        index, grid = self.inputs.index, load(self.inputs.classes)
        classes = np.asanyarray(grid.dataobj)[..., index]
        return {
            'classes': save(classes, grid, folder / 'classes.nii.gz'),
            'rows': self.inputs.rows[index],
            'measures': self.inputs.measures[index],
        }


class _AssessInput(InterfaceInputSpec):
    tracks = traits.List(traits.Dict(), mandatory=True)
    changes = traits.List(
        traits.List(traits.Dict()), mandatory=True, desc='from each visit to the next'
    )
    measures = traits.List(traits.Dict(), mandatory=True, desc='the same, of each pair')
    visits = traits.List(traits.Str(), mandatory=True, desc='names, in order of time')
    lesions = traits.List(
        traits.List(traits.Dict()), mandatory=True, desc='table of lesions of each visit'
    )
    judged = traits.List(
        traits.Int(), mandatory=True, desc='visits, from 0, at which a network sought new lesions'
    )
    obstacle = traits.Str('', usedefault=True, desc='why nothing can be told, where that is so')


class _AssessOutput(TraitedSpec):
    rows = traits.List(traits.Dict())


class AssessDissemination(NodeInterface):
    """Imaging items of the McDonald criteria 2017; see `msapp.lesions.dissemination`."""

    input_spec, output_spec = _AssessInput, _AssessOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        import pandas as pd

        from msapp.lesions import dissemination
        from msapp.lesions.tracks import TRACK_COLUMNS

        if self.inputs.obstacle:
            found = dissemination.not_assessed(self.inputs.obstacle)
            return {'rows': found.table.to_dict('records')}
        tracks = pd.DataFrame(self.inputs.tracks, columns=list(TRACK_COLUMNS))
        measures = [{}, *self.inputs.measures]
        findings = [
            dissemination.gather_findings(
                tracks,
                number,
                name,
                {row['lesion']: row['location'] for row in rows},
                {row['lesion']: row['extent_mm'] for row in rows},
                judged=number in self.inputs.judged,
                changes=self.inputs.changes[number - 1] if number else (),
                outside=measures[number].get('detected_outside_count', 0),
            )
            for number, (name, rows) in enumerate(
                zip(self.inputs.visits, self.inputs.lesions, strict=True)
            )
        ]
        found = dissemination.assess_dissemination(findings)
        return {'rows': found.table.to_dict('records')}
