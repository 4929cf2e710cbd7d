"""Facts about the graphs, over every mix of contrasts, visits, tasks and output spaces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nipype import config
from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface

from msapp.bids.query import Participant, Visit
from msapp.cli import plan
from msapp.interfaces import course, figures, imaging, lesions, newlesions, outputs
from msapp.models.registry import load_spec, save_model
from msapp.models.spec import ModelSpec
from msapp.networks import build_network
from msapp.settings import Settings
from msapp.workflows import changes, longitudinal
from msapp.workflows import lesions as lesion_workflows
from msapp.workflows import newlesions as new_lesion_workflows
from msapp.workflows.base import init_msapp_wf
from msapp.workflows.nodes import leftovers, make_sink, remove_old_figures

CONTRASTS = (('FLAIR',), ('T1w',), ('FLAIR', 'T1w'), ('FLAIR', 'T1w', 'T2w', 'ceT1w'))
SESSIONS = ((None,), ('ses-1',), ('ses-1', 'ses-2'), ('ses-1', 'ses-2', 'ses-3'))
TASKS = (('lesions',), ('longitudinal',), ('lesions', 'longitudinal'))
MNI = 'MNI152NLin2009aSym'
SPACES = (('individual',), ('orig', 'individual'), ('orig', 'individual', MNI))
SINK_MODULES = (outputs.__name__, figures.__name__)
# What nipype gives a node for which nobody thought about memory, GB.
UNSET_MEM_GB = 0.2
HEAVY = (
    imaging.ExtractBrain,
    imaging.FindMidpoint,
    lesions.FindLesions,
    lesions.SegmentLesions,
    lesions.FindCandidates,
    course.TrackLesions,
)
HEAVY_GB = 2.0
NETWORK = {'in_channels': 2, 'out_channels': 1, 'channels': [4, 8], 'num_res_units': 0}
OF_NO_VISIT = ('tracks', 'dissemination', 'timeline')


@dataclass(frozen=True)
class Case:
    """One mix; the contrasts of each visit, None for a dataset without sessions."""

    sessions: tuple[str | None, ...]
    contrasts: tuple[tuple[str, ...], ...]
    tasks: tuple[str, ...]
    spaces: tuple[str, ...]

    def __str__(self) -> str:
        """Name of the test."""
        visits = [
            f'{session or "none"}:{"+".join(contrasts)}'
            for session, contrasts in zip(self.sessions, self.contrasts, strict=True)
        ]
        return f'{"_".join(visits)}-{"+".join(self.tasks)}-{len(self.spaces)}spaces'

    @property
    def with_flair(self) -> int:
        """Number of visits with a FLAIR."""
        return sum('FLAIR' in contrasts for contrasts in self.contrasts)

    @property
    def pairs(self) -> int:
        """Number of visits with a FLAIR that have one with a FLAIR before them."""
        return max(self.with_flair - 1, 0)


def same_everywhere(
    sessions: tuple[str | None, ...],
    contrasts: tuple[str, ...],
    tasks: tuple[str, ...],
    spaces: tuple[str, ...],
) -> Case:
    return Case(sessions, (contrasts,) * len(sessions), tasks, spaces)


REGULAR = [same_everywhere(*choice) for choice in product(SESSIONS, CONTRASTS, TASKS, SPACES)]
F, T, B = ('FLAIR',), ('T1w',), ('FLAIR', 'T1w')
RAGGED = [
    Case(SESSIONS[3], contrasts, TASKS[2], SPACES[2])
    for contrasts in ((F, T, F), (F, F, T), (T, F, F), (('FLAIR', 'T1w'), F, T))
]
ALL = pytest.mark.parametrize('case', [*REGULAR, *RAGGED], ids=str)


@pytest.fixture(scope='module')
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('image') / 'image.nii.gz'
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.int16), np.eye(4)), path)
    return path


def flatten(participants: Iterable[Participant], settings: Settings, **options: Any) -> Any:
    """Build the graph of a run, without its nested workflows: nodes and edges."""
    workflow, _ = init_msapp_wf(participants=list(participants), settings=settings, **options)
    return workflow._create_flat_graph()


def make_participant(label: str, case: Case, image: Path) -> Participant:
    visits = [
        Visit(session, dict.fromkeys(contrasts, image))
        for session, contrasts in zip(case.sessions, case.contrasts, strict=True)
    ]
    return Participant(label, tuple(visits))


def make_settings(image: Path, **values: Any) -> Settings:
    folder = image.parent
    return Settings(bids_dir=folder, output_dir=folder / 'out', levels=('participant',), **values)


@cache
def graph_of(case: Case, image: Path) -> Any:
    settings = make_settings(image, tasks=case.tasks, output_spaces=case.spaces)
    return flatten([make_participant('sub-01', case, image)], settings)


@pytest.fixture
def graph(case: Case, image: Path) -> Any:
    return graph_of(case, image)


def is_identity(node: Any) -> bool:
    return isinstance(node.interface, IdentityInterface)


def is_sink(node: Any) -> bool:
    return type(node.interface).__module__ in SINK_MODULES


def of_kind(graph: Any, *kinds: type) -> list[Any]:
    return [node for node in graph.nodes if isinstance(node.interface, kinds)]


def written(graph: Any) -> list[str]:
    """Give the path of everything the sinks write."""
    names = []
    for node in filter(is_sink, graph.nodes):
        fields = ('name', 'second_name')
        names += [value for key in fields if (value := node.inputs.get().get(key))]
    return names


def sidecars(graph: Any) -> dict[str, dict[str, Any]]:
    """Give the sidecar of each image, by its name without participant, session and extension."""
    found = {}
    for node in of_kind(graph, outputs.SaveImage):
        name = Path(node.inputs.name).name.removesuffix('.nii.gz')
        found[name[name.index('space-') :]] = node.inputs.metadata
    return found


def sources(graph: Any, node: Any, field: str) -> Iterator[tuple[Any, str]]:
    """Give the node that computes an input, through any number of identity nodes."""
    for origin, _, data in graph.in_edges(node, data=True):
        for output, target in data['connect']:
            if target != field:
                continue
            if is_identity(origin):
                yield from sources(graph, origin, output)
            else:
                yield origin, output


@ALL
def test_lesions_are_sought_in_every_flair_and_nowhere_else(case, graph):
    expected = case.with_flair if 'lesions' in case.tasks else 0
    assert len(of_kind(graph, lesions.SegmentLesions)) == expected
    assert not of_kind(graph, lesions.FindLesions)


def test_the_baseline_takes_the_place_of_the_network(image):
    case = Case(('ses-1', 'ses-2'), (('FLAIR',), ('FLAIR', 'T1w')), TASKS[2], SPACES[2])
    settings = make_settings(image, lesion_model='threshold')
    graph = flatten([make_participant('sub-01', case, image)], settings)
    assert len(of_kind(graph, lesions.FindLesions)) == 2
    assert not of_kind(graph, lesions.SegmentLesions)


@pytest.mark.parametrize(
    ('model', 'finder'),
    [('lesions', "the network 'lesions'"), ('threshold', "the baseline 'threshold'")],
)
def test_titles_of_figures_say_what_found_the_lesions(image, model, finder):
    case = same_everywhere(SESSIONS[1], F, TASKS[0], SPACES[0])
    settings = make_settings(image, lesion_model=model, mc_samples=2 * (model == 'lesions'))
    graph = flatten([make_participant('sub-01', case, image)], settings)
    titles = {node.inputs.title for node in of_kind(graph, figures.DrawMosaic)}
    assert f'ses-1: lesions found by {finder}' in titles
    unsure = [node.inputs.title for node in of_kind(graph, figures.DrawUncertainty)]
    assert unsure == [f'ses-1: how sure {finder} is of each lesion'] * (model == 'lesions')


@ALL
def test_candidates_are_sought_in_each_flair_since_the_last_before(case, graph):
    expected = case.pairs if 'longitudinal' in case.tasks else 0
    assert len(of_kind(graph, lesions.FindCandidates)) == expected


@ALL
def test_lesions_are_followed_over_all_visits_with_flair(case, graph):
    both = {'lesions', 'longitudinal'} <= set(case.tasks)
    tracked = case.with_flair if both else 0
    tracks = of_kind(graph, course.TrackLesions)
    assert len(tracks) == (tracked > 0)
    assert len(of_kind(graph, course.TakePair)) == max(tracked - 1, 0)
    for node in tracks:
        assert len(node.inputs.years) == tracked - 1
    maps = [name for name in written(graph) if 'space-individual_desc-change_dseg.nii' in name]
    assert len(maps) == max(tracked - 1, 0)
    whole = {'sub-01/figures/sub-01_desc-timeline_FLAIR.png', 'sub-01/sub-01_desc-tracks_stats.tsv'}
    assert (whole <= set(written(graph))) == (tracked > 1)
    items = 'sub-01/sub-01_desc-dissemination_stats.tsv'
    assert (items in written(graph)) == (tracked > 0)


@ALL
def test_each_visit_is_extracted_once_and_the_midpoint_found_once(case, graph):
    kinds = Counter(type(node.interface) for node in graph.nodes)
    assert kinds[imaging.ExtractBrain] == len(case.sessions)
    assert kinds[imaging.FindMidpoint] == 1
    assert kinds[imaging.PrepareContrast] == sum(map(len, case.contrasts))


@ALL
def test_every_contrast_but_the_reference_is_registered_rigidly(case, graph):
    kinds = Counter(node.inputs.kind for node in of_kind(graph, imaging.Register))
    assert kinds['Rigid'] == sum(len(contrasts) - 1 for contrasts in case.contrasts)
    assert kinds['Affine'] == (case.pairs if 'longitudinal' in case.tasks else 0)


@ALL
def test_every_mandatory_input_is_computed_or_constant(graph):
    for node in graph.nodes:
        if is_identity(node):
            continue
        for field in node.inputs.traits(mandatory=True):
            found = list(sources(graph, node, field))
            constant = isdefined(getattr(node.inputs, field))
            assert len(found) + constant == 1, f'{node.fullname}.{field}: {found or "nothing"}'


@ALL
def test_every_edge_carries_an_output_that_its_origin_has(graph):
    for origin, target, data in graph.edges(data=True):
        for output, field in data['connect']:
            assert output in origin.outputs.copyable_trait_names(), origin.fullname
            assert field in target.inputs.copyable_trait_names(), target.fullname


@ALL
def test_no_two_sinks_write_one_file(graph):
    repeated = [name for name, count in Counter(written(graph)).items() if count > 1]
    assert repeated == []


@ALL
def test_every_sink_has_a_name_below_its_participant(case, graph):
    for name in written(graph):
        parts = Path(name).parts
        assert parts[0] == 'sub-01'
        if parts[-1].partition('_desc-')[2].partition('_')[0] in OF_NO_VISIT:
            assert 'ses-' not in name
            continue
        assert parts[1] == 'figures' or parts[-2] == 'anat'
        assert ('ses-' in name) == (case.sessions[0] is not None)


@ALL
def test_masks_go_to_the_spaces_asked_for_and_always_to_individual(case, graph):
    masks = [name for name in written(graph) if name.endswith('_mask.nii.gz')]
    spaces = {name.partition('_space-')[2].partition('_')[0] for name in masks}
    found = case.with_flair > 0 and 'lesions' in case.tasks
    assert spaces == {space for space in case.spaces if space != MNI or found}


@ALL
def test_every_node_plans_its_memory(graph):
    for node in graph.nodes:
        if not is_identity(node):
            assert node.mem_gb > UNSET_MEM_GB, node.fullname
            assert node.n_procs == 1, node.fullname
    for node in of_kind(graph, *HEAVY):
        assert node.mem_gb >= HEAVY_GB, node.fullname


@pytest.fixture(scope='module')
def new_lesion_model(tmp_path_factory):
    spec = ModelSpec(
        name='newmine',
        version='1',
        task='longitudinal',
        channels=[{'name': 'previous'}, {'name': 'current'}],
        spacing_mm=(1.0, 1.0, 1.0),
        normalisation={'name': 'white_matter'},
        architecture={'name': 'headed_unet', 'arguments': NETWORK},
        window=(16, 16, 16),
        threshold=0.5,
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    folder = tmp_path_factory.mktemp('models') / 'newmine'
    return save_model(folder, spec, build_network('headed_unet', NETWORK)).folder


@pytest.mark.parametrize(
    ('contrasts', 'judged'),
    [((F, F, F), [0, 1]), ((F, F, T), [0]), ((T, F, F), [0]), ((F, T, F), [0])],
)
def test_a_network_for_new_lesions_judges_every_pair(image, new_lesion_model, contrasts, judged):
    case = Case(SESSIONS[3], contrasts, TASKS[2], SPACES[2])
    settings = make_settings(image, new_lesion_method=str(new_lesion_model), self_check=True)
    graph = flatten([make_participant('sub-01', case, image)], settings)
    assert len(of_kind(graph, newlesions.SegmentNewLesions)) == len(judged)
    (track,) = of_kind(graph, course.TrackLesions)
    assert track.inputs.new_pairs == judged
    followed = [number for number, names in enumerate(contrasts, start=1) if names == F]
    for merge, taken in (('merge_new', 'mask'), ('merge_gone', 'gone')):
        (gather,) = [node for node in graph.nodes if node.name == merge]
        for place, pair in enumerate(judged, start=1):
            origin, field = next(sources(graph, gather, f'in{place}'))
            assert f'ses_{followed[pair + 1]}_' in origin.fullname
            assert field == taken
    assert len(of_kind(graph, newlesions.CheckDetector)) == len(judged)
    masks = [name for name in written(graph) if '_label-new_' in name and '_mask.nii' in name]
    assert len(masks) == 2 * len(judged)  # orig and individual
    test_every_mandatory_input_is_computed_or_constant(graph)
    test_every_edge_carries_an_output_that_its_origin_has(graph)
    test_no_two_sinks_write_one_file(graph)
    test_every_node_plans_its_memory(graph)


def test_the_hybrid_method_ships_takes_its_steps_and_is_described(image):
    case = Case(SESSIONS[3], (F, F, F), TASKS[2], SPACES[2])
    settings = make_settings(image, new_lesion_method='hybrid')
    graph = flatten([make_participant('sub-01', case, image)], settings)
    found = of_kind(graph, newlesions.SegmentNewLesions)
    assert len(found) == 2
    assert {Path(node.inputs.model).name for node in found} == {'hybrid'}
    text = new_lesion_workflows.methods(settings)
    for words in ("network 'hybrid'", 'at least 0.75', '15 % brighter', '6 grey levels', 'nearest'):
        assert words in text
    assert 'grey levels' not in new_lesion_workflows.methods(make_settings(image))
    assert 'counts where' not in text


def test_what_confirms_new_lesions_is_told_by_report_and_sidecar(image):
    settings = make_settings(image)
    text = new_lesion_workflows.methods(settings).replace('\n', ' ')
    confirming = load_spec('lesions')
    words = f"the network 'lesions' {confirming.version} (trained on synthetic images alone), from"
    assert words in text
    case = Case(SESSIONS[2], (F, F), TASKS[2], SPACES[2])
    graph = flatten([make_participant('sub-01', case, image)], settings)
    told = {
        node.inputs.name.partition('label-')[2]: node.inputs.metadata.get('ConfirmedBy')
        for node in of_kind(graph, outputs.SaveImage)
        if '_label-new_' in node.inputs.name or '_label-gone_' in node.inputs.name
    }
    # The probability is that of the one network, whatever the other says.
    assert told.pop('new_desc-since1_probseg.nii.gz') is None
    assert len(told) == 2
    assert {item['ModelSHA256'] for item in told.values()} == {confirming.weights_sha256}


def use_channels(monkeypatch, missing):
    """Let lesions be found by a network whose FLAIR and T1w may be missing, or may not."""
    spec = load_spec('lesions')
    channels = [
        item.model_copy(update={'may_be_missing': may})
        for item, may in zip(spec.channels, missing, strict=True)
    ]
    given = spec.model_copy(update={'channels': tuple(channels)})
    monkeypatch.setattr(lesion_workflows, 'models_for', lambda settings: {'lesions': given})


@pytest.mark.parametrize(
    ('missing', 'words'),
    [
        ((False, False), 'from FLAIR and T1w by'),
        ((False, True), 'from FLAIR, and T1w where the visit has it, by'),
        ((True, True), 'from FLAIR or T1w, or all that the visit has of them, by'),
    ],
)
def test_methods_name_what_a_network_needs_and_what_it_uses(image, monkeypatch, missing, words):
    use_channels(monkeypatch, missing)
    assert words in lesion_workflows.methods(make_settings(image)).replace('\n', ' ')


@pytest.mark.parametrize(
    ('missing', 'contrasts', 'lacking'),
    [
        ((False, True), ('FLAIR',), ()),
        ((False, True), ('T1w',), ('FLAIR',)),
        ((False, False), ('FLAIR', 'T2w'), ('T1w',)),
        ((True, True), ('T1w',), ()),
        ((True, True), ('T2w',), ('FLAIR', 'T1w')),
    ],
)
def test_what_lesions_cannot_be_found_without(image, monkeypatch, missing, contrasts, lacking):
    use_channels(monkeypatch, missing)
    visit, settings = Visit('ses-1', dict.fromkeys(contrasts, image)), make_settings(image)
    assert lesion_workflows.lacking_contrasts(visit, settings) == lacking
    assert lesion_workflows.can_find_lesions(visit, settings) is not bool(lacking)
    told = next(plan.not_done([visit], 0, settings), '')
    assert told.startswith('Lesions are not measured: there is no ') is bool(lacking)


@pytest.mark.parametrize(
    ('contrasts', 'used'),
    [
        ((B,), {'ses-1': B}),
        ((F, B), {'ses-1': F, 'ses-2': F}),
        ((B, F), {'ses-1': F, 'ses-2': F}),
        ((B, B, B), {'ses-1': B, 'ses-2': B, 'ses-3': B}),
        ((B, T, B), {'ses-1': B, 'ses-3': B}),
    ],
)
def test_lesions_of_all_visits_are_found_from_the_same_contrasts(image, contrasts, used):
    case = Case(SESSIONS[3][: len(contrasts)], contrasts, TASKS[2], SPACES[2])
    graph = graph_of(case, image)
    found = {}
    for node in of_kind(graph, lesions.SegmentLesions):
        names = {'flair': 'FLAIR', 't1w': 'T1w'}
        given = tuple(name for field, name in names.items() if [*sources(graph, node, field)])
        assert tuple(node.inputs.sources) == given
        found[node.fullname.split('.')[-2].replace('_lesions_wf', '').replace('_', '-')] = given
    assert found == used
    for node in of_kind(graph, outputs.SaveImage):
        path = Path(node.inputs.name)
        if any(name in path.name for name in ('label-L', 'lesions_dseg', 'locations_dseg')):
            assert len(node.inputs.metadata['Sources']) == len(used[path.parts[1]])
            assert [field for _, field in sources(graph, node, 'found')] == ['metadata']


@pytest.mark.parametrize('contrasts', [(B,), (B, B), (B, F), (B, T, B)])
def test_what_one_visit_does_not_show_is_used_of_none(image, monkeypatch, contrasts):
    use_channels(monkeypatch, (False, True))
    case = Case(SESSIONS[3][: len(contrasts)], contrasts, TASKS[0], SPACES[0])
    graph = flatten([make_participant('sub-01', case, image)], make_settings(image))
    found = of_kind(graph, lesions.FindPartial)
    for node in of_kind(graph, lesions.SegmentLesions):
        ((source, field),) = [*sources(graph, node, 'partial')] or [(None, None)]
        if F in contrasts:
            assert (source, field, found) == (None, None, [])
        elif len(contrasts) == 1:
            assert ([source], field) == (found, 'partial')
        else:
            merged = {made for name in ('in1', 'in2') for made, _ in sources(graph, source, name)}
            assert (merged, field) == (set(found), 'out')
    assert len(found) == (0 if F in contrasts else contrasts.count(B))
    for node in found:
        assert [field for _, field in sources(graph, node, 't1w')]
        assert not [*sources(graph, node, 'flair')]


@pytest.mark.parametrize(
    ('missing', 'contrasts', 'used'),
    [
        ((False, False), (B, F, B), {0: B, 2: B}),
        ((True, True), (F, T, B), {0: F, 1: T, 2: F}),
        ((True, True), (T, T), {0: T, 1: T}),
    ],
)
def test_a_visit_whose_lesions_are_not_found_takes_nothing_from_others(
    image, monkeypatch, missing, contrasts, used
):
    use_channels(monkeypatch, missing)
    case = Case(SESSIONS[3][: len(contrasts)], contrasts, TASKS[2], SPACES[2])
    visits = make_participant('sub-01', case, image).visits
    assert lesion_workflows.used_contrasts(visits, make_settings(image)) == used


@pytest.mark.parametrize(
    ('contrasts', 'model', 'told'),
    [
        ((F, B, F), 'lesions', 'T1w of ses-2 is not used for lesions, since ses-1, ses-3 have no'),
        ((B, B, F), 'lesions', 'T1w of ses-2 is not used for lesions, since ses-3 has none: '),
        ((B, B, B), 'lesions', None),
        ((F, B, F), 'threshold', None),
    ],
)
def test_a_contrast_that_another_visit_lacks_is_told(image, contrasts, model, told):
    case = Case(SESSIONS[3], contrasts, TASKS[2], SPACES[2])
    settings = make_settings(image, lesion_model=model)
    visits = make_participant('sub-01', case, image).visits
    reasons = ' '.join(plan.not_done(visits, 1, settings))
    assert ('is not used for lesions' in reasons) == bool(told)
    assert (told or '') in reasons
    methods = lesion_workflows.methods(settings)
    for words in ('only contrasts that all of these have', 'it did not show the whole brain'):
        assert (words in methods) == (model == 'lesions')


@pytest.mark.parametrize('case', [REGULAR[-1], *RAGGED], ids=str)
def test_the_visits_that_are_compared_are_those_whose_lesions_are(image, case):
    visits, settings = make_participant('sub-01', case, image).visits, make_settings(image)
    tracked = changes.tracked_visits(visits, settings)
    pairs = longitudinal.compared_visits(visits, settings)
    assert [(before, now) for now, before in pairs.items()] == [*pairwise(tracked)]


def test_a_visit_without_flair_between_two_is_passed_over(image, new_lesion_model):
    case = RAGGED[0]
    settings = make_settings(image, new_lesion_method=str(new_lesion_model))
    graph = flatten([make_participant('sub-01', case, image)], settings)
    fields = {
        lesions.FindCandidates: ('previous', 'current', 'previous_mask', 'current_mask'),
        newlesions.SegmentNewLesions: ('previous', 'current', 'previous_brain', 'current_mask'),
    }
    for kind, names in fields.items():
        (node,) = of_kind(graph, kind)
        for name in names:
            origin, _ = next(sources(graph, node, name))
            assert ('ses_1_' if name.startswith('previous') else 'ses_3_') in origin.fullname
    registered = of_kind(graph, imaging.Register)
    (register,) = [node for node in registered if node.inputs.kind == 'Affine']
    for name, place in (('initial_moving', 'select1'), ('initial_fixed', 'select3')):
        assert next(sources(graph, register, name))[0].name == place
    assert 'ses_1_' in next(sources(graph, register, 'moving'))[0].fullname
    made = [name for name in written(graph) if '_label-new_' in name or '-newcandidate_' in name]
    assert made
    assert all('/sub-01_ses-3_' in name and '_desc-since1_' in name for name in made)


def test_a_pair_that_no_network_compared_is_not_judged_by_it(image, monkeypatch):
    both = ('FLAIR', 'T1w')
    use_channels(monkeypatch, (False, False))
    case = Case(SESSIONS[3], (both, F, both), TASKS[2], SPACES[2])
    graph = flatten([make_participant('sub-01', case, image)], make_settings(image))
    assert len(of_kind(graph, newlesions.SegmentNewLesions)) == 2
    (track,) = of_kind(graph, course.TrackLesions)
    assert len(track.inputs.years) == 1
    assert not isdefined(track.inputs.new_pairs)


@pytest.mark.parametrize(
    ('contrasts', 'told'),
    [
        ((F, F, F), [[], [], []]),
        ((F, T, F), [[], ['Not', 'ses-2'], ['Compared with ses-1, not with', 'ses-2']]),
        ((T, T, F), [[], ['Not', 'ses-2'], ['Not', 'ses-1, ses-2']]),
    ],
)
def test_what_is_not_compared_is_told_with_its_reason(image, contrasts, told):
    case = Case(SESSIONS[3], contrasts, TASKS[2], SPACES[2])
    visits, settings = make_participant('sub-01', case, image).visits, make_settings(image)
    for number, words in enumerate(told):
        reasons = ' '.join(plan.not_done(visits, number, settings))
        assert ('ompared with' in reasons) == bool(words)
        assert all(word in reasons for word in words)


def test_lesions_are_compared_across_a_visit_without_flair(image):
    visits = [
        Visit(session, dict.fromkeys(contrasts, image), (), f'2020-01-{day:02}T12:00:00')
        for session, contrasts, day in zip(SESSIONS[3], (F, T, F), (1, 11, 31), strict=True)
    ]
    settings = make_settings(image, tasks=TASKS[2], output_spaces=SPACES[2])
    graph = flatten([Participant('sub-01', tuple(visits))], settings)
    names = [name for name in written(graph) if name.endswith('desc-changes_stats.tsv')]
    assert names == ['sub-01/ses-3/anat/sub-01_ses-3_desc-changes_stats.tsv']
    (table,) = [node for node in of_kind(graph, outputs.SaveTable) if node.inputs.name in names]
    assert table.inputs.common['since_session'] == 'ses-1'
    columns = ('since_session', 'lesions_since_session', 'interval_days', 'lesions_interval_days')
    summaries = {
        node.inputs.common['session_id']: [node.inputs.common.get(name) for name in columns]
        for node in of_kind(graph, outputs.SaveSummary)
    }
    assert table.inputs.common['interval_days'] == 30
    nothing = [None] * 4
    assert summaries == {'ses-1': nothing, 'ses-2': nothing, 'ses-3': ['ses-1', 'ses-1', 30, 30]}


@pytest.mark.parametrize(
    ('method', 'marked'),
    [('newlesions', ['label-new_desc-since1', 'label-gone_desc-since1']), ('candidates', [])],
)
def test_a_change_image_names_the_masks_models_and_limits_it_comes_from(image, method, marked):
    settings = make_settings(image, new_lesion_method=method)
    graph = flatten([make_participant('sub-01', RAGGED[1], image)], settings)
    metadata = sidecars(graph)['space-individual_desc-change_dseg']
    assert {uri.removeprefix('bids::') for uri in metadata['Sources']} <= set(written(graph))
    visits = [
        f'sub-01_{session}_space-individual_desc-{name}.nii.gz'
        for session in ('ses-1', 'ses-2')
        for name in ('lesions_dseg', 'brain_mask')
    ]
    masks = [f'sub-01_ses-2_space-individual_{name}_mask.nii.gz' for name in marked]
    assert [Path(uri).name for uri in metadata['Sources']] == visits + masks
    assert metadata['ComparedWith'] == 'ses-1'
    assert metadata['ModelSHA256'] == load_spec('lesions').weights_sha256
    assert metadata['TrainedOnSyntheticDataOnly'] is True
    assert ('NewLesionModel' in metadata) == bool(marked)
    assert all(limit['Source'] for limit in metadata['Thresholds'].values())


@pytest.mark.parametrize('predicts', [True, False])
def test_a_map_of_the_predicted_variance_comes_from_a_variance_head(image, predicts, monkeypatch):
    spec = load_spec('lesions')
    arguments = spec.architecture.arguments | {'variance_head': predicts}
    architecture = spec.architecture.model_copy(update={'arguments': arguments})
    changed = {'lesions': spec.model_copy(update={'architecture': architecture})}
    monkeypatch.setattr(lesion_workflows, 'models_for', lambda _: changed)
    case = same_everywhere(SESSIONS[1], F, TASKS[0], SPACES[0])
    for samples in (0, 2):
        settings = make_settings(image, mc_samples=samples)
        names = written(flatten([make_participant('sub-01', case, image)], settings))
        found = [name for name in names if 'desc-predictedvariance_probseg.nii' in name]
        assert bool(found) == (predicts and samples > 0)


def test_a_sidecar_says_whether_probabilities_were_adapted(image):
    case = same_everywhere(SESSIONS[1], F, TASKS[0], SPACES[0])
    settings = make_settings(image, mc_samples=2)
    told = sidecars(flatten([make_participant('sub-01', case, image)], settings))
    for name in ('', 'desc-entropy_', 'desc-variance_', 'desc-mutualinformation_'):
        found = told[f'space-individual_label-L_{name}probseg']
        assert (found['ProbabilityAdapted'], found['Prior']) == (True, load_spec('lesions').prior)
    spec = load_spec('lesions').model_copy(update={'prior': None})
    without = lesion_workflows.network_metadata(spec, settings)
    assert without['ProbabilityAdapted'] is False
    assert 'Prior' not in without


@pytest.mark.parametrize(
    ('times', 'years'),
    [
        (('2020-01-01T00:00:00', '2021-01-01T06:00:00'), 366.25 / 365.25),
        (('2020-01-01T00:00:00', None), 0.0),
        (('1800-01-01T00:00:00', '1800-01-01T00:00:00'), 0.0),
    ],
)
def test_the_time_between_visits_is_not_known_where_they_have_no_or_one_time(image, times, years):
    visits = [
        Visit(session, {'FLAIR': image}, acq_time=time)
        for session, time in zip(SESSIONS[2], times, strict=True)
    ]
    graph = flatten([Participant('sub-01', tuple(visits))], make_settings(image))
    (node,) = of_kind(graph, course.TrackLesions)
    assert node.inputs.years == [pytest.approx(years)]


@pytest.mark.parametrize(
    ('case', 'name'),
    [
        (RAGGED[1], 'sub-01/ses-2/anat/sub-01_ses-2_space-orig_label-newcandidate_desc-since1_'),
        (RAGGED[2], 'sub-01/ses-3/anat/sub-01_ses-3_space-orig_label-newcandidate_desc-since2_'),
    ],
)
def test_candidates_name_the_visit_before(case, name, image):
    names = [
        name
        for name in written(graph_of(case, image))
        if 'space-orig_label-newcandidate' in name and name.endswith('mask.nii.gz')
    ]
    assert names == [f'{name}mask.nii.gz']


def test_participants_share_no_step_and_no_file(image):
    case = same_everywhere(SESSIONS[2], CONTRASTS[2], TASKS[2], SPACES[2])
    pair = [make_participant(label, case, image) for label in ('sub-01', 'sub-02')]
    settings = make_settings(image)
    workflow, names = init_msapp_wf(participants=pair, settings=settings)
    graph = workflow._create_flat_graph()
    assert names == {'sub_01_wf': 'sub-01', 'sub_02_wf': 'sub-02'}
    for origin, target in graph.edges:
        assert origin.fullname.split('.')[1] == target.fullname.split('.')[1]
    both = written(graph)
    assert len(set(both)) == len(both) == 2 * len(written(graph_of(case, image)))


def test_a_given_mask_goes_to_its_visit_alone(image):
    case = same_everywhere(SESSIONS[2], F, TASKS[2], SPACES[2])
    graph = flatten(
        [make_participant('sub-01', case, image)],
        make_settings(image),
        given_masks={('sub-01', 'ses-2'): image},
    )
    masks = {
        node.fullname.split('.')[-2]: node.inputs.given_mask
        for node in of_kind(graph, imaging.ExtractBrain)
    }
    assert masks['ses_2_fit_wf'] == str(image)
    assert not isdefined(masks['ses_1_fit_wf'])


def test_a_sink_runs_again_where_its_file_is_gone(image):
    case = same_everywhere(SESSIONS[1], F, TASKS[0], SPACES[0])
    settings = make_settings(image)
    participants = [make_participant('sub-01', case, image)]
    sinks = {node.inputs.name: node for node in flatten(participants, settings) if is_sink(node)}
    assert all(node.overwrite for node in sinks.values())
    kept = next(name for name in sinks if name.endswith('.nii.gz'))
    image_path = settings.output_dir / kept
    image_path.parent.mkdir(parents=True, exist_ok=True)
    image_path.touch()
    sinks = {node.inputs.name: node for node in flatten(participants, settings) if is_sink(node)}
    assert all(node.overwrite for node in sinks.values()), 'its sidecar is still gone'
    image_path.with_name(image_path.name.replace('.nii.gz', '.json')).touch()
    sinks = {node.inputs.name: node for node in flatten(participants, settings) if is_sink(node)}
    assert [name for name, node in sinks.items() if not node.overwrite] == [kept]


def test_a_sink_writes_again_what_another_work_folder_has_written(tmp_path, monkeypatch):
    """Two work folders take turns with one output folder: the last run's file is there."""
    target = tmp_path / 'out' / 'names.tsv'
    target.parent.mkdir()
    # There the name is that of a file, which must not count as an input.
    monkeypatch.chdir(target.parent)
    settings = deepcopy(config._sections)
    settings['execution'] |= {'hash_method': 'content'}
    ran = []

    def run(work, *names):
        inputs = {'output_dir': str(target.parent), 'name': target.name, 'names': list(names)}
        node = make_sink(outputs.SaveNames(), 'save', [target], **inputs)
        node.base_dir, node.config = tmp_path / work, settings
        ran.append((node.overwrite, node.is_cached()[1]))
        node.run()
        return target.read_text().split()[-1]

    assert run('a', 'trial') == 'trial'
    assert run('a', 'trial') == 'trial'
    assert run('b', 'other') == 'other'
    assert run('a', 'trial') == 'trial'
    assert run('a', 'trial') == 'trial'
    target.unlink()
    assert run('a', 'trial') == 'trial'
    first, same, away = (True, False), (False, True), (True, True)
    assert ran == [first, same, first, away, same, away]


