"""What a network for new lesions is fed: drawn pairs, and patches of real patients' visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
import torchio as tio

from msapp.inference.normalise import clip_white_matter
from msapp.synthesis import appearance, warp
from msapp.synthesis.appearance import FLAIR
from msapp.synthesis.change import LESION_SHARE, became, draw_new, drop_unseen
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import SHAPE as BANK_SHAPE
from msapp.synthesis.lesion_bank import LesionBank, LoadSettings
from msapp.synthesis.pairs import CHANNELS, DIMMEST, PairGenerator, PairSettings, draw_rigid
from msapp.synthesis.scanners import Slices, draw_offset, stack_of, unstack
from msapp.training.data import Item, make_pair_settings
from msapp.training.patients import SOFTEST_BORDER_MM
from msapp.training.recipe import Recipe
from msapp.training.visits import Visits, keep_lesions, pad_visits, swap_visits

# Errors of white matter's estimated mode: of both visits alike, and of each.
SHARED_ERROR, OWN_ERROR = 0.06, 0.03
# Share of patches that show two visits; in the others one visit is paired with itself.
TWO_VISITS = 0.5
# A patch is about a change this often, give or take this share of its side.
CHANGE_CENTRED, OFF_CENTRE = 0.7, 0.25
SWAPPED = 0.3
# Share of patches that get lesions which come, and lesions which stay.
NEW_PAINTED, OLD_PAINTED = 0.7, 0.3
OLD = LoadSettings(none=0, patient=0.7, second=0, thinned=1.0, singles=4)
# New lesions are painted where tissue is not bright already, relative to white matter.
BRIGHT = 1.25
CONTRAST_SPREAD = 0.08
AXIAL = 2


def pair_transform(*, noisy: bool = False) -> tio.Transform:
    """Return what is varied in a patch: places alike at both visits, intensities at each.

    Parameters
    ----------
    noisy : bool
        Noise and shading in every patch: for one visit paired with itself, which shares its own.
    """
    often = 1.0 if noisy else 0.3
    return tio.Compose(
        [
            tio.RandomFlip(axes=(0,), p=0.5),
            tio.RandomAffine(scales=0.1, degrees=10, p=0.5),
            tio.RandomBiasField(coefficients=0.2, order=2, p=often),
            tio.RandomNoise(std=(0.01, 0.05), p=often),
            tio.RandomGamma(log_gamma=(-0.15, 0.15), p=0.3),
            tio.RandomBlur(std=(0, 0.8), p=0.2),
        ]
    )


@dataclass
class Patch:
    """A part of two visits.

    Attributes
    ----------
    images : (2, I, J, K) tensor of float32
    white : (I, J, K) tensor of float32
    increase : (I, J, K) tensor of bool
    affine, from_mni : (4, 4) ndarray
        As in `Visits`.
    slice_mm : (2,) ndarray
    """

    images: torch.Tensor
    white: torch.Tensor
    increase: torch.Tensor
    affine: np.ndarray
    from_mni: np.ndarray
    slice_mm: np.ndarray


def cut_patch(visits: Visits, corner: Sequence[int], shape: Sequence[int]) -> Patch:
    """Cut a part out of two visits; the tensors are new."""
    box = tuple(slice(start, start + side) for start, side in zip(corner, shape, strict=True))
    affine = visits.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(visits.affine, corner)
    return Patch(
        images=visits.images[:, *box].clone(),
        white=visits.white[box],
        increase=visits.increase[box].clone(),
        affine=affine,
        from_mni=visits.from_mni,
        slice_mm=visits.slice_mm,
    )


def pair_with_itself(
    visits: Visits,
    visit: int,
    corner: Sequence[int],
    rng: np.random.Generator,
    settings: PairSettings,
) -> Patch:
    """Cut a patch of one visit, and another of the same that is a little misregistered.

    Either may be the earlier. Nothing increases.
    """
    patch = cut_patch(visits, corner, settings.shape)
    whole = visits.images[visit]
    moved = warp.sample_share(whole, _misplaced(corner, settings, rng))
    order = [patch.images[visit], moved * (patch.images[visit] > 0)]
    if rng.random() < 0.5:
        order.reverse()
    return replace(
        patch,
        images=torch.stack(order),
        increase=torch.zeros_like(patch.increase),
        slice_mm=np.repeat(visits.slice_mm[visit], 2),
    )


def _misplaced(
    corner: Sequence[int], settings: PairSettings, rng: np.random.Generator
) -> torch.Tensor:
    """Return the voxels, (3, I, J, K), that a slightly wrong registration takes."""
    grid = _grid(settings.shape)
    matrix, shift_mm = draw_rigid(rng, settings)
    middle = (torch.tensor(settings.shape) - 1)[:, None, None, None] / 2
    turned = torch.einsum('ab,bijk->aijk', torch.from_numpy(matrix).float(), grid - middle)
    shift = torch.from_numpy(shift_mm / settings.spacing_mm + np.array(corner)).float()
    return turned + middle + shift[:, None, None, None]


def _grid(shape: Sequence[int]) -> torch.Tensor:
    return torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing='ij')).float()


def paint_change(
    patch: Patch,
    old: np.ndarray,
    new: np.ndarray,
    rng: np.random.Generator,
    settings: PairSettings,
) -> None:
    """Paint lesions of the bank into a patch, in place: old ones at both visits, new ones later.

    They are as blurred across slices as the visit that they are painted into.

    Parameters
    ----------
    patch : Patch
    old, new : (182, 218, 182) ndarray of bool
        On the bank's grid.
    """
    shape, mm = tuple(patch.white.shape), settings.spacing_mm
    on_bank = warp.to_voxels(
        _grid(shape), np.linalg.inv(patch.affine) @ patch.from_mni @ BANK_AFFINE
    )
    dark = warp.blur(patch.images[0], 1 / mm) < BRIGHT
    before, fresh = (
        warp.sample_share(torch.from_numpy(mask).float(), on_bank) * patch.white
        if mask.any()
        else torch.zeros(shape)
        for mask in (old, new)
    )
    fresh = fresh * dark * (before == 0)
    strength = appearance.draw_strength(shape, mm, rng, patch.white.device).clamp(min=DIMMEST)
    softness = rng.uniform(0, SOFTEST_BORDER_MM) / mm
    contrast = rng.uniform(*settings.lesions.flair)
    without = patch.images[1].clone()
    for visit, share in enumerate((before, torch.maximum(before, fresh))):
        if not share.any():
            continue
        drawn = contrast * rng.uniform(1 - CONTRAST_SPREAD, 1 + CONTRAST_SPREAD)
        soft = through_slices(warp.blur(share, softness), mm, patch.slice_mm[visit], rng)
        image = patch.images[visit]
        look = replace(settings.lesions, flair=(drawn, drawn))
        painted = appearance.paint_lesions(image, soft, strength, FLAIR, look, rng)
        patch.images[visit] = painted * (image > 0)
    came = drop_unseen(became(fresh, before) > 0, patch.images[1] - without)
    patch.increase = (patch.increase & (before <= LESION_SHARE)) | came


def through_slices(
    share: torch.Tensor, spacing_mm: float, slice_mm: float, rng: np.random.Generator
) -> torch.Tensor:
    """Blur a map as axial slices do that were interpolated; they may begin anywhere.

    Parameters
    ----------
    share : (I, J, K) tensor of float32
    spacing_mm : float
        Of the grid, isotropic.
    slice_mm : float
        Thickness of the slices; no more than ``spacing_mm`` leaves the map as it is.
    rng : numpy.random.Generator

    Returns
    -------
    (I, J, K) tensor of float32
    """
    if slice_mm <= spacing_mm:
        return share
    slices = Slices(AXIAL, float(slice_mm))
    offset = draw_offset(slices, spacing_mm, rng)
    stack, padded = stack_of(share, spacing_mm, slices, offset)
    return unstack(stack, padded, AXIAL, offset, share.shape[AXIAL])


class PairCases:
    """Patches of real patients' visits: two of a patient, or one with itself."""

    description = "real patients' visits, those of pairs with manual masks of change"

    def __init__(
        self, visits: Sequence[Visits], recipe: Recipe, bank: LesionBank | None = None
    ) -> None:
        """Hold the visits, and the lesions to paint into them."""
        self._settings = make_pair_settings(recipe)
        self._all = [pad_visits(keep_lesions(patient), self._settings.shape) for patient in visits]
        self._pairs = [patient for patient in self._all if patient.paired]
        self._bank = bank

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self._all)

    def wholes(self) -> list[Item]:
        """Return the whole brains of those with two visits."""
        return [
            {'image': clip_white_matter(pair.images), 'target': pair.increase[None].float()}
            for pair in self._pairs
        ]

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one patch; torch's own generator is put back."""
        two = bool(self._pairs) and rng.random() < TWO_VISITS
        old, new = self._loads(rng)
        patch = self._two_visits(rng) if two else self._one_visit(new, rng)
        paint_change(patch, old, new, rng, self._settings)
        return _vary(patch, pair_transform(noisy=not two), rng)

    def _loads(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw lesions that stay and lesions that come, on the bank's grid."""
        old, new = np.zeros(BANK_SHAPE, bool), np.zeros(BANK_SHAPE, bool)
        if self._bank is None:
            return old, new
        if rng.random() < OLD_PAINTED:
            old = self._bank.draw(rng, OLD)
        if rng.random() < NEW_PAINTED:
            new = draw_new(self._bank, old, rng, self._settings)
        return old, new

    def _two_visits(self, rng: np.random.Generator) -> Patch:
        patient = self._pairs[rng.integers(len(self._pairs))]
        if rng.random() < SWAPPED:
            patient = swap_visits(patient)
        wanted = patient.increase
        if rng.random() >= CHANGE_CENTRED or not wanted.any():
            wanted = patient.images[1] > 0
        voxels = torch.nonzero(wanted)
        middle = voxels[rng.integers(len(voxels))].numpy()
        return cut_patch(patient, self._corner(patient, middle, rng), self._settings.shape)

    def _one_visit(self, new: np.ndarray, rng: np.random.Generator) -> Patch:
        """Cut a patch of one visit with itself, often where a new lesion is to come."""
        patient = self._all[rng.integers(len(self._all))]
        voxels = np.argwhere(new)
        if len(voxels) and rng.random() < CHANGE_CENTRED:
            to_patient = np.linalg.inv(patient.affine) @ patient.from_mni @ BANK_AFFINE
            middle = nib.affines.apply_affine(to_patient, voxels[rng.integers(len(voxels))])
        else:
            white = torch.nonzero(patient.white > LESION_SHARE)
            middle = white[rng.integers(len(white))].numpy()
        corner = self._corner(patient, middle, rng)
        return pair_with_itself(patient, int(rng.integers(2)), corner, rng, self._settings)

    def _corner(
        self, patient: Visits, middle: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, ...]:
        """Return the first voxel of a patch about a voxel, within the image."""
        sides = np.array(self._settings.shape)
        first = middle - sides / 2 + rng.uniform(-OFF_CENTRE, OFF_CENTRE, 3) * sides
        last = np.array(patient.white.shape) - sides
        return tuple(np.clip(np.rint(first), 0, last).astype(int).tolist())


def _vary(patch: Patch, transform: tio.Transform, rng: np.random.Generator) -> Item:
    """Augment a patch; what is outside the brain stays 0."""
    subject = tio.Subject(
        {
            **{
                name: tio.ScalarImage(tensor=image[None])
                for name, image in zip(CHANNELS, patch.images, strict=True)
            },
            'brain': tio.LabelMap(tensor=(patch.images[1:] > 0).float()),
            'increase': tio.LabelMap(tensor=patch.increase[None].float()),
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        subject = transform(subject)
    brain = subject['brain'].data > 0
    image = torch.cat([subject[name].data for name in CHANNELS]).float()
    increase = subject['increase'].data > LESION_SHARE
    return {'image': clip_white_matter(image) * brain, 'target': (increase & brain).float()}


class DrawnPairs:
    """Drawn pairs, as a network is fed with them."""

    def __init__(self, generator: PairGenerator) -> None:
        """Hold the generator."""
        self._generator = generator

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one pair."""
        pair = self._generator.draw_pair(rng)
        scales = (1 + rng.normal(0, SHARED_ERROR)) * (1 + rng.normal(0, OWN_ERROR, len(CHANNELS)))
        scale = torch.from_numpy(scales).float().to(pair.images.device)[:, None, None, None]
        target = (pair.increase[None] > LESION_SHARE).float()
        return {'image': clip_white_matter(pair.images * scale), 'target': target}
