"""Validation on whole patients that a fold leaves out."""

from __future__ import annotations

import pytest
import torch

from msapp.models.registry import load_spec
from msapp.models.spec import Named, Training, TrainingSet
from msapp.training.describe import describe_model, describe_start
from msapp.training.losses import SOME_CLASS
from msapp.training.recipe import load_recipe
from msapp.training.validation import Kept, ValidatedSegmentation


class Bright(torch.nn.Module):
    """Calls what is brighter than 1.5 lesion, or any class but the first."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, image):
        logits = image[:, :1] - 1.5
        return (
            logits if self.classes == 1 else torch.cat([-logits] + [logits] * (self.classes - 1), 1)
        )


def validate(name, image, target):
    recipe = load_recipe(name)
    arguments = recipe.architecture.arguments | {'channels': [4, 8]}
    small = Named(name=recipe.architecture.name, arguments=arguments)
    recipe = recipe.model_copy(update={'window': (16, 16, 16), 'architecture': small})
    module = ValidatedSegmentation(recipe)
    module.network = Bright(max(1, len(recipe.classes)))
    logged = {}
    module.log = lambda key, value, **_: logged.update({key: float(value)})
    (item,) = Kept([], [{'image': image, 'target': target}])
    module.validation_step({key: value[None] for key, value in item.items()}, 0)
    return logged


def test_a_patient_larger_than_the_window_has_the_dice_of_the_whole():
    image, target = torch.ones(2, 24, 40, 20), torch.zeros(1, 24, 40, 20)
    image[0, 2:6, 2:6, 2:6] = 2  # found, and there
    target[0, 2:6, 2:6, 2:6] = 1
    image[0, 20:22, 30:38, 4:8] = 2  # false, as large
    logged = validate('lesions', image, target)
    assert logged.keys() == {'validation_loss_real', 'validation_dice_real'}
    assert logged['validation_dice_real'] == pytest.approx(2 / 3)


def test_of_a_head_only_the_brain_is_measured():
    image, target = torch.ones(1, 16, 16, 16), torch.zeros(1, 16, 16, 16).long()
    image[:, 4:8] = 2
    target[:, 4:12] = SOME_CLASS
    logged = validate('anatomy', image, target)
    assert logged['validation_dice_real'] == pytest.approx(2 / 3)


def test_nothing_found_where_nothing_is_makes_no_dice():
    logged = validate('lesions', torch.ones(2, 16, 16, 16), torch.zeros(1, 16, 16, 16))
    assert logged.keys() == {'validation_loss_real'}


@pytest.mark.parametrize('start', ['lesions', 'newlesions', 'hybrid', 'anatomy'])
@pytest.mark.parametrize('recipe', ['lesions', 'newlesions', 'hybrid', 'anatomy'])
def test_a_source_that_a_model_and_its_start_share_is_named_once(recipe, start):
    made = describe_model(load_recipe(recipe), heads=15, bank=None, real=None)
    named = describe_start(made, load_spec(start)).training.attribution
    for source in ('Billot', 'Neuroinformatics 2018', 'Senra'):
        assert named.count(source) == 1


def test_a_model_has_learnt_from_what_its_start_has():
    real = TrainingSet(name='patients', n=2)
    made = describe_model(load_recipe('lesions'), heads=0, bank=None, real=real)
    heads = TrainingSet(name='heads', n=15)
    start = Training(data=(heads, real), synthetic_only=False, attribution='A.')
    both = describe_start(made, made.model_copy(update={'training': start})).training
    assert both.data == (heads, real)
    assert both.attribution == f'A. {made.training.attribution}'
    drawn = describe_model(load_recipe('lesions'), heads=15, bank=None, real=None)
    assert drawn.training.synthetic_only
    assert not describe_start(drawn, made).training.synthetic_only
