"""The hybrid method on two visits: candidates, the network on each patch, and their merging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from msapp.errors import InputError
from msapp.inference.newlesions import predict_new_lesions
from msapp.lesions.candidates import find_candidates
from msapp.models.spec import ModelSpec
from msapp.networks import build_network

SPACING = (1.0, 1.0, 1.0)
NEW = [np.s_[10:15, 10:15, 10:15], np.s_[24:28, 22:27, 12:16]]


class Rising(nn.Module):
    """Calls new what rose by two grey levels, most certainly near the first voxel of a patch."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, image, distances):
        self.shapes.append(tuple(image.shape[2:]))
        rose = image[:, 1:] - image[:, :1] >= 2
        ramp = torch.arange(image.shape[2])[:, None, None] * 0.1
        return torch.where(rose, 4.0, -8.0) - ramp + 0 * distances[:, :1]


def spec(**changes):
    values = {
        'name': 'toy',
        'version': '1',
        'task': 'longitudinal',
        'channels': [{'name': 'previous'}, {'name': 'current'}],
        'spacing_mm': SPACING,
        'normalisation': {'name': 'grey_levels'},
        'architecture': {'name': 'hybrid'},
        'window': (16, 16, 16),
        'threshold': 0.75,
        'training': {'synthetic_only': True},
        'licence': 'none',
        'intended_use': 'tests',
    }
    return ModelSpec(**values | changes)


@pytest.fixture
def images():
    """Two visits of a brain between which two lesions came."""
    shape = (40, 40, 30)
    rng = np.random.default_rng(0)
    before, after = (1 + rng.normal(0, 0.02, (2, *shape))).astype(np.float32)
    for image in (before, after):
        image[:, :, 25:] += 1
    for box in NEW:
        after[box] = 1.8
    return {'previous': before, 'current': after}


@pytest.fixture
def brain(images):
    mask = np.zeros(images['current'].shape, bool)
    mask[3:37, 3:37, 3:29] = True
    return mask


def test_what_came_is_found_and_nothing_outside_the_patches(images, brain):
    network = Rising()
    probability = predict_new_lesions(images, brain, network, spec())
    labels = find_candidates(images['previous'], images['current'], brain, SPACING).labels
    assert len(network.shapes) == labels.max()
    truth = np.zeros(brain.shape, bool)
    for box in NEW:
        truth[box] = True
    found = probability >= 0.75
    # Opening took the corners of the candidates; patches are wider, the network decides.
    assert (found == truth).all()
    assert probability.dtype == np.float32
    assert (probability[~brain] == 0).all()
    assert (probability[20:22] == 0).all()


def test_flips_average_the_mirror_image(images, brain):
    plain = predict_new_lesions(images, brain, Rising(), spec())
    both = predict_new_lesions(images, brain, Rising(), spec(), flips=True)
    # The ramp falls along the patch, and rises in its mirror image: its mean is flat.
    assert np.ptp(plain[NEW[0]]) > 0.005
    assert np.ptp(both[NEW[0]]) < 1e-6


def test_the_temperature_divides_logits(images, brain):
    plain = predict_new_lesions(images, brain, Rising(), spec())[NEW[0]]
    cooled = predict_new_lesions(images, brain, Rising(), spec(temperature=2.0))[NEW[0]]
    logit = np.log(plain / (1 - plain))
    np.testing.assert_allclose(cooled, 1 / (1 + np.exp(-logit / 2)), atol=1e-5)


def test_the_network_itself_runs_on_patches_of_any_size(images, brain):
    torch.manual_seed(0)
    network = build_network('hybrid', {'channels': [2] * 7}).eval()
    probability = predict_new_lesions(images, brain, network, spec())
    assert np.isfinite(probability).all()
    assert (probability[tuple(NEW[0])] > 0).all()


def test_visits_without_change_have_nothing(images, brain):
    same = {'previous': images['previous'], 'current': images['previous']}
    assert not predict_new_lesions(same, brain, Rising(), spec()).any()


def test_brains_that_do_not_overlap_are_said(images, brain):
    with pytest.raises(InputError, match='do not overlap'):
        predict_new_lesions(images, brain & False, Rising(), spec())
