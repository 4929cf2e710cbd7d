"""Pairs of FLAIRs of one head at two visits, between which lesions come, grow, shrink or vanish.

Everything else that differs between real visits is drawn as well and is no lesion: residual
misregistration, positions of slices, scanner, shading, noise, flow, brightness of ventricle rims
and of old lesions. Synthetic pairs and degraded acquisitions carried the best new-lesion networks
of MSSEG-2 (Kamraoui et al., Front. Neuroimaging 1:817043, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from msapp.synthesis import appearance, warp
from msapp.synthesis.acquisition import AcquisitionSettings, acquire
from msapp.synthesis.appearance import FLAIR, LesionSettings
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator
from msapp.synthesis.heads import NAMES, Head
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LARGEST_COMPONENT_MM3, SHAPE, LesionBank, LoadSettings
from msapp.synthesis.lesions import fullest_voxels

CHANNELS = ('previous', 'current')
# A voxel is lesion from this share on.
LESION_SHARE = 0.5
# Exactly one component of the bank; exactly one patient's mask.
ONE = LoadSettings(none=0, patient=0, singles=0)
PATIENT = LoadSettings(none=0, patient=1, second=0, thinned=0, singles=0)
# New lesions are small: the smaller of two components is taken this often, and scaled down by up
# to this factor in half of the cases.
SMALLER, SMALLEST_SCALE = 0.7, 0.6
# Some are large: this share is scaled to a volume drawn from this range, evenly in its logarithm.
LARGE, LARGE_MM3 = 0.12, (400.0, 5000.0)
# Components of another patient's mask that appear at once: the mean above one.
TOGETHER = 6.0
# Lesions grow this far around a point of theirs: small ones as a whole, confluent ones in a part.
GROWING_PART_MM = (4.0, 10.0)
# With an image grid centred on lesions: about a new one this often, where there is one.
NEW_CENTRED = 0.6
# Room around the part of the bank's grid that an image covers: the largest growth, and a voxel.
ROOM = 4
TOUCHING = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), axis=-1).reshape(-1, 3)
# Between two visits at one scanner, relative standard deviation.
SIGNAL_SPREAD = 0.02
# Brightness of one lesion at two visits, relative: at one scanner, at two, and in places.
SAME_CONTRAST, OTHER_CONTRAST, FLUCTUATION = 0.06, 0.25, 0.12
# What readers mark is seen: no part of a lesion is dimmer, relative to its mean.
DIMMEST = 0.6
# Lesions that are brighter than what was there by less, relative to white matter, are not seen.
SEEN = 0.12
FLUCTUATION_MM, FLOW_MM, BEND_MM = 10.0, 12.0, 25.0
SHORTEST_STACK = 4


@dataclass(frozen=True)
class PairSettings(GeneratorSettings):
    """What is drawn of two visits; see `GeneratorSettings` for what a visit is like.

    Attributes
    ----------
    unchanged : float
        Share of pairs between which no lesion changed.
    enlarged, shrunken, vanished : float
        Share of the lesions, in the other pairs, with this fate; the others are stable.
    growth_mm : tuple of float
        How far lesions grow or shrink.
    new : float
        Mean number of single new lesions (exponential distribution).
    most_new : int
        Their largest number.
    another : float
        Share of the changed pairs in which lesions of another patient's mask appear at once.
    same_scanner : float
        Share of pairs of one scanner and protocol.
    shift_mm, turn_deg : float
        Largest residual misregistration of the earlier visit: length of its shift, and rotation
        about each axis.
    bend_mm : float
        Largest standard deviation of its smooth displacement.
    """

    channels: tuple[str, ...] = CHANNELS
    unchanged: float = 0.25
    enlarged: float = 0.12
    shrunken: float = 0.06
    vanished: float = 0.04
    growth_mm: tuple[float, float] = (1.0, 2.0)
    new: float = 4.0
    most_new: int = 10
    another: float = 0.15
    same_scanner: float = 0.5
    shift_mm: float = 1.0
    turn_deg: float = 1.0
    bend_mm: float = 0.3


@dataclass
class Pair:
    """Two visits of one drawn head, in the space of the later one.

    Attributes
    ----------
    images : (2, I, J, K) tensor of float32
        FLAIR of the earlier and of the later visit; the mode of white matter is 1.
    increase : (I, J, K) tensor of float32
        Share of lesion at the later visit where a voxel became lesion (new or enlarged); else 0.
    new : (I, J, K) tensor of float32
        The part of ``increase`` that no lesion grew into: lesions that were not there.
    before, after : (I, J, K) tensor of float32
        Share of each voxel that is lesion at either visit.
    """

    images: torch.Tensor
    increase: torch.Tensor
    new: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor


@dataclass(frozen=True)
class Slices:
    """How a stack of slices lies: its axis, and the slices' thickness; None is a 3-D image."""

    axis: int
    thickness_mm: float | None


