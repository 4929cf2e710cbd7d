"""The variance that a network predicts for its logits: how it is learnt, and what it then says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from msapp.inference.lesions import sample_lesions
from msapp.models.spec import ModelSpec, Named
from msapp.networks import build_network, predicts_variance
from msapp.networks.unet import MOST_LOG_VARIANCE
from msapp.training.losses import make_loss, marginal_logits
from msapp.training.module import Segmentation
from msapp.training.recipe import load_recipe

SIDE = 16
PATCH, STEPS = 8, 150
SMALL = {'in_channels': 2, 'channels': [8, 16], 'num_res_units': 1, 'dropout': 0.1}
OUTPUTS = {'tversky_bce': 1, 'dice_ce': 2}


def headed(loss='tversky_bce', *, variance_head=True):
    torch.manual_seed(0)
    changes = {'out_channels': OUTPUTS[loss], 'variance_head': variance_head}
    return build_network('headed_unet', SMALL | changes)


def draw(side=SIDE):
    """Give images, and labels of what is bright; random ones where the second channel is 1."""
    bright = torch.randint(2, (2, 1, side, side, side)).float()
    vague = torch.zeros_like(bright)
    vague[..., : side // 2] = 1
    chance = torch.randint_like(bright, 2)
    return torch.cat([bright, vague], dim=1), torch.where(vague > 0, chance, bright)


def maps(*values):
    """Give a map of one voxel for each channel."""
    return torch.tensor(values).reshape(1, -1, 1, 1, 1)


# --- Noise on logits -----------------------------------------------------------------------------


@pytest.mark.parametrize('channels', [1, 3])
def test_without_variance_the_logits_say_what_they_said(channels):
    logits = torch.randn(2, channels, 2, 2, 2) * 5
    found = marginal_logits(logits, torch.full_like(logits, -30.0))
    if channels == 1:
        torch.testing.assert_close(found, logits)
    torch.testing.assert_close(found.softmax(1), logits.softmax(1))


@pytest.mark.parametrize(('logit', 'variance'), [(2.0, 1.0), (-1.0, 4.0), (3.0, 9.0)])
def test_the_probability_is_the_mean_over_the_noise(logit, variance):
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    expected = (weights * special.expit(logit + variance**0.5 * points)).sum() / weights.sum()
    torch.manual_seed(0)
    found = marginal_logits(maps(logit), maps(variance).log(), pairs=20_000)
    assert found.sigmoid().item() == pytest.approx(expected, abs=0.003)


def test_two_classes_that_compete_are_as_one_logit_with_the_variance_of_both():
    torch.manual_seed(0)
    two = marginal_logits(maps(0.0, 2.0), maps(0.5, 0.5).log(), pairs=20_000)
    one = marginal_logits(maps(2.0), maps(1.0).log(), pairs=20_000)
    assert two.softmax(1)[0, 1].item() == pytest.approx(one.sigmoid().item(), abs=0.003)


def test_a_logit_of_0_stays_0_whatever_the_variance():
    torch.testing.assert_close(marginal_logits(maps(0.0), maps(3.0)), maps(0.0))


def test_the_noise_comes_from_the_generator_of_torch():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(marginal_logits(maps(2.0), maps(1.0)).item())
    assert drawn[0] == drawn[1] != drawn[2]


# --- Training ------------------------------------------------------------------------------------


@pytest.mark.parametrize('variance_head', [True, False])
@pytest.mark.parametrize('loss', OUTPUTS)
def test_the_loss_reaches_the_head_of_a_network_that_has_one(loss, variance_head):
    arguments = SMALL | {'out_channels': OUTPUTS[loss], 'variance_head': variance_head}
    changes = {
        'architecture': Named(name='headed_unet', arguments=arguments),
        'loss': Named(name=loss),
    }
    module = Segmentation(load_recipe('lesions').model_copy(update=changes))
    module.log = lambda *_, **__: None
    image, target = draw()
    target = target if OUTPUTS[loss] == 1 else target.long()
    module.training_step({'image': image, 'target': target}, 0).backward()
    assert predicts_variance(module.network) == variance_head
    for parameter in module.network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_its_variance_has_limits():
    network = headed()
    with torch.no_grad():
        network.variance_head.bias.fill_(1e6)
    variance = network.forward_with_variance(draw()[0])[1]
    torch.testing.assert_close(variance, torch.full_like(variance, MOST_LOG_VARIANCE))


@pytest.fixture(scope='module', params=OUTPUTS)
def trained(request):
    """Train a network on labels of which half are random."""
    network, loss = headed(request.param), make_loss(request.param, {})
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for _ in range(STEPS):
        image, target = draw(PATCH)
        logits = marginal_logits(*network.forward_with_variance(image))
        optimizer.zero_grad()
        loss(logits, target if OUTPUTS[request.param] == 1 else target.long()).backward()
        optimizer.step()
    return network


def test_where_labels_are_random_it_predicts_more_variance(trained):
    image = draw()[0]
    with torch.no_grad():
        variance = trained.eval().forward_with_variance(image)[1].mean(dim=1).exp()
    vague = image[:, 1] > 0
    assert variance[vague].median() > 5 * variance[~vague].median()


@pytest.mark.parametrize('trained', ['tversky_bce'], indirect=True)
def test_the_app_maps_it(trained):
    spec = ModelSpec(
        name='toy',
        version='1',
        task='lesions',
        channels=[{'name': 'FLAIR'}, {'name': 'T1w'}],
        spacing_mm=(1.0, 1.0, 1.0),
        normalisation={'name': 'white_matter'},
        architecture={'name': 'headed_unet'},
        window=(SIDE,) * 3,
        threshold=0.5,
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    image = draw()[0][0].numpy()
    images = dict(zip(('FLAIR', 'T1w'), image, strict=True))
    brain = np.ones(image.shape[1:], bool)
    found = sample_lesions(images, brain, trained, spec, samples=4).predicted_variance
    vague = image[1] > 0
    assert np.median(found[vague]) > 5 * np.median(found[~vague])
