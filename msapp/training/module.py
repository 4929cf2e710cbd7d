"""Networks as Lightning trains them: what all kinds share, and those that see images."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import nn

from msapp.errors import UsageError
from msapp.networks import build_network, predicts_variance
from msapp.training.data import Item
from msapp.training.losses import make_loss, marginal_logits, merge_classes
from msapp.training.recipe import Recipe


def dice_per_class(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return Dice of each class but the background, over a batch; NaN where a class is in neither.

    Parameters
    ----------
    logits : (B, C, I, J, K) tensor
        One channel: sigmoid at one half; more: the highest wins.
    target : (B, 1, I, J, K) tensor
        Class of each voxel.

    Returns
    -------
    (C - 1,) tensor, or (1,) for one channel

    Examples
    --------
    >>> dice_per_class(torch.tensor([[[[[9.0, 9.0, -9.0]]]]]), torch.tensor([[[[[1, 0, 0]]]]]))
    tensor([0.6667])
    """
    if logits.shape[1] == 1:
        found, classes = (logits > 0).long(), 2
    else:
        found, classes = logits.argmax(dim=1, keepdim=True), logits.shape[1]
    scores = []
    for number in range(1, classes):
        a, b = found == number, target == number
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return torch.stack(scores)


def choose_part(network: nn.Module, only: str | None) -> None:
    """Let one part of a network learn, and leave the others as they are; None: all learn.

    Raises
    ------
    UsageError
        If the network has no such part.
    """
    if only is None:
        return
    parts = [name for name, part in network.named_children() if part is not None]
    if only not in parts:
        raise UsageError(
            f'--only (schedule.only in the recipe): the network has no part "{only}". Choose one '
            f'of {", ".join(parts)}.'
        )
    for name, weights in network.named_parameters():
        weights.requires_grad_(name.startswith(f'{only}.'))


class NetworkTraining(lightning.LightningModule):
    """A network and its loss; steps and optimiser are those of the kind of network."""

    def __init__(self, recipe: Recipe) -> None:
        """Make the network of a recipe, with random weights."""
        super().__init__()
        self.recipe = recipe
        self.network = build_network(recipe.architecture.name, recipe.architecture.arguments)
        choose_part(self.network, recipe.schedule.only)
        self._loss = make_loss(recipe.loss.name, recipe.loss.arguments)

    def on_train_start(self) -> None:
        """Keep the running statistics of the parts that do not learn as they are."""
        for layer in self.network.modules():
            statistics = getattr(layer, 'track_running_stats', False)
            if statistics and not any(weights.requires_grad for weights in layer.parameters()):
                layer.eval()


class Segmentation(NetworkTraining):
    """Training of a network that sees an image, or a window of it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        logits: torch.Tensor = self.network(image)
        return logits

    def training_step(self, batch: Item, _: int) -> torch.Tensor:
        """Return the loss of one batch; a variance head learns from noise on the logits."""
        if predicts_variance(self.network):
            both = self.network.forward_with_variance(batch['image'])  # type: ignore[operator]
            logits = marginal_logits(*(values.float() for values in both))
        else:
            logits = self(batch['image']).float()
        loss: torch.Tensor = self._loss(logits, batch['target'])
        self.log('train_loss', loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Item, _: int) -> None:
        """Log loss and Dice of one sample."""
        logits = self(batch['image']).float()
        self.log('validation_loss', self._loss(logits, batch['target']), batch_size=1)
        scores = dice_per_class(logits, batch['target'])
        names = self.recipe.classes[1:] or ('lesions',)
        for name, score in zip(names, scores, strict=True):
            if not torch.isnan(score):
                self.log(f'validation_dice_{name}', score, batch_size=1)
        if self.recipe.classes:
            score = dice_per_class(merge_classes(logits), (batch['target'] > 0).long())[0]
            self.log('validation_dice_brain', score, batch_size=1, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW, with a warm-up and then a cosine to a hundredth."""
        schedule = self.recipe.schedule
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
        )

        def factor(step: int) -> float:
            if step < schedule.warm_up:
                return (step + 1) / schedule.warm_up
            done = (step - schedule.warm_up) / max(1, schedule.steps - schedule.warm_up)
            return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }
