"""Whether probabilities mean what they say, and the temperature that makes them do so.

Almost all voxels of a head are certain background, which makes any model look well calibrated:
choose the voxels with ``inside`` (a brain mask, or the surroundings of lesions) and say which.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

BINS = 15
# Range in which a temperature is looked for; a fit that ends here has found none.
TEMPERATURES = (0.01, 100.0)
# Saved probabilities of exactly 0 or 1 stand for values that were rounded.
SMALLEST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Reliability:
    """Probability said and frequency seen, bin by bin.

    Attributes
    ----------
    edges : (B + 1,) ndarray
        Limits of the bins, 0 to 1.
    said : (B,) ndarray
        Mean probability in each bin; NaN in an empty one.
    seen : (B,) ndarray
        Share of its voxels that are lesion; NaN in an empty one.
    count : (B,) ndarray of int
        Voxels in each bin.
    """

    edges: np.ndarray
    said: np.ndarray
    seen: np.ndarray
    count: np.ndarray

    def expected_error(self) -> float:
        """Return the expected calibration error: |said - seen|, weighted by the voxels."""
        filled = self.count > 0
        if not filled.any():
            return float('nan')
        gaps = np.abs(self.said - self.seen)[filled]
        return float(np.average(gaps, weights=self.count[filled]))


def _select(
    values: np.ndarray, truth: np.ndarray, inside: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and truth of the voxels that count, as two flat arrays."""
    if values.shape != truth.shape:
        raise ValueError(f'shapes must be equal, got {values.shape} and {truth.shape}')
    chosen = slice(None) if inside is None else inside
    return values[chosen].ravel().astype(float), truth[chosen].ravel().astype(bool)


def _check_probability(probability: np.ndarray) -> None:
    """Refuse what is no probability."""
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ValueError(
            f'probability must be in [0, 1], got {probability.min():g} to {probability.max():g}'
        )


def reliability_curve(
    probability: np.ndarray,
    truth: np.ndarray,
    *,
    inside: np.ndarray | None = None,
    bins: int = BINS,
) -> Reliability:
    """Compare predicted probabilities with how often they come true, in bins of equal width.

    Parameters
    ----------
    probability : ndarray
        Of lesion, 0 to 1, any shape.
    truth : ndarray of bool
        Same shape.
    inside : ndarray of bool, optional
        The voxels that count; all by default.
    bins : int
        Number of bins; each holds its lower limit, the last one also 1.

    Returns
    -------
    Reliability

    Raises
    ------
    ValueError
        If shapes differ, a probability is out of range, or there is no bin.

    References
    ----------
    C. Guo et al., ICML 2017 (PMLR 70:1321-1330). Of the lesion class, not of the larger one.

    Examples
    --------
    >>> curve = reliability_curve(np.array([0.25, 0.25, 0.75]), np.array([0, 1, 1]), bins=2)
    >>> curve.said.tolist(), curve.seen.tolist(), curve.count.tolist()
    ([0.25, 0.75], [0.5, 1.0], [2, 1])
    """
    if bins < 1:
        raise ValueError(f'bins must be at least 1, got {bins}')
    values, true = _select(probability, truth, inside)
    _check_probability(values)
    place = np.minimum((values * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid='ignore'):
        said = np.bincount(place, weights=values, minlength=bins) / count
        seen = np.bincount(place, weights=true, minlength=bins) / count
    return Reliability(np.linspace(0, 1, bins + 1), said, seen, count)


def expected_calibration_error(
    probability: np.ndarray,
    truth: np.ndarray,
    *,
    inside: np.ndarray | None = None,
    bins: int = BINS,
) -> float:
    """Return the expected calibration error, 0 (best) to 1; NaN without voxels.

    Parameters and errors are those of `reliability_curve`.
    """
    return reliability_curve(probability, truth, inside=inside, bins=bins).expected_error()


def to_logits(probability: np.ndarray) -> np.ndarray:
    """Return the logits of probabilities, which are first kept 1e-6 away from 0 and 1."""
    _check_probability(probability)
    clipped = np.clip(probability.astype(float), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return special.logit(clipped)


def negative_log_likelihood(logits: np.ndarray, truth: np.ndarray, temperature: float) -> float:
    """Return the mean negative log-likelihood of the truth, nats, at a temperature.

    Examples
    --------
    >>> round(negative_log_likelihood(np.zeros(2), np.array([True, False]), 1.0), 6)
    0.693147
    """
    scaled = np.asarray(logits, float) / temperature
    # log(1 + exp(x)) - y x, the binary cross-entropy, without overflow.
    return float(np.mean(np.logaddexp(0, scaled) - scaled * truth))


def fit_temperature(
    logits: np.ndarray, truth: np.ndarray, *, inside: np.ndarray | None = None
) -> float:
    """Find the temperature that makes logits most likely; divide logits by it.

    Parameters
    ----------
    logits : ndarray
        Of lesion, any shape; fit on cases that neither trained nor will test the model.
    truth : ndarray of bool
        Same shape.
    inside : ndarray of bool, optional
        The voxels that count; all by default.

    Returns
    -------
    float
        Above 1 if the model is too sure of itself, below 1 if too unsure. It leaves masks at
        a threshold of 0.5 as they are.

    Raises
    ------
    ValueError
        If shapes differ, there is only one class, or no temperature from 0.01 to 100 is best
        (logits that separate the classes perfectly, or say nothing of them).

    References
    ----------
    C. Guo et al., ICML 2017 (PMLR 70:1321-1330), section 4.2.
    """
    values, true = _select(logits, truth, inside)
    if not 0 < true.sum() < true.size:
        raise ValueError('truth must hold lesion and background, got one of them only')
    low, high = np.log(TEMPERATURES)
    # The likelihood has one maximum in 1 / T, hence in log T, where steps are of one size.
    fit = optimize.minimize_scalar(
        lambda log_t: negative_log_likelihood(values, true, float(np.exp(log_t))),
        bounds=(low, high),
        method='bounded',
        options={'xatol': 1e-6},
    )
    if min(fit.x - low, high - fit.x) < 1e-3:
        raise ValueError(
            f'no temperature from {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g} is best: the logits '
            'separate the classes perfectly or say nothing of them'
        )
    return float(np.exp(fit.x))


def apply_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities of logits at a temperature, 0 to 1.

    Raises
    ------
    ValueError
        If the temperature is not positive.

    Examples
    --------
    >>> apply_temperature(np.array([0.0, 2.0]), 2.0).round(3).tolist()
    [0.5, 0.731]
    """
    if temperature <= 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')
    return special.expit(np.asarray(logits, float) / temperature)
