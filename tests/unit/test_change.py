"""Facts about what becomes of lesions: classes, volumes, limits, identifiers, on boxes of 1 mm."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from msapp.errors import InputError
from msapp.lesions.change import (
    CHANGE_COLUMNS,
    CLASSES,
    classify_volumes,
    compare_visits,
)
from msapp.lesions.instances import label_instances
from msapp.lesions.tracks import TRACK_COLUMNS, track_lesions

SHAPE = (40, 20, 20)
ACROSS = slice(5, 10)
EMPTY = np.zeros(SHAPE, np.int32)


def rods(*spans, across: slice = ACROSS) -> np.ndarray:
    """Label rods along the first axis, 5 x 5 voxels across, by size."""
    mask = np.zeros(SHAPE, bool)
    for start, stop in spans:
        mask[start:stop, across, across] = True
    return label_instances(mask, 1.0)


def box(*corner, label: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.int32)
    labels[tuple(slice(start, stop) for start, stop in corner)] = label
    return labels


def single(earlier, later, voxel_mm3=1.0, **options):
    """Return the only change."""
    (change,) = compare_visits(earlier, later, voxel_mm3, **options).changes
    return change


def kinds(earlier, later, **options) -> list[str]:
    return sorted(change.kind for change in compare_visits(earlier, later, 1.0, **options).changes)


class TestClasses:
    @pytest.mark.parametrize(
        ('earlier', 'later', 'kind'),
        [
            ([], [(4, 10)], 'new'),
            ([(4, 10)], [(4, 10)], 'stable'),
            ([(4, 10)], [(4, 12)], 'enlarged'),
            ([(4, 12)], [(4, 8)], 'shrunken'),
            ([(4, 10)], [], 'resolved'),
            ([(4, 10), (12, 15)], [(4, 15)], 'merged'),
            ([(4, 15)], [(4, 9), (11, 15)], 'split'),
        ],
    )
    def test_each_kind_of_change(self, earlier, later, kind):
        before, after = rods(*earlier), rods(*later)
        found = compare_visits(before, after, 1.0)
        assert [change.kind for change in found.changes] == [kind]
        assert found.classes.dtype == np.uint8
        painted = before if kind == 'resolved' else after
        assert np.array_equal(found.classes, (painted > 0) * CLASSES[kind])

    def test_volumes_and_rates_by_hand(self):
        change = single(rods((4, 8)), rods((4, 12)), 2.0, years=0.5)
        assert change.volume_before_ml == pytest.approx(0.2)
        assert change.volume_after_ml == pytest.approx(0.4)
        assert change.change_ml == pytest.approx(0.2)
        assert change.change_percent == pytest.approx(100)
        assert change.change_ml_per_year == pytest.approx(0.4)
        assert change.change_percent_per_year == pytest.approx(200)
        assert change.overlap == pytest.approx(2 * 4 / (4 + 8))

    def test_a_new_lesion_has_no_percentage_and_a_resolved_one_lost_all(self):
        fresh = single(EMPTY, rods((4, 10)), years=2.0)
        assert math.isnan(fresh.change_percent)
        assert math.isnan(fresh.change_percent_per_year)
        assert fresh.change_ml_per_year == pytest.approx(0.075)
        gone = single(rods((4, 10)), EMPTY)
        assert (gone.change_percent, gone.volume_after_ml, gone.overlap) == (-100, 0, 0)
        assert math.isnan(gone.change_ml_per_year)

    @pytest.mark.parametrize('shape', [SHAPE, (3, 1, 1)])
    def test_without_lesions_there_is_nothing(self, shape):
        empty = np.zeros(shape, np.int32)
        found = compare_visits(empty, empty, 1.0, new=np.zeros(shape, bool))
        assert found.changes == []
        assert not found.classes.any()
        assert list(found.table().columns) == list(CHANGE_COLUMNS)

    def test_lesions_at_the_border_do_not_reach_around_it(self):
        first = box((0, 2), (0, 2), (18, 20))
        second = box((0, 2), (1, 3), (0, 2))
        assert kinds(first, second) == ['new', 'resolved']
        assert kinds(first, first) == ['stable']

    def test_many_to_fewer_is_merged_and_to_more_is_split(self):
        three, two = [(2, 8), (10, 16), (18, 24)], [(2, 12), (14, 24)]
        assert kinds(rods(*three), rods(*two)) == ['merged']
        assert kinds(rods(*two), rods(*three)) == ['split']

    def test_as_many_as_before_is_judged_by_volume(self):
        before, after = rods((2, 8), (10, 20)), rods((2, 14), (16, 20))
        assert kinds(before, after) == ['stable']
        assert kinds(before, rods((2, 14), (16, 28))) == ['enlarged']

    def test_a_resolved_lesion_is_painted_where_no_later_one_lies(self):
        before = rods((4, 24))
        after = box((23, 30), (9, 12), (5, 10))
        found = compare_visits(before, after, 1.0)
        assert sorted(change.kind for change in found.changes) == ['new', 'resolved']
        assert np.array_equal(found.classes == CLASSES['new'], after > 0)
        assert np.array_equal(found.classes == CLASSES['resolved'], (before > 0) & (after == 0))


class TestLimits:
    @pytest.mark.parametrize(
        ('before', 'after', 'kind'),
        [
            (100, 130, 'enlarged'),
            (100, 129, 'stable'),
            (100, 70, 'shrunken'),
            (100, 71, 'stable'),
            (20, 33, 'enlarged'),
            (20, 32, 'stable'),
            (20, 8, 'stable'),
            (20, 7, 'shrunken'),
            (1000, 1013, 'stable'),
        ],
    )
    def test_a_change_takes_thirty_percent_and_more_than_twelve_cubic_millimetres(
        self, before, after, kind
    ):
        assert classify_volumes(before, after) == kind
        assert classify_volumes(before * (1 + 1e-9), after * (1 - 1e-9)) == kind

    @pytest.mark.parametrize(('shared', 'expected'), [(1, ['stable']), (0, ['new', 'resolved'])])
    def test_a_tenth_of_the_smaller_lesion_links(self, shared, expected):
        # Of ten slices each.
        assert kinds(rods((0, 10)), rods((10 - shared, 20 - shared))) == expected

    def test_old_neighbours_that_graze_each_other_stay_apart(self):
        before = rods((2, 13), (14, 30))
        # The second is drawn a voxel larger, into the first one's old place.
        after = box((2, 12), (5, 10), (5, 10)) + box((13, 30), (5, 10), (5, 10), label=2)
        after[12, 5:7, 5] = 2
        assert (before[12, 5:7, 5] > 0).all()
        assert kinds(before, after) == ['stable', 'stable']

    def test_a_small_lesion_off_by_a_voxel_is_the_same(self):
        before = box((5, 7), (5, 7), (5, 7))
        assert kinds(before, box((7, 9), (5, 7), (5, 7))) == ['stable']
        assert kinds(before, box((8, 10), (5, 7), (5, 7))) == ['new', 'resolved']

    @pytest.mark.parametrize(('moved', 'expected'), [(2, ['stable']), (3, ['new', 'resolved'])])
    def test_half_of_a_lesion_must_be_within_a_voxel_where_none_is_shared(self, moved, expected):
        # A plate one voxel thick, moved across itself and by one voxel along.
        before = box((5, 6), (4, 8), (4, 8))
        assert kinds(before, box((6, 7), (4 + moved, 8 + moved), (4, 8))) == expected

    def test_a_voxel_reached_from_several_sides_is_one(self):
        one, three = box((30, 35), (5, 6), (5, 6)), box((10, 13), (5, 6), (5, 6))
        one[5, 5, 5] = three[6, 5, 5] = three[5, 6, 5] = three[5, 5, 6] = 1
        assert one.sum() == three.sum() == 6
        assert kinds(one, three) == kinds(three, one) == ['new', 'resolved']

    def test_a_new_lesion_beside_an_old_one_is_new(self):
        before = rods((2, 10))
        after = box((2, 9), (5, 10), (5, 10)) + box((10, 12), (5, 10), (5, 10), label=2)
        assert kinds(before, after) == ['new', 'stable']

    def test_specks_are_no_merging_and_no_splitting(self):
        whole = box((4, 12), (5, 10), (5, 10))
        speck, part = whole.copy(), whole.copy()
        speck[11], part[11] = 0, 0
        speck[11, 5, 5:10], part[11, 5:7, 5:8] = 2, 3
        assert ((speck == 2).sum(), (part == 3).sum()) == (5, 6)
        assert kinds(speck, whole) == ['stable']
        assert kinds(whole, speck) == ['stable']
        assert kinds(part, whole) == ['merged']
        assert kinds(whole, part) == ['split']

    def test_a_speck_that_grows_is_enlarged(self):
        speck, lesion = box((4, 9), (5, 6), (5, 6)), box((4, 9), (5, 9), (5, 6))
        assert kinds(speck, lesion) == ['enlarged']
        assert kinds(lesion, speck) == ['shrunken']

    @pytest.mark.parametrize(('size', 'kept'), [(6, True), (5, False)])
    def test_what_is_small_and_seen_once_is_unconfirmed(self, size, kept):
        lesion = box((4, 4 + size), (5, 6), (5, 6))
        gone = 'resolved' if kept else 'unconfirmed'
        assert kinds(EMPTY, lesion) == ['new' if kept else 'unconfirmed']
        assert kinds(lesion, EMPTY) == [gone]
        assert np.array_equal(compare_visits(lesion, EMPTY, 1.0).classes, lesion * CLASSES[gone])


class TestNewPart:
    """Growth that Anima calls new: over half of what is shared, and over 12 mm3."""

    @pytest.mark.parametrize(
        ('before', 'after', 'part_mm3'),
        [((0, 10), (0, 16), 150), ((0, 10), (0, 15), 0), ((0, 10), (5, 10), 0)],
    )
    def test_it_is_all_growth_beyond_half_of_what_is_shared(self, before, after, part_mm3):
        assert single(rods(before), rods(after)).new_part_ml == pytest.approx(part_mm3 / 1000)

    @pytest.mark.parametrize(('length', 'part_mm3'), [(12, 0), (13, 13)])
    def test_twelve_cubic_millimetres_are_too_few(self, length, part_mm3):
        before, after = (box((4, 10 + more), (5, 6), (5, 6)) for more in (0, length))
        assert single(before, after).new_part_ml == pytest.approx(part_mm3 / 1000)

    @pytest.mark.parametrize(('marked', 'part_mm3'), [(3, 0), (4, 150)])
    def test_a_detector_must_have_marked_more_than_half_of_it(self, marked, part_mm3):
        mask = rods((10, 10 + marked)) > 0
        change = single(rods((0, 10)), rods((0, 16)), new=mask)
        assert (change.kind, change.new_part_ml) == ('enlarged', pytest.approx(part_mm3 / 1000))

    def test_what_has_no_counterpart_has_none(self):
        assert single(EMPTY, rods((4, 10))).new_part_ml == 0
        assert single(rods((4, 10)), EMPTY).new_part_ml == 0


class TestDetector:
    @pytest.mark.parametrize(
        ('marked', 'kind'), [(0, 'unconfirmed'), (3, 'unconfirmed'), (4, 'new')]
    )
    def test_more_than_half_of_a_new_lesion_must_be_marked(self, marked, kind):
        mask = np.zeros(SHAPE, bool)
        mask[4 : 4 + marked] = True
        found = compare_visits(EMPTY, rods((4, 10)), 1.0, new=mask)
        assert [change.kind for change in found.changes] == [kind]
        assert set(np.unique(found.classes)) == {0, CLASSES[kind]}

    def test_two_methods_that_agree_overrule_the_size(self):
        lesion = box((4, 6), (5, 6), (5, 6))
        assert kinds(EMPTY, lesion) == ['unconfirmed']
        assert kinds(EMPTY, lesion, new=lesion > 0) == ['new']

    def test_it_has_no_say_on_lesions_with_a_counterpart(self):
        lesion = rods((4, 10))
        for mask in (lesion > 0, np.zeros(SHAPE, bool)):
            assert kinds(lesion, lesion, new=mask) == ['stable']
            assert kinds(lesion, EMPTY, new=mask) == ['resolved']

    def test_what_it_marks_outside_all_lesions_is_told_apart(self):
        place, lesion = rods((4, 10)) > 0, rods((20, 30))
        found = compare_visits(EMPTY, lesion, 1.0, new=place | (lesion > 0))
        assert [change.kind for change in found.changes] == ['new']
        measures = found.measures()
        assert measures['detected_outside_count'] == 1
        assert measures['detected_outside_volume_ml'] == pytest.approx(place.sum() / 1000)
        # A tenth of it in a lesion is enough.
        inside = compare_visits(EMPTY, rods((19, 30)), 1.0, new=rods((10, 20)) > 0).measures()
        assert inside['detected_outside_count'] == 0
        assert 'detected_outside_count' not in compare_visits(EMPTY, lesion, 1.0).measures()

    @pytest.mark.parametrize(('marked', 'kind'), [(True, 'new'), (False, 'split')])
    def test_a_marked_lesion_beside_what_an_old_one_became_is_new(self, marked, kind):
        """A seventh of it lies where the old one ended; the old one has another heir."""
        before, after = rods((4, 16)), rods((4, 14), (15, 22))
        mask = after == 2 if marked else EMPTY > 0
        found = compare_visits(before, after, 1.0, new=mask)
        assert kind in [change.kind for change in found.changes]
        assert found.measures()['new_lesion_count'] == int(marked)
        if marked:
            assert sorted(change.kind for change in found.changes) == ['new', 'stable']


class TestIdentifiers:
    def test_they_go_by_size_where_none_are_given(self):
        before = rods((2, 5), (10, 20))
        first, second = compare_visits(before, before, 1.0).changes
        assert (first.identifiers_before, first.volume_before_ml) == ((1,), 0.25)
        assert (second.identifiers_after, second.volume_before_ml) == ((2,), 0.075)

    def test_merged_lesions_keep_that_of_the_largest(self):
        change = single(
            rods((4, 10), (12, 15)), rods((4, 15)), identifiers={1: 7, 2: 3}, next_identifier=9
        )
        assert (change.identifiers_before, change.identifiers_after) == ((7, 3), (7,))
        assert (change.merged_into, change.parents) == ((None, 7), (None,))

    def test_the_largest_counts_even_if_another_shares_more(self):
        before = box((0, 10), (5, 10), (5, 10)) + box((11, 17), (5, 10), (5, 10), label=2)
        change = single(before, box((8, 17), (5, 10), (5, 10)))
        assert change.identifiers_after == (1,)

    def test_the_largest_part_keeps_it_and_the_others_name_their_parent(self):
        change = single(rods((4, 20)), rods((4, 7), (9, 12), (14, 20)), identifiers={1: 5})
        assert (change.identifiers_before, change.identifiers_after) == ((5,), (5, 6, 7))
        assert (change.parents, change.merged_into) == ((None, 5, 5), (None,))
        assert change.volume_after_ml == pytest.approx(0.3)

    def test_in_a_chain_those_that_share_most_stay_one(self):
        before = rods((0, 10), (12, 18))
        after = rods((0, 8), (9, 20))
        change = single(before, after)
        assert change.kind == 'stable'
        assert change.labels_before == (1, 2)
        assert change.identifiers_before == (1, 2)
        # The larger later one lies on the smaller earlier one.
        assert change.identifiers_after == (2, 1)

    def test_what_is_left_over_in_a_chain_goes_with_the_one_it_shares_most_with(self):
        three, two = rods((2, 8), (10, 16), (18, 25)), rods((2, 13), (15, 25))
        merged = single(three, two)
        assert merged.identifiers_before == (1, 2, 3)
        assert merged.identifiers_after == (2, 1)
        # The third shares three slices with the first of them and one with the other.
        assert merged.merged_into == (None, None, 2)
        split = single(two, three)
        assert split.identifiers_before == (1, 2)
        assert split.identifiers_after == (2, 1, 3)
        assert split.parents == (None, None, 1)

    def test_labels_may_be_any_numbers(self):
        before = rods((2, 5), (10, 20))
        large = np.array([0, 900_000_000, 4], np.int64)[before]
        found = compare_visits(large, large, 1.0)
        assert [change.labels_after for change in found.changes] == [(900_000_000,), (4,)]


class TestTable:
    def test_there_is_a_line_a_change_with_numbers_as_text(self):
        table = compare_visits(rods((4, 10), (12, 15)), rods((4, 15)), 1.0, years=1).table()
        (line,) = table.to_dict('records')
        assert list(table.columns) == list(CHANGE_COLUMNS)
        assert line['kind'] == 'merged'
        assert (line['identifiers_before'], line['labels_after']) == ('1,2', '1')
        assert line['change_percent'] == pytest.approx(100 * (275 - 225) / 225)


class TestRefusals:
    def test_maps_on_different_grids(self):
        with pytest.raises(InputError, match=r'one three-dimensional grid.*\(3, 3, 3\)'):
            compare_visits(EMPTY, np.zeros((3, 3, 3), np.int32), 1.0)
        with pytest.raises(InputError, match='grid'):
            compare_visits(EMPTY, EMPTY, 1.0, new=np.zeros((3, 3, 3), bool))
        with pytest.raises(InputError, match='grid'):
            track_lesions([EMPTY, EMPTY, np.zeros((3, 3, 3), np.int32)], 1.0)

    @pytest.mark.parametrize('labels', [EMPTY > 0, EMPTY.astype(float), EMPTY - 1])
    def test_what_is_no_label_image(self, labels):
        with pytest.raises(InputError, match='visit 1 must be whole numbers from 0'):
            compare_visits(EMPTY, labels, 1.0)

    @pytest.mark.parametrize('voxel_mm3', [0, -1, math.nan])
    def test_voxels_without_a_volume(self, voxel_mm3):
        with pytest.raises(InputError, match='volume of a voxel'):
            compare_visits(EMPTY, EMPTY, voxel_mm3)

    @pytest.mark.parametrize('years', [0, -1.5])
    def test_an_interval_that_runs_backwards(self, years):
        with pytest.raises(InputError, match='above 0'):
            compare_visits(EMPTY, EMPTY, 1.0, years=years)

    def test_tracks_of_nothing_or_with_the_wrong_number_of_intervals(self):
        with pytest.raises(InputError, match='no visit'):
            track_lesions([], 1.0)
        with pytest.raises(InputError, match='years has 2 entries for 2 visits; 1 are needed'):
            track_lesions([EMPTY, EMPTY], 1.0, years=[1, 1])
        with pytest.raises(InputError, match='new has 0 entries'):
            track_lesions([EMPTY, EMPTY], 1.0, new=[])


def lines(tracks, identifier: int) -> list[tuple]:
    """Return visit, label and state of a lesion."""
    table = tracks.table[tracks.table['identifier'] == identifier]
    return list(table[['visit', 'label', 'state']].itertuples(index=False, name=None))


class TestTracks:
    def test_one_visit_has_its_lesions_by_size(self):
        tracks = track_lesions([rods((2, 5), (10, 20))], 2.0)
        assert list(tracks.table.columns) == list(TRACK_COLUMNS)
        assert tracks.table['identifier'].tolist() == [1, 2]
        assert tracks.table['state'].tolist() == ['first', 'first']
        assert tracks.table['volume_ml'].tolist() == pytest.approx([0.5, 0.15])
        assert tracks.comparisons == []

    def test_visits_without_lesions_have_no_lines(self):
        tracks = track_lesions([EMPTY, EMPTY, EMPTY], 1.0)
        assert tracks.table.empty
        assert list(tracks.table.columns) == list(TRACK_COLUMNS)
        assert [found.changes for found in tracks.comparisons] == [[], []]

    def test_a_lesion_keeps_its_identifier_whatever_its_label(self):
        tracks = track_lesions(
            [rods((2, 5), (10, 20)), rods((2, 8), (10, 12)), rods((2, 8), (10, 20))], 1.0
        )
        assert lines(tracks, 1) == [(0, 1, 'first'), (1, 2, 'shrunken'), (2, 1, 'enlarged')]
        assert lines(tracks, 2) == [(0, 2, 'first'), (1, 1, 'enlarged'), (2, 2, 'stable')]
        assert [len(found.changes) for found in tracks.comparisons] == [2, 2]
        assert tracks.comparisons[1].changes[0].identifiers_after == (1,)

    def test_a_lesion_that_is_seen_again_is_another(self):
        tracks = track_lesions([rods((4, 10)), EMPTY, rods((4, 10)), EMPTY, rods((4, 10))], 1.0)
        assert lines(tracks, 1) == [(0, 1, 'first'), (1, 0, 'resolved')]
        assert lines(tracks, 2) == [(2, 1, 'new'), (3, 0, 'resolved')]
        assert lines(tracks, 3) == [(4, 1, 'new')]

    def test_merging_then_splitting(self):
        two, one = rods((4, 10), (12, 15)), rods((4, 15))
        tracks = track_lesions([two, one, two, one, two], 1.0)
        classes = ['first', 'merged', 'split', 'merged', 'split']
        assert lines(tracks, 1) == [(visit, 1, name) for visit, name in enumerate(classes)]
        touching = [(1, 0, 'merged into'), (2, 2, 'split'), (3, 0, 'merged into'), (4, 2, 'split')]
        assert lines(tracks, 2) == [(0, 2, 'first'), *touching]
        assert set(tracks.table['identifier']) == {1, 2}
        table = tracks.table.set_index(['identifier', 'visit'])
        assert table.loc[(2, 1), 'merged_into'] == 1
        assert table.loc[(2, 1), 'volume_ml'] == 0
        assert table.loc[(2, 2), 'parent'] == 1
        assert table['parent'].notna().sum() == table['merged_into'].notna().sum() == 2

    def test_three_that_merge_one_after_the_other_part_as_they_were(self):
        three, two, one = rods((2, 8), (10, 16), (18, 26)), rods((2, 16), (18, 26)), rods((2, 26))
        tracks = track_lesions([three, two, one, three, two, one, three], 1.0)
        first, *_, last = (
            tracks.table[tracks.table['visit'] == visit].set_index('identifier')['label']
            for visit in range(7)
        )
        assert first.to_dict() == last.to_dict()
        assert set(tracks.table['identifier']) == {1, 2, 3}

    def test_the_place_tells_which_part_takes_an_identifier_back(self):
        """The part at the place of the smaller lesion has become the larger one."""
        tracks = track_lesions([rods((4, 10), (12, 15)), rods((4, 15)), rods((4, 8), (9, 15))], 1.0)
        assert lines(tracks, 1)[-1] == (2, 2, 'split')
        assert lines(tracks, 2)[-1] == (2, 1, 'split')

    def test_a_part_that_was_none_before_is_another(self):
        tracks = track_lesions([rods((4, 24)), rods((4, 12), (13, 24))], 1.0)
        assert set(tracks.table['identifier']) == {1, 2}
        assert lines(tracks, 2) == [(1, 2, 'split')]

    def test_a_speck_that_breaks_off_is_split_from_a_stable_lesion(self):
        after = rods((4, 12))
        after[11], after[11, 5, 5:8] = 0, 2
        tracks = track_lesions([rods((4, 12)), after], 1.0)
        assert lines(tracks, 1) == [(0, 1, 'first'), (1, 1, 'stable')]
        assert lines(tracks, 2) == [(1, 2, 'split')]

    def test_an_unconfirmed_lesion_is_followed_too(self):
        lesion = rods((4, 10))
        tracks = track_lesions(
            [EMPTY, lesion, lesion], 1.0, new=[np.zeros(SHAPE, bool), None], years=[1.0, 2.0]
        )
        assert lines(tracks, 1) == [(1, 1, 'unconfirmed'), (2, 1, 'stable')]
        assert tracks.comparisons[0].changes[0].change_ml_per_year == pytest.approx(0.15)

    @pytest.mark.parametrize('there', [(4, 10), (5, 12)])
    def test_a_lesion_that_a_visit_does_not_show_keeps_its_identifier(self, there):
        """The brain of the second visit ends before it."""
        visits = [rods((4, 10), (14, 20)), rods((14, 20)), rods(there, (14, 20))]
        whole = np.ones(SHAPE, bool)
        cut = whole.copy()
        cut[:12] = False
        tracks = track_lesions(visits, 1.0, seen=[whole, cut, whole])
        one, other = (lines(tracks, name) for name in (1, 2))
        lost = one if one[1][1] == 0 else other
        assert [state for *_, state in lost] == ['first', 'unconfirmed', 'unconfirmed']
        assert [label > 0 for _, label, _ in lost] == [True, False, True]
        assert set(tracks.table['identifier']) == {1, 2}

    def test_a_lesion_that_is_missed_once_keeps_its_identifier_unless_it_is_marked_as_new(self):
        lesion, nothing = rods((4, 10)), np.zeros(SHAPE, bool)
        visits = [lesion, EMPTY, lesion]
        masks = {'gone': [nothing, nothing]}
        missed = track_lesions(visits, 1.0, new=[nothing, nothing], **masks)
        assert lines(missed, 1) == [(0, 1, 'first'), (1, 0, 'unconfirmed'), (2, 1, 'unconfirmed')]
        marked = track_lesions(visits, 1.0, new=[nothing, lesion > 0], **masks)
        assert lines(marked, 1) == [(0, 1, 'first'), (1, 0, 'unconfirmed')]
        assert lines(marked, 2) == [(2, 1, 'new')]

    def test_of_two_that_were_missed_each_is_found_at_its_place(self):
        both, nothing = rods((4, 12), (13, 18)), np.zeros(SHAPE, bool)
        later = rods((4, 8), (12, 18))
        tracks = track_lesions(
            [both, EMPTY, later], 1.0, new=[nothing, nothing], gone=[nothing, nothing]
        )
        assert lines(tracks, 1)[-1] == (2, 2, 'unconfirmed')
        assert lines(tracks, 2)[-1] == (2, 1, 'unconfirmed')
        assert set(tracks.table['identifier']) == {1, 2}

    def test_missing_entries_are_missing(self):
        table = track_lesions([rods((4, 10)), rods((4, 10))], 1.0).table
        assert table['parent'].dtype == 'Int64'
        assert table['parent'].isna().all()
        assert table.loc[1, 'merged_into'] is pd.NA


def test_a_large_new_lesion_that_swallows_a_speck_is_new_where_a_detector_marked_it():
    earlier, later = np.zeros((2, 30, 30, 30), int)
    later[5:20, 5:20, 5:20] = 1
    earlier[6:8, 6:8, 6:8] = 1
    earlier[10:12, 10:12, 10:12] = 2
    marked = later > 0
    kinds = [change.kind for change in compare_visits(earlier, later, 1.0, new=marked).changes]
    assert sorted(kinds) == ['new', 'unconfirmed', 'unconfirmed']
    # Without the detector the old lesions are in it; without its mark nobody can tell.
    for new, kind in ((None, 'merged'), (marked & False, 'unconfirmed')):
        (change,) = compare_visits(earlier, later, 1.0, new=new).changes
        assert change.kind == kind
    # More than a tenth of it was there before: it grew.
    earlier[5:20, 5:20, 5:8] = 1
    kinds = [change.kind for change in compare_visits(earlier, later, 1.0, new=marked).changes]
    assert 'new' not in kinds


@pytest.mark.parametrize('start', [11, 10, 9])
def test_a_marked_lesion_that_touches_an_old_speck_is_new(start):
    """It shares a face, or a voxel, with the speck."""
    speck, lesion = box((8, 11), (5, 6), (5, 6)), box((start, start + 6), (5, 10), (5, 10))
    assert 'new' in kinds(speck, lesion, new=lesion > 0)
    assert 'new' not in kinds(speck, lesion, new=EMPTY > 0)


def test_an_old_lesion_that_a_new_one_only_grazes_is_resolved():
    old, later = rods((0, 20)), box((18, 38), (5, 15), (5, 15))
    assert kinds(old, later, new=later > 0) == ['new', 'resolved']


@pytest.mark.parametrize(
    ('part', 'kind'), [((4, 10), 'resolved'), ((4, 8), 'resolved'), ((4, 7), 'unconfirmed')]
)
def test_what_went_needs_the_detector_too(part, kind):
    """More than half of it must be marked, where a detector looked at the visits in reverse."""
    assert kinds(rods((4, 10)), EMPTY, gone=rods(part) > 0) == [kind]
    assert kinds(rods((4, 10)), EMPTY) == ['resolved']


@pytest.mark.parametrize(('edge', 'unseen'), [(11, False), (8, False), (7, True), (5, True)])
def test_what_the_other_visit_does_not_show_is_neither_new_nor_resolved(edge, unseen):
    """The other visit's brain ends within the lesion, or before it."""
    lesion, whole, part = rods((4, 10)), EMPTY == 0, EMPTY == 0
    part[edge:] = False
    gone = kinds(lesion, EMPTY, seen=(whole, part))
    came = kinds(EMPTY, lesion, seen=(part, whole))
    assert gone == (['unconfirmed'] if unseen else ['resolved'])
    assert came == (['unconfirmed'] if unseen else ['new'])
    assert kinds(lesion, lesion, seen=(part, part)) == ['stable']


