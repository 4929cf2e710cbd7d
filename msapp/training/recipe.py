"""What ``msapp-train`` reads: a recipe says what a network is trained on, and how."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msapp.errors import UsageError
from msapp.models.spec import NAME, Channel, Named, problems_of

# Real data, and what they can teach.
TASKS_OF_DATA = {
    'brains': 'anatomy',
    'real': 'lesions',
    'bids': 'lesions',
    'pairs': 'longitudinal',
    'visits': 'longitudinal',
}
RECIPES = Path(__file__).parent / 'recipes'


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid')


class RealCase(_Frozen):
    """A real patient with a manual mask, a ``[[data.real]]`` table.

    Attributes
    ----------
    name : str
        Of the patient: visits of one patient have one name, and folds hold out whole patients.
    images : dict of str to str
        Channel to file, below the folder of the data.
    lesions : str
        Manual mask, on the grid of the first image that the network takes.
    """

    name: str
    images: dict[str, str]
    lesions: str


class RealDataset(_Frozen):
    """A BIDS dataset with manual lesion masks, the table ``[data.bids]``; see `with_listed`.

    Attributes
    ----------
    folder : str
        Of the dataset, below the folder of the data.
    masks : str
        Folder of the masks, below that of the dataset, with the same folders of participants and
        sessions.
    mask_names : str
        How the name of a mask goes on after participant and session, as a pattern of file names.
    leave_out : tuple of str
        Participants (``sub-01``) and visits (``sub-01_ses-1``) that are not used.
    """

    folder: str
    masks: str
    mask_names: str = '*_mask.nii*'
    leave_out: tuple[str, ...] = ()


class RealPair(_Frozen):
    """Two visits of a real patient with manual masks of change, a ``[[data.pairs]]`` table.

    Attributes
    ----------
    name : str
    previous, current : str
        FLAIR of the earlier and of the later visit, as they come from the scanner.
    increase, decrease : str
        Manual masks of what became lesion, and of what ceased to be one.
    transform : str or None
        ITK text file that resamples the later FLAIR onto the masks' space; None if that is its
        own.
    """

    name: str
    previous: str
    current: str
    increase: str
    decrease: str
    transform: str | None = None


class RealBrain(_Frozen):
    """A real head with a manual brain mask, a ``[[data.brains]]`` table.

    Attributes
    ----------
    name : str
        Of the person: folds hold out whole persons.
    image : str
        Of any contrast, as it comes from the scanner.
    brain : str
        Manual mask.
    transform : str or None
        ITK text file that resamples the image onto the mask's space; None if that is its own.
    """

    name: str
    image: str
    brain: str
    transform: str | None = None


class RealVisit(_Frozen):
    """One visit of a real patient, without a mask, a ``[[data.visits]]`` table.

    Attributes
    ----------
    name : str
    image : str
        FLAIR, as it comes from the scanner.
    """

    name: str
    image: str


class Data(_Frozen):
    """The table ``[data]``; paths are below the folder given by ``--data``.

    Attributes
    ----------
    heads : str or None
        Folder of label maps of heads; None where none is drawn, neither to learn from
        (``synthetic_share`` is 0) nor for validation.
    held_out_heads : tuple of str
        Label maps never trained on, for validation.
    lesion_priors : str or None
        Folder of lesion masks; None paints no lesions.
    held_out_priors : tuple of str
        Patients whose lesion masks are never painted.
    synthetic_share : float
        Share of samples that are synthetic; the others come from ``real``, ``brains``, ``pairs``
        and ``visits``.
    real : tuple of RealCase
    bids : RealDataset or None
        Whose visits are added to ``real``, and whose participants to ``folds``.
    brains : tuple of RealBrain
    pairs : tuple of RealPair
    visits : tuple of RealVisit
        To be paired with themselves.
    drawn_pairs : int
        Of the hybrid method: pairs of drawn heads, beside the real ones.
    folds : dict of str to tuple of str
        Name of a fold to the real cases, or persons, that it holds out; those with manual masks
        are validated on.
    """

    heads: str | None = None
    held_out_heads: tuple[str, ...] = ()
    lesion_priors: str | None = None
    held_out_priors: tuple[str, ...] = ()
    synthetic_share: float = Field(default=1.0, ge=0, le=1)
    real: tuple[RealCase, ...] = ()
    bids: RealDataset | None = None
    brains: tuple[RealBrain, ...] = ()
    pairs: tuple[RealPair, ...] = ()
    visits: tuple[RealVisit, ...] = ()
    drawn_pairs: int = Field(default=0, ge=0)
    folds: dict[str, tuple[str, ...]] = {}


class Schedule(_Frozen):
    """The table ``[schedule]``.

    Attributes
    ----------
    steps, batch : int
        Of the hybrid method 0 and 1: its epochs say how many, and its batches are of 32 patches.
    epochs : int
        Of the hybrid method, 0 for others.
    learning_rate : float
        Highest; it rises over ``warm_up`` steps, then falls along a cosine. That of the hybrid
        method falls from it in steps.
    only : str or None
        The one part of the network that learns, such as ``variance_head``; None: all of it.
    warm_up : int
    weight_decay : float
    average : float
        Decay of the running mean of the weights, which is what is kept.
    validate_every : int
        Steps, or all where there are fewer; the hybrid method is validated after every epoch.
    validation_samples : int
    checkpoint_minutes : float
    """

    steps: int = Field(default=0, ge=0)
    epochs: int = Field(default=0, ge=0)
    batch: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    only: str | None = None
    warm_up: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    average: float = Field(default=0.999, ge=0, lt=1)
    validate_every: int = Field(default=250, ge=1)
    validation_samples: int = Field(default=10, ge=1)
    checkpoint_minutes: float = Field(default=3.0, gt=0)

    @model_validator(mode='after')
    def _one_length(self) -> Self:
        if bool(self.steps) == bool(self.epochs):
            raise ValueError('either steps or epochs must be given')
        return self


class Recipe(_Frozen):
    """A whole recipe.

    Attributes
    ----------
    name, version : str
        Of the model.
    task : str
    channels : tuple of Channel
    spacing_mm : float
    normalisation : str
        ``head`` or ``white_matter``, see `msapp.inference.normalise`; ``grey_levels`` of the hybrid
        method.
    window : tuple of int
        Sides of the drawn images, and of the sliding window.
    threshold : float or None
    prior : float or None
        See `msapp.models.spec.ModelSpec`; `benchmarks/drawn.py prior` prints it.
    minimum_mm3 : float
        Smaller components are dropped, mm3.
    confirmed_by : str or None
        See `msapp.models.spec.ModelSpec`.
    classes : tuple of str
    architecture : Named
    loss : Named
        One of `msapp.training.losses.LOSSES`.
    generator : dict
        Fields of `msapp.synthesis.generator.GeneratorSettings`; for pairs of visits, of
        `msapp.synthesis.pairs.PairSettings`.
    data : Data
    schedule : Schedule
    licence, intended_use, attribution : str
    """

    name: str
    version: str
    task: Literal['anatomy', 'lesions', 'longitudinal']
    channels: tuple[Channel, ...]
    spacing_mm: float = Field(gt=0)
    normalisation: Literal['head', 'white_matter', 'grey_levels']
    window: tuple[int, int, int]
    overlap: float = 0.5
    threshold: float | None = None
    prior: float | None = Field(default=None, gt=0, lt=1)
    minimum_mm3: float = Field(default=0.0, ge=0)
    confirmed_by: str | None = Field(default=None, pattern=NAME)
    classes: tuple[str, ...] = ()
    architecture: Named
    loss: Named
    generator: dict[str, Any] = {}
    data: Data
    schedule: Schedule
    licence: str
    intended_use: str
    attribution: str = ''

    @model_validator(mode='after')
    def _data_fit_the_task(self) -> Self:
        for table, task in TASKS_OF_DATA.items():
            if getattr(self.data, table) and self.task != task:
                raise ValueError(f'data.{table}: of use for the task {task} alone')
        return self

    @model_validator(mode='after')
    def _hybrid_has_epochs(self) -> Self:
        hybrid = self.architecture.name == 'hybrid'
        if hybrid != bool(self.schedule.epochs):
            raise ValueError('schedule: the hybrid method has epochs, all others have steps')
        if hybrid != (self.normalisation == 'grey_levels'):
            raise ValueError(
                'normalisation: grey_levels is that of the hybrid method, and no other'
            )
        return self

    def left_out(self, fold: str | None) -> tuple[str, ...]:
        """Return the real cases that a fold holds out.

        Raises
        ------
        UsageError
            If the recipe has no such fold.
        """
        if fold is not None and fold not in self.data.folds:
            known = ', '.join(self.data.folds) or 'none'
            raise UsageError(f'--fold {fold}: not in the recipe, which has {known}.')
        return self.data.folds[fold] if fold else ()

    def unscored(self, fold: str | None) -> set[str]:
        """Return the real cases not validated on: learnt from, or without a manual mask."""
        data = self.data
        masked = {case.name for case in data.real} | {head.name for head in data.brains}
        masked |= {pair.name for pair in data.pairs}
        every = masked | {visit.name for visit in data.visits}
        return every - (masked & set(self.left_out(fold)))


def load_recipe(name_or_path: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Parameters
    ----------
    name_or_path : str
        One of those in ``msapp/training/recipes``, or a TOML file.
    changes : mapping, optional
        Fields of ``schedule`` to be used instead.

    Raises
    ------
    UsageError
        If there is no such recipe, or it is not valid; the message names the field.
    """
    path = RECIPES / f'{name_or_path}.toml'
    if not path.is_file():
        path = Path(name_or_path)
    try:
        values = tomllib.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
        known = ', '.join(sorted(item.stem for item in RECIPES.glob('*.toml')))
        raise UsageError(
            f'{name_or_path}: no such recipe ({error.strerror}). Give a TOML file, or one of: '
            f'{known}.'
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f'{path}: not a valid TOML file: {error}.') from error
    values.setdefault('schedule', {}).update(changes or {})
    try:
        return Recipe(**values)
    except ValidationError as error:
        raise UsageError(f'{path}: {problems_of(error)}.') from error
