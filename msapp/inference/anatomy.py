"""Zones of a head, and its brain, by the anatomy network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from msapp.errors import InputError
from msapp.imaging import geometry
from msapp.imaging.registration import coarse
from msapp.imaging.tissue import MM3_PER_ML
from msapp.inference.normalise import scale_head
from msapp.inference.predictor import predict

if TYPE_CHECKING:
    import torch
    from torch import nn

    from msapp.models.spec import ModelSpec

# The network has learnt heads whose brain lies within this of the middle of its window.
CENTRED_MM = 8.0
MAX_PASSES = 3
# Less than the smallest adult brain by far: the network has found none.
SMALLEST_BRAIN_ML = 200.0


def predict_zones(
    image: nib.Nifti1Image,
    network: nn.Module,
    spec: ModelSpec,
    *,
    device: torch.device | str = 'cpu',
) -> nib.Nifti1Image:
    """Tell the zones of a head apart.

    The head is looked at through one window about its middle, then again about the brain that
    was found there.

    Parameters
    ----------
    image : nibabel.Nifti1Image, 3-D
        Any contrast and resolution; best bias-corrected.
    network, spec
        Of a model whose task is ``anatomy``.
    device : torch.device or str

    Returns
    -------
    nibabel.Nifti1Image, (I, J, K, C) of float32
        Probability of each class of ``spec.classes``, at the network's resolution, axes towards
        right, anterior, superior.

    Raises
    ------
    InputError
        If no brain is found.
    """
    # Against aliasing; half the network's voxel keeps what it can see.
    image = coarse(image, min(spec.spacing_mm) / 2)
    centre = _middle_of_head(image)
    for _ in range(MAX_PASSES):
        grid = window_about(centre, spec.window, spec.spacing_mm)
        probabilities = _predict(image, network, spec, grid, device)
        brain = 1 - probabilities[0]
        if not brain.any():
            break
        found = geometry.centre_of_mass_mm(geometry.like(brain, grid))
        if np.linalg.norm(found - centre) <= CENTRED_MM:
            break
        centre = found
    # Not sooner: a first window may cut most of the brain of a head on a large body.
    volume_ml = float(brain.sum()) * geometry.voxel_volume_mm3(grid) / MM3_PER_ML
    if volume_ml < SMALLEST_BRAIN_ML:
        raise InputError(
            f'the anatomy network finds {volume_ml:.0f} ml of brain, too little. Check the '
            "image's orientation and field of view, use --brain-extraction template, or give "
            'a brain mask with --derivatives.'
        )
    return nib.Nifti1Image(np.moveaxis(probabilities, 0, -1), grid.affine)


def _middle_of_head(image: nib.Nifti1Image) -> np.ndarray:
    data = np.asanyarray(image.dataobj, dtype=np.float32)
    return geometry.centre_of_mass_mm(geometry.like(data > data.mean(), image))


def window_about(
    centre_mm: np.ndarray, shape: Sequence[int], spacing_mm: Sequence[float] | float
) -> nib.Nifti1Image:
    """Return the grid of one window about a point, axes towards right, anterior, superior."""
    affine = np.diag([*np.broadcast_to(spacing_mm, 3), 1.0])
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return nib.Nifti1Image(np.zeros(shape, np.uint8), affine)


def _predict(
    image: nib.Nifti1Image,
    network: nn.Module,
    spec: ModelSpec,
    grid: nib.Nifti1Image,
    device: torch.device | str,
) -> np.ndarray:
    import torch

    resampled = torch.from_numpy(geometry.resample(image, grid))
    logits = predict(
        network, scale_head(resampled)[None].numpy(), window=spec.window, device=device
    )
    probabilities: np.ndarray = torch.softmax(torch.from_numpy(logits), dim=0).numpy()
    return probabilities
