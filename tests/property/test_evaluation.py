"""Properties of the scores that hold for any pair of masks."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from msapp.evaluation.challenges import score_wmh2017
from msapp.evaluation.lesiontables import match_table, score_by_size
from msapp.evaluation.lesionwise import (
    LesionScores,
    count_lesions,
    detect_anima,
    detect_overlap,
    score_anima,
    score_any_overlap,
    score_ivadomed,
)
from msapp.evaluation.overlaps import label_lesions, pair_labels
from msapp.evaluation.voxel import dice, score_voxels

many = settings(max_examples=100, deadline=None)
SHAPE = (8, 7, 5)
spacings = st.tuples(*[st.floats(0.4, 4)] * 3)


@st.composite
def masks(draw, shape=SHAPE) -> np.ndarray:
    """Return a mask of boxes that may touch, with single voxels added and taken out."""
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(0, 5))):
        start = [draw(st.integers(0, size - 1)) for size in shape]
        sides = [draw(st.integers(1, 4)) for _ in shape]
        mask[tuple(slice(a, a + n) for a, n in zip(start, sides, strict=True))] = True
    flips = draw(arrays.arrays(bool, shape, elements=st.booleans(), fill=st.just(False)))
    return mask ^ flips


@st.composite
def strips(draw) -> np.ndarray:
    """Return a long, flat mask of many lesions, each over several of another such mask."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = generator.random((60, 5, 1)) < draw(st.floats(0.3, 0.7))
    return np.repeat(rows, draw(st.integers(1, 4)), axis=1)[:, :5]


def same(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12) or (
        math.isnan(first) and math.isnan(second)
    )


def alike(first: LesionScores, second: LesionScores) -> bool:
    return all(map(same, asdict(first).values(), asdict(second).values()))


@many
@given(masks(), masks(), spacings)
def test_scores_keep_their_range(prediction, reference, spacing):
    voxel = asdict(score_voxels(prediction, reference, spacing))
    for name in ('dice', 'jaccard', 'sensitivity', 'specificity', 'ppv', 'npv'):
        assert math.isnan(voxel[name]) or 0 <= voxel[name] <= 1
    for rule in (score_anima, score_any_overlap, score_ivadomed):
        lesions = rule(prediction, reference, spacing)
        for value in (lesions.sensitivity, lesions.ppv, lesions.f1):
            assert math.isnan(value) or 0 <= value <= 1
        assert 0 <= lesions.found_count <= lesions.reference_count
        assert 0 <= lesions.false_count <= lesions.predicted_count


@many
@given(masks(), masks(), spacings)
def test_exchanging_the_masks_exchanges_the_scores(first, second, spacing):
    there, back = score_voxels(first, second, spacing), score_voxels(second, first, spacing)
    for name in ('dice', 'jaccard', 'hd95_mm', 'assd_mm'):
        assert same(getattr(there, name), getattr(back, name))
    assert same(there.sensitivity, back.ppv)
    assert same(there.specificity, back.npv)
    one, other = (
        score_any_overlap(*pair, spacing, connectivity=6)
        for pair in ((first, second), (second, first))
    )
    assert same(one.sensitivity, other.ppv)


@many
@given(masks(), spacings)
def test_a_perfect_prediction_has_the_best_score(mask, spacing):
    scores = score_voxels(mask, mask, spacing)
    lesions = [score_anima(mask, mask, spacing), score_any_overlap(mask, mask, spacing)]
    assert all(result.false_count == 0 for result in lesions)
    if not mask.any():
        assert math.isnan(scores.dice)
        return
    assert (scores.dice, scores.jaccard, scores.assd_mm) == (1, 1, 0)
    assert scores.relative_volume_error_percent == 0
    for result in lesions:
        assert (result.sensitivity, result.ppv, result.f1) == (1, 1, 1) or (
            result.reference_count == 0
        )
    wmh = score_wmh2017(mask, mask.astype(int), spacing)
    assert (wmh.dice, wmh.avd_percent, wmh.recall, wmh.f1) == (1, 0, 1, 1)


