"""Images of any contrast and resolution from label maps, with or without lesions.

Domain randomisation after Billot et al. (SynthSeg, Med. Image Anal. 86:102789, 2023): every image
is drawn anew, so widely that real images lie within the range. Works in torch, on CPU or GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from msapp.synthesis import appearance, warp
from msapp.synthesis.acquisition import AcquisitionSettings, acquire
from msapp.synthesis.appearance import LesionSettings
from msapp.synthesis.contrast import CONTRASTS
from msapp.synthesis.heads import NAMES, ZONE_OF_TISSUE, Head
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LesionBank, LoadSettings

ANY = 'any'
BRAIN_STEP = 29
OFF_CENTRE_MM = 12.0


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
    stripped : float
        Share of heads of which only the brain is shown.
    closed_sulci : float
        Share of heads whose narrow sulci show no fluid, as in most real images.
    centred : str
        ``brain``: the grid lies about the brain's centre; ``lesion``: about a lesion in half of
        the cases, else about any point of the brain.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    channels: tuple[str, ...]
    fully_random: float = 0.5
    gadolinium: float = 0.25
    missing: float = 0.3
    stripped: float = 0.2
    closed_sulci: float = 0.0
    centred: str = 'brain'
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
        """Draw one head; the same generator state gives the same head."""
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
        lesions = self._lesions(load, points, head, tissues)
        present = self._present(rng)
        scene = appearance.draw_scene(tissues, zones, lesions, settings.spacing_mm, rng)
        shown = self._shown(zones, rng)
        images = [
            self._image(name, scene, shown, rng) if there else torch.zeros_like(lesions)
            for name, there in zip(settings.channels, present, strict=True)
        ]
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
        return middle + rng.uniform(-0.3, 0.3, 3) * side_mm

    def _lesions(
        self, load: np.ndarray | None, points: torch.Tensor, head: Head, tissues: torch.Tensor
    ) -> torch.Tensor:
        """Lay the load into the head, on tissue where lesions lie."""
        if load is None or not load.any():
            return torch.zeros(tissues.shape, device=self.device)
        volume = torch.from_numpy(load).to(self.device).float()
        voxels = warp.to_voxels(points, np.linalg.inv(head.to_mni) @ BANK_AFFINE)
        share = warp.sample_share(volume, voxels)
        return share * appearance.may_hold_lesions(tissues)

    def _present(self, rng: np.random.Generator) -> np.ndarray:
        present = rng.random(len(self.settings.channels)) >= self.settings.missing
        if not present.any():
            present[rng.integers(len(present))] = True
        return present

    def _shown(self, zones: torch.Tensor, rng: np.random.Generator) -> torch.Tensor | None:
        """Draw what skull stripping, defacing and the field of view leave; None is everything."""
        if rng.random() < self.settings.stripped:
            return appearance.draw_stripping(zones, self.settings.spacing_mm, rng)
        return appearance.draw_cuts(zones, self.settings.spacing_mm, rng)

    def _image(
        self,
        channel: str,
        scene: appearance.Scene,
        shown: torch.Tensor | None,
        rng: np.random.Generator,
    ) -> torch.Tensor:
        signals, family = self._signals(channel, rng)
        lesions = self.settings.lesions
        if family == appearance.FLAIR:
            lesions = lesions.above(signals[NAMES.index('cortex')])
        image = appearance.paint(scene, signals, family, lesions, rng)
        if shown is None:
            return acquire(image, self.settings.spacing_mm, self.settings.acquisition, rng)
        # What was cut off is 0, without noise.
        cut = acquire(image * shown, self.settings.spacing_mm, self.settings.acquisition, rng)
        return cut * shown

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


def _world(affine: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ voxel + affine[:3, 3]
