"""How unusual a brightening between two visits is: the rating, and who is fed with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from msapp.inference.newlesions import predict_new_lesions
from msapp.inference.normalise import rate_brightening
from msapp.models.registry import BRIGHTENING
from msapp.models.spec import ModelSpec

SHAPE = (24, 24, 24)
NEW, OLD = np.s_[4:7, 4:7, 4:7], np.s_[15:18, 15:18, 15:18]


def visits(seed=0, noise=0.03):
    """White matter, brighter cortex in one half, an old lesion, and a new one."""
    rng = np.random.default_rng(seed)
    tissue = np.ones(SHAPE)
    tissue[12:] = 1.2
    tissue[OLD] = 1.7
    previous, current = tissue + rng.normal(0, noise, (2, *SHAPE))
    current[NEW] += 0.6
    return previous, current


def everywhere():
    return np.ones(SHAPE, bool)


def test_a_new_lesion_is_rated_and_nothing_else():
    rated = rate_brightening(*visits(), everywhere())
    # 0.6 over noise of 0.03 is more than six standard deviations, where the scale ends.
    assert (rated[NEW] == 3).all()
    other = np.ones(SHAPE, bool)
    other[NEW] = False
    assert (rated[other] > 2).mean() < 0.001
    assert rated.dtype == np.float32


def test_brightening_of_all_that_was_bright_is_common():
    previous, current = visits()
    # Another scanner: cortex and old lesions are much brighter.
    other = np.where(current > 1.1, 1 + 2 * (current - 1), current)
    other[NEW] = current[NEW]
    rated = rate_brightening(previous, other, everywhere())
    assert np.median(rated[NEW]) == 3
    assert np.median(rated[OLD]) < 1
    assert np.median(rated[12:]) < 0.5
    assert (other - previous)[OLD].mean() > 0.6


@given(scale=st.floats(0.5, 3), shift=st.floats(-0.3, 0.3))
def test_neither_scale_nor_shift_of_the_later_visit_count(scale, shift):
    previous, current = visits(noise=0.1)
    plain = rate_brightening(previous, current, everywhere())
    other = rate_brightening(previous, scale * current + shift, everywhere())
    np.testing.assert_allclose(other, plain, atol=1e-3)


def test_nothing_is_rated_outside_the_brain_and_an_empty_one_is_no_error():
    previous, current = visits()
    brain = everywhere()
    brain[:8] = False
    assert (rate_brightening(previous, current, brain)[:8] == 0).all()
    assert not rate_brightening(previous, current, ~everywhere()).any()
    one = ~everywhere()
    one[0, 0, 0] = True
    assert not rate_brightening(previous, current, one).any()


def test_images_without_noise_do_not_divide_by_zero():
    flat = np.ones(SHAPE)
    assert not rate_brightening(flat, flat, everywhere()).any()


class Third(nn.Module):
    """Calls new what its third channel says."""

    def forward(self, image):
        return 4 * image[:, 2:] - 6


@pytest.mark.parametrize('reverse', [False, True])
def test_a_model_that_names_the_channel_gets_it_for_the_visits_at_hand(reverse):
    previous, current = visits()
    spec = ModelSpec(
        name='toy',
        version='1',
        task='longitudinal',
        channels=[{'name': name} for name in ('previous', 'current', BRIGHTENING)],
        spacing_mm=(1, 1, 1),
        normalisation={'name': 'white_matter'},
        architecture={'name': 'headed_unet', 'arguments': {'in_channels': 3}},
        window=SHAPE,
        threshold=0.5,
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    images = {'previous': previous, 'current': current}
    if reverse:
        images = {'previous': current, 'current': previous}
    found = predict_new_lesions(images, everywhere(), Third(), spec) > 0.5
    expected = rate_brightening(images['previous'], images['current'], everywhere()) > 1.5
    assert (found == expected).all()
    assert found[NEW].all() != reverse
