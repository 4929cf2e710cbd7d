"""Probabilities adapted to how common lesions are: known shares are found, order is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from msapp.inference.prior import LEAST_SHARE, MOST_SHARE, find_shift

LEARNT = 0.05


def brightness(share, n=400_000, seed=0) -> np.ndarray:
    """Of voxels: lesions about 3, the rest about 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, n) + 3 * (rng.random(n) < share)


def posterior(values, share) -> np.ndarray:
    """Return what Bayes' rule makes of brightness where lesions are this common."""
    lesion, other = share * stats.norm.pdf(values, 3), (1 - share) * stats.norm.pdf(values)
    return lesion / (lesion + other)


def adapt(probability, prior) -> np.ndarray:
    """Return probabilities adapted to their brain."""
    with np.errstate(divide='ignore'):
        logits = special.logit(np.asarray(probability, float))
    return special.expit(logits + find_shift(logits, prior))


@pytest.mark.parametrize('share', [0.002, 0.02, 0.05, 0.09])
def test_a_brain_of_another_load_gets_the_probabilities_of_its_own(share):
    values = brightness(share)
    adapted = adapt(posterior(values, LEARNT), LEARNT)
    assert adapted.mean() == pytest.approx(share, rel=0.1)
    np.testing.assert_allclose(adapted, posterior(values, share), atol=0.03)


def test_few_lesions_need_more_evidence_and_many_less():
    for share, more in ((0.002, False), (0.09, True)):
        before = posterior(brightness(share), LEARNT)
        after = adapt(before, LEARNT)
        assert ((after > before) == more)[(before > 0.01) & (before < 0.99)].all()


def test_what_is_sure_stays_sure():
    adapted = adapt([0.0, 1.0, 0.5, *[0.0] * 50], LEARNT)
    assert adapted[0] == 0
    assert adapted[1] == 1
    assert 0 < adapted[2] < 0.5


def test_one_small_lesion_in_a_whole_brain_still_counts():
    given = np.zeros(1_400_000, np.float32)
    given[:10] = 0.999
    least = LEAST_SHARE / 0.007 * 0.999 / (LEAST_SHARE / 0.007 * 0.999 + 0.001)
    assert adapt(given, 0.007)[0] == pytest.approx(least, abs=0.01)
    assert least > 0.5


def test_a_brain_without_any_has_the_least_share():
    least = special.logit(LEAST_SHARE) - special.logit(LEARNT)
    assert find_shift(np.full(100, -np.inf), LEARNT) == pytest.approx(least)


@pytest.mark.parametrize('vague', [0.008, 0.02, 0.07, 0.3])
def test_a_network_that_is_vague_everywhere_finds_no_lesion_everywhere(vague):
    """The most likely share of lesion is 1 there, and 0.993 of each voxel without a limit."""
    assert adapt(np.full(1000, vague), 0.007).mean() <= max(vague, MOST_SHARE)


def test_a_vague_brain_keeps_the_lesions_that_it_has():
    given = np.full(1000, 0.05)
    given[:10] = 0.9
    assert ((adapt(given, 0.007) >= 0.5) == (given >= 0.5)).all()


@pytest.mark.parametrize('share', [0.095, 0.105, 0.15])
def test_near_the_largest_share_the_mask_does_not_jump(share):
    given = posterior(brightness(share), LEARNT)
    marked = [(adapted >= 0.5).mean() for adapted in (given, adapt(given, LEARNT))]
    assert marked[0] <= marked[1] < 1.3 * marked[0]


@pytest.mark.parametrize('prior', [0.0, 1.0, -0.1, float('nan')])
def test_a_prior_is_a_share(prior):
    with pytest.raises(ValueError, match='prior'):
        find_shift(np.zeros(3), prior)
