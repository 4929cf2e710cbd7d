"""How sure a network is, from Monte Carlo samples of its probability: per voxel and per lesion.

The four measures of T. Nair et al. (MICCAI 2018; Med. Image Anal. 2020;59:101557): predicted
variance, variance of the samples, predictive entropy, and mutual information. Samples come one
after the other and only running means are held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

MEASURES = ('entropy', 'variance', 'mutual_information', 'predicted_variance')
# Logarithms stop here. Entropies of float32 probabilities are rounded by 1e-7, below which a
# measure says no more than that it is 0.
SMALLEST_MEASURE = 1e-6
# Half of the entropy of a coin; a probability of 0.11 or 0.89.
HIGH_ENTROPY = np.log(2) / 2


@dataclass(frozen=True)
class UncertaintyMaps:
    """What the samples say of each voxel, all (I, J, K) ndarray of float32.

    Attributes
    ----------
    probability : ndarray
        Mean over the samples, 0 to 1.
    entropy : ndarray
        Predictive entropy, that of the mean probability, 0 to ln 2 nats: all uncertainty.
    variance : ndarray
        Of the probability over the samples (divided by their number), 0 to 0.25.
    mutual_information : ndarray
        Of prediction and weights, 0 to ``entropy``, nats: entropy of the mean less mean of the
        entropies, what more training data would take away.
    predicted_variance : ndarray or None
        Mean of the variances that the network predicts for its logits: noise of the data.
    """

    probability: np.ndarray
    entropy: np.ndarray
    variance: np.ndarray
    mutual_information: np.ndarray
    predicted_variance: np.ndarray | None = None


class SampleUncertainty:
    """Running means over Monte Carlo samples of a probability.

    Notes
    -----
    Means and variance are updated by the rule of B. P. Welford (Technometrics 1962;4:419-420),
    which loses no digits where all samples are nearly alike. Entropy and mutual information:
    Y. Gal, Uncertainty in Deep Learning, PhD thesis, Cambridge 2016, section 3.3.1. Predicted
    variance: A. Kendall and Y. Gal, NeurIPS 2017, the aleatoric part.

    Examples
    --------
    >>> samples = SampleUncertainty()
    >>> samples.add(np.array([0.0, 0.5], np.float32))
    >>> samples.add(np.array([1.0, 0.5], np.float32))
    >>> maps = samples.maps()
    >>> maps.variance.tolist(), maps.mutual_information.round(3).tolist()
    ([0.25, 0.0], [0.6930000185966492, 0.0])
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = self._entropy = np.zeros(0, np.float32)
        self._predicted: np.ndarray | None = None

    def add(self, probability: np.ndarray, variance: np.ndarray | None = None) -> None:
        """Take in one sample.

        Parameters
        ----------
        probability : (I, J, K) ndarray
            Of lesion, 0 to 1: what one sample makes of the probability of which the mask is made.
        variance : (I, J, K) ndarray, optional
            Predicted for the logits, at least 0: the exponential of what the variance head says.
            With every sample or with none.

        Raises
        ------
        ValueError
            If a value is out of range or not finite, or a sample is unlike those before it.
        """
        _check_range('probability', probability, 1.0)
        if variance is not None:
            _check_range('variance', variance, float(np.finfo(np.float32).max))
        if self._count == 0:
            self._mean, self._squares, self._entropy = np.zeros((3, *probability.shape), np.float32)
            self._predicted = None if variance is None else np.zeros_like(self._mean)
        if (variance is None) != (self._predicted is None):
            raise ValueError('variance must come with every sample or with none')
        for values in (probability, variance):
            if values is not None and values.shape != self._mean.shape:
                raise ValueError(f'samples must be {self._mean.shape}, got {values.shape}')
        self._count += 1
        sample = probability.astype(np.float32)
        step = sample - self._mean
        self._mean += step / self._count
        self._squares += step * (sample - self._mean)
        self._entropy += (binary_entropy(sample) - self._entropy) / self._count
        if variance is not None and self._predicted is not None:
            self._predicted += (variance.astype(np.float32) - self._predicted) / self._count

    def maps(self) -> UncertaintyMaps:
        """Return what all samples so far say; more may follow.

        Raises
        ------
        ValueError
            If there is no sample.
        """
        if not self._count:
            raise ValueError('there is no sample to measure uncertainty from')
        entropy = binary_entropy(self._mean)
        return UncertaintyMaps(
            probability=self._mean.copy(),
            entropy=entropy,
            variance=self._squares / self._count,
            # It is never negative, but for rounding.
            mutual_information=np.maximum(entropy - self._entropy, 0),
            predicted_variance=None if self._predicted is None else self._predicted.copy(),
        )


def _check_range(name: str, values: np.ndarray, largest: float) -> None:
    """Refuse values below 0, above ``largest``, or NaN."""
    if values.size and not (values.min() >= 0 and values.max() <= largest):
        raise ValueError(
            f'{name} must be in [0, {largest:g}], got {values.min():g} to {values.max():g}'
        )


def binary_entropy(probability: np.ndarray) -> np.ndarray:
    """Return the entropy of yes or no, nats, 0 to ln 2, of the probability's shape and kind.

    Examples
    --------
    >>> binary_entropy(np.array([0.0, 0.5, 1.0])).round(4).tolist()
    [0.0, 0.6931, 0.0]
    """
    entropy: np.ndarray = special.entr(probability) + special.entr(1 - probability)
    return entropy


