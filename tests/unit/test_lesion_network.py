"""What a network for lesions is fed, and what is made of its answer."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from nipype.interfaces.base import Undefined
from nipype.pipeline import engine as pe
from torch import nn

from msapp.errors import InputError
from msapp.evaluation.calibration import apply_temperature, to_logits
from msapp.imaging.geometry import save_transform
from msapp.inference.lesions import (
    BORDER_VOXELS,
    find_partial,
    predict_lesions,
    sample_lesions,
)
from msapp.inference.prior import find_shift
from msapp.interfaces.lesions import FindPartial, SegmentLesions
from msapp.lesions.uncertainty import measure_lesion_uncertainty
from msapp.models.registry import save_model
from msapp.models.spec import ModelSpec
from msapp.networks import build_network

WINDOW = (16, 16, 16)


class Bright(nn.Module):
    """Calls lesion what is brighter than 1.5 on FLAIR, or where there is none 1.5 on T1w."""

    divisor = 1

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image.amax(dim=(0, 2, 3, 4)).tolist())
        return 8 * (image.amax(dim=1, keepdim=True) - 1.5)


def spec(**changes):
    values = {
        'name': 'toy',
        'version': '1',
        'task': 'lesions',
        'channels': [{'name': 'FLAIR'}, {'name': 'T1w', 'may_be_missing': True}],
        'spacing_mm': (1.0, 1.0, 1.0),
        'normalisation': {'name': 'white_matter'},
        'architecture': {'name': 'headed_unet'},
        'window': WINDOW,
        'threshold': 0.5,
        'training': {'synthetic_only': True},
        'licence': 'none',
        'intended_use': 'tests',
    }
    return ModelSpec(**values | changes)


@pytest.fixture
def flair():
    image = np.ones((30, 24, 20), np.float32)
    image[10:14, 10:14, 8:12] = 2.0
    image[0, 0, 0] = 9.0
    return image


@pytest.fixture
def brain(flair):
    mask = np.zeros(flair.shape, bool)
    mask[4:26, 3:21, 2:18] = True
    return mask


def test_probability_is_high_in_the_lesion_and_0_outside_the_brain(flair, brain):
    probability = predict_lesions({'FLAIR': flair}, brain, Bright(), spec())
    assert probability.shape == flair.shape
    assert probability.dtype == np.float32
    assert ((probability >= 0.5) == ((flair == 2.0) & brain)).all()
    assert (probability[~brain] == 0).all()


def test_flips_average_over_the_mirror_image(flair, brain):
    class Sided(Bright):
        def forward(self, image):
            logits = torch.zeros_like(image[:, :1])
            logits[:, :, : logits.shape[2] // 2] = 4
            return logits

    brain[:] = True
    images = {'FLAIR': flair}
    plain = predict_lesions(images, brain, Sided(), spec(window=flair.shape))
    both = predict_lesions(images, brain, Sided(), spec(window=flair.shape), flips=True)
    assert not np.allclose(plain, plain[::-1], atol=1e-3)
    np.testing.assert_allclose(both, both[::-1], atol=1e-6)
    np.testing.assert_allclose(both, 1 / (1 + np.exp(-2)), atol=1e-6)


def test_a_prior_adapts_the_probabilities_of_the_brain_alone(flair, brain):
    plain = predict_lesions({'FLAIR': flair}, brain, Bright(), spec())
    adapted = predict_lesions({'FLAIR': flair}, brain, Bright(), spec(prior=0.2))
    logits = to_logits(plain[brain])
    shift = find_shift(logits, 0.2)
    assert shift < -1
    np.testing.assert_allclose(to_logits(adapted[brain]), logits + shift, atol=1e-3)
    assert (adapted[~brain] == 0).all()


@pytest.mark.parametrize('temperature', [0.5, 3.0])
def test_temperature_comes_after_the_prior_and_leaves_the_mask_as_it_is(flair, brain, temperature):
    flair = flair + np.random.default_rng(0).normal(0, 0.3, flair.shape).astype(np.float32)
    adapted = predict_lesions({'FLAIR': flair}, brain, Bright(), spec(prior=0.05))
    both = spec(prior=0.05, temperature=temperature)
    divided = predict_lesions({'FLAIR': flair}, brain, Bright(), both)
    np.testing.assert_allclose(
        divided[brain], apply_temperature(to_logits(adapted[brain]), temperature), atol=1e-3
    )
    assert ((divided >= 0.5) == (adapted >= 0.5)).all()


def test_temperature_divides_the_logits(flair, brain):
    plain = predict_lesions({'FLAIR': flair}, brain, Bright(), spec())
    cooled = predict_lesions({'FLAIR': flair}, brain, Bright(), spec(temperature=2.0))
    inside = plain[11, 11, 9], cooled[11, 11, 9]
    logits = [np.log(p / (1 - p)) for p in inside]
    assert logits[0] == pytest.approx(2 * logits[1], rel=1e-3)
    assert logits[0] == pytest.approx(4.0, rel=1e-2)


def test_a_missing_channel_is_0_and_intensities_are_clipped(flair, brain):
    network = Bright()
    flair[12, 12, 10] = 50.0
    predict_lesions({'FLAIR': flair}, brain, network, spec())
    assert max(seen[0] for seen in network.seen) == 3.0
    assert all(seen[1] == 0 for seen in network.seen)


def test_channels_go_in_the_order_of_the_model(flair, brain):
    network = Bright()
    predict_lesions({'T1w': flair * 0 + 0.5, 'FLAIR': flair, 'T2w': flair}, brain, network, spec())
    assert all(len(seen) == 2 for seen in network.seen)
    assert max(seen[1] for seen in network.seen) == 0.5


@pytest.mark.parametrize(
    ('contrast', 'channels', 'wanted'),
    [
        ('T1w', [{'name': 'FLAIR'}, {'name': 'T1w', 'may_be_missing': True}], 'needs FLAIR,'),
        (
            'T2w',
            [{'name': n, 'may_be_missing': True} for n in ('FLAIR', 'T1w')],
            'needs FLAIR or T1w,',
        ),
    ],
)
def test_a_contrast_that_is_needed_is_named(flair, brain, contrast, channels, wanted):
    with pytest.raises(InputError, match=f'model toy {wanted}'):
        predict_lesions({contrast: flair}, brain, Bright(), spec(channels=channels))


def test_an_empty_brain_is_refused(flair, brain):
    with pytest.raises(InputError, match='brain mask is empty'):
        predict_lesions({'FLAIR': flair}, brain & False, Bright(), spec())


def test_the_window_may_be_larger_than_the_brain(flair, brain):
    probability = predict_lesions({'FLAIR': flair}, brain, Bright(), spec(window=(64, 64, 64)))
    assert ((probability >= 0.5) == ((flair == 2.0) & brain)).all()
    assert torch.is_grad_enabled()


class Unsure(Bright):
    """`Bright`, that half of the time sees nothing."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout3d(0.5)

    def forward(self, image):
        return self.dropout(super().forward(image).sigmoid() + 1) * 4 - 6


