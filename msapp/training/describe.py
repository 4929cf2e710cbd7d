"""What is written of a model that a recipe makes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from pydantic import ValidationError

from msapp.errors import UsageError
from msapp.models.registry import check_window, confirming_model
from msapp.models.spec import ModelSpec, Named, Training, TrainingSet, problems_of
from msapp.networks import build_network
from msapp.synthesis.lesion_bank import LesionBank
from msapp.training.recipe import Recipe

# Between the sentences of an attribution ("Use: source; source."), and between the sources of one.
NEXT_USE = re.compile(r'(?<=\.) (?=[A-Z][^.;:]*: )')
NEXT_SOURCE = re.compile(r'; (?![^(]*\))')


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

    Raises
    ------
    UsageError
        If no model can be as the recipe says.
    """
    sampled = recipe.task == 'lesions' and recipe.architecture.arguments.get('dropout')
    used = []
    if heads:
        used.append(TrainingSet(name=f'label maps of heads ({recipe.data.heads})', n=heads))
    if bank:
        used.append(TrainingSet(name='lesion masks of patients, painted', n=len(bank)))
    if real:
        used.append(real)
    try:
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
    except ValidationError as error:
        raise UsageError(f'recipe {recipe.name}: {problems_of(error)}.') from error


def check_model(recipe: Recipe) -> None:
    """Make sure, before anything is prepared, that a model can be as a recipe says.

    Raises
    ------
    UsageError
        Naming what cannot be.
    MissingDependencyError
        If the model that confirms what this one marks is not installed.
    """
    spec = describe_model(recipe, heads=1, bank=None, real=None)
    confirming_model(spec)
    with torch.random.fork_rng(devices=[]):
        check_window(spec, build_network(spec.architecture.name, spec.architecture.arguments))


def describe_start(spec: ModelSpec, start: ModelSpec) -> ModelSpec:
    """Return the description of a model that began as another: it has learnt from its data too."""
    both = (start.training, spec.training)
    training = Training(
        data=tuple(dict.fromkeys(item for training in both for item in training.data)),
        synthetic_only=all(training.synthetic_only for training in both),
        attribution=join_attributions([training.attribution for training in both]),
    )
    return spec.model_copy(update={'training': training})


def join_attributions(attributions: Iterable[str]) -> str:
    """Join what several models owe to others, each source once: for what it is first named for.

    Examples
    --------
    >>> join_attributions(['Heads: A, MIT. Lesions: B, CC-BY.', 'Patients: B, CC-BY; C.'])
    'Heads: A, MIT. Lesions: B, CC-BY. Patients: C.'
    """
    use_of: dict[str, str] = {}
    for sentence in (part for text in attributions for part in NEXT_USE.split(text) if part):
        use, colon, sources = sentence.removesuffix('.').rpartition(': ')
        for source in NEXT_SOURCE.split(sources):
            use_of.setdefault(source, use + colon)
    sources_of = defaultdict(list)
    for source, use in use_of.items():
        sources_of[use].append(source)
    return ' '.join(f'{use}{"; ".join(sources)}.' for use, sources in sources_of.items())
