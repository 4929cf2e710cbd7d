"""Probabilities adapted to how common lesions are: known shares are found, order is kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from msapp.inference.prior import LEAST_SHARE, adapt_prior

LEARNT = 0.05


def brightness(share, n=400_000, seed=0) -> np.ndarray:
    """Of voxels: lesions about 3, the rest about 0."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, n) + 3 * (rng.random(n) < share)


def posterior(values, share) -> np.ndarray:
    """Return what Bayes' rule makes of brightness where lesions are this common."""
    lesion, other = share * stats.norm.pdf(values, 3), (1 - share) * stats.norm.pdf(values)
    return lesion / (lesion + other)


@pytest.mark.parametrize('share', [0.002, 0.02, 0.05, 0.3])
def test_a_brain_of_another_load_gets_the_probabilities_of_its_own(share):
    values = brightness(share)
    adapted = adapt_prior(posterior(values, LEARNT), LEARNT)
    assert adapted.mean() == pytest.approx(share, rel=0.1)
    np.testing.assert_allclose(adapted, posterior(values, share), atol=0.03)


def test_few_lesions_need_more_evidence_and_many_less():
    for share, more in ((0.002, False), (0.3, True)):
        before = posterior(brightness(share), LEARNT)
        after = adapt_prior(before, LEARNT)
        assert ((after > before) == more)[(before > 0.01) & (before < 0.99)].all()


def test_the_order_of_voxels_stays():
    given = np.sort(np.random.default_rng(0).random(1000))
    assert (np.diff(adapt_prior(given, 0.2)) >= 0).all()


def test_what_is_sure_stays_sure():
    given = np.array([0.0, 1.0, 0.5, *[0.0] * 50], np.float32)
    adapted = adapt_prior(given, LEARNT)
    assert adapted.dtype == np.float32
    assert adapted[0] == 0
    assert adapted[1] == 1
    assert 0 < adapted[2] < 0.5


def test_one_small_lesion_in_a_whole_brain_still_counts():
    given = np.zeros(1_400_000, np.float32)
    given[:10] = 0.999
    least = LEAST_SHARE / 0.007 * 0.999 / (LEAST_SHARE / 0.007 * 0.999 + 0.001)
    assert adapt_prior(given, 0.007)[0] == pytest.approx(least, abs=0.01)
    assert least > 0.5


def test_a_brain_without_any_is_left_as_it_is():
    assert (adapt_prior(np.zeros(100), LEARNT) == 0).all()
    assert adapt_prior(np.zeros(0), LEARNT).size == 0


@pytest.mark.parametrize('prior', [0.0, 1.0, -0.1, float('nan')])
def test_a_prior_is_a_share(prior):
    with pytest.raises(ValueError, match='prior'):
        adapt_prior(np.zeros(3), prior)
