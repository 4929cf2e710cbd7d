"""Pictures of a training: what the network is fed, and how it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from msapp.files import atomic_path
from msapp.training.data import Item

SHOWN_BATCHES = 6


class ShowFeed(lightning.Callback):
    """Draw the first batches as they reach the network, images above targets."""

    def __init__(self, path: Path) -> None:
        """Draw to this file."""
        self._path = path
        self._items: list[Item] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Item, batch_idx: int) -> None:
        """Keep the first batches, then draw them."""
        if len(self._items) >= SHOWN_BATCHES:
            return
        self._items.append({name: value[0].float().cpu() for name, value in batch.items()})
        if len(self._items) == SHOWN_BATCHES:
            draw_feed(self._items, self._path)


def draw_feed(items: list[Item], path: Path) -> None:
    """Draw samples: a column each; axial through the fullest slice; channels, then the target."""
    rows = items[0]['image'].shape[0] + 1
    figure = Figure(figsize=(3 * len(items), 3 * rows))
    axes = figure.subplots(rows, len(items), squeeze=False)
    for column, item in enumerate(items):
        target = item['target'][0].numpy()
        plane = int(np.argmax((target > 0).sum(axis=(0, 1))))
        pictures = [channel[:, :, plane] for channel in item['image'].numpy()]
        for axis, picture in zip(axes[:, column], [*pictures, target[:, :, plane]], strict=True):
            axis.imshow(picture.T, origin='lower', cmap='gray', vmin=0)
            axis.set_axis_off()
        axes[0, column].set_title(f'{np.count_nonzero(target)} voxels')
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=60, format='png')


def draw_curves(log: Path, path: Path) -> None:
    """Draw loss and Dice over the steps from the ``metrics.csv`` of all parts of a training.

    Nothing is drawn of a training that ended before anything was logged.
    """
    parts = [pd.read_csv(part) for part in sorted(log.glob('*/metrics.csv'))]
    if not parts:
        return
    table = pd.concat(parts).sort_values('step')
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    for name, axis in (('loss', left), ('dice', right)):
        for column in sorted(column for column in table if f'_{name}' in column):
            values = table[['step', column]].dropna()
            if column.startswith('train'):
                values[column] = values[column].rolling(20, min_periods=1).mean()
            marker = '' if column.startswith('train') else '.'
            axis.plot(values['step'], values[column], label=column, marker=marker)
        axis.set_xlabel('step')
        axis.set_ylabel(name)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format='png')
