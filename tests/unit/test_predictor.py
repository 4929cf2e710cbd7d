"""Sliding windows, dropout samples, and what happens when a GPU runs out of memory."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from msapp.errors import MissingDependencyError
from msapp.inference import predictor
from msapp.inference.dropout import set_dropout
from msapp.inference.predictor import measure_samples, predict
from msapp.networks import build_network

WINDOW = (32, 32, 32)
SMALL = {'in_channels': 1, 'out_channels': 1, 'channels': [4, 8]}


class Pointwise(nn.Module):
    """Two maps: twice the first channel, and the sum of all plus 1."""

    def forward(self, image):
        return torch.cat([2 * image[:, :1], image.sum(1, keepdim=True) + 1], dim=1)


class Gradient(nn.Module):
    """The position along the first axis of the window, whatever the image."""

    def forward(self, image):
        ramp = torch.arange(image.shape[2], dtype=image.dtype)[None, None, :, None, None]
        return image * 0 + ramp


def volume(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def headed(**changes):
    torch.manual_seed(0)
    return build_network('headed_unet', SMALL | changes)


# --- Networks ------------------------------------------------------------------------------------


def test_the_head_keeps_the_scale_of_its_maps():
    network = headed().eval()
    image = torch.from_numpy(volume(1, 1, 16, 16, 16))
    before = network(image)
    with torch.no_grad():
        network.head.weight *= 3
        network.head.bias *= 3
    torch.testing.assert_close(network(image), 3 * before)
    assert before.shape == (1, 1, 16, 16, 16)


def test_the_default_network_halves_the_grid_at_once_and_needs_multiples_of_16():
    network = build_network('headed_unet', {'in_channels': 2, 'out_channels': 3})
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv3d))
    assert first.stride == (2, 2, 2)
    assert network.divisor == 16
    assert network.head.in_channels == 8


def test_the_variance_comes_only_when_asked_for():
    network, image = headed(variance_head=True).eval(), torch.zeros(1, 1, 16, 16, 16)
    logits, log_variance = network.forward_with_variance(image)
    torch.testing.assert_close(network(image), logits)
    assert log_variance.shape == logits.shape
    with pytest.raises(ValueError, match='no variance head'):
        headed().forward_with_variance(image)


@pytest.mark.parametrize(
    ('name', 'arguments', 'message'),
    [
        ('vgg', {}, 'not known to this version of msapp, which has headed_unet'),
        ('headed_unet', {'in_channels': 1}, "'out_channels'"),
        ('headed_unet', SMALL | {'colour': 1}, "'colour'"),
        ('headed_unet', SMALL | {'strides': [2, 2]}, 'strides must be one fewer'),
    ],
)
def test_a_network_that_cannot_be_built_is_named(name, arguments, message):
    with pytest.raises(MissingDependencyError, match=message):
        build_network(name, arguments)


def test_dropout_is_turned_on_alone():
    network = headed(dropout=0.5).eval()
    # Two convolutions a level, and the one upwards; the last before the head stays plain.
    assert set_dropout(network, active=True) == 5
    training = {type(layer).__name__ for layer in network.modules() if layer.training}
    assert training == {'Dropout'}
    set_dropout(network, active=False)
    assert not any(layer.training for layer in network.modules())
    assert set_dropout(headed(dropout=0.0), active=True) == 0


# --- Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize('shape', [(40, 33, 50), (10, 32, 20), (1, 1, 1)])
def test_windows_of_a_pointwise_network_give_the_whole_image(shape):
    image = volume(2, *shape)
    found = predict(Pointwise(), image, window=WINDOW, batch=3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [2 * image[0], image.sum(0) + 1], rtol=1e-5, atol=1e-5)


def test_the_batch_changes_nothing():
    image = volume(1, 40, 40, 40)
    one, four = (predict(headed(), image, window=WINDOW, batch=batch) for batch in (1, 4))
    np.testing.assert_allclose(one, four, atol=1e-5)


def test_a_flip_averages_over_both_sides():
    found = predict(Gradient(), volume(1, 32, 32, 32), window=WINDOW, flips=True)
    np.testing.assert_allclose(found, 15.5, atol=1e-4)  # the mean of 0 to 31 and its mirror
    found = predict(Gradient(), volume(1, 32, 32, 32), window=WINDOW, flips=(1, 2))
    np.testing.assert_allclose(found[0, :, 0, 0], np.arange(32), atol=1e-4)


def test_flips_along_several_axes_make_the_answer_symmetric():
    image = volume(1, 32, 32, 32)
    answers = [
        predict(headed(), flipped, window=WINDOW, flips=(0, 1))
        for flipped in (image, image[:, ::-1], image[:, ::-1, ::-1])
    ]
    np.testing.assert_allclose(answers[1][:, ::-1], answers[0], atol=1e-5)
    np.testing.assert_allclose(answers[2][:, ::-1, ::-1], answers[0], atol=1e-5)


def test_the_variance_follows_the_logits():
    network, image = headed(variance_head=True), volume(1, 32, 32, 32)
    both = predict(network, image, window=WINDOW, with_variance=True)
    assert both.shape == (2, 32, 32, 32)
    np.testing.assert_allclose(both[:1], predict(network, image, window=WINDOW), atol=1e-6)


@pytest.mark.parametrize(
    ('image', 'options', 'message'),
    [
        (volume(4, 4, 4), {}, r'must be \(C, I, J, K\), got 3 axes'),
        (np.full((1, 4, 4, 4), np.nan), {}, 'must be finite'),
        (volume(1, 4, 4, 4), {'window': (32, 33, 32)}, r'multiples of 2, got \(32, 33, 32\)'),
        (volume(1, 4, 4, 4), {'batch': 0}, 'batch must be at least 1, got 0'),
    ],
)
def test_what_does_not_fit_is_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        predict(headed(), image, **{'window': WINDOW, **options})


# --- Samples -------------------------------------------------------------------------------------


def moments(draws):
    """Mean and variance over the samples."""
    values = np.stack(list(draws))
    return np.concatenate([values.mean(axis=0), values.var(axis=0)], axis=1)


class Coin(nn.Module):
    """Logits of 0 or 2, of every voxel by itself."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, image):
        return self.dropout(torch.ones_like(image[:, :1]))