def test_new_tissue_in_old_lesions_is_counted_whatever_their_class():
    before = rods((4, 10))
    after, marked = rods((4, 16)), rods((12, 16)) > 0
    measures = compare_visits(before, after, 1.0, new=marked).measures()
    volume_ml = (marked & (after > 0)).sum() / 1000
    assert measures['grown_lesion_count'] == 1
    assert measures['grown_lesion_volume_ml'] == pytest.approx(volume_ml)
    assert measures['new_lesion_count'] == 0
    # What was lesion before is no new tissue, and less than 6 mm3 is none.
    for stays, mask in ((before, before > 0), (after, box((14, 15), (5, 10), (5, 6)) > 0)):
        old = compare_visits(before, stays, 1.0, new=mask).measures()
        assert (old['grown_lesion_count'], old['grown_lesion_volume_ml']) == (0, 0)
    # Of a lesion that is unconfirmed, for it is marked in part, the part counts.
    part = compare_visits(EMPTY, after, 1.0, new=marked).measures()
    assert (part['unconfirmed_lesion_count'], part['grown_lesion_count']) == (1, 1)
    assert part['grown_lesion_volume_ml'] == pytest.approx(volume_ml)
    none = compare_visits(before, before, 1.0, new=EMPTY > 0).measures()
    assert (none['grown_lesion_count'], none['grown_lesion_volume_ml']) == (0, 0)
    assert 'grown_lesion_count' not in compare_visits(before, after, 1.0).measures()
    fresh = compare_visits(EMPTY, after, 1.0, new=after > 0)
    assert fresh.measures()['grown_lesion_count'] == 0
    assert fresh.changes[0].marked_ml == fresh.changes[0].volume_after_ml


