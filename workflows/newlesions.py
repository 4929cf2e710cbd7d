"""Two consecutive visits: new lesions by a network."""

from __future__ import annotations

from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.query import Visit
from msapp.interfaces.newlesions import SegmentNewLesions
from msapp.models.registry import models_for
from msapp.settings import Settings
from msapp.workflows.lesions import SYNTHETIC_ONLY, add_mask_to_orig
from msapp.workflows.outputs import VisitSinks, make_network_node, model_metadata

METHODS = """\
New and enlarged lesions were segmented from both FLAIRs, the earlier one registered (affine) to the
later one and each scaled by its white matter, by the network '{name}' {version}, where the
probability is at least {threshold:g}, in regions of at least {minimum:g} mm3.{synthetic} """
FIELDS = (
    'previous',
    'current',
    'previous_to_current',
    'current_to_individual',
    'previous_white_matter',
    'previous_mask',
    'current_mask',
    'to_mni',
)
OUTPUTS = ('mask', 'probability', 'labels', 'rows', 'measures')


def methods(settings: Settings) -> str:
    """Return the sentences of the report about how new lesions are found."""
    spec = models_for(settings).get('longitudinal')
    if spec is None:
        return ''
    return METHODS.format(
        name=spec.name,
        version=spec.version,
        threshold=spec.threshold,
        minimum=spec.minimum_mm3,
        synthetic=SYNTHETIC_ONLY if spec.training.synthetic_only else '',
    )


def init_new_lesions_wf(*, name: str, settings: Settings) -> pe.Workflow:
    """Build the graph that finds new lesions between two visits.

    Workflow Graph
        both FLAIRs -> network -> mask in ``orig``.

    Parameters
    ----------
    name : str
        Name of the workflow.
    settings : Settings
        With a model for new lesions.

    Inputs
    ------
    previous
        Bias-corrected FLAIR of the earlier visit on its own grid.
    current
        FLAIR of the later visit in ``individual``, the mode of white matter scaled to 1.
    previous_to_current, current_to_individual, to_mni
        Transforms.
    previous_white_matter, previous_mask, current_mask
        In ``individual``.
    reference
        Bias-corrected FLAIR of the later visit on its own grid.

    Outputs
    -------
    mask, probability, labels, rows, measures
        Of `msapp.interfaces.newlesions.SegmentNewLesions`.
    mask_orig
        The mask on the later visit's own grid.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface([*FIELDS, 'reference']), name='inputnode')
    outputnode = pe.Node(niu.IdentityInterface([*OUTPUTS, 'mask_orig']), name='outputnode')
    spec = models_for(settings)['longitudinal']
    find = make_network_node(SegmentNewLesions(), 'segment_new_lesions', spec, flips=settings.flips)
    workflow.connect(
        [
            (inputnode, find, [(field, field) for field in FIELDS]),
            (find, outputnode, [(field, field) for field in OUTPUTS]),
        ]
    )
    if 'orig' in settings.output_spaces:
        back = pe.Node(niu.IdentityInterface(['reference', 'to_individual']), name='later')
        workflow.connect(inputnode, 'reference', back, 'reference')
        workflow.connect(inputnode, 'current_to_individual', back, 'to_individual')
        add_mask_to_orig(workflow, back, (find, 'mask'), outputnode)
    return workflow


def add_new_lesion_outputs(
    found: pe.Workflow,
    previous: pe.Workflow,
    current: pe.Workflow,
    sinks: VisitSinks,
    since: Visit,
    common: dict[str, Any],
) -> None:
    """Write the new lesions of a visit: masks, probability, instances, table, figures.

    Parameters
    ----------
    found : nipype.Workflow
        Of :func:`init_new_lesions_wf`.
    previous, current : nipype.Workflow
        Of `msapp.workflows.session.init_visit_apply_wf`.
    sinks : VisitSinks
        Of the later visit.
    since : Visit
        The earlier visit.
    common : dict
        Columns that all rows of the table share.
    """

    def out(field: str) -> tuple[Any, str]:
        return found, f'outputnode.{field}'

    spec = models_for(sinks.settings)['longitudinal']
    before_name = since.session or ''
    description = f'since{before_name.removeprefix("ses-")}'
    method = {
        'Type': 'Lesion',
        **model_metadata(spec),
        'Threshold': spec.threshold,
        'Temperature': spec.temperature,
        'MinimumVolumeMM3': spec.minimum_mm3,
        'TestTimeFlips': sinks.settings.flips,
        'ComparedWith': before_name,
    }
    instances: dict[str, Any] = {'desc': f'newlesions{description}', 'suffix': 'dseg'}
    files: list[tuple[str, str, dict[str, Any]]] = [
        ('individual', 'mask', {'label': 'new', 'desc': description, 'suffix': 'mask'}),
        ('individual', 'probability', {'label': 'new', 'desc': description, 'suffix': 'probseg'}),
        ('individual', 'labels', instances),
    ]
    if 'orig' in sinks.settings.output_spaces:
        files.append(('orig', 'mask_orig', files[0][2]))
    for space, field, entities in files:
        sinks.image(
            out(field),
            space=space,
            contrasts=('FLAIR',),
            since=since,
            metadata=method,
            **entities,
        )
    sinks.lookup(out('rows'), space='individual', desc=instances['desc'])
    sinks.table(out('rows'), 'newlesions', common)
    before, now = (previous, 'outputnode.preproc_FLAIR'), (current, 'outputnode.preproc_FLAIR')
    brain = current, 'outputnode.brain_mask'
    sinks.regions(before, now, brain, found, (before_name, sinks.visit.name), kind='detected')
    sinks.mosaic(
        now,
        brain,
        description='detectedmosaic',
        contrast='FLAIR',
        title=f'{sinks.visit.name}: new or enlarged since {before_name}, by {spec.name}',
        outlined=out('mask'),
        kind='new',
    )
