"""Networks for lesions on drawn heads: how good one is, and how common lesions are to it.

    python benchmarks/drawn.py heads --data DATA --heads CACHE [--model FOLDER] [--samples 20]
    python benchmarks/drawn.py prior --data DATA --heads CACHE [--model FOLDER] [--samples 240]

``heads`` draws from label maps that were held out, ``prior`` from those of the training; there
``FOLDER`` may be a model for new lesions, too: pairs of visits are drawn then. ``DATA`` is the
folder with ``lesion-priors``, ``CACHE`` that of prepared heads, which ``msapp-train`` keeps in
``OUT/cache/heads``. Nothing is printed without its n.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from msapp.evaluation.lesiontables import match_table, score_by_size
from msapp.evaluation.lesionwise import detect_anima, pair_anima, score_anima
from msapp.evaluation.voxel import dice
from msapp.inference.lesions import predict_lesions
from msapp.lesions.instances import label_instances
from msapp.models.registry import load_network, load_spec
from msapp.synthesis.generator import HeadGenerator
from msapp.synthesis.heads import Head
from msapp.training.data import Drawn, make_settings, read_bank
from msapp.training.fit import drawn_samples
from msapp.training.recipe import Recipe, load_recipe

CHANNELS = ('FLAIR', 'T1w')
# Of a model's task.
RECIPES = {'lesions': 'lesions', 'longitudinal': 'newlesions'}
MEASURES = ['dice', 'anima_f1', 'ppv', 'false_count']
SLICES_MM = (1.0, 3.0, 5.0)
# Sides of a drawn head, mm, and borders of the classes of load, ml.
WHOLE = (160, 192, 160)
LOADS_ML = (-1, 0, 2, 10, 30, 1000)
SEED = 1


def main() -> None:
    """Print the tables of one command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', choices=COMMANDS)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--heads', type=Path, required=True)
    parser.add_argument('--model', default='lesions')
    parser.add_argument('--samples', type=int, default=20, help='drawn for each line')
    parser.add_argument('--flips', action='store_true', help='average over the mirror image')
    parser.add_argument('--threads', type=int)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    COMMANDS[given.command](given)


def score_heads(given: argparse.Namespace) -> None:
    """Score a network for lesions on drawn heads whose label maps it never saw."""
    spec, recipe = load_spec(given.model), load_recipe('lesions')
    network = load_network(spec)
    heads = read_heads(given, recipe, held_out=True)
    whole = replace(make_settings(recipe), shape=WHOLE, centred='brain', missing=0.0, partial=0.0)
    bank = read_bank(recipe, given.data)
    lines, matches = [], []
    for thickness in SLICES_MM:
        thick = float(thickness > min(SLICES_MM))
        slices = (thickness, thickness + 0.01)
        acquisition = replace(whole.acquisition, thick=thick, slice_mm=slices)
        drawing = Drawn(
            HeadGenerator(heads, replace(whole, acquisition=acquisition), bank=bank), recipe
        )
        rng = np.random.default_rng(SEED)
        for _ in range(given.samples):
            item = drawing.draw(rng)
            images = dict(zip(CHANNELS, item['image'].numpy(), strict=True))
            found = predict_lesions(images, images['FLAIR'] != 0, network, spec, flips=given.flips)
            mask = label_instances(found >= spec.threshold, 1.0, minimum_mm3=spec.minimum_mm3) > 0
            truth = item['target'][0].numpy() > 0
            overlaps = pair_anima(mask, truth, 1.0)
            matches.append(match_table(overlaps, detect_anima(overlaps)))
            by_lesion = score_anima(mask, truth, (1.0, 1.0, 1.0))
            lines.append(
                {
                    'slice_mm': thickness,
                    'load_ml': pd.cut([truth.sum() / 1000], LOADS_ML)[0],
                    'dice': dice(mask, truth) if truth.any() else float('nan'),
                    'anima_f1': by_lesion.f1,
                    'ppv': by_lesion.ppv,
                    'false_count': by_lesion.false_count,
                }
            )
    table = pd.DataFrame(lines)
    for key in ('slice_mm', 'load_ml'):
        grouped = table.groupby(key, observed=True)[MEASURES]
        # A head without lesion has no Dice and no F1, one without a mark no PPV.
        print(grouped.agg(['mean', 'count']).round(3).to_string())
    print(table[MEASURES].agg(['mean', 'count']).round(3).to_string())
    print(score_by_size(pd.concat(matches)).round(3).to_string(index=False))
    print(f'n = {len(table)} drawn heads of {len(heads)} label maps that were held out.')


def measure_prior(given: argparse.Namespace) -> None:
    """Print how common lesions are, to the network, in what it has learnt from."""
    spec = load_spec(given.model)
    recipe, network = load_recipe(RECIPES[spec.task]), load_network(spec)
    heads = read_heads(given, recipe, held_out=False)
    drawing = drawn_samples(recipe, heads, read_bank(recipe, given.data))
    rng, rows = np.random.default_rng(SEED), []
    for _ in range(given.samples):
        item = drawing.draw(rng)
        brain = (item['image'] != 0).any(dim=0)
        with torch.no_grad():
            found = torch.sigmoid(network(item['image'][None]))[0, 0]
        shares = (found[brain].sum(), item['target'][0][brain].sum(), brain.sum())
        rows.append([float(value) for value in shares])
    said, true, voxels = np.transpose(rows)
    error = np.std(said / voxels) / len(rows) ** 0.5
    mean, share = said.sum() / voxels.sum(), true.sum() / voxels.sum()
    print(f'Mean probability in the brain: {mean:.4f}, standard error {error:.4f}.')
    print(f'Share of lesion that is drawn: {share:.4f}.')
    print(f'n = {len(rows)} patches of {len(heads)} heads.')


def read_heads(given: argparse.Namespace, recipe: Recipe, *, held_out: bool) -> list[Head]:
    """Read the prepared heads that were held out of the training, or the others."""
    files = sorted(given.heads.glob('*.npz'))
    chosen = [file for file in files if (file.stem in recipe.data.held_out_heads) == held_out]
    if not chosen:
        raise SystemExit(
            f'--heads {given.heads}: none there. It is OUT/cache/heads of msapp-train.'
        )
    return [Head.load(file) for file in chosen]


COMMANDS = {'heads': score_heads, 'prior': measure_prior}

if __name__ == '__main__':
    main()