def test_samples_disagree_where_the_network_is_unsure_and_are_0_outside(flair, brain):
    calls = {'network': Unsure(), 'spec': spec(), 'samples': 6}
    maps = sample_lesions({'FLAIR': flair}, brain, **calls, seed=3)
    again = sample_lesions({'FLAIR': flair}, brain, **calls, seed=3)
    other = sample_lesions({'FLAIR': flair}, brain, **calls, seed=4)
    assert maps.variance[brain].max() > 0.05
    for name in ('probability', 'entropy', 'variance', 'mutual_information'):
        values = getattr(maps, name)
        assert values.shape == flair.shape
        assert (values[~brain] == 0).all()
        assert (values == getattr(again, name)).all()
    assert (maps.variance != other.variance).any()


class Same(Bright):
    """`Bright`, whose samples are all alike; it predicts a variance of the square of FLAIR."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout3d(0.5)
        self.variance_head = nn.Identity()

    def forward_with_variance(self, image):
        return self(image), 2 * image[:, :1].log()


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_uncertainty_is_that_of_the_probability_of_which_the_mask_is_made(
    flair, brain, temperature
):
    adapted_model = spec(prior=0.2, temperature=temperature)
    own = predict_lesions({'FLAIR': flair}, brain, Same(), spec())
    shift = find_shift(to_logits(own[brain]), 0.2)
    flair[12, 12, 10] = 1.5 - shift / 8  # where the adapted logit is 0
    probability = predict_lesions({'FLAIR': flair}, brain, Same(), adapted_model)
    maps = sample_lesions({'FLAIR': flair}, brain, Same(), adapted_model, samples=3)
    assert maps.entropy[12, 12, 10] == pytest.approx(np.log(2), abs=1e-3)
    np.testing.assert_allclose(maps.probability, probability, atol=1e-5)
    assert maps.variance.max() < 1e-12


def test_the_variance_that_a_network_predicts_is_in_maps_and_table(flair, brain):
    maps = sample_lesions({'FLAIR': flair}, brain, Same(), spec(temperature=2.0), samples=2)
    assert (maps.predicted_variance[~brain] == 0).all()
    np.testing.assert_allclose(maps.predicted_variance[brain], flair[brain] ** 2, rtol=1e-5)
    table = measure_lesion_uncertainty(((flair == 2) & brain).astype(int), maps)
    assert table['predicted_variance_mean'].item() == pytest.approx(4)
    silent = sample_lesions({'FLAIR': flair}, brain, Unsure(), spec(), samples=2)
    assert silent.predicted_variance is None


def test_a_network_without_dropout_has_no_samples(flair, brain):
    with pytest.raises(ValueError, match='no dropout'):
        sample_lesions({'FLAIR': flair}, brain, Bright(), spec(), samples=2)


@pytest.mark.parametrize(('missing', 'kept'), [(0, True), (1, True), (6, False), (20, False)])
def test_a_contrast_that_shows_a_part_of_the_brain_is_left_out(missing, kept):
    """The outermost voxels say nothing: a mask of its own may be tighter."""
    brain = np.zeros((40, 40, 40), bool)
    brain[4:36, 4:36, 4:36] = True
    short = np.ones(brain.shape, np.float32)
    short[..., 36 - missing :] = 0
    images = {'FLAIR': np.ones(brain.shape, np.float32), 'T1w': short}
    inside = 32 - 2 * BORDER_VOXELS
    unseen = (missing - BORDER_VOXELS) * inside**2
    assert find_partial(images, brain) == ([] if kept else [('T1w', unseen)])


def test_fluid_that_is_stored_as_zero_is_no_missing_part():
    brain = np.zeros((40, 40, 40), bool)
    brain[4:36, 4:36, 4:36] = True
    image = np.ones(brain.shape, np.float32)
    image[12:28, 12:28, 12:28] = 0
    assert find_partial({'T1w': image}, brain) == []


@pytest.mark.parametrize(('cut', 'found'), [(0, []), (20, ['T1w'])])
def test_the_step_before_the_network_names_a_t1w_that_is_cut(tmp_path, cut, found):
    brain = np.zeros((40, 40, 40), np.float32)
    brain[4:36, 4:36, 4:36] = 1
    t1w = np.ones_like(brain)
    t1w[..., 40 - cut :] = 0
    for name, values in {'t1w': t1w, 'brain_mask': brain}.items():
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f'{name}.nii')
    node = pe.Node(FindPartial(), 'partial', base_dir=tmp_path)
    node.inputs.trait_set(**{name: str(tmp_path / f'{name}.nii') for name in ('t1w', 'brain_mask')})
    assert [name for name, _ in node.run().outputs.partial] == found


@pytest.mark.parametrize(
    ('partial', 'used'),
    [
        (Undefined, ['FLAIR', 'T1w']),
        ([('T1w', 900)], ['FLAIR']),
        # None shows the whole brain: what shows most of it at all visits is kept.
        ([('FLAIR', 900), ('T1w', 40)], ['T1w']),
        ([('FLAIR', 90), ('T1w', 900), ('T1w', 20)], ['FLAIR']),
    ],
)
def test_sidecar_and_table_name_the_contrasts_that_were_used(flair, brain, tmp_path, partial, used):
    brain = brain.copy()
    brain[1:-1, 1:-1, 1:-1] = True
    images = {'flair': flair, 't1w': np.ones(flair.shape), 'brain_mask': brain}
    images |= {'white_matter': brain, 'grey_matter': ~brain}
    for name, values in images.items():
        image = nib.Nifti1Image(values.astype(np.float32), np.eye(4))
        nib.save(image, tmp_path / f'{name}.nii')
    save_transform(tmp_path / 'to_mni.txt', np.eye(4))
    arguments = {'in_channels': 2, 'out_channels': 1, 'channels': [4, 8], 'num_res_units': 0}
    network = build_network('headed_unet', arguments)
    architecture = {'name': 'headed_unet', 'arguments': arguments}
    channels = [{'name': name, 'may_be_missing': True} for name in ('FLAIR', 'T1w')]
    toy = spec(architecture=architecture, channels=channels)
    model = save_model(tmp_path / 'toy', toy, network)
    node = SegmentLesions(
        model=str(model.folder),
        model_sha256='none',
        sources={'FLAIR': 'bids:raw:FLAIR', 'T1w': 'bids:raw:T1w'},
        to_mni=str(tmp_path / 'to_mni.txt'),
        partial=partial,
        **{name: str(tmp_path / f'{name}.nii') for name in images},
    )
    made = node.run_function(tmp_path)
    assert made['metadata'] == {'Sources': [f'bids:raw:{name}' for name in used]}
    assert made['measures']['lesion_contrasts'] == ','.join(used)
    unused = ','.join({'FLAIR', 'T1w'} - set(used)) or None
    assert made['measures']['lesion_contrasts_left_out'] == unused
