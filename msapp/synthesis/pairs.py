"""Pairs of FLAIRs of one head at two visits, between which lesions come, grow, shrink or vanish.

Everything else that differs between real visits is drawn as well and is no lesion: residual
misregistration, positions of slices, scanner, shading, noise, flow, brightness of ventricle rims,
tracts, folds and old lesions. Synthetic pairs and degraded acquisitions carried the best new-lesion
networks of MSSEG-2 (Kamraoui et al., Front. Neuroimaging 1:817043, 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.synthesis import appearance, warp
from msapp.synthesis.acquisition import acquire
from msapp.synthesis.appearance import FLAIR
from msapp.synthesis.change import (
    ROOM,
    ChangeSettings,
    became,
    change_lesions,
    draw_new,
    drop_unseen,
    strengthen_small,
    voxels_of,
)
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator
from msapp.synthesis.heads import Head
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import SHAPE, LesionBank
from msapp.synthesis.scanners import (
    Scanner,
    draw_offset,
    draw_scanner,
    image_slices,
    visit_again,
    visit_elsewhere,
)

CHANNELS = ('previous', 'current')
# With an image grid centred on lesions: about a new one this often, where there is one.
NEW_CENTRED = 0.6
# Brightness of one lesion at two visits, relative: at two scanners, and in places.
OTHER_CONTRAST, FLUCTUATION = 0.25, 0.12
# Brightness of what is bright in healthy people, relative to that of the head: at two visits to one
# scanner, and at two scanners.
HEALTHY, OTHER_HEALTHY = 0.3, 0.6
# What readers mark is seen: no part of a lesion is dimmer, relative to its mean.
DIMMEST = 0.6
FLUCTUATION_MM, BEND_MM = 10.0, 25.0
# See `appearance.add_flow`.
FLOW_MM, LEAST_FLOW = 12.0, 1.0
# Where increases are such that readers mark them (`as_seen`), none is smaller.
LEAST_INCREASE_MM3 = 3.0


@dataclass(frozen=True)
class PairSettings(ChangeSettings, GeneratorSettings):
    """What is drawn of two visits.

    `GeneratorSettings` tells what a visit is like, `ChangeSettings` what becomes of lesions. With
    ``as_seen`` small lesions are painted stronger, as there, and no increase is smaller than
    `LEAST_INCREASE_MM3`.

    Attributes
    ----------
    unchanged : float
        Share of pairs between which no lesion changed.
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


def _vary(scene: appearance.Scene, spread: float, rng: np.random.Generator) -> appearance.Scene:
    """Let what is bright in a head be a little brighter or dimmer at each visit.

    ``spread`` is that of healthy tissue, relative; lesions vary by themselves.
    """
    shape, device = tuple(scene.rim.shape), scene.rim.device
    control = warp.control_points(shape, scene.spacing_mm, FLUCTUATION_MM)
    places = warp.smooth_noise(shape, control, rng, device)[0]
    strength = scene.strength * (1 + rng.uniform(0, FLUCTUATION) * places)
    healthy, fold, halo = rng.uniform(1 - spread, 1 + spread, 3)
    return replace(
        scene,
        rim=scene.rim * healthy,
        tracts=scene.tracts * healthy,
        fold=scene.fold * fold,
        halo=scene.halo * halo,
        strength=strength.clamp(min=DIMMEST),
    )


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
        """Draw two visits of one head; one state of ``rng`` gives one pair on one device."""
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
        holds, held = self._holds(now), self._holds(then)
        before = warp.sample_share(old, on_bank - corner) * holds
        before_then = warp.sample_share(old, then_on_bank - corner) * held
        after = before
        if changed:
            grown = self._volume(change_lesions(load[box], rng, settings) | new[box])
            after = warp.sample_share(grown, on_bank - corner) * holds
        increase = became(after, before)
        healthy = self._healthy(head, [earlier, points], rng)
        images, kept = self._visits((then, before_then), (now, after), healthy, increase, rng)
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
        voxels = voxels_of(new)
        mni = nib.affines.apply_affine(BANK_AFFINE, voxels[rng.integers(len(voxels))])
        middle = nib.affines.apply_affine(np.linalg.inv(self._heads[number].to_mni), mni)
        side_mm = np.array(self.settings.shape) * self.settings.spacing_mm
        centre: np.ndarray = middle + rng.uniform(-0.3, 0.3, 3) * side_mm
        return centre

    def _visits(
        self,
        then: tuple[torch.Tensor, torch.Tensor],
        now: tuple[torch.Tensor, torch.Tensor],
        healthy: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
        increase: torch.Tensor,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the images of tissues and lesions at two visits, and what increase shows."""
        mm = self.settings.spacing_mm
        seed = int(rng.integers(2**31))
        # One seed: folds, halos and lesions look alike at both visits.
        scenes = [
            appearance.draw_scene(
                tissues,
                self._zone_of[tissues.long()],
                lesions,
                mm,
                np.random.default_rng(seed),
                healthy=bright,
            )
            for (tissues, lesions), bright in zip((then, now), healthy, strict=True)
        ]
        strength = scenes[1].strength
        if self.settings.as_seen:
            strength = strength * strengthen_small(torch.maximum(then[1], now[1]), mm)
        scenes = [replace(scene, fold=scenes[1].fold, strength=strength) for scene in scenes]
        shown = self._shown(scenes[1].zones, rng)
        shown = torch.ones_like(increase) if shown is None else shown
        same = rng.random() < self.settings.same_scanner
        scenes = [_vary(scene, HEALTHY if same else OTHER_HEALTHY, rng) for scene in scenes]
        scanners = self._scanners(same, rng)
        offsets = [draw_offset(scanner.slices, mm, rng) for scanner in scanners]
        images = [
            self._image_visit(*visit, rng) * shown
            for visit in zip(scenes, scanners, offsets, strict=True)
        ]
        if not increase.any():
            return torch.stack(images), shown
        least_added = increase * scenes[1].strength * scanners[1].lesions.flair[0]
        added = image_slices(least_added, mm, scanners[1], offsets[1], lambda stack: stack)
        least = round(LEAST_INCREASE_MM3 / mm**3) if self.settings.as_seen else 1
        seen = drop_unseen(increase > 0, added, least_voxels=least)
        return torch.stack(images), shown * seen

    def _scanners(self, same: bool, rng: np.random.Generator) -> tuple[Scanner, Scanner]:
        contrast = rng.uniform(*self.settings.lesions.flair)
        spread = 0 if same else OTHER_CONTRAST
        scanner = draw_scanner(contrast, spread, self.settings, rng)
        if same:
            return visit_again(scanner, rng), scanner
        other = draw_scanner(contrast, spread, self.settings, rng)
        return visit_elsewhere(scanner, other, OTHER_HEALTHY, rng), other

    def _image_visit(
        self, scene: appearance.Scene, scanner: Scanner, offset: int, rng: np.random.Generator
    ) -> torch.Tensor:
        mm, settings = self.settings.spacing_mm, self.settings.acquisition
        how = replace(settings, blur_mm=(0, 0), thick=0)
        own = np.random.default_rng(scanner.seed)
        image, _ = appearance.paint(scene, scanner.signals, FLAIR, scanner.lesions, own)
        # Fluid that shines at one visit only.
        image = appearance.add_flow(image, scene, rng, distance_mm=FLOW_MM, least=LEAST_FLOW)
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
