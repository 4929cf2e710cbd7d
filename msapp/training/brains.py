"""Real heads with manual brain masks: they teach the brain's border, not the zones within it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from msapp.imaging import geometry
from msapp.imaging.intensity import correct_bias
from msapp.imaging.registration import coarse
from msapp.inference.anatomy import CENTRED_MM, window_about
from msapp.inference.normalise import scale_head
from msapp.synthesis.warp import draw_affine
from msapp.training.data import Item, load_image, make_settings
from msapp.training.losses import SOME_CLASS
from msapp.training.recipe import RealBrain, Recipe

FOLDER = 'brains'


@dataclass(frozen=True)
class HeadWithBrain:
    """A head and its brain mask on one grid.

    Attributes
    ----------
    image : nibabel.Nifti1Image of float32
        Bias-corrected, at half the network's voxel.
    brain : nibabel.Nifti1Image of uint8
    centre_mm : (3,) ndarray
        Of the brain.
    """

    image: nib.Nifti1Image
    brain: nib.Nifti1Image
    centre_mm: np.ndarray


def read_brains(
    recipe: Recipe, data: Path, cache: Path, *, leave_out: Collection[str] = ()
) -> list[HeadWithBrain]:
    """Return the heads of a recipe; each is corrected once and kept.

    Parameters
    ----------
    recipe : Recipe
    data : Path
        Folder that the recipe's paths start from.
    cache : Path
        Gets ``brains/IMAGE``, with the ending ``_brain`` for the mask.
    leave_out : collection of str
        Names of heads not to be read.

    Raises
    ------
    InputError
        If a file is missing or broken.
    """
    heads = []
    for case in recipe.data.brains:
        if case.name in leave_out:
            continue
        kept = cache / FOLDER / Path(case.image).name
        mask = kept.with_name(kept.name.replace('.nii', '_brain.nii'))
        # The mask is written last.
        if not mask.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            image, brain = _prepare(case, data, recipe.spacing_mm / 2)
            nib.save(image, kept)
            nib.save(brain, mask)
        brain = load_image(mask)
        heads.append(HeadWithBrain(load_image(kept), brain, geometry.centre_of_mass_mm(brain)))
    return heads


def _prepare(
    case: RealBrain, data: Path, voxel_mm: float
) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    image = coarse(correct_bias(nib.as_closest_canonical(load_image(data / case.image))), voxel_mm)
    to_mask = np.eye(4)
    if case.transform is not None:
        # What resamples the image onto the mask's space takes points from there to the image.
        to_mask = np.linalg.inv(geometry.load_transform(data / case.transform))
    brain = geometry.resample_mask(load_image(data / case.brain), image, to_mask)
    return image, geometry.like(brain.astype(np.uint8), image)


def head_transform() -> tio.Transform:
    """Return what is varied in the intensities of a real head."""
    return tio.Compose(
        [
            tio.RandomBiasField(coefficients=0.2, order=2, p=0.5),
            tio.RandomGamma(log_gamma=(-0.3, 0.3), p=0.5),
            tio.RandomNoise(std=(0, 0.05), p=0.3),
            tio.RandomBlur(std=(0, 1.0), p=0.3),
        ]
    )


class BrainCases:
    """Real heads, moved and varied, with what is brain in them."""

    description = 'images of real heads with manual brain masks'

    def __init__(self, heads: Sequence[HeadWithBrain], recipe: Recipe) -> None:
        """Hold the heads."""
        self._heads = list(heads)
        self._recipe = recipe
        self._warp = make_settings(recipe).warp
        self._transform = head_transform()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._heads)

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one head; torch's own generator is put back."""
        head = self._heads[rng.integers(len(self._heads))]
        grid = window_about(
            head.centre_mm + rng.uniform(-CENTRED_MM, CENTRED_MM, 3),
            self._recipe.window,
            self._recipe.spacing_mm,
        )
        turn = draw_affine(rng, self._warp)
        # About the middle of the brain.
        move = nib.affines.from_matvec(turn, head.centre_mm - turn @ head.centre_mm)
        image = geometry.resample(head.image, grid, move)
        brain = geometry.resample_mask(head.brain, grid, move)
        scaled = scale_head(torch.from_numpy(image))[None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            varied = self._transform(tio.ScalarImage(tensor=scaled)).data
        target = torch.from_numpy(brain)[None].long() * SOME_CLASS
        return {'image': scale_head(varied.clamp(min=0)), 'target': target}
