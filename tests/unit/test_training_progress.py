"""What a training says of itself while it goes on."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import torch

from msapp.training import progress
from msapp.training.progress import TellProgress


def follow(caplog, monkeypatch, losses, *, every_s, **limits):
    """Take a step of 2 s for each loss; return the lines."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    trainer = SimpleNamespace(global_step=10, current_epoch=2, **limits)
    tell = TellProgress(every_s)
    with caplog.at_level(logging.INFO, logger='msapp'):
        tell.on_train_start(trainer, None)
        for loss in losses:
            now[0] += 2
            trainer.global_step += 1
            tell.on_train_batch_end(trainer, None, {'loss': torch.tensor(loss)}, None, 0)
    return [record.getMessage() for record in caplog.records]


def test_steps_loss_and_time_left_are_told_every_so_often(caplog, monkeypatch):
    limits = {'max_steps': 100, 'max_epochs': -1}
    lines = follow(caplog, monkeypatch, [0.5, 0.7, 0.1, 0.3, 9.0], every_s=4, **limits)
    assert lines == [
        'training begins at step 10 of 100',
        'step 12 of 100, loss 0.600; 2 s a step, 0:02:56 left',
        'step 14 of 100, loss 0.200; 2 s a step, 0:02:52 left',
    ]


def test_a_training_by_epochs_tells_its_epoch(caplog, monkeypatch):
    limits = {'max_steps': -1, 'max_epochs': 20}
    lines = follow(caplog, monkeypatch, [0.5], every_s=2, **limits)
    assert lines[1] == 'step 11, epoch 3 of 20, loss 0.500; 2 s a step'
