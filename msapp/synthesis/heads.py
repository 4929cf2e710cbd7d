"""Label maps of whole heads, from which images of any contrast are drawn.

The maps are those that SynthSeg was trained with (Billot et al., Med. Image Anal. 86:102789,
2023), or any with FreeSurfer's numbers inside the brain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.files import atomic_path
from msapp.imaging import geometry, registration
from msapp.imaging.distance import dilate_mm, erode_mm
from msapp.imaging.tissue import ZONES as ZONES
from msapp.provenance import sha256_file
from msapp.synthesis.contrast import CONTRASTS

# Tissue: its zone, its material in `contrast.CONTRASTS`, and the labels that it gathers from both
# sides. Tissues are drawn with signals of their own; those of one zone may differ.
TISSUES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    'background': ('background', '', (0,)),
    'white_matter': ('white_matter', 'white_matter', (2, 41, 25, 57)),
    'cortex': ('cortex', 'cortex', (3, 42)),
    'ventricles': ('ventricles', 'csf', (4, 5, 14, 15, 43, 44, 72)),
    # Inside the ventricles and along their wall.
    'choroid': ('ventricles', 'choroid', (31, 63, 136, 137, 163, 164)),
    'cerebellum_white': ('cerebellum', 'white_matter', (7, 46)),
    'cerebellum_cortex': ('cerebellum', 'cortex', (8, 47)),
    'thalamus': ('deep_grey', 'deep_grey', (10, 49)),
    'caudate': ('deep_grey', 'deep_grey', (11, 26, 50, 58)),
    'putamen': ('deep_grey', 'deep_grey', (12, 51)),
    'pallidum': ('deep_grey', 'deep_grey', (13, 52)),
    'hippocampus': ('deep_grey', 'cortex', (17, 18, 53, 54)),
    'ventral_diencephalon': ('deep_grey', 'deep_grey', (28, 60)),
    'brain_stem': ('brain_stem', 'white_matter', (16,)),
    'chiasm': ('csf', 'white_matter', (85,)),
    'vessels': ('csf', 'vessel', (30, 62)),
    'csf': ('csf', 'csf', (24,)),
    # The same fluid, but not within the brain mask; see `inner_csf`.
    'outer_csf': ('background', 'csf', ()),
    'neck': ('background', 'muscle', (502,)),
    'eyes': ('background', 'eye', (506,)),
    'soft_tissue': ('background', 'muscle', (507, 508, 530)),
    'mucosa': ('background', 'skin', (509, 512)),
    'scalp': ('background', 'fat', (511,)),
    'meninges': ('background', 'muscle', (514,)),
    'bone': ('background', 'bone', (515, 165)),
    'marrow': ('background', 'marrow', (516,)),
}  # fmt: skip
NAMES = tuple(TISSUES)
ZONE_OF_TISSUE = np.array([ZONES.index(zone) for zone, _, _ in TISSUES.values()], np.uint8)
# Some maps of the collection are stored stretched to 12 bits: label 516 as 4095.
STRETCH = 4095 / 516
LARGEST_LABEL = 600
# Sulci up to twice as wide lie within the brain mask, as in manual masks.
CLOSING_MM = 5.0
MARGIN_VOXELS = 4
# Raise when what is prepared of heads, patients or drawn pairs changes: what is kept is then
# prepared anew.
PREPARATION = 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes
    ----------
    name : str
    tissues : (I, J, K) ndarray of uint8
        Index into `NAMES`; axes towards right, anterior, superior.
    affine : (4, 4) ndarray
        Voxel to world, mm.
    to_mni : (4, 4) ndarray
        World of the head to world of MNI152NLin2009aSym, affine.
    source : str
        What it was made from; see `source_of`.
    """

    name: str
    tissues: np.ndarray
    affine: np.ndarray
    to_mni: np.ndarray
    source: str = ''

    @property
    def zones(self) -> np.ndarray:
        """(I, J, K) ndarray of uint8, index into `ZONES`."""
        return ZONE_OF_TISSUE[self.tissues]

    def save(self, path: Path) -> None:
        """Write the head to an ``.npz`` file."""
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(
                stream,
                tissues=self.tissues,
                affine=self.affine,
                to_mni=self.to_mni,
                source=self.source,
            )

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what `save` wrote."""
        with np.load(path) as file:
            tissues, affine, to_mni = (file[name] for name in ('tissues', 'affine', 'to_mni'))
        return cls(path.stem, tissues, affine, to_mni, _kept_source(path))


def tissues_of_labels(labels: np.ndarray) -> np.ndarray:
    """Turn FreeSurfer's and SynthSeg's label numbers into indices of `NAMES`.

    Parameters
    ----------
    labels : (I, J, K) ndarray of int
        Stretched maps (0 to over 4000) are recognised.

    Returns
    -------
    (I, J, K) ndarray of uint8

    Raises
    ------
    InputError
        If a label is unknown.

    Examples
    --------
    >>> [NAMES[i] for i in tissues_of_labels(np.array([41, 14, 515, 24])).tolist()]
    ['white_matter', 'ventricles', 'bone', 'csf']
    """
    if labels.max() > LARGEST_LABEL:
        labels = np.rint(labels / STRETCH).astype(int)
    table = np.full(LARGEST_LABEL + 1, 255, np.uint8)
    for index, (_, _, numbers) in enumerate(TISSUES.values()):
        table[list(numbers)] = index
    found = table[np.clip(labels, 0, LARGEST_LABEL)]
    if (found == 255).any():
        unknown = np.unique(labels[found == 255]).tolist()
        raise InputError(f'labels {unknown[:8]} are unknown; see msapp/synthesis/heads.py.')
    return found


def inner_csf(tissues: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Split the fluid around the brain by the closing of the brain's tissues.

    Parameters
    ----------
    tissues : (I, J, K) ndarray of uint8
    spacing_mm : tuple of float

    Returns
    -------
    (I, J, K) ndarray of uint8
        ``csf`` within the closing, ``outer_csf`` elsewhere.
    """
    csf, outer = NAMES.index('csf'), NAMES.index('outer_csf')
    solid = (ZONE_OF_TISSUE[tissues] > 0) & (tissues != csf)
    # The brain stem ends at the foramen magnum; without a margin the closing would erode there.
    padded = np.pad(solid, MARGIN_VOXELS * 2)
    closed = erode_mm(dilate_mm(padded, CLOSING_MM, spacing_mm), CLOSING_MM, spacing_mm)
    inside = closed[tuple(slice(MARGIN_VOXELS * 2, -MARGIN_VOXELS * 2) for _ in range(3))]
    inside = ndimage.binary_fill_holes(inside | solid)
    result = tissues.copy()
    result[(tissues == csf) & ~inside] = outer
    # What is enclosed by brain is brain, whatever the map calls it.
    result[inside & (ZONE_OF_TISSUE[result] == 0)] = csf
    return result


