"""The brain of one image, its tissues, and the affine map from MNI.

Without a network the MNI template is laid into the head and its mask taken. The template that
nilearn ships is skull-stripped, so it is compared with the head only inside its own dilated brain
mask: rigid, similarity, affine, then a coarse SyN. With the zones of a network the brain is known
beforehand, and the affine map between the two brains is all that is looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from msapp.errors import InputError
from msapp.imaging import geometry, registration

# Adults' intracranial volume lies between about 1.0 and 2.1 litres; MNI's brain mask has 1.9.
SKULL_STRIPPED_MAX_ML = 2200.0
SKULL_STRIPPED_MIN_ML = 500.0
# Of the brain that is found in it: 0.97 to 1.06 in 16 stripped images, 2.0 and more in whole heads.
SKULL_STRIPPED_RATIO = 1.3
BRAIN_PROBABILITY = 0.5
# The brain mask of MNI152NLin2009aSym holds 1.9 l, an average brain 0.75 of it (thirteen heads
# measured: 0.62 to 0.81). Matches that leave this range are wrong.
AVERAGE_SCALE = 0.9
VOLUME_SCALE_RANGE = (0.45, 1.15)
# Of the brain above the head's centre of mass, in the order in which they are tried.
START_HEIGHTS_MM = (0.0, 25.0, -25.0, 50.0)
# Of normalised mutual information; from here on no other start is tried. Right matches of real
# heads had 1.016 to 1.04 (n = 12 images), wrong ones 1.00 to 1.01 (n = 4 starts).
PLAIN_SIMILARITY = 1.015
AFFINE_STAGES: tuple[tuple[registration.Kind, tuple[int, int, int]], ...] = (
    ('Rigid', (500, 200, 0)),
    ('Similarity', (500, 200, 0)),
    ('Affine', (200, 100, 50)),
)
TEMPLATE_VOXEL_MM = 2
MARGIN_MM = 8.0
# Probability of a network from which a voxel may be brain.
POSSIBLE_BRAIN = 0.1


@dataclass(frozen=True)
class BrainExtraction:
    """What brain extraction finds for one image.

    Attributes
    ----------
    brain, white_matter, grey_matter : nibabel.Nifti1Image
        Probabilities in [0, 1], in the world of the image (2 mm grid of its field of view).
    from_mni : (4, 4) ndarray
        World of MNI152NLin2009aSym to world of the image (RAS, mm), affine.
    similarity : float
        Normalised mutual information with the template inside its brain mask; a QC number.
    was_stripped : bool
        Whether the image was skull-stripped already.
    """

    brain: nib.Nifti1Image
    white_matter: nib.Nifti1Image
    grey_matter: nib.Nifti1Image
    from_mni: np.ndarray
    similarity: float
    was_stripped: bool


@dataclass(frozen=True)
class Template:
    """The MNI template, its brain mask, dilated mask and tissue maps, at 2 mm."""

    image: nib.Nifti1Image
    brain: nib.Nifti1Image
    around_brain: nib.Nifti1Image
    white_matter: nib.Nifti1Image
    grey_matter: nib.Nifti1Image


def load_template() -> Template:
    """Load MNI152NLin2009aSym from the files inside nilearn.

    References
    ----------
    V. S. Fonov et al., NeuroImage 54:313, 2011.
    """
    from nilearn import datasets

    brain = datasets.load_mni152_brain_mask(resolution=TEMPLATE_VOXEL_MM)
    mask = np.asanyarray(brain.dataobj) > 0
    reach = ndimage.distance_transform_edt(~mask, sampling=TEMPLATE_VOXEL_MM) <= MARGIN_MM
    return Template(
        image=datasets.load_mni152_template(resolution=TEMPLATE_VOXEL_MM),
        brain=geometry.like(mask, brain),
        around_brain=geometry.like(reach, brain),
        white_matter=datasets.load_mni152_wm_template(resolution=TEMPLATE_VOXEL_MM),
        grey_matter=datasets.load_mni152_gm_template(resolution=TEMPLATE_VOXEL_MM),
    )


def _not_zero(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """Return where an image is not zero but for the dust of interpolation, holes filled."""
    data = np.abs(np.asanyarray(image.dataobj, dtype=np.float32))
    return ndimage.binary_fill_holes(data > 1e-4 * data.max())


def is_skull_stripped(image: nib.spatialimages.SpatialImage, brain_ml: float | None = None) -> bool:
    """Tell whether everything but a brain-sized part of an image is exactly zero.

    Defaced heads and scanner-masked backgrounds keep scalp and bone and so exceed the volume of
    a brain; a small head, or a part of one, exceeds that of its own brain.

    Parameters
    ----------
    image : nibabel image, 3-D
    brain_ml : float, optional
        Volume of the brain that was found in the image, ml.
    """
    nonzero = _not_zero(image)
    volume_ml = nonzero.sum() * geometry.voxel_volume_mm3(image) / 1000
    on_border = sum(
        nonzero[face].mean() > 0.2
        for axis in (0, 1)
        for face in (
            tuple(edge if axis == a else slice(None) for a in range(3)) for edge in (0, -1)
        )
    )
    largest_ml = SKULL_STRIPPED_MAX_ML
    if brain_ml is not None:
        largest_ml = min(largest_ml, SKULL_STRIPPED_RATIO * brain_ml)
    return bool(SKULL_STRIPPED_MIN_ML < volume_ml < largest_ml and not on_border)


def _affine_from_template(
    template: Template,
    head: nib.spatialimages.SpatialImage,
    brain: nib.spatialimages.SpatialImage | None = None,
    *,
    voxel_mm: float,
    seed: int,
) -> np.ndarray:
    """Find the affine map from MNI into a head, trying other starts while it looks wrong.

    The start lays the centres of mass upon each other, the brain's where it is known, at the
    scale of an average brain, so that the template does not grow into a bright scalp. With much
    neck or shoulder in view the brain is far above the head's centre.
    """
    middle = geometry.centre_of_mass_mm(template.image)
    shift = geometry.centre_of_mass_mm(head if brain is None else brain) - middle
    found = []
    for height_mm in START_HEIGHTS_MM:
        from_mni = np.diag([AVERAGE_SCALE, AVERAGE_SCALE, AVERAGE_SCALE, 1.0])
        from_mni[:3, 3] = shift + np.array([0, 0, height_mm])
        for kind, iterations in AFFINE_STAGES:
            from_mni = registration.register_linear(
                template.image,
                head,
                kind=kind,
                mask=template.around_brain,
                initial=from_mni,
                voxel_mm=voxel_mm,
                iterations=iterations,
                seed=seed,
            )
        if VOLUME_SCALE_RANGE[0] < np.linalg.det(from_mni[:3, :3]) < VOLUME_SCALE_RANGE[1]:
            found.append((_similarity(template, head, from_mni), from_mni))
            if found[-1][0] >= PLAIN_SIMILARITY:
                break
    if not found:
        raise InputError(
            'no brain was found: the image could not be matched to the MNI template. Check its '
            'orientation and field of view, or give a brain mask with --derivatives.'
        )
    return max(found, key=lambda pair: pair[0])[1]


def extract_brain(
    image: nib.Nifti1Image,
    *,
    given_mask: nib.spatialimages.SpatialImage | None = None,
    warp_iterations: tuple[int, ...] = registration.WARP_ITERATIONS,
    voxel_mm: float = TEMPLATE_VOXEL_MM,
    seed: int = 0,
) -> BrainExtraction:
    """Find the brain in a head of any contrast with the MNI template.

    Parameters
    ----------
    image : nibabel.Nifti1Image, 3-D
        Bias-corrected. An image that is skull-stripped already keeps its own mask.
    given_mask : nibabel image, optional
        A brain mask of the same head to use in place of the template's.
    warp_iterations : tuple of int
        Iterations of the deformable step, from coarse to fine.
    voxel_mm : float
        Resolution of the affine step, mm.
    seed : int
        Seed of the registration's sampling.

    Returns
    -------
    BrainExtraction

    Raises
    ------
    InputError
        If no plausible match with the template exists.
    """
    template = load_template()
    head = registration.coarse(image, TEMPLATE_VOXEL_MM)
    given = _given_on(given_mask, head)
    if given is None:
        from_mni = _affine_from_template(template, image, voxel_mm=voxel_mm, seed=seed)
    else:
        shown = geometry.like(np.asanyarray(head.dataobj) * given, head)
        from_mni = _affine_from_template(
            template, shown, geometry.like(given, head), voxel_mm=voxel_mm, seed=seed
        )
    to_mni = np.linalg.inv(from_mni)
    brain, white, grey = registration.warp_to_fixed(
        head,
        template.image,
        [template.brain, template.white_matter, template.grey_matter],
        initial=to_mni,
        mask=geometry.resample_mask(template.around_brain, head, to_mni),
        iterations=warp_iterations,
        seed=seed,
    )
    own = _own_mask(image, geometry.like(brain, head))
    known = own if given is None else given
    brain = brain if known is None else known
    return BrainExtraction(
        brain=geometry.like(brain, head),
        white_matter=geometry.like(white * brain, head),
        grey_matter=geometry.like(grey * brain, head),
        from_mni=from_mni,
        similarity=_similarity(template, image, from_mni),
        was_stripped=own is not None,
    )


def brain_from_zones(
    image: nib.Nifti1Image,
    zones: nib.Nifti1Image,
    *,
    given_mask: nib.spatialimages.SpatialImage | None = None,
    voxel_mm: float = TEMPLATE_VOXEL_MM,
    seed: int = 0,
) -> BrainExtraction:
    """Read the brain from the zones of a network, and find the affine map from MNI.

    Tissue maps are the template's, laid over by that map: where white matter is certain must not
    depend on whether a network took the bottom of a sulcus for it.

    Parameters
    ----------
    image : nibabel.Nifti1Image, 3-D
        As for `extract_brain`.
    zones : nibabel.Nifti1Image, (I, J, K, 8)
        Probability of each of `msapp.imaging.tissue.ZONES`, in the world of the image.
    given_mask, voxel_mm, seed
        As for `extract_brain`.

    Returns
    -------
    BrainExtraction

    Raises
    ------
    InputError
        If no plausible match with the template exists.
    """
    template = load_template()
    probabilities = np.asanyarray(zones.dataobj)
    grid = geometry.like(probabilities[..., 0], zones)
    found = 1 - probabilities[..., 0]
    own = _own_mask(image, geometry.like(found, grid))
    given = _given_on(given_mask, grid)
    known = own if given is None else given
    brain = found if known is None else known
    # A network is never quite sure; what it hardly believes must not count where masks are above 0.
    brain = np.where(brain < POSSIBLE_BRAIN, 0, brain)
    head = registration.coarse(image, TEMPLATE_VOXEL_MM)
    shown = np.asanyarray(head.dataobj) * geometry.resample(geometry.like(brain, grid), head)
    from_mni = _affine_from_template(
        template,
        geometry.like(shown, head),
        geometry.like(brain, grid),
        voxel_mm=voxel_mm,
        seed=seed,
    )
    white, grey = (
        geometry.resample(tissue, grid, np.linalg.inv(from_mni)) * brain
        for tissue in (template.white_matter, template.grey_matter)
    )
    return BrainExtraction(
        brain=geometry.like(brain, grid),
        white_matter=geometry.like(white, grid),
        grey_matter=geometry.like(grey, grid),
        from_mni=from_mni,
        similarity=_similarity(template, image, from_mni),
        was_stripped=own is not None,
    )


def _own_mask(image: nib.Nifti1Image, found: nib.Nifti1Image) -> np.ndarray | None:
    """Return the mask that a stripped image brings, on the grid of the brain found in it."""
    voxels = int((np.asanyarray(found.dataobj) >= BRAIN_PROBABILITY).sum())
    if not is_skull_stripped(image, voxels * geometry.voxel_volume_mm3(found) / 1000):
        return None
    return _given_on(geometry.like(_not_zero(image), image), found)


def _given_on(
    mask: nib.spatialimages.SpatialImage | None, grid: nib.spatialimages.SpatialImage
) -> np.ndarray | None:
    """Return a mask on a grid, as a share of each voxel."""
    if mask is None:
        return None
    given = (np.asanyarray(nib.squeeze_image(mask).dataobj) > 0).astype(np.float32)
    return geometry.resample(nib.Nifti1Image(given, mask.affine), grid)


def _similarity(
    template: Template, image: nib.spatialimages.SpatialImage, from_mni: np.ndarray
) -> float:
    """Compare image and template inside the template's brain."""
    return registration.normalized_mutual_information(
        np.asanyarray(template.image.dataobj),
        geometry.resample(image, template.image, from_mni),
        np.asanyarray(template.brain.dataobj) > 0,
    )


def mask_on_grid(
    brain: nib.Nifti1Image,
    grid: nib.spatialimages.SpatialImage,
    transform: np.ndarray | None = None,
) -> np.ndarray:
    """Bring a brain probability onto a grid and make it one closed mask.

    Parameters
    ----------
    brain : nibabel.Nifti1Image
        Probability, 0 to 1.
    grid : nibabel image
        Gives shape and affine of the result.
    transform : (4, 4) ndarray, optional
        World of ``grid`` (RAS, mm) to world of ``brain``; identity by default.

    Returns
    -------
    (I, J, K) ndarray of bool
        The largest component at one half or more, holes filled.

    Raises
    ------
    InputError
        If no voxel has one half.
    """
    mask = geometry.resample(brain, grid, transform) >= 0.5
    labels, count = ndimage.label(mask)
    if count == 0:
        raise InputError('the brain mask is empty. Check the image, or give a mask of your own.')
    if count > 1:
        mask = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return ndimage.binary_fill_holes(mask)
