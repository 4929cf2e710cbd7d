"""The network for new lesions: its wiring, and that padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from msapp.errors import MissingDependencyError
from msapp.networks import build_network
from msapp.networks.hybrid import MaskedBatchNorm

SMALL = {'channels': [4, 3, 5, 6, 4, 3, 2]}
SIDE = 21
CENTRE = (0, 0, SIDE // 2, SIDE // 2, SIDE // 2)


def hybrid(seed=0, **changes):
    """A small network whose statistics are not those it starts with."""
    torch.manual_seed(seed)
    network = build_network('hybrid', SMALL | changes)
    for layer in network.modules():
        if isinstance(layer, MaskedBatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return network


def patches(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(1, 7, (1, 2, *shape), generator=generator).float()
    distances = 150 * torch.rand(1, 3, *shape, generator=generator)
    return image, distances


def padded(tensor, shape, fill):
    """The tensor at the start of each axis of a larger one."""
    result = torch.full((*tensor.shape[:2], *shape), fill, dtype=tensor.dtype)
    result[(..., *map(slice, tensor.shape[2:]))] = tensor
    return result


def batch_of(*parts, fill=7.0):
    """Parts in one batch, padded with what must not count, and the mask."""
    shape = np.max([image.shape[2:] for image, _ in parts], axis=0)
    images, distances = (
        torch.cat([padded(part[n], shape, fill) for part in parts]) for n in range(2)
    )
    ones = [torch.ones(1, 1, *image.shape[2:], dtype=torch.bool) for image, _ in parts]
    return images, distances, torch.cat([padded(one, shape, False) for one in ones])


# --- Padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize('fill', [0.0, 7.0, float('nan')])
def test_a_patch_has_the_same_logits_alone_and_padded_in_a_batch(fill):
    network = hybrid().eval()
    parts = [patches(7, 5, 6), patches(9, 8, 4, seed=2), patches(3, 3, 3, seed=3)]
    logits = network(*batch_of(*parts, fill=fill))
    assert logits.shape == (3, 1, 9, 8, 6)
    for index, (image, distances) in enumerate(parts):
        i, j, k = image.shape[2:]
        alone = network(image, distances)
        torch.testing.assert_close(logits[index : index + 1, :, :i, :j, :k], alone)


def test_in_training_padding_changes_neither_logits_nor_statistics():
    image, distances = patches(7, 5, 6)
    alone, within = hybrid().train(), hybrid().train()
    plain = alone(image, distances)
    shape, mask = (10, 8, 6), torch.ones(1, 1, 7, 5, 6, dtype=torch.bool)
    logits = within(
        padded(image, shape, 7.0), padded(distances, shape, 7.0), padded(mask, shape, False)
    )
    torch.testing.assert_close(logits[..., :7, :5, :6], plain)
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(within.state_dict()[name], tensor, msg=name)
    started = hybrid().state_dict()['conv7.normalisation.running_mean']
    assert (started != within.conv7.normalisation.running_mean).any()


def test_statistics_of_a_batch_are_those_of_all_voxels_that_count():
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (2, 1, 4, 4, 4))
    mask = np.zeros((2, 1, 4, 4, 4), bool)
    mask[0], mask[1, :, :2, :3] = True, True
    counted = features[mask]
    layer = MaskedBatchNorm(1).double().train()
    result = layer(torch.from_numpy(features), torch.from_numpy(mask)).detach().numpy()
    wanted = (counted - counted.mean()) / np.sqrt(counted.var() + layer.eps)
    np.testing.assert_allclose(result[mask], wanted)
    assert (result[~mask] == 0).all()
    # A tenth of the way from 0 and 1 to the mean and the unbiased variance.
    assert layer.running_mean.item() == pytest.approx(0.1 * counted.mean())
    assert layer.running_var.item() == pytest.approx(0.9 + 0.1 * counted.var(ddof=1))


def test_without_padding_it_is_plain_batch_norm():
    features, mask = torch.randn(2, 3, 4, 5, 6), torch.ones(2, 1, 4, 5, 6, dtype=torch.bool)
    plain, masked = nn.BatchNorm3d(3).train(), MaskedBatchNorm(3).train()
    weight, gradients = torch.randn(features.shape), []
    for layer, given in ((plain, (features,)), (masked, (features, mask))):
        inputs = given[0].clone().requires_grad_()
        result = layer(inputs, *given[1:])
        (result * weight).sum().backward()
        gradients.append((result.detach(), inputs.grad, layer.weight.grad, layer.bias.grad))
    # Gradients too: a stride that torch took wrong once kept the network from learning.
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(masked.running_var, plain.running_var)
    assert masked.num_batches_tracked == plain.num_batches_tracked == 1


def test_one_voxel_has_no_variance():
    mask = torch.zeros(1, 1, 3, 3, 3, dtype=torch.bool)
    mask[0, 0, 1, 1, 1] = True
    with pytest.raises(ValueError, match='more than 1 value'):
        MaskedBatchNorm(2).train()(torch.randn(1, 2, 3, 3, 3), mask)


def test_what_is_padded_gets_no_gradient():
    image, distances, mask = batch_of(patches(5, 5, 5), patches(3, 4, 5, seed=2))
    image.requires_grad_()
    hybrid().train()(image, distances, mask)[mask].sum().backward()
    outside = ~mask.expand_as(image)
    assert (image.grad[outside] == 0).all()
    assert (image.grad[~outside] != 0).any()


# --- Wiring --------------------------------------------------------------------------------------


def positive(**changes):
    """A network in which every path carries a positive gradient, since no ReLU cuts any."""
    network = hybrid(**changes).double().eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv3d):
                layer.weight.abs_()
            if isinstance(layer, MaskedBatchNorm):
                layer.running_mean.zero_()
                layer.bias.zero_()
    return network


def reach(network):
    """How many voxels of visit 1, visit 2 and the distance maps the centre's logit depends on.

    Fails where these are not whole cubes about the centre.
    """
    image, distances = (x.double().requires_grad_() for x in patches(SIDE, SIDE, SIDE))
    network(image, distances)[CENTRE].backward()
    sides = []
    for gradient in (image.grad[0, 0], image.grad[0, 1], distances.grad[0].abs().sum(dim=0)):
        touched = gradient != 0
        side = round(int(touched.sum()) ** (1 / 3))
        box = slice((SIDE - side) // 2, (SIDE + side) // 2)
        assert touched[box, box, box].all()
        assert int(touched.sum()) == side**3
        sides.append(side)
    return tuple(sides)


def cut(network, block, inputs):
    """Take some inputs away from a block."""
    with torch.no_grad():
        getattr(network, block).convolution.weight[:, inputs] = 0
    return network


SHORT, LONG, MAPS = ('conv5', slice(6, 9)), ('conv7', slice(3, 4)), ('conv4', slice(5, 8))
# What comes from the block before, with the skips left.
DEEP = {'conv5': slice(0, 6), 'conv7': slice(0, 3), 'conv4': slice(0, 5)}


def test_a_logit_depends_on_15_voxels_of_the_flairs_and_9_of_the_distances():
    # Seven convolutions of 3, each a voxel further to both sides; the maps pass four of them.
    assert reach(positive()) == (1 + 2 * 7, 1 + 2 * 7, 1 + 2 * 4)


def test_the_short_skip_runs_from_conv2_to_conv5():
    # Through conv1, conv2, conv5, conv6 and conv7.
    assert reach(cut(positive(), 'conv5', DEEP['conv5'])) == (11, 11, 0)


def test_the_long_skip_takes_visit_2_alone_to_conv7():
    assert reach(cut(positive(), 'conv7', DEEP['conv7'])) == (0, 3, 0)


def test_distances_enter_at_conv4():
    network = cut(positive(), 'conv4', DEEP['conv4'])
    assert reach(cut(cut(network, *SHORT), *LONG)) == (0, 0, 9)


def test_distances_are_not_seen_before_conv4():
    network, seen = hybrid().eval(), {}
    for name in ('conv3', 'conv4'):
        block = getattr(network, name)
        block.register_forward_hook(
            lambda _, given, result, name=name: seen.setdefault(name, []).append((given[0], result))
        )
    image, distances = patches(6, 6, 6)
    network(image, distances)
    network(image, distances + 10)
    (_, before), (_, again) = seen['conv3']
    assert (before == again).all()
    (given, result), (_, other) = seen['conv4']
    torch.testing.assert_close(given[:, :5], before)
    torch.testing.assert_close(given[:, 5:], distances / 100)
    assert (result != other).any()


@pytest.mark.parametrize('connection', [SHORT, LONG, MAPS])
def test_every_connection_counts(connection):
    image, distances = patches(8, 8, 8)
    whole = hybrid().eval()(image, distances)
    without = cut(hybrid(), *connection).eval()(image, distances)
    assert (whole - without).abs().max() > 1e-3


def test_blocks_are_convolution_normalisation_and_relu_at_full_resolution():
    network = build_network('hybrid', {})
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv3d)]
    *blocks, head = convolutions
    assert len(blocks) == 7
    for layer in blocks:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((3,) * 3, (1,) * 3, (1,) * 3)
    assert [layer.in_channels for layer in blocks] == [2, 16, 16, 35, 48, 32, 17]
    assert (head.kernel_size, head.out_channels) == ((1, 1, 1), 1)
    assert not any('Pool' in type(layer).__name__ for layer in network.modules())
    assert 110_000 < sum(weight.numel() for weight in network.parameters()) < 120_000


def test_the_head_keeps_the_scale_of_its_maps():
    network = hybrid().eval()
    inputs = patches(6, 6, 6)
    before = network(*inputs)
    with torch.no_grad():
        network.head.weight *= 3
        network.head.bias *= 3
    torch.testing.assert_close(network(*inputs), 3 * before)


def test_scales_are_arguments():
    image, distances = patches(6, 6, 6)
    plain = hybrid().eval()(image, distances)
    other = hybrid(grey_levels=12, distance_scale_mm=50.0).eval()
    torch.testing.assert_close(other(2 * image, distances / 2), plain)


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'channels': [4] * 6}, 'channels must be 7 positive numbers'),
        ({'channels': [4] * 6 + [0]}, 'channels must be 7 positive numbers'),
        ({'distance_scale_mm': 0.0}, 'must be positive, got 6 and 0.0'),
        ({'colour': 1}, "'colour'"),
    ],
)
def test_a_network_that_cannot_be_built_is_named(arguments, message):
    with pytest.raises(MissingDependencyError, match=message):
        build_network('hybrid', arguments)


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        ([(1, 1, 4, 4, 4), (1, 3, 4, 4, 4)], r'image must be \(1, 2, 4, 4, 4\), got \(1, 1,'),
        ([(1, 2, 4, 4, 4), (1, 3, 4, 4, 5)], r'distances must be \(1, 3, 4, 4, 4\)'),
        ([(2, 2, 4, 4, 4), (2, 3, 4, 4, 4), (1, 1, 4, 4, 4)], r'mask must be \(2, 1, 4, 4, 4\)'),
        ([(2, 4, 4, 4), (3, 4, 4, 4)], 'image must be'),
    ],
)
def test_inputs_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        hybrid()(*[torch.ones(shape) for shape in shapes])
