"""Nodes that draw the report's figures into ``sub-X/figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import File, traits

from msapp.interfaces.base import array, label_array, load, mask_array
from msapp.interfaces.outputs import Sink, SinkInput, SinkOutput

# What a panel of regions may show: names in msapp.reports.panels.
REGIONS = ('candidates', 'detected', 'selfcheck')


class _MosaicInput(SinkInput):
    image = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    outlined = File(exists=True, desc='mask whose outline is drawn')
    kind = traits.Enum('brain', 'lesions', 'candidates', 'new', usedefault=True)
    title = traits.Str(mandatory=True)


class DrawMosaic(Sink):
    """Slices of one contrast, with the outline of a mask; see `msapp.reports.figures`."""

    input_spec, output_spec = _MosaicInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports import figures

        colours = {
            'brain': figures.BRAIN_COLOUR,
            'lesions': figures.LESION_COLOUR,
            'candidates': figures.CANDIDATE_COLOUR,
            'new': figures.NEW_COLOUR,
        }
        kind, contours = self.inputs.kind, []
        if self.inputs.outlined:
            contours = [(mask_array(self.inputs.outlined), colours[kind], kind)]
        target = Path(self.inputs.output_dir) / self.inputs.name
        figures.mosaic(
            array(self.inputs.image),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            contours=contours,
            title=self.inputs.title,
            slices='brain' if kind == 'brain' else 'area',
            affine=load(self.inputs.image).affine,
        )
        return {'out_file': str(target)}


class _ZonesInput(SinkInput):
    image = File(exists=True, mandatory=True)
    zones = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    title = traits.Str(mandatory=True)


class DrawZones(Sink):
    """Slices of one contrast with the outline of every zone."""

    input_spec, output_spec = _ZonesInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.imaging.tissue import ZONES
        from msapp.reports import figures

        target = Path(self.inputs.output_dir) / self.inputs.name
        zones = label_array(self.inputs.zones)
        figures.mosaic(
            array(self.inputs.image),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            contours=[
                (zones == number, figures.ZONE_COLOURS[name], name.replace('_', ' '))
                for number, name in enumerate(ZONES)
                if name in figures.ZONE_COLOURS
            ],
            title=self.inputs.title,
            affine=load(self.inputs.image).affine,
        )
        return {'out_file': str(target)}


class _UncertaintyInput(SinkInput):
    image = File(exists=True, mandatory=True)
    labels = File(exists=True, mandatory=True, desc='lesion instances')
    entropy = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    title = traits.Str(mandatory=True)


class DrawUncertainty(Sink):
    """Slices with lesions outlined by how sure the network is of them."""

    input_spec, output_spec = _UncertaintyInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.lesions.uncertainty import split_by_entropy
        from msapp.reports import figures

        target = Path(self.inputs.output_dir) / self.inputs.name
        labels = label_array(self.inputs.labels)
        parts = split_by_entropy(labels, array(self.inputs.entropy))
        figures.mosaic(
            array(self.inputs.image),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            contours=[(mask, *figures.CERTAINTY_STYLES[name]) for name, mask in parts.items()],
            title=self.inputs.title,
            slices='area',
            affine=load(self.inputs.image).affine,
        )
        return {'out_file': str(target)}


class _CheckerboardInput(SinkInput):
    first = File(exists=True, mandatory=True)
    second = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    labels = traits.Tuple(traits.Str(), traits.Str(), mandatory=True)


class DrawCheckerboard(Sink):
    """Two aligned images in alternate tiles."""

    input_spec, output_spec = _CheckerboardInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports import figures

        target = Path(self.inputs.output_dir) / self.inputs.name
        figures.checkerboard(
            array(self.inputs.first),
            array(self.inputs.second),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            labels=self.inputs.labels,
            affine=load(self.inputs.first).affine,
        )
        return {'out_file': str(target)}


class _FlickerInput(_CheckerboardInput):
    focus = File(exists=True, desc='slices with most of this mask are shown')
    second_name = traits.Str(mandatory=True, hash_files=False, desc='path of the second picture')


class DrawFlicker(Sink):
    """Two visits as two pictures of one layout."""

    input_spec, output_spec = _FlickerInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports import figures

        output_dir = Path(self.inputs.output_dir)
        focus = mask_array(self.inputs.focus)
        figures.flicker(
            array(self.inputs.first),
            array(self.inputs.second),
            output_dir / self.inputs.name,
            output_dir / self.inputs.second_name,
            brain_mask=mask_array(self.inputs.brain_mask),
            labels=self.inputs.labels,
            focus=focus if focus.any() else None,
            affine=load(self.inputs.first).affine,
        )
        return {'out_file': str(output_dir / self.inputs.name)}


class _PanelInput(_CheckerboardInput):
    regions = File(exists=True, mandatory=True, desc='label image')
    rows = traits.List(traits.Dict(), [], usedefault=True, desc='where the regions lie')
    kind = traits.Enum(*REGIONS, mandatory=True)


class DrawRegions(Sink):
    """The largest regions of a kind in three planes, before and now."""

    input_spec, output_spec = _PanelInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports.panels import WORDINGS, regions_panel

        target = Path(self.inputs.output_dir) / self.inputs.name
        regions_panel(
            array(self.inputs.first),
            array(self.inputs.second),
            label_array(self.inputs.regions),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            wording=WORDINGS[self.inputs.kind],
            table=self.inputs.rows,
            names=self.inputs.labels,
        )
        return {'out_file': str(target)}


class _NewLesionsInput(_CheckerboardInput):
    lesions = File(exists=True, mandatory=True, desc='lesion instances of the later visit')
    lesion_rows = traits.List(traits.Dict(), mandatory=True, desc='where these lie')
    rows = traits.List(traits.Dict(), mandatory=True, desc='changes since the visit before')


class DrawNewLesions(Sink):
    """New lesions in three planes, before and now."""

    input_spec, output_spec = _NewLesionsInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports.panels import NEW_LESIONS, regions_panel

        target = Path(self.inputs.output_dir) / self.inputs.name
        # One later lesion is in a change that is new.
        names = {
            int(row['labels_after']): int(row['identifiers_after'])
            for row in self.inputs.rows
            if row['kind'] == 'new'
        }
        lesions = label_array(self.inputs.lesions)
        identifiers = np.zeros(lesions.max() + 1, np.int32)
        identifiers[list(names)] = list(names.values())
        regions_panel(
            array(self.inputs.first),
            array(self.inputs.second),
            identifiers[lesions],
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            wording=NEW_LESIONS,
            table=[
                {**row, 'identifier': names[row['lesion']]}
                for row in self.inputs.lesion_rows
                if row['lesion'] in names
            ],
            names=self.inputs.labels,
        )
        return {'out_file': str(target)}


class _ChangeMapInput(SinkInput):
    image = File(exists=True, mandatory=True)
    classes = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    title = traits.Str(mandatory=True)


class DrawChangeMap(Sink):
    """Slices with lesions outlined by what became of them."""

    input_spec, output_spec = _ChangeMapInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports import figures

        target = Path(self.inputs.output_dir) / self.inputs.name
        figures.change_map(
            array(self.inputs.image),
            label_array(self.inputs.classes),
            target,
            brain_mask=mask_array(self.inputs.brain_mask),
            title=self.inputs.title,
            affine=load(self.inputs.image).affine,
        )
        return {'out_file': str(target)}


class _ViewerInput(SinkInput):
    image = File(exists=True, mandatory=True)
    mask = File(exists=True, mandatory=True)
    brain_mask = File(exists=True, mandatory=True)
    title = traits.Str(mandatory=True)


class DrawViewer(Sink):
    """The interactive viewer of one contrast with lesions."""

    input_spec, output_spec = _ViewerInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports import figures

        target = Path(self.inputs.output_dir) / self.inputs.name
        figures.viewer(
            Path(self.inputs.image),
            Path(self.inputs.mask),
            target,
            title=self.inputs.title,
            brain_mask=Path(self.inputs.brain_mask),
        )
        return {'out_file': str(target)}


class _TimelineInput(SinkInput):
    tracks = traits.List(traits.Dict(), mandatory=True)
    visits = traits.List(traits.Str(), mandatory=True, desc='names, in order of time')
    acq_times = traits.List(traits.Str(), mandatory=True, desc='empty where not known')


class DrawTimeline(Sink):
    """Number and volume of lesions over the visits."""

    input_spec, output_spec = _TimelineInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.reports.timeline import TimelinePoint, timeline

        target = Path(self.inputs.output_dir) / self.inputs.name
        visits = zip(self.inputs.visits, self.inputs.acq_times, strict=True)
        points = [
            TimelinePoint.of(
                name, time, [row for row in self.inputs.tracks if row['visit'] == number]
            )
            for number, (name, time) in enumerate(visits)
        ]
        timeline(points, target)
        return {'out_file': str(target)}
