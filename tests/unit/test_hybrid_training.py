"""Training of the hybrid method's network: what its patches hold, its batches, and its schedule."""

from __future__ import annotations

from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
import torchio as tio

from msapp.imaging.distance import distance_maps
from msapp.lesions.candidates import Candidates
from msapp.lesions.instances import label_instances
from msapp.synthesis.heads import Head
from msapp.synthesis.lesion_bank import SHAPE, LesionBank
from msapp.training import fit
from msapp.training.hybrid import (
    LARGEST_SIDE,
    Batches,
    Case,
    Epochs,
    HybridTraining,
    augment_item,
    collate_patches,
    cut_item,
    make_case,
    patch_transform,
    read_drawn_cases,
    read_real_cases,
    unvaried_batches,
)
from msapp.training.recipe import load_recipe
from msapp.training.sampling import draw_epoch, make_batches
from msapp.training.visits import Visits


@pytest.fixture
def found():
    """A brain of 20 voxels' height with three candidates, one of which touches the truth."""
    brain = np.ones((30, 30, 21), bool)
    mask = np.zeros(brain.shape, bool)
    mask[4:9, 4:9, 16:19] = mask[15:18, 15:18, 8] = mask[25:28, 25:28, 6:8] = True
    truth = np.zeros(brain.shape, bool)
    truth[27, 27, 4:7] = True
    rng = np.random.default_rng(0)
    before, after = rng.integers(1, 7, (2, *brain.shape)).astype(np.uint8)
    before[0], after[0] = 0, 0
    labels = label_instances(mask, 1.0)
    candidates = Candidates(labels, before.astype(np.float32), before, after, after / 1.0)
    return candidates, distance_maps(brain, (1.0, 1.0, 1.0)), truth


@pytest.fixture
def case(found):
    return make_case('sub-01', *found)


@pytest.fixture
def recipe():
    recipe = load_recipe('hybrid')
    thin = recipe.architecture.model_copy(update={'arguments': {'channels': [2] * 7}})
    return recipe.model_copy(update={'architecture': thin})


# --- Cases ---------------------------------------------------------------------------------------


def test_a_patch_holds_both_visits_the_three_maps_and_the_truth(found, case):
    candidates, maps, truth = found
    patch = next(patch for patch in case.patches() if patch.true)
    item = cut_item(patch, case)
    box = np.s_[23:30, 23:30, 4:10]
    wanted = {
        'image': [candidates.previous_levels[box], candidates.current_levels[box]],
        'distances': [maps.depth[box], maps.below_vertex[box], maps.from_occiput[box]],
        'target': [truth[box]],
    }
    assert item.keys() == wanted.keys()
    for name, images in wanted.items():
        assert item[name].dtype == torch.float32
        # Distances are kept in half precision.
        np.testing.assert_allclose(item[name].numpy(), np.stack(images), rtol=1e-3)


def test_a_large_patch_is_cut_down_to_what_is_about_a_new_lesion():
    labels = np.zeros((80, 40, 20), np.int32)
    labels[5:75, 5:35, 10] = 1
    labels[0:3, 0:3, 0:3] = 2
    truth = np.zeros(labels.shape, bool)
    truth[60:62, 8:10, 9:12] = True
    levels, distances = np.ones((2, *labels.shape), np.uint8), np.ones((3, *labels.shape))
    large, small = Case('sub-01', levels, distances, truth, labels).patches()
    assert large.shape == (LARGEST_SIDE, LARGEST_SIDE, 5)
    assert truth[large.box].sum() == truth.sum()
    assert small.shape == (5, 5, 5)


def test_a_case_comes_back_from_its_file(case, tmp_path):
    path = tmp_path / 'sub-01.npz'
    case.save(path)
    again = Case.load(path)
    assert again.patches() == case.patches()
    for name in ('levels', 'distances', 'truth', 'labels'):
        kept = getattr(again, name)
        assert kept.dtype == getattr(case, name).dtype
        np.testing.assert_array_equal(kept, getattr(case, name))


