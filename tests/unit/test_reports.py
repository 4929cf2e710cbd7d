import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from msapp.reports.group import days_since_first, outliers, robust_z, write_group_report
from msapp.reports.html import show
from msapp.reports.participant import ParticipantReport, VisitSection, write_participant_report
from msapp.stats.change_columns import (
    CANDIDATES,
    CHANGES,
    DISSEMINATION,
    NEW_LESIONS,
    SELF_CHECK,
)
from msapp.stats.columns import LESIONS, VISITS
from msapp.stats.tables import collect_group, write_table

ODD = '"><script>alert(1)</script>'
EXTERNAL = re.compile(r'(?:src|srcset|data-src)\s*=\s*["\']?(?!data:)[^"\'> ]', re.I)


def row(columns, **values):
    return dict.fromkeys(columns) | values


def summary(root, participant, session, **values):
    name = f'{participant}_{session}'
    folder = root / participant / session / 'anat'
    keys = {'participant_id': participant, 'session_id': session}
    write_table(folder / f'{name}_desc-summary_stats.tsv', [row(VISITS, **keys, **values)], VISITS)
    return folder, keys


def picture(root, name):
    path = root / 'sub-01' / 'figures' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)


def page_of(root, **values):
    report = ParticipantReport(participant='01', **({'visits': ()} | values))
    return write_participant_report(root, report).read_text()


FLAIR = {'contrast': 'FLAIR', 'file': 'a.nii.gz', 'voxel_size_mm': '1 x 1 x 3', 'note': ''}


def test_a_report_loads_nothing_and_links_to_itself_alone(tmp_path):
    picture(tmp_path, 'sub-01_ses-1_desc-mosaic_FLAIR.png')
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),), methods='N4 (2010).')
    assert 'data:image/png;base64,' in page
    assert not EXTERNAL.search(page)
    links = re.findall(r'href="([^"]*)"', page)
    assert all(link.startswith('#') for link in links)
    assert "default-src 'none'" in page
    assert '@import' not in page
    assert 'url(' not in page


def test_every_link_inside_the_page_has_its_target(tmp_path):
    page = page_of(tmp_path, visits=(VisitSection('1', None), VisitSection('2', None)))
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert {link[1:] for link in re.findall(r'href="(#[^"]+)"', page)} <= targets


def test_names_and_messages_are_escaped(tmp_path):
    page = page_of(
        tmp_path,
        visits=(VisitSection(f'1{ODD.replace("/", "")}', ODD, ({'contrast': ODD},), (ODD,)),),
        errors=(ODD,),
        warnings=(ODD,),
        versions={ODD: ODD},
        settings={ODD: ODD},
        methods=ODD,
    )
    assert '<script>alert' not in page
    assert page.count('<script>') == 1


def test_a_report_of_nothing_says_so_in_each_section(tmp_path):
    page = page_of(
        tmp_path, visits=(VisitSection('1', None), VisitSection('2', None)), errors=('no FLAIR',)
    )
    assert 'Not complete: 1 error.' in page
    for name in (
        'sub-01_ses-1_desc-lesions_FLAIR.png',
        'sub-01_ses-1_desc-brain_FLAIR.png',
        'sub-01_ses-2_desc-before_FLAIR.png',
        'sub-01_ses-2_desc-candidates_FLAIR.png',
        'sub-01_ses-2_desc-candidates_stats.tsv',
        'interactive viewer',
    ):
        assert re.search(rf'Not made:.*{re.escape(name)}', page), name


def test_a_contrast_that_was_not_found_is_not_asked_for(tmp_path):
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    assert 'desc-mosaic_FLAIR.png' in page
    assert 'desc-mosaic_T2w.png' not in page


def test_a_visit_with_t1w_alone_is_read_on_t1w(tmp_path):
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR | {'contrast': 'T1w'},)),))
    assert 'sub-01_ses-1_desc-lesions_T1w.png' in page
    assert 'desc-alignment_T1w.png' not in page


def test_a_broken_picture_is_not_embedded(tmp_path):
    picture(tmp_path, 'sub-01_desc-brain_FLAIR.png')
    (tmp_path / 'sub-01' / 'figures' / 'sub-01_desc-brain_FLAIR.png').write_bytes(b'half')
    page = page_of(tmp_path, visits=(VisitSection(None, None, (FLAIR,)),))
    assert re.search(r'Not made:.*sub-01_desc-brain_FLAIR.png', page)


