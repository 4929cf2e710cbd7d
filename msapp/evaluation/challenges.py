"""The scores of the public challenges on MS and white-matter lesions, each by its own rules.

Each rule's convention for masks without lesions is kept where it was published, and said; where
it was not, the score is NaN. The Shifts challenge is left out (its score could not be checked).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msapp.evaluation.lesionwise import (
    LesionScores,
    count_lesions,
    detect_overlap,
    score_anima,
    score_any_overlap,
)
from msapp.evaluation.overlaps import pair_lesions
from msapp.evaluation.voxel import (
    Spacing,
    average_surface_distance_mm,
    dice,
    hausdorff95_mm,
    ratio,
)

WMH, OTHER_PATHOLOGY = 1, 2
WMH_THRESHOLD = 0.5
# Score of a rater against another in ISBI 2015 and MSGC 2008.
INTER_RATER_SCORE = 90.0
PERFECT_SCORE = 100.0


@dataclass(frozen=True)
class WmhScores:
    """The five scores of the WMH challenge 2017: Dice, H95, AVD, recall and F1 of lesions.

    Attributes
    ----------
    dice, recall, f1 : float
        0 to 1.
    hd95_mm : float
    avd_percent : float
    """

    dice: float
    hd95_mm: float
    avd_percent: float
    recall: float
    f1: float


def score_wmh2017(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Spacing) -> WmhScores:
    """Score a prediction as the WMH challenge 2017 did.

    Parameters
    ----------
    prediction : (I, J, K) ndarray
        Values of 0.5 and more are lesion; probabilities or a mask.
    truth : (I, J, K) ndarray
        1 white-matter hyperintensity, 2 other pathology, which is taken out of the prediction.
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    WmhScores
        The challenge's conventions: recall is 1 without true lesions and precision 1 without
        predicted ones, so F1 is 1 if both are empty and 0 if one is; H95 is NaN if either mask
        is empty. Dice of two empty masks and AVD without true lesions, which its code divides
        by zero, are NaN.

    References
    ----------
    H. J. Kuijf et al., IEEE Trans. Med. Imaging 2019;38:2556-2568; ``evaluation.py`` at
    https://github.com/hjkuijf/wmhchallenge. Teams' ranks are not computed.
    """
    reference = truth == WMH
    predicted = (prediction >= WMH_THRESHOLD) & (truth != OTHER_PATHOLOGY)
    lesions = score_any_overlap(predicted, reference, spacing_mm, connectivity=26)
    recall = lesions.sensitivity if lesions.reference_count else 1.0
    precision = lesions.ppv if lesions.predicted_count else 1.0
    present = np.count_nonzero(reference)
    return WmhScores(
        dice=dice(predicted, reference),
        hd95_mm=hausdorff95_mm(predicted, reference, spacing_mm),
        avd_percent=100 * ratio(abs(np.count_nonzero(predicted) - present), present),
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
    )


@dataclass(frozen=True)
class IsbiTerms:
    """What one image adds to the score of ISBI 2015.

    Attributes
    ----------
    dice, ppv : float
        By voxel, 0 to 1.
    lfpr : float
        Predicted lesions that touch no true one, over the predicted lesions, 0 to 1.
    ltpr : float
        True lesions that are touched, over the true lesions, 0 to 1.
    predicted_mm3, reference_mm3 : float
        Volumes, mm3.
    """

    dice: float
    ppv: float
    lfpr: float
    ltpr: float
    predicted_mm3: float
    reference_mm3: float


def isbi2015_terms(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, *, connectivity: int = 18
) -> IsbiTerms:
    """Measure one image against one rater for the score of ISBI 2015.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    connectivity : {6, 18, 26}
        18 is what users of the challenge's software report; it was not published.

    Returns
    -------
    IsbiTerms
        Terms with nothing to divide by are NaN (PPV and LFPR of an empty prediction, LTPR of an
        empty reference); the challenge had no such image.
    """
    voxel_mm3 = float(np.prod(spacing_mm))
    lesions = score_any_overlap(prediction, reference, spacing_mm, connectivity=connectivity)
    shared = np.count_nonzero(prediction & reference)
    predicted = np.count_nonzero(prediction)
    return IsbiTerms(
        dice=dice(prediction, reference),
        ppv=ratio(shared, predicted),
        lfpr=ratio(lesions.false_count, lesions.predicted_count),
        ltpr=lesions.sensitivity,
        predicted_mm3=predicted * voxel_mm3,
        reference_mm3=np.count_nonzero(reference) * voxel_mm3,
    )


def isbi2015_score(
    raters: Sequence[Sequence[IsbiTerms]], *, inter_rater: float | None = None
) -> float:
    """Return the score of ISBI 2015 over a set of images, averaged over the raters.

    Against each rater it is Dice/8 + PPV/8 + (1 - LFPR)/4 + LTPR/4 + VC/4: the first four are
    means over the images, VC is the Pearson correlation of predicted and reference volumes.

    Parameters
    ----------
    raters : sequence of sequence of IsbiTerms
        For each rater, the terms of every image.
    inter_rater : float, optional
        The plain score of one rater against the other, 0 to 1. The result is then in proportion
        to it, such that a rater scores 90. The challenge's constant was not published, nor
        whether its scale has a second fixed point.

    Returns
    -------
    float
        0 to 1, or on the scale where a rater scores 90. NaN if any term is NaN, and with fewer
        than two images or equal volumes (no correlation).

    Raises
    ------
    ValueError
        If there is no rater, no image, or ``inter_rater`` is not in (0, 1].

    References
    ----------
    A. Carass et al., NeuroImage 2017;148:77-102; terms as in ``isbi15_score`` of
    https://github.com/jcreinhold/lesion-metrics.
    """
    if not raters or not all(raters):
        raise ValueError('raters must hold the terms of at least one image for each rater')
    if inter_rater is not None and not 0 < inter_rater <= 1:
        raise ValueError(f'inter_rater must be in (0, 1], got {inter_rater}')
    score = float(np.mean([_isbi2015_one_rater(terms) for terms in raters]))
    return score if inter_rater is None else INTER_RATER_SCORE * score / inter_rater


def _isbi2015_one_rater(terms: Sequence[IsbiTerms]) -> float:
    """Return the plain score against one rater, 0 to 1."""
    means = np.mean([(t.dice / 8, t.ppv / 8, (1 - t.lfpr) / 4, t.ltpr / 4) for t in terms], axis=0)
    predicted, present = np.array([(t.predicted_mm3, t.reference_mm3) for t in terms]).T
    if len(terms) < 2 or not np.ptp(predicted) or not np.ptp(present):
        return float('nan')
    return float(means.sum() + np.corrcoef(predicted, present)[0, 1] / 4)


@dataclass(frozen=True)
class MssegScores:
    """The main scores of MSSEG-2016 and MSSEG-2.

    Attributes
    ----------
    dice : float
        0 to 1.
    surface_distance_mm : float
        Average symmetric surface distance, mm.
    lesions : LesionScores
        By the rule of Anima.
    """

    dice: float
    surface_distance_mm: float
    lesions: LesionScores


def score_msseg(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> MssegScores:
    """Score all lesions (MSSEG-2016) or new lesions (MSSEG-2) as the challenges did.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.

    Returns
    -------
    MssegScores
        If the reference is empty, ``lesions.false_count`` and ``lesions.false_mm3`` are the
        scores (MSSEG-2's patients without new lesions) and all others are NaN.

    References
    ----------
    O. Commowick et al., Sci. Rep. 2018;8:13650; ``animaSegPerfAnalyzer`` of Anima.
    """
    lesions = score_anima(prediction, reference, spacing_mm)
    if not reference.any():
        return MssegScores(float('nan'), float('nan'), lesions)
    return MssegScores(
        dice=dice(prediction, reference),
        surface_distance_mm=average_surface_distance_mm(prediction, reference, spacing_mm),
        lesions=lesions,
    )


@dataclass(frozen=True)
class MsgcValues:
    """The four measures of the MS lesion segmentation grand challenge 2008.

    Attributes
    ----------
    volume_difference_percent : float
        Difference of the volumes without sign, over the reference volume, %.
    surface_distance_mm : float
        Average symmetric surface distance, mm.
    lesion_tpr, lesion_fpr : float
        Shares of true lesions found and of predicted lesions that touch none, 0 to 1.
    """

    volume_difference_percent: float
    surface_distance_mm: float
    lesion_tpr: float
    lesion_fpr: float


def msgc2008_values(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, *, connectivity: int = 6
) -> MsgcValues:
    """Measure one image against one rater for the score of MSGC 2008.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    connectivity : {6, 18, 26}
        Not published; 6 is the default of ITK.

    Returns
    -------
    MsgcValues
        NaN where there is nothing to divide by or no surface.
    """
    overlaps = pair_lesions(
        prediction, reference, float(np.prod(spacing_mm)), connectivity=connectivity
    )
    lesions = count_lesions(overlaps, detect_overlap(overlaps))
    predicted, present = np.count_nonzero(prediction), np.count_nonzero(reference)
    return MsgcValues(
        volume_difference_percent=100 * ratio(abs(predicted - present), present),
        surface_distance_mm=average_surface_distance_mm(prediction, reference, spacing_mm),
        lesion_tpr=lesions.sensitivity,
        lesion_fpr=ratio(lesions.false_count, lesions.predicted_count),
    )


def msgc2008_score(raters: Sequence[MsgcValues], inter_rater: MsgcValues) -> float:
    """Return the score of MSGC 2008 for one image: the mean over raters and measures.

    Each measure is mapped linearly so that a perfect value scores 100 and the inter-rater value
    90; no measure scores less than 0.

    Parameters
    ----------
    raters : sequence of MsgcValues
        Against each rater.
    inter_rater : MsgcValues
        What one rater reaches against the other. The challenge's constants are not known here.

    Returns
    -------
    float
        0 to 100; NaN if any measure is NaN.

    Raises
    ------
    ValueError
        If there is no rater, or an inter-rater value is perfect (it would give no scale).

    References
    ----------
    M. Styner et al., MIDAS Journal, MICCAI 2008 workshop: MS lesion segmentation.
    """
    if not raters:
        raise ValueError('raters must hold at least one set of values')
    scale = _msgc2008_errors(inter_rater)
    if not (scale > 0).all():
        raise ValueError(f'inter_rater must be short of perfect in each measure, got {inter_rater}')
    errors = np.array([_msgc2008_errors(values) for values in raters])
    scores = PERFECT_SCORE - (PERFECT_SCORE - INTER_RATER_SCORE) * errors / scale
    return float(np.maximum(scores, 0).mean())


def _msgc2008_errors(values: MsgcValues) -> np.ndarray:
    """Return how far each measure is from perfect, (4,) ndarray."""
    return np.array(
        [
            values.volume_difference_percent,
            values.surface_distance_mm,
            1 - values.lesion_tpr,
            values.lesion_fpr,
        ]
    )