@many
@given(masks(), masks(), st.randoms(use_true_random=False))
def test_the_numbering_of_lesions_does_not_matter(prediction, reference, random):
    labels = [label_lesions(mask, 1.0) for mask in (prediction, reference)]
    renumbered = []
    for image in labels:
        values = list(range(1, image.max() + 1))
        random.shuffle(values)
        renumbered.append(np.array([0, *(2 * value for value in values)])[image])
    for rule in (detect_anima, detect_overlap):
        plain, mixed = pair_labels(*labels, 1.0), pair_labels(*renumbered, 1.0)
        assert alike(count_lesions(plain, rule(plain)), count_lesions(mixed, rule(mixed)))


@many
@given(masks(), masks(), st.integers(1, 6))
def test_a_false_lesion_never_raises_the_ppv(prediction, reference, size):
    wide = [np.pad(mask, ((0, 10), (0, 0), (0, 0))) for mask in (prediction, reference)]
    more = wide[0].copy()
    more[SHAPE[0] + 2 : SHAPE[0] + 2 + size, 2:4, 2:4] = True
    for rule in (score_anima, score_any_overlap, score_ivadomed):
        before, after = (rule(mask, wide[1], (1, 1, 1)) for mask in (wide[0], more))
        assert after.false_count == before.false_count + 1
        if not (math.isnan(before.ppv) or math.isnan(after.ppv)):
            assert after.ppv <= before.ppv
        if not math.isnan(before.f1):
            assert after.f1 <= before.f1
    assert not dice(more, wide[1]) > (dice(*wide) if wide[0].any() else 0)


@many
@given(masks(), masks(), st.permutations(range(3)), st.lists(st.booleans(), min_size=3, max_size=3))
def test_lesions_do_not_depend_on_how_the_image_lies(prediction, reference, axes, flips):
    def turn(mask: np.ndarray) -> np.ndarray:
        return np.flip(mask.transpose(axes), [axis for axis in range(3) if flips[axis]])

    for rule in (score_anima, score_any_overlap, score_ivadomed):
        plain = rule(prediction, reference, (1, 1, 1))
        turned = rule(turn(prediction), turn(reference), (1, 1, 1))
        assert alike(plain, turned)


def anima_step_by_step(prediction: np.ndarray, reference: np.ndarray, table: np.ndarray) -> bool:
    """Tell whether one reference lesion is found, by the rule as it is written, voxel by voxel.

    `prediction` is a label image, `reference` the lesion, `table` all reference lesions.
    """
    inside = prediction[reference]
    covered = np.count_nonzero(inside)
    if not covered / np.count_nonzero(reference) > 0.10:
        return False
    on_it = []
    for label in set(inside.tolist()) - {0}:
        lesion = prediction == label
        outside = np.count_nonzero(lesion & ~table) / np.count_nonzero(lesion)
        on_it.append((np.count_nonzero(inside == label), outside))
    walked = 0
    for overlap, outside in sorted(on_it, reverse=True):
        if walked / covered >= 0.65:
            break
        if outside > 0.70:
            return False
        walked += overlap
    return True


@many
@given(strips(), strips())
def test_anima_is_the_rule_as_written(prediction, reference):
    predicted, true = (label_lesions(mask, 1.0, above_mm3=3.0) for mask in (prediction, reference))
    overlaps = pair_labels(predicted, true, 1.0)
    detection = detect_anima(overlaps)
    assert detection.found.tolist() == [
        anima_step_by_step(predicted, true == label, true > 0) for label in range(1, true.max() + 1)
    ]
    assert detection.true.tolist() == [
        anima_step_by_step(true, predicted == label, predicted > 0)
        for label in range(1, predicted.max() + 1)
    ]


@many
@given(masks(), masks(), spacings)
def test_the_table_of_lesions_holds_both_masks(prediction, reference, spacing):
    voxel_mm3 = float(np.prod(spacing))
    overlaps = pair_labels(
        *(label_lesions(m, voxel_mm3) for m in (prediction, reference)), voxel_mm3
    )
    table = match_table(overlaps, detect_overlap(overlaps))
    volumes = table.groupby('mask')[['volume_mm3', 'overlap_mm3']].sum()
    shared = np.count_nonzero(prediction & reference) * voxel_mm3
    for name, mask in (('prediction', prediction), ('reference', reference)):
        if mask.any():
            assert math.isclose(volumes.loc[name, 'volume_mm3'], mask.sum() * voxel_mm3)
            assert math.isclose(volumes.loc[name, 'overlap_mm3'], shared, abs_tol=1e-9)
    sizes = score_by_size(table, (0, 5, 50, math.inf))
    assert sizes['reference_count'].sum() == overlaps.reference_voxels.size