def test_samples_differ_and_come_again_with_the_seed():
    network, image = headed(dropout=0.3), volume(1, 32, 32, 32)
    first, again, other = (
        measure_samples(network, image, moments, samples=3, seed=seed, window=WINDOW)
        for seed in (5, 5, 6)
    )
    assert first.shape == (2, 32, 32, 32)
    np.testing.assert_array_equal(first, again)
    assert first[1].max() > 1e-4
    assert (first != other).any()


@pytest.mark.parametrize('flips', [False, True])
@pytest.mark.parametrize('overlap', [0.0, 0.5])
def test_samples_disagree_as_much_where_windows_or_mirror_images_meet(flips, overlap):
    options = {'samples': 40, 'seed': 0, 'window': (16, 16, 16), 'overlap': overlap}
    mean, variance = measure_samples(Coin(), volume(1, 24, 16, 16), moments, **options, flips=flips)
    for part in (variance[:6], variance[10:14], variance[18:]):
        assert part.mean() == pytest.approx(1, rel=0.05)
    assert mean.mean() == pytest.approx(1, abs=0.02)


def test_the_variance_of_the_logits_comes_with_every_sample():
    network, image = headed(dropout=0.3, variance_head=True), volume(1, 32, 32, 32)
    options = {'samples': 2, 'seed': 0, 'window': WINDOW, 'with_variance': True}
    shapes = []

    def measure(draws):
        for values in draws:
            shapes.append(values.shape)
        return values

    assert measure_samples(network, image, measure, **options).shape == (2, 32, 32, 32)
    assert shapes == [(1, 2, *WINDOW)] * 2


def test_sampling_leaves_generators_and_network_as_they_were():
    network, image = headed(dropout=0.3), volume(1, 32, 32, 32)
    plain = predict(network, image, window=WINDOW)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    measure_samples(network, image, moments, samples=2, seed=0, window=WINDOW)
    assert not any(layer.training for layer in network.modules())
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(predict(network, image, window=WINDOW), plain)


def test_a_network_without_dropout_has_nothing_to_sample():
    with pytest.raises(ValueError, match='no dropout'):
        measure_samples(headed(), volume(1, 8, 8, 8), moments, samples=2, seed=0, window=WINDOW)


