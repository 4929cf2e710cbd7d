"""Two consecutive visits: new lesions by a network."""

from __future__ import annotations

from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.names import since_label
from msapp.bids.query import Visit
from msapp.inference import newlesions as growth
from msapp.interfaces.newlesions import CheckDetector, SegmentNewLesions
from msapp.lesions import candidates
from msapp.models.registry import HYBRID, ModelSpec, confirming_model, models_for
from msapp.settings import Settings
from msapp.synthesis import injection
from msapp.workflows.lesions import SYNTHETIC_ONLY, add_mask_to_orig, network_metadata
from msapp.workflows.nodes import make_network_node
from msapp.workflows.outputs import VisitSinks, model_metadata

METHODS = """\
New and enlarged lesions were segmented from both FLAIRs, the earlier one registered (affine) to the
later one and each scaled by its white matter, by the network '{name}' {version}, where the
probability is at least {threshold:g}, in regions of at least {minimum:g}
mm3.{synthetic}{confirmed}{grown}
With the visits exchanged the lesions that are gone were found in the same way. """
CONFIRMED_METHODS = f"""\
 A region counts where the network '{{name}}' {{version}}{{synthetic}}, from FLAIR alone, finds
lesion at the later visit (a probability of at least {growth.LIKELY:g}), where the odds that it
is new are at least {growth.LEAST_ODDS_RATIO:g} times those that it was one at the earlier visit,
where the earlier FLAIR is at least {growth.LEAST_TISSUE:g} times as bright as white matter (fluid
that shines is left out), and where that lesion holds, once the region has grown, at least
{growth.LEAST_MM3:g} mm3 of it times the variance (robust, white matter being 1) of either FLAIR
where the other is as bright as there."""
SYNTHETIC_TOO = ' (trained on synthetic images alone)'
GROWN_METHODS = f"""\
 Those of at least {growth.LEAST_GROWING_MM3:g} mm3 grow by up to {{reach:g}} mm{{within}}, to where
they have brightened by {100 * growth.HALF:.0f} % of their median and the later FLAIR is at least
{growth.LEAST_BRIGHTNESS:g} times as bright as white matter."""
HYBRID_METHODS = f"""\
It looks at patches about candidate regions alone (hybrid method, MSSEG-2 workshop, MICCAI 2021):
regions of at least {candidates.MINIMUM_MM3:g} mm3 that are more than
{100 * (candidates.RATIO - 1):.0f} % brighter than before, in {candidates.GREY_LEVELS} grey levels
after histogram matching; where patches overlap, the nearest centre counts. """
CHECK_METHODS = f"""\
For the self-check, up to {injection.EACH} lesions of each of the diameters
{', '.join(f'{size:g}' for size in injection.DIAMETERS_MM)} mm (of a sphere of the same volume),
{injection.BRIGHTNESS[0]:g} to {injection.BRIGHTNESS[1]:g} times as bright as white matter, were
painted into the later FLAIR, begun in certain white matter that is bright at neither visit,
averaged over its voxels, and sought again; one is recovered where at least
{100 * injection.LEAST_MARKED:.0f} % of its volume is marked. """
FIELDS = (
    'previous',
    'current',
    'previous_to_current',
    'current_to_individual',
    'previous_white_matter',
    'previous_brain',
    'current_mask',
)
OUTPUTS = ('mask', 'gone', 'probability', 'labels', 'rows', 'measures')
# Of the self-check.
CHECKS = {'rows': 'check_rows', 'image': 'check_image', 'examples': 'check_examples'}


def methods(settings: Settings) -> str:
    """Return the sentences of the report about how new lesions are found."""
    spec = models_for(settings).get('longitudinal')
    if spec is None:
        return ''
    text = METHODS.format(
        name=spec.name,
        version=spec.version,
        threshold=spec.threshold,
        minimum=spec.minimum_mm3,
        synthetic=SYNTHETIC_ONLY if spec.training.synthetic_only else '',
        confirmed=_confirmed_methods(spec),
        grown='' if spec.architecture.name == HYBRID else _grown_methods(spec),
    )
    if spec.architecture.name == HYBRID:
        text += HYBRID_METHODS
    return text + CHECK_METHODS if settings.self_check else text


def _grown_methods(spec: ModelSpec) -> str:
    if spec.confirmed_by is None:
        return GROWN_METHODS.format(reach=growth.REACH_MM, within='')
    within = f" within what '{spec.confirmed_by}' finds at the later visit alone"
    return GROWN_METHODS.format(reach=growth.CONFIRMED_REACH_MM, within=within)


def _confirmed_methods(spec: ModelSpec) -> str:
    confirming = confirming_model(spec)
    if confirming is None:
        return ''
    return CONFIRMED_METHODS.format(
        name=confirming.name,
        version=confirming.version,
        synthetic=SYNTHETIC_TOO if confirming.training.synthetic_only else '',
    )


