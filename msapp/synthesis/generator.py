"""Images of any contrast and resolution from label maps, with or without lesions.

Domain randomisation after Billot et al. (SynthSeg, Med. Image Anal. 86:102789, 2023): every image
is drawn anew, so widely that real images lie within the range. Works in torch, on CPU or GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import ndimage

from msapp.synthesis import appearance, tracts, view, warp
from msapp.synthesis.acquisition import AcquisitionSettings, acquire_part
from msapp.synthesis.appearance import LesionSettings
from msapp.synthesis.change import drop_unseen, strengthen_small
from msapp.synthesis.contrast import CONTRASTS
from msapp.synthesis.heads import NAMES, ZONE_OF_TISSUE, ZONES, Head
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LesionBank, LoadSettings

ANY = 'any'
BRAIN_STEP = 29
OFF_CENTRE_MM = 12.0
HALF = 0.5
PUSH_REACH_MM = 12.0


@dataclass(frozen=True)
class GeneratorSettings:
    """What is drawn.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the drawn images.
    spacing_mm : float
    channels : tuple of str
        Keys of `contrast.CONTRASTS`, or ``any``: a family or fully random signals.
    fully_random : float
        Share of images, in a channel ``any``, whose signals follow no family.
    gadolinium : float
        Share of T1w images that are post-contrast.
    missing : float
        Chance of each channel to be missing; one is always there.
    needed : tuple of str
        Channels that are never missing.
    partial : float
        Chance of each other channel to end within the grid, as a field of view that is too short.
    stripped : float
        Share of heads of which only the brain is shown.
    closed_sulci : float
        Share of heads whose narrow sulci show no fluid, as in most real images.
    centred : str
        ``brain``: the grid lies about the brain's centre; ``lesion``: about a lesion in half of
        the cases, else about any point of the brain.
    beyond_mm : float or None
        How far a grid about a lesion may reach beyond the box around the brain; None for any.
    pushed_mm : float
        Largest distance by which lesions are moved away from ventricles that are wider here than
        in the patient; see `push_points`.
    tracts : bool
        Whether tracts and a septum that are bright in healthy people are drawn in FLAIR.
    leaks_mm : float
        How far the mask of a stripped head reaches beyond the brain in places, at most.
    as_seen : bool
        Whether lesions are such that FLAIR shows them: small ones are painted stronger, only those
        that show in its slices count, and none lies in tissue of which less than half may be
        lesion. A FLAIR that is not among the channels is drawn to tell.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    channels: tuple[str, ...]
    fully_random: float = 0.5
    gadolinium: float = 0.25
    missing: float = 0.3
    needed: tuple[str, ...] = ()
    partial: float = 0.0
    stripped: float = 0.2
    closed_sulci: float = 0.0
    centred: str = 'brain'
    beyond_mm: float | None = None
    pushed_mm: float = 0.0
    tracts: bool = False
    leaks_mm: float = 0.0
    as_seen: bool = False
    warp: warp.WarpSettings = field(default_factory=warp.WarpSettings)
    load: LoadSettings = field(default_factory=LoadSettings)
    lesions: LesionSettings = field(default_factory=LesionSettings)
    acquisition: AcquisitionSettings = field(default_factory=AcquisitionSettings)


@dataclass
class Sample:
    """One drawn head.

    Attributes
    ----------
    images : (C, I, J, K) tensor of float32
        The mode of white matter is 1; a missing channel is 0.
    zones : (I, J, K) tensor of uint8
        Index into `heads.ZONES`.
    lesions : (I, J, K) tensor of float32
        Share of each voxel that is lesion.
    """

    images: torch.Tensor
    zones: torch.Tensor
    lesions: torch.Tensor