# --- Memory --------------------------------------------------------------------------------------


class SmallGpu:
    """Stands for one pass: a GPU that fails above a number of voxels, and a real CPU."""

    def __init__(self, voxels, error=None):
        self.voxels, self.tried, self.real = voxels, [], predictor._infer
        self.error = error or torch.OutOfMemoryError('CUDA out of memory.')

    def __call__(self, network, image, plan, sampling):
        self.tried.append((plan.device.type, plan.batch, plan.window))
        if plan.device.type == 'cuda':
            if plan.batch * np.prod(plan.window) > self.voxels:
                raise self.error
            return np.zeros((1, *image.shape[2:]), np.float32)
        return self.real(network, image, plan, sampling)


@pytest.fixture
def small_gpu(monkeypatch):
    def _small_gpu(*args):
        gpu = SmallGpu(*args)
        monkeypatch.setattr(predictor, '_infer', gpu)
        return gpu

    return _small_gpu


def test_a_full_gpu_gets_fewer_windows_then_smaller_ones_then_the_cpu_takes_over(small_gpu, caplog):
    gpu, image = small_gpu(0), volume(1, 40, 40, 40)
    options = {'window': (64, 48, 32), 'batch': 4}
    with caplog.at_level(logging.WARNING, 'msapp'):
        found = predict(headed(), image, device='cuda', **options)
    assert gpu.tried == [
        ('cuda', 4, (64, 48, 32)),
        ('cuda', 2, (64, 48, 32)),
        ('cuda', 1, (64, 48, 32)),
        ('cuda', 1, (32, 32, 32)),
        ('cpu', 4, (64, 48, 32)),
    ]
    assert [record.levelname for record in caplog.records] == ['WARNING'] * 4
    assert 'trying 2 windows at once instead of 4' in caplog.messages[0]
    assert 'trying windows of (32, 32, 32) voxels instead of (64, 48, 32)' in caplog.messages[2]
    assert 'going on on the CPU' in caplog.messages[3]
    np.testing.assert_array_equal(found, predict(headed(), image, device='cpu', **options))


def test_windows_are_halved_once_only(small_gpu):
    gpu = small_gpu(0)
    predict(headed(), volume(1, 8, 8, 8), device='cuda', window=(128, 128, 128))
    assert [window[0] for _, _, window in gpu.tried] == [128, 64, 128]


def test_windows_of_the_least_size_are_not_halved(small_gpu):
    gpu = small_gpu(0)
    predict(headed(), volume(1, 8, 8, 8), device='cuda', window=WINDOW)
    assert gpu.tried == [('cuda', 1, WINDOW), ('cpu', 1, WINDOW)]


def test_a_library_of_cuda_that_cannot_allocate_counts_as_full(small_gpu):
    gpu = small_gpu(0, RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'))
    predict(headed(), volume(1, 8, 8, 8), device='cuda', window=WINDOW)
    assert gpu.tried[-1][0] == 'cpu'


def test_another_error_of_a_gpu_is_raised(small_gpu):
    gpu = small_gpu(0, RuntimeError('CUDA error: an illegal memory access'))
    with pytest.raises(RuntimeError, match='illegal'):
        predict(headed(), volume(1, 8, 8, 8), device='cuda', window=WINDOW)
    assert len(gpu.tried) == 1


@pytest.mark.parametrize('error', [MemoryError(), RuntimeError("can't allocate: out of memory")])
def test_a_cpu_that_runs_out_of_memory_is_an_error(error):
    class Greedy(nn.Module):
        def forward(self, image):
            raise error

    with pytest.raises(type(error)):
        predict(Greedy(), volume(1, 8, 8, 8), window=WINDOW, batch=4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_agrees_with_the_cpu():
    network, image = headed(), volume(1, 70, 60, 50)
    cpu = predict(network, image, window=WINDOW, batch=4, flips=True)
    gpu = predict(network, image, window=WINDOW, batch=4, flips=True, device='cuda')
    # bfloat16 keeps 8 bits: errors of a few per cent of the spread of the logits.
    assert np.abs(gpu - cpu).max() < 0.1 * cpu.std()
    assert np.corrcoef(gpu.ravel(), cpu.ravel())[0, 1] > 0.999
