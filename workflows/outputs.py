"""Where results go: sinks with the names, sidecars and figures of a visit or a participant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from msapp.bids.dataset import uri
from msapp.bids.names import (
    contrast_entities,
    derivative_path,
    figure_path,
    participant_path,
)
from msapp.bids.query import Visit
from msapp.interfaces import figures, outputs
from msapp.models.registry import ModelSpec
from msapp.settings import Settings
from msapp.stats.columns import VISITS
from msapp.stats.tables import TABLES
from msapp.workflows.nodes import make_sink, safe_name

MNI = 'MNI152NLin2009aSym'
# Of --brain-extraction: the method that also tells the zones of the brain.
NETWORK = 'network'
# Sinks that write a JSON file beside their own.
WITH_SIDECAR = (
    outputs.SaveImage,
    outputs.SaveTransform,
    outputs.SaveTable,
    outputs.SaveSummary,
)

Source = tuple[pe.Node, str]


def model_metadata(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of a sidecar that say which model made the file."""
    return {
        'Model': spec.name,
        'ModelVersion': spec.version,
        'ModelSHA256': spec.weights_sha256,
        'TrainedOnSyntheticDataOnly': spec.training.synthetic_only,
    }


@dataclass(frozen=True)
class Sinks:
    """Adds to a workflow nodes that write files.

    Attributes
    ----------
    workflow : nipype.Workflow
        The participant's; gets the sinks.
    settings : Settings
    participant : str
        Label with prefix.
    """

    workflow: pe.Workflow
    settings: Settings
    participant: str

    @property
    def prefix(self) -> str:
        """What the names of the nodes and workflows begin with."""
        return 'all'

    def _path(self, **entities: str) -> Path:
        return participant_path(self.participant, **entities)

    def _add(self, interface: Any, name: str, path: Path, *others: Path, **inputs: Any) -> pe.Node:
        """Add a sink for some files."""
        files = [path, *others]
        if isinstance(interface, WITH_SIDECAR):
            files.append(path.with_name(path.name.split('.')[0] + '.json'))
        output_dir = self.settings.output_dir
        node = make_sink(
            interface,
            f'{self.prefix}_{name}',
            [output_dir / file for file in files],
            output_dir=str(output_dir),
            name=path.as_posix(),
            others=[file.as_posix() for file in files[1:]],
            **inputs,
        )
        self.workflow.add_nodes([node])
        return node

    def table(self, source: Source, kind: str, common: dict[str, Any]) -> None:
        """Write a table; ``kind`` is one of `msapp.stats.tables.TABLES`."""
        path = self._path(desc=kind, suffix='stats', extension='.tsv')
        node = self._add(
            outputs.SaveTable(),
            f'save_table_{kind}',
            path,
            kind=kind,
            common=common,
            columns=list(TABLES[kind]),
        )
        self.workflow.connect(*source, node, 'rows')


@dataclass(frozen=True)
class ParticipantSinks(Sinks):
    """Adds the nodes that write what is of no single visit."""

    def timeline(self, tracks: Source, visits: Sequence[Visit]) -> None:
        """Draw number and volume of lesions over the visits."""
        path = figure_path(
            self.participant, None, desc='timeline', suffix='FLAIR', extension='.png'
        )
        node = self._add(
            figures.DrawTimeline(),
            'draw_timeline',
            path,
            visits=[visit.name for visit in visits],
            acq_times=[visit.acq_time or '' for visit in visits],
        )
        self.workflow.connect(*tracks, node, 'tracks')


