"""The zones of a head: what the anatomy network tells apart, and how zone maps are read."""

from __future__ import annotations

import numpy as np

# In the order of the network's classes; a zone map holds indices into this.
ZONES = (
    'background', 'ventricles', 'csf', 'cortex', 'white_matter', 'deep_grey', 'brain_stem',
    'cerebellum',
)  # fmt: skip


def zone_mask(zones: np.ndarray, *names: str) -> np.ndarray:
    """Return where a zone map shows one of some zones.

    Parameters
    ----------
    zones : (I, J, K) ndarray of int
        Index into `ZONES`.
    *names : str
        Names of zones.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    ValueError
        If a name is not one of `ZONES`.

    Examples
    --------
    >>> zone_mask(np.array([0, 6, 7, 3]), 'brain_stem', 'cerebellum').tolist()
    [False, True, True, False]
    """
    unknown = sorted(set(names) - set(ZONES))
    if unknown:
        raise ValueError(f'zones must be of {ZONES}, got {unknown}')
    return np.isin(zones, [ZONES.index(name) for name in names])
