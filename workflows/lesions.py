"""Lesions of one visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.query import Visit
from msapp.interfaces.imaging import MaskToGrid
from msapp.interfaces.lesions import UNCERTAINTIES, FindLesions, FindPartial, SegmentLesions
from msapp.lesions import threshold
from msapp.lesions.location import LOCATIONS
from msapp.models.registry import ModelSpec, models_for
from msapp.settings import Settings
from msapp.workflows.nodes import LARGE_GB, make_network_node, make_node
from msapp.workflows.outputs import MNI, NETWORK, Source, VisitSinks, model_metadata

THRESHOLD_METHODS = f"""\
Lesions were found by the baseline 'threshold': FLAIR voxels more than
{threshold.WHITE_MATTER_SD:g} robust standard deviations above the mode of normal-appearing
white matter and more than {threshold.GREY_MATTER_SD:g} above the median of grey matter
(after Souplet et al., MS Lesion Segmentation Challenge, MICCAI 2008), where the atlas sees white
matter, in regions of at least {threshold.MINIMUM_MM3:g} mm3.
It is a baseline for comparison: it misses faint and cortical lesions and takes bright normal
tissue for lesions. """
NETWORK_METHODS = """\
Lesions were segmented from {channels} by the network '{name}' {version}, at 1 mm isotropic in the
individual space, where the probability is at least {threshold:g}, in regions of at least
{minimum:g} mm3.{same}{adapted}{synthetic} """
SAME_CONTRASTS = (
    ' A contrast that the network can do without was left out where it did not show the whole '
    'brain. Of a participant with several visits with FLAIR only contrasts that all of these have, '
    'and that are left out of none, were used, so that their lesions can be compared.'
)
ADAPTED = (
    ' Probabilities were adapted to the share of lesion in each brain (Saerens et al., Neural '
    'Computation 2002).'
)
SYNTHETIC_ONLY = ' It was trained on synthetic images alone.'


def methods(settings: Settings) -> str:
    """Return the sentences of the report about how lesions are found."""
    spec = models_for(settings).get('lesions')
    if spec is None:
        return THRESHOLD_METHODS
    return NETWORK_METHODS.format(
        channels=_name_channels(spec),
        name=spec.name,
        version=spec.version,
        threshold=spec.threshold,
        minimum=spec.minimum_mm3,
        same=SAME_CONTRASTS if any(item.may_be_missing for item in spec.channels) else '',
        adapted='' if spec.prior is None else ADAPTED,
        synthetic=SYNTHETIC_ONLY if spec.training.synthetic_only else '',
    )


def _name_channels(spec: ModelSpec) -> str:
    """Say what a network is given: what it needs, and what it uses where a visit has it."""
    needed = ' and '.join(item.name for item in spec.channels if not item.may_be_missing)
    others = [item.name for item in spec.channels if item.may_be_missing]
    if not needed:
        return (
            f'{" or ".join(others)}, or all that the visit has of them,'
            if others[1:]
            else others[0]
        )
    return f'{needed}, and {" and ".join(others)} where the visit has it,' if others else needed


def can_find_lesions(visit: Visit, settings: Settings) -> bool:
    """Tell whether a visit has what its method needs: FLAIR, or what the network asks for."""
    return not lacking_contrasts(visit, settings)


def lacking_contrasts(visit: Visit, settings: Settings) -> tuple[str, ...]:
    """Return the contrasts without which the lesions of a visit cannot be found."""
    spec = models_for(settings).get('lesions')
    if spec is None:
        return () if 'FLAIR' in visit.images else ('FLAIR',)
    names = tuple(item.name for item in spec.channels)
    needed = tuple(item.name for item in spec.channels if not item.may_be_missing)
    if not needed and not set(names) & set(visit.images):
        return names
    return tuple(name for name in needed if name not in visit.images)


def taken_contrasts(settings: Settings) -> tuple[str, ...]:
    """Return the contrasts that the method takes, where a visit has them."""
    spec = models_for(settings).get('lesions')
    return tuple(item.name for item in spec.channels) if spec else ('FLAIR',)


def used_contrasts(visits: Sequence[Visit], settings: Settings) -> dict[int, tuple[str, ...]]:
    """Return the contrasts that lesions are found from, by the number of the visit, from 0.

    A network finds other lesions with T1w than without. So that those of all visits with FLAIR can
    be compared, it is given only what all of these visits have. Visits whose lesions cannot be
    found are left out.

    Parameters
    ----------
    visits : sequence of Visit
        All of a participant.
    settings : Settings
    """
    taken = taken_contrasts(settings)
    given = {
        number: tuple(name for name in taken if name in visit.images)
        for number, visit in enumerate(visits)
        if can_find_lesions(visit, settings)
    }
    compared = [number for number in given if 'FLAIR' in visits[number].images]
    shared = tuple(name for name in taken if all(name in given[number] for number in compared))
    return given | dict.fromkeys(compared, shared)


def add_partial(
    sinks: Sequence[VisitSinks],
    used: Mapping[int, tuple[str, ...]],
    applied: Sequence[pe.Workflow],
) -> dict[int, Source]:
    """Find which contrasts do not show the whole brain, so that a network is not given them.

    What one visit with FLAIR does not show is used of none of them, so that they can be compared,
    unless nothing would be left: see `msapp.inference.lesions.whole_contrasts`.

    Parameters
    ----------
    sinks : sequence of VisitSinks
        Of all visits.
    used : mapping of int to tuple of str
        Of :func:`used_contrasts`.
    applied : sequence of nipype.Workflow
        Of `msapp.workflows.session.init_visit_apply_wf`, of all visits.

    Returns
    -------
    dict of int to Source
        Where they come from, by the number of the visit; of visits with contrasts that the network
        can do without.
    """
    workflow, spec = sinks[0].workflow, models_for(sinks[0].settings).get('lesions')
    optional = {item.name for item in spec.channels if item.may_be_missing} if spec else set()
    found: dict[int, Source] = {}
    for number, contrasts in used.items():
        checked = [name for name in contrasts if name in optional]
        if not checked:
            continue
        node = make_node(FindPartial(), f'{sinks[number].prefix}_find_partial')
        fields = [(f'outputnode.preproc_{name}', name.lower()) for name in checked]
        workflow.connect(applied[number], 'outputnode.brain_mask', node, 'brain_mask')
        workflow.connect([(applied[number], node, fields)])
        found[number] = node, 'partial'
    compared = [number for number in found if 'FLAIR' in sinks[number].visit.images]
    if not compared[1:]:
        return found
    merge = make_node(niu.Merge(len(compared)), 'merge_partial')
    for index, number in enumerate(compared, start=1):
        workflow.connect(*found[number], merge, f'in{index}')
    return found | dict.fromkeys(compared, (merge, 'out'))


def _model_metadata(spec: ModelSpec | None, settings: Settings) -> dict[str, Any]:
    """Return the keys of sidecars that say how lesions were found."""
    if spec is None:
        return {
            'Type': 'Lesion',
            'Model': threshold.NAME,
            'ModelDescription': 'classical baseline without training; see the report',
            'ThresholdWhiteMatterSD': threshold.WHITE_MATTER_SD,
            'ThresholdGreyMatterSD': threshold.GREY_MATTER_SD,
            'MinimumVolumeMM3': threshold.MINIMUM_MM3,
        }
    return network_metadata(spec, settings)


def network_metadata(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    """Return the keys of sidecars of what a network for lesions or new lesions found."""
    return {
        'Type': 'Lesion',
        **model_metadata(spec),
        'Threshold': spec.threshold,
        'Temperature': spec.temperature,
        **_adaptation(spec),
        'MinimumVolumeMM3': spec.minimum_mm3,
        'TestTimeFlips': settings.flips,
    }


def _adaptation(spec: ModelSpec) -> dict[str, Any]:
    """Return the keys of sidecars that say whether probabilities were adapted, and from what."""
    if spec.prior is None:
        return {'ProbabilityAdapted': False}
    return {'ProbabilityAdapted': True, 'Prior': spec.prior}


def init_lesions_wf(*, name: str, sources: Mapping[str, str], settings: Settings) -> pe.Workflow:
    """Build the graph that finds the lesions of one visit.

    Workflow Graph
        FLAIR or T1w, brain mask, tissue maps, zones -> lesions -> masks in ``orig`` and MNI.

    Parameters
    ----------
    name : str
        Name of the workflow.
    sources : mapping of str to str
        BIDS URI of each contrast of :func:`used_contrasts`, for sidecars.
    settings : Settings
        Its output spaces say where the mask is brought.

    Inputs
    ------
    preproc_FLAIR, preproc_T1w, brain_mask, white_matter, grey_matter, zones
        In ``individual``; the contrasts of ``sources``; zones where a network tells them.
    partial
        Of a network: contrasts that do not show the whole brain, see :func:`add_partial`.
    reference, to_individual, to_mni
        The visit's reference image on its own grid, and the transforms.

    Outputs
    -------
    mask, labels, rows, measures, locations
        Of `msapp.interfaces.lesions.FindLesions`, or of `SegmentLesions` where a network does it.
    probability, metadata, entropy, variance, mutual_information, predicted_variance
        Of a network; from the third on with ``--mc-samples``, the last with a variance head.
    mask_orig, mask_mni
        The mask in other spaces.
    """
    workflow = pe.Workflow(name=name)
    spec = models_for(settings).get('lesions')
    fields = {name: name for name in ('brain_mask', 'white_matter', 'grey_matter', 'to_mni')}
    outputs = ['mask', 'labels', 'rows', 'measures']
    if settings.brain_extraction == NETWORK:
        fields['zones'] = 'zones'
        outputs.append('locations')
    if spec is not None:
        outputs += ['probability', 'metadata', *_measured_uncertainties(spec, settings)]
    for contrast in sources:
        fields[f'preproc_{contrast}'] = contrast.lower()
    if spec is not None:
        fields['partial'] = 'partial'
    inputnode = pe.Node(
        niu.IdentityInterface([*fields, 'reference', 'to_individual']), name='inputnode'
    )
    outputnode = pe.Node(
        niu.IdentityInterface([*outputs, 'mask_orig', 'mask_mni']), name='outputnode'
    )
    if spec is None:
        find = make_node(FindLesions(), 'find_lesions', mem_gb=LARGE_GB)
    else:
        find = make_network_node(
            SegmentLesions(),
            'segment_lesions',
            spec,
            sources=dict(sources),
            flips=settings.flips,
            mc_samples=settings.mc_samples,
            seed=settings.random_seed,
        )
    workflow.connect(
        [
            (inputnode, find, list(fields.items())),
            (find, outputnode, [(name, name) for name in outputs]),
        ]
    )
    if 'orig' in settings.output_spaces:
        add_mask_to_orig(workflow, (find, 'mask'))
    if MNI in settings.output_spaces:
        move = make_node(MaskToGrid(), 'lesions_to_mni')
        workflow.connect(find, 'mask', move, 'in_file')
        workflow.connect(inputnode, 'to_mni', move, 'transform')
        workflow.connect(move, 'out_file', outputnode, 'mask_mni')
    return workflow


def add_mask_to_orig(
    workflow: pe.Workflow,
    mask: tuple[Any, str],
    *,
    reference: str = 'reference',
    to_individual: str = 'to_individual',
) -> None:
    """Bring a mask in ``individual`` back to the visit's own grid, as ``mask_orig``.

    ``reference`` and ``to_individual`` are fields of the graph's ``inputnode``.
    """
    inputnode, outputnode = map(workflow.get_node, ('inputnode', 'outputnode'))
    move = make_node(MaskToGrid(), 'mask_to_orig', invert=True)
    workflow.connect(*mask, move, 'in_file')
    workflow.connect(inputnode, reference, move, 'grid')
    workflow.connect(inputnode, to_individual, move, 'transform')
    workflow.connect(move, 'out_file', outputnode, 'mask_orig')


def add_lesion_outputs(
    found: pe.Workflow,
    applied: pe.Workflow,
    sinks: VisitSinks,
    contrasts: tuple[str, ...],
    common: dict[str, Any],
) -> None:
    """Write one visit's lesions: masks, instances, table, figures.

    Parameters
    ----------
    found : nipype.Workflow
        Of :func:`init_lesions_wf`.
    applied : nipype.Workflow
        Of `msapp.workflows.session.init_visit_apply_wf`.
    sinks : VisitSinks
    contrasts : tuple of str
        Of :func:`used_contrasts`.
    common : dict
        Columns that all rows of the table share.
    """

    def out(field: str) -> Source:
        return found, f'outputnode.{field}'

    spec = models_for(sinks.settings).get('lesions')
    model = _model_metadata(spec, sinks.settings)
    # A network leaves out images that do not hold the brain, which shows once it runs.
    save = partial(sinks.image, contrasts=contrasts, found=out('metadata') if spec else None)
    fields = {'orig': 'mask_orig', 'individual': 'mask', MNI: 'mask_mni'}
    for space, field in fields.items():
        if space == 'individual' or space in sinks.settings.output_spaces:
            save(out(field), space=space, label='L', suffix='mask', metadata=model)
    dseg: dict[str, Any] = {'space': 'individual', 'suffix': 'dseg', 'metadata': model}
    save(out('labels'), desc='lesions', **dseg)
    if sinks.settings.brain_extraction == NETWORK:
        save(out('locations'), desc='locations', **dseg)
        sinks.names('locations', ('none', *LOCATIONS))
    if spec is not None:
        _add_probabilities(out, save, spec, sinks.settings, model)
    sinks.lookup(out('rows'), space='individual', desc='lesions')
    sinks.table(out('rows'), 'lesions', common)
    shown = contrasts[0]
    finder = f"the {'network' if spec else 'baseline'} '{model['Model']}'"
    image, brain = (applied, f'outputnode.preproc_{shown}'), (applied, 'outputnode.brain_mask')
    sinks.mosaic(
        image,
        brain,
        description='lesions',
        contrast=shown,
        title=f'{sinks.visit.name}: lesions found by {finder}',
        outlined=out('mask'),
        kind='lesions',
    )
    if spec is not None and sinks.settings.mc_samples:
        sinks.uncertainty(
            image,
            found,
            brain,
            contrast=shown,
            title=f'{sinks.visit.name}: how sure {finder} is of each lesion',
        )
    title = f'{sinks.participant} {sinks.visit.name}'
    sinks.viewer(image, out('mask'), brain, contrast=shown, title=title)


def _measured_uncertainties(spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    """Return what Monte Carlo samples will say of each voxel; nothing without samples."""
    if not settings.mc_samples:
        return ()
    return tuple(
        name for name in UNCERTAINTIES if name != 'predicted_variance' or spec.predicts_variance
    )


def _add_probabilities(
    out: Callable[[str], Source],
    save: Callable[..., None],
    spec: ModelSpec,
    settings: Settings,
    model: dict[str, Any],
) -> None:
    """Write the probability, and what Monte Carlo samples say of it, if there are any."""
    entities = {'space': 'individual', 'label': 'L', 'suffix': 'probseg'}
    save(out('probability'), metadata=model, **entities)
    for name in _measured_uncertainties(spec, settings):
        metadata = model | {'Samples': settings.mc_samples, 'Measure': name}
        save(out(name), desc=name.replace('_', ''), metadata=metadata, **entities)
