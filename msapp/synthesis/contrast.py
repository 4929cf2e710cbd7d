"""Shares of tissues in voxels, their signal in each contrast, and the rendering of both.

Signals are relative (fat on T1w is 1) and follow the order seen at 3 T on spin-echo FLAIR and
T2w and on inversion-prepared gradient-echo T1w images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Layers = list[tuple[str | None, np.ndarray]]

LESION = 'lesion'
ENHANCING = 'enhancing'

_T1W = {
    'white_matter': 0.78, 'cortex': 0.54, 'deep_grey': 0.64, 'csf': 0.17, 'choroid': 0.42,
    'vessel': 0.30, 'bone': 0.08, 'marrow': 0.62, 'fat': 1.00, 'muscle': 0.40, 'skin': 0.55,
    'eye': 0.18, LESION: 0.44, ENHANCING: 0.44,
}  # fmt: skip

CONTRASTS: dict[str, dict[str, float]] = {
    'FLAIR': {
        'white_matter': 0.40, 'cortex': 0.50, 'deep_grey': 0.45, 'csf': 0.09, 'choroid': 0.40,
        'vessel': 0.08, 'bone': 0.05, 'marrow': 0.30, 'fat': 0.70, 'muscle': 0.25, 'skin': 0.38,
        'eye': 0.09, LESION: 0.88, ENHANCING: 0.88,
    },
    'T1w': _T1W,
    'T2w': {
        'white_matter': 0.34, 'cortex': 0.47, 'deep_grey': 0.40, 'csf': 1.00, 'choroid': 0.80,
        'vessel': 0.07, 'bone': 0.05, 'marrow': 0.38, 'fat': 0.66, 'muscle': 0.20, 'skin': 0.34,
        'eye': 1.00, LESION: 0.76, ENHANCING: 0.76,
    },
    'ce-gadolinium_T1w': _T1W
    | {'vessel': 1.00, 'choroid': 0.85, 'muscle': 0.46, 'skin': 0.66, ENHANCING: 1.05},
}  # fmt: skip


def soft(distance_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """Turn a signed distance into the share of a voxel inside: 1 inside, 0 outside, a ramp between.

    Parameters
    ----------
    distance_mm : ndarray
        Negative inside.
    width_mm : float
        Of the ramp, about the border.

    Returns
    -------
    ndarray
        Of the same shape, 0 to 1.

    Examples
    --------
    >>> soft(np.array([-3.0, 0.0, 0.25, 3.0]), 1.0).tolist()
    [1.0, 0.5, 0.25, 0.0]
    """
    return np.clip(0.5 - distance_mm / width_mm, 0, 1)


def composite(
    start: dict[str, np.ndarray], layers: Layers, width_mm: float
) -> dict[str, np.ndarray]:
    """Fill what earlier classes leave of every voxel, layer after layer.

    Parameters
    ----------
    start : dict of str to (I, J, K) ndarray
        Shares that are already given away.
    layers : list of (str or None, (I, J, K) ndarray)
        Tissue (``None`` is air) and signed distance, mm, by falling precedence.
    width_mm : float
        Width of the soft borders.

    Returns
    -------
    dict of str to (I, J, K) ndarray of float32
        Shares of every class that was named; their sum is at most 1.
    """
    shape = next(iter(start.values())).shape
    names = [*start, *(name for name, _ in layers if name is not None)]
    tissues = {name: np.zeros(shape, np.float32) for name in names}
    rest = np.ones(shape, np.float32)
    for name, share in start.items():
        tissues[name] += share
        rest -= share
    np.clip(rest, 0, 1, out=rest)
    for layer, distance in layers:
        share = (soft(distance, width_mm) * rest).astype(np.float32)
        rest -= share
        if layer is not None:
            tissues[layer] += share
    return tissues


def render(tissues: Mapping[str, np.ndarray], signals: Mapping[str, float]) -> np.ndarray:
    """Mix the signals of the tissues of every voxel.

    Parameters
    ----------
    tissues : mapping of str to (I, J, K) ndarray
        Shares, 0 to 1; what is missing to 1 is air, without signal.
    signals : mapping of str to float
        Relative signal of each tissue.

    Returns
    -------
    (I, J, K) ndarray of float32

    Raises
    ------
    ValueError
        If a tissue has no signal.

    Examples
    --------
    >>> half = np.full((1, 1, 1), 0.5)
    >>> render({'fat': half, 'bone': half}, {'fat': 1.0, 'bone': 0.0}).item()
    0.5
    """
    missing = sorted(set(tissues) - set(signals))
    if missing:
        raise ValueError(f'no signal for {", ".join(missing)}')
    image = np.zeros(next(iter(tissues.values())).shape, np.float32)
    for name, share in tissues.items():
        image += np.float32(signals[name]) * share
    return image


def overlay(image: np.ndarray, share: np.ndarray, signal: float) -> None:
    """Replace a share of the tissue of every voxel by another signal, in place.

    Parameters
    ----------
    image : (I, J, K) ndarray of float32
        Changed in place.
    share : (I, J, K) ndarray
        0 keeps the voxel, 1 replaces it.
    signal : float
        What takes its place.
    """
    image += share * (np.float32(signal) - image)
