import json
import math

import numpy as np
import pytest

from msapp.errors import InputError, InternalError
from msapp.lesions import dissemination
from msapp.lesions.change import CHANGE_COLUMNS, Comparison
from msapp.lesions.tracks import TRACK_COLUMNS
from msapp.provenance import SUMMARY_COLUMNS
from msapp.stats.change_columns import CANDIDATES, CHANGES, DISSEMINATION, NEW_LESIONS, TRACKS
from msapp.stats.columns import LESIONS, OUTCOMES, TEXT_COLUMNS, VISITS
from msapp.stats.tables import (
    TABLES,
    collect_group,
    read_table,
    write_group_tables,
    write_table,
)


def row(columns, **values):
    return dict.fromkeys(columns) | values


def visit_files(root, participant='sub-01', session='ses-1', **values):
    """Write the tables of one visit; a later visit has ``since_session`` in ``values``."""
    name = f'{participant}_{session}' if session else participant
    folder = root / participant / (session or '') / 'anat'
    keys = {'participant_id': participant, 'session_id': session}
    measures = {'lesion_count': 1, 'lesion_volume_ml': 2.5} | values
    write_table(
        folder / f'{name}_desc-summary_stats.tsv', [row(VISITS, **keys, **measures)], VISITS
    )
    lesion = row(LESIONS, **keys, lesion=1, volume_mm3=2500)
    write_table(folder / f'{name}_desc-lesions_stats.tsv', [lesion], LESIONS)
    if 'since_session' in values:
        write_table(folder / f'{name}_desc-candidates_stats.tsv', [], CANDIDATES)
    return folder


@pytest.mark.parametrize('columns', [VISITS, *TABLES.values()])
def test_every_measure_has_a_description_a_unit_and_a_source(columns):
    for name, entry in columns.items():
        assert entry['Description'].endswith('.')
        assert entry['Source']
        assert ('Units' in entry) == (name not in TEXT_COLUMNS), name


def test_the_tables_have_the_columns_that_comparisons_give():
    assert [name for name in CHANGES if name in CHANGE_COLUMNS] == list(CHANGE_COLUMNS)
    assert set(CHANGES) - set(CHANGE_COLUMNS) <= set(CANDIDATES)  # what names a row
    assert list(TRACKS) == ['participant_id', 'session_id', *TRACK_COLUMNS]
    assert list(DISSEMINATION) == ['participant_id', *dissemination.COLUMNS]
    nothing = Comparison([], np.zeros((1, 1, 1), np.uint8), outside_mm3=())
    assert set(nothing.measures()) <= set(VISITS)


def test_identifiers_stay_text(tmp_path):
    path = tmp_path / 'a_desc-changes_stats.tsv'
    write_table(path, [row(CHANGES, identifiers_before='3,7', identifiers_after='3')], CHANGES)
    back = read_table(path).iloc[0]
    assert (back['identifiers_before'], back['identifiers_after']) == ('3,7', '3')


def test_a_table_reads_back_as_written(tmp_path):
    path = tmp_path / 'a_desc-summary_stats.tsv'
    written = row(
        VISITS,
        participant_id='sub-01',
        session_id='ses-007',
        lesion_count=np.int64(3),
        lesion_volume_ml=1234.56789,
        brain_volume_ml=float('nan'),
        contrasts=('FLAIR', 'T1w'),
    )
    write_table(path, [written], VISITS)
    back = read_table(path).iloc[0]
    assert back['session_id'] == 'ses-007'
    assert back['contrasts'] == 'FLAIR,T1w'
    assert back['lesion_count'] == 3
    assert back['lesion_volume_ml'] == pytest.approx(1234.57)
    assert math.isnan(back['brain_volume_ml'])
    assert back['since_session'] is None
    assert json.loads(path.with_suffix('.json').read_text()) == VISITS


def test_missing_values_are_written_as_bids_asks(tmp_path):
    path = tmp_path / 't.tsv'
    columns = {name: {'Description': name} for name in 'abcd'}
    write_table(path, [{'a': None, 'b': float('inf'), 'c': 'x\ty', 'd': True}], columns)
    assert path.read_text() == 'a\tb\tc\td\nn/a\tn/a\tx y\ttrue\n'


def test_labels_that_look_like_numbers_stay_text(tmp_path):
    path = tmp_path / 't.tsv'
    path.write_text('participant_id\tlesion\n01\t2\n')
    table = read_table(path)
    assert table['participant_id'].tolist() == ['01']
    assert table['lesion'].tolist() == [2.0]


def test_an_empty_table_has_its_header(tmp_path):
    path = tmp_path / 't.tsv'
    write_table(path, [], CANDIDATES)
    assert path.read_text() == '\t'.join(CANDIDATES) + '\n'
    assert len(read_table(path)) == 0


