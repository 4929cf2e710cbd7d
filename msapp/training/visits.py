"""Pairs of real patients' visits, and single ones, as a network for new lesions is fed them.

They are brought into one space as the app does it: N4, midpoint space of 1 mm, the earlier
visit by its affine registration to the later one, one interpolation each. Intensities are scaled
by white matter's mode alone: landmarks of the whole histogram would move with the lesions that
came. Both visits are shown inside the intersection of their brain masks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from msapp.files import atomic_path
from msapp.imaging import geometry
from msapp.imaging.brain import BrainExtraction, extract_brain, mask_on_grid
from msapp.imaging.intensity import CERTAIN_WHITE_MATTER, correct_bias, normalize
from msapp.imaging.midpoint import find_midpoint
from msapp.imaging.registration import register_linear
from msapp.training.data import kept_path, load_image, load_mask
from msapp.training.recipe import RealPair, RealVisit, Recipe

FOLDER = 'pairs'
MARGIN_VOXELS = 4
# The smallest sides of what is kept of a head. Patches are cut from it; see `pad_visits`.
SMALLEST_SIDE = 96
# Lesions are brighter than white matter's mode by a tenth at least.
HYPERINTENSE = 1.1


@dataclass(frozen=True)
class Visits:
    """Two visits of a patient in one space, or one visit twice.

    Attributes
    ----------
    name : str
    images : (2, I, J, K) tensor of float32
        FLAIR of the earlier and the later visit; the mode of white matter is 1, 0 outside the
        brain.
    white : (I, J, K) tensor of float32
        Probability of white matter.
    increase, decrease : (I, J, K) tensor of bool
        Manual masks of what became lesion, and of what ceased to be one.
    affine : (4, 4) ndarray
        Voxels to world; axes towards right, anterior, superior, 1 mm.
    from_mni : (4, 4) ndarray
        World of MNI152NLin2009aSym to this world.
    slice_mm : (2,) ndarray
        Thickness of the visits' slices, mm.
    paired : bool
        Whether there are two visits.
    """

    name: str
    images: torch.Tensor
    white: torch.Tensor
    increase: torch.Tensor
    decrease: torch.Tensor
    affine: np.ndarray
    from_mni: np.ndarray
    slice_mm: np.ndarray
    paired: bool

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file; intensities keep three digits."""
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(
                stream,
                name=self.name,
                images=self.images.numpy().astype(np.float16),
                white=self.white.numpy().astype(np.float16),
                increase=self.increase.numpy(),
                decrease=self.decrease.numpy(),
                affine=self.affine,
                from_mni=self.from_mni,
                slice_mm=self.slice_mm,
                paired=self.paired,
            )

    @classmethod
    def load(cls, path: Path) -> Visits:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(
                name=str(file['name']),
                images=torch.from_numpy(file['images'].astype(np.float32)),
                white=torch.from_numpy(file['white'].astype(np.float32)),
                increase=torch.from_numpy(file['increase']),
                decrease=torch.from_numpy(file['decrease']),
                affine=file['affine'],
                from_mni=file['from_mni'],
                slice_mm=file['slice_mm'],
                paired=bool(file['paired']),
            )


def swap_visits(visits: Visits) -> Visits:
    """Return the visits in reverse: what ceased to be lesion becomes one."""
    return replace(
        visits,
        images=visits.images.flip(0),
        increase=visits.decrease,
        decrease=visits.increase,
        slice_mm=visits.slice_mm[::-1],
    )


