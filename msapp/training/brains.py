"""Real heads with manual brain masks: they teach the brain's border, not the zones within it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from msapp.errors import InputError
from msapp.files import atomic_path
from msapp.imaging import geometry
from msapp.imaging.intensity import correct_bias
from msapp.imaging.registration import coarse
from msapp.inference.anatomy import CENTRED_MM, window_about
from msapp.inference.normalise import scale_head
from msapp.synthesis.warp import draw_affine
from msapp.training.data import Item, kept_path, load_image, load_mask, make_settings
from msapp.training.losses import SOME_CLASS
from msapp.training.recipe import RealBrain, Recipe

FOLDER = 'brains'


@dataclass(frozen=True)
class HeadWithBrain:
    """A head and its brain mask on one grid.

    Attributes
    ----------
    name : str
        Of the person.
    image : nibabel.Nifti1Image of float32
        Bias-corrected, at half the network's voxel.
    brain : nibabel.Nifti1Image of uint8
    """

    name: str
    image: nib.Nifti1Image
    brain: nib.Nifti1Image

    @property
    def centre_mm(self) -> np.ndarray:
        """Middle of the brain."""
        return geometry.centre_of_mass_mm(self.brain)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        image, brain = (np.asanyarray(item.dataobj) for item in (self.image, self.brain))
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(
                stream, name=self.name, image=image, brain=brain, affine=self.image.affine
            )

    @classmethod
    def load(cls, path: Path) -> HeadWithBrain:
        """Read what `save` wrote."""
        with np.load(path) as file:
            images = (nib.Nifti1Image(file[key], file['affine']) for key in ('image', 'brain'))
            return cls(str(file['name']), *images)


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
        Gets ``brains/NAME-HASH.npz``, as `kept_path` says.
    leave_out : collection of str
        Names of heads not to be read.

    Raises
    ------
    InputError
        If a file is missing or cannot be read.
    """
    heads = []
    for case in recipe.data.brains:
        if case.name in leave_out:
            continue
        voxel_mm = recipe.spacing_mm / 2
        files = [data / path for path in (case.image, case.brain, case.transform) if path]
        kept = kept_path(cache / FOLDER, case.name, (case, voxel_mm), files)
        if not kept.exists():
            _prepare(case, data, voxel_mm).save(kept)
        heads.append(HeadWithBrain.load(kept))
    return heads


def _prepare(case: RealBrain, data: Path, voxel_mm: float) -> HeadWithBrain:
    image = coarse(correct_bias(nib.as_closest_canonical(load_image(data / case.image))), voxel_mm)
    to_mask = np.eye(4)
    if case.transform is not None:
        # What resamples the image onto the mask's space takes points from there to the image.
        to_mask = np.linalg.inv(geometry.load_transform(data / case.transform))
    brain = geometry.resample_mask(load_mask(data / case.brain), image, to_mask)
    if not brain.any():
        raise InputError(
            f'{data / case.brain}: no brain where {case.image} lies. Check the mask, and the '
            'transform.'
        )
    return HeadWithBrain(case.name, image, geometry.like(brain.astype(np.uint8), image))


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

    def __init__(self, heads: Sequence[HeadWithBrain], recipe: Recipe) -> None:
        """Hold the heads."""
        self.description = f'real heads with manual brain masks ({len(heads)} images)'
        self._heads = [(head, head.centre_mm) for head in heads]
        self._recipe = recipe
        self._warp = make_settings(recipe).warp
        self._transform = head_transform()

    def __len__(self) -> int:
        """Return the number of people; of one there may be several images."""
        return len({head.name for head, _ in self._heads})

    def wholes(self) -> list[Item]:
        """Return each head in a window about its brain."""
        items = []
        for head, centre_mm in self._heads:
            grid = window_about(centre_mm, self._recipe.window, self._recipe.spacing_mm)
            image = scale_head(torch.from_numpy(geometry.resample(head.image, grid)))[None]
            brain = torch.from_numpy(geometry.resample_mask(head.brain, grid))[None]
            items.append({'image': image, 'target': brain.long() * SOME_CLASS})
        return items

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one head; torch's own generator is put back."""
        head, centre_mm = self._heads[rng.integers(len(self._heads))]
        grid = window_about(
            centre_mm + rng.uniform(-CENTRED_MM, CENTRED_MM, 3),
            self._recipe.window,
            self._recipe.spacing_mm,
        )
        turn = draw_affine(rng, self._warp)
        # About the middle of the brain.
        move = nib.affines.from_matvec(turn, centre_mm - turn @ centre_mm)
        image = geometry.resample(head.image, grid, move)
        brain = geometry.resample_mask(head.brain, grid, move)
        scaled = scale_head(torch.from_numpy(image))[None]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            varied = self._transform(tio.ScalarImage(tensor=scaled)).data
        target = torch.from_numpy(brain)[None].long() * SOME_CLASS
        return {'image': scale_head(varied.clamp(min=0)), 'target': target}
