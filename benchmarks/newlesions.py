"""New lesions between two visits: our methods against the manual masks of real pairs.

    python benchmarks/newlesions.py pairs --data DATA [--model ljub01=FOLDER ...]
        [--lesions lesions] [--reverse]
    python benchmarks/newlesions.py repeated --data DATA [--model ...] [--repeats 2]
        [--lesions lesions]
    python benchmarks/newlesions.py unchanged --data DATA [--model ...] [--repeats 2]
    python benchmarks/newlesions.py drawn --data DATA --heads CACHE [--model FOLDER]
        [--same-scanner 1] [--whole]

``DATA`` is the folder with ``ljubljana-longitudinal`` and ``ljubljana-mni``. ``--model``, and
``--hybrid`` for the hybrid method beside it, name the network that a patient is measured with,
which must not have seen it (``msapp-train newlesions FOLDER --fold ljub01 ...``); without a patient
it is that of all. Without ``--model`` it is msapp's own ``newlesions``, for all. Real pairs are
prepared once and kept in ``--cache``. Nothing is printed without its n.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torchio as tio
from newlesion_methods import SPACING_MM, Method, lesions_of_both, methods_of
from scipy.spatial.transform import Rotation

from msapp.evaluation.lesiontables import match_table, score_by_size
from msapp.evaluation.lesionwise import ANIMA_ABOVE_MM3, detect_anima, pair_anima, score_anima
from msapp.evaluation.overlaps import label_lesions
from msapp.evaluation.voxel import dice
from msapp.imaging.geometry import like, resample
from msapp.imaging.intensity import head_mask
from msapp.models.registry import load_spec
from msapp.synthesis.heads import Head
from msapp.synthesis.pairs import PairGenerator
from msapp.training.data import kept_path, load_image, make_pair_settings, read_bank
from msapp.training.pairs import pair_with_itself
from msapp.training.recipe import RealPair, load_recipe
from msapp.training.visits import Visits, bring_together, read_visits, swap_visits

SLICES_MM = (1.0, 3.0, 5.0)
# Voxels of 1 mm that hold a brain; patches are those of the training.
WHOLE = (160, 192, 160)
SEED = 1
# A head laid down again: its turn about each axis and its shift, and noise over the head's median.
AGAIN = AGAIN_DEG, AGAIN_MM, AGAIN_NOISE = 3.0, 3.0, 0.03


def main() -> None:
    """Print the tables of one command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', choices=COMMANDS)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--cache', type=Path, default=Path('.local/pairs'))
    parser.add_argument(
        '--model',
        action='append',
        default=[],
        help='FOLDER, or PATIENT=FOLDER; default: newlesions',
    )
    parser.add_argument('--hybrid', action='append', default=[], help='the same, hybrid method')
    parser.add_argument(
        '--lesions', help='model of lesions: masks of two visits, subtracted and classed'
    )
    parser.add_argument('--heads', type=Path)
    parser.add_argument('--samples', type=int, default=20, help='pairs drawn for each line')
    parser.add_argument('--same-scanner', type=float, help='drawn: share of pairs, 0 to 1')
    parser.add_argument(
        '--whole', action='store_true', help='drawn: whole heads, where nothing changed alone'
    )
    parser.add_argument('--repeats', type=int, default=2, help='copies of each visit')
    parser.add_argument('--reverse', action='store_true', help='pairs: what is gone, not what came')
    parser.add_argument(
        '--marked', action='store_true', help='what the network marks, neither confirmed nor grown'
    )
    parser.add_argument(
        '--unconfirmed', action='store_true', help='without the network that confirms'
    )
    parser.add_argument('--flips', action='store_true', help='average over the mirror image')
    parser.add_argument('--threads', type=int)
    given = parser.parse_args()
    given.model = given.model or ['newlesions']
    # Registrations on several threads differ a little from run to run.
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
    if given.threads:
        torch.set_num_threads(given.threads)
    COMMANDS[given.command](given)


# --- Real visits --------------------------------------------------------------------------------


def compare_pairs(given: argparse.Namespace) -> None:
    """Score the methods on the real pairs."""
    rows, matches = [], []
    pairs = [visits for visits in read_all(given) if visits.paired]
    if given.reverse:
        pairs = [swap_visits(visits) for visits in pairs]
    for visits in pairs:
        images, truth = visits.images.numpy(), visits.increase.numpy()
        for name, method in methods_of(visits.name, given).items():
            begin = time.perf_counter()
            mask = method(images, images[1] > 0)
            seconds = time.perf_counter() - begin
            rows.append(
                {'patient': visits.name, 'method': name, **score(mask, truth), 'seconds': seconds}
            )
            print(rows[-1], flush=True)
            overlaps = pair_anima(mask, truth, 1.0)
            matches.append(match_table(overlaps, detect_anima(overlaps)).assign(method=name))
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    columns = ['dice', 'f1', 'sensitivity', 'ppv', 'false_count', 'false_ml']
    print(table.groupby('method')[columns].agg(['mean', 'count']).round(3).to_string())
    for name, group in pd.concat(matches).groupby('method'):
        print(f'{name}, by size:')
        print(score_by_size(group).round(3).to_string(index=False))
    print(f'n = {len(pairs)} pairs.')


