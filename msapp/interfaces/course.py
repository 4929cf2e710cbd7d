"""Nodes about all visits of a participant together: dissemination in space and time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import traits

from msapp.interfaces.base import InterfaceInputSpec, NodeInterface, TraitedSpec


class _AssessInput(InterfaceInputSpec):
    tracks = traits.List(traits.Dict(), mandatory=True)
    changes = traits.List(
        traits.List(traits.Dict()), mandatory=True, desc='from each visit to the next'
    )
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
        findings = [
            dissemination.gather_findings(
                tracks,
                number,
                name,
                {row['lesion']: row['location'] for row in rows},
                {row['lesion']: row['extent_mm'] for row in rows},
                judged=number in self.inputs.judged,
                changes=self.inputs.changes[number - 1] if number else (),
            )
            for number, (name, rows) in enumerate(
                zip(self.inputs.visits, self.inputs.lesions, strict=True)
            )
        ]
        found = dissemination.assess_dissemination(findings)
        return {'rows': found.table.to_dict('records')}