def pad_visits(visits: Visits, shape: Sequence[int]) -> Visits:
    """Return visits with nothing added around them, as far as a patch is larger.

    Parameters
    ----------
    visits : Visits
    shape : sequence of int
        Sides of a patch, voxels.
    """
    short = [max(0, side - own) for side, own in zip(shape, visits.white.shape, strict=True)]
    if not any(short):
        return visits
    before = [missing // 2 for missing in short]
    after = [missing - first for missing, first in zip(short, before, strict=True)]
    # torch names the last axis first.
    widths = [width for sides in zip(before[::-1], after[::-1], strict=True) for width in sides]
    affine = visits.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(visits.affine, np.negative(before))
    return replace(
        visits,
        images=functional.pad(visits.images, widths),
        white=functional.pad(visits.white, widths),
        increase=functional.pad(visits.increase, widths),
        decrease=functional.pad(visits.decrease, widths),
        affine=affine,
    )


def keep_lesions(visits: Visits) -> Visits:
    """Drop from the manual masks of change what no reader would take for a lesion.

    They mark regions of change, among them basal ganglia, choroid and fluid that are brighter at
    another scanner. A lesion that came is brighter than white matter, and than it was before;
    one that went was.
    """
    earlier, later = visits.images
    return replace(
        visits,
        increase=_brighter(visits.increase, later, earlier),
        decrease=_brighter(visits.decrease, earlier, later),
    )


def _brighter(mask: torch.Tensor, bright: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Keep the components whose median is that of a lesion in one image and lower in the other."""
    labels, count = ndimage.label(mask.numpy(), np.ones((3, 3, 3)))
    numbers = np.arange(1, count + 1)
    there, before = (
        np.asarray(ndimage.median(image.numpy(), labels, numbers)) for image in (bright, other)
    )
    keep = np.concatenate([[False], (there >= HYPERINTENSE) & (there > before)])
    return torch.from_numpy(keep[labels])


def read_visits(
    recipe: Recipe, data: Path, cache: Path, *, leave_out: Collection[str] = ()
) -> Iterator[Visits]:
    """Give the real pairs and single visits of a recipe; each is prepared once and kept.

    Parameters
    ----------
    recipe : Recipe
    data, cache : Path
        Folder of the data; folder that gets ``pairs/NAME-HASH.npz``, as `kept_path` says.
    leave_out : collection of str
        Names that are neither prepared nor given.

    Raises
    ------
    InputError
        If a file is missing.
    """
    entries: list[RealPair | RealVisit] = [*recipe.data.pairs, *recipe.data.visits]
    for entry in entries:
        if entry.name in leave_out:
            continue
        path = kept_path(cache / FOLDER, entry.name, entry, _files_of(entry, data))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            visits = (
                _prepare_pair(entry, data)
                if isinstance(entry, RealPair)
                else _prepare_visit(entry, data)
            )
            visits.save(path)
        yield Visits.load(path)


def _files_of(entry: RealPair | RealVisit, data: Path) -> list[Path]:
    if isinstance(entry, RealVisit):
        return [data / entry.image]
    paths = (entry.previous, entry.current, entry.increase, entry.decrease, entry.transform)
    return [data / path for path in paths if path]


def _prepare_pair(pair: RealPair, data: Path) -> Visits:
    to_masks = np.eye(4)
    if pair.transform is not None:
        # What resamples the visit onto the masks' space takes points from there to the visit.
        to_masks = np.linalg.inv(geometry.load_transform(data / pair.transform))
    images = [load_image(data / path) for path in (pair.previous, pair.current)]
    masks = [load_mask(data / path) for path in (pair.increase, pair.decrease)]
    return bring_together(pair.name, images, masks, to_masks)


def _prepare_visit(visit: RealVisit, data: Path) -> Visits:
    return bring_together(visit.name, [load_image(data / visit.image)])


def bring_together(
    name: str,
    images: Sequence[nib.Nifti1Image],
    masks: Sequence[nib.Nifti1Image] = (),
    to_masks: np.ndarray | None = None,
) -> Visits:
    """Bring two visits, or one, into one space, as the app does.

    Parameters
    ----------
    name : str
        Of the patient.
    images : sequence of nibabel.Nifti1Image
        FLAIR of the earlier and of the later visit, or of the only one, as they come from the
        scanner.
    masks : sequence of nibabel.Nifti1Image
        Of what became lesion and of what ceased to be one; without them nothing changed.
    to_masks : (4, 4) ndarray, optional
        World of the later image to that of the masks; identity by default.

    Raises
    ------
    InputError
        If a brain is not found.
    """
    images = [correct_bias(nib.as_closest_canonical(image)) for image in images]
    found = [extract_brain(image) for image in images]
    to_visits, from_mni = _register(images, found)
    grid = geometry.individual_grid()
    scaled, whites, brains = [], [], []
    for image, brain, transform in zip(images, found, to_visits, strict=True):
        inside = mask_on_grid(brain.brain, grid, transform)
        white = geometry.resample(brain.white_matter, grid, transform)
        values = geometry.resample(image, grid, transform)
        scaled.append(normalize(values, (white > CERTAIN_WHITE_MATTER) & inside))
        whites.append(white)
        brains.append(inside)
    both = np.logical_and.reduce(brains)
    box = box_of(both)
    affine = grid.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(grid.affine, [side.start for side in box])
    shown = [torch.from_numpy((image * both)[box]) for image in scaled]
    thickness = [max(geometry.spacing_mm(image)) for image in images]
    through = to_visits[-1] if to_masks is None else to_masks @ to_visits[-1]
    changed = [geometry.resample_mask(mask, grid, through) for mask in masks] or [
        np.zeros_like(both)
    ] * 2
    increase, decrease = (torch.from_numpy((mask & both)[box]) for mask in changed)
    return Visits(
        name=name,
        images=torch.stack([shown[0], shown[-1]]),
        white=torch.from_numpy((whites[-1] * both)[box]),
        increase=increase,
        decrease=decrease,
        affine=affine,
        from_mni=from_mni,
        slice_mm=np.array([thickness[0], thickness[-1]]),
        paired=len(images) > 1,
    )


def _register(
    images: Sequence[nib.Nifti1Image], found: Sequence[BrainExtraction]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the maps from ``individual`` to each visit, and from MNI to ``individual``."""
    midpoint = find_midpoint(
        images, [brain.brain for brain in found], [brain.from_mni for brain in found]
    )
    if len(images) == 1:
        return list(midpoint.to_visit), midpoint.from_mni
    to_previous, to_current = midpoint.to_visit
    affine = register_linear(
        images[1],
        images[0],
        kind='Affine',
        mask=found[1].brain,
        initial=to_previous @ np.linalg.inv(to_current),
    )
    return [affine @ to_current, to_current], midpoint.from_mni


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the box about a mask, with a margin, of `SMALLEST_SIDE` where there is room."""
    box = []
    for side, length in zip(
        ndimage.find_objects(mask.astype(np.uint8))[0], mask.shape, strict=True
    ):
        start, stop = side.start - MARGIN_VOXELS, side.stop + MARGIN_VOXELS
        short = max(0, SMALLEST_SIDE - (stop - start))
        start = max(0, start - short // 2)
        box.append(slice(start, min(length, max(stop + short, start + SMALLEST_SIDE))))
    return tuple(box)
