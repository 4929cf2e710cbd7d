"""Scores by lesion: which lesions were found, which predicted ones are true, and of what size.

Three rules decide what "found" means:

- **Anima** (MSSEG-2016 and MSSEG-2): enough of the lesion is covered, by predicted lesions that
  do not reach too far beyond all reference lesions;
- **any overlap** (WMH 2017, ISBI 2015): one shared voxel is enough;
- **ivadomed**: a tenth of a reference lesion is covered; a predicted lesion is false only if it
  touches none.

Undefined is NaN: the sensitivity without reference lesions, the PPV without predicted ones, and F1
without reference lesions. F1 is 0, not NaN, where there are lesions and nothing is predicted, or a
method that finds nothing would drop out of the mean. `score_anima` and `score_ivadomed` add the
conventions of their rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from msapp.evaluation.overlaps import Overlaps, pair_lesions
from msapp.evaluation.voxel import Spacing, ratio

# animaSegPerfAnalyzer's defaults: lesions up to 3 mm3 do not count; at least the share alpha of a
# lesion is covered; predicted lesions lie outside by at most beta, among those that make up the
# share gamma of the covered part.
ANIMA_ABOVE_MM3 = 3.0
ANIMA_ALPHA = 0.10
ANIMA_BETA = 0.70
ANIMA_GAMMA = 0.65
IVADOMED_COVERED = 0.10


@dataclass(frozen=True)
class Detection:
    """What a rule says of each lesion.

    Attributes
    ----------
    found : (R,) ndarray of bool
        Reference lesions that were detected.
    true : (P,) ndarray of bool
        Predicted lesions that stand for a reference lesion.
    """

    found: np.ndarray
    true: np.ndarray


@dataclass(frozen=True)
class LesionScores:
    """Counts of lesions, and what follows from them.

    Attributes
    ----------
    reference_count, predicted_count : int
        Lesions that count (above the rule's size).
    found_count : int
        Reference lesions that were detected.
    false_count : int
        Predicted lesions that stand for no reference lesion.
    false_mm3 : float
        Their volume, mm3.
    sensitivity : float
        Found over reference lesions (SensL, LTPR, recall), 0 to 1.
    ppv : float
        True over predicted lesions (PPVL, precision, 1 - LFPR of ISBI 2015), 0 to 1.
    f1 : float
        Harmonic mean of the two, 0 to 1.
    """

    reference_count: int
    predicted_count: int
    found_count: int
    false_count: int
    false_mm3: float
    sensitivity: float
    ppv: float
    f1: float


def detect_anima(
    overlaps: Overlaps,
    *,
    alpha: float = ANIMA_ALPHA,
    beta: float = ANIMA_BETA,
    gamma: float = ANIMA_GAMMA,
) -> Detection:
    """Judge lesions by the rule of ``animaSegPerfAnalyzer``.

    A reference lesion is found if (1) more than ``alpha`` of it is covered and (2) the predicted
    lesions on it, taken by decreasing overlap until they make up ``gamma`` of the covered part,
    each have at most ``beta`` of their own volume outside every reference lesion. A predicted
    lesion is true by the same test with both sides swapped.

    Parameters
    ----------
    overlaps : Overlaps
        Of lesions that share faces and are larger than 3 mm3: see `pair_anima`.
    alpha, beta, gamma : float
        Shares, 0 to 1.

    Returns
    -------
    Detection

    Notes
    -----
    Equal overlaps come in the order of their outside share, largest first, so that the result
    depends on no numbering. Anima's source also ends the walk after as many predicted lesions as
    there are reference lesions, plus one, whatever ``gamma`` says; this is not repeated here.

    References
    ----------
    O. Commowick et al., Sci. Rep. 2018;8:13650; ``animaSegPerfCAnalyzer.cxx`` of Anima.
    """
    limits = (alpha, beta, gamma)
    return Detection(
        _found_by_anima(overlaps, *limits), _found_by_anima(overlaps.swapped(), *limits)
    )


def _found_by_anima(overlaps: Overlaps, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """Tell which reference lesions pass both tests of Anima, (R,) ndarray of bool."""
    sizes = overlaps.predicted_voxels
    outside = (sizes - overlaps.swapped().covered_voxels()) / sizes
    covered = overlaps.covered_voxels()
    order = np.lexsort((-outside[overlaps.predicted], -overlaps.voxels, overlaps.reference))
    predicted, lesion, voxels = (
        column[order] for column in (overlaps.predicted, overlaps.reference, overlaps.voxels)
    )
    before = np.cumsum(voxels) - voxels
    before -= before[np.searchsorted(lesion, lesion)]
    spoils = (before / covered[lesion] < gamma) & (outside[predicted] > beta)
    spoiled = np.zeros(covered.size, bool)
    spoiled[lesion[spoils]] = True
    return (covered / overlaps.reference_voxels > alpha) & ~spoiled


def detect_overlap(overlaps: Overlaps, *, covered: float = 0.0) -> Detection:
    """Judge lesions by their overlap alone.

    Parameters
    ----------
    overlaps : Overlaps
    covered : float
        Share of a reference lesion that must be covered, 0 to 1; 0 asks for one voxel. A
        predicted lesion is true with one voxel.

    Returns
    -------
    Detection
    """
    touched = overlaps.covered_voxels()
    true = overlaps.swapped().covered_voxels() > 0
    enough = (touched > 0) & (touched / overlaps.reference_voxels >= covered)
    return Detection(enough, true)


def pair_anima(prediction: np.ndarray, reference: np.ndarray, voxel_mm3: float) -> Overlaps:
    """Pair the lesions that count for Anima: face-connected, larger than 3 mm3.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    voxel_mm3 : float
        Volume of a voxel, mm3.
    """
    return pair_lesions(prediction, reference, voxel_mm3, connectivity=6, above_mm3=ANIMA_ABOVE_MM3)


def count_lesions(overlaps: Overlaps, detection: Detection) -> LesionScores:
    """Turn the verdicts on lesions into scores.

    Returns
    -------
    LesionScores
        Without reference lesions, sensitivity and F1 are NaN, and the PPV is 0; without predicted
        lesions the PPV is NaN and F1 is 0; without both, all three are NaN.
    """
    present, predicted = detection.found.size, detection.true.size
    sensitivity = ratio(np.count_nonzero(detection.found), present)
    ppv = ratio(np.count_nonzero(detection.true), predicted)
    return LesionScores(
        reference_count=present,
        predicted_count=predicted,
        found_count=int(np.count_nonzero(detection.found)),
        false_count=int(np.count_nonzero(~detection.true)),
        false_mm3=float(overlaps.predicted_voxels[~detection.true].sum() * overlaps.voxel_mm3),
        sensitivity=sensitivity,
        ppv=ppv,
        f1=harmonic(sensitivity, ppv),
    )


def harmonic(sensitivity: float, ppv: float) -> float:
    """Return F1: NaN where the sensitivity is (no reference lesion), 0 where nothing was found.

    Examples
    --------
    >>> harmonic(1.0, 0.5), harmonic(0.0, float('nan')), harmonic(float('nan'), 0.0)
    (0.6666666666666666, 0.0, nan)
    """
    if np.isnan(sensitivity):
        return float('nan')
    if np.isnan(ppv) or sensitivity + ppv == 0:
        return 0.0
    return 2 * sensitivity * ppv / (sensitivity + ppv)


def score_anima(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> LesionScores:
    """Score lesions as MSSEG-2016 and MSSEG-2 did: see `detect_anima`.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    LesionScores
        If the reference is empty, or all its lesions have at most 3 mm3, only the number and
        volume of false lesions and the counts are defined.

    Examples
    --------
    >>> truth = np.zeros((8, 8, 8), bool); truth[2:4, 2:4, 2:4] = True
    >>> score_anima(truth, truth, (1, 1, 1)).f1
    1.0
    """
    overlaps = pair_anima(prediction, reference, float(np.prod(spacing_mm)))
    scores = count_lesions(overlaps, detect_anima(overlaps))
    return scores if scores.reference_count else replace(scores, ppv=float('nan'))


def score_any_overlap(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, *, connectivity: int = 26
) -> LesionScores:
    """Score lesions that share at least one voxel, whatever their size.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    connectivity : {6, 18, 26}
        26 as WMH 2017; 18 as ISBI 2015.

    Returns
    -------
    LesionScores
        With NaN for what is undefined; the WMH challenge's own numbers for empty masks are in
        `msapp.evaluation.challenges.score_wmh2017`.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    overlaps = pair_lesions(prediction, reference, voxel_mm3, connectivity=connectivity)
    return count_lesions(overlaps, detect_overlap(overlaps))


def score_ivadomed(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    *,
    covered: float = IVADOMED_COVERED,
    connectivity: int = 6,
) -> LesionScores:
    """Score lesions by the rule of ivadomed and of the spinal-cord lesion models built on it.

    A reference lesion is found if at least a tenth of it is covered; a predicted lesion is false
    only if it shares no voxel with the reference. PPV and F1 count the *found reference* lesions
    as true positives, so a large lesion found in two parts counts once.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    covered : float
        Share of a reference lesion that must be covered, 0 to 1.
    connectivity : {6, 18, 26}
        6 in the evaluation of the cord lesion models; 18 in ivadomed's own.

    Returns
    -------
    LesionScores
        By the convention of the rule, all three scores are 1 if both masks are empty and 0 if
        one is.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    overlaps = pair_lesions(prediction, reference, voxel_mm3, connectivity=connectivity)
    detection = detect_overlap(overlaps, covered=covered)
    plain = count_lesions(overlaps, detection)
    found, false = plain.found_count, plain.false_count
    missed = plain.reference_count - found
    if not (plain.reference_count and plain.predicted_count):
        value = float(plain.reference_count == plain.predicted_count)
        return replace(plain, sensitivity=value, ppv=value, f1=value)
    return replace(
        plain,
        sensitivity=ratio(found, plain.reference_count),
        # Without either, predicted lesions touch lesions but cover too little: nothing was found.
        ppv=ratio(found, found + false) if found + false else 0.0,
        f1=ratio(2 * found, 2 * found + false + missed),
    )
