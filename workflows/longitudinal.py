"""Two visits with FLAIR: candidate regions of new lesions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.names import since_label
from msapp.bids.query import Visit
from msapp.interfaces.imaging import Register
from msapp.interfaces.lesions import FindCandidates
from msapp.lesions import candidates
from msapp.settings import Settings
from msapp.workflows.lesions import add_mask_to_orig
from msapp.workflows.nodes import LARGE_GB, make_node
from msapp.workflows.outputs import VisitSinks

METHODS = f"""\
Candidates of new lesions were found between each visit with FLAIR and the last one before that has
FLAIR, by step one of the hybrid method (MSSEG-2, MICCAI 2021): the earlier FLAIR was registered
(affine) to the later one, its histogram was matched to it by landmarks (after Nyul et al., IEEE TMI
2000) inside the intersection of both brain masks, both were rounded to {candidates.GREY_LEVELS}
grey levels, and voxels kept whose level rises by more than
{100 * (candidates.RATIO - 1):.0f} %, after an opening of
{candidates.OPENING_MM:g} mm and an erosion of the brain mask by {candidates.SURFACE_MM:g} mm, in
regions of at least {candidates.MINIMUM_MM3:g} mm3. Candidates are many and mostly false: in
their mask and table no network has judged them. """

FIELDS = (
    'previous_flair',
    'current_flair',
    'current_brain',
    'previous_to_individual',
    'current_to_individual',
    'previous_mask',
    'current_mask',
    'to_mni',
)


def compared_visits(visits: Sequence[Visit], settings: Settings) -> dict[int, int]:
    """Return which visits are compared: number of the later one to that of the earlier one.

    Each visit with FLAIR is compared with the last one before that has FLAIR, whatever visits
    without lie between them.
    """
    if 'longitudinal' not in settings.tasks:
        return {}
    with_flair = [number for number, visit in enumerate(visits) if 'FLAIR' in visit.images]
    return {now: before for before, now in pairwise(with_flair)}


def init_candidates_wf(*, name: str, settings: Settings) -> pe.Workflow:
    """Build the graph that finds candidates between two visits.

    Workflow Graph
        affine registration of the earlier to the later FLAIR -> candidates -> mask in ``orig``.

    Parameters
    ----------
    name : str
        Name of the workflow.
    settings : Settings

    Inputs
    ------
    previous_flair, current_flair
        Bias-corrected FLAIRs on their own grids.
    current_brain
        Brain probability of the later visit.
    previous_to_individual, current_to_individual, to_mni
        Transforms.
    previous_mask, current_mask
        Brain masks in ``individual``.

    Outputs
    -------
    mask, labels, rows, measures, intersection
        Of `msapp.interfaces.lesions.FindCandidates`.
    previous_to_current
        Affine registration of the earlier to the later FLAIR.
    mask_orig
        The mask on the later visit's own grid.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(list(FIELDS)), name='inputnode')
    outputs = ['mask', 'labels', 'rows', 'measures', 'intersection']
    outputnode = pe.Node(
        niu.IdentityInterface([*outputs, 'previous_to_current', 'mask_orig']), name='outputnode'
    )
    register = make_node(
        Register(),
        'affine_to_later',
        kind='Affine',
        seed=settings.random_seed,
        sloppy=settings.sloppy,
    )
    find = make_node(FindCandidates(), 'find_candidates', mem_gb=LARGE_GB)
    workflow.connect(
        [
            (
                inputnode,
                register,
                [
                    ('current_flair', 'fixed'),
                    ('previous_flair', 'moving'),
                    ('current_brain', 'fixed_brain'),
                    ('current_to_individual', 'initial_fixed'),
                    ('previous_to_individual', 'initial_moving'),
                ],
            ),
            (register, find, [('transform', 'previous_to_current')]),
            (register, outputnode, [('transform', 'previous_to_current')]),
            (
                inputnode,
                find,
                [
                    ('previous_flair', 'previous'),
                    ('current_flair', 'current'),
                    ('previous_to_individual', 'previous_to_individual'),
                    ('current_to_individual', 'current_to_individual'),
                    ('previous_mask', 'previous_mask'),
                    ('current_mask', 'current_mask'),
                    ('to_mni', 'to_mni'),
                ],
            ),
            (find, outputnode, [(name, name) for name in outputs]),
        ]
    )
    if 'orig' in settings.output_spaces:
        add_mask_to_orig(
            workflow,
            (find, 'mask'),
            reference='current_flair',
            to_individual='current_to_individual',
        )
    return workflow


def add_candidate_outputs(
    found: pe.Workflow,
    previous: pe.Workflow,
    current: pe.Workflow,
    sinks: VisitSinks,
    since: Visit,
    common: dict[str, Any],
) -> None:
    """Write the candidates of a visit: masks, instances, table, figures.

    Parameters
    ----------
    found : nipype.Workflow
        Of :func:`init_candidates_wf`.
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

    before_name, description = since.session or '', since_label(since.session)
    method = {
        'Type': 'Lesion',
        'Description': 'Candidate regions of new lesions; not confirmed by a network or a reader.',
        'GreyLevels': candidates.GREY_LEVELS,
        'Ratio': candidates.RATIO,
        'MinimumVolumeMM3': candidates.MINIMUM_MM3,
        'ComparedWith': before_name,
    }
    save = partial(sinks.image, contrasts=('FLAIR',), since=since, metadata=method)
    for space, field in (('orig', 'mask_orig'), ('individual', 'mask')):
        if space == 'individual' or space in sinks.settings.output_spaces:
            save(out(field), space=space, label='newcandidate', desc=description, suffix='mask')
    instances = f'candidates{description}'
    save(out('labels'), space='individual', desc=instances, suffix='dseg')
    sinks.lookup(out('rows'), space='individual', desc=instances)
    sinks.table(out('rows'), 'candidates', common)
    before, now = (previous, 'outputnode.preproc_FLAIR'), (current, 'outputnode.preproc_FLAIR')
    shared, labels = out('intersection'), (before_name, sinks.visit.name)
    sinks.flicker(before, now, shared, out('mask'), labels)
    sinks.checkerboard(before, now, shared, description='visits', contrast='FLAIR', labels=labels)
    sinks.regions(before, now, shared, (out('labels'), out('rows')), labels, kind='candidates')
    sinks.mosaic(
        now,
        shared,
        description='candidatemosaic',
        contrast='FLAIR',
        title=f'{sinks.visit.name}: candidates since {before_name} (not confirmed)',
        outlined=out('mask'),
        kind='candidates',
    )
