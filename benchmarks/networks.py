"""The networks against manual masks of real patients.

    python benchmarks/networks.py brain --data DATA [--model ljub01=FOLDER ...] [--anatomy template]
    python benchmarks/networks.py lesions --data DATA [--model cs07=FOLDER --model cs19=FOLDER]
    python benchmarks/networks.py uncertainty --data DATA [--model ...] [--samples 20]

``DATA`` is the folder with ``heads-t1``, ``ljubljana-longitudinal`` and ``ljubljana-mni``. Models
are those of msapp where none is given. Nothing is printed without its n.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from scipy import special

from msapp.errors import InputError
from msapp.evaluation.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability_curve,
)
from msapp.evaluation.lesionwise import ANIMA_ABOVE_MM3, detect_anima, score_anima
from msapp.evaluation.overlaps import label_lesions, pair_labels
from msapp.evaluation.thresholds import sweep_thresholds
from msapp.evaluation.voxel import dice, hausdorff95_mm
from msapp.imaging import geometry
from msapp.imaging.brain import BrainExtraction, brain_from_zones, extract_brain, mask_on_grid
from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, correct_bias, normalize
from msapp.inference.anatomy import predict_zones
from msapp.inference.lesions import predict_lesions, sample_lesions
from msapp.lesions import threshold
from msapp.lesions.instances import label_instances
from msapp.lesions.uncertainty import MEASURES, measure_lesion_uncertainty, retention_curve
from msapp.models.registry import ModelSpec, load_network, load_spec

# Its manual brain mask is too large (see the README of the data).
WRONG_MASK = 'sub-ljub19'
LJUBLJANA = 'ljubljana-longitudinal'
LEAST_BRAIN_DICE = 0.95
CASES = ('cs07', 'cs19')
INPUTS = {'both': ('FLAIR', 'T1w'), 'FLAIR': ('FLAIR',), 'T1w': ('T1w',)}
TEMPLATE = 'template'
THRESHOLDS = [round(value, 2) for value in np.arange(0.1, 0.95, 0.1)]
SEED = 1
# Probability from which a voxel is possibly lesion.
POSSIBLE = 0.05
SET_ASIDE = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)


def main() -> None:
    """Print the tables of one command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('command', choices=COMMANDS)
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--model', action='append', default=[], help='FOLDER, or PERSON=FOLDER')
    parser.add_argument('--anatomy', default='anatomy', help='model, or template')
    parser.add_argument('--samples', type=int, default=20, help='passes with dropout')
    parser.add_argument('--flips', action='store_true', help='average over the mirror image')
    parser.add_argument('--threads', type=int)
    parser.add_argument('--device', default='cpu', help='as torch names it: cpu, cuda')
    given = parser.parse_args()
    # Registrations on several threads differ a little from run to run.
    os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'] = '1'
    if given.threads:
        torch.set_num_threads(given.threads)
    COMMANDS[given.command](given)


