"""What ``model.toml`` says about a model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

WEIGHTS_FILE = 'weights.safetensors'
# The architecture that sees patches about candidates; others see the whole brain.
HYBRID = 'hybrid'

Task = Literal['lesions', 'anatomy', 'enhancement', 'longitudinal', 'cord', 'cordlesions']
Capability = Literal['mc-samples']
Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1)]
# The smallest sides of a window; below, instance normalisation sees almost nothing.
MIN_WINDOW = 16
NAME = r'^[A-Za-z0-9][A-Za-z0-9._-]*$'
# Of a SHA-256, in tables.
IDENTITY_DIGITS = 12


def problems_of(error: ValidationError) -> str:
    """Return what is wrong with the values of a file, each named by its place."""
    return '; '.join(
        f'{".".join(map(str, item["loc"])) or "model"}: {item["msg"]}' for item in error.errors()
    )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra='forbid')


class Channel(_Frozen):
    """One input channel, a ``[[channels]]`` table.

    Attributes
    ----------
    name : str
        The contrast, in BIDS terms: ``FLAIR``, ``T1w``.
    may_be_missing : bool
        Whether the model was trained to work without it; it is then filled with zeros.
    """

    name: str
    may_be_missing: bool = False


class Named(_Frozen):
    """A thing of msapp with its arguments: ``[architecture]``, ``[normalisation]``.

    Attributes
    ----------
    name : str
        Of an architecture, one of `msapp.networks.ARCHITECTURES`.
    arguments : dict
        Keyword arguments, a table ``arguments`` below.
    """

    name: str
    arguments: dict[str, Any] = {}


class TrainingSet(_Frozen):
    """Data a model was trained on, a ``[[training.data]]`` table.

    Attributes
    ----------
    name : str
        Name of the data set, or of the generator.
    n : int
        How many patients, or synthetic heads; never how many patches.
    """

    name: str
    n: int = Field(ge=1)


class Training(_Frozen):
    """Where a model comes from, the table ``[training]``.

    Attributes
    ----------
    data : tuple of TrainingSet
    synthetic_only : bool
        True if no real image of a patient was used; reports and sidecars then say so.
    attribution : str
        Whom the licences of the data ask to name.
    """

    data: tuple[TrainingSet, ...] = ()
    synthetic_only: bool
    attribution: str = ''


class Figure(_Frozen):
    """One measured figure, a ``[[validation]]`` table.

    Attributes
    ----------
    measure : str
        As ``median Dice``.
    value : float
    n : int
        Patients it was measured on.
    data : str
        What data, and that none of it was in the training.
    note : str
        What it does not show.
    """

    measure: str
    value: float
    n: int = Field(ge=1)
    data: str
    note: str = ''


class ModelSpec(_Frozen):
    """The description of a model: the content of its ``model.toml``.

    Attributes
    ----------
    name, version : str
        As in file names and reports.
    task : str
        ``lesions``, ``anatomy``, ``enhancement``, ``longitudinal``, ``cord`` or
        ``cordlesions``.
    channels : tuple of Channel
        In the order the network takes them; one at least must be given, even where all may miss.
    spacing_mm : tuple of float
        Voxel size the network works at, mm.
    normalisation : Named
        How intensities are brought to a common scale.
    architecture : Named
        The network; its ``in_channels`` is the number of channels.
    window : tuple of int
        Sides of the sliding window, voxels.
    overlap : float
        Of neighbouring windows, a fraction of their sides in [0, 1).
    threshold : float or None
        Probability from which a voxel counts, in (0, 1); None where classes compete.
    temperature : float
        Logits, after they were adapted by the prior, are divided by this before they become
        probabilities (Guo, ICML 2017).
    prior : float or None
        For tasks of lesions: mean probability in the brains that the network has learnt from. With
        it, probabilities are adapted to the share of lesion in each brain (Saerens, Neural
        Computation 2002); without, they are left as they are. Of the network's own logits,
        whatever the temperature.
    minimum_mm3 : float
        Smaller components are dropped, mm3.
    confirmed_by : str or None
        Of a model for new lesions: the model of msapp for lesions that confirms what it marks, see
        `msapp.inference.newlesions.label_new_lesions`. None: nothing is confirmed.
    classes : tuple of str
        For classes that compete (softmax): the name of each output channel, ``background``
        included.
    supports : tuple of str
        Flags of the command line that this model was made and checked for: ``mc-samples``.
    weights_sha256 : str
        Of ``weights.safetensors``; `msapp.models.registry.save_model` fills it in.
    training : Training
    validation : tuple of Figure
        Empty: nothing was measured.
    licence, intended_use : str
    folder : Path
        Where it was read from; not in the file.
    """

    name: str = Field(pattern=NAME)
    version: str
    task: Task
    spacing_mm: tuple[Positive, Positive, Positive]
    window: tuple[Side, Side, Side]
    overlap: float = Field(default=0.5, ge=0, lt=1)
    threshold: float | None = Field(default=None, gt=0, lt=1)
    temperature: Positive = 1.0
    prior: float | None = Field(default=None, gt=0, lt=1)
    minimum_mm3: float = Field(default=0.0, ge=0)
    confirmed_by: str | None = Field(default=None, pattern=NAME)
    classes: tuple[str, ...] = ()
    supports: tuple[Capability, ...] = ()
    weights_sha256: str = Field(default='', pattern=r'^([0-9a-f]{64})?$')
    licence: str
    intended_use: str
    channels: tuple[Channel, ...] = Field(min_length=1)
    normalisation: Named
    architecture: Named
    training: Training
    validation: tuple[Figure, ...] = ()
    folder: Path = Field(default=Path(), exclude=True)

    @property
    def identity(self) -> str:
        """Which weights these are, for tables."""
        return self.weights_sha256[:IDENTITY_DIGITS]

    @property
    def predicts_variance(self) -> bool:
        """Whether the network predicts the variance of its logits, too."""
        return bool(self.architecture.arguments.get('variance_head'))

    @property
    def weights(self) -> Path:
        """File of the weights."""
        return self.folder / WEIGHTS_FILE

    def to_toml(self) -> str:
        """Return the content of ``model.toml``."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(mode='json', exclude_none=True))

    @model_validator(mode='after')
    def _channels_fit(self) -> Self:
        twice = [name for name, n in Counter(item.name for item in self.channels).items() if n > 1]
        if twice:
            raise ValueError(f'channels named twice: {", ".join(twice)}')
        given = self.architecture.arguments.get('in_channels')
        if given is not None and given != len(self.channels):
            raise ValueError(f'in_channels is {given}, but there are {len(self.channels)} channels')
        return self

    @model_validator(mode='after')
    def _prior_is_of_use(self) -> Self:
        if self.prior is not None and (self.classes or self.architecture.name == HYBRID):
            raise ValueError("prior: only of use for networks that see a whole brain's lesions")
        return self

    @model_validator(mode='after')
    def _confirmation_is_of_use(self) -> Self:
        if self.confirmed_by and (self.task != 'longitudinal' or self.architecture.name == HYBRID):
            raise ValueError('confirmed_by: only of use for networks that see two whole brains')
        return self

    @model_validator(mode='after')
    def _outputs_fit(self) -> Self:
        if not self.threshold and not self.classes:
            raise ValueError('threshold or classes must be given')
        outputs = self.architecture.arguments.get('out_channels')
        # Without classes the one output is the lesion.
        if outputs not in (None, len(self.classes) or 1):
            raise ValueError(
                f'out_channels is {outputs}, but there are {len(self.classes)} classes; a network '
                'for lesions has one output and no classes'
            )
        if min(self.window) < MIN_WINDOW:
            raise ValueError(f'window: no side may be under {MIN_WINDOW} voxels')
        return self
