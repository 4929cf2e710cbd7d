"""Properties of changes and tracks that hold for any lesions."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from msapp.lesions.change import CLASSES, LEAST_CHANGE, LEAST_CHANGE_MM3, Comparison, compare_visits
from msapp.lesions.instances import label_instances
from msapp.lesions.matching import LEAST_OVERLAP, SUPPORT
from msapp.lesions.tracks import track_lesions

many = settings(max_examples=100, deadline=None)
SHAPE = (24, 9, 6)
CUTS = st.integers(0, 3)
voxels_mm3 = st.floats(0.2, 8)
# What a class may be when the visits change places. Limits are relative to the earlier volume, so
# that 100 to 130 is enlarged and 130 to 100 stable.
MIRRORED = {
    'new': {'resolved'},
    'resolved': {'new'},
    'unconfirmed': {'unconfirmed'},
    'merged': {'split'},
    'split': {'merged'},
    'enlarged': {'shrunken', 'stable'},
    'stable': {'stable', 'enlarged'},
    'shrunken': {'enlarged'},
}


@st.composite
def follow_ups(draw, least: int = 1, most: int = 5) -> list[np.ndarray]:
    """Return visits of one patient: lesions come, go, grow, fall apart and flow together."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    starts = generator.integers(0, SHAPE, (draw(st.integers(0, 7)), 3))
    sides = generator.integers(1, 6, starts.shape)
    noise = draw(st.sampled_from([0, 0, 0.002, 0.02]))
    series = []
    for _ in range(draw(st.integers(least, most))):
        mask = generator.random(SHAPE) < noise
        for start, side in zip(starts, sides, strict=True):
            if generator.random() < 0.7:
                stop = start + side + generator.integers(0, 4, 3)
                mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
        mask[generator.integers(0, SHAPE[0], draw(CUTS))] = False
        series.append(label_instances(mask, 1.0))
    return series


pairs = follow_ups(least=2, most=2)


def relabel(labels: np.ndarray, seed: int) -> np.ndarray:
    """Give each lesion another label, at random and with gaps; in the order of NIfTI files."""
    generator = np.random.default_rng(seed)
    count = int(labels.max())
    numbers = np.zeros(count + 1, np.int64)
    numbers[1:] = generator.permutation(5 * count)[:count] + 1
    return np.asfortranarray(numbers[labels])


def gist(found: Comparison) -> list[tuple]:
    """Return what does not depend on the labels."""
    return [
        (
            change.kind,
            change.identifiers_before,
            change.identifiers_after,
            change.parents,
            change.merged_into,
            round(change.volume_before_ml, 9),
            round(change.volume_after_ml, 9),
            round(change.overlap, 9),
        )
        for change in found.changes
    ]


@many
@given(pairs, voxels_mm3, st.booleans())
def test_each_lesion_is_in_one_change_with_all_of_its_volume(pair, voxel_mm3, detected):
    earlier, later = pair
    new = np.roll(later > 1, 1) if detected else None
    changes = compare_visits(earlier, later, voxel_mm3, new=new).changes
    for labels, side in ((earlier, 'before'), (later, 'after')):
        found = sorted(label for change in changes for label in getattr(change, f'labels_{side}'))
        assert found == list(range(1, labels.max() + 1))
        volume_ml = sum(getattr(change, f'volume_{side}_ml') for change in changes)
        assert math.isclose(volume_ml, (labels > 0).sum() * voxel_mm3 / 1000, abs_tol=1e-12)
    for change in changes:
        assert 0 <= change.overlap <= 1
        assert 0 <= change.new_part_ml <= change.volume_after_ml
        assert bool(change.labels_before) or change.kind in ('new', 'unconfirmed')
        assert bool(change.labels_after) or change.kind in ('resolved', 'unconfirmed')


@many
@given(pairs, voxels_mm3)
def test_changing_the_visits_about_turns_each_change_around(pair, voxel_mm3):
    earlier, later = pair
    there = compare_visits(earlier, later, voxel_mm3).changes
    back = {
        (change.labels_after, change.labels_before): change
        for change in compare_visits(later, earlier, voxel_mm3).changes
    }
    assert len(back) == len(there)
    for change in there:
        mirrored = back[change.labels_before, change.labels_after]
        assert mirrored.kind in MIRRORED[change.kind]
        assert mirrored.overlap == change.overlap
        assert mirrored.change_ml == -change.change_ml


@many
@given(pairs, voxels_mm3)
def test_nothing_changes_between_a_visit_and_itself(pair, voxel_mm3):
    labels = pair[0]
    found = compare_visits(labels, labels, voxel_mm3)
    assert {change.kind for change in found.changes} <= {'stable'}
    assert all(change.overlap == 1 for change in found.changes)
    assert np.array_equal(found.classes, (labels > 0) * CLASSES['stable'])