@contextmanager
def measured(device: str) -> Iterator[dict[str, object]]:
    """Fill in seconds and peak memory, GB, of what is done: of the process so far, and on a GPU."""
    on_gpu = torch.device(device).type == 'cuda'
    if on_gpu:
        torch.cuda.init()  # without it there are no statistics yet
        torch.cuda.reset_peak_memory_stats(device)
    row: dict[str, object] = {}
    begin = time.perf_counter()
    yield row
    row['seconds'] = time.perf_counter() - begin
    row['process_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    row['gpu_gb'] = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else math.nan


def chosen_model(person: str, given: argparse.Namespace, *, default: str) -> str:
    """Return the name or folder of the model that a person is measured with."""
    chosen = dict(item.split('=', 1) if '=' in item else ('', item) for item in given.model)
    return chosen.get(person) or chosen.get('') or default


# --- Brain masks --------------------------------------------------------------------------------


def heads_with_masks(
    data: Path,
) -> Iterator[tuple[str, nib.Nifti1Image, nib.Nifti1Image, np.ndarray]]:
    """Give each head: its name, image, manual mask, and the transform from mask to image."""
    for path in sorted((data / 'heads-t1').glob('mass*_T1w.nii.gz')):
        name = path.name.partition('_')[0]
        mask = nib.load(path.with_name(f'{name}_desc-brain_source.nii.gz'))
        yield f'{name} T1w', nib.load(path), mask, np.eye(4)
    root = data / LJUBLJANA
    for path in sorted(root.glob('sub-*/ses-*/anat/*.nii.gz')):
        participant, session, contrast = path.name.removesuffix('.nii.gz').split('_')
        if participant == WRONG_MASK:
            continue
        folder = root / 'derivatives' / 'manual' / participant / session / 'anat'
        mask = nib.load(folder / f'{participant}_{session}_space-FLAIR_desc-brain_mask.nii.gz')
        transform = np.eye(4)
        if contrast != 'FLAIR':
            name = f'{participant}_{session}_from-{contrast}_to-FLAIR_mode-image_xfm.txt'
            transform = geometry.load_transform(folder / name)
        yield f'{participant} {session} {contrast}', nib.load(path), mask, transform


def compare_brains(given: argparse.Namespace) -> None:
    """Compare brain masks on the grid of the manual mask."""
    finders: dict[str, Callable[[nib.Nifti1Image], nib.Nifti1Image]] = {}
    rows, failed = [], 0
    for name, image, manual, to_image in heads_with_masks(given.data):
        corrected = correct_bias(nib.as_closest_canonical(image))
        person = name.split()[0].removeprefix('sub-')
        model = chosen_model(person, given, default=given.anatomy)
        if model not in finders:
            finders[model] = brain_finder(model, given.device)
        try:
            with measured(given.device) as cost:
                brain = finders[model](corrected)
        except InputError as error:
            print(f'{name}: {error}', flush=True)
            failed += 1
            continue
        found, true = mask_on_grid(brain, manual, to_image), np.asanyarray(manual.dataobj) > 0
        ml = geometry.voxel_volume_mm3(manual) / 1000
        rows.append(
            {
                'image': name,
                'model': model,
                'dice': dice(found, true),
                'hd95_mm': hausdorff95_mm(found, true, geometry.spacing_mm(manual)),
                'found_ml': found.sum() * ml,
                'manual_ml': true.sum() * ml,
                **cost,
            }
        )
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.round(3).to_string(index=False))
    print(
        f'Brain Dice of {", ".join(finders)}: mean {table["dice"].mean():.3f}, lowest '
        f'{table["dice"].min():.3f}, {(table["dice"] >= LEAST_BRAIN_DICE).sum()} at '
        f'{LEAST_BRAIN_DICE:g} or more, n = {len(table)} images; none was found in {failed} more.'
    )


def brain_finder(anatomy: str, device: str) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    """Return what finds the brain, as a probability: a model's zones, or the template."""
    if anatomy == TEMPLATE:
        return lambda image: extract_brain(image).brain
    spec = load_spec(anatomy)
    network = load_network(spec)

    def find(image: nib.Nifti1Image) -> nib.Nifti1Image:
        zones = predict_zones(image, network, spec, device=device)
        return geometry.like(1 - np.asanyarray(zones.dataobj)[..., 0], zones)

    return find


# --- Lesions of real patients -------------------------------------------------------------------