@dataclass(frozen=True)
class VisitSinks(Sinks):
    """Adds the nodes that write one visit's files.

    Attributes
    ----------
    visit : Visit
    space_reference : str
        BIDS URI of the image that defines ``individual``.
    """

    visit: Visit
    space_reference: str

    @property
    def prefix(self) -> str:
        """What the names of this visit's nodes and workflows begin with."""
        return safe_name(self.visit.session or 'visit')

    def _path(self, **entities: str) -> Path:
        return derivative_path(self.participant, self.visit.session, **entities)

    def raw(self, contrast: str, visit: Visit | None = None) -> str:
        """Return the BIDS URI of an image of the input."""
        image = (visit or self.visit).images[contrast]
        return uri(image, self.settings.bids_dir, self.settings.output_dir)

    def _spatial_reference(self, space: str) -> str:
        return {
            'orig': self.raw(self.visit.reference),
            'individual': self.space_reference,
            MNI: MNI,
        }[space]

    def image(
        self,
        source: Source,
        *,
        space: str,
        contrasts: tuple[str, ...] = (),
        since: Visit | None = None,
        metadata: dict[str, Any] | None = None,
        found: Source | None = None,
        **entities: str,
    ) -> None:
        """Write an image with its sidecar.

        Parameters
        ----------
        source : tuple of Node and str
            The node and its output.
        space : str
            ``orig``, ``individual`` or MNI.
        contrasts : tuple of str
            Contrasts it was made from, for ``Sources``, unless ``metadata`` names others.
        since : Visit, optional
            An earlier visit it was made from too: the same contrasts.
        metadata : dict, optional
            More keys of the sidecar.
        found : tuple of Node and str, optional
            Gives further keys, known once steps have run.
        **entities : str
            For the name; ``suffix`` is needed.
        """
        path = self._path(space=space, extension='.nii.gz', **entities)
        sidecar = {
            'Sources': [
                self.raw(contrast, visit)
                for visit in ([since, self.visit] if since else [self.visit])
                for contrast in contrasts
            ],
            'SpatialReference': self._spatial_reference(space),
            'SkullStripped': False,
            **(metadata or {}),
        }
        start = '_'.join(filter(None, (self.participant, self.visit.session)))
        name = safe_name(path.name.removesuffix('.nii.gz').removeprefix(start))
        node = self._add(outputs.SaveImage(), f'save{name}', path, metadata=sidecar)
        self.workflow.connect(*source, node, 'in_file')
        if found is not None:
            self.workflow.connect(*found, node, 'found')

    def transform(
        self, source: Source, *, origin: str, target: str, image: str, **entities: str
    ) -> None:
        """Write a transform that resamples images of ``origin``, as ``image``, onto ``target``."""
        path = self._path(
            **{'from': origin, 'to': target, 'mode': 'image'},
            suffix='xfm',
            extension='.txt',
            **entities,
        )
        sidecar = {
            'FromFile': image,
            'Description': f'ITK text transform for antsApplyTransforms: resamples an image of '
            f'{origin} onto the grid of {target}. World coordinates, mm.',
        }
        name = f'save_from_{origin}{"_ce" if entities else ""}_to_{target}'
        node = self._add(outputs.SaveTransform(), name, path, metadata=sidecar)
        self.workflow.connect(*source, node, 'in_file')

    def lookup(self, source: Source, **entities: str) -> None:
        """Write the TSV that names the labels of a ``dseg`` image."""
        path = self._path(suffix='dseg', extension='.tsv', **entities)
        node = self._add(outputs.SaveLookup(), f'save_lookup_{entities["desc"]}', path)
        self.workflow.connect(*source, node, 'rows')

    def names(self, desc: str, names: Sequence[str]) -> None:
        """Write the TSV that names the classes of a ``dseg`` image, from 0 on."""
        path = self._path(space='individual', desc=desc, suffix='dseg', extension='.tsv')
        self._add(outputs.SaveNames(), f'save_lookup_{desc}', path, names=list(names))

    def summary(self, sources: dict[str, Source], common: dict[str, Any]) -> None:
        """Write the visit's numbers, measured by the nodes of ``sources``."""
        path = self._path(desc='summary', suffix='stats', extension='.tsv')
        node = self._add(
            outputs.SaveSummary(), 'save_summary', path, common=common, columns=list(VISITS)
        )
        for field, source in sources.items():
            self.workflow.connect(*source, node, field)

    def _figure_path(self, description: str, contrast: str, extension: str = '.png') -> Path:
        return figure_path(
            self.participant,
            self.visit.session,
            desc=description,
            extension=extension,
            **contrast_entities(contrast),
        )

    def mosaic(
        self,
        image: Source,
        brain_mask: Source,
        *,
        description: str,
        contrast: str,
        title: str,
        outlined: Source | None = None,
        kind: str = 'brain',
    ) -> None:
        """Draw slices of a contrast, with the outline of a mask if one is given."""
        path = self._figure_path(description, contrast)
        node = self._add(
            figures.DrawMosaic(), f'draw_{description}_{contrast}', path, title=title, kind=kind
        )
        self.workflow.connect(*image, node, 'image')
        self.workflow.connect(*brain_mask, node, 'brain_mask')
        if outlined is not None:
            self.workflow.connect(*outlined, node, 'outlined')

    def zones(
        self, image: Source, zones: Source, brain_mask: Source, *, contrast: str, title: str
    ) -> None:
        """Draw the zones over a contrast."""
        path = self._figure_path('zones', contrast)
        node = self._add(figures.DrawZones(), 'draw_zones', path, title=title)
        self.workflow.connect(*image, node, 'image')
        self.workflow.connect(*zones, node, 'zones')
        self.workflow.connect(*brain_mask, node, 'brain_mask')

    def uncertainty(
        self, image: Source, found: pe.Workflow, brain_mask: Source, *, contrast: str, title: str
    ) -> None:
        """Draw the lesions by how sure the network is of them."""
        path = self._figure_path('uncertainty', contrast)
        node = self._add(figures.DrawUncertainty(), 'draw_uncertainty', path, title=title)
        self.workflow.connect(*image, node, 'image')
        self.workflow.connect(found, 'outputnode.labels', node, 'labels')
        self.workflow.connect(found, 'outputnode.entropy', node, 'entropy')
        self.workflow.connect(*brain_mask, node, 'brain_mask')

    def checkerboard(
        self,
        first: Source,
        second: Source,
        brain_mask: Source,
        *,
        description: str,
        contrast: str,
        labels: tuple[str, str],
    ) -> None:
        """Draw two aligned images in alternate tiles."""
        path = self._figure_path(description, contrast)
        node = self._add(
            figures.DrawCheckerboard(), f'draw_{description}_{contrast}', path, labels=labels
        )
        self.workflow.connect(*first, node, 'first')
        self.workflow.connect(*second, node, 'second')
        self.workflow.connect(*brain_mask, node, 'brain_mask')

    def flicker(
        self,
        first: Source,
        second: Source,
        brain_mask: Source,
        focus: Source,
        labels: tuple[str, str],
    ) -> None:
        """Draw two visits in turn."""
        after = self._figure_path('after', 'FLAIR')
        node = self._add(
            figures.DrawFlicker(),
            'draw_flicker',
            self._figure_path('before', 'FLAIR'),
            after,
            labels=labels,
            second_name=after.as_posix(),
        )
        self.workflow.connect(*first, node, 'first')
        self.workflow.connect(*second, node, 'second')
        self.workflow.connect(*brain_mask, node, 'brain_mask')
        self.workflow.connect(*focus, node, 'focus')

    def regions(
        self,
        first: Source,
        second: Source,
        brain_mask: Source,
        regions: tuple[Source, Source | None],
        labels: tuple[str, str],
        *,
        kind: str,
    ) -> None:
        """Draw the largest regions of a label image, with where they lie if a table says so.

        ``kind`` is one of `msapp.interfaces.figures.REGIONS`.
        """
        path = self._figure_path(kind, 'FLAIR')
        node = self._add(figures.DrawRegions(), f'draw_{kind}', path, labels=labels, kind=kind)
        self.workflow.connect(*first, node, 'first')
        self.workflow.connect(*second, node, 'second')
        self.workflow.connect(*brain_mask, node, 'brain_mask')
        self.workflow.connect(*regions[0], node, 'regions')
        if regions[1] is not None:
            self.workflow.connect(*regions[1], node, 'rows')

    def changes(
        self,
        first: Source,
        second: Source,
        brain_mask: Source,
        changes: Mapping[str, Source],
        labels: tuple[str, str],
    ) -> None:
        """Draw what became of lesions: all on the later visit, and the new ones beside before.

        ``changes`` gives ``classes`` and ``rows`` of `msapp.interfaces.course.TakePair`, and
        instances and table of the later visit's lesions as ``lesions`` and ``lesion_rows``.
        """
        map_path = self._figure_path('changemap', 'FLAIR')
        title = f'{labels[1]}: lesions since {labels[0]}'
        drawn = self._add(figures.DrawChangeMap(), 'draw_changemap', map_path, title=title)
        self.workflow.connect(*second, drawn, 'image')
        self.workflow.connect(*brain_mask, drawn, 'brain_mask')
        self.workflow.connect(*changes['classes'], drawn, 'classes')
        path = self._figure_path('newlesions', 'FLAIR')
        panel = self._add(figures.DrawNewLesions(), 'draw_newlesions', path, labels=labels)
        self.workflow.connect(*first, panel, 'first')
        self.workflow.connect(*second, panel, 'second')
        self.workflow.connect(*brain_mask, panel, 'brain_mask')
        for field in ('rows', 'lesions', 'lesion_rows'):
            self.workflow.connect(*changes[field], panel, field)

    def viewer(
        self, image: Source, mask: Source, brain_mask: Source, *, contrast: str, title: str
    ) -> None:
        """Draw the interactive viewer of a contrast."""
        path = self._figure_path('viewer', contrast, '.html')
        node = self._add(figures.DrawViewer(), 'draw_viewer', path, title=title)
        self.workflow.connect(*image, node, 'image')
        self.workflow.connect(*mask, node, 'mask')
        self.workflow.connect(*brain_mask, node, 'brain_mask')