def test_missing_measures_read_not_measured_and_candidates_not_confirmed(tmp_path):
    folder, keys = summary(
        tmp_path, 'sub-01', 'ses-2', since_session='ses-1', lesion_volume_ml=3.21, lesion_count=0
    )
    candidate = row(CANDIDATES, **keys, candidate=1, volume_mm3=54)
    write_table(folder / 'sub-01_ses-2_desc-candidates_stats.tsv', [candidate], CANDIDATES)
    write_table(folder / 'sub-01_ses-2_desc-lesions_stats.tsv', [], LESIONS)
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    assert '>3.21<' in page
    assert '>not measured<' in page
    assert 'Candidates are not confirmed new lesions.' in page
    assert 'Changes: ses-2 since ses-1' in page
    assert 'No lesion was found.' in page
    assert 'Complete, without a warning' in page


def told(page, name):
    """Return the cells of a row of the summary of the visits."""
    line = re.search(rf'<tr><th scope="row"[^>]*>{name}( <|</th>).*?</tr>', page, re.S)[0]
    return re.findall(r'<td[^>]*>([^<]*)</td>', line)


def test_words_that_a_visit_has_not_are_no_measure(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-1', lesion_contrasts='FLAIR,T1w', mni_alignment=1.0146)
    summary(
        tmp_path,
        'sub-01',
        'ses-2',
        lesion_contrasts='FLAIR',
        lesion_contrasts_left_out='T1w',
        since_session='ses-1',
    )
    summary(tmp_path, 'sub-01', 'ses-3')
    page = page_of(tmp_path, visits=tuple(VisitSection(name, None) for name in '1234'))
    assert told(page, 'scan time') == ['–', '–', '–', 'not made']
    assert told(page, 'compared with') == ['–', 'ses-1', '–', 'not made']
    assert told(page, 'lesion contrasts left out') == ['none', 'T1w', '–', 'not made']
    assert told(page, 'lesion count') == ['not measured'] * 3 + ['not made']
    # Its limit is 1.015.
    assert told(page, 'MNI alignment')[:2] == ['1.0146', 'not measured']
    group = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    shown = group[group.index('id="visits"') :]
    line = re.search(r'<tr>.*?ses-1</td>.*?</tr>', shown, re.S)[0]
    cells = re.findall(r'<td[^>]*>([^<]*)</td>', line)
    assert cells[2:5] == ['–', '–', 'not measured'], 'scan time, contrasts, interval'
    assert '1.0146' in cells
    assert '1 value (1.0146): too few' in group


@pytest.mark.parametrize(
    ('measures', 'words'),
    [
        ({'mni_alignment': 1.0061}, 'ses-2: its match with the MNI template is weak (1.0061;'),
        ({'visit_motion_mm': 6.28}, 'ses-2: after the rigid alignment 6.3 mm are left'),
        (
            {'lesion_contrasts': 'FLAIR', 'lesion_contrasts_left_out': 'T1w'},
            'does not hold the whole brain at this visit or at another of this participant.',
        ),
    ],
)
def test_a_measure_that_looks_wrong_is_a_warning(tmp_path, measures, words):
    summary(tmp_path, 'sub-01', 'ses-2', **measures)
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    assert words in page
    assert 'Complete, with 1 warning to read first.' in page


@pytest.mark.parametrize(
    ('before', 'now', 'warned'),
    [('FLAIR,T1w', 'FLAIR', True), ('FLAIR', 'FLAIR', False), (None, 'FLAIR', False)],
)
def test_lesions_of_two_visits_from_other_contrasts_are_a_warning(tmp_path, before, now, warned):
    """The visits lie on both sides of one that was not compared."""
    summary(tmp_path, 'sub-01', 'ses-1', lesion_contrasts=before)
    summary(tmp_path, 'sub-01', 'ses-2')
    summary(tmp_path, 'sub-01', 'ses-3', lesion_contrasts=now, lesions_since_session='ses-1')
    page = page_of(tmp_path, visits=tuple(VisitSection(name, None) for name in '123'))
    words = 'ses-3: lesions were found from FLAIR here and from FLAIR and T1w at ses-1, with which'
    assert (words in page) == warned
    assert ('with which they are compared' in page) == warned


def test_what_another_run_left_behind_is_not_shown(tmp_path):
    """This run compared no visits; one before it did, and its files are still there."""
    folder, keys = summary(tmp_path, 'sub-01', 'ses-2')
    candidate = row(CANDIDATES, **keys, since_session='ses-1', candidate=1, volume_mm3=54)
    write_table(folder / 'sub-01_ses-2_desc-candidates_stats.tsv', [candidate], CANDIDATES)
    item = row(DISSEMINATION, participant_id='sub-01', item='new_t2_lesion', state='met')
    write_table(tmp_path / 'sub-01' / 'sub-01_desc-dissemination_stats.tsv', [item], DISSEMINATION)
    summary(tmp_path, 'sub-01', 'ses-1')
    visits = (VisitSection('1', None, (FLAIR,)), VisitSection('2', None, (FLAIR,)))
    page = page_of(tmp_path, visits=visits, followed=False)
    assert 'new_t2_lesion' not in page
    assert 'Candidates since' not in page
    assert 'new_t2_lesion' in page_of(tmp_path, visits=visits)


def test_measures_as_usual_are_no_warning(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-2', mni_alignment=1.016, visit_motion_mm=0.5)
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    assert 'Complete, without a warning' in page


def test_new_and_resolved_lesions_come_first_and_stable_ones_are_folded_away(tmp_path):
    folder, keys = summary(
        tmp_path, 'sub-01', 'ses-2', lesions_since_session='ses-0', new_lesion_count=2
    )
    kinds = {'stable': 9.0, 'shrunken': 7.0, 'resolved': 6.0, 'new': 0.5}
    volumes = [(kind, volume, '') for kind, volume in kinds.items()] + [('new', 0.75, '')]
    changes = [
        row(CHANGES, **keys, kind=kind, volume_before_ml=0.0, volume_after_ml=volume)
        for kind, volume, _ in volumes
    ]
    write_table(folder / 'sub-01_ses-2_desc-changes_stats.tsv', changes, CHANGES)
    page = page_of(
        tmp_path, visits=(VisitSection('2', None, (FLAIR,)),), change_cautions=('only as good',)
    )
    shown = page[page.index('Changes: ses-2 since ses-0</h2>') :]
    assert '<p class="note">only as good</p>' in shown
    assert '2 new, 1 resolved, 0 enlarged, 1 shrunken, 0 split' in shown
    first = page[: page.index('Summary of the visits</h2>')]
    assert 'ses-2 since ses-0</a>: 2 new, 1 resolved' in first
    assert 'sub-01_desc-timeline_FLAIR.png' in page
    cells = re.findall(r'>(new|resolved|shrunken|stable)</td>', shown)
    assert cells == ['new', 'new', 'resolved', 'shrunken', 'stable']
    assert shown.index('>0.750</td>') < shown.index('>0.500</td>')
    assert shown.index('1 stable lesion</summary>') < shown.index('>stable</td>')
    assert 'sub-01_ses-2_desc-newlesions_FLAIR.png' in shown
    assert 'Candidates since' not in shown


def test_the_caption_of_the_changes_names_a_picture_that_follows(tmp_path):
    folder, keys = summary(
        tmp_path, 'sub-01', 'ses-2', lesions_since_session='ses-1', since_session='ses-1'
    )
    change = row(CHANGES, **keys, kind='new', volume_after_ml=0.1)
    write_table(folder / 'sub-01_ses-2_desc-changes_stats.tsv', [change], CHANGES)
    picture(tmp_path, 'sub-01_ses-2_desc-changemap_FLAIR.png')
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    _, caption, after = page.partition('under &#34;Before and after&#34; below.')
    assert caption
    assert '<h3>Before and after: ses-1 and this visit</h3>' in after


def test_the_criteria_are_headed_research_use(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-1')
    item = row(
        DISSEMINATION,
        participant_id='sub-01',
        criterion='space',
        item='periventricular',
        state='met',
        lesions='1,4',
    )
    other = item | {'item': 'cord', 'state': 'not measured', 'lesions': None}
    path = tmp_path / 'sub-01' / 'sub-01_desc-dissemination_stats.tsv'
    write_table(path, [item, other], DISSEMINATION)
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    shown = page.partition('Research use: imaging items of the McDonald criteria 2017</h3>')[2]
    assert re.search(r'Research use only: .*?Not a diagnosis\.</p>', shown)
    assert '>1,4</td>' in shown
    # The state of an item is one of its words, and not the same as no words.
    cells = re.findall(r'<td[^>]*>([^<]*)</td>', shown.partition('</table>')[0])
    assert cells.count('not measured') == 1
    assert '–' in cells
    assert 'desc-timeline' not in page  # one visit has none


@pytest.mark.parametrize('notes', [('no zones', 'no zones'), ('no zones', 'no cord')])
def test_one_reason_for_which_no_item_is_measured_stands_above_them(tmp_path, notes):
    summary(tmp_path, 'sub-01', 'ses-1')
    items = [
        row(DISSEMINATION, participant_id='sub-01', item=name, state='not measured', note=note)
        for name, note in zip(('periventricular', 'spinal_cord'), notes, strict=True)
    ]
    path = tmp_path / 'sub-01' / 'sub-01_desc-dissemination_stats.tsv'
    write_table(path, items, DISSEMINATION)
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    above, _, below = page.partition('id="criteria"')[2].partition('<table>')
    shared = notes[0] == notes[1]
    assert ('None of these items is measured' in above) == (notes[0] in above) == shared
    assert (notes[0] in below.partition('</table>')[0]) != shared


def test_a_visit_that_was_not_compared_has_no_changes(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-1')
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    assert 'desc-changemap' not in page


def test_a_broken_table_is_told_in_its_place(tmp_path):
    folder, _ = summary(tmp_path, 'sub-01', 'ses-1', lesion_count=1)
    (folder / 'sub-01_ses-1_desc-lesions_stats.tsv').write_text('lesion\nmany\n')
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    assert 'column lesion holds text' in page


def test_the_viewer_page_cannot_leave_its_frame(tmp_path):
    folder = tmp_path / 'sub-01' / 'figures'
    folder.mkdir(parents=True)
    (folder / 'sub-01_desc-viewer_FLAIR.html').write_text('<b title="x">viewer</b>')
    page = page_of(tmp_path, visits=(VisitSection(None, None, (FLAIR,)),))
    assert 'data-page="&lt;b title=&#34;x&#34;&gt;viewer&lt;/b&gt;"' in page
    assert 'sandbox="allow-scripts"' in page


@pytest.mark.parametrize(('value', 'text'), [(0.0, '0'), (0.00123456, '0.00123'), (99.96, '100.0')])
def test_numbers_are_short(value, text):
    assert show(value) == text


def test_robust_z_of_a_known_sample():
    # median 3, MAD 1: (100 - 3) / 1.4826
    z = robust_z(np.array([1.0, 2, 3, 4, 100, np.nan]))
    assert z[4] == pytest.approx(97 / 1.4826)
    assert np.isnan(z[5])
    assert robust_z(np.array([5.0, 5, 5, 9])).tolist() == [0, 0, 0, 0]
    assert np.isnan(robust_z(np.array([np.nan]))).all()


def test_fewer_than_five_visits_have_no_outliers():
    values = pd.DataFrame({'brain_volume_ml': [1400.0, 1401, 1402, 5.0]})
    assert not outliers(values, 'brain_volume_ml').any()
    more = pd.DataFrame({'brain_volume_ml': [1400.0, 1401, 1402, 1403, 5.0]})
    assert outliers(more, 'brain_volume_ml').tolist() == [False] * 4 + [True]


def test_days_come_from_dates_or_from_the_chain_of_intervals():
    visits = pd.DataFrame(
        [
            ('a', 'ses-1', '2020-01-01T08:00:00', None, np.nan),
            ('a', 'ses-2', '2020-01-31T08:00:00', 'ses-1', 31.0),
            ('b', 'ses-1', None, None, np.nan),
            ('b', 'ses-10', None, 'ses-2', 5.0),
            ('b', 'ses-2', None, 'ses-1', 10.0),
            ('c', None, None, None, np.nan),
        ],
        columns=['participant_id', 'session_id', 'acq_time', 'since_session', 'interval_days'],
    )
    assert days_since_first(visits).tolist() == [0, 30, 0, 15, 10, 0]


def test_visits_that_were_not_compared_have_no_day():
    visits = pd.DataFrame(
        [
            ('a', 'ses-1', None, None, np.nan),
            ('a', 'ses-2', None, None, np.nan),
            ('b', 'ses-1', '2020-01-01', None, np.nan),
            ('b', 'ses-2', None, 'ses-1', np.nan),
            ('c', 'ses-1', '2020-01-01T09:00:00', None, np.nan),
            ('c', 'ses-2', '2020-01-01T15:00:00', 'ses-1', np.nan),
        ],
        columns=['participant_id', 'session_id', 'acq_time', 'since_session', 'interval_days'],
    )
    days = days_since_first(visits)
    assert days[:2].isna().all(), 'not both on the first day'
    assert days[2] == 0
    assert np.isnan(days[3])
    assert np.isnan(days[5]), 'times of one date say nothing'


def test_the_plot_over_time_counts_visits_that_it_cannot_place(tmp_path):
    for participant in ('sub-01', 'sub-02'):
        summary(tmp_path, participant, 'ses-1', lesion_volume_ml=3.0)
        summary(tmp_path, participant, 'ses-2', lesion_volume_ml=4.0, since_session='ses-1')
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert '2 visits without a date or an interval not shown.' in page


@pytest.mark.parametrize(
    ('other', 'shown'),
    [({}, True), ({'detected_new_model_sha256': 'b'}, False), ({'since_session': 'ses-0'}, False)],
)
def test_a_check_of_other_weights_or_another_pair_is_not_shown(tmp_path, other, shown):
    model = {'detected_new_model': 'newlesions', 'detected_new_model_sha256': 'aaa'}
    folder, keys = summary(tmp_path, 'sub-01', 'ses-2', since_session='ses-1', **model)
    write_table(folder / 'sub-01_ses-2_desc-candidates_stats.tsv', [], CANDIDATES)
    write_table(folder / 'sub-01_ses-2_desc-newlesions_stats.tsv', [], NEW_LESIONS)
    checked = model | {'since_session': 'ses-1', 'diameter_mm': 3} | other
    line = row(SELF_CHECK, **keys, **checked)
    write_table(folder / 'sub-01_ses-2_desc-selfcheck_stats.tsv', [line], SELF_CHECK)
    picture(tmp_path, 'sub-01_ses-2_desc-selfcheck_FLAIR.png')
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    assert ('Painted lesions' in page) == shown


@pytest.mark.parametrize(('number', 'words'), [(27, '27 of 27 shown'), (52, '40 of 52 shown')])
def test_captions_tell_how_many_new_lesions_and_places_are_shown(tmp_path, number, words):
    folder, keys = summary(
        tmp_path,
        'sub-01',
        'ses-2',
        since_session='ses-1',
        lesions_since_session='ses-1',
        detected_new_model='newlesions',
    )
    tables = {
        'changes': (CHANGES, {'kind': 'new', 'volume_after_ml': 0.1}),
        'newlesions': (NEW_LESIONS, {}),
        'candidates': (CANDIDATES, {}),
    }
    for kind, (columns, values) in tables.items():
        rows = [row(columns, **keys, **values)] * number
        write_table(folder / f'sub-01_ses-2_desc-{kind}_stats.tsv', rows, columns)
    for panel in ('newlesions', 'detected', 'candidates'):
        picture(tmp_path, f'sub-01_ses-2_desc-{panel}_FLAIR.png')
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    captions = re.findall(r'<figcaption>(.*?shown), largest first\. (\w+)', page)
    assert captions == [(words, 'Each'), (words, 'Each'), (f'8 of {number} shown', 'Each')]


def test_a_size_that_was_not_painted_has_its_row_and_the_note_says_where_lesions_are(tmp_path):
    model = {'detected_new_model': 'newlesions', 'detected_new_model_sha256': 'aaa'}
    folder, keys = summary(tmp_path, 'sub-01', 'ses-2', since_session='ses-1', **model)
    none = dict.fromkeys(('injected_count', 'recovered_count', 'half_marked_count'), 0)
    checked = keys | model | none | {'since_session': 'ses-1'}
    line = row(SELF_CHECK, **checked, diameter_mm=12.0, volume_mm3=905.0)
    write_table(folder / 'sub-01_ses-2_desc-selfcheck_stats.tsv', [line], SELF_CHECK)
    picture(tmp_path, 'sub-01_ses-2_desc-selfcheck_FLAIR.png')
    page = page_of(tmp_path, visits=(VisitSection('2', None, (FLAIR,)),))
    shown = page.partition('Self-check: how many painted lesions were found</h3>')[2]
    note = ' '.join(shown.partition('</p>')[0].split())
    assert 'none in cortex, hardly any beside the ventricles or below the tentorium' in note
    table = shown.partition('</table>')[0]
    assert 'half marked count' in table
    cells = re.findall(r'<td[^>]*>([^<]*)</td>', table)
    assert cells == ['12', '905', '0', '0', 'not measured', '0', 'not measured']


def test_a_group_of_one_draws_no_distribution(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-1', lesion_volume_ml=3.0, brain_volume_ml=1400.0)
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert 'not a distribution' in page
    assert 'too few to call an outlier' in page
    assert '<img' not in page
    assert '(no report)' in page


def test_a_group_names_its_outlier_links_reports_and_lists_problems(tmp_path):
    for number in range(1, 8):
        volume = 640.0 if number == 4 else 1400.0 + number
        summary(tmp_path, f'sub-0{number}', 'ses-1', lesion_volume_ml=3.0, brain_volume_ml=volume)
    (tmp_path / 'sub-01.html').write_text('')
    (tmp_path / 'sub-09').mkdir()
    page = write_group_report(
        tmp_path, collect_group(tmp_path), versions={'msapp': '1'}
    ).read_text()
    line = re.search(r'<tr>.*?sub-04.*?</tr>', page[page.index('id="visits"') :], re.S)[0]
    assert 'brain volume' in line
    assert 'href="sub-01.html"' in page
    assert '1 outlier (red)' in page
    assert 'sub-09_desc-summary_stats.tsv' in page
    assert not EXTERNAL.search(page)


def test_an_empty_group_is_a_page_too(tmp_path):
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert '0 participants' in page
    assert 'No visit was found.' in page


def test_a_group_counts_nothing_where_nothing_was_measured(tmp_path):
    summary(tmp_path, 'sub-01', 'ses-1', brain_volume_ml=1400.0)
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert 'lesions not measured' in page
    assert 'candidates not looked for' in page
    assert '0 lesions' not in page
    assert '0 new' not in page
    assert '0 candidates' not in page


def test_a_group_tells_in_how_many_visits_or_pairs_each_count_was_made(tmp_path):
    for number in (1, 2, 3):
        summary(tmp_path, f'sub-0{number}', 'ses-1', lesion_count=4)
        new = {'new_lesion_count': 5} if number == 1 else {}
        summary(tmp_path, f'sub-0{number}', 'ses-2', candidate_count=number, **new)
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert '3 pairs of visits compared;' in page
    assert 'lesions, each counted at every visit that has it: 12 (n = 3 visits);' in page
    assert 'new lesions by change classes: 5 (n = 1 pair);' in page
    assert 'candidates (not confirmed new lesions): 6 (n = 3 pairs).' in page


@pytest.mark.parametrize(('motion', 'verdict'), [(0.5, 'good'), (9.0, 'fair')])
def test_a_group_names_the_doubtful_visits_and_is_not_good_then(tmp_path, motion, verdict):
    summary(tmp_path, 'sub-01', 'ses-1', mni_alignment=1.2)
    summary(tmp_path, 'sub-01', 'ses-2', mni_alignment=1.2, visit_motion_mm=motion)
    page = write_group_report(tmp_path, collect_group(tmp_path), versions={}).read_text()
    assert f'class="verdict {verdict}"' in page
    doubtful = '<li>sub-01, ses-2: after the rigid alignment 9.0 mm are left' in page
    assert doubtful == ('1 doubt about visits, listed below.' in page) == (verdict == 'fair')


def test_a_table_of_lesions_of_an_earlier_run_is_not_shown(tmp_path):
    folder, keys = summary(tmp_path, 'sub-01', 'ses-1', lesion_count=None)
    line = row(LESIONS, **keys, lesion=1, volume_mm3=2500)
    write_table(folder / 'sub-01_ses-1_desc-lesions_stats.tsv', [line], LESIONS)
    page = page_of(tmp_path, visits=(VisitSection('1', None, (FLAIR,)),))
    assert 'Table of 1 lesion' not in page
    assert 'Not measured by the last run.' in page