def compare_lesions(given: argparse.Namespace) -> None:
    """Score lesions of the two patients with manual masks, by what the network is given."""
    scores, sweeps, kept = [], [], {}
    for name in CASES:
        images, truth, brain = read_patient(given.data, name, given.anatomy)
        spec = without_needs(model_of(name, given))
        lesions = load_network(spec)
        inside = np.asanyarray(images['FLAIR'].dataobj) != 0
        scaled = scale(images, brain, inside)
        mm = geometry.spacing_mm(images['FLAIR'])
        for title, channels in INPUTS.items():
            if not {item.name for item in spec.channels}.issuperset(channels):
                continue
            chosen = {key: scaled[key] for key in channels}
            with measured(given.device) as cost:
                probability = predict_lesions(
                    chosen, inside, lesions, spec, flips=given.flips, device=given.device
                )
            mask = masked(probability, images['FLAIR'], spec)
            scores.append(score(name, title, mask, truth, mm) | cost)
            kept[name, title] = probability[inside], truth[inside], spec.temperature
            sweep = sweep_thresholds(probability, truth, mm, THRESHOLDS)
            sweeps.append(sweep.assign(patient=name, input=title))
            print(scores[-1], flush=True)
        white, grey = (
            geometry.resample(image, images['FLAIR'])
            for image in (brain.white_matter, brain.grey_matter)
        )
        baseline = threshold.find_hyperintensities(
            scaled['FLAIR'], inside, mm, white_matter=white, grey_matter=grey
        )
        scores.append(score(name, threshold.NAME, baseline.mask, truth, mm))
    print(pd.DataFrame(scores).round(3).to_string(index=False))
    table = pd.concat(sweeps)[['patient', 'input', 'threshold', 'dice', 'anima_f1']]
    print(table.pivot_table(index='threshold', columns=['patient', 'input']).round(3).to_string())
    print_calibration(kept)
    print(f'n = {len(CASES)} patients.')


def masked(probability: np.ndarray, image: nib.Nifti1Image, spec: ModelSpec) -> np.ndarray:
    """Return the mask of lesions, as the app takes it from the probability."""
    mm3 = geometry.voxel_volume_mm3(image)
    labels = label_instances(probability >= spec.threshold, mm3, minimum_mm3=spec.minimum_mm3)
    return labels > 0


def without_needs(spec: ModelSpec) -> ModelSpec:
    """Return a model that may be measured on any of its channels alone."""
    channels = (channel.model_copy(update={'may_be_missing': True}) for channel in spec.channels)
    return spec.model_copy(update={'channels': tuple(channels)})


def model_of(name: str, given: argparse.Namespace) -> ModelSpec:
    """Return the model that a patient's lesions are measured with."""
    return load_spec(chosen_model(name, given, default='lesions'))