def measure_lesion_uncertainty(labels: np.ndarray, maps: UncertaintyMaps) -> pd.DataFrame:
    """Gather the uncertainty of each lesion's voxels.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Lesion instances, 0 outside.
    maps : UncertaintyMaps, of (I, J, K)

    Returns
    -------
    pandas.DataFrame
        One line a lesion, by label: ``lesion``, then of each of `MEASURES` ``*_mean``, in the
        measure's unit, and ``*_log_sum``, the sum of its natural logarithms, of no less than
        1e-6 each. Predicted variance is NaN without a variance head.

    Raises
    ------
    ValueError
        If labels and maps differ in shape.

    Notes
    -----
    The sum of logarithms is the lesion's uncertainty of Nair et al.: each voxel with a measure
    below 1 lowers it, so that small lesions are the most uncertain. Their rescaling to 0 to 1
    over all lesions of a data set changes no order and is left out.
    """
    if labels.shape != maps.entropy.shape:
        raise ValueError(f'labels are {labels.shape} and maps {maps.entropy.shape}; they differ')
    inside = labels > 0
    numbers, index, counts = np.unique(labels[inside], return_inverse=True, return_counts=True)
    columns = {'lesion': numbers}
    for measure in MEASURES:
        values = getattr(maps, measure)
        values = np.full(index.size, np.nan) if values is None else values[inside].astype(float)
        logarithms = np.log(np.maximum(values, SMALLEST_MEASURE))
        columns[f'{measure}_mean'] = np.bincount(index, values, counts.size) / counts
        columns[f'{measure}_log_sum'] = np.bincount(index, logarithms, counts.size)
    return pd.DataFrame(columns).astype(dict.fromkeys(columns, float) | {'lesion': int})


def split_by_entropy(labels: np.ndarray, entropy: np.ndarray) -> dict[str, np.ndarray]:
    """Sort lesions by how sure the network is of them, for a picture.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Lesion instances, 0 outside.
    entropy : (I, J, K) ndarray
        Predictive entropy, 0 to ln 2 nats.

    Returns
    -------
    dict of str to (I, J, K) ndarray of bool
        ``surer`` and ``unsure`` lesions, whose mean entropy is below or from half of ln 2, and
        ``doubtful``: tissue outside lesions where entropy is as high.
    """
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), entropy.ravel(), counts.size)
    unsure = sums >= HIGH_ENTROPY * np.maximum(counts, 1)
    lesion, unsure_lesion = labels > 0, unsure[labels]
    return {
        'surer': lesion & ~unsure_lesion,
        'unsure': lesion & unsure_lesion,
        'doubtful': ~lesion & (entropy >= HIGH_ENTROPY),
    }


def retention_curve(uncertainty: np.ndarray, true: np.ndarray, missed: int) -> pd.DataFrame:
    """Score the lesions that remain when the most uncertain are set aside, by their share.

    Lesions that are set aside, say for a reader to judge, count neither as found nor as false.
    Missed lesions have no uncertainty and count throughout, so the curve shows what it costs to
    set true lesions aside.

    Parameters
    ----------
    uncertainty : (N,) ndarray
        Of each predicted lesion, of all cases together; only its order matters.
    true : (N,) ndarray of bool
        Which predicted lesions stand for a reference lesion: see
        `msapp.evaluation.lesionwise.Detection`.
    missed : int
        Number of reference lesions that were not found.

    Returns
    -------
    pandas.DataFrame
        From all lesions kept to none; lesions of equal uncertainty go together.

        - ``set_aside``: share of the predicted lesions, 0 to 1
        - ``kept``: number of the others
        - ``tpr``: true over true and missed lesions, 0 to 1
        - ``fdr``: false over kept lesions, 0 to 1; NaN where none is kept
        - ``f1``: twice the true over twice the true, the false and the missed, 0 to 1

        TPR and F1 are NaN where no true and no missed lesion remains.

    Raises
    ------
    ValueError
        If the two differ in length, an uncertainty is NaN, or ``missed`` is negative.

    References
    ----------
    T. Nair et al., Med. Image Anal. 2020;59:101557 (TPR and FDR of what is retained).

    Examples
    --------
    >>> curve = retention_curve(np.array([1.0, 3.0, 2.0]), np.array([True, False, True]), 1)
    >>> curve[['kept', 'f1']].round(3).to_numpy().tolist()
    [[3.0, 0.667], [2.0, 0.8], [1.0, 0.667], [0.0, 0.0]]
    """
    if uncertainty.shape != true.shape or uncertainty.ndim != 1:
        raise ValueError(
            f'uncertainty and true must be of one length, got {uncertainty.shape}, {true.shape}'
        )
    if np.isnan(uncertainty).any():
        raise ValueError('uncertainty must be a number for each lesion, got NaN')
    if missed < 0:
        raise ValueError(f'missed must be at least 0, got {missed}')
    order = np.argsort(uncertainty)
    ranked = uncertainty[order]
    apart = np.ones(ranked.size + 1, bool)
    apart[1:-1] = ranked[1:] != ranked[:-1]
    kept = np.flatnonzero(apart)[::-1]
    hits = np.concatenate([[0], np.cumsum(true[order])])[kept]
    false, present = kept - hits, hits + missed
    with np.errstate(invalid='ignore'):
        tpr, fdr = hits / present, false / kept
    f1 = np.where(present > 0, 2 * hits / np.maximum(2 * hits + false + missed, 1), np.nan)
    share = (ranked.size - kept) / max(ranked.size, 1)
    return pd.DataFrame({'set_aside': share, 'kept': kept, 'tpr': tpr, 'fdr': fdr, 'f1': f1})