@pytest.mark.parametrize(
    ('wrong', 'named'), [({'a': 1}, "missing columns ['b']"), ({'a': 1, 'b': 2, 'c': 3}, "['c']")]
)
def test_unknown_and_missing_columns_are_refused(tmp_path, wrong, named):
    columns = {'a': {'Description': ''}, 'b': {'Description': ''}}
    with pytest.raises(InternalError) as caught:
        write_table(tmp_path / 't.tsv', [wrong], columns)
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_text_in_a_measure_is_refused_and_named(tmp_path):
    path = tmp_path / 't.tsv'
    path.write_text('lesion_volume_ml\nmany\n')
    with pytest.raises(InputError, match='column lesion_volume_ml holds text'):
        read_table(path)


def test_a_group_holds_every_visit_and_no_candidates_is_fine(tmp_path):
    visit_files(tmp_path)
    visit_files(tmp_path, session='ses-2', since_session='ses-1', candidate_count=0)
    visit_files(tmp_path, participant='sub-02', session=None)
    tables = collect_group(tmp_path)
    assert tables.problems == ()
    assert tables.visits['session_id'].tolist() == ['ses-1', 'ses-2', None]
    assert tables.visits['lesion_volume_ml'].dtype == float
    assert len(tables.lesions) == 3
    assert list(tables.candidates.columns) == list(CANDIDATES)
    assert len(tables.candidates) == 0
    assert tables.candidates['volume_mm3'].dtype == float
    assert len(tables.changes) == 0


def test_changes_are_due_where_new_lesions_were_counted(tmp_path):
    counts = {f'{kind}_lesion_count': int(kind == 'stable') for kind in OUTCOMES}
    folder = visit_files(tmp_path, session='ses-2', lesions_since_session='ses-1', **counts)
    assert 'desc-changes_stats.tsv: the table is missing' in collect_group(tmp_path).problems[0]
    change = row(CHANGES, participant_id='sub-01', session_id='ses-2', kind='stable')
    write_table(folder / 'sub-01_ses-2_desc-changes_stats.tsv', [change], CHANGES)
    tables = collect_group(tmp_path)
    assert tables.problems == ()
    assert tables.changes['kind'].tolist() == ['stable']


@pytest.mark.parametrize('wrong', list(OUTCOMES))
def test_a_visit_whose_tables_are_of_two_runs_is_left_out(tmp_path, wrong):
    visit_files(tmp_path)
    visit_files(tmp_path, participant='sub-02', lesion_count=2)
    counts = {f'{kind}_lesion_count': int(kind == wrong) for kind in OUTCOMES}
    other = next(kind for kind in OUTCOMES if kind != wrong)
    counts[f'{other}_lesion_count'] = 1
    folder = visit_files(tmp_path, participant='sub-03', lesion_count=1, **counts)
    change = row(CHANGES, participant_id='sub-03', session_id='ses-1', kind=other)
    write_table(folder / 'sub-03_ses-1_desc-changes_stats.tsv', [change], CHANGES)
    tables = collect_group(tmp_path)
    assert tables.visits['participant_id'].tolist() == ['sub-01']
    assert tables.lesions['participant_id'].tolist() == ['sub-01']
    assert len(tables.changes) == 0
    lesions, changes = tables.problems
    assert 'sub-02_ses-1_desc-lesions_stats.tsv: 1 of what lesion_count' in lesions
    assert 'counts 2, so the two are of different runs' in lesions
    assert f'sub-03_ses-1_desc-changes_stats.tsv: 0 of what {wrong}_lesion_count' in changes
    assert 'Run msapp again at participant level for sub-03.' in changes


@pytest.mark.parametrize(
    ('second', 'named'),
    [
        (('lesions', 'aaa'), None),
        (('lesions', 'bbb'), 'lesions aaa (n = 2), lesions bbb (n = 1)'),
        (('threshold', None), 'lesions aaa (n = 2), threshold (n = 1)'),
        ((None, None), None),
    ],
)
def test_visits_of_different_models_are_named(tmp_path, second, named):
    for session, (model, digits) in (
        ('ses-1', ('lesions', 'aaa')),
        ('ses-2', ('lesions', 'aaa')),
        ('ses-3', second),
    ):
        given = {'lesion_model': model, 'lesion_model_sha256': digits}
        visit_files(tmp_path, session=session, **given)
    tables = collect_group(tmp_path)
    assert len(tables.visits) == 3
    assert [named] * bool(named) == [
        problem.removeprefix('lesion_model: not the same for all visits: ').split('. Their')[0]
        for problem in tables.problems
    ]


