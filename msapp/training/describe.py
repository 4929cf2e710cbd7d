"""What is written of a model that a recipe makes."""

from __future__ import annotations

from msapp.models.spec import ModelSpec, Named, Training, TrainingSet
from msapp.synthesis.lesion_bank import LesionBank
from msapp.training.recipe import Recipe


def describe_model(
    recipe: Recipe, *, heads: int, bank: LesionBank | None, real: TrainingSet | None
) -> ModelSpec:
    """Return the description of a model that a recipe makes; nothing is measured yet.

    Parameters
    ----------
    recipe : Recipe
    heads : int
        Label maps that are learnt from.
    bank : LesionBank or None
        Lesions that are painted.
    real : TrainingSet or None
        Real data that are learnt from.
    """
    sampled = recipe.task == 'lesions' and recipe.architecture.arguments.get('dropout')
    used = []
    if heads:
        used.append(TrainingSet(name=f'label maps of heads ({recipe.data.heads})', n=heads))
    if bank:
        used.append(TrainingSet(name='lesion masks of patients, painted', n=len(bank)))
    if real:
        used.append(real)
    return ModelSpec(
        name=recipe.name,
        version=recipe.version,
        task=recipe.task,
        channels=recipe.channels,
        spacing_mm=(recipe.spacing_mm,) * 3,
        normalisation=Named(name=recipe.normalisation),
        architecture=recipe.architecture,
        window=recipe.window,
        overlap=recipe.overlap,
        threshold=recipe.threshold,
        prior=recipe.prior,
        minimum_mm3=recipe.minimum_mm3,
        confirmed_by=recipe.confirmed_by,
        classes=recipe.classes,
        supports=('mc-samples',) if sampled else (),
        training=Training(
            data=tuple(used), synthetic_only=real is None, attribution=recipe.attribution
        ),
        licence=recipe.licence,
        intended_use=recipe.intended_use,
    )


def describe_start(spec: ModelSpec, start: ModelSpec) -> ModelSpec:
    """Return the description of a model that began as another: it has learnt from its data too."""
    both = (start.training, spec.training)
    attribution = start.training.attribution
    if spec.training.attribution not in attribution:
        attribution = f'{attribution} {spec.training.attribution}'.strip()
    training = Training(
        data=tuple(dict.fromkeys(item for training in both for item in training.data)),
        synthetic_only=all(training.synthetic_only for training in both),
        attribution=attribution,
    )
    return spec.model_copy(update={'training': training})
