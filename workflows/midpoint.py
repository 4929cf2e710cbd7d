"""The participant's own space at the midpoint of the visits."""

from __future__ import annotations

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from msapp.bids.query import Visit
from msapp.interfaces.imaging import FindMidpoint
from msapp.interfaces.lists import Merge, Select
from msapp.settings import Settings
from msapp.workflows.nodes import LARGE_GB, make_node

METHODS = """\
The visits were brought into one space, rigid, 1 mm isotropic, at their unbiased midpoint (after
Reuter et al., NeuroImage 2012) and with the axes of MNI152NLin2009aSym; every image was
interpolated into it once from its own grid, and scaled so that the mode of
white matter is 1. """


def init_midpoint_wf(*, visits: tuple[Visit, ...], settings: Settings) -> pe.Workflow:
    """Build the graph that finds the space ``individual``.

    Workflow Graph
        Lists of all visits -> midpoint.

    Parameters
    ----------
    visits : tuple of Visit
    settings : Settings

    Inputs
    ------
    image<n>, brain<n>, from_mni<n>
        Of visit n, counted from 1: its reference image after N4, brain probability, map from MNI.

    Outputs
    -------
    to_individual<n>
        Transform of visit n.
    to_mni
        Transform that resamples ``individual`` onto MNI.
    """
    workflow = pe.Workflow(name='midpoint_wf')
    count = len(visits)
    numbers = range(1, count + 1)
    fields = {'image': 'images', 'brain': 'brains', 'from_mni': 'from_mni'}
    inputnode = pe.Node(
        niu.IdentityInterface([f'{name}{n}' for name in fields for n in numbers]),
        name='inputnode',
    )
    outputnode = pe.Node(
        niu.IdentityInterface(['to_mni', *(f'to_individual{n}' for n in numbers)]),
        name='outputnode',
    )
    midpoint = make_node(
        FindMidpoint(),
        'midpoint',
        mem_gb=LARGE_GB,
        seed=settings.random_seed,
        sloppy=settings.sloppy,
    )
    place = str(settings.work_path)
    for name, field in fields.items():
        merge = make_node(Merge(count), f'merge_{name}', work_dir=place)
        for n in numbers:
            workflow.connect(inputnode, f'{name}{n}', merge, f'in{n}')
        workflow.connect(merge, 'out', midpoint, field)
    workflow.connect(midpoint, 'to_mni', outputnode, 'to_mni')
    for n in numbers:
        select = make_node(Select(index=[n - 1]), f'select{n}', work_dir=place)
        workflow.connect(midpoint, 'to_individual', select, 'inlist')
        workflow.connect(select, 'out', outputnode, f'to_individual{n}')
    return workflow
