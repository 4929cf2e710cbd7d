"""How common lesions are in this patient, which the network's training could not know."""

from __future__ import annotations

import numpy as np
from scipy import special

# Share of a brain that is taken for lesion at least: 0.14 ml of 1.4 l. One small lesion counts yet.
LEAST_SHARE = 1e-4
# And at most: 140 ml of 1.4 l, as much as the heaviest loads of multiple sclerosis.
MOST_SHARE = 0.1
ITERATIONS = 200
# Relative change of the share at which it has settled.
SETTLED = 1e-3


def find_shift(logits: np.ndarray, prior: float) -> float:
    """Return what adapts logits of lesion to the share of lesion in one brain, when added to them.

    A network that has learnt from brains of a certain mean load marks too much in a brain with
    few lesions, and too little in one with many. The share in this brain is what makes the adapted
    probabilities most likely.

    Parameters
    ----------
    logits : (N,) ndarray
        Of the voxels of one brain, as the network gives them, not divided by a temperature.
    prior : float
        Mean probability in the brains that the network has learnt from, in (0, 1).

    Returns
    -------
    float
        One number for all voxels: the logit of the share in this brain less that of the prior.

    Raises
    ------
    ValueError
        If the prior is not in (0, 1).

    Notes
    -----
    Expectation maximisation of M. Saerens, P. Latinne and C. Decaestecker, Neural Computation
    2002;14:21-41, equations 2.4 and 2.9, for two classes.

    Where nearly all of a brain is a little more like lesion than the prior, its most likely share
    is 1: a network that is vague everywhere, not a brain of lesion. The last step with a mean
    probability of at most `MOST_SHARE` counts, so that no adaptation makes more than twice that
    share of a brain likely lesion.

    Examples
    --------
    >>> few = special.logit(np.array([0.6] + [0.0] * 999))
    >>> special.expit(few[0] + find_shift(few, 0.01)).round(3)
    np.float64(0.015)
    """
    if not 0 < prior < 1:
        raise ValueError(f'prior must be between 0 and 1, got {prior}')
    values = logits.astype(np.float64)
    shift, share = 0.0, prior
    for _ in range(ITERATIONS):
        tried = float(special.logit(share) - special.logit(prior))
        found = max(float(special.expit(values + tried).mean()), LEAST_SHARE)
        if found > MOST_SHARE:
            break
        shift = tried
        if abs(found - share) <= SETTLED * share:
            break
        share = found
    return shift