def test_all_lesions_of_two_visits_are_counted_with_what_changed_in_all():
    before, after = rods((2, 6), (7, 10), (20, 24)), rods((2, 10), (20, 26), (30, 38))
    measures = compare_visits(before, after, 1.0).measures()
    counts = {kind: measures[f'{kind}_lesion_count'] for kind in CLASSES}
    assert {kind for kind, count in counts.items() if count} == {'merged', 'enlarged', 'new'}
    told = sum(value for name, value in measures.items() if name.endswith('_ml'))
    assert told == pytest.approx(((after > 0).sum() - (before > 0).sum()) / 1000)


def test_what_a_visit_does_not_show_has_no_volume_there():
    lesion, whole, part = rods((4, 10)), EMPTY == 0, EMPTY == 0
    part[5:] = False
    went = single(lesion, EMPTY, seen=(whole, part), years=1.0)
    came = single(EMPTY, lesion, seen=(part, whole), years=1.0)
    assert went.volume_before_ml == came.volume_after_ml > 0
    missing = ('change_ml', 'change_percent', 'change_ml_per_year', 'change_percent_per_year')
    assert all(math.isnan(getattr(change, name)) for change in (went, came) for name in missing)
    assert math.isnan(went.volume_after_ml)
    assert math.isnan(came.volume_before_ml)
    for found, change in (((lesion, EMPTY), went), ((EMPTY, lesion), came)):
        seen = (whole, part) if change is went else (part, whole)
        measures = compare_visits(*found, 1.0, seen=seen).measures()
        volume = change.volume_before_ml if change is went else change.volume_after_ml
        assert measures['unconfirmed_lesion_volume_ml'] == volume
    table = track_lesions([lesion, EMPTY, lesion], 1.0, seen=[whole, part, whole]).table
    blind = table[table['visit'] == 1]
    assert blind['volume_ml'].isna().all()
    assert table[table['visit'] != 1]['volume_ml'].notna().all()