class HeadGenerator:
    """Draw images of heads."""

    def __init__(
        self,
        heads: Sequence[Head],
        settings: GeneratorSettings,
        *,
        bank: LesionBank | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        """Hold the heads on the device."""
        self.settings = settings
        self.bank = bank
        self.device = torch.device(device)
        self._heads = list(heads)
        self._tissues = [torch.from_numpy(head.tissues).to(self.device) for head in heads]
        # Voxels of each brain; some are as good as all to draw a place from.
        self._brains = [np.argwhere(head.zones > 0)[::BRAIN_STEP] for head in heads]
        self._zone_of = torch.from_numpy(ZONE_OF_TISSUE).to(self.device)

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one head; one state of ``rng`` gives one head on one device."""
        settings = self.settings
        number = int(rng.integers(len(self._heads)))
        head, labels = self._heads[number], self._tissues[number]
        load = self.bank.draw(rng, settings.load) if self.bank else None
        centre = self._centre(number, load, rng)
        points = warp.draw_points(
            settings.shape, settings.spacing_mm, centre, rng, settings.warp, self.device
        )
        tissues = warp.sample_labels(labels, warp.to_voxels(points, head.affine))
        if settings.closed_sulci and rng.random() < settings.closed_sulci:
            tissues = appearance.close_sulci(tissues, settings.spacing_mm, rng)
        zones = self._zone_of[tissues.long()]
        if settings.pushed_mm:
            points_of_lesions = push_points(points, zones, rng.uniform(0, settings.pushed_mm))
        else:
            points_of_lesions = points
        lesions = self._lesions(load, points_of_lesions, head, tissues)
        present = self._present(rng)
        # Tracts beside wide ventricles are pushed out of them as lesions are.
        (healthy,) = self._healthy(head, [points_of_lesions], rng)
        scene = appearance.draw_scene(
            tissues, zones, lesions, settings.spacing_mm, rng, healthy=healthy
        )
        if settings.as_seen:
            strength = scene.strength * strengthen_small(lesions, settings.spacing_mm)
            scene = replace(scene, strength=strength)
        shown = self._shown(zones, rng)
        images = []
        if settings.as_seen and appearance.FLAIR not in settings.channels:
            _, added = self._image(appearance.FLAIR, scene, shown, rng)
            lesions = lesions * drop_unseen(lesions > HALF, added)
        for name, there in zip(settings.channels, present, strict=True):
            if not there:
                images.append(torch.zeros_like(lesions))
                continue
            image, added = self._image(name, scene, shown, rng)
            if settings.partial and name not in settings.needed and rng.random() < settings.partial:
                image = image * view.draw_view(settings.shape, rng, self.device)
            images.append(image)
            if settings.as_seen and name == appearance.FLAIR:
                lesions = lesions * drop_unseen(lesions > HALF, added)
        return Sample(torch.stack(images), zones, lesions)

    def _centre(self, number: int, load: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        head, brain = self._heads[number], self._brains[number]
        if self.settings.centred == 'brain':
            # The middle of the brain, give or take what a rough alignment leaves.
            return _world(head.affine, brain.mean(axis=0)) + rng.uniform(-1, 1, 3) * OFF_CENTRE_MM
        if load is not None and load.any() and rng.random() < 0.5:
            voxels = np.argwhere(load)
            mni = _world(BANK_AFFINE, voxels[rng.integers(len(voxels))])
            middle = _world(np.linalg.inv(head.to_mni), mni)
        else:
            middle = _world(head.affine, brain[rng.integers(len(brain))])
        side_mm = np.array(self.settings.shape) * self.settings.spacing_mm
        middle = middle + rng.uniform(-0.3, 0.3, 3) * side_mm
        if self.settings.beyond_mm is None:
            return middle
        world = brain @ head.affine[:3, :3].T + head.affine[:3, 3]
        room = side_mm / 2 - self.settings.beyond_mm
        low, high = world.min(axis=0) + room, world.max(axis=0) - room
        # A grid that is wider than the box lies about its middle.
        return np.where(low > high, (low + high) / 2, np.clip(middle, low, high))

    def _lesions(
        self, load: np.ndarray | None, points: torch.Tensor, head: Head, tissues: torch.Tensor
    ) -> torch.Tensor:
        """Lay the load into the head, on tissue where lesions lie."""
        if load is None or not load.any():
            return torch.zeros(tissues.shape, device=self.device)
        volume = torch.from_numpy(load).to(self.device).float()
        voxels = warp.to_voxels(points, np.linalg.inv(head.to_mni) @ BANK_AFFINE)
        return warp.sample_share(volume, voxels) * self._holds(tissues)

    def _holds(self, tissues: torch.Tensor) -> torch.Tensor:
        """Return how much of what is laid into each voxel may be lesion, 0 to 1."""
        holds = appearance.may_hold_lesions(tissues)
        return holds * (holds >= HALF) if self.settings.as_seen else holds

    def _healthy(
        self, head: Head, places: Sequence[torch.Tensor], rng: np.random.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """Draw how bright tracts and septum are; return that at each of several grids."""
        if not self.settings.tracts:
            return [None] * len(places)
        bright, septum = (
            torch.from_numpy(drawn).to(self.device)
            for drawn in (tracts.draw_tracts(rng), tracts.draw_septum(rng))
        )
        matrix = np.linalg.inv(head.to_mni) @ tracts.AFFINE
        voxels = [warp.to_voxels(place, matrix) for place in places]
        return [
            (warp.sample_share(bright, place), warp.sample_share(septum, place)) for place in voxels
        ]

    def _present(self, rng: np.random.Generator) -> np.ndarray:
        present = rng.random(len(self.settings.channels)) >= self.settings.missing
        present |= np.isin(self.settings.channels, self.settings.needed)
        if not present.any():
            present[rng.integers(len(present))] = True
        return present

    def _shown(self, zones: torch.Tensor, rng: np.random.Generator) -> torch.Tensor | None:
        """Draw what skull stripping, defacing and the field of view leave; None is everything."""
        if rng.random() < self.settings.stripped:
            leaks_mm = self.settings.leaks_mm
            return view.draw_stripping(zones, self.settings.spacing_mm, rng, leaks_mm=leaks_mm)
        return view.draw_cuts(zones, self.settings.spacing_mm, rng)

    def _image(
        self,
        channel: str,
        scene: appearance.Scene,
        shown: torch.Tensor | None,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw one image, and what lesions add to it."""
        signals, family = self._signals(channel, rng)
        lesions = self.settings.lesions
        if family == appearance.FLAIR:
            lesions = lesions.above(signals[NAMES.index('cortex')])
        image, added = appearance.paint(scene, signals, family, lesions, rng)
        # What was cut off is 0, without noise.
        left = torch.ones_like(image) if shown is None else shown
        mm, settings = self.settings.spacing_mm, self.settings.acquisition
        image, added = acquire_part(image * left, added * left, mm, settings, rng)
        return image * left, added * left

    def _signals(self, channel: str, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Draw the signal of each tissue; the family tells how lesions look."""
        family = channel
        if channel == ANY:
            if rng.random() < self.settings.fully_random:
                return appearance.random_signals(rng), ANY
            family = str(rng.choice([*CONTRASTS]))
        if family == 'T1w' and rng.random() < self.settings.gadolinium:
            family = 'ce-gadolinium_T1w'
        return appearance.family_signals(family, rng), family


def push_points(points: torch.Tensor, zones: torch.Tensor, largest_mm: float) -> torch.Tensor:
    """Move points towards the nearest ventricle, those at its wall most.

    Where ventricles are wider than those of the patient, lesions beside them would fall into
    fluid: what is sampled at these points lies the same distance further out.

    Parameters
    ----------
    points : (3, I, J, K) tensor
        World, mm.
    zones : (I, J, K) tensor of uint8
        Of the same voxels.
    largest_mm : float
        At the wall; it falls to 37 % at `PUSH_REACH_MM`.

    Returns
    -------
    (3, I, J, K) tensor
        Those in ventricles stay.
    """
    outside = (zones != ZONES.index('ventricles')).cpu().numpy()
    if outside.all() or not outside.any():
        return points
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    wall = points[:, *torch.from_numpy(nearest).long().to(points.device)]
    way = wall - points
    distance = torch.linalg.vector_norm(way, dim=0)
    step = largest_mm * torch.exp(-distance / PUSH_REACH_MM) / distance.clamp(min=1e-3)
    return points + way * step


def _world(affine: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ voxel + affine[:3, 3]