@many
@given(pairs)
def test_all_later_lesions_are_painted_and_what_is_gone_besides(pair):
    earlier, later = pair
    found = compare_visits(earlier, later, 1.0)
    assert (found.classes[later > 0] > 0).all()
    besides = found.classes[later == 0]
    assert set(np.unique(besides)) <= {0, CLASSES['resolved'], CLASSES['unconfirmed']}
    assert not besides[earlier[later == 0] == 0].any()


@many
@given(pairs, st.integers(0, 2**32 - 1))
def test_labels_mean_nothing(pair, seed):
    earlier, later = pair
    plain = compare_visits(earlier, later, 1.0)
    other = compare_visits(relabel(earlier, seed), relabel(later, seed + 1), 1.0)
    assert gist(plain) == gist(other)
    assert np.array_equal(plain.classes, other.classes)


@many
@given(pairs)
def test_a_detector_that_marks_nothing_only_leaves_new_lesions_unconfirmed(pair):
    """Those that were specks before are as good as new."""
    earlier, later = pair
    without = compare_visits(earlier, later, 1.0).changes
    found = compare_visits(earlier, later, 1.0, new=np.zeros(SHAPE, bool)).changes
    for change, plain in zip(found, without, strict=True):
        assert change.labels_after == plain.labels_after
        now = np.isin(later, change.labels_after or (-1,))
        covered = np.isin(earlier, change.labels_before or (-1,))[now].sum()
        grown = (
            change.change_ml * 1000 > LEAST_CHANGE_MM3
            and change.change_percent >= 100 * LEAST_CHANGE
        )
        speck = grown and covered < LEAST_OVERLAP * now.sum()
        expected = plain.kind if change.labels_before and not speck else 'unconfirmed'
        assert change.kind == expected


@many
@given(pairs)
def test_with_all_marked_new_lesions_were_hardly_there_before(pair):
    earlier, later = pair
    for change in compare_visits(earlier, later, 1.0, new=np.ones(SHAPE, bool)).changes:
        if not change.labels_before:
            assert change.kind == 'new'
            inside = np.isin(later, change.labels_after)
            assert (earlier[inside] > 0).mean() < SUPPORT
        else:
            assert change.kind != 'new'


@many
@given(follow_ups(), voxels_mm3)
def test_each_visit_holds_its_lesions_once(series, voxel_mm3):
    table = track_lesions(series, voxel_mm3).table
    assert not table.duplicated(['identifier', 'visit']).any()
    for visit, labels in enumerate(series):
        lines = table[(table['visit'] == visit) & (table['label'] > 0)]
        assert sorted(lines['label']) == list(range(1, labels.max() + 1))
        volume_ml = (labels > 0).sum() * voxel_mm3 / 1000
        assert math.isclose(lines['volume_ml'].sum(), volume_ml, abs_tol=1e-12)


@many
@given(follow_ups())
def test_a_lesion_is_there_at_every_visit_from_its_first_to_its_end(series):
    table = track_lesions(series, 1.0).table
    for _, lines in table.groupby('identifier'):
        first, last = lines['visit'].iloc[[0, -1]]
        ended = lines['label'] == 0
        assert ended.iloc[-1] or last == len(series) - 1
        assert (lines['state'].iloc[0] == 'first') == (first == 0)
        # It is away only from where it merged to where it parts again, or where nothing confirms
        # that it is away.
        goes_on = ~ended.iloc[:-1]
        assert (lines['visit'].diff().iloc[1:].to_numpy()[goes_on] == 1).all()
        away, back = ended.to_numpy()[:-1], lines['parent'].notna().to_numpy()[1:]
        doubted = (lines['state'] == 'unconfirmed').to_numpy()
        missed = away & doubted[:-1]
        assert (away == back | missed).all()
        assert doubted[1:][missed].all()
        assert (lines['merged_into'].notna().to_numpy()[:-1] == back).all()


@many
@given(follow_ups(), st.integers(0, 2**32 - 100))
def test_tracks_do_not_depend_on_labels(series, seed):
    plain = track_lesions(series, 1.0).table.drop(columns='label')
    others = [relabel(labels, seed + visit) for visit, labels in enumerate(series)]
    pd.testing.assert_frame_equal(plain, track_lesions(others, 1.0).table.drop(columns='label'))


@many
@given(follow_ups())
def test_the_table_and_the_comparisons_agree(series):
    tracks = track_lesions(series, 1.0)
    for visit, found in enumerate(tracks.comparisons, start=1):
        lines = tracks.table[tracks.table['visit'] == visit]
        names = Counter(name for change in found.changes for name in change.identifiers_after)
        assert names == Counter(lines['identifier'][lines['label'] > 0])
        ended = {
            name
            for change in found.changes
            for name in set(change.identifiers_before) - set(change.identifiers_after)
        }
        assert ended == set(lines['identifier'][lines['label'] == 0])