@pytest.mark.parametrize('alone', ['no network', 'of another pair', ''])
def test_pairs_that_no_network_judged_are_named_beside_others(tmp_path, alone):
    compared = dict.fromkeys((f'{kind}_lesion_count' for kind in OUTCOMES), 0)
    other = compared | {'detected_new_model': 'newlesions', 'detected_new_count': 0}
    judged = other | {'detected_outside_count': 0}
    third = {'no network': compared, 'of another pair': other, '': judged}[alone]
    for session, values in (('ses-1', {}), ('ses-2', judged), ('ses-3', third)):
        folder = visit_files(tmp_path, session=session, **values)
        for name, columns in (('changes', CHANGES), ('newlesions', NEW_LESIONS)):
            write_table(folder / f'sub-01_{session}_desc-{name}_stats.tsv', [], columns)
    problems = collect_group(tmp_path).problems
    assert len(problems) == bool(alone)
    for problem in problems:
        assert 'newlesions (n = 1), two masks alone (n = 1). Their numbers cannot' in problem


def test_different_ways_of_brain_extraction_are_named(tmp_path):
    for session, way in (('ses-1', 'network'), ('ses-2', 'template'), ('ses-3', 'network')):
        visit_files(tmp_path, session=session, brain_extraction=way)
    (problem,) = collect_group(tmp_path).problems
    assert 'brain_extraction: not the same for all visits: network (n = 2), template (n' in problem


def test_one_broken_table_is_named_and_the_rest_is_kept(tmp_path):
    visit_files(tmp_path)
    broken = visit_files(tmp_path, participant='sub-02')
    (broken / 'sub-02_ses-1_desc-summary_stats.tsv').write_bytes(b'\x00\xff\xfe garbage')
    tables = collect_group(tmp_path)
    assert tables.visits['participant_id'].tolist() == ['sub-01']
    (problem,) = tables.problems
    assert 'sub-02_ses-1_desc-summary_stats.tsv' in problem
    assert 'Run msapp again' in problem


def test_absent_tables_are_problems_only_where_they_were_due(tmp_path):
    folder = visit_files(tmp_path)
    (folder / 'sub-01_ses-1_desc-lesions_stats.tsv').unlink()
    (tmp_path / 'sub-03').mkdir()
    problems = collect_group(tmp_path).problems
    assert len(problems) == 2
    assert 'desc-lesions_stats.tsv: the table is missing' in problems[0]
    assert 'sub-03_desc-summary_stats.tsv: the table is missing' in problems[1]


def test_a_table_in_the_folder_of_another_participant_is_left_out(tmp_path):
    folder = visit_files(tmp_path)
    (tmp_path / 'sub-02' / 'ses-1').mkdir(parents=True)
    folder.rename(tmp_path / 'sub-02' / 'ses-1' / 'anat')
    for path in (tmp_path / 'sub-02' / 'ses-1' / 'anat').iterdir():
        path.rename(path.with_name(path.name.replace('sub-01', 'sub-02')))
    tables = collect_group(tmp_path)
    assert len(tables.visits) == 0
    assert any('does not match the folder sub-02' in problem for problem in tables.problems)


def test_tables_of_a_participant_are_no_visit_of_the_group(tmp_path):
    visit_files(tmp_path)
    write_table(tmp_path / 'sub-01' / 'sub-01_desc-tracks_stats.tsv', [], TRACKS)
    tables = collect_group(tmp_path)
    assert (len(tables.visits), tables.problems) == (1, ())


def test_participants_whose_last_run_failed_are_named(tmp_path):
    visit_files(tmp_path)
    (tmp_path / 'sub-02.html').touch()
    line = '{}\tfailed\t65\t0\t0\t0\t0.0\tinput check\tno image\n'
    log = tmp_path / 'logs/1/summary.tsv'
    log.parent.mkdir(parents=True)
    lines = [line.format(label) for label in ('sub-01', 'sub-02', 'sub-03')]
    log.write_text('\t'.join(SUMMARY_COLUMNS) + '\n' + ''.join(lines))
    first, second = collect_group(tmp_path).problems
    assert 'sub-01: its last run did not end well (no image). Numbers of it here are of' in first
    assert second.startswith('sub-02')
    assert second.endswith('It is not in these tables.')


def test_an_empty_output_gives_a_problem_and_empty_tables(tmp_path):
    tables = collect_group(tmp_path)
    assert 'Run msapp at participant level first' in tables.problems[0]
    assert list(tables.visits.columns) == list(VISITS)


def test_group_tables_round_trip(tmp_path):
    visit_files(tmp_path)
    tables = collect_group(tmp_path)
    visits, lesions, changes, _, candidates = write_group_tables(tmp_path, tables)
    assert visits.name == 'group_desc-visits_stats.tsv'
    assert read_table(visits).equals(tables.visits)
    assert read_table(lesions)['volume_mm3'].tolist() == [2500.0]
    assert changes.name == 'group_desc-changes_stats.tsv'
    assert candidates.name == 'group_desc-candidates_stats.tsv'
    assert candidates.with_suffix('.json').exists()
