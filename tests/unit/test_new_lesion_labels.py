"""New lesions as instances: what the network marks, and how large lesions grow."""

from __future__ import annotations

import numpy as np
import pytest

from msapp.inference.newlesions import LEAST_GROWING_MM3, REACH_MM, label_new_lesions
from msapp.models.registry import load_spec

SHAPE = (40, 40, 40)
POINTS = np.indices(SHAPE) - 20
LESION = np.linalg.norm(POINTS, axis=0) < 8
BRAIN = np.ones(SHAPE, bool)


def label(marked, *, current=None, brain=BRAIN, model='newlesions'):
    flat = np.ones(SHAPE, np.float32)
    images = {'previous': flat, 'current': flat + 0.5 * LESION if current is None else current}
    return label_new_lesions(marked * np.float32(0.9), images, brain, load_spec(model))


def test_a_lesion_that_is_marked_in_part_grows_to_its_border():
    marked = LESION & (POINTS[0] > -2)
    grown = label(marked) > 0
    assert np.logical_xor(grown, LESION).sum() < 0.05 * LESION.sum()


def test_a_hollow_lesion_is_filled():
    hollow = LESION & (np.linalg.norm(POINTS, axis=0) > 5)
    assert (label(hollow) > 0)[LESION].all()


def test_it_grows_no_farther_than_its_reach_and_the_brain():
    marked = LESION & (POINTS[0] > 5)
    assert marked.sum() >= LEAST_GROWING_MM3
    everywhere = np.full(SHAPE, 1.5, np.float32)
    brain = POINTS[1] < 5
    grown = label(marked, current=everywhere, brain=brain) > 0
    assert POINTS[0][grown].min() == 6 - REACH_MM
    assert not grown[~brain & ~marked].any()


@pytest.mark.parametrize('brightness', [1.0, 1.1])
def test_what_is_not_as_bright_as_a_lesion_is_left_out(brightness):
    marked = LESION & (POINTS[0] > 2)
    current = np.where(marked, brightness, np.where(LESION, brightness, 1)).astype(np.float32)
    assert ((label(marked, current=current) > 0) == marked).all()


def test_small_places_stay_as_they_are():
    speck = np.linalg.norm(POINTS, axis=0) < 2
    assert ((label(speck) > 0) == speck).all()


def test_the_hybrid_method_stays_as_published():
    marked = LESION & (POINTS[0] > 2)
    assert ((label(marked, model='hybrid') > 0) == marked).all()