@pytest.mark.parametrize('edge', [14, 12])
def test_a_lesion_does_not_change_where_the_other_visit_does_not_show_it(edge):
    """What lies beyond the edge of one brain is not outlined there."""
    whole = EMPTY == 0
    lesion, part = rods((4, 20)), whole & (np.indices(SHAPE)[0] < edge)
    for before, after, seen in (
        (lesion, lesion * part, (whole, part)),
        (lesion * part, lesion, (part, whole)),
    ):
        for new in (None, EMPTY > 0):
            change = single(before, after, seen=seen, new=new)
            assert change.kind == 'stable'
            assert change.change_ml == change.change_percent == change.new_part_ml == 0
    assert kinds(lesion, lesion * part, seen=(whole, whole)) == ['shrunken']


@pytest.mark.parametrize(('gap', 'kind'), [((10, 13), 'stable'), ((30, 33), 'split')])
def test_a_lesion_in_parts_because_the_other_brain_leaves_out_its_middle_has_not_split(gap, kind):
    # One rod, of which the other visit shows two parts: where its brain has a gap, or has none.
    whole, lesion, parts = EMPTY == 0, rods((4, 20)), rods((4, 10), (13, 20))
    along = np.indices(SHAPE)[0]
    gapped = whole & ((along < gap[0]) | (along >= gap[1]))
    for new in (None, EMPTY > 0):
        split = single(lesion, parts, seen=(whole, gapped), new=new)
        merged = single(parts, lesion, seen=(gapped, whole), new=new)
        assert split.kind == kind
        assert merged.kind == {'split': 'merged'}.get(kind, kind)
        assert split.identifiers_after == (1, 2)
    # Not where the parts have grown apart in what both show.
    apart = rods((4, 8), (15, 20))
    assert kinds(lesion, apart, seen=(whole, gapped)) == ['split' if gap[0] == 30 else 'shrunken']


