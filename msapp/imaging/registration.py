"""Rigid, affine and coarse deformable registration by ANTs, at the resolution the task needs.

Images are resampled to cubic voxels of ``voxel_mm`` before they are registered: thick clinical
slices carry no more, and a registration at 1.5 mm takes seconds where the full grid takes half a
minute for the same result within a few tenths of a millimetre (``benchmarks/accuracy.py``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.imaging import geometry

Kind = Literal['Rigid', 'Similarity', 'Affine']

# Robust upper limit of intensities, so that fat or flow does not fill the histogram's bins.
CLIP_PERCENTILE = 99.5
# Starting points are compared at this resolution.
START_VOXEL_MM = 4.0
# Of SyN, from coarse to fine; the finest level would cost most and gain nothing for a mask.
WARP_ITERATIONS = (40, 30, 0)


@contextmanager
def scratch_prefix(seed: int) -> Iterator[str]:
    """Give ANTs a prefix in a folder that goes away, and a fixed seed for its sampling."""
    before = os.environ.get('ANTS_RANDOM_SEED')
    os.environ['ANTS_RANDOM_SEED'] = str(seed + 1)  # 0 would mean the clock
    try:
        with tempfile.TemporaryDirectory(prefix='msapp-ants-') as folder:
            yield str(Path(folder) / 'reg_')
    finally:
        if before is None:
            del os.environ['ANTS_RANDOM_SEED']
        else:
            os.environ['ANTS_RANDOM_SEED'] = before


def coarse(image: nib.spatialimages.SpatialImage, voxel_mm: float) -> nib.Nifti1Image:
    """Resample an image to cubic voxels for registration, smoothed against aliasing, clipped.

    Parameters
    ----------
    image : nibabel image, 3-D
    voxel_mm : float
        Edge of a new voxel, mm.

    Returns
    -------
    nibabel.Nifti1Image
        float32, RAS, clipped to [0, 99.5th percentile of the non-zero voxels].

    Raises
    ------
    InputError
        If no voxel is above zero.
    """
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    spacing = np.asarray(geometry.spacing_mm(image))
    # A Gaussian whose half width at half maximum reaches the new voxel's edge.
    sigma = np.where(spacing < voxel_mm, voxel_mm / 2.355 / spacing, 0.0)
    smooth = nib.Nifti1Image(ndimage.gaussian_filter(data, sigma), image.affine)
    grid = geometry.isotropic_grid(image, voxel_mm)
    result = geometry.resample(smooth, grid)
    nonzero = result[result > 0]
    if nonzero.size == 0:
        raise InputError('the image is empty: no voxel is above zero.')
    return nib.Nifti1Image(np.clip(result, 0, np.percentile(nonzero, CLIP_PERCENTILE)), grid.affine)


def _read_ants_matrix(path: str) -> np.ndarray:
    """Read an ANTs ``.mat`` as a RAS matrix from the fixed to the moving world."""
    import ants

    transform = ants.read_transform(path)
    points = np.vstack([np.zeros(3), np.eye(3)]) * 100.0
    mapped = np.array([transform.apply_to_point(tuple(point)) for point in points])
    matrix = np.eye(4)
    matrix[:3, :3] = (mapped[1:] - mapped[0]).T / 100.0
    matrix[:3, 3] = mapped[0]
    return geometry.LPS @ matrix @ geometry.LPS


def register_linear(
    fixed: nib.spatialimages.SpatialImage,
    moving: nib.spatialimages.SpatialImage,
    *,
    kind: Kind = 'Rigid',
    mask: nib.spatialimages.SpatialImage | None = None,
    initial: np.ndarray | None = None,
    voxel_mm: float = 1.5,
    iterations: tuple[int, int, int] = (200, 100, 50),
    seed: int = 0,
) -> np.ndarray:
    """Register two images by mutual information (Mattes) with a rigid to affine map.

    Parameters
    ----------
    fixed, moving : nibabel images
        Any contrast, any grid.
    kind : {'Rigid', 'Similarity', 'Affine'}
    mask : nibabel image, optional
        Where, in the fixed image, the images are compared.
    initial : (4, 4) ndarray, optional
        World of ``fixed`` to world of ``moving`` (RAS, mm). By default the centres of mass are
        laid upon each other.
    voxel_mm : float
        Resolution at which the images are compared, mm.
    iterations : tuple of int
        At 4, 2 and 1 times ``voxel_mm``.
    seed : int
        Seed of the metric's sampling.

    Returns
    -------
    (4, 4) ndarray
        World of ``fixed`` to world of ``moving`` (RAS, mm): resamples moving onto fixed.

    References
    ----------
    B. B. Avants et al., NeuroImage 54:2033, 2011 (ANTs); D. Mattes et al., IEEE TMI 22:120, 2003.
    """
    import ants

    target, source = coarse(fixed, voxel_mm), coarse(moving, voxel_mm)
    options: dict[str, Any] = {}
    if mask is not None:
        on_target = geometry.resample_mask(mask, target)
        options |= {'mask': geometry.to_ants(on_target, target.affine), 'mask_all_stages': True}
    with scratch_prefix(seed) as prefix:
        if initial is not None:
            geometry.save_transform(Path(f'{prefix}initial.txt'), initial)
            options['initial_transform'] = f'{prefix}initial.txt'
        result = ants.registration(
            fixed=geometry.to_ants(target.get_fdata(), target.affine),
            moving=geometry.to_ants(source.get_fdata(), source.affine),
            type_of_transform=kind,
            outprefix=prefix,
            aff_metric='mattes',
            aff_sampling=32,
            aff_random_sampling_rate=0.25,
            aff_iterations=iterations,
            aff_shrink_factors=(4, 2, 1),
            aff_smoothing_sigmas=(2, 1, 0),
            **options,
        )
        return _read_ants_matrix(result['fwdtransforms'][0])


def better_start(
    fixed: nib.spatialimages.SpatialImage,
    moving: nib.spatialimages.SpatialImage,
    mask: nib.spatialimages.SpatialImage,
) -> np.ndarray:
    """Choose where to start a registration: the scanner's coordinates or the centres of mass.

    Contrasts of one visit mostly share the scanner's coordinates; where they do not (another
    session, a rewritten header), the centres of mass are the better guess.

    Parameters
    ----------
    fixed, moving : nibabel images
    mask : nibabel image
        Where, in the fixed image, the images are compared.

    Returns
    -------
    (4, 4) ndarray
        World of ``fixed`` to world of ``moving`` (RAS, mm): a translation.
    """
    target, source = coarse(fixed, START_VOXEL_MM), coarse(moving, START_VOXEL_MM)
    inside = geometry.resample_mask(mask, target)
    centred = np.eye(4)
    centred[:3, 3] = geometry.centre_of_mass_mm(source) - geometry.centre_of_mass_mm(target)

    def similarity(start: np.ndarray) -> float:
        moved = geometry.resample(source, target, start)
        return normalized_mutual_information(target.get_fdata(), moved, inside, bins=32)

    return max((np.eye(4), centred), key=similarity)


def warp_to_fixed(
    fixed: nib.Nifti1Image,
    moving: nib.Nifti1Image,
    carried: list[nib.Nifti1Image],
    *,
    initial: np.ndarray,
    mask: np.ndarray,
    iterations: tuple[int, ...] = WARP_ITERATIONS,
    seed: int = 0,
) -> list[np.ndarray]:
    """Register ``moving`` to ``fixed`` by SyN after a linear map, and carry images along.

    Parameters
    ----------
    fixed, moving : nibabel.Nifti1Image
    carried : list of nibabel.Nifti1Image
        Images in the world of ``moving`` to be brought onto the grid of ``fixed``.
    initial : (4, 4) ndarray
        World of ``fixed`` to world of ``moving`` (RAS, mm).
    mask : (I, J, K) ndarray of bool
        Where, on the grid of ``fixed``, the images are compared.
    iterations : tuple of int
        From coarse to fine; 0 leaves a level out.

    Returns
    -------
    list of (I, J, K) ndarray of float32
        The carried images on the grid of ``fixed``.

    References
    ----------
    B. B. Avants et al., Med. Image Anal. 12:26, 2008 (SyN).
    """
    import ants

    target = geometry.to_ants(fixed.get_fdata(), fixed.affine)
    with scratch_prefix(seed) as prefix:
        geometry.save_transform(Path(f'{prefix}initial.txt'), initial)
        result = ants.registration(
            fixed=target,
            moving=geometry.to_ants(moving.get_fdata(), moving.affine),
            type_of_transform='SyNOnly',
            initial_transform=f'{prefix}initial.txt',
            outprefix=prefix,
            mask=geometry.to_ants(mask, fixed.affine),
            mask_all_stages=True,
            syn_metric='mattes',
            syn_sampling=32,
            reg_iterations=iterations,
            flow_sigma=3,
            total_sigma=0,
        )
        return [
            ants.apply_transforms(
                fixed=target,
                moving=geometry.to_ants(image.get_fdata(), image.affine),
                transformlist=result['fwdtransforms'],
                interpolator='linear',
            ).numpy()
            for image in carried
        ]


def normalized_mutual_information(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray, *, bins: int = 64
) -> float:
    """Return Studholme's normalised mutual information of two images inside a mask.

    Returns
    -------
    float
        1 for independent images, 2 for images that determine each other; NaN for an empty mask.

    References
    ----------
    C. Studholme et al., Pattern Recognition 32:71, 1999.
    """
    from skimage.metrics import normalized_mutual_information as nmi

    if not mask.any():
        return float('nan')
    inside = [image[mask] for image in (first, second)]
    clipped = [np.clip(values, *np.percentile(values, (0.5, 99.5))) for values in inside]
    return float(nmi(clipped[0], clipped[1], bins=bins))


def correlation(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> float:
    """Return Pearson's correlation of two images inside a mask; NaN where one is constant."""
    a, b = first[mask].astype(float), second[mask].astype(float)
    if a.size < 2 or a.std() == 0 or b.std() == 0:
        return float('nan')
    return float(np.corrcoef(a, b)[0, 1])
