"""Bias correction, intensity normalisation, matching and discretisation."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.imaging import geometry

# N4 is estimated on 8 mm voxels, where a field that varies over 50 mm and more loses nothing. More
# levels or finer voxels cost up to 25 times as much and leave white matter less even, since the
# whole head is fitted (benchmarks/bias.py).
BIAS_VOXEL_MM = 8.0
BIAS_SPLINE_MM = 200
BIAS_ITERATIONS = (50, 50, 30)
# Atlas probability from which white matter is certain enough to take intensities from.
CERTAIN_WHITE_MATTER = 0.9
# The median absolute deviation of a normal distribution times this is its standard deviation.
MAD_TO_SD = 1.4826
MODE_BINS = 512


def correct_bias(
    image: nib.spatialimages.SpatialImage,
    *,
    iterations: tuple[int, ...] = BIAS_ITERATIONS,
    voxel_mm: float = BIAS_VOXEL_MM,
) -> nib.Nifti1Image:
    """Remove the receive field by N4, estimated coarsely and divided out at full resolution.

    Parameters
    ----------
    image : nibabel image, 3-D, any grid
    iterations : tuple of int
        N4's iterations per level of the spline's refinement.
    voxel_mm : float
        Resolution at which the field is estimated, mm.

    Returns
    -------
    nibabel.Nifti1Image
        float32 on the same grid; the field is scaled to 1 on average over the head.

    Raises
    ------
    InputError
        If no voxel is above zero.

    References
    ----------
    N. J. Tustison et al., IEEE TMI 29:1310, 2010.
    """
    import ants

    grid = geometry.isotropic_grid(image, voxel_mm)
    low = geometry.resample(image, grid)
    head = head_mask(low)
    if not head.any():
        raise InputError('the image is empty: no voxel is above zero.')
    field = ants.n4_bias_field_correction(
        geometry.to_ants(low, grid.affine),
        mask=geometry.to_ants(head, grid.affine),
        shrink_factor=1,
        convergence={'iters': list(iterations), 'tol': 1e-4},
        spline_param=BIAS_SPLINE_MM,
        return_bias_field=True,
    ).numpy()
    field = geometry.like(field / field[head].mean(), grid)
    full = geometry.resample(field, image, fill=None)
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    return geometry.like(data / np.clip(full, 0.05, None), image)


def head_mask(data: np.ndarray) -> np.ndarray:
    """Separate the head from the air: Otsu's threshold on the non-zero voxels, closed.

    Parameters
    ----------
    data : (I, J, K) ndarray

    Returns
    -------
    (I, J, K) ndarray of bool
    """
    from skimage.filters import threshold_otsu

    values = data[data > 0]
    if values.size == 0 or values.min() == values.max():
        return data > 0
    # Half of Otsu's threshold keeps dark tissue (CSF in FLAIR), not the noise of air.
    return ndimage.binary_closing(data > threshold_otsu(values) / 2, iterations=2)


@dataclass(frozen=True)
class Distribution:
    """A robust centre and spread of intensities: median and scaled MAD."""

    centre: float
    spread: float


def robust_distribution(values: np.ndarray, *, sides: float = 3.0) -> Distribution:
    """Return median and scaled MAD of ``values`` after dropping what lies far out.

    Parameters
    ----------
    values : (N,) ndarray
    sides : float
        Values more than this many spreads from the centre are left out, until nothing changes.

    Raises
    ------
    InputError
        If no value is given.

    Examples
    --------
    >>> robust_distribution(np.array([1.0, 2.0, 3.0, 2.0, 2.0, 90.0])).centre
    2.0
    """
    if values.size == 0:
        raise InputError('no tissue was found to take intensities from; the brain mask is wrong.')
    kept = values
    for _ in range(10):
        centre = float(np.median(kept))
        spread = float(np.median(np.abs(kept - centre)) * MAD_TO_SD)
        inside = np.abs(values - centre) <= sides * max(spread, 1e-6 * abs(centre))
        if inside.sum() == kept.size:
            break
        kept = values[inside]
    return Distribution(centre, spread)


def lower_distribution(values: np.ndarray) -> Distribution:
    """Return the mode, and the spread of what lies below it.

    Lesions only add bright values to white matter in FLAIR. A heavy load moves the median and
    widens the median absolute deviation of an atlas's white matter, but neither the mode nor the
    values below it.

    Parameters
    ----------
    values : (N,) ndarray

    Returns
    -------
    Distribution
        Peak of the smoothed histogram; 1.4826 times the median distance of the values below it.

    Raises
    ------
    InputError
        If no value is given.

    Examples
    --------
    >>> random = np.random.default_rng(0)
    >>> tissue, lesion = random.normal(10, 1, 50000), random.normal(14, 1, 20000)
    >>> found = lower_distribution(np.append(tissue, lesion))
    >>> abs(found.centre - 10) < 0.2, abs(found.spread - 1) < 0.2
    (True, True)
    """
    rough = robust_distribution(values)
    if rough.spread == 0:
        return rough
    low, high = np.percentile(values, (1, 99))
    counts, edges = np.histogram(values, bins=MODE_BINS, range=(low, high))
    # A quarter of the rough spread: narrower finds noise, wider moves the peak towards lesions.
    width_bins = 0.25 * rough.spread / (edges[1] - edges[0])
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), width_bins)))
    centre = float((edges[peak] + edges[peak + 1]) / 2)
    below = centre - values[values < centre]
    return Distribution(centre, float(np.median(below) * MAD_TO_SD))


def normalize(data: np.ndarray, white_matter: np.ndarray) -> np.ndarray:
    """Scale intensities so that the mode of white matter is 1.

    The scale is taken from white matter alone, so that a heavy lesion load, which moves the
    quantiles of the whole brain, does not move it.

    Parameters
    ----------
    data : (I, J, K) ndarray
    white_matter : (I, J, K) ndarray of bool
        Certain white matter; lesions in it do not move the mode. Where the image is 0 it lies
        outside the field of view, and does not count.

    Returns
    -------
    (I, J, K) ndarray of float32

    Raises
    ------
    InputError
        If the image is 0 in all white matter, or there is none.
    """
    values = data[white_matter]
    seen = values[values > 0]
    if values.size and not seen.size:
        raise InputError('the white matter has no signal; the brain mask or the image is wrong.')
    return (data / lower_distribution(seen).centre).astype(np.float32)


def match_histogram(
    source: np.ndarray, reference: np.ndarray, mask: np.ndarray, *, points: int = 64
) -> np.ndarray:
    """Match the histogram of one image to another's inside a mask, by landmarks.

    Parameters
    ----------
    source, reference : (I, J, K) ndarray
    mask : (I, J, K) ndarray of bool
    points : int
        Number of quantiles that are laid upon each other; between them the map is linear.

    Returns
    -------
    (I, J, K) ndarray of float32
        ``source`` on the intensity scale of ``reference``; 0 outside the mask.

    References
    ----------
    L. G. Nyul et al., IEEE TMI 19:143, 2000; as ImageMath HistogramMatch of ANTs (ITK).
    """
    import ants

    # ITK matches whole images: the voxels of the mask alone are handed over, as an n x 1 x 1 one.
    def column(image: np.ndarray) -> np.ndarray:
        return image[mask].astype(np.float32).reshape(-1, 1, 1)

    matched = ants.histogram_match_image(
        geometry.to_ants(column(source), np.eye(4)),
        geometry.to_ants(column(reference), np.eye(4)),
        number_of_histogram_bins=255,
        number_of_match_points=points,
    ).numpy()
    result = np.zeros(source.shape, np.float32)
    result[mask] = matched.ravel()
    return result


def discretize(
    data: np.ndarray, mask: np.ndarray, *, levels: int, low: float, high: float
) -> np.ndarray:
    """Round intensities to equally wide grey levels 1 to ``levels``; 0 outside the mask.

    Parameters
    ----------
    data : (I, J, K) ndarray
    mask : (I, J, K) ndarray of bool
    levels : int
    low, high : float
        Intensities at the lower edge of level 1 and the upper edge of the last level.

    Returns
    -------
    (I, J, K) ndarray of uint8

    Raises
    ------
    ValueError
        If ``high`` does not exceed ``low``.

    Examples
    --------
    >>> discretize(np.array([0.0, 0.9, 5.0]), np.ones(3, bool), levels=2, low=0, high=1).tolist()
    [1, 2, 2]
    """
    if high <= low:
        raise ValueError(f'high must exceed low, got {low} and {high}')
    scaled = np.floor((data - low) / (high - low) * levels).astype(int) + 1
    return np.where(mask, np.clip(scaled, 1, levels), 0).astype(np.uint8)
