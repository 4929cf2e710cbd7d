"""Trained models: folders with ``model.toml``, ``weights.safetensors`` and ``CARD.md``.

A user's own model is such a folder anywhere; its path stands wherever a name does.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from msapp.errors import InputError, MissingDependencyError, UsageError
from msapp.files import write_atomic
from msapp.models.spec import HYBRID, ModelSpec, problems_of
from msapp.networks import build_network
from msapp.provenance import sha256_file

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.settings import Settings

__all__ = [
    'HYBRID',
    'ModelSpec',
    'check_weights',
    'check_window',
    'confirming_model',
    'find_model_for',
    'find_models',
    'load_network',
    'load_spec',
    'models_for',
    'save_model',
    'with_confirming',
]

SPEC_FILE = 'model.toml'
CARD_FILE = 'CARD.md'
# Models are kept in the source tree and in the image; half precision halves them.
MAX_WEIGHTS_MB = 16
BYTES_PER_MB = 1_000_000
# Channels of a network for new lesions: the FLAIR of two visits.
VISITS = ('previous', 'current')
# What the app gives networks for lesions and for new ones: voxels and scales of intensity.
SPACING_MM = 1.0
WHITE_MATTER, GREY_LEVELS = 'white_matter', 'grey_levels'
LESION_CHANNELS = ('FLAIR', 'T1w')
# What stands for a task where no network is chosen: the classical methods of msapp.lesions.
CLASSICAL = {'lesions': 'threshold', 'longitudinal': 'candidates'}


def find_models(folder: Path | None = None) -> dict[str, Path]:
    """Return the folders of the models in a folder, by name; by default those msapp ships."""
    folder = Path(__file__).parent if folder is None else folder
    return {path.parent.name: path.parent for path in sorted(folder.glob(f'*/{SPEC_FILE}'))}


def load_spec(name_or_path: str | Path, *, folder: Path | None = None) -> ModelSpec:
    """Read the description of a model; its weights are not touched.

    Parameters
    ----------
    name_or_path : str or Path
        Name of a model that is installed, or path of a folder with a model. Text with a
        separator is a path (``./mine``), other text is a name.
    folder : Path, optional
        Where models are looked for by name.

    Raises
    ------
    MissingDependencyError
        If there is no such model, or its ``model.toml`` cannot be used.
    """
    if isinstance(name_or_path, Path) or os.sep in name_or_path:
        return _read_spec(Path(name_or_path))
    found = find_models(folder)
    if name_or_path not in found:
        raise MissingDependencyError(
            f'{name_or_path}: no such model is installed. Available: '
            f'{", ".join(found) or "none"}. A model of your own is given by the path of its '
            f'folder, such as ./{name_or_path}.'
        )
    return _read_spec(found[name_or_path])


def find_model_for(task: str, *, folder: Path | None = None) -> ModelSpec | None:
    """Return a model for a task, the first by name, or None.

    Which one a run uses where there are several, settings say: see `models_for`.
    """
    specs = (load_spec(path) for path in find_models(folder).values())
    return next((spec for spec in specs if spec.task == task), None)


def confirming_model(spec: ModelSpec) -> ModelSpec | None:
    """Return the model for lesions that confirms what a model for new lesions marks, or None.

    Raises
    ------
    MissingDependencyError
        If there is no such model, or it cannot tell lesions from FLAIR alone.
    """
    if spec.confirmed_by is None:
        return None
    where = f'{spec.folder / SPEC_FILE}: confirmed_by {spec.confirmed_by}'
    installed = find_models()
    if spec.confirmed_by not in installed:
        raise MissingDependencyError(
            f'{where}: no such model is installed. Name one that tells lesions from FLAIR alone, '
            f'such as lesions, or leave it out. Installed: {", ".join(installed)}.'
        )
    found = load_spec(spec.confirmed_by)
    needed = {channel.name for channel in found.channels if not channel.may_be_missing}
    if found.task != 'lesions' or found.threshold is None or not needed <= {'FLAIR'}:
        raise MissingDependencyError(
            f'{where}: this is no model that tells lesions from FLAIR alone. Name one that does, '
            'such as lesions, or leave it out.'
        )
    return found


def with_confirming(models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
    """Return models by task and, beside each, the one that confirms what it marks."""
    confirming = {f'{task}, confirming': confirming_model(spec) for task, spec in models.items()}
    return {**models, **{name: spec for name, spec in confirming.items() if spec is not None}}


def models_for(settings: Settings, *, folder: Path | None = None) -> dict[str, ModelSpec]:
    """Return the model of each task of a run that a network does; weights are not touched.

    A task that needs a network and has none is left out.

    Raises
    ------
    MissingDependencyError
        If ``--lesion-model`` or ``--new-lesion-method`` names no model, or one for another task.
    """
    models: dict[str, ModelSpec] = {}
    chosen = {
        'lesions': ('--lesion-model', settings.lesion_model),
        'longitudinal': ('--new-lesion-method', settings.new_lesion_method),
    }
    for task, (flag, name) in chosen.items():
        if task in settings.tasks and name != CLASSICAL[task]:
            models[task] = _chosen_model(task, flag, name, folder)
    wanted = ['anatomy'] if settings.brain_extraction == 'network' else []
    if 'enhancement' in settings.tasks:
        wanted.append('enhancement')
    if 'cord' in settings.tasks:
        wanted += ['cord', 'cordlesions']
    for task in wanted:
        found = find_model_for(task, folder=folder)
        if found is not None:
            models[task] = found
    return models


def check_weights(spec: ModelSpec) -> None:
    """Make sure that a model's weights are there and are those it was published with.

    Raises
    ------
    MissingDependencyError
        If the file is missing, cannot be read, or has another SHA-256.
    """
    try:
        found = sha256_file(spec.weights)
    except OSError as error:
        raise MissingDependencyError(
            f'{spec.weights}: the weights of model {spec.name} cannot be read '
            f'({error.strerror}). Install msapp again, or copy the whole folder of the model.'
        ) from error
    if found != spec.weights_sha256:
        raise MissingDependencyError(
            f'{spec.weights}: these are not the weights of model {spec.name} {spec.version}: the '
            f'SHA-256 is {found[:12]}..., {SPEC_FILE} says {spec.weights_sha256[:12]}.... The '
            'file is damaged or was changed: install msapp again, or copy the model again.'
        )


def check_window(spec: ModelSpec, network: nn.Module) -> None:
    """Make sure that a network can halve the window of its description as often as it does.

    Raises
    ------
    UsageError
    """
    divisor: int = getattr(network, 'divisor', 1)
    if any(side % divisor for side in spec.window):
        raise UsageError(
            f'model {spec.name}: window: all sides must be multiples of {divisor}, got '
            f'{list(spec.window)}. Correct {SPEC_FILE}, or the recipe.'
        )


def load_network(spec: ModelSpec) -> nn.Module:
    """Build a model's network and give it its weights, as float32 on the CPU, in ``eval`` mode.

    Raises
    ------
    MissingDependencyError
        If the weights are missing or not the published ones, or do not fit the architecture.
    UsageError
        If the window does not.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights(spec)
    network = build_network(spec.architecture.name, spec.architecture.arguments)
    check_window(spec, network)
    try:
        weights = load_file(spec.weights)
        network.load_state_dict({name: _widen(tensor) for name, tensor in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise MissingDependencyError(
            f'{spec.weights}: these weights do not fit the architecture in {SPEC_FILE} of model '
            f'{spec.name}. Copy the whole folder of the model again. ({error})'
        ) from error
    return network.float().eval()


def save_model(folder: Path, spec: ModelSpec, network: nn.Module) -> ModelSpec:
    """Write a model's folder: weights in half precision, then ``model.toml`` with their hash.

    Each file is written in one step. A stop between the two leaves weights that the old
    ``model.toml`` does not know, which `load_network` refuses. A ``CARD.md`` that is there is left
    as it is, else one is made of what the description says.

    Returns
    -------
    ModelSpec
        The description as written.

    Raises
    ------
    InputError
        If a weight is not finite in half precision.
    UsageError
        If the weights do not fit the architecture, or are larger than models may be.
    """
    from safetensors.torch import save

    weights = {name: _narrow(name, tensor) for name, tensor in network.state_dict().items()}
    _check_size(spec, weights)
    _check_shapes(spec, weights)
    spec = spec.model_copy(update={'folder': folder.resolve()})
    # Not its save_file, whose file nobody but its owner may read.
    write_atomic(spec.weights, save(weights))
    spec = spec.model_copy(update={'weights_sha256': sha256_file(spec.weights)})
    write_atomic(folder / SPEC_FILE, spec.to_toml())
    if not (folder / CARD_FILE).exists():
        write_atomic(folder / CARD_FILE, _card(spec))
    return spec


def _card(spec: ModelSpec) -> str:
    """Return what ``model.toml`` says for readers, and no more."""
    channels = ', '.join(
        channel.name + ' (may be missing)' * channel.may_be_missing for channel in spec.channels
    )
    learnt = [f'- {item.name}, n = {item.n}' for item in spec.training.data]
    real = 'No real image was used.' if spec.training.synthetic_only else 'Real images were used.'
    measured = [
        f'- {figure.measure}: {figure.value:g} (n = {figure.n}; {figure.data}). {figure.note}'
        for figure in spec.validation
    ]
    return '\n'.join(
        (
            f'# {spec.name} {spec.version}\n',
            f'{spec.intended_use}\n',
            '**Research software, not a medical device.**\n',
            '## What it does\n',
            f'Task: {spec.task}. In: {channels}; voxels of '
            f'{" x ".join(f"{size:g}" for size in spec.spacing_mm)} mm, intensities scaled by '
            f'`{spec.normalisation.name}`. Network: `{spec.architecture.name}`.\n',
            '## What it has learnt from\n',
            *(learnt or ['Nothing is said.']),
            f'\n{real} {spec.training.attribution}'.rstrip() + '\n',
            '## How good it is\n',
            *(measured or ['Nothing was measured.']),
            f'\n## Licence\n\n{spec.licence}\n',
        )
    )


def _chosen_model(task: str, flag: str, name_or_path: str, folder: Path | None) -> ModelSpec:
    """Read the model that a flag names, and make sure that it is for the task."""
    without = f'Without a network: {CLASSICAL[task]}.'
    try:
        spec = load_spec(name_or_path, folder=folder)
    except MissingDependencyError as error:
        raise MissingDependencyError(f'{flag} {error} {without}') from error
    if spec.task != task:
        raise MissingDependencyError(
            f'{flag} {name_or_path}: this model is for {spec.task}, not for {task}. {without}'
        )
    if spec.threshold is None:
        raise MissingDependencyError(f'{flag} {name_or_path}: this model has no threshold.')
    scale = GREY_LEVELS if spec.architecture.name == HYBRID else WHITE_MATTER
    if spec.normalisation.name != scale or set(spec.spacing_mm) != {SPACING_MM}:
        raise MissingDependencyError(
            f'{flag} {name_or_path}: the model takes voxels of '
            f'{" x ".join(f"{size:g}" for size in spec.spacing_mm)} mm and the intensity scale '
            f'{spec.normalisation.name}; msapp gives {SPACING_MM:g} mm and {scale}.'
        )
    channels = tuple(channel.name for channel in spec.channels)
    if task == 'lesions' and not set(channels) <= set(LESION_CHANNELS):
        raise MissingDependencyError(
            f'{flag} {name_or_path}: msapp gives {" and ".join(LESION_CHANNELS)} to a model for '
            f'lesions; this one takes {" and ".join(channels)}.'
        )
    confirming_model(spec)
    if task == 'longitudinal' and set(channels) != set(VISITS):
        raise MissingDependencyError(
            f'{flag} {name_or_path}: the channels of a model for new lesions are '
            f'{" and ".join(VISITS)}; those of this one are {" and ".join(channels)}.'
        )
    return spec


def _read_spec(folder: Path) -> ModelSpec:
    path = folder / SPEC_FILE
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding='utf-8'))
        return ModelSpec(**values, folder=folder.resolve())
    except OSError as error:
        raise MissingDependencyError(
            f'{path}: cannot be read ({error.strerror}). A model is a folder with {SPEC_FILE} and '
            'weights.safetensors.'
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MissingDependencyError(f'{path}: not a valid TOML file: {error}.') from error
    except ValidationError as error:
        raise MissingDependencyError(f'{path}: {problems_of(error)}. Correct the file.') from error


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _narrow(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor for the file: on the CPU, floating point in half precision."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    narrow = tensor.to(torch.float16)
    if not torch.isfinite(narrow).all():
        raise InputError(
            f'{name}: weights that are not finite in half precision (largest magnitude '
            f'{tensor.abs().max():g}). The training diverged; this model cannot be kept.'
        )
    return narrow


def _check_size(spec: ModelSpec, weights: dict[str, torch.Tensor]) -> None:
    size_mb = sum(tensor.nbytes for tensor in weights.values()) / BYTES_PER_MB
    if size_mb > MAX_WEIGHTS_MB:
        raise UsageError(
            f'model {spec.name}: its weights take {size_mb:.1f} MB in half precision, at most '
            f'{MAX_WEIGHTS_MB} MB are allowed. Use fewer channels.'
        )


def _check_shapes(spec: ModelSpec, weights: dict[str, torch.Tensor]) -> None:
    """Refuse to write what could not be loaded again."""
    expected = build_network(spec.architecture.name, spec.architecture.arguments).state_dict()
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != {name: tuple(tensor.shape) for name, tensor in expected.items()}:
        raise UsageError(
            f'model {spec.name}: the network is not the one that its architecture describes '
            f'({spec.architecture.name}, {spec.architecture.arguments}). Correct the arguments.'
        )
