"""Shapes of real lesions, to be painted into heads that have none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.errors import InputError

# The grid on which loads are composed: MNI152, 1 mm, axes towards right, anterior, superior.
SHAPE = (182, 218, 182)
AFFINE = np.array([[1.0, 0, 0, -91], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
# Larger components are confluent loads of whole patients, of which the masks hold enough.
LARGEST_COMPONENT_MM3 = 3000
SMALLEST_COMPONENT_MM3 = 4


@dataclass(frozen=True)
class LoadSettings:
    """What a drawn load is made of.

    Attributes
    ----------
    none : float
        Share of heads without any lesion.
    patient : float
        Share, of the others, that start from a whole patient's mask.
    second : float
        Share of those that get a second patient's mask on top: heavy, confluent loads.
    thinned : float
        Share of those of which half of the components are left out.
    singles : float
        Mean number of single components that are added (exponential distribution).
    shift_mm : float
        Largest shift of mask and components from where they were seen.
    """

    none: float = 0.05
    patient: float = 0.75
    second: float = 0.2
    thinned: float = 0.4
    singles: float = 8.0
    shift_mm: float = 4.0


class LesionBank:
    """Masks of whole patients and single components, on one MNI grid."""

    def __init__(self, masks: Sequence[np.ndarray], components: Sequence[np.ndarray]) -> None:
        """Hold boolean masks on the bank's grid, and (N, 3) voxel indices of components."""
        self._masks = [np.packbits(mask.ravel()) for mask in masks]
        self._components = list(components)

    @classmethod
    def read(cls, folder: Path, *, leave_out: Collection[str] = ()) -> LesionBank:
        """Read ``ljubljana/*_mask.nii.gz`` and ``csim_components.npz``.

        Parameters
        ----------
        folder : Path
        leave_out : collection of str
            Patients whose masks are not read (beginnings of file names): those that a network
            is measured on.

        Raises
        ------
        InputError
            If there is no mask.
        """
        paths = [
            path
            for path in sorted((folder / 'ljubljana').glob('*_mask.nii.gz'))
            if path.name.partition('_')[0] not in leave_out
        ]
        if not paths:
            raise InputError(f'{folder}: no lesion masks (ljubljana/*_mask.nii.gz).')
        masks = []
        for path in paths:
            image = nib.as_closest_canonical(nib.load(path))
            mask = np.zeros(SHAPE, bool)
            voxels = np.argwhere(np.asanyarray(image.dataobj) > 0)
            world = nib.affines.apply_affine(image.affine, voxels)
            index = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), world)).astype(int)
            index = index[((index >= 0) & (index < SHAPE)).all(axis=1)]
            mask[tuple(index.T)] = True
            masks.append(mask)
        return cls(masks, _read_components(folder / 'csim_components.npz'))

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self._masks)

    def draw(self, rng: np.random.Generator, settings: LoadSettings) -> np.ndarray:
        """Compose the lesions of one head.

        Returns
        -------
        (182, 218, 182) ndarray of bool
        """
        load = np.zeros(SHAPE, bool)
        if rng.random() < settings.none:
            return load
        singles = rng.exponential(settings.singles)
        if rng.random() < settings.patient:
            load |= self._patient(rng, settings)
            if rng.random() < settings.second:
                load |= self._patient(rng, settings)
        else:
            singles = singles * 2 + 1
        for _ in range(int(singles)):
            _put(load, self._components[rng.integers(len(self._components))], rng, settings)
        return load

    def _patient(self, rng: np.random.Generator, settings: LoadSettings) -> np.ndarray:
        packed = self._masks[rng.integers(len(self._masks))]
        mask = np.unpackbits(packed, count=int(np.prod(SHAPE))).reshape(SHAPE).astype(bool)
        if rng.random() < 0.5:
            mask = mask[::-1]
        if rng.random() < settings.thinned:
            labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
            keep = rng.random(count + 1) < 0.5
            keep[0] = False
            mask = keep[labels]
        shift = np.rint(rng.uniform(-1, 1, 3) * settings.shift_mm).astype(int)
        return np.roll(mask, tuple(shift), (0, 1, 2))


def _read_components(path: Path) -> list[np.ndarray]:
    if not path.exists():
        raise InputError(f'{path}: not found; it holds the single lesions.')
    with np.load(path) as file:
        if tuple(file['shape']) != SHAPE or not np.allclose(file['affine'], AFFINE):
            raise InputError(f'{path}: another grid than MNI152, 1 mm, {SHAPE}.')
        parts = np.split(file['coords'], file['starts'][1:-1])
    return [part for part in parts if SMALLEST_COMPONENT_MM3 <= len(part) <= LARGEST_COMPONENT_MM3]


def _put(
    load: np.ndarray, voxels: np.ndarray, rng: np.random.Generator, settings: LoadSettings
) -> None:
    """Add one component, shifted and perhaps mirrored, in place."""
    voxels = voxels.astype(int)
    if rng.random() < 0.5:
        voxels = voxels * [-1, 1, 1] + [SHAPE[0] - 1, 0, 0]
    voxels = voxels + np.rint(rng.uniform(-1, 1, 3) * settings.shift_mm).astype(int)
    inside = ((voxels >= 0) & (voxels < SHAPE)).all(axis=1)
    load[tuple(voxels[inside].T)] = True
