"""Brain masks of real heads in the training of the anatomy network."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from msapp.errors import InputError
from msapp.imaging import geometry
from msapp.inference.anatomy import CENTRED_MM
from msapp.training import brains
from msapp.training.losses import SOME_CLASS, make_loss, merge_classes
from msapp.training.recipe import load_recipe

SHIFT_MM = 12.0
# Of both balls, far from the world's origin.
MIDDLE_MM = np.array([15.0, -60.0, 40.0])


@pytest.fixture
def recipe():
    """The shipped recipe with the two heads of `data`."""
    given = load_recipe('anatomy')
    heads = [
        {'name': 'one', 'image': 'one_T1w.nii.gz', 'brain': 'one_mask.nii.gz'},
        {
            'name': 'two',
            'image': 'two_T2w.nii.gz',
            'brain': 'two_mask.nii.gz',
            'transform': 'two_xfm.txt',
        },
    ]
    values = given.data.model_dump() | {'brains': heads}
    return given.model_copy(update={'data': type(given.data)(**values)})


@pytest.fixture
def data(tmp_path):
    """Two bright balls; the mask of the second one lies elsewhere, and a transform says where."""
    points = np.indices((100, 100, 100)) * 2.0 - 99
    ball = np.linalg.norm(points, axis=0) < 70
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = MIDDLE_MM - 99
    moved = affine.copy()
    moved[0, 3] += SHIFT_MM
    image = (ball * 100 + 5).astype(np.float32)
    for name, contrast, where in (('one', 'T1w', affine), ('two', 'T2w', moved)):
        nib.save(nib.Nifti1Image(image, affine), tmp_path / f'{name}_{contrast}.nii.gz')
        nib.save(nib.Nifti1Image(ball.astype(np.uint8), where), tmp_path / f'{name}_mask.nii.gz')
    to_image = np.eye(4)
    to_image[0, 3] = -SHIFT_MM
    geometry.save_transform(tmp_path / 'two_xfm.txt', to_image)
    return tmp_path


@pytest.fixture
def heads(recipe, data, monkeypatch):
    # There is no bias to correct.
    monkeypatch.setattr(brains, 'correct_bias', lambda image: image)
    return brains.read_brains(recipe, data, data / 'cache')


def test_a_mask_is_brought_onto_its_image_by_the_transform(heads):
    for head in heads:
        bright = np.asanyarray(head.image.dataobj) > 50
        mask = np.asanyarray(head.brain.dataobj) > 0
        assert 2 * (bright & mask).sum() / (bright.sum() + mask.sum()) > 0.97
        assert np.abs(head.centre_mm - MIDDLE_MM).max() < 1


def test_heads_of_a_fold_are_left_out_and_others_are_read_again(recipe, data, heads, monkeypatch):
    assert len(heads) == 2
    assert sorted(path.name[:4] for path in (data / 'cache' / 'brains').iterdir()) == [
        'one-',
        'two-',
    ]
    monkeypatch.delattr(brains, '_prepare')
    kept = brains.read_brains(recipe, data, data / 'cache', leave_out=['one'])
    assert len(kept) == 1
    assert np.array_equal(kept[0].brain.dataobj, heads[1].brain.dataobj)


def test_two_images_of_one_person_are_one_in_number(recipe, heads):
    cases = brains.BrainCases([*heads, heads[0]], recipe)
    assert len(cases) == 2
    assert '(3 images)' in cases.description


def test_a_corrected_mask_is_read_anew(recipe, data, heads):
    rewrite(data / 'one_mask.nii.gz', lambda mask: mask * (np.indices(mask.shape)[0] < 50))
    again = brains.read_brains(recipe, data, data / 'cache')
    whole, half = (np.sum(read[0].brain.dataobj) for read in (heads, again))
    assert 2 * half == pytest.approx(whole, rel=0.05)


def test_images_of_one_file_name_are_not_mixed_up(recipe, data, heads):
    """Another entry of the recipe is read by itself, though image and person are named alike."""
    (data / 'other').mkdir()
    smaller = nib.load(data / 'one_mask.nii.gz')
    ball = np.asanyarray(smaller.dataobj) * (np.indices(smaller.shape)[0] < 50)
    nib.save(nib.Nifti1Image(ball, smaller.affine), data / 'other' / 'one_mask.nii.gz')
    (data / 'one_T1w.nii.gz').rename(data / 'other' / 'one_T1w.nii.gz')
    first = recipe.data.brains[0]
    moved = {'image': f'other/{first.image}', 'brain': f'other/{first.brain}'}
    given = recipe.data.model_copy(update={'brains': (first.model_copy(update=moved),)})
    (head,) = brains.read_brains(recipe.model_copy(update={'data': given}), data, data / 'cache')
    assert 2 * np.sum(head.brain.dataobj) == pytest.approx(np.sum(heads[0].brain.dataobj), rel=0.05)


@pytest.mark.parametrize(
    ('name', 'damage', 'words'),
    [
        ('one_T1w', lambda path: path.write_bytes(path.read_bytes()[:4000]), 'cut short'),
        ('one_mask', lambda path: path.write_bytes(path.read_bytes()[:400]), 'cut short'),
        ('one_mask', lambda path: rewrite(path, lambda mask: mask * 0), 'no brain where'),
        ('one_mask', lambda path: rewrite(path, lambda mask: np.stack([mask] * 2, -1)), '4 axes'),
        ('one_T1w', lambda path: rewrite(path, lambda image: image / 0), 'NaN or infinite'),
        ('two_T2w', lambda path: path.unlink(), 'does not exist'),
    ],
)
@pytest.mark.filterwarnings('ignore:divide by zero', 'ignore:invalid value')
def test_what_cannot_be_used_is_named_and_nothing_half_made_is_kept(
    recipe, data, monkeypatch, name, damage, words
):
    monkeypatch.setattr(brains, 'correct_bias', lambda image: image)
    path = data / f'{name}.nii.gz'
    damage(path)
    with pytest.raises(InputError, match=words) as raised:
        brains.read_brains(recipe, data, data / 'cache')
    assert str(raised.value).startswith(f'{path}: ')
    kept = list((data / 'cache').rglob('*.npz'))
    assert [item.name[:4] for item in kept] == (['one-'] if name == 'two_T2w' else [])


def rewrite(path, change):
    image = nib.load(path)
    changed = change(np.asanyarray(image.dataobj))
    nib.save(nib.Nifti1Image(changed, image.affine), path)


def test_a_whole_head_lies_in_a_window_about_its_brain(recipe, heads):
    items = brains.BrainCases(heads, recipe).wholes()
    assert len(items) == 2
    for item in items:
        assert item['image'].shape == item['target'].shape == (1, *recipe.window)
        assert item['target'].unique().tolist() == [0, SOME_CLASS]
        bright, brain = item['image'] > 0.5, item['target'] > 0
        assert 2 * (bright & brain).sum() / (bright.sum() + brain.sum()) > 0.95
        middle = brain[0].nonzero().float().mean(dim=0)
        assert (middle - (torch.tensor(recipe.window) - 1) / 2).abs().max() < 1


def test_a_drawn_mask_moves_with_its_head(recipe, heads, monkeypatch):
    monkeypatch.setattr(brains, 'head_transform', lambda: lambda image: image)
    cases = brains.BrainCases(heads, recipe)
    rng = np.random.default_rng(3)
    centres = []
    for _ in range(3):
        item = cases.draw(rng)
        assert item['image'].shape == item['target'].shape == (1, *recipe.window)
        assert item['target'].unique().tolist() == [0, SOME_CLASS]
        bright, mask = item['image'] > 0.5, item['target'] > 0
        assert 2 * (bright & mask).sum() / (bright.sum() + mask.sum()) > 0.97
        centres.append(mask[0].nonzero().float().mean(dim=0))
        off_mm = (centres[-1] - (torch.tensor(recipe.window) - 1) / 2) * recipe.spacing_mm
        assert off_mm.abs().max() < CENTRED_MM + 1
    assert torch.stack(centres).std(dim=0).min() > 0


def test_of_a_partly_known_sample_only_the_border_counts():
    """However the logits of the zones are exchanged, the loss is the same."""
    torch.manual_seed(0)
    loss = make_loss('dice_ce', {})
    logits = torch.randn(1, 4, 3, 3, 3)
    target = torch.randint(0, 2, (1, 1, 3, 3, 3)) * SOME_CLASS
    exchanged = logits[:, [0, 3, 1, 2]]
    assert loss(exchanged, target) == pytest.approx(float(loss(logits, target)), rel=1e-5)
    merged = merge_classes(logits)
    assert loss(merged, (target > 0).long()) == pytest.approx(float(loss(logits, target)), rel=1e-5)
    probability = logits.softmax(dim=1)
    assert torch.allclose(merged.softmax(dim=1)[:, 1], probability[:, 1:].sum(dim=1), atol=1e-6)


def test_a_batch_of_both_kinds_is_weighed_by_their_number():
    torch.manual_seed(0)
    loss = make_loss('dice_ce', {})
    logits = torch.randn(3, 4, 3, 3, 3)
    target = torch.randint(0, 4, (3, 1, 3, 3, 3))
    target[2] = (target[2] > 0) * SOME_CLASS
    expected = (2 * loss(logits[:2], target[:2]) + loss(logits[2:], target[2:])) / 3
    assert loss(logits, target) == pytest.approx(float(expected), rel=1e-5)
