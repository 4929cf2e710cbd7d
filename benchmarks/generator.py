"""How many heads, or pairs of visits, a second are drawn for training.

    python benchmarks/generator.py anatomy --heads OUT/cache/heads --data DATA [--device cuda]

``OUT`` is the output folder of a training (``msapp-train``), which keeps the prepared heads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from msapp.synthesis.heads import Head
from msapp.training.data import read_bank
from msapp.training.fit import drawn_samples
from msapp.training.recipe import load_recipe

WARM_UP = 2


def main() -> None:
    """Print samples a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipe')
    parser.add_argument('--heads', type=Path, required=True)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--samples', type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = load_recipe(given.recipe)
    heads = [
        Head.load(path)
        for path in sorted(given.heads.glob('*.npz'))
        if path.stem not in recipe.data.held_out_heads
    ]
    drawn = drawn_samples(recipe, heads, read_bank(recipe, given.data), given.device)
    rng = np.random.default_rng(0)
    for _ in range(WARM_UP):
        drawn.draw(rng)
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(given.samples):
        item = drawn.draw(rng)
        item['image'].sum().item()  # waits for a GPU
    wall = (time.perf_counter() - start) / given.samples
    print(
        f'{given.recipe}: {tuple(item["image"].shape)} on {given.device}: {wall:.3f} s wall, '
        f'{(time.process_time() - cpu) / given.samples:.3f} s CPU a sample; '
        f'n = {given.samples} samples of {len(heads)} heads'
    )


if __name__ == '__main__':
    main()
