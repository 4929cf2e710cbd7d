"""The choice of a threshold for probability maps: scores over a range of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from msapp.evaluation.cases import Case, load_case
from msapp.evaluation.lesionwise import ANIMA_ABOVE_MM3, count_lesions, detect_anima
from msapp.evaluation.overlaps import label_lesions, pair_labels
from msapp.evaluation.study import Study, for_each_case, make_reference, read_probability
from msapp.evaluation.voxel import Spacing, dice
from msapp.lesions.instances import crop_box


def sweep_thresholds(
    probability: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    thresholds: Sequence[float],
) -> pd.DataFrame:
    """Score a probability map at several thresholds.

    Parameters
    ----------
    probability : (I, J, K) ndarray
        0 to 1.
    reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    thresholds : sequence of float
        Values of a threshold and more are lesion; in (0, 1].

    Returns
    -------
    pandas.DataFrame
        One line a threshold: ``threshold``, ``dice``, ``anima_sensitivity``, ``anima_ppv``,
        ``anima_f1``, ``anima_false_count``, ``anima_false_mm3``. Without a true lesion all but
        the last two are NaN at every threshold; PPV is NaN too where nothing is marked.

    Raises
    ------
    ValueError
        If there is no threshold or one is out of range.
    """
    if not len(thresholds) or not all(0 < value <= 1 for value in thresholds):
        raise ValueError(f'thresholds must be in (0, 1], got {list(thresholds)}')
    voxel_mm3 = float(np.prod(spacing_mm))
    box = crop_box(probability >= min(thresholds), reference)
    probability, reference = probability[box], reference[box]
    truth = label_lesions(reference, voxel_mm3, above_mm3=ANIMA_ABOVE_MM3)
    rows = []
    for threshold in thresholds:
        mask = probability >= threshold
        labels = label_lesions(mask, voxel_mm3, above_mm3=ANIMA_ABOVE_MM3)
        overlaps = pair_labels(labels, truth, voxel_mm3)
        lesions = count_lesions(overlaps, detect_anima(overlaps))
        defined = lesions.reference_count > 0
        rows.append(
            {
                'threshold': float(threshold),
                'dice': dice(mask, reference) if reference.any() else float('nan'),
                'anima_sensitivity': lesions.sensitivity,
                'anima_ppv': lesions.ppv if defined else float('nan'),
                'anima_f1': lesions.f1,
                'anima_false_count': lesions.false_count,
                'anima_false_mm3': lesions.false_mm3,
            }
        )
    return pd.DataFrame(rows)


def sweep_study(
    cases: Sequence[Case],
    thresholds: Sequence[float],
    *,
    label: int | None = None,
    on_case: Callable[[str], None] | None = None,
) -> Study:
    """Score the probability maps of many cases at several thresholds.

    Parameters
    ----------
    cases : sequence of Case
    thresholds : sequence of float
    label : int, optional
        See `Scoring`.
    on_case : callable, optional
        Called with the name of each case before it is read.

    Returns
    -------
    Study
        ``table`` has the columns of `sweep_thresholds` after ``case``; ``lesions`` is empty.
    """

    def work(case: Case) -> tuple[pd.DataFrame, str]:
        images = load_case(case)
        probability = read_probability(case, images)
        reference = make_reference(images, label)
        table = sweep_thresholds(probability, reference, images.spacing_mm, thresholds)
        table.insert(0, 'case', case.name)
        return table, images.warning

    results, failures = for_each_case(cases, work, on_case)
    tables = [table for table, _ in results]
    return Study(
        table=pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
        lesions=pd.DataFrame(),
        failures=failures,
        warnings=tuple(warning for _, warning in results if warning),
    )


def summarize_sweep(table: pd.DataFrame) -> pd.DataFrame:
    """Average a sweep over its cases.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `sweep_study`.

    Returns
    -------
    pandas.DataFrame
        One line a threshold: its means, and the cases in which each is defined: ``n_dice`` and
        ``n_anima_f1`` (those with true lesions, the same at every threshold), and
        ``n_anima_ppv`` (those in which something was marked as well).
    """
    groups = table.drop(columns='case').groupby('threshold', sort=True)
    means = groups.mean().reset_index()
    means['n_dice'] = groups['dice'].count().to_numpy()
    means['n_anima_f1'] = groups['anima_f1'].count().to_numpy()
    means['n_anima_ppv'] = groups['anima_ppv'].count().to_numpy()
    return means


def best_thresholds(means: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return the best threshold for Dice and for lesion-wise F1, each with its mean.

    It was chosen on the same cases, so its score is optimistic for others.

    Parameters
    ----------
    means : pandas.DataFrame
        Of `summarize_sweep`, or one case's `sweep_thresholds`.

    Returns
    -------
    dict
        ``dice`` and ``anima_f1``, each (threshold, mean score); the lowest threshold of equally
        good ones. A score that is defined nowhere is left out.
    """
    best = {}
    for score in ('dice', 'anima_f1'):
        if means[score].notna().any():
            line = means.loc[means[score].idxmax()]
            best[score] = (float(line['threshold']), float(line[score]))
    return best
