"""One visit: what is estimated on its own images, and what is resampled into ``individual``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.names import contrast_entities
from msapp.bids.query import Visit
from msapp.imaging.tissue import ZONES
from msapp.interfaces import imaging
from msapp.interfaces.lesions import MeasureNoise
from msapp.models.registry import ModelSpec, models_for
from msapp.settings import Settings
from msapp.workflows.nodes import LARGE_GB, SMALL_GB, make_network_node, make_node, safe_name
from msapp.workflows.outputs import MNI, NETWORK, VisitSinks, model_metadata

TISSUES = ('brain', 'white_matter', 'grey_matter')
PREPARED = ('preproc', 'xfm', 'metadata')
BRAIN_FIELDS = (*TISSUES, 'from_mni', 'measures', 'metadata')

FIT_METHODS = """\
Images were corrected for the receive field with N4 (Tustison et al., IEEE TMI 2010) and other
contrasts were registered rigidly to the {reference} of their visit with ANTs (Avants et al.,
NeuroImage 2011; Mattes mutual information). The brain mask was found by {brain}. An image that was
skull-stripped already kept its own mask. """
BRAIN_METHODS = {
    'template': 'laying MNI152NLin2009aSym (Fonov et al., NeuroImage 2011) into the head (rigid '
    'to affine, then a coarse SyN; Avants et al., Med Image Anal 2008)',
    'bet': 'FSL BET (Smith, Hum Brain Mapp 2002)',
    NETWORK: "the network '{name}' {version}, which tells zones of the brain apart on an image of "
    'any contrast (trained on images drawn from label maps of heads, after Billot et al., Med '
    'Image Anal 2023{real}); MNI152NLin2009aSym (Fonov et al., NeuroImage 2011) was registered to '
    'it affinely',
}


def brain_methods(settings: Settings) -> str:
    """Return how the brain is found, for the sentence of `FIT_METHODS`."""
    text = BRAIN_METHODS[settings.brain_extraction]
    spec = _anatomy_model(settings)
    if spec is not None:
        real = '' if spec.training.synthetic_only else ', and on real heads with manual brain masks'
        text = text.format(name=spec.name, version=spec.version, real=real)
    if settings.derivatives:
        text += '; where a mask was given with --derivatives, that was taken'
    return text


def carried(settings: Settings) -> tuple[str, ...]:
    """Return the outputs of the fit of a visit that its second graph brings elsewhere."""
    return (*TISSUES, 'zones') if settings.brain_extraction == NETWORK else TISSUES


def _anatomy_model(settings: Settings) -> ModelSpec | None:
    return models_for(settings).get('anatomy')


def init_visit_fit_wf(
    *, visit: Visit, settings: Settings, given_mask: Path | None = None
) -> pe.Workflow:
    """Build the graph that estimates masks and transforms on one visit's own grids.

    Workflow Graph
        conform -> N4, for each contrast; zones by a network, where it is asked for, and brain
        extraction on the reference contrast (FLAIR, else T1w); rigid registration of each other
        contrast to the reference.

    Parameters
    ----------
    visit : Visit
    settings : Settings
    given_mask : Path, optional
        Brain mask on the reference grid, to use in place of one estimated here.

    Outputs
    -------
    n4_<contrast>
        Bias-corrected image on its own grid.
    to_reference_<contrast>
        Transform that resamples it onto the reference (not for the reference itself).
    brain, white_matter, grey_matter, from_mni, measures, metadata
        Of `msapp.interfaces.imaging.ExtractBrain`.
    zones
        Of `msapp.interfaces.imaging.SegmentAnatomy`, with ``--brain-extraction network``.
    """
    workflow = pe.Workflow(name=f'{safe_name(visit.session or "visit")}_fit_wf')
    others = [contrast for contrast in visit.images if contrast != visit.reference]
    fields = [f'n4_{contrast}' for contrast in visit.images]
    fields += [f'to_reference_{contrast}' for contrast in others]
    outputnode = pe.Node(
        niu.IdentityInterface([*fields, *BRAIN_FIELDS, 'zones']),
        name='outputnode',
    )
    corrected: dict[str, pe.Node] = {}
    for contrast, path in visit.images.items():
        conform = make_node(imaging.ConformImage(), f'conform_{contrast}', in_file=str(path))
        corrected[contrast] = make_node(
            imaging.CorrectBias(), f'bias_{contrast}', sloppy=settings.sloppy
        )
        workflow.connect(conform, 'out_file', corrected[contrast], 'in_file')
        workflow.connect(corrected[contrast], 'out_file', outputnode, f'n4_{contrast}')
    brain = make_node(
        imaging.ExtractBrain(),
        'brain_extraction',
        mem_gb=LARGE_GB,
        method=settings.brain_extraction,
        seed=settings.random_seed,
        sloppy=settings.sloppy,
    )
    if given_mask is not None:
        brain.inputs.given_mask = str(given_mask)
    workflow.connect(corrected[visit.reference], 'out_file', brain, 'in_file')
    if spec := _anatomy_model(settings):
        zones = make_network_node(imaging.SegmentAnatomy(), 'zones', spec)
        brain.inputs.model = model_metadata(spec)
        workflow.connect(corrected[visit.reference], 'out_file', zones, 'in_file')
        workflow.connect(zones, 'zones', brain, 'zones')
        workflow.connect(zones, 'zones', outputnode, 'zones')
    for field in BRAIN_FIELDS:
        workflow.connect(brain, field, outputnode, field)
    for contrast in others:
        register = make_node(
            imaging.Register(),
            f'register_{contrast}',
            seed=settings.random_seed,
            sloppy=settings.sloppy,
        )
        workflow.connect(corrected[visit.reference], 'out_file', register, 'fixed')
        workflow.connect(corrected[contrast], 'out_file', register, 'moving')
        workflow.connect(brain, 'brain', register, 'fixed_brain')
        workflow.connect(register, 'transform', outputnode, f'to_reference_{contrast}')
    return workflow


def init_visit_apply_wf(*, visit: Visit, settings: Settings) -> pe.Workflow:
    """Build the graph that brings one visit into ``individual``.

    Workflow Graph
        For each contrast: compose its transforms -> one interpolation, normalisation; brain masks
        in both spaces; noise and alignment measures.

    Parameters
    ----------
    visit : Visit
    settings : Settings

    Inputs
    ------
    to_individual, to_mni
        Transforms of `msapp.interfaces.imaging.FindMidpoint`.
    n4_<contrast>, to_reference_<contrast>, brain, white_matter, grey_matter, zones
        Outputs of :func:`init_visit_fit_wf`; ``zones`` where a network tells them.

    Outputs
    -------
    preproc_<contrast>, xfm_<contrast>, metadata_<contrast>
        Normalised image in ``individual``, the transform that took it there, and keys of its
        sidecar.
    brain_mask, brain_mask_orig, white_matter, grey_matter
        Masks in ``individual`` and ``orig``; tissue probabilities in ``individual``.
    zones
        The likeliest zone of each voxel in ``individual``, where a network tells them.
    measures_brain, measures_noise, alignment_<contrast>
        Numbers for the summary.
    """
    workflow = pe.Workflow(name=f'{safe_name(visit.session or "visit")}_wf')
    taken = carried(settings)
    others = [contrast for contrast in visit.images if contrast != visit.reference]
    inputnode = pe.Node(
        niu.IdentityInterface(
            ['to_individual', 'to_mni', *taken]
            + [f'n4_{contrast}' for contrast in visit.images]
            + [f'to_reference_{contrast}' for contrast in others]
        ),
        name='inputnode',
    )
    outputnode = pe.Node(
        niu.IdentityInterface(
            ['brain_mask', 'brain_mask_orig', 'white_matter', 'grey_matter', 'zones']
            + ['measures_brain', 'measures_noise']
            + [f'{kind}_{contrast}' for contrast in visit.images for kind in PREPARED]
            + [f'alignment_{contrast}' for contrast in others]
        ),
        name='outputnode',
    )
    masks, noise = _add_masks(workflow, inputnode, outputnode, taken, visit.reference)
    prepared = {
        contrast: _add_contrast(workflow, inputnode, outputnode, masks, contrast, visit.reference)
        for contrast in visit.images
    }
    reference = prepared[visit.reference]
    workflow.connect(reference, 'out_file', noise, 'reference')
    for contrast in others:
        alignment = _add_alignment(workflow, reference, prepared[contrast], contrast)
        workflow.connect(masks, 'individual', alignment, 'brain_mask')
        workflow.connect(alignment, 'measures', outputnode, f'alignment_{contrast}')
    return workflow


def _add_masks(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    outputnode: pe.Node,
    taken: tuple[str, ...],
    reference: str,
) -> tuple[pe.Node, pe.Node]:
    """Add the nodes that bring masks into both spaces and that measure noise; return both."""
    masks = make_node(imaging.BrainMasks(), 'brain_masks')
    noise = make_node(MeasureNoise(), 'noise')
    workflow.connect(
        [
            (
                inputnode,
                masks,
                [
                    *((name, name) for name in taken),
                    (f'n4_{reference}', 'reference'),
                    ('to_individual', 'to_individual'),
                ],
            ),
            (masks, noise, [('individual', 'brain_mask'), ('white_matter', 'white_matter')]),
            (noise, outputnode, [('measures', 'measures_noise')]),
            (
                masks,
                outputnode,
                [
                    ('individual', 'brain_mask'),
                    ('orig', 'brain_mask_orig'),
                    ('white_matter', 'white_matter'),
                    ('grey_matter', 'grey_matter'),
                    ('zones', 'zones'),
                    ('measures', 'measures_brain'),
                ],
            ),
        ]
    )
    return masks, noise


def _add_alignment(
    workflow: pe.Workflow, reference: pe.Node, other: pe.Node, contrast: str
) -> pe.Node:
    """Add the node that measures how well a contrast lies on the reference."""
    alignment = make_node(
        imaging.MeasureAlignment(), f'alignment_{contrast}', column=f'{contrast}_alignment'
    )
    workflow.connect(reference, 'out_file', alignment, 'first')
    workflow.connect(other, 'out_file', alignment, 'second')
    return alignment


def _add_contrast(
    workflow: pe.Workflow,
    inputnode: pe.Node,
    outputnode: pe.Node,
    masks: pe.Node,
    contrast: str,
    reference: str,
) -> pe.Node:
    """Add the nodes that bring one contrast into ``individual``."""
    prepare = make_node(imaging.PrepareContrast(), f'to_individual_{contrast}')
    transform: tuple[Any, str] = (inputnode, 'to_individual')
    if contrast != reference:
        compose = make_node(imaging.ComposeTransforms(), f'compose_{contrast}', mem_gb=SMALL_GB)
        workflow.connect(inputnode, 'to_individual', compose, 'to_individual')
        workflow.connect(inputnode, f'to_reference_{contrast}', compose, 'to_reference')
        transform = (compose, 'out_file')
    workflow.connect(*transform, prepare, 'to_individual')
    workflow.connect(*transform, outputnode, f'xfm_{contrast}')
    workflow.connect(inputnode, f'n4_{contrast}', prepare, 'in_file')
    workflow.connect(masks, 'individual', prepare, 'brain_mask')
    workflow.connect(masks, 'white_matter', prepare, 'white_matter')
    workflow.connect(prepare, 'out_file', outputnode, f'preproc_{contrast}')
    workflow.connect(prepare, 'metadata', outputnode, f'metadata_{contrast}')
    return prepare


def add_visit_outputs(fit: pe.Workflow, applied: pe.Workflow, sinks: VisitSinks) -> None:
    """Write one visit's images, masks, transforms and figures.

    Parameters
    ----------
    fit, applied : nipype.Workflow
        Of :func:`init_visit_fit_wf` and :func:`init_visit_apply_wf`.
    sinks : VisitSinks
    """
    visit = sinks.visit
    reference = visit.reference
    spec = _anatomy_model(sinks.settings)

    def out(field: str) -> tuple[Any, str]:
        return applied, f'outputnode.{field}'

    for space, field in (('orig', 'brain_mask_orig'), ('individual', 'brain_mask')):
        if space in sinks.settings.output_spaces or space == 'individual':
            sinks.image(
                out(field),
                space=space,
                contrasts=(reference,),
                desc='brain',
                suffix='mask',
                metadata={'Type': 'Brain'},
                found=(fit, 'outputnode.metadata'),
            )
    if spec is not None:
        _add_zones(out, sinks, spec)
    for contrast in visit.images:
        _add_image(out, sinks, contrast)
    sinks.transform(
        (applied, 'inputnode.to_mni'),
        origin='individual',
        target=MNI,
        image=sinks.space_reference,
    )
    sinks.mosaic(
        out(f'preproc_{reference}'),
        out('brain_mask'),
        description='brain',
        contrast=reference,
        title=f'{visit.name}: brain mask on {reference}',
        outlined=out('brain_mask'),
    )


def _add_image(out: Callable[[str], tuple[Any, str]], sinks: VisitSinks, contrast: str) -> None:
    """Write one contrast's image, transform and figures."""
    visit, reference = sinks.visit, sinks.visit.reference
    entities = contrast_entities(contrast)
    sinks.image(
        out(f'preproc_{contrast}'),
        space='individual',
        contrasts=(contrast,),
        desc='preproc',
        metadata={'Normalization': 'mode of white matter is 1'},
        found=out(f'metadata_{contrast}'),
        **entities,
    )
    agent = {'ceagent': entities['ceagent']} if 'ceagent' in entities else {}
    origin = 'orig' if contrast == reference else entities['suffix']
    sinks.transform(
        out(f'xfm_{contrast}'),
        origin=origin,
        target='individual',
        image=sinks.raw(contrast),
        **agent,
    )
    sinks.mosaic(
        out(f'preproc_{contrast}'),
        out('brain_mask'),
        description='mosaic',
        contrast=contrast,
        title=f'{visit.name}: {contrast}',
    )
    if contrast != reference:
        sinks.checkerboard(
            out(f'preproc_{reference}'),
            out(f'preproc_{contrast}'),
            out('brain_mask'),
            description='alignment',
            contrast=contrast,
            labels=(reference, contrast),
        )


def _add_zones(out: Callable[[str], tuple[Any, str]], sinks: VisitSinks, spec: ModelSpec) -> None:
    """Write the zones, their names and their figure."""
    reference = sinks.visit.reference
    sinks.image(
        out('zones'),
        space='individual',
        contrasts=(reference,),
        desc='zones',
        suffix='dseg',
        metadata={'Type': 'Region'} | model_metadata(spec),
    )
    sinks.names('zones', ZONES)
    sinks.zones(
        out(f'preproc_{reference}'),
        out('zones'),
        out('brain_mask'),
        contrast=reference,
        title=f"{sinks.visit.name}: zones by the network '{spec.name}' on {reference}",
    )
