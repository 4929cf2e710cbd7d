"""Facts about what is told of all visits together: tracks, timeline, dissemination."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from msapp.interfaces.course import AssessDissemination, TakePair, TrackLesions
from msapp.lesions.change import CLASSES
from msapp.lesions.dissemination import not_assessed
from msapp.models.spec import Figure
from msapp.reports.timeline import TimelinePoint, days_since_first, timeline
from msapp.settings import Settings
from msapp.workflows import changes

SHAPE = (30, 32, 34)
OLD, NEW = (slice(8, 12),) * 3, (slice(20, 25),) * 3
WHOLE = (slice(None),) * 3


def label_image(path, *boxes):
    """Write lesion instances of 1 mm, numbered in the order of the boxes."""
    data = np.zeros(SHAPE, np.int32)
    for number, box in enumerate(boxes, start=1):
        data[box] = number
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return str(path)


def run(interface, folder, **inputs):
    node = interface()
    node.inputs.trait_set(**inputs)
    return node.run(cwd=str(folder)).outputs


@pytest.fixture(scope='module')
def tracked(tmp_path_factory):
    """Three visits: one lesion; beside it a new one; the old one alone has gone."""
    folder = tmp_path_factory.mktemp('tracked')
    labels = [
        label_image(folder / f'{number}.nii.gz', *boxes)
        for number, boxes in enumerate(((OLD,), (OLD, NEW), (NEW,)))
    ]
    inputs = {'labels': labels, 'years': [0.5, 0.0], 'sessions': ['ses-1', 'ses-2', 'ses-3']}
    inputs['brains'] = [label_image(folder / 'brain.nii.gz', WHOLE)] * 3
    return folder, run(TrackLesions, folder, **inputs)


@pytest.mark.parametrize(('index', 'kind', 'box'), [(0, 'new', NEW), (1, 'resolved', OLD)])
def test_a_pair_has_its_own_class_image_and_rows(tracked, tmp_path, index, kind, box):
    _, found = tracked
    pair = run(
        TakePair,
        tmp_path,
        classes=found.classes,
        rows=found.rows,
        measures=found.measures,
        index=index,
    )
    classes = np.asanyarray(nib.load(pair.classes).dataobj)
    assert classes.shape == SHAPE
    assert (classes[box] == CLASSES[kind]).all()
    assert sorted(row['kind'] for row in pair.rows) == sorted([kind, 'stable'])
    assert pair.measures[f'{kind}_lesion_count'] == 1


def test_rates_are_known_where_the_time_is(tracked):
    _, found = tracked
    rates = [{row['kind']: row['change_ml_per_year'] for row in rows} for rows in found.rows]
    assert rates[0]['new'] == pytest.approx(0.125 / 0.5)
    assert rates[1]['resolved'] is None


def test_a_lesion_keeps_its_identifier_and_its_session(tracked):
    _, found = tracked
    lines = [(row['identifier'], row['session_id'], row['state']) for row in found.tracks]
    assert lines == [
        (1, 'ses-1', 'first'),
        (1, 'ses-2', 'stable'),
        (1, 'ses-3', 'resolved'),
        (2, 'ses-2', 'new'),
        (2, 'ses-3', 'stable'),
    ]


@pytest.mark.parametrize(('marked', 'kind'), [(NEW, 'new'), (OLD, 'unconfirmed')])
def test_where_a_network_looked_only_what_it_marked_is_new(tmp_path, marked, kind):
    labels = [
        label_image(tmp_path / f'{number}.nii.gz', *boxes)
        for number, boxes in enumerate(((OLD,), (OLD,), (OLD, NEW)))
    ]
    found = run(
        TrackLesions,
        tmp_path,
        labels=labels,
        years=[0.0, 0.0],
        sessions=['', '', ''],
        brains=[label_image(tmp_path / 'brain.nii.gz', WHOLE)] * 3,
        gone=[label_image(tmp_path / 'gone.nii.gz')],
        new=[label_image(tmp_path / 'new.nii.gz', marked)],
        new_pairs=[1],
    )
    assert [row['kind'] for row in found.rows[0]] == ['stable']
    assert sorted(row['kind'] for row in found.rows[1]) == sorted([kind, 'stable'])


@pytest.mark.parametrize('visits', [1, 2])
def test_visits_without_any_lesion_are_followed_too(tmp_path, visits):
    labels = [label_image(tmp_path / f'{number}.nii.gz') for number in range(visits)]
    found = run(
        TrackLesions,
        tmp_path,
        labels=labels,
        years=[0.0] * (visits - 1),
        sessions=[''] * visits,
        brains=labels,
    )
    assert found.tracks == []
    assert found.rows == [[]] * (visits - 1)


def lesion(number, place, extent_mm=5.0):
    return {'lesion': number, 'location': place, 'extent_mm': extent_mm}


def items(tmp_path, **inputs):
    rows = run(AssessDissemination, tmp_path, **inputs).rows
    return {row['item']: (row['state'], row['lesions']) for row in rows}


def test_places_and_new_lesions_meet_the_items(tracked, tmp_path):
    _, found = tracked
    lesions = [
        [lesion(1, 'periventricular')],
        [lesion(1, 'periventricular'), lesion(2, 'infratentorial')],
        [lesion(1, 'infratentorial')],
    ]
    states = items(
        tmp_path,
        tracks=found.tracks,
        changes=found.rows,
        measures=found.measures,
        visits=['ses-1', 'ses-2', 'ses-3'],
        lesions=lesions,
        judged=[1, 2],
    )
    assert states['dissemination_in_space'] == ('met', '1,2')
    assert states['new_t2_lesion'] == ('met', '2')
    assert states['juxtacortical'][0] == 'not met'


def test_what_is_new_by_two_masks_alone_meets_no_item(tracked, tmp_path):
    _, found = tracked
    old, new = lesion(1, 'periventricular'), lesion(2, 'infratentorial')
    states = items(
        tmp_path,
        tracks=found.tracks,
        changes=found.rows,
        measures=found.measures,
        visits=['ses-1', 'ses-2', 'ses-3'],
        lesions=[[old], [old, new], [lesion(1, 'infratentorial')]],
        judged=[2],
    )
    assert states['dissemination_in_space'][0] == 'met'
    assert states['new_t2_lesion'][0] == 'not measured'
    assert states['dissemination_in_time'][0] == 'not measured'


def test_an_old_lesion_that_new_tissue_touches_leaves_new_ones_open(tmp_path):
    longer = (slice(8, 13), *OLD[1:])
    found = run(
        TrackLesions,
        tmp_path,
        labels=[label_image(tmp_path / f'{i}.nii.gz', box) for i, box in enumerate((OLD, longer))],
        years=[0.0],
        sessions=['ses-1', 'ses-2'],
        brains=[label_image(tmp_path / 'brain.nii.gz', WHOLE)] * 2,
        gone=[label_image(tmp_path / 'gone.nii.gz')],
        new=[label_image(tmp_path / 'new.nii.gz', (12, *OLD[1:]))],
        new_pairs=[0],
    )
    rows = run(
        AssessDissemination,
        tmp_path,
        tracks=found.tracks,
        changes=found.rows,
        measures=found.measures,
        visits=['ses-1', 'ses-2'],
        lesions=[[lesion(1, 'periventricular')]] * 2,
        judged=[1],
    ).rows
    (item,) = [row for row in rows if row['item'] == 'new_t2_lesion']
    assert item['state'] == 'not measured'
    assert item['note'] == 'ses-2: new tissue touches lesion 1: growth or new'


def test_what_a_detector_marks_outside_all_lesions_leaves_new_ones_open(tmp_path):
    found = run(
        TrackLesions,
        tmp_path,
        labels=[label_image(tmp_path / f'{number}.nii.gz', OLD) for number in range(2)],
        years=[0.0],
        sessions=['ses-1', 'ses-2'],
        brains=[label_image(tmp_path / 'brain.nii.gz', WHOLE)] * 2,
        gone=[label_image(tmp_path / 'gone.nii.gz')],
        new=[label_image(tmp_path / 'new.nii.gz', (15, *OLD[1:]))],
        new_pairs=[0],
    )
    states = items(
        tmp_path,
        tracks=found.tracks,
        changes=found.rows,
        measures=found.measures,
        visits=['ses-1', 'ses-2'],
        lesions=[[lesion(1, 'periventricular')]] * 2,
        judged=[1],
    )
    assert states['new_t2_lesion'][0] == 'not measured'


def test_with_an_obstacle_nothing_is_measured_and_the_reason_is_told(tracked, tmp_path):
    _, found = tracked
    rows = run(
        AssessDissemination,
        tmp_path,
        tracks=found.tracks,
        changes=found.rows,
        measures=found.measures,
        visits=['ses-1', 'ses-2', 'ses-3'],
        lesions=[[{'lesion': 1}]] * 3,
        judged=[1, 2],
        obstacle='no zones of the brain',
    ).rows
    assert {row['state'] for row in rows} == {'not measured'}
    assert all(row['note'] == 'no zones of the brain' for row in rows)
    assert [row['item'] for row in rows] == not_assessed('')[1]['item'].tolist()


def test_one_visit_can_be_disseminated_in_space_but_not_compared(tmp_path):
    first = {'visit': 0, 'parent': None, 'merged_into': None, 'state': 'first', 'volume_ml': 0.1}
    states = items(
        tmp_path,
        tracks=[{**first, 'identifier': number, 'label': number} for number in (1, 2)],
        changes=[],
        measures=[],
        visits=['the visit'],
        lesions=[[lesion(1, 'periventricular'), lesion(2, 'juxtacortical')]],
        judged=[],
    )
    assert states['dissemination_in_space'] == ('met', '1,2')
    assert states['new_t2_lesion'][0] == 'not measured'


def test_lines_of_a_visit_sum_up_to_its_point():
    lines = [
        {'label': 3, 'volume_ml': 0.5, 'state': 'new'},
        {'label': 1, 'volume_ml': 1.0, 'state': 'stable'},
        {'label': 0, 'volume_ml': 0.0, 'state': 'resolved'},
    ]
    assert TimelinePoint.of('ses-2', '', lines) == TimelinePoint('ses-2', '', 2, 1.5, 1)


@pytest.mark.parametrize(
    'times',
    [
        ('2020-01-01', ''),
        ('1800-01-01T00:00:00', '1800-01-01T00:00:00'),
        ('2020-01-02', '2020-01-01'),
    ],
)
def test_dates_that_are_absent_or_do_not_grow_make_no_axis(times):
    assert days_since_first(times) is None


@pytest.mark.parametrize('times', [('2020-01-01', '2021-01-01'), ('', '')])
def test_new_lesions_are_marked_in_red_and_nothing_else_is(tmp_path, times):
    drawn = []
    for new in (0, 2):
        points = [
            TimelinePoint('ses-1', times[0], 3, 2.0, 0),
            TimelinePoint('ses-2', times[1], 5, 2.5, new),
        ]
        picture = Image.open(timeline(points, tmp_path / 't.png')).convert('RGB')
        pixels = np.asarray(picture).astype(int)
        drawn.append(((pixels[..., 0] > 150) & (pixels[..., 1:] < 70).all(axis=-1)).sum())
    assert drawn[0] == 0
    assert drawn[1] > 50


def described(**measured):
    """A model whose description has these figures."""
    figures = [
        Figure(measure=f'lesion-wise {name}', value=value, n=4, data='none')
        for name, value in measured.items()
    ]
    return SimpleNamespace(name='toy', validation=figures)


@pytest.mark.parametrize(
    ('brain', 'models', 'reason'),
    [
        ('network', {}, 'classical baseline'),
        ('template', {'lesions': described()}, '--brain-extraction network'),
        ('network', {'lesions': described()}, 'was not measured'),
        ('network', {'lesions': described(Dice=0.9)}, "with the measure 'lesion-wise PPV'"),
        ('network', {'lesions': described(PPV=0.3)}, 'a share of 0.30 are lesions (n = 4)'),
        ('network', {'lesions': described(PPV=0.5)}, ''),
        ('network', {'lesions': described(PPV=0.9), 'longitudinal': described(PPV=0.2)}, '0.20'),
        ('network', {'lesions': described(PPV=0.9), 'longitudinal': described(PPV=0.6)}, ''),
    ],
)
def test_the_criteria_need_zones_and_a_network_that_is_mostly_right(
    monkeypatch, brain, models, reason
):
    monkeypatch.setattr(changes, 'models_for', lambda settings: models)
    settings = Settings(
        bids_dir='/bids', output_dir='/out', levels=('participant',), brain_extraction=brain
    )
    obstacle = changes._obstacle(settings)
    assert reason in obstacle
    if 'a share of' in obstacle:  # what to do is told beside the reason
        flag = '--new-lesion-method' if 'longitudinal' in models else '--lesion-model'
        assert f'Give one by {flag} whose model.toml' in obstacle
    assert bool(obstacle) == bool(reason)