@dataclass(frozen=True)
class Scanner:
    """What two visits at one scanner share.

    Attributes
    ----------
    signals : (T,) ndarray
        Of each tissue; white matter is 1.
    lesions : LesionSettings
    seed : int
        Of texture and of the brightness of rims, folds and halos.
    blur_mm : float
    slices : Slices
    """

    signals: np.ndarray
    lesions: LesionSettings
    seed: int
    blur_mm: float
    slices: Slices


# --- Lesions --------------------------------------------------------------------------------------


def draw_new(
    bank: LesionBank, before: np.ndarray, rng: np.random.Generator, settings: PairSettings
) -> np.ndarray:
    """Draw lesions that appear, none of which touches one that is there.

    Parameters
    ----------
    bank : LesionBank
    before : (182, 218, 182) ndarray of bool
        Lesions that are there, on the bank's grid.

    Returns
    -------
    (182, 218, 182) ndarray of bool
    """
    new = np.zeros(SHAPE, bool)
    for _ in range(min(int(rng.exponential(settings.new)), settings.most_new)):
        voxels = _draw_single(bank, rng)
        around = (voxels[:, None] + TOUCHING).reshape(-1, 3)
        around = around[((around >= 0) & (around < SHAPE)).all(axis=1)]
        if not before[tuple(around.T)].any():
            new[tuple(voxels.T)] = True
    if rng.random() < settings.another:
        new |= _draw_together(bank, before, rng)
    return new


def _draw_single(bank: LesionBank, rng: np.random.Generator) -> np.ndarray:
    """Return the voxels, (N, 3), of one component, mostly a small one, now and then a large one."""
    found = [_voxels(bank.draw(rng, ONE)) for _ in range(2 if rng.random() < SMALLER else 1)]
    voxels = min(found, key=len)
    if len(voxels) and rng.random() < LARGE:
        return _scale_to(voxels, float(np.exp(rng.uniform(*np.log(LARGE_MM3)))))
    if len(voxels) and rng.random() < 0.5:
        middle = voxels.mean(axis=0)
        scaled = middle + (voxels - middle) * rng.uniform(SMALLEST_SCALE, 1)
        voxels = np.unique(np.rint(scaled).astype(int), axis=0)
    return voxels


def _scale_to(voxels: np.ndarray, volume_mm3: float) -> np.ndarray:
    """Return the voxels, of 1 mm3, of a component of the same shape and about this volume."""
    first = voxels.min(axis=0)
    mask = np.zeros(voxels.max(axis=0) - first + 3, np.float32)
    mask[tuple((voxels - first + 1).T)] = 1
    factor = (volume_mm3 / len(voxels)) ** (1 / 3)
    # As many voxels as the volume has: a threshold would thicken flat lesions.
    scaled = fullest_voxels(ndimage.zoom(mask, factor, order=1), round(volume_mm3))
    moved = _voxels(scaled) + np.rint(
        voxels.mean(axis=0) - (np.array(scaled.shape) - 1) / 2
    ).astype(int)
    inside: np.ndarray = moved[((moved >= 0) & (moved < SHAPE)).all(axis=1)]
    return inside


def _voxels(mask: np.ndarray) -> np.ndarray:
    # Several times as quick as np.argwhere.
    return np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape), axis=1)


