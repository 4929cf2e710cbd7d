"""Facts about the imaging items of the McDonald criteria: met, not met, not measured, and why."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from msapp.lesions.dissemination import (
    BRAIN_PLACES,
    COLUMNS,
    HEADING,
    MET,
    NOT_MEASURED,
    NOT_MET,
    VisitFindings,
    any_of,
    assess_dissemination,
    gather_findings,
)
from msapp.lesions.location import LOCATIONS
from msapp.lesions.tracks import track_lesions

STATES = (MET, NOT_MET, NOT_MEASURED)
SPACE, TIME = 'dissemination_in_space', 'dissemination_in_time'
DEEP = {1: 'deep', 2: 'deep'}


def visit(places=None, *, number: int = 1, **known) -> VisitFindings:
    for name in ('new', 'unconfirmed', 'touched', 'enhancing'):
        if known.get(name) is not None:
            known[name] = frozenset(known[name])
    return VisitFindings(name=f'ses-{number}', places=places or {}, **known)


def assess(*visits) -> dict[str, dict]:
    """Return the lines of the table by item."""
    table = assess_dissemination(visits).table
    return table.set_index('item').to_dict('index')


def states(*visits) -> dict[str, str]:
    return {item: line['state'] for item, line in assess(*visits).items()}


class TestTable:
    def test_it_is_headed_research_use_and_has_both_criteria(self):
        heading, table = assess_dissemination([visit()])
        assert heading == HEADING
        assert heading.startswith('Research use only')
        assert list(table.columns) == list(COLUMNS)
        assert table[['criterion', 'item']].values.tolist() == [
            ['space', 'periventricular'],
            ['space', 'juxtacortical'],
            ['space', 'infratentorial'],
            ['space', 'spinal_cord'],
            ['space', 'dissemination_in_space'],
            ['time', 'new_t2_lesion'],
            ['time', 'new_enhancing_lesion'],
            ['time', 'enhancing_and_non_enhancing'],
            ['time', 'dissemination_in_time'],
        ]
        assert set(table['state']) <= set(STATES)

    def test_places_are_named_as_locations_are(self):
        assert set(BRAIN_PLACES) == set(LOCATIONS) - {'deep'}

    @pytest.mark.parametrize('several', [*itertools.product(STATES, repeat=3)])
    def test_any_of_several_states(self, several):
        expected = NOT_MET
        if NOT_MEASURED in several:
            expected = NOT_MEASURED
        if MET in several:
            expected = MET
        assert any_of(several) == expected

    def test_any_of_nothing_is_not_measured(self):
        assert any_of([]) == NOT_MEASURED


class TestSpace:
    @pytest.mark.parametrize('pair', [*itertools.combinations(BRAIN_PLACES, 2)])
    def test_two_places_meet_it_without_the_cord(self, pair):
        found = assess(visit({4: pair[0], 9: pair[1], 5: pair[1]}))
        assert found[SPACE]['state'] == MET
        assert found[pair[0]] | {'criterion': ''} == {
            'criterion': '', 'state': MET, 'lesions': '4', 'note': ''
        }  # fmt: skip
        assert found[pair[1]]['lesions'] == '5,9'
        assert set(found[SPACE]['lesions'].split(',')) == {'4', '5', '9'}
        assert found[SPACE]['note'] == f'2 of the 2 places needed: {", ".join(pair)}'

    @pytest.mark.parametrize(
        ('places', 'cord', 'state'),
        [
            ({1: 'periventricular'}, None, NOT_MEASURED),
            ({1: 'periventricular'}, (), NOT_MET),
            ({1: 'periventricular'}, (1,), MET),
            ({1: 'periventricular', 2: 'periventricular'}, (), NOT_MET),
            (DEEP, None, NOT_MET),
            (DEEP, (1,), NOT_MET),
            ({}, None, NOT_MET),
            ({}, (1, 2), NOT_MET),
        ],
    )
    def test_one_place_leaves_it_to_the_cord(self, places, cord, state):
        assert states(visit(places, cord=cord))[SPACE] == state

    @pytest.mark.parametrize(
        ('places', 'cord', 'state'),
        [
            ({1: None}, (), NOT_MET),
            ({1: None}, None, NOT_MEASURED),
            ({1: None}, (1,), NOT_MEASURED),
            ({1: None, 2: None}, (), NOT_MEASURED),
            ({1: None, 2: 'juxtacortical'}, (), NOT_MEASURED),
            ({1: None, 2: 'juxtacortical'}, (1,), MET),
        ],
    )
    def test_a_lesion_of_unknown_place_could_be_in_one_of_them(self, places, cord, state):
        found = assess(visit(places, cord=cord))
        assert found['infratentorial']['state'] == NOT_MEASURED
        assert found['infratentorial']['note'].startswith('place not known of lesion 1')
        assert found[SPACE]['state'] == state

    def test_a_cord_that_was_not_imaged_is_said_so(self):
        found = assess(visit(DEEP))
        assert found['spinal_cord']['state'] == NOT_MEASURED
        assert found['spinal_cord']['note'] == 'spinal cord not imaged'
        assert found['periventricular']['state'] == NOT_MET

    def test_one_visit_with_the_cord_is_enough(self):
        found = assess(visit(DEEP), visit(DEEP, number=2, cord=(3,)), visit(DEEP, number=3))
        assert found['spinal_cord']['state'] == MET
        assert found['spinal_cord']['lesions'] == 'cord-3'
        assert found['spinal_cord']['note'] == 'spinal cord imaged at ses-2'

    def test_lesions_of_the_cord_are_told_apart_by_visit(self):
        found = assess(visit(cord=(1,)), visit(number=2, cord=(1,)))
        assert found['spinal_cord']['lesions'] == 'ses-1:cord-1,ses-2:cord-1'

    def test_lesions_of_all_visits_count(self):
        first = visit({1: 'periventricular'}, cord=())
        second = visit({2: 'juxtacortical'}, number=2)
        assert states(first, second)[SPACE] == MET

    def test_one_lesion_is_in_one_place_that_of_the_last_visit_where_it_is_known(self):
        first = visit({1: 'periventricular'}, cord=())
        second = visit({1: 'juxtacortical'}, number=2)
        third = visit({1: None}, number=3)
        found = states(first, second, third)
        assert found['periventricular'] == NOT_MET
        assert found['juxtacortical'] == MET
        assert found[SPACE] == NOT_MET


class TestTime:
    def test_one_visit_without_gadolinium_measures_nothing(self):
        found = assess(visit(DEEP))
        assert {found[item]['state'] for item in list(found)[5:]} == {NOT_MEASURED}
        assert found['new_t2_lesion']['note'] == 'no second visit'
        assert found['enhancing_and_non_enhancing']['note'] == 'ses-1: enhancement not known'

    def test_a_new_lesion_meets_it(self):
        found = assess(visit(DEEP), visit({**DEEP, 3: 'deep'}, number=2, new={3}))
        assert found['new_t2_lesion']['lesions'] == '3'
        assert (found[TIME]['state'], found[TIME]['lesions']) == (MET, '3')
        assert found[TIME]['note'] == 'lesions of the brain'

    def test_without_a_new_lesion_enhancement_could_still_meet_it(self):
        found = states(visit(DEEP), visit(DEEP, number=2, new=()))
        assert found['new_t2_lesion'] == NOT_MET
        assert found[TIME] == NOT_MEASURED

    def test_it_is_not_met_where_all_was_measured(self):
        visits = [visit(DEEP, enhancing=()), visit(DEEP, number=2, new=(), enhancing=())]
        assert set(list(states(*visits).values())[5:]) == {NOT_MET}

    def test_a_visit_that_was_not_compared_could_have_shown_a_new_lesion(self):
        third = visit(DEEP, number=3, new=())
        found = assess(visit(DEEP), visit(DEEP, number=2), third)
        assert found['new_t2_lesion']['state'] == NOT_MEASURED
        assert found['new_t2_lesion']['note'] == 'ses-2: no network for new lesions looked'

    def test_an_unconfirmed_lesion_is_not_new_but_named(self):
        found = assess(visit(DEEP), visit({**DEEP, 7: 'deep'}, number=2, new=(), unconfirmed={7}))
        assert found['new_t2_lesion']['state'] == NOT_MET
        assert found['new_t2_lesion']['note'] == 'ses-2: unconfirmed 7'

    def test_new_tissue_that_touches_old_lesions_leaves_it_open(self):
        second = visit({1: 'deep', 7: 'deep'}, number=2, new=(), unconfirmed={7}, touched={2, 1})
        found = assess(visit(DEEP, enhancing=()), second)
        assert found['new_t2_lesion']['state'] == found[TIME]['state'] == NOT_MEASURED
        assert found['new_t2_lesion']['lesions'] == ''
        note = 'ses-2: unconfirmed 7, new tissue touches lesion 1, 2: growth or new'
        assert found['new_t2_lesion']['note'] == note

    def test_places_outside_all_lesions_leave_it_open(self):
        found = assess(visit(DEEP), visit(DEEP, number=2, new=(), outside=2))
        assert found['new_t2_lesion']['state'] == NOT_MEASURED
        note = 'ses-2: places with new tissue outside all lesions: 2'
        assert found['new_t2_lesion']['note'] == note

    def test_a_new_lesion_meets_it_whatever_touches_old_ones(self):
        second = visit({**DEEP, 3: 'deep'}, number=2, new={3}, touched={1}, outside=1)
        found = assess(visit(DEEP), second)['new_t2_lesion']
        assert (found['state'], found['lesions'], found['note']) == (MET, '3', '')

    @pytest.mark.parametrize(
        ('enhancing', 'state'),
        [((), NOT_MET), ((1,), MET), ((1, 2), NOT_MET), (None, NOT_MEASURED)],
    )
    def test_enhancing_beside_non_enhancing_lesions_at_one_visit(self, enhancing, state):
        found = assess(visit(DEEP, enhancing=enhancing))['enhancing_and_non_enhancing']
        assert found['state'] == state
        if state == MET:
            assert found['lesions'] == '1'
            assert found['note'] == 'ses-1: beside 1 without enhancement'

    def test_both_must_be_there_at_one_time(self):
        first = visit({1: 'deep'}, enhancing={1})
        second = visit({1: 'deep'}, number=2, new=(), enhancing=())
        assert states(first, second)['enhancing_and_non_enhancing'] == NOT_MET

    @pytest.mark.parametrize(
        ('before', 'now', 'new', 'state'),
        [
            ((), (1,), (), MET),
            ((1,), (1,), (), NOT_MET),
            ((1,), (1, 2), (), MET),
            ((1,), (), (), NOT_MET),
            (None, (), (), NOT_MET),
            (None, (1,), (), NOT_MEASURED),
            (None, (1,), (1,), MET),
            (None, (1,), None, NOT_MEASURED),
            ((), None, (), NOT_MEASURED),
        ],
    )
    def test_enhancement_that_was_not_there_before(self, before, now, new, state):
        first = visit(DEEP, enhancing=before)
        second = visit(DEEP, number=2, enhancing=now, new=new)
        assert states(first, second)['new_enhancing_lesion'] == state

    def test_what_broke_off_from_an_enhancing_lesion_does_not_enhance_anew(self):
        first = visit({1: 'deep'}, enhancing={1})
        places = {1: 'deep', 2: 'deep'}
        second = visit(places, number=2, new=(), enhancing={2}, kin={2: frozenset({1})})
        assert states(first, second)['new_enhancing_lesion'] == NOT_MET
        unrelated = visit(places, number=2, new=(), enhancing={2})
        assert states(first, unrelated)['new_enhancing_lesion'] == MET


class TestRefusals:
    @pytest.mark.parametrize(
        ('visits', 'message'),
        [
            ([], 'at least one visit'),
            ([visit(new=())], 'ses-1 is the first visit'),
            ([visit({1: 'cortical'})], "ses-1: locations must be in .* got {'cortical'}"),
            ([visit({1: 'deep'}, enhancing={1, 4, 3})], r'lesions \[3, 4\] have no place'),
            ([visit(unconfirmed={2})], r'lesions \[2\] have no place'),
            ([visit(), visit(number=2, new={5})], r'ses-2: lesions \[5\] have no place'),
        ],
    )
    def test_findings_that_contradict_each_other(self, visits, message):
        with pytest.raises(ValueError, match=message):
            assess_dissemination(visits)


class TestGathering:
    @pytest.fixture
    def tracks(self):
        """Give two visits: one lesion stays, two merge, one is new, one new one is short."""
        first, second = np.zeros((2, 40, 6, 6), np.int32)
        first[0:10, :3, :3], first[12:16, :3, :3], first[17:20, :3, :3] = 1, 2, 3
        second[0:10, :3, :3], second[12:20, :3, :3] = 5, 4
        second[25:29, :3, :3], second[35:37, :2, :2] = 6, 7
        return track_lesions([first, second], 1.0).table

    def gather(self, tracks, **known):
        places = {4: 'juxtacortical', 5: 'deep', 6: None, 7: 'deep'}
        long_axes_mm = {4: 8, 5: 10, 6: 4, 7: 2.9}
        return gather_findings(tracks, 1, 'ses-2', places, long_axes_mm, **known)

    def test_labels_become_identifiers_and_short_lesions_are_left_out(self, tracks):
        found = self.gather(tracks, enhancing=[4, 7], cord=[1])
        assert found.places == {1: 'deep', 2: 'juxtacortical', 4: None}
        assert found.new == {4}
        assert found.enhancing == {2}
        assert found.kin == {2: {3}}
        assert found.cord == (1,)

    def test_what_is_not_known_stays_so(self, tracks):
        found = self.gather(tracks)
        assert (found.enhancing, found.cord) == (None, None)

    def test_the_first_visit_has_nothing_new(self, tracks):
        places = dict.fromkeys((1, 2, 3), 'deep')
        found = gather_findings(tracks, 0, 'ses-1', places, dict.fromkeys(places, 3.0))
        assert found.new is None
        assert set(found.places) == {1, 2, 3}
        assert states(found, self.gather(tracks))[TIME] == MET

    def test_a_part_that_broke_off_knows_its_parent(self):
        first, second = np.zeros((2, 20, 6, 6), np.int32)
        first[0:12, :3, :3] = 1
        second[0:7, :3, :3], second[8:12, :3, :3] = 1, 2
        table = track_lesions([first, second], 1.0).table
        found = gather_findings(table, 1, 'ses-2', {1: 'deep', 2: 'deep'}, {1: 7, 2: 4})
        assert found.kin == {2: {1}}
        assert found.new == frozenset()

    @pytest.mark.parametrize(
        ('marked_mm3', 'extent_mm', 'touched'),
        [(6, 20, {1, 2}), (5, 20, set()), (6, 2, set()), (None, 20, set())],
    )
    def test_lesions_that_flow_together_through_new_tissue(self, marked_mm3, extent_mm, touched):
        first = np.zeros((24, 6, 6), np.int32)
        first[:10, :3, :3], first[12:20, :3, :3] = 1, 2
        second, new = np.zeros_like(first), None
        second[:20, :3, :3] = 3
        if marked_mm3 is not None:
            new = np.zeros(first.shape, bool)
            new[tuple(np.argwhere((second > 0) & (first == 0))[:marked_mm3].T)] = True
        tracks = track_lesions([first, second], 1.0, new=[new])
        (pair,) = tracks.comparisons
        assert [change.kind for change in pair.changes] == ['merged']
        found = gather_findings(
            tracks.table,
            1,
            'ses-2',
            {3: 'deep'},
            {3: extent_mm},
            changes=pair.table().to_dict('records'),
        )
        assert found.touched == touched

    def test_visits_without_lesions(self):
        empty = np.zeros((4, 4, 4), np.int32)
        table = track_lesions([empty, empty], 1.0).table
        found = [gather_findings(table, number, f'ses-{number}', {}, {}) for number in (0, 1)]
        assert states(*found)['new_t2_lesion'] == NOT_MET
        assert states(*found)[SPACE] == NOT_MET
