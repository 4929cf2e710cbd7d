"""The state of a training on disk: written every few minutes, and gone on from."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Timer
from torch import nn

from msapp.errors import UsageError
from msapp.files import atomic_path, write_atomic
from msapp.models.registry import load_spec
from msapp.models.spec import ModelSpec
from msapp.synthesis.heads import PREPARATION
from msapp.training.recipe import Recipe

# Beside a checkpoint: what was trained, on what.
ORIGIN = 'origin.json'
SECONDS_PER_MINUTE = 60


class KeepCheckpoint(lightning.Callback):
    """Write the state of the training every few minutes and at its end, in one step each time."""

    def __init__(self, path: Path, minutes: float) -> None:
        """Write to this file."""
        self._path = path
        self._period_s = minutes * SECONDS_PER_MINUTE
        self._written = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Write if it is time to; within an epoch of the hybrid method there is no going on."""
        if trainer.max_epochs == -1 and time.monotonic() - self._written >= self._period_s:
            self._write(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Write after each epoch of the hybrid method."""
        self._write(trainer)

    def on_train_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Write; this must come before the weights are replaced by their mean."""
        self._write(trainer)

    def _write(self, trainer: lightning.Trainer) -> None:
        with atomic_path(self._path) as temporary:
            trainer.save_checkpoint(temporary)
        self._written = time.monotonic()


def load_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint; its ``state_dict`` holds the running mean of the weights."""
    kept: dict[str, Any] = torch.load(checkpoint, map_location='cpu', weights_only=False)
    return kept


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint, 0 without one."""
    return int(load_checkpoint(checkpoint)['global_step']) if checkpoint.exists() else 0


def describe_origin(
    recipe: Recipe, fold: str | None, start_from: str | None, drawn_from: str | None = None
) -> str:
    """Return what must stay the same for a training to be gone on with; it may get longer.

    Parameters
    ----------
    recipe : Recipe
    fold, start_from : str, optional
        See `msapp.training.fit.train`.
    drawn_from : str, optional
        See `msapp.training.data.drawn_from`.
    """
    values = recipe.model_dump(mode='json')
    for name in ('steps', 'epochs', 'checkpoint_minutes', 'validate_every'):
        values['schedule'].pop(name)
    if values['schedule']['only'] is None:
        values['schedule'].pop('only')
    # What is done with the network's output is not learnt.
    values.pop('confirmed_by')
    # Its visits are among the real cases.
    values['data'].pop('bids')
    start = load_spec(start_from).weights_sha256 if start_from else None
    origin: dict[str, Any] = {'recipe': values, 'fold': fold, 'from': start}
    if drawn_from:
        origin['drawn_from'] = drawn_from
    # Trainings that began with the first do not name it.
    if PREPARATION > 1:
        origin['preparation'] = PREPARATION
    return json.dumps(origin, indent=1, sort_keys=True)


def check_origin(checkpoint: Path, origin: str) -> None:
    """Keep the origin beside a new checkpoint; refuse to go on with one of another.

    Raises
    ------
    UsageError
        Naming what differs.
    """
    path = checkpoint.with_name(ORIGIN)
    if not checkpoint.exists():
        write_atomic(path, origin)
        return
    if path.exists() and (known := path.read_text(encoding='utf-8')) != origin:
        lines = [line.strip() for line in difflib.ndiff(known.splitlines(), origin.splitlines())]
        differing = '; '.join(line.strip(',') for line in lines if line[:1] in '+-' and line)
        raise UsageError(
            f'{checkpoint.parent}: holds a training of other settings ({differing}). Choose '
            'another output folder, or remove this one to begin anew.'
        )


def check_start(spec: ModelSpec, start: ModelSpec) -> None:
    """Make sure that a model means by its input what the one that it starts from means.

    Raises
    ------
    UsageError
        Naming what differs. Channels may, where the task does.
    """
    values: dict[str, tuple[object, object]] = {
        'voxels, mm': (spec.spacing_mm, start.spacing_mm),
        'scale of intensities': (spec.normalisation.name, start.normalisation.name),
    }
    if spec.task == start.task:
        own, other = ([channel.name for channel in one.channels] for one in (spec, start))
        values['channels'] = own, other
    for name, (wanted, given) in values.items():
        if wanted != given:
            raise UsageError(
                f'--from {start.name}: {name} of this model: {given}; of the recipe: {wanted}. Let '
                'the recipe have the same.'
            )


def load_start(
    network: nn.Module, start: Mapping[str, torch.Tensor], only: str | None = None
) -> None:
    """Let a network start from weights, which may lack the one part of it that is to learn.

    Raises
    ------
    UsageError
        If they are of another architecture.
    """
    own = network.state_dict()
    learns = {name: own[name] for name in own if only and name.startswith(f'{only}.')}
    try:
        network.load_state_dict(learns | dict(start))
    except RuntimeError as error:
        raise UsageError(
            '--from names a model of another architecture than the recipe. Choose one like it, or '
            'leave it out.'
        ) from error


def mix_weights(
    weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Return the weighted mean of two sets; counters, and what one lacks, are the first's."""
    return {
        name: torch.lerp(tensor, others[name].to(tensor), share)
        if name in others and tensor.is_floating_point()
        else tensor
        for name, tensor in weights.items()
    }


class Deadline(Timer):
    """Ends a training after some time; each call has its own, whatever earlier ones took."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget what earlier calls took."""
