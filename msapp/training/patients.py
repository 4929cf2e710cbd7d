"""Real patients with manual lesion masks, as a network for lesions is fed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from msapp.errors import InputError
from msapp.files import atomic_path
from msapp.imaging import geometry
from msapp.imaging.brain import extract_brain, mask_on_grid
from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, correct_bias, normalize
from msapp.imaging.midpoint import find_midpoint
from msapp.imaging.registration import register_linear
from msapp.inference.normalise import clip_white_matter
from msapp.synthesis import appearance, warp
from msapp.synthesis.change import LESION_SHARE
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LesionBank
from msapp.training.data import Item, kept_path, load_image, load_mask, make_settings
from msapp.training.recipe import RealCase, Recipe
from msapp.training.visits import box_of

FOLDER = 'cases'
# A patch of a patient is centred on a lesion this often, and gets further lesions this often.
LESION_WEIGHT = 0.7
PAINTED = 0.6
# What is kept of a patient beside its images, and what else a subject has.
OTHERS = ('white', 'lesions', 'affine', 'from_mni')
WHITE, LESIONS, BRAIN = 'white_matter', 'lesions', 'brain'
MOST_APART_MM = 1.0
SOFTEST_BORDER_MM = 0.8
# Cortex in FLAIR of patients, where white matter's mode is 1.
CORTEX = 1.2


@dataclass(frozen=True)
class Patient:
    """A patient as the app shows one to a network, and where lesions may be painted.

    Attributes
    ----------
    images : dict of str to (I, J, K) ndarray of float32
        The mode of white matter is 1, 0 outside the brain.
    white : (I, J, K) ndarray of float32
        Probability of white matter.
    lesions : (I, J, K) ndarray of bool
        Manual mask.
    affine : (4, 4) ndarray
        Voxels to world; axes towards right, anterior, superior, 1 mm.
    from_mni : (4, 4) ndarray
        World of MNI152NLin2009aSym to this world.
    """

    images: dict[str, np.ndarray]
    white: np.ndarray
    lesions: np.ndarray
    affine: np.ndarray
    from_mni: np.ndarray

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        others = {name: getattr(self, name) for name in OTHERS}
        arrays: dict[str, Any] = {**self.images, **others}
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Patient:
        """Read what `save` wrote."""
        with np.load(path) as file:
            arrays = dict(file)
        return cls(**{name: arrays.pop(name) for name in OTHERS}, images=arrays)


def read_case(case: RealCase, recipe: Recipe, data: Path, cache: Path) -> tio.Subject:
    """Read a real patient; it is prepared once and kept.

    Raises
    ------
    InputError
        If a file is missing or cannot be used, or the mask does not lie on the first image.
    """
    paths = {name: data / case.images[name] for name in _contrasts(recipe) if name in case.images}
    if not paths:
        raise InputError(f'{case.name}: the recipe lists no image that its network takes.')
    mask = data / case.lesions
    kept = kept_path(cache / FOLDER, case.name, case, [*paths.values(), mask])
    if not kept.exists():
        _prepare(paths, mask).save(kept)
    patient = Patient.load(kept)
    images: dict[str, tio.Image] = {
        name: tio.ScalarImage(tensor=torch.from_numpy(values[None]), affine=patient.affine)
        for name, values in (*patient.images.items(), (WHITE, patient.white))
    }
    brain = np.logical_or.reduce([values > 0 for values in patient.images.values()])
    for name, values in ((LESIONS, patient.lesions), (BRAIN, brain)):
        tensor = torch.from_numpy(values[None].astype(np.float32))
        images[name] = tio.LabelMap(tensor=tensor, affine=patient.affine)
    return tio.Subject(images, name=case.name, from_mni=patient.from_mni)


def _contrasts(recipe: Recipe) -> list[str]:
    return [channel.name for channel in recipe.channels]


def _prepare(paths: Mapping[str, Path], mask: Path) -> Patient:
    """Bring the images of a patient into ``individual`` as the app does, one interpolation each."""
    first, *others = (correct_bias(nib.as_closest_canonical(load_image(p))) for p in paths.values())
    drawn = mask_on(first, mask)
    brain = extract_brain(first)
    space = find_midpoint([first], [brain.brain], [brain.from_mni])
    to_first = space.to_visit[0]
    grid = geometry.individual_grid()
    inside = mask_on_grid(brain.brain, grid, to_first)
    white = geometry.resample(brain.white_matter, grid, to_first)
    certain = (white > CERTAIN_WHITE_MATTER) & inside
    box = box_of(inside)
    images = {}
    for name, image in zip(paths, (first, *others), strict=True):
        through = to_first
        if image is not first:
            through = register_linear(first, image, mask=brain.brain) @ to_first
        values = normalize(geometry.resample(image, grid, through), certain)
        images[name] = (values * inside)[box]
    lesions = geometry.resample_mask(drawn, grid, to_first)
    affine = grid.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(grid.affine, [side.start for side in box])
    return Patient(
        images=images,
        white=(white * inside)[box].astype(np.float32),
        lesions=(lesions & inside)[box],
        affine=affine,
        from_mni=space.from_mni,
    )


def mask_on(image: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """Read a mask that was drawn on an image; its header may be off by part of a voxel.

    Raises
    ------
    InputError
        If it cannot be read, or lies on another grid.
    """
    mask = nib.as_closest_canonical(load_mask(path))
    corners = geometry.corner_voxels(image.shape)
    apart = geometry.displacement_mm(mask.affine, image.affine, corners).max()
    if mask.shape != image.shape or apart > MOST_APART_MM:
        raise InputError(
            f'{path}: another grid than that of the first image ({mask.shape} and {image.shape} '
            f'voxels, {apart:.1f} mm apart). Resample the mask onto it.'
        )
    return nib.Nifti1Image(np.asanyarray(mask.dataobj), image.affine)


def case_transform() -> tio.Transform:
    """Return what is varied in a real patient's patch."""
    return tio.Compose(
        [
            tio.RandomFlip(axes=(0,), p=0.5),
            tio.RandomAffine(scales=0.1, degrees=10, p=0.5),
            tio.RandomBiasField(coefficients=0.2, order=2, p=0.3),
            tio.RandomNoise(std=(0, 0.05), p=0.3),
            tio.RandomGamma(log_gamma=(-0.15, 0.15), p=0.3),
            tio.RandomBlur(std=(0, 0.8), p=0.2),
        ]
    )


