"""Tables of single lesions: which were matched, and scores by lesion size."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from msapp.evaluation.lesionwise import Detection, harmonic
from msapp.evaluation.overlaps import Overlaps
from msapp.evaluation.voxel import ratio

# Limits of lesion size, mm3: about 2.7, 5.8 and 12.4 mm across, if the lesion is a ball.
SIZE_EDGES_MM3 = (0.0, 10.0, 100.0, 1000.0, float('inf'))


def match_table(overlaps: Overlaps, detection: Detection) -> pd.DataFrame:
    """List every lesion of both masks with its size, its overlap and the verdict on it.

    Returns
    -------
    pandas.DataFrame
        One line a lesion: ``mask`` (``reference`` or ``prediction``), ``lesion`` (its value in
        the label image), ``volume_mm3``, ``overlap_mm3``, ``overlap_fraction`` (0 to 1, of the
        lesion's own volume), ``partners`` (lesions of the other mask that share voxels with it)
        and ``detected`` (bool; of a predicted lesion: it stands for a reference lesion).

    Examples
    --------
    >>> from msapp.evaluation.lesionwise import detect_overlap
    >>> from msapp.evaluation.overlaps import pair_lesions
    >>> truth = np.zeros((4, 1, 1), bool); truth[:2] = True
    >>> pairs = pair_lesions(np.roll(truth, 1), truth, 2.0)
    >>> match_table(pairs, detect_overlap(pairs))[['mask', 'volume_mm3', 'overlap_mm3']].values
    array([['reference', 4.0, 2.0],
           ['prediction', 4.0, 2.0]], dtype=object)
    """
    sides = [
        ('reference', overlaps, detection.found),
        ('prediction', overlaps.swapped(), detection.true),
    ]
    tables = []
    for name, side, verdict in sides:
        covered, size = side.covered_voxels(), side.reference_voxels
        tables.append(
            pd.DataFrame(
                {
                    'mask': name,
                    'lesion': side.reference_labels,
                    'volume_mm3': size * side.voxel_mm3,
                    'overlap_mm3': covered * side.voxel_mm3,
                    'overlap_fraction': covered / size,
                    'partners': np.bincount(side.reference, minlength=size.size),
                    'detected': verdict.astype(bool),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def score_by_size(
    matches: pd.DataFrame, edges_mm3: Sequence[float] = SIZE_EDGES_MM3
) -> pd.DataFrame:
    """Score lesions by their size: recall by reference size, PPV by predicted size.

    Parameters
    ----------
    matches : pandas.DataFrame
        From `match_table`; those of many cases may be concatenated.
    edges_mm3 : sequence of float
        Limits of the bins, mm3, increasing; a bin holds its lower and not its upper limit.

    Returns
    -------
    pandas.DataFrame
        One line a bin: ``from_mm3``, ``to_mm3``, ``reference_count``, ``found_count``,
        ``recall``, ``predicted_count``, ``true_count``, ``ppv``, ``f1``. NaN where a bin has no
        lesion of the kind; F1 follows `harmonic`.

    Raises
    ------
    ValueError
        If there are fewer than two limits or they do not increase.
    """
    edges = np.asarray(edges_mm3, float)
    if edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f'edges_mm3 must be two or more increasing sizes, got {list(edges_mm3)}')
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = matches[(matches['volume_mm3'] >= low) & (matches['volume_mm3'] < high)]
        found = inside.loc[inside['mask'] == 'reference', 'detected']
        true = inside.loc[inside['mask'] == 'prediction', 'detected']
        recall, ppv = ratio(found.sum(), len(found)), ratio(true.sum(), len(true))
        rows.append(
            {
                'from_mm3': low,
                'to_mm3': high,
                'reference_count': len(found),
                'found_count': int(found.sum()),
                'recall': recall,
                'predicted_count': len(true),
                'true_count': int(true.sum()),
                'ppv': ppv,
                'f1': harmonic(recall, ppv),
            }
        )
    return pd.DataFrame(rows)