def read_all(given: argparse.Namespace) -> Iterator[Visits]:
    """Give the real visits of the recipe."""
    return read_visits(load_recipe('newlesions'), given.data, given.cache)


def score(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Score a mask by voxels and by the rules of Anima."""
    by_lesion = score_anima(mask, truth, SPACING_MM)
    return {
        'dice': dice(mask, truth) if truth.any() else float('nan'),
        'f1': by_lesion.f1,
        'sensitivity': by_lesion.sensitivity,
        'ppv': by_lesion.ppv,
        'false_count': by_lesion.false_count,
        'false_ml': by_lesion.false_mm3 / 1000,
        'true_count': by_lesion.reference_count,
    }


def count_unchanged(given: argparse.Namespace) -> None:
    """Count false lesions in a visit with itself, left misregistered, shaded and noised."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    shade = tio.Compose([tio.RandomBiasField(coefficients=0.2, order=2), tio.RandomNoise(std=0.03)])
    settings = make_pair_settings(load_recipe('newlesions'))
    rows = []
    for visits in read_all(given):
        whole = replace(settings, shape=tuple(visits.white.shape))
        for number in range(2 if visits.paired else 1):
            for _ in range(given.repeats):
                patch = pair_with_itself(visits, number, (0, 0, 0), rng, whole)
                images = torch.cat([shade(image[None]) for image in patch.images]).numpy()
                brain = patch.images[1].numpy() > 0
                rows += count_false(visits.name, number, images * brain, brain, given)
    show_false(rows, given)


def count_repeated(given: argparse.Namespace) -> None:
    """Count false lesions in a visit and a copy of it that the app's steps bring together.

    The copy is moved, resampled on the scanner's grid, shaded and noised; then both go through bias
    correction, brain extraction and registration. With a model of lesions, what each visit by
    itself has of them is compared, too.
    """
    recipe, rows, volumes = load_recipe('newlesions'), [], []
    for entry in (*recipe.data.pairs, *recipe.data.visits):
        paired = isinstance(entry, RealPair)
        files = [entry.previous, entry.current] if paired else [entry.image]
        for number, file in enumerate(files):
            image = load_image(given.data / file)
            for repeat in range(given.repeats):
                name = f'{entry.name}-{number + 1}-{repeat + 1}'
                kept = kept_path(given.cache / 'repeated', name, AGAIN, [given.data / file])
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    rng = np.random.default_rng([SEED, repeat, *entry.name.encode(), number])
                    bring_together(entry.name, [image, scan_again(image, rng)]).save(kept)
                images = Visits.load(kept).images.numpy()
                rows += count_false(entry.name, number, images, images[1] > 0, given)
                if given.lesions:
                    volumes += measure_loads(name, images, given.lesions)
    show_false(rows, given)
    if given.lesions:
        show_loads(volumes)


def measure_loads(name: str, images: np.ndarray, model: str) -> list[dict[str, object]]:
    """Return the volume of lesions at two visits, adapted to each of them and not adapted."""
    spec = load_spec(model)
    rows: list[dict[str, object]] = []
    for how, used in (('adapted', spec), ('not adapted', spec.model_copy(update={'prior': None}))):
        first, second = (mask.sum() / 1000 for mask in lesions_of_both(images, images[1] > 0, used))
        rows.append({'visit': name, 'how': how, 'first_ml': first, 'second_ml': second})
    return rows


def show_loads(rows: list[dict[str, object]]) -> None:
    """Print how much the volume of lesions differs between a visit and its copy."""
    table = pd.DataFrame(rows)
    difference = (table['second_ml'] - table['first_ml']).abs()
    table['percent'] = 100 * difference / table[['first_ml', 'second_ml']].mean(axis=1)
    print(table.round(2).to_string(index=False))
    print(table.groupby('how')['percent'].agg(['mean', 'median', 'max', 'count']).round(1))


def scan_again(image: nib.Nifti1Image, rng: np.random.Generator) -> nib.Nifti1Image:
    """Return what the scanner might make of the same head an hour later."""
    middle = nib.affines.apply_affine(image.affine, (np.array(image.shape) - 1) / 2)
    angles = rng.uniform(-AGAIN_DEG, AGAIN_DEG, 3)
    turn = Rotation.from_euler('xyz', angles, degrees=True).as_matrix()
    shift = rng.uniform(-AGAIN_MM, AGAIN_MM, 3)
    move = nib.affines.from_matvec(turn, middle - turn @ middle + shift)
    values = resample(image, image, move, order=3)
    head = head_mask(values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        shade = tio.RandomBiasField(coefficients=0.2, order=2)
        shaded = shade(torch.from_numpy(values[None])).numpy()[0]
    noise = rng.normal(0, AGAIN_NOISE * np.median(values[head]), (2, *values.shape))
    return like(np.hypot(shaded + noise[0], noise[1]), image)


def count_false(
    name: str, number: int, images: np.ndarray, brain: np.ndarray, given: argparse.Namespace
) -> list[dict[str, object]]:
    """Return what each method marks where nothing changed, and tell how far it is."""
    print(f'{name} {number + 1}', file=sys.stderr, flush=True)
    rows: list[dict[str, object]] = []
    for title, method in methods_of(name, given).items():
        scores = score(method(images, brain), np.zeros_like(brain))
        rows.append({'visit': f'{name} {number + 1}', 'method': title, **scores})
    return rows


def show_false(rows: list[dict[str, object]], given: argparse.Namespace) -> None:
    """Print false lesions by visit, and over all."""
    table = pd.DataFrame(rows)[['visit', 'method', 'false_count', 'false_ml']]
    print(table.groupby(['visit', 'method']).mean().unstack().round(2).to_string())
    counts = table.groupby('method')[['false_count', 'false_ml']].agg(['mean', 'median', 'count'])
    print(counts.round(3).to_string())
    print(f'n = {table["visit"].nunique()} visits, {given.repeats} copies each.')


# --- Drawn pairs --------------------------------------------------------------------------------


def score_drawn(given: argparse.Namespace) -> None:
    """Score the methods on drawn pairs of heads whose label maps were held out."""
    if given.hybrid:
        raise SystemExit('--hybrid: drawn patches hold no whole brain, which the method needs.')
    if given.heads is None:
        raise SystemExit('drawn needs --heads: OUT/cache/heads of a training by msapp-train.')
    if given.same_scanner is not None and not 0 <= given.same_scanner <= 1:
        raise SystemExit(f'--same-scanner {given.same_scanner:g}: must be between 0 and 1.')
    recipe = load_recipe('newlesions')
    heads = [Head.load(given.heads / f'{name}.npz') for name in recipe.data.held_out_heads]
    bank, settings = read_bank(recipe, given.data), make_pair_settings(recipe)
    assert bank is not None
    if given.same_scanner is not None:
        settings = replace(settings, same_scanner=given.same_scanner)
    if given.whole:
        settings = replace(settings, shape=WHOLE, centred='brain')
    methods: Mapping[str, Method] = methods_of('', given)
    rows, matches = [], []
    for thickness, unchanged in product(SLICES_MM, (True,) if given.whole else (False, True)):
        acquisition = replace(
            settings.acquisition, thick=float(thickness > 1), slice_mm=(thickness, thickness + 0.01)
        )
        drawn = replace(settings, stripped=1.0, unchanged=float(unchanged), acquisition=acquisition)
        generator = PairGenerator(heads, drawn, bank=bank)
        for images, truth in draw_pairs(generator, given.samples):
            for name, method in methods.items():
                mask = method(images, images[1] > 0)
                kind = {'method': name, 'slice_mm': thickness, 'unchanged': unchanged}
                rows.append(kind | score(mask, truth))
                overlaps = pair_anima(mask, truth, 1.0)
                found = match_table(overlaps, detect_anima(overlaps))
                matches.append(found.assign(method=name, unchanged=unchanged))
    table = pd.DataFrame(rows)
    kept = ['dice', 'f1', 'sensitivity', 'ppv', 'false_count']
    table['none_false'] = table['false_count'] == 0
    grouped = table.groupby(['method', 'slice_mm', 'unchanged'])
    # Where nothing changed there is no Dice and no F1, where nothing is marked no PPV.
    print(grouped[[*kept, 'none_false']].agg(['mean', 'count']).round(3).to_string())
    print(grouped['false_count'].agg(['median', 'size']).to_string())
    changed = pd.concat(matches).query('not unchanged')
    for name, group in changed.groupby('method'):
        print(f'{name}, by size:')
        print(score_by_size(group).round(3).to_string(index=False))
    print(
        f'{given.samples} pairs drawn for each line, of {len(heads)} label maps held out; '
        'n of a line is its size: pairs that show no change are left out where one was drawn.'
    )


def draw_pairs(generator: PairGenerator, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw pairs: both images and what increased; of pairs that change, those that show it."""
    rng = np.random.default_rng(SEED)
    unchanged = generator.settings.unchanged == 1
    for _ in range(count):
        pair = generator.draw_pair(rng)
        truth = pair.increase.numpy() > 0
        if unchanged or label_lesions(truth, 1.0, above_mm3=ANIMA_ABOVE_MM3).any():
            yield pair.images.numpy(), truth


COMMANDS = {
    'pairs': compare_pairs,
    'repeated': count_repeated,
    'unchanged': count_unchanged,
    'drawn': score_drawn,
}

if __name__ == '__main__':
    main()