def _as_large(subject: tio.Subject, window: Sequence[int]) -> tio.Subject:
    """Pad a subject with nothing, where a patch is larger."""
    shape = np.maximum(subject.spatial_shape, window)
    if tuple(shape) == subject.spatial_shape:
        return subject
    return tio.CropOrPad(tuple(shape.tolist()))(subject)


class Cases:
    """Patches of real patients, most about lesions, with one contrast missing at times.

    Few patients have few lesions: into most patches those of others are painted.
    """

    description = 'real patients with manual masks'

    def __init__(
        self, subjects: Sequence[tio.Subject], recipe: Recipe, bank: LesionBank | None = None
    ) -> None:
        """Hold the subjects, and the lesions to paint into them."""
        self._subjects = [_as_large(subject, recipe.window) for subject in subjects]
        self._bank = bank
        self._channels = _contrasts(recipe)
        self._settings = make_settings(recipe)
        self._transform = case_transform()
        weights = {0: 1 - LESION_WEIGHT, 1: LESION_WEIGHT}
        self._sampler = tio.LabelSampler(recipe.window, LESIONS, weights)

    def __len__(self) -> int:
        """Return the number of patients; one may have several visits."""
        return len({subject['name'] for subject in self._subjects})

    def wholes(self) -> list[Item]:
        """Return the whole brain of each visit."""
        items = []
        for subject in self._subjects:
            empty = torch.zeros_like(subject[LESIONS].data)
            images = [subject[n].data if n in subject else empty for n in self._channels]
            target = (subject[LESIONS].data > LESION_SHARE).float()
            items.append({'image': clip_white_matter(torch.cat(images).float()), 'target': target})
        return items

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one patch; torch's own generator is put back."""
        subject = self._subjects[rng.integers(len(self._subjects))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            patch = next(self._sampler(subject, num_patches=1))
            if self._bank is not None and rng.random() < PAINTED:
                self._paint(patch, self._bank, rng)
            patch = self._transform(patch)
        there = [name for name in self._channels if name in patch]
        needed = self._settings.needed
        kept = [n for n in there if n in needed or rng.random() >= self._settings.missing]
        kept = kept or [there[rng.integers(len(there))]]
        lesions = patch[LESIONS].data
        empty = torch.zeros_like(lesions)
        # Noise outside the brain is nothing that the network will ever see.
        brain = patch[BRAIN].data
        images = [patch[name].data * brain if name in kept else empty for name in self._channels]
        return {
            'image': clip_white_matter(torch.cat(images).float()),
            'target': (lesions > LESION_SHARE).float(),
        }

    def _paint(self, patch: tio.Subject, bank: LesionBank, rng: np.random.Generator) -> None:
        """Paint further lesions into the white matter of a patch, in place."""
        settings, shape, mm = self._settings, patch.spatial_shape, patch.spacing[0]
        load = torch.from_numpy(bank.draw(rng, settings.load)).float()
        voxels = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing='ij')).float()
        to_mni = np.linalg.inv(patch['from_mni']) @ patch[WHITE].affine
        share = warp.sample_share(load, warp.to_voxels(voxels, np.linalg.inv(to_mni) @ BANK_AFFINE))
        share = share * patch[WHITE].data[0]
        soft = warp.blur(share, rng.uniform(0, SOFTEST_BORDER_MM) / mm)
        strength = appearance.draw_strength(shape, mm, rng, load.device)
        look = settings.lesions.above(CORTEX)
        for name in self._channels:
            if name in patch:
                image = patch[name].data[0]
                painted = appearance.paint_lesions(image, soft, strength, name, look, rng)
                patch[name].set_data(painted[None])
        patch[LESIONS].set_data(torch.maximum(patch[LESIONS].data, share[None]))
