"""What a training is validated on: drawn samples, and whole patients that a fold leaves out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from monai.inferers import sliding_window_inference
from torch.utils.data import Dataset

from msapp.training.data import Item
from msapp.training.losses import merge_classes
from msapp.training.module import Segmentation, dice_per_class

# In an item: it is a whole patient.
REAL = 'real'
# Behind the names of what is measured on patients, in the log.
REAL_ENDING = f'_{REAL}'


class Kept(Dataset[Item]):
    """Items that are the same at every validation."""

    def __init__(self, drawn: Iterable[Item], patients: Iterable[Item] = ()) -> None:
        """Hold samples of drawn heads, and whole patients."""
        self._items = [*drawn, *(item | {REAL: torch.ones(1)} for item in patients)]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        """Return one item."""
        return self._items[index]


class ValidatedSegmentation(Segmentation):
    """Training of a network that is validated on whole patients too, as the app shows them to it.

    They have columns of their own in the log: ``validation_loss_real`` and
    ``validation_dice_real``, the mean over patients.
    """

    def validation_step(self, batch: Item, number: int) -> None:
        """Log loss and Dice of one drawn sample, or of one patient."""
        if REAL not in batch:
            super().validation_step(batch, number)
            return
        logits = sliding_window_inference(
            batch['image'],
            self.recipe.window,
            1,
            self,
            overlap=self.recipe.overlap,
            mode='gaussian',
        ).float()
        target = batch['target']
        self.log(f'validation_loss{REAL_ENDING}', self._loss(logits, target), batch_size=1)
        if self.recipe.classes:  # of a patient's only the brain is known
            logits, target = merge_classes(logits), (target > 0).long()
        score = dice_per_class(logits, target)[0]
        if not torch.isnan(score):
            self.log(f'validation_dice{REAL_ENDING}', score, batch_size=1)
