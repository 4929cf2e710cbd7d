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
from msapp.imaging.brain import extract_brain
from msapp.imaging.geometry import resample
from msapp.imaging.intensity import normalize
from msapp.inference.normalise import clip_white_matter
from msapp.synthesis import appearance, warp
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LesionBank
from msapp.training.data import (
    LESION_SHARE,
    Item,
    kept_path,
    load_image,
    load_mask,
    make_settings,
)
from msapp.training.recipe import RealCase, Recipe

FOLDER = 'cases'
CERTAIN_WHITE_MATTER = 0.9
# A patch of a patient is centred on a lesion this often, and gets further lesions this often.
LESION_WEIGHT = 0.7
PAINTED = 0.6
# What is kept of a patient beside its images.
WHITE, AFFINE, FROM_MNI = 'white_matter', 'affine', 'from_mni'
SOFTEST_BORDER_MM = 0.8
# Cortex in FLAIR of patients, where white matter's mode is 1.
CORTEX = 1.2


@dataclass(frozen=True)
class Patient:
    """A patient's images, and where lesions may be painted.

    Attributes
    ----------
    images : dict of str to (I, J, K) ndarray of float32
        The mode of white matter is 1.
    white : (I, J, K) ndarray of float32
        Probability of white matter.
    affine : (4, 4) ndarray
        Voxels to world; axes towards right, anterior, superior.
    from_mni : (4, 4) ndarray
        World of MNI152NLin2009aSym to this world.
    """

    images: dict[str, np.ndarray]
    white: np.ndarray
    affine: np.ndarray
    from_mni: np.ndarray

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        arrays: dict[str, Any] = {
            **self.images,
            WHITE: self.white,
            AFFINE: self.affine,
            FROM_MNI: self.from_mni,
        }
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Patient:
        """Read what `save` wrote."""
        with np.load(path) as file:
            arrays = dict(file)
        others = [arrays.pop(name) for name in (WHITE, AFFINE, FROM_MNI)]
        return cls(arrays, *others)


def read_case(case: RealCase, recipe: Recipe, data: Path, cache: Path) -> tio.Subject:
    """Read a real patient; images are scaled to white matter's mode once and kept.

    Raises
    ------
    InputError
        If a file is missing, or the grids differ.
    """
    paths = {name: data / case.images[name] for name in _contrasts(recipe) if name in case.images}
    if not paths:
        raise InputError(f'{case.name}: the recipe lists no image that its network takes.')
    kept = kept_path(cache / FOLDER, case.name, case, paths.values())
    if not kept.exists():
        _prepare(paths).save(kept)
    patient = Patient.load(kept)
    mask = nib.as_closest_canonical(load_mask(data / case.lesions))
    for name, path in paths.items():
        if patient.images[name].shape != mask.shape:
            raise InputError(f'{path}: another grid than {data / case.lesions}.')
    images: dict[str, tio.Image] = {
        name: tio.ScalarImage(tensor=torch.from_numpy(values[None]), affine=patient.affine)
        for name, values in (*patient.images.items(), (WHITE, patient.white))
    }
    lesions = np.asanyarray(mask.dataobj) > 0
    tensor = torch.from_numpy(lesions[None].astype(np.float32))
    # The header of the mask may be off by part of a voxel; the images' counts.
    images['lesions'] = tio.LabelMap(tensor=tensor, affine=patient.affine)
    return tio.Subject(images, name=case.name, from_mni=patient.from_mni)


def _contrasts(recipe: Recipe) -> list[str]:
    return [channel.name for channel in recipe.channels]


def _prepare(paths: Mapping[str, Path]) -> Patient:
    """Scale the images of a patient, each by its own white matter; that of the first is kept."""
    images, found = {}, []
    for name, path in paths.items():
        image = nib.as_closest_canonical(load_image(path))
        brain = extract_brain(image)
        white = resample(brain.white_matter, image)
        values = np.asanyarray(image.dataobj, np.float32)
        images[name] = normalize(values, white > CERTAIN_WHITE_MATTER)
        found.append((brain, white, image.affine))
    brain, white, affine = found[0]
    return Patient(images, white.astype(np.float32), affine, brain.from_mni)


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


class Cases:
    """Patches of real patients, most about lesions, with one contrast missing at times.

    Few patients have few lesions: into most patches those of others are painted.
    """

    description = 'real patients with manual masks'

    def __init__(
        self, subjects: Sequence[tio.Subject], recipe: Recipe, bank: LesionBank | None = None
    ) -> None:
        """Hold the subjects, and the lesions to paint into them."""
        self._subjects = list(subjects)
        self._bank = bank
        self._channels = _contrasts(recipe)
        self._settings = make_settings(recipe)
        self._transform = case_transform()
        weights = {0: 1 - LESION_WEIGHT, 1: LESION_WEIGHT}
        self._sampler = tio.LabelSampler(recipe.window, 'lesions', weights)

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self._subjects)

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
        kept = [name for name in there if rng.random() >= self._settings.missing]
        kept = kept or [there[rng.integers(len(there))]]
        lesions = patch['lesions'].data
        empty = torch.zeros_like(lesions)
        images = [patch[name].data if name in kept else empty for name in self._channels]
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
        patch['lesions'].set_data(torch.maximum(patch['lesions'].data, share[None]))