def read_head(path: Path) -> Head:
    """Read a label map and lay it into MNI space.

    Parameters
    ----------
    path : Path
        NIfTI image of label numbers, about 1 mm isotropic.

    Raises
    ------
    InputError
        If a label is unknown.
    """
    from msapp.imaging.brain import load_template

    image = nib.as_closest_canonical(nib.load(path))
    try:
        tissues = tissues_of_labels(np.asanyarray(image.dataobj))
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    box = ndimage.find_objects((tissues > 0).astype(np.uint8))[0]
    corner = np.array([side.start for side in box])
    affine = image.affine.copy()
    affine[:3, 3] = nib.affines.apply_affine(image.affine, corner)
    tissues = inner_csf(tissues[box], geometry.spacing_mm(image))
    template = load_template()
    from_mni = registration.register_linear(
        template.image, _stripped_t1w(tissues, affine), kind='Affine', voxel_mm=2.0
    )
    name = path.name.partition('.')[0]
    return Head(name, tissues, affine, np.linalg.inv(from_mni), source_of(path))


def _stripped_t1w(tissues: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Draw the brain alone as a T1w image, to be laid upon the template."""
    signals = CONTRASTS['T1w']
    values = [
        signals[material] if zone not in ('background', 'csf') else 0.0
        for zone, material, _ in TISSUES.values()
    ]
    return nib.Nifti1Image(np.array(values, np.float32)[tissues], affine)


def prepare_heads(folder: Path, cache: Path) -> Iterator[Path]:
    """Read each label map of a folder once, and again when it changes; give the prepared files.

    Parameters
    ----------
    folder : Path
        Holds ``*.nii.gz`` label maps.
    cache : Path
        Gets one ``.npz`` file a map; what was prepared of the same map is used.

    Raises
    ------
    InputError
        If the folder holds no map.
    """
    maps = sorted(folder.glob('*.nii.gz'))
    if not maps:
        raise InputError(f'{folder}: no label maps (*.nii.gz). Give the folder of head label maps.')
    for number, path in enumerate(maps, start=1):
        target = cache / f'{path.name.partition(".")[0]}.npz'
        if _kept_source(target) != source_of(path):
            logger.info('preparing label map %d of %d', number, len(maps))
            read_head(path).save(target)
        yield target


def source_of(path: Path) -> str:
    """Return what a head that is made of a label map now is made from: map and preparation."""
    return f'{PREPARATION} {sha256_file(path)}'


def _kept_source(path: Path) -> str:
    """Return what a kept head was made from; nothing where there is none, or an early one."""
    if not path.exists():
        return ''
    with np.load(path) as file:
        return str(file.get('source', ''))