def init_new_lesions_wf(*, name: str, settings: Settings) -> pe.Workflow:
    """Build the graph that finds new lesions between two visits.

    Workflow Graph
        both FLAIRs -> network -> mask in ``orig``; with ``--self-check``, lesions painted into the
        later FLAIR -> network.

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
    previous_brain, previous_white_matter
        Probabilities, on the same grid.
    current
        FLAIR of the later visit in ``individual``, the mode of white matter scaled to 1.
    previous_to_current, current_to_individual, to_mni
        Transforms.
    current_white_matter, current_mask
        In ``individual``.
    reference
        Bias-corrected FLAIR of the later visit on its own grid.

    Outputs
    -------
    mask, gone, probability, labels, rows, measures
        Of `msapp.interfaces.newlesions.SegmentNewLesions`.
    check_rows, check_image, check_examples
        Of `msapp.interfaces.newlesions.CheckDetector`.
    mask_orig
        The mask on the later visit's own grid.
    """
    workflow = pe.Workflow(name=name)
    inputs = [*FIELDS, 'to_mni', 'reference', 'current_white_matter']
    inputnode = pe.Node(niu.IdentityInterface(inputs), name='inputnode')
    outputs = [*OUTPUTS, *(CHECKS.values() if settings.self_check else ()), 'mask_orig']
    outputnode = pe.Node(niu.IdentityInterface(outputs), name='outputnode')
    spec = models_for(settings)['longitudinal']
    find = make_network_node(SegmentNewLesions(), 'segment_new_lesions', spec, flips=settings.flips)
    workflow.connect(
        [
            (inputnode, find, [(field, field) for field in (*FIELDS, 'to_mni')]),
            (find, outputnode, [(field, field) for field in OUTPUTS]),
        ]
    )
    if 'orig' in settings.output_spaces:
        add_mask_to_orig(workflow, (find, 'mask'), to_individual='current_to_individual')
    if settings.self_check:
        check = make_network_node(
            CheckDetector(),
            'check_detector',
            spec,
            flips=settings.flips,
            seed=settings.random_seed,
        )
        taken = {'reference': 'scan', 'current_white_matter': 'current_white_matter'}
        taken |= {field: field for field in FIELDS}
        workflow.connect(
            [
                (inputnode, check, list(taken.items())),
                (find, check, [('mask', 'found')]),
                (check, outputnode, list(CHECKS.items())),
            ]
        )
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
    before_name, description = since.session or '', since_label(since.session)
    method = network_metadata(spec, sinks.settings) | {'ComparedWith': before_name}
    instances: dict[str, Any] = {'desc': f'newlesions{description}', 'suffix': 'dseg'}
    confirmed = method | _confirmation(spec)
    files: list[tuple[str, str, dict[str, Any]]] = [
        ('individual', 'mask', {'label': 'new', 'desc': description, 'suffix': 'mask'}),
        ('individual', 'gone', {'label': 'gone', 'desc': description, 'suffix': 'mask'}),
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
            metadata=method if field == 'probability' else confirmed,
            **entities,
        )
    sinks.lookup(out('rows'), space='individual', desc=instances['desc'])
    sinks.table(out('rows'), 'newlesions', common)
    before, now = (previous, 'outputnode.preproc_FLAIR'), (current, 'outputnode.preproc_FLAIR')
    brain = current, 'outputnode.brain_mask'
    names = before_name, sinks.visit.name
    sinks.regions(before, now, brain, (out('labels'), out('rows')), names, kind='detected')
    sinks.mosaic(
        now,
        brain,
        description='detectedmosaic',
        contrast='FLAIR',
        title=f'{sinks.visit.name}: new or enlarged since {before_name}, '
        f"by the network '{spec.name}'",
        outlined=out('mask'),
        kind='new',
    )
    if not sinks.settings.self_check:
        return
    sinks.table(out('check_rows'), 'selfcheck', common)
    sinks.regions(
        now,
        out('check_image'),
        brain,
        (out('check_examples'), None),
        ('as it is', 'with painted lesions'),
        kind='selfcheck',
    )


def _confirmation(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of sidecars that say how what a network marks was confirmed."""
    confirming = confirming_model(spec)
    if confirming is None:
        return {}
    limits = {
        'LeastProbability': growth.LIKELY,
        'LeastOddsRatio': growth.LEAST_ODDS_RATIO,
        'LeastBrightnessBefore': growth.LEAST_TISSUE,
        'LeastVolumeMM3PerVariance': growth.LEAST_MM3,
    }
    return {'ConfirmedBy': model_metadata(confirming) | limits}
