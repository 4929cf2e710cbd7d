"""Shapes of real lesions, to be painted into heads that have none."""

from __future__ import annotations

import hashlib
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
# The patients' masks lie in MNI's grid by a rigid map and are of native size: the brains of `cs07`
# and `cs19`, of which the images are there too, have to be scaled so much, towards right, anterior
# and superior, to fill MNI's brain (mean of their affine registrations, FLAIR and T1w). The single
# components come in MNI's own size.
RIGID_TO_MNI = np.diag([1.14, 1.15, 1.25, 1.0])
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
            raise InputError(
                f'{folder}: no lesion masks (ljubljana/*_mask.nii.gz). Check lesion_priors of the '
                'recipe, and --data.'
            )
        masks = [_read_mask(path) for path in paths]
        return cls(masks, _read_components(folder / 'csim_components.npz'))

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self._masks)

    def digest(self) -> str:
        """Return the SHA-256 of all masks and components, as 64 hexadecimal digits."""
        found = hashlib.sha256()
        for shape in (*self._masks, *self._components):
            found.update(shape.tobytes())
        return found.hexdigest()

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
            mask = _mirrored(mask)
        if rng.random() < settings.thinned:
            labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
            keep = rng.random(count + 1) < 0.5
            keep[0] = False
            mask = keep[labels]
        shift = np.rint(rng.uniform(-1, 1, 3) * settings.shift_mm).astype(int)
        return np.roll(mask, tuple(shift), (0, 1, 2))


def _read_mask(path: Path) -> np.ndarray:
    """Bring a patient's mask to the bank's grid, and to MNI's size."""
    image = nib.as_closest_canonical(nib.load(path))
    to_bank = np.linalg.inv(AFFINE) @ RIGID_TO_MNI @ image.affine
    lesion = np.asanyarray(image.dataobj) > 0
    mask = np.zeros(SHAPE, bool)
    if not lesion.any():
        return mask
    corners = nib.affines.apply_affine(to_bank, np.argwhere(lesion))
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2, 0, SHAPE)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 3, 0, SHAPE)
    box = tuple(map(slice, low, high))
    from_box = np.linalg.inv(to_bank) @ nib.affines.from_matvec(np.eye(3), low)
    # Not interpolated: a threshold of half would shrink small lesions, or lose them.
    mask[box] = ndimage.affine_transform(
        lesion.astype(np.uint8), from_box, output_shape=tuple(high - low), order=0
    )
    return mask


def _mirrored(mask: np.ndarray) -> np.ndarray:
    """Swap left and right: x of 0 lies on voxel 91 of 182."""
    return np.roll(mask[::-1], 1, axis=0)


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
        voxels = voxels * [-1, 1, 1] + [SHAPE[0], 0, 0]
    voxels = voxels + np.rint(rng.uniform(-1, 1, 3) * settings.shift_mm).astype(int)
    inside = ((voxels >= 0) & (voxels < SHAPE)).all(axis=1)
    load[tuple(voxels[inside].T)] = True