def _draw_together(bank: LesionBank, before: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return some lesions of a patient, apart from those that are there."""
    labels, _ = ndimage.label(bank.draw(rng, PATIENT), np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())
    free = sizes <= LARGEST_COMPONENT_MM3
    free[0] = False
    free[np.unique(labels[ndimage.binary_dilation(before, np.ones((3, 3, 3)))])] = False
    keep = np.zeros(len(sizes), bool)
    count = 1 + int(rng.exponential(TOGETHER))
    keep[rng.permutation(np.flatnonzero(free))[:count]] = True
    appeared: np.ndarray = keep[labels]
    return appeared


def change_lesions(
    before: np.ndarray, rng: np.random.Generator, settings: PairSettings
) -> np.ndarray:
    """Let some lesions grow, shrink or vanish.

    Parameters
    ----------
    before : (I, J, K) ndarray of bool
        Lesions on a grid of 1 mm.

    Returns
    -------
    (I, J, K) ndarray of bool
        What becomes of them; growth ends where another lesion was.
    """
    labels, count = ndimage.label(before, np.ones((3, 3, 3)))
    after = before.copy()
    fates = rng.random(count)
    limits = np.cumsum([settings.enlarged, settings.shrunken, settings.vanished])
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        fate = int(np.searchsorted(limits, fates[number - 1], side='right'))
        if fate == len(limits):
            continue
        wide = tuple(
            slice(max(side.start - ROOM, 0), min(side.stop + ROOM, length))
            for side, length in zip(box, before.shape, strict=True)
        )
        lesion = labels[wide] == number
        reach_mm = rng.uniform(*settings.growth_mm)
        if fate == 0:
            after[wide] |= _grow(lesion, reach_mm, rng)
        elif fate == 1:
            after[wide] &= ~lesion | (ndimage.distance_transform_edt(lesion) > reach_mm)
        else:
            after[wide] &= ~lesion
    return after


def _grow(lesion: np.ndarray, reach_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Dilate a lesion around one of its voxels; large ones grow in a part only."""
    voxels = np.argwhere(lesion)
    middle = voxels[rng.integers(len(voxels))][:, None, None, None]
    away_mm = np.sqrt(((np.indices(lesion.shape) - middle) ** 2).sum(axis=0))
    near = ndimage.distance_transform_edt(~lesion) <= reach_mm
    grown: np.ndarray = lesion | (near & (away_mm <= rng.uniform(*GROWING_PART_MM)))
    return grown


def became(share: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Return the share of lesion in voxels that are lesion now and were none before; else 0."""
    return torch.where((share > LESION_SHARE) & (before <= LESION_SHARE), share, 0.0)


# --- Places ---------------------------------------------------------------------------------------


def misplace(
    points: torch.Tensor, spacing_mm: float, rng: np.random.Generator, settings: PairSettings
) -> torch.Tensor:
    """Move sampling points as a registration that is a little off.

    Parameters
    ----------
    points : (3, I, J, K) tensor of float32
        World, mm.
    spacing_mm : float
        Distance of the points.

    Returns
    -------
    (3, I, J, K) tensor of float32
    """
    matrix, shift = draw_rigid(rng, settings)
    linear = torch.from_numpy((matrix - np.eye(3)).astype(np.float32)).to(points.device)
    middle = points.mean(dim=(1, 2, 3), keepdim=True)
    moved = points + torch.einsum('ab,bijk->aijk', linear, points - middle)
    moved += torch.from_numpy(shift.astype(np.float32)).to(points.device)[:, None, None, None]
    shape = tuple(points.shape[1:])
    control = warp.control_points(shape, spacing_mm, BEND_MM)
    bend = warp.smooth_noise(shape, control, rng, points.device, channels=3)
    return moved + rng.uniform(0, settings.bend_mm) * bend


def draw_rigid(rng: np.random.Generator, settings: PairSettings) -> tuple[np.ndarray, np.ndarray]:
    """Draw a residual misregistration.

    Returns
    -------
    matrix : (3, 3) ndarray
        Rotation.
    shift : (3,) ndarray
        mm.
    """
    angles = rng.uniform(-1, 1, 3) * settings.turn_deg
    way = rng.standard_normal(3)
    shift = way / np.linalg.norm(way) * rng.uniform(0, settings.shift_mm)
    return Rotation.from_euler('xyz', angles, degrees=True).as_matrix(), shift


# --- Images ---------------------------------------------------------------------------------------


def draw_scanner(
    contrast: float, spread: float, settings: PairSettings, rng: np.random.Generator
) -> Scanner:
    """Draw a scanner and its protocol.

    Parameters
    ----------
    contrast : float
        How much brighter than white matter lesions are on average.
    spread : float
        Relative range about it.
    """
    how = settings.acquisition
    return Scanner(
        signals=appearance.family_signals(FLAIR, rng),
        lesions=_about(settings.lesions, contrast, spread, rng),
        seed=int(rng.integers(2**31)),
        blur_mm=rng.uniform(*how.blur_mm),
        slices=draw_slices(how, rng),
    )


def _about(
    lesions: LesionSettings, contrast: float, spread: float, rng: np.random.Generator
) -> LesionSettings:
    """Fix how bright lesions are."""
    drawn = contrast * rng.uniform(1 - spread, 1 + spread)
    return replace(lesions, flair=(drawn, drawn))


def visit_again(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    """Return the same scanner some time later: signals off by a few percent."""
    signals = scanner.signals * rng.normal(1, SIGNAL_SPREAD, len(scanner.signals))
    signals[NAMES.index('white_matter')] = 1
    lesions = _about(scanner.lesions, scanner.lesions.flair[0], SAME_CONTRAST, rng)
    return replace(
        scanner,
        signals=signals.astype(np.float32),
        lesions=lesions,
        blur_mm=scanner.blur_mm * rng.uniform(0.9, 1.1),
    )


def draw_slices(settings: AcquisitionSettings, rng: np.random.Generator) -> Slices:
    """Draw direction and thickness of slices; most often they are axial."""
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    thick = rng.random() < settings.thick
    return Slices(axis, rng.uniform(*settings.slice_mm) if thick else None)


def stack_of(
    image: torch.Tensor, spacing_mm: float, slices: Slices, offset: int
) -> tuple[torch.Tensor, torch.Size]:
    """Average an image over thick slices that begin ``offset`` voxels before it.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
    spacing_mm : float
    slices : Slices
        With a thickness.
    offset : int
        0 to the thickness in voxels.

    Returns
    -------
    stack : tensor of float32
        With fewer voxels along the slices' axis.
    padded : torch.Size
        Shape that it was averaged from; see `unstack`.
    """
    assert slices.thickness_mm is not None
    room = _room(slices.thickness_mm, spacing_mm)
    padding = [0] * 6
    # torch names the last axis first.
    padding[4 - 2 * slices.axis] = offset
    padding[5 - 2 * slices.axis] = room - offset
    padded = functional.pad(image[None, None], padding, mode='replicate')[0, 0]
    counts = list(padded.shape)
    count = round(counts[slices.axis] * spacing_mm / slices.thickness_mm)
    counts[slices.axis] = max(SHORTEST_STACK, count)
    stack = functional.interpolate(padded[None, None], size=tuple(counts), mode='area')[0, 0]
    return stack, padded.shape


def unstack(
    stack: torch.Tensor, padded: torch.Size, axis: int, offset: int, length: int
) -> torch.Tensor:
    """Interpolate a stack back to the voxels that `stack_of` took it from.

    Returns
    -------
    (I, J, K) tensor of float32
    """
    fine = functional.interpolate(stack[None, None], size=tuple(padded), mode='trilinear')[0, 0]
    return fine.narrow(axis, offset, length)


def _room(thickness_mm: float, spacing_mm: float) -> int:
    return int(np.ceil(thickness_mm / spacing_mm))


def draw_offset(slices: Slices, spacing_mm: float, rng: np.random.Generator) -> int:
    """Draw where, in voxels, the first slice begins."""
    return int(rng.integers(_room(slices.thickness_mm or 0, spacing_mm) + 1))


def image_slices(
    image: torch.Tensor,
    spacing_mm: float,
    scanner: Scanner,
    offset: int,
    acquired: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Image a volume with the point spread and the slices of a scanner.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
    offset : int
        See `stack_of`.
    acquired : callable
        What is done to the stack of slices.

    Returns
    -------
    (I, J, K) tensor of float32
        Interpolated back to the grid.
    """
    image = warp.blur(image, scanner.blur_mm / spacing_mm)
    slices = scanner.slices
    if slices.thickness_mm is None or slices.thickness_mm <= spacing_mm:
        return acquired(image)
    stack, padded = stack_of(image, spacing_mm, slices, offset)
    return unstack(acquired(stack), padded, slices.axis, offset, image.shape[slices.axis])


def drop_unseen(lesions: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Return the lesions that an image shows; readers would not mark the others.

    Parameters
    ----------
    lesions : (I, J, K) tensor of bool
    change : (I, J, K) tensor of float32
        What they add to the image, relative to white matter.

    Returns
    -------
    (I, J, K) tensor of bool
        Components to which at least `SEEN` is added on average.
    """
    if not lesions.any():
        return lesions
    labels, count = ndimage.label(lesions.cpu().numpy())
    seen = ndimage.mean(change.cpu().numpy(), labels, np.arange(count + 1)) >= SEEN
    seen[0] = False
    return torch.from_numpy(seen[labels]).to(lesions.device)


def _vary(scene: appearance.Scene, rng: np.random.Generator) -> appearance.Scene:
    """Let rims of ventricles and brightness of lesions be a little different at each visit."""
    shape, device = tuple(scene.rim.shape), scene.rim.device
    control = warp.control_points(shape, scene.spacing_mm, FLUCTUATION_MM)
    places = warp.smooth_noise(shape, control, rng, device)[0]
    strength = scene.strength * (1 + rng.uniform(0, FLUCTUATION) * places)
    return replace(
        scene, rim=scene.rim * rng.uniform(0.7, 1.3), strength=strength.clamp(min=DIMMEST)
    )


def _add_flow(
    image: torch.Tensor, scene: appearance.Scene, rng: np.random.Generator
) -> torch.Tensor:
    """Let fluid shine at one visit where it does not at the other, in half of the cases."""
    if rng.random() < 0.5:
        return image
    fluid = appearance.zone_in(scene.zones, 'ventricles', 'csf').float()
    control = warp.control_points(image.shape, scene.spacing_mm, FLOW_MM)
    field = warp.smooth_noise(tuple(image.shape), control, rng, image.device)[0]
    return image + fluid * (field - 1).clamp(min=0) * rng.uniform(0.2, 1.0)


class PairGenerator(HeadGenerator):
    """Draw pairs of visits."""

    settings: PairSettings
    bank: LesionBank

    def __init__(
        self,
        heads: Sequence[Head],
        settings: PairSettings,
        *,
        bank: LesionBank,
        device: torch.device | str = 'cpu',
    ) -> None:
        """Hold the heads on the device, and the lesions."""
        super().__init__(heads, settings, bank=bank, device=device)

    def draw_pair(self, rng: np.random.Generator) -> Pair:
        """Draw two visits of one head; the same generator state gives the same pair."""
        settings, mm = self.settings, self.settings.spacing_mm
        number = int(rng.integers(len(self._heads)))
        head, labels = self._heads[number], self._tissues[number]
        load = self.bank.draw(rng, settings.load)
        changed = rng.random() >= settings.unchanged
        new = draw_new(self.bank, load, rng, settings) if changed else np.zeros(SHAPE, bool)
        centre = self._centre_pair(number, load, new, rng)
        points = warp.draw_points(settings.shape, mm, centre, rng, settings.warp, self.device)
        earlier = misplace(points, mm, rng, settings)
        now, then = (
            warp.sample_labels(labels, warp.to_voxels(place, head.affine))
            for place in (points, earlier)
        )
        to_bank = np.linalg.inv(head.to_mni) @ BANK_AFFINE
        on_bank, then_on_bank = (warp.to_voxels(place, to_bank) for place in (points, earlier))
        box = _seen(on_bank)
        corner = torch.tensor([float(side.start) for side in box], device=self.device)
        corner = corner[:, None, None, None]
        old = self._volume(load[box])
        holds, held = appearance.may_hold_lesions(now), appearance.may_hold_lesions(then)
        before = warp.sample_share(old, on_bank - corner) * holds
        before_then = warp.sample_share(old, then_on_bank - corner) * held
        after = before
        if changed:
            grown = self._volume(change_lesions(load[box], rng, settings) | new[box])
            after = warp.sample_share(grown, on_bank - corner) * holds
        increase = became(after, before)
        images, kept = self._visits((then, before_then), (now, after), increase, rng)
        increase = increase * kept
        fresh = torch.zeros_like(increase)
        if new[box].any():
            # Interpolated borders reach up to a voxel beyond the lesions' own.
            wide = ndimage.binary_dilation(new[box], np.ones((3, 3, 3)))
            fresh = increase * warp.sample_labels(self._volume(wide).byte(), on_bank - corner)
        return Pair(images, increase, fresh, before, after)

    def _volume(self, mask: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(mask.astype(np.float32)).to(self.device)

    def _centre_pair(
        self, number: int, load: np.ndarray, new: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw the middle of the grid, often about a new lesion; see `GeneratorSettings`."""
        wanted = self.settings.centred == 'lesion' and rng.random() < NEW_CENTRED
        if not (wanted and new.any()):
            return self._centre(number, load, rng)
        voxels = _voxels(new)
        mni = nib.affines.apply_affine(BANK_AFFINE, voxels[rng.integers(len(voxels))])
        middle = nib.affines.apply_affine(np.linalg.inv(self._heads[number].to_mni), mni)
        side_mm = np.array(self.settings.shape) * self.settings.spacing_mm
        centre: np.ndarray = middle + rng.uniform(-0.3, 0.3, 3) * side_mm
        return centre

    def _visits(
        self,
        then: tuple[torch.Tensor, torch.Tensor],
        now: tuple[torch.Tensor, torch.Tensor],
        increase: torch.Tensor,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the images of tissues and lesions at two visits, and which increase they show."""
        mm = self.settings.spacing_mm
        seed = int(rng.integers(2**31))
        # One seed: folds, halos and lesions look alike at both visits.
        scenes = [
            appearance.draw_scene(
                tissues, self._zone_of[tissues.long()], lesions, mm, np.random.default_rng(seed)
            )
            for tissues, lesions in (then, now)
        ]
        scenes[0] = replace(scenes[0], fold=scenes[1].fold, strength=scenes[1].strength)
        shown = self._shown(scenes[1].zones, rng)
        shown = torch.ones_like(increase) if shown is None else shown
        scenes, scanners = [_vary(scene, rng) for scene in scenes], self._scanners(rng)
        offsets = [draw_offset(scanner.slices, mm, rng) for scanner in scanners]
        images = [
            self._image_visit(*visit, rng) * shown
            for visit in zip(scenes, scanners, offsets, strict=True)
        ]
        if not increase.any():
            return torch.stack(images), shown
        bright = increase * scenes[1].strength * scanners[1].lesions.flair[0]
        added = image_slices(bright, mm, scanners[1], offsets[1], lambda stack: stack)
        return torch.stack(images), shown * drop_unseen(increase > 0, added)

    def _scanners(self, rng: np.random.Generator) -> tuple[Scanner, Scanner]:
        contrast = rng.uniform(*self.settings.lesions.flair)
        if rng.random() < self.settings.same_scanner:
            scanner = draw_scanner(contrast, 0, self.settings, rng)
            return visit_again(scanner, rng), scanner
        first, second = (
            draw_scanner(contrast, OTHER_CONTRAST, self.settings, rng) for _ in CHANNELS
        )
        return first, second

    def _image_visit(
        self, scene: appearance.Scene, scanner: Scanner, offset: int, rng: np.random.Generator
    ) -> torch.Tensor:
        mm, settings = self.settings.spacing_mm, self.settings.acquisition
        how = replace(settings, blur_mm=(0, 0), thick=0)
        own = np.random.default_rng(scanner.seed)
        image = appearance.paint(scene, scanner.signals, FLAIR, scanner.lesions, own)
        image = _add_flow(image, scene, rng)
        return image_slices(image, mm, scanner, offset, lambda stack: acquire(stack, mm, how, rng))


def _seen(on_bank: torch.Tensor) -> tuple[slice, ...]:
    """Return the part of the bank's grid that points lie in, with room around it."""
    low = on_bank.amin(dim=(1, 2, 3)).tolist()
    high = on_bank.amax(dim=(1, 2, 3)).tolist()
    box = []
    for first, last, length in zip(low, high, SHAPE, strict=True):
        # Two voxels at least, or nothing could be interpolated between.
        start = int(np.clip(np.floor(first) - ROOM, 0, length - 2))
        box.append(slice(start, int(np.clip(np.ceil(last) + ROOM + 1, start + 2, length))))
    return tuple(box)