def test_drawn_cases_are_kept_until_settings_or_seed_are_others(tmp_path):
    class Generator:
        def __init__(self, spacing_mm):
            self.settings, self.drawn = SimpleNamespace(spacing_mm=spacing_mm), 0

        def draw_pair(self, rng):
            self.drawn += 1
            images = torch.from_numpy(rng.uniform(1, 2, (2, 12, 12, 12)).astype(np.float32))
            return SimpleNamespace(images=images, increase=images[0] > 1.9)

    def read(generator, seed):
        cases = read_drawn_cases(generator, 2, tmp_path, prefix='drawn', seed=seed)
        return generator.drawn, cases[0].levels

    first, again, other = Generator(1.0), Generator(1.0), Generator(2.0)
    count, levels = read(first, 1)
    assert count == 2
    count, same = read(again, 1)
    assert count == 0
    assert np.array_equal(levels, same)
    count, others = read(again, 2)
    assert count == 2
    assert not np.array_equal(levels, others)
    assert read(other, 1)[0] == 2


def test_pairs_of_other_heads_or_lesions_of_the_same_names_are_others(
    case, recipe, bank, tmp_path, monkeypatch
):
    def origin(source, lesions):
        found = []
        head = Head('ball', np.ones((4, 4, 4), np.uint8), np.eye(4), np.eye(4), source)
        monkeypatch.setattr(fit, 'read_heads', lambda *_: ([head], [head]))
        monkeypatch.setattr(fit, 'read_bank', lambda *_: lesions)
        monkeypatch.setattr(
            fit, 'read_drawn_cases', lambda *_, origin, **__: found.append(origin) or [case]
        )
        given = fit._Given(
            recipe=recipe.model_copy(update={'data': recipe.data.model_copy(update={'pairs': ()})}),
            data=tmp_path,
            cache=tmp_path,
            fold=None,
            device='cpu',
            workers=0,
            seed=0,
        )
        fit._hybrid_job(given)
        return found[0]

    fewer = LesionBank([np.zeros(SHAPE, bool)], [])
    assert origin('a map', bank) == origin('a map', bank)
    assert len({origin('a map', bank), origin('another', bank), origin('a map', fewer)}) == 3


def test_real_pairs_are_taken_forwards_and_in_reverse(recipe):
    shape = (40, 40, 40)
    noise = np.random.default_rng(0).normal(0, 0.02, (2, *shape))
    images = 1 + noise
    came, went = (np.s_[10:15, 10:15, 10:15], np.s_[25:30, 25:30, 25:30])
    images[1][came] += 1
    images[0][went] += 1
    masks = np.zeros((2, *shape), bool)
    masks[0][came] = masks[1][went] = True
    visits = Visits(
        name='sub-01',
        images=torch.from_numpy(images.astype(np.float32)),
        white=torch.ones(shape),
        increase=torch.from_numpy(masks[0]),
        decrease=torch.from_numpy(masks[1]),
        affine=np.eye(4),
        from_mni=np.eye(4),
        slice_mm=np.array([1.0, 1.0]),
        paired=True,
    )
    cases = read_real_cases([visits], recipe)
    assert [case.name for case in cases] == ['sub-01', 'sub-01-reversed']
    for case, box in zip(cases, (came, went), strict=True):
        (true,) = (patch for patch in case.patches() if patch.true)
        assert case.truth[box].all()
        assert all(
            start <= side.start and side.stop <= stop
            for start, stop, side in zip(true.start, true.stop, box, strict=True)
        )


# --- Batches -------------------------------------------------------------------------------------


def test_a_batch_is_padded_at_the_end_and_the_mask_says_where():
    items = [
        {'image': torch.full((2, *shape), 3.0), 'target': torch.ones(1, *shape)}
        for shape in [(2, 3, 1), (1, 4, 2)]
    ]
    batch = collate_patches(items)
    assert batch['image'].shape == (2, 2, 2, 4, 2)
    assert batch['mask'].shape == batch['target'].shape == (2, 1, 2, 4, 2)
    assert batch['mask'].dtype == torch.bool
    assert batch['mask'][0, 0, :, :3, :1].all()
    assert batch['mask'][1, 0, :1].all()
    assert batch['mask'].sum() == 6 + 8
    assert (batch['image'] == 3.0 * batch['mask']).all()
    assert (batch['target'] == batch['mask']).all()


def test_every_epoch_is_another_and_the_same_when_it_is_repeated(case):
    epochs = Epochs(case.patches(), seed=3)
    first = list(epochs)
    assert first == make_batches(draw_epoch(case.patches(), seed=3), seed=3)
    epochs.set_epoch(1)
    patches = [patch for batch in epochs for patch in batch]
    assert patches == [
        patch
        for batch in make_batches(draw_epoch(case.patches(), seed=3, epoch=1), seed=3, epoch=1)
        for patch in batch
    ]
    epochs.set_epoch(0)
    assert list(epochs) == first


