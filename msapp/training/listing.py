"""Real patients of a recipe that are listed from a BIDS dataset with manual masks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib

from msapp.bids.query import plan_participants
from msapp.errors import InputError, UsageError
from msapp.settings import Settings
from msapp.training.data import load_image
from msapp.training.patients import mask_on
from msapp.training.recipe import RealCase, RealDataset, Recipe

logger = logging.getLogger(__name__)


def with_listed(recipe: Recipe, data: Path) -> Recipe:
    """Return a recipe with the visits of its BIDS dataset among its real cases.

    The images are those that the app would use, as the scanner made them; the mask of each visit
    must lie on the first that the network takes. Each participant is a fold.

    Parameters
    ----------
    recipe : Recipe
    data : Path
        Folder that the recipe's paths start from.

    Raises
    ------
    UsageError
        If there is no such folder.
    InputError
        If an image cannot be used, or a mask is missing, is not the only one, or has another grid.
    """
    dataset = recipe.data.bids
    if dataset is None:
        return recipe
    root = data / dataset.folder
    for folder in (root, root / dataset.masks):
        if not folder.is_dir():
            raise UsageError(f'data.bids: {folder}: no such folder. Check the recipe, and --data.')
    listed, without = [], []
    for label, stem, images in _visits(root, dataset, recipe):
        mask = _find_mask(root, dataset, label, stem)
        if mask is None:
            without.append(stem)
            continue
        mask_on(nib.as_closest_canonical(load_image(next(iter(images.values())))), mask)
        paths = {name: os.path.relpath(path, data) for name, path in images.items()}
        listed.append(RealCase(name=label, images=paths, lesions=os.path.relpath(mask, data)))
    if without or not listed:
        raise InputError(
            f'{root / dataset.masks}: no mask of {", ".join(without) or "any visit"}. A mask is '
            f'named PARTICIPANT/SESSION/anat/PARTICIPANT_SESSION{dataset.mask_names}. Add it, or '
            'name the participant or visit in data.bids.leave_out.'
        )
    folds = {case.name: (case.name,) for case in listed} | recipe.data.folds
    changes = {'real': (*recipe.data.real, *listed), 'folds': folds}
    return recipe.model_copy(update={'data': recipe.data.model_copy(update=changes)})


def _visits(
    root: Path, dataset: RealDataset, recipe: Recipe
) -> Iterator[tuple[str, str, dict[str, Path]]]:
    """Give participant, participant and session, and images by contrast, of visits to be used."""
    contrasts = [channel.name for channel in recipe.channels]
    needed = {channel.name for channel in recipe.channels if not channel.may_be_missing}
    settings = Settings(bids_dir=root, output_dir=root, levels=('participant',))
    for participant in plan_participants(settings):
        if participant.label in dataset.leave_out:
            continue
        if participant.error:
            raise InputError(
                f'{participant.error} Or name {participant.label} in data.bids.leave_out.'
            )
        for visit in participant.visits:
            stem = '_'.join(filter(None, (participant.label, visit.session)))
            if stem in dataset.leave_out:
                continue
            images = {name: visit.images[name] for name in contrasts if name in visit.images}
            if not images or not needed <= images.keys():
                found = ', '.join(visit.images)
                logger.warning('%s: not used, the network needs more than %s.', stem, found)
                continue
            yield participant.label, stem, images


def _find_mask(root: Path, dataset: RealDataset, label: str, stem: str) -> Path | None:
    """Return the mask of a visit, None if there is none."""
    session = stem.removeprefix(label).removeprefix('_')
    folder = root / dataset.masks / label / session / 'anat'
    masks = sorted(folder.glob(f'{stem}{dataset.mask_names}'))
    if len(masks) > 1:
        raise InputError(
            f'{stem}: several masks ({", ".join(path.name for path in masks)}). Say which with '
            'data.bids.mask_names, such as "*_label-L_mask.nii*".'
        )
    return masks[0] if masks else None