@pytest.mark.parametrize(('stop', 'supported'), [(10, True), (9, False)])
def test_support_is_asked_of_the_part_that_the_other_visit_shows(stop, supported):
    # Of 16 mm of the rod 10 are shown, and 6 or 5 of these are marked; beyond, no network marks.
    whole, lesion = EMPTY == 0, rods((4, 20))
    part = whole & (np.indices(SHAPE)[0] < 14)
    marked = rods((4, stop)) > 0
    came = kinds(EMPTY, lesion, seen=(part, whole), new=marked)
    gone = kinds(lesion, EMPTY, seen=(whole, part), gone=marked)
    assert came == (['new'] if supported else ['unconfirmed'])
    assert gone == (['resolved'] if supported else ['unconfirmed'])


@pytest.mark.parametrize(('start', 'kind'), [(4, 'stable'), (19, 'unconfirmed')])
def test_a_speck_does_not_enlarge_to_a_lesion_that_no_detector_marked(start, kind):
    lesion = rods((4, 20))
    speck = rods((start, 20))
    found = compare_visits(speck, lesion, 1.0, new=EMPTY > 0)
    assert [change.kind for change in found.changes] == [kind]
    grown = found.measures()['unconfirmed_lesion_volume_ml']
    assert grown == (0 if kind == 'stable' else pytest.approx((lesion > 0).sum() / 1000))
    assert kinds(speck, lesion) == ['stable' if start == 4 else 'enlarged']
