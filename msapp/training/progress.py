"""How far a training is, as log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning

PERIOD_S = 60.0

logger = logging.getLogger(__name__)


class TellProgress(lightning.Callback):
    """Log step, mean loss since the last line, time a step takes and time left, every minute."""

    def __init__(self, period_s: float = PERIOD_S) -> None:
        """Log once in so many seconds."""
        self._period_s = period_s
        self._losses: list[float] = []

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Start the clock."""
        self._begin = self._told = time.monotonic()
        self._first = trainer.global_step
        logger.info('training begins at step %d%s', self._first, _end(trainer))

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        _: lightning.LightningModule,
        outputs: Mapping[str, Any],
        *rest: Any,
    ) -> None:
        """Log if it is time to."""
        self._losses.append(float(outputs['loss']))
        now = time.monotonic()
        if now - self._told < self._period_s:
            return
        step_s = (now - self._begin) / max(1, trainer.global_step - self._first)
        logger.info(
            'step %d%s, loss %.3f; %.2g s a step%s',
            trainer.global_step,
            _end(trainer),
            sum(self._losses) / len(self._losses),
            step_s,
            _left(trainer, step_s),
        )
        self._told = now
        self._losses.clear()


def _end(trainer: lightning.Trainer) -> str:
    if trainer.max_steps > 0:
        return f' of {trainer.max_steps}'
    return f', epoch {trainer.current_epoch + 1} of {trainer.max_epochs}'


def _left(trainer: lightning.Trainer, step_s: float) -> str:
    if trainer.max_steps <= 0:
        return ''
    seconds = round((trainer.max_steps - trainer.global_step) * step_s)
    return f', {timedelta(seconds=seconds)} left'
