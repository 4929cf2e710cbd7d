"""How common lesions are in this patient, which the network's training could not know."""

from __future__ import annotations

import numpy as np

# Share of a brain that is taken for lesion at least: 0.14 ml of 1.4 l. One small lesion counts yet.
LEAST_SHARE = 1e-4
ITERATIONS = 200
# Relative change of the share at which it has settled.
SETTLED = 1e-3


def adapt_prior(probability: np.ndarray, prior: float) -> np.ndarray:
    """Adapt probabilities of lesion to the share of lesion in one brain.

    A network that has learnt from brains of a certain mean load marks too much in a brain with
    few lesions, and too little in one with many. The share in this brain is what makes the adapted
    probabilities most likely.

    Parameters
    ----------
    probability : (N,) ndarray
        Of the voxels of one brain, as the network gives it, 0 to 1.
    prior : float
        Mean probability in the brains that the network has learnt from, in (0, 1).

    Returns
    -------
    (N,) ndarray of float32
        0 to 1, in the same order of voxels.

    Raises
    ------
    ValueError
        If the prior is not in (0, 1).

    Notes
    -----
    Expectation maximisation of M. Saerens, P. Latinne and C. Decaestecker, Neural Computation
    2002;14:21-41, equations 2.4 and 2.9, for two classes.

    Examples
    --------
    >>> few = np.array([0.6] + [0.0] * 999)
    >>> adapt_prior(few, 0.01)[0].round(3)
    np.float32(0.015)
    """
    if not 0 < prior < 1:
        raise ValueError(f'prior must be between 0 and 1, got {prior}')
    values = probability.astype(np.float64)
    # What is surely no lesion stays so, and is most of a brain.
    possible = values[values > 0]
    if not possible.size:
        return values.astype(np.float32)
    adapted, share = possible, max(values.mean(), LEAST_SHARE)
    for _ in range(ITERATIONS):
        lesion = possible * share / prior
        adapted = lesion / (lesion + (1 - possible) * (1 - share) / (1 - prior))
        before, share = share, max(adapted.sum() / values.size, LEAST_SHARE)
        if abs(share - before) <= SETTLED * before:
            break
    values[values > 0] = adapted
    return values.astype(np.float32)