def test_a_sidecar_of_another_work_folder_is_written_again(tmp_path, image):
    """Two models may find the same, as in a brain without lesions; the sidecars differ."""
    out = tmp_path / 'out'
    files = [out / 'mask.nii.gz', out / 'mask.json']

    def run(work, model):
        names = {'name': files[0].name, 'others': [files[1].name]}
        inputs = {'output_dir': str(out), 'in_file': str(image), 'metadata': {'Model': model}}
        node = make_sink(outputs.SaveImage(), 'save', files, **names, **inputs)
        node.base_dir = tmp_path / work
        node.run()
        return json.loads(files[1].read_text())['Model']

    for work in 'abaab':
        assert run(work, work) == work


def test_results_of_a_visit_or_a_task_that_is_no_more_are_named(image, tmp_path):
    settings = make_settings(image).model_copy(update={'output_dir': tmp_path})
    three, two = (
        [
            make_participant(
                'sub-01', Case(SESSIONS[number], (F,) * number, TASKS[2], SPACES[2]), image
            )
        ]
        for number in (3, 2)
    )
    graph, _ = init_msapp_wf(participants=three, settings=settings, given_masks={})
    for name in written(flatten(three, settings)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        (tmp_path / name).with_name(f'{Path(name).name.partition(".")[0]}.json').touch()
    assert leftovers(graph, tmp_path, 'sub-01') == []
    graph, _ = init_msapp_wf(participants=two, settings=settings, given_masks={})
    found = leftovers(graph, tmp_path, 'sub-01')
    assert found
    assert {path.parts[1] for path in found} == {'ses-3'}
    figures = tmp_path / 'sub-01' / 'figures'
    assert list(figures.glob('*ses-3*'))
    kept = set(figures.glob('*')) - set(figures.glob('*ses-3*'))
    remove_old_figures(graph, tmp_path, 'sub-01')
    assert set(figures.glob('*')) == kept