def test_a_batch_goes_into_the_network_and_padding_does_not_count(case, recipe):
    module = HybridTraining(recipe).eval()
    batch = Batches([case], varied=False)[case.patches()]
    assert not batch['mask'].all()
    loss, dice = module._score(batch)
    spoiled = {
        name: torch.where(batch['mask'], values, 7.0) if name != 'mask' else values
        for name, values in batch.items()
    }
    again, same = module._score(spoiled)
    assert torch.isfinite(loss)
    assert (loss, dice) == (again, same)


def test_real_pairs_have_columns_of_their_own(case, recipe):
    module = HybridTraining(recipe).eval()
    batch = Batches([case], varied=False)[case.patches()]
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value.item()})
    module.validation_step(batch, 0)
    module.validation_step(batch, 0, 1)
    assert list(logged) == [
        'validation_loss',
        'validation_dice_lesions',
        'validation_loss_real',
        'validation_dice_real',
    ]
    assert logged['validation_loss_real'] == logged['validation_loss']


def test_the_learning_rate_falls_to_a_tenth_every_four_epochs(recipe):
    made = HybridTraining(recipe).configure_optimizers()
    optimizer, scheduler = made['optimizer'], made['lr_scheduler']['scheduler']
    assert isinstance(optimizer, torch.optim.Adam)
    rates = []
    for _ in range(recipe.schedule.epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.001 * 0.1 ** (epoch // 4) for epoch in range(20)])


def test_what_does_not_learn_keeps_its_statistics_too(case, recipe, tmp_path):
    """All but the last block and its normalisation stay, also after a validation."""
    changes = recipe.schedule.model_copy(update={'only': 'conv7'})
    module = HybridTraining(recipe.model_copy(update={'schedule': changes}))
    before = {name: values.clone() for name, values in module.network.state_dict().items()}
    batches = unvaried_batches([case], [case.patches()] * 2)
    trainer = lightning.Trainer(
        accelerator='cpu',
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, batches, batches)
    same = {
        name: torch.equal(before[name], now) for name, now in module.network.state_dict().items()
    }
    assert {name for name, kept in same.items() if not kept} == {
        name for name in same if name.startswith('conv7.')
    }


# --- What is varied ------------------------------------------------------------------------------


def item_of(*shape):
    return {
        'image': torch.full((2, *shape), 4.0),
        'distances': torch.ones(3, *shape),
        'target': torch.ones(1, *shape),
    }


def test_bias_field_and_noise_each_come_in_30_percent_of_the_patches():
    transforms = patch_transform().transforms
    assert [type(one) for one in transforms] == [tio.RandomBiasField, tio.RandomNoise]
    assert [one.probability for one in transforms] == [0.3, 0.3]
    item = item_of(5, 5, 5)
    changed = sum((augment_item(item, n)['image'] != 4).any().item() for n in range(300))
    # 1 - 0.7 ** 2, with a standard deviation of 0.029.
    assert changed / 300 == pytest.approx(0.51, abs=0.09)


ALWAYS = tio.Compose([tio.RandomBiasField(0.1, order=2), tio.RandomNoise(std=(0.1, 0.2))])


def test_each_visit_is_varied_by_itself_and_nothing_else_is():
    item = item_of(6, 5, 4)
    varied = augment_item(item, 0, transform=tio.RandomBiasField(0.1, order=2))
    first, second = varied['image']
    assert (first != second).any()
    assert (item['image'] == 4).all()
    for name in ('distances', 'target'):
        assert varied[name] is item[name]


def test_what_is_outside_the_brain_stays_0():
    item = item_of(6, 5, 4)
    item['image'][:, :2] = 0
    image = augment_item(item, 0, transform=ALWAYS)['image']
    assert (image[:, :2] == 0).all()
    assert (image[:, 2:] != 4).all()


def test_the_seed_decides_and_the_generator_of_torch_is_put_back():
    item = item_of(6, 5, 4)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (augment_item(item, n, transform=ALWAYS)['image'] for n in (1, 1, 2))
    assert torch.rand(1) == wanted
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize('shape', [(1, 5, 5), (2, 1, 9), (1, 1, 1)])
def test_thin_patches_can_be_varied(shape):
    image = augment_item(item_of(*shape), 0, transform=ALWAYS)['image']
    assert image.shape == (2, *shape)
    assert torch.isfinite(image).all()
