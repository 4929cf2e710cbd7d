"""Scanners of drawn visits: their slices."""

from __future__ import annotations

import torch

from msapp.synthesis.scanners import Slices, stack_of, unstack


def test_a_stack_of_slices_holds_their_means_and_comes_back_in_place():
    ramp = torch.arange(24.0).expand(4, 4, 24)
    slices = Slices(axis=2, thickness_mm=4.0)
    stack, padded = stack_of(ramp, 1.0, slices, 0)
    assert stack[0, 0, :3].tolist() == [1.5, 5.5, 9.5]
    back = unstack(stack, padded, 2, 0, 24)
    assert torch.allclose(back[..., 2:20], ramp[..., 2:20])
    moved, padded = stack_of(ramp, 1.0, slices, 2)
    assert moved[0, 0, 1].item() == 3.5
    assert torch.allclose(unstack(moved, padded, 2, 2, 24)[..., 4:18], ramp[..., 4:18])
