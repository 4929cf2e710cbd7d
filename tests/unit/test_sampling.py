"""Batches of patches for the network of new lesions: shares, sizes, and what is varied."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from msapp.errors import InputError
from msapp.imaging.distance import distance_maps
from msapp.lesions.candidates import Candidates
from msapp.lesions.instances import label_instances
from msapp.training.sampling import (
    EpochCounts,
    TrainingPatch,
    describe_patches,
    draw_epoch,
    make_batches,
    plan_epoch,
    split_count,
)


def some(count, *, true=False, infratentorial=False, shape=(7, 7, 7)):
    """Patches of one kind."""
    case = f'{"true" if true else "false"}-{"infra" if infratentorial else "supra"}'
    return [
        TrainingPatch(
            label=label,
            start=(0, 0, 0),
            stop=shape,
            case=case,
            true=true,
            infratentorial=infratentorial,
        )
        for label in range(1, count + 1)
    ]


def everything(true=100, infra_true=10, infra_false=300, supra_false=700):
    """As many patches of each kind; ``true`` counts those of both regions."""
    return [
        *some(true - infra_true, true=True),
        *some(infra_true, true=True, infratentorial=True),
        *some(infra_false, infratentorial=True),
        *some(supra_false),
    ]


def kinds(patches):
    return Counter((patch.true, patch.infratentorial) for patch in patches)


# --- Shares of an epoch --------------------------------------------------------------------------


def test_an_epoch_of_100_true_patches_written_out():
    counts = plan_epoch(everything())
    assert counts == EpochCounts(
        true=100,
        false=100,
        infratentorial_true=17,
        infratentorial_false=34,
        supratentorial_false=9,
    )
    assert (counts.extra, counts.total) == (60, 260)


COUNTS = [1, 2, 3, 7, 33, 100, 1234]


@pytest.mark.parametrize('true', COUNTS)
def test_as_many_false_as_true_patches(true):
    counts = plan_epoch(everything(), true_count=true)
    assert counts.true == counts.false == true


@pytest.mark.parametrize('true', COUNTS)
def test_extra_patches_are_30_percent_of_the_balanced_part(true):
    counts = plan_epoch(everything(), true_count=true)
    assert counts.extra == round(0.3 * (counts.true + counts.false))
    assert abs(counts.extra - 0.6 * true) <= 0.5


@pytest.mark.parametrize('true', COUNTS)
@pytest.mark.parametrize(
    ('name', 'share'),
    [
        ('infratentorial_true', 0.85 * 0.33),
        ('infratentorial_false', 0.85 * 0.67),
        ('supratentorial_false', 0.15),
    ],
)
def test_each_kind_of_extra_patches_has_its_share_to_the_patch(true, name, share):
    counts = plan_epoch(everything(), true_count=true)
    assert abs(getattr(counts, name) - share * counts.extra) < 1


def test_shares_in_a_large_epoch():
    counts = plan_epoch(everything(), true_count=100_000)
    infratentorial = counts.infratentorial_true + counts.infratentorial_false
    assert counts.extra / (counts.true + counts.false) == 0.3
    assert infratentorial / counts.extra == 0.85
    assert counts.supratentorial_false / counts.extra == 0.15
    assert counts.infratentorial_true / infratentorial == pytest.approx(0.33, abs=1e-4)
    assert counts.infratentorial_false / infratentorial == pytest.approx(0.67, abs=1e-4)


def test_what_is_drawn_is_what_was_planned():
    drawn = draw_epoch(everything(), seed=0)
    assert len(drawn) == 260
    balanced, extra = drawn[:200], drawn[200:]
    # Every true patch once.
    assert Counter(balanced[:100]) == Counter(everything()[:100])
    assert not any(patch.true for patch in balanced[100:])
    assert kinds(extra) == {(True, True): 17, (False, True): 34, (False, False): 9}


def test_false_patches_are_drawn_uniformly_whatever_their_region():
    patches = everything(true=50, infra_false=300, supra_false=700)
    drawn = Counter(
        patch for epoch in range(400) for patch in draw_epoch(patches, seed=1, epoch=epoch)[50:100]
    )
    # 400 draws of 50 of 1000: each 20 times, with a standard deviation of 4.4.
    assert len(drawn) == 1000
    assert 0 < min(drawn.values()) < max(drawn.values()) < 20 + 6 * 4.4
    deep = sum(count for patch, count in drawn.items() if patch.infratentorial)
    assert deep / drawn.total() == pytest.approx(0.3, abs=0.02)


def test_no_patch_repeats_within_a_kind_before_all_came():
    patches = everything(true=100, infra_true=5)
    drawn = draw_epoch(patches, seed=2, true_count=250)
    true, repeated = Counter(drawn[:250]), Counter(drawn[500:542])
    assert plan_epoch(patches, true_count=250).infratentorial_true == 42
    assert set(true.values()) == {2, 3}
    assert sorted(repeated.values()) == [8, 8, 8, 9, 9]


def test_seed_and_epoch_decide_and_the_order_of_patches_does_not():
    patches = everything()
    first = draw_epoch(patches, seed=3, epoch=4)
    assert draw_epoch(patches[::-1], seed=3, epoch=4) == first
    assert draw_epoch(patches, seed=3, epoch=5) != first
    assert draw_epoch(patches, seed=4, epoch=4) != first


@pytest.mark.parametrize(
    ('there', 'wanted'),
    [
        # The posterior fossa keeps its 85 %.
        ({'infra_true': 0}, (0, 51, 9)),
        # False positives keep their 67 % of 85 %.
        ({'infra_false': 0}, (17, 0, 43)),
        ({'supra_false': 0}, (17, 43, 0)),
        ({'infra_true': 0, 'infra_false': 0}, (0, 0, 60)),
        ({'infra_true': 0, 'supra_false': 0}, (0, 60, 0)),
    ],
)
def test_a_kind_that_is_missing_leaves_its_share_to_another(there, wanted):
    patches = everything(**there)
    counts = plan_epoch(patches)
    found = (counts.infratentorial_true, counts.infratentorial_false, counts.supratentorial_false)
    assert found == wanted
    assert len(draw_epoch(patches, seed=0)) == counts.total == 260


@pytest.mark.parametrize(
    ('patches', 'message'),
    [
        ([], '0 candidates, 0 of which touch'),
        (some(5), '5 candidates, 0 of which touch a new lesion: both kinds are needed'),
        (some(4, true=True), '4 candidates, 4 of which'),
    ],
)
def test_one_kind_alone_is_refused(patches, message):
    with pytest.raises(InputError, match=message):
        plan_epoch(patches)


def test_an_epoch_without_true_patches_is_refused():
    with pytest.raises(ValueError, match='true_count must be at least 1, got 0'):
        plan_epoch(everything(), true_count=0)


@pytest.mark.parametrize(
    ('count', 'shares', 'wanted'),
    [
        (10, [0.5, 0.5], [5, 5]),
        (1, [0.5, 0.5], [1, 0]),
        (10, [0.26, 0.26, 0.48], [3, 2, 5]),
        (100, [1 / 3] * 3, [34, 33, 33]),
        (0, [0.3, 0.7], [0, 0]),
    ],
)
def test_largest_remainder(count, shares, wanted):
    assert split_count(count, shares) == wanted


def test_shares_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match='add up to 1'):
        split_count(3, [0.5, 0.6])


# --- Batches -------------------------------------------------------------------------------------


def padding(batches):
    """Share of voxels that are padded."""
    held = sum(np.prod(patch.shape) for batch in batches for patch in batch)
    shapes = [np.max([patch.shape for patch in batch], axis=0) for batch in batches]
    return 1 - held / sum(len(b) * np.prod(s) for b, s in zip(batches, shapes, strict=True))


def test_batches_hold_the_epoch_in_batches_of_32():
    epoch = draw_epoch(everything(), seed=0)
    batches = make_batches(epoch, seed=0)
    assert sorted(len(batch) for batch in batches) == [4] + [32] * 8
    assert Counter(patch for batch in batches for patch in batch) == Counter(epoch)


def test_patches_of_four_shapes_share_no_batch():
    shapes = [(7, 7, 7), (7, 7, 20), (20, 7, 7), (9, 30, 9)]
    patches = [patch for shape in shapes for patch in some(32, shape=shape)]
    batches = make_batches(patches, seed=0)
    assert [len(batch) for batch in batches] == [32] * 4
    assert all(len({patch.shape for patch in batch}) == 1 for batch in batches)


def test_little_is_padded_where_sizes_vary_as_those_of_candidates():
    rng = np.random.default_rng(0)
    sides = 4 + np.ceil(rng.lognormal(1.0, 0.6, (1300, 3))).astype(int)
    patches = [some(1, shape=tuple(map(int, shape)))[0] for shape in sides]
    unsorted = [patches[start : start + 32] for start in range(0, len(patches), 32)]
    assert padding(unsorted) > 0.8
    assert padding(make_batches(patches, seed=0)) < 0.45


def test_batches_come_in_an_order_of_the_seed():
    epoch = draw_epoch(everything(), seed=0)
    assert make_batches(epoch, seed=0) == make_batches(epoch, seed=0)
    assert make_batches(epoch, seed=0) != make_batches(epoch, seed=0, epoch=1)
    assert make_batches([], seed=0) == []
    with pytest.raises(ValueError, match='size must be at least 1'):
        make_batches(epoch, seed=0, size=0)


# --- Patches of a case ---------------------------------------------------------------------------


@pytest.fixture
def case():
    """A brain of 20 voxels' height with three candidates, and the truth."""
    brain = np.ones((30, 30, 21), bool)
    mask = np.zeros(brain.shape, bool)
    # Heights below the vertex: 0.15, 0.6 and 0.65 to 0.7 of the brain's.
    mask[4:9, 4:9, 16:19] = mask[15:18, 15:18, 8] = mask[25:28, 25:28, 6:8] = True
    mask[8, 8, 18] = False
    labels = label_instances(mask, 1.0)
    truth = np.zeros(brain.shape, bool)
    # One voxel of the deepest; beside the uppermost, and in a corner of its box, but not in it.
    truth[27, 27, 4:7] = truth[9:12, 4:9, 17] = truth[8, 8, 18] = True
    rng = np.random.default_rng(0)
    before, after = rng.integers(1, 7, (2, *brain.shape)).astype(np.uint8)
    before[0], after[0] = 0, 0
    candidates = Candidates(labels, before.astype(np.float32), before, after, after / 1.0)
    return candidates, distance_maps(brain, (1.0, 1.0, 1.0)), truth


@pytest.fixture
def described(case):
    candidates, maps, truth = case
    return describe_patches('sub-01', candidates.labels, truth, maps.below_vertex)


def test_a_patch_is_true_if_its_candidate_shares_a_voxel_with_the_truth(described):
    assert [(patch.label, patch.true) for patch in described] == [(1, False), (2, True), (3, False)]


def test_infratentorial_is_deeper_than_60_percent_of_the_height(described):
    assert [patch.infratentorial for patch in described] == [False, True, False]


def test_a_patch_has_two_voxels_more_on_every_side_within_the_image(described):
    upper, lower, middle = described
    assert (upper.start, upper.stop) == ((2, 2, 14), (11, 11, 21))
    assert (lower.start, lower.stop) == ((23, 23, 4), (30, 30, 10))
    assert middle.shape == (7, 7, 5)
    assert {patch.case for patch in described} == {'sub-01'}


def test_shapes_that_differ_are_named(case):
    candidates, maps, truth = case
    with pytest.raises(ValueError, match=r'sub-01: labels .* must have one shape'):
        describe_patches('sub-01', candidates.labels, truth[1:], maps.below_vertex)