def logits_of(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Return the adapted logits that the app divides by the temperature.

    They go as low as float32 does: most of a brain is below 1e-6, and would be rounded up to it by
    `msapp.evaluation.calibration.to_logits`.
    """
    limits = np.finfo(np.float32)
    held = np.clip(probability.astype(float), limits.tiny, 1 - limits.epsneg)
    logits: np.ndarray = special.logit(held) * temperature
    return logits


def print_calibration(kept: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, float]]) -> None:
    """Print calibration in the brain, as shipped and at the temperature of the other patient.

    The app divides adapted logits by the temperature, and so does the fit.
    """
    rows, curves = [], []
    for (name, title), (probability, truth, shipped) in kept.items():
        other, other_truth, others = kept[next(case for case in CASES if case != name), title]
        try:
            temperature = fit_temperature(logits_of(other, others), other_truth)
        except ValueError as error:
            print(f'{name}, {title}: no temperature ({error})')
            continue
        fitted = apply_temperature(logits_of(probability, shipped), temperature)
        # Nearly all of a brain is easy: what is possibly lesion is looked at by itself.
        possible = np.maximum(probability, fitted) >= POSSIBLE
        row = {'patient': name, 'input': title, 'shipped': shipped, 'fitted': temperature}
        for how, said in (('shipped', probability), ('fitted', fitted)):
            row[f'ece_{how}'] = expected_calibration_error(said, truth)
            row[f'ece_possible_{how}'] = expected_calibration_error(said, truth, inside=possible)
            curve = reliability_curve(said, truth, bins=10)
            columns = {'said': curve.said, 'seen': curve.seen, 'voxels': curve.count}
            curves.append(pd.DataFrame(columns).assign(patient=name, input=title, temperature=how))
        rows.append(row)
    print('Temperature as shipped, and as fitted on the other patient.')
    print(pd.DataFrame(rows).round(4).to_string(index=False))
    both = pd.concat(curves)
    print(both[both['input'] == next(iter(both['input']))].round(3).to_string(index=False))


def compare_uncertainty(given: argparse.Namespace) -> None:
    """Set uncertain lesions aside: what it does to the lesion-wise F1."""
    tables, missed = [], 0
    for name in CASES:
        images, truth, brain = read_patient(given.data, name, given.anatomy)
        spec = model_of(name, given)
        network = load_network(spec)
        inside = np.asanyarray(images['FLAIR'].dataobj) != 0
        scaled = scale(images, brain, inside)
        options = {'flips': given.flips, 'device': given.device}
        probability = predict_lesions(scaled, inside, network, spec, **options)
        with measured(given.device) as cost:
            maps = sample_lesions(
                scaled, inside, network, spec, samples=given.samples, seed=SEED, **options
            )
        print(name, cost, flush=True)
        found = masked(probability, images['FLAIR'], spec)
        mm3 = float(np.prod(geometry.spacing_mm(images['FLAIR'])))
        labels, reference = (
            label_lesions(mask, mm3, above_mm3=ANIMA_ABOVE_MM3) for mask in (found, truth)
        )
        overlaps = pair_labels(labels, reference, mm3)
        detection = detect_anima(overlaps)
        lesions = measure_lesion_uncertainty(labels, maps)
        lesions = lesions.set_index('lesion').loc[overlaps.predicted_labels]
        tables.append(lesions.assign(patient=name, true=detection.true))
        missed += int((~detection.found).sum())
    table = pd.concat(tables)
    for measure in MEASURES:
        if table[f'{measure}_mean'].isna().all():
            continue
        curve = retention_curve(
            table[f'{measure}_log_sum'].to_numpy(), table['true'].to_numpy(), missed
        )
        steps = np.searchsorted(curve['set_aside'], SET_ASIDE)
        print(f'Set aside by {measure} (sum of logarithms, Nair et al.):')
        print(curve.iloc[np.minimum(steps, len(curve) - 1)].round(3).to_string(index=False))
    print(f'n = {len(CASES)} patients, {len(table)} predicted lesions, {missed} missed.')


def read_patient(
    data: Path, name: str, anatomy: str
) -> tuple[dict[str, nib.Nifti1Image], np.ndarray, BrainExtraction]:
    """Read the images of a patient, its lesions and its brain."""
    folder = data / 'ljubljana-mni' / f'sub-{name}'
    stem = f'sub-{name}_space-MNI152'
    images = {
        key: nib.as_closest_canonical(nib.load(folder / f'{stem}_{key}.nii.gz'))
        for key in ('FLAIR', 'T1w')
    }
    mask = nib.as_closest_canonical(nib.load(folder / f'{stem}_label-L_mask.nii.gz'))
    if anatomy == TEMPLATE:
        brain = extract_brain(images['FLAIR'])
    else:
        spec = load_spec(anatomy)
        zones = predict_zones(images['FLAIR'], load_network(spec), spec)
        brain = brain_from_zones(images['FLAIR'], zones)
    return images, np.asanyarray(mask.dataobj) > 0, brain


def scale(
    images: dict[str, nib.Nifti1Image], brain: BrainExtraction, inside: np.ndarray
) -> dict[str, np.ndarray]:
    """Scale white matter's mode to 1, as the app does."""
    certain = geometry.resample(brain.white_matter, images['FLAIR']) > CERTAIN_WHITE_MATTER
    return {
        key: normalize(np.asanyarray(image.dataobj, np.float32), certain & inside)
        for key, image in images.items()
    }


def score(
    name: str, title: str, mask: np.ndarray, truth: np.ndarray, mm: tuple[float, float, float]
) -> dict[str, object]:
    """Return one line of the table."""
    by_lesion = score_anima(mask, truth, mm)
    ml = float(np.prod(mm)) / 1000
    return {
        'patient': name,
        'input': title,
        'dice': dice(mask, truth),
        'anima_f1': by_lesion.f1,
        'sensitivity': by_lesion.sensitivity,
        'ppv': by_lesion.ppv,
        'found_ml': mask.sum() * ml,
        'true_ml': truth.sum() * ml,
    }


COMMANDS = {
    'brain': compare_brains,
    'lesions': compare_lesions,
    'uncertainty': compare_uncertainty,
}

if __name__ == '__main__':
    main()
