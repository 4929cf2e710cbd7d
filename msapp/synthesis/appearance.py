"""How tissues and lesions look: signals, texture, hard negatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from msapp.synthesis import warp
from msapp.synthesis.contrast import CONTRASTS
from msapp.synthesis.heads import NAMES, TISSUES, ZONES

# Share of a lesion that shows in each tissue: most lie in white matter; some reach into grey.
_LESION_TISSUES: Mapping[str, float] = {
    'white_matter': 1.0, 'brain_stem': 1.0, 'cerebellum_white': 1.0, 'cortex': 0.6,
    'thalamus': 0.7, 'caudate': 0.3, 'putamen': 0.3, 'pallidum': 0.3, 'hippocampus': 0.2,
    'ventral_diencephalon': 0.6, 'cerebellum_cortex': 0.3,
}  # fmt: skip
FLAIR = 'FLAIR'
# Grey matter is brighter in some places than in others: insula, cingulum, caudate. Largest share.
FOLD = 0.25
# Sulci up to twice as wide may be closed.
CLOSED_MM = (0.6, 2.4)
# Bright white matter along the ventricles (Fazekas et al., AJR 149:351, 1987: lines and caps are
# normal): a band with an edge, here and there, caps about the horns, and a wide haze, as at the
# trigones. Ranges of blurs, and of the share of ventricle at the band's edge.
BAND_MM, CAP_MM, HAZE_MM = (1.5, 3.0), (2.0, 5.0), (5.0, 10.0)
BAND_EDGE, BAND_SLOPE = (0.1, 0.4), 10.0
# A ventricle's voxel with less ventricle about it lies in a horn, or in a thin ventricle.
HORN_MM, HORN_SHARE = 5.0, 0.4
BRIGHTEST_RIM, BRIGHTEST_HAZE = 0.6, 0.4
# Fluid that moves and shines: between the points of a smooth field, and its value from which on.
FLOW_MM, LEAST_FLOW = 15.0, 0.8
# Of white matter, from place to place.
UNEVEN = 0.06
# Of tissues of one material, standard deviation.
TISSUE_SPREAD, GREY_SPREAD = 0.03, 0.06


@dataclass(frozen=True)
class LesionSettings:
    """Ranges of how lesions look, relative to white matter.

    Attributes
    ----------
    flair, t2w : tuple of float
        How much brighter they are.
    t1w : tuple of float
        How much darker: 0 is iso-intense, 0.6 a black hole.
    dirty : float
        Largest brightness of dirty-appearing white matter around them, as a share of theirs.
    """

    flair: tuple[float, float] = (0.15, 1.0)
    t2w: tuple[float, float] = (0.3, 1.5)
    t1w: tuple[float, float] = (0.0, 0.6)
    dirty: float = 0.35

    def above(self, cortex: float) -> LesionSettings:
        """Return lesions that are as much brighter than cortex, where that is brighter.

        In FLAIR, where white matter is 1, lesions as dim as cortex would not be told from it.
        """
        low, high = self.flair
        extra = max(0.0, float(cortex) - 1)
        return replace(self, flair=(low + extra, high + extra))


@dataclass(frozen=True)
class Scene:
    """What all channels of one head share.

    Attributes
    ----------
    tissues, zones : (I, J, K) tensor of uint8
    lesions : (I, J, K) tensor of float32
        Share of lesion.
    halo : (I, J, K) tensor of float32
        Dirty-appearing white matter around lesions, 0 to 1.
    rim : (I, J, K) tensor of float32
        White matter along the ventricles, where FLAIR is bright in healthy people, about 0 to
        1.
    tracts : (I, J, K) tensor of float32
        What tracts that FLAIR shows brighter add to white matter and brain stem; see
        `msapp.synthesis.tracts`.
    septum : (I, J, K) tensor of float32
        Least signal in the ventricles, in FLAIR; see `msapp.synthesis.tracts`.
    fold : (I, J, K) tensor of float32
        Smooth variation of grey matter (bright insula and cingulum, cortical inflow), and, less, of
        white matter.
    strength : (I, J, K) tensor of float32
        Variation of lesions' brightness from place to place, about 1.
    """

    tissues: torch.Tensor
    zones: torch.Tensor
    lesions: torch.Tensor
    halo: torch.Tensor
    rim: torch.Tensor
    tracts: torch.Tensor
    septum: torch.Tensor
    fold: torch.Tensor
    strength: torch.Tensor
    spacing_mm: float


def may_hold_lesions(tissues: torch.Tensor) -> torch.Tensor:
    """Return where lesions may be painted.

    Returns
    -------
    (I, J, K) tensor of float32
        1 in white matter and brain stem, less in grey matter, 0 elsewhere.
    """
    table = torch.tensor([_LESION_TISSUES.get(name, 0.0) for name in NAMES])
    return table.to(tissues.device)[tissues.long()]


def close_sulci(tissues: torch.Tensor, spacing_mm: float, rng: np.random.Generator) -> torch.Tensor:
    """Fill narrow sulci with cortex: their banks touch, and at their bottoms grey matter looks
    like islands in white matter.

    Parameters
    ----------
    tissues : (I, J, K) tensor of uint8
        Index into `heads.NAMES`.
    spacing_mm : float
        Of the grid, isotropic.
    rng : numpy.random.Generator

    Returns
    -------
    (I, J, K) tensor of uint8
    """
    reach = max(1, round(rng.uniform(*CLOSED_MM) / spacing_mm))
    cortex = (tissues == NAMES.index('cortex')).float()
    closed = 1 - warp.dilate(1 - warp.dilate(cortex, reach), reach)
    fluid = (tissues == NAMES.index('csf')) | (tissues == NAMES.index('outer_csf'))
    return torch.where((closed > 0) & fluid, NAMES.index('cortex'), tissues)


def draw_scene(
    tissues: torch.Tensor,
    zones: torch.Tensor,
    lesions: torch.Tensor,
    spacing_mm: float,
    rng: np.random.Generator,
    *,
    healthy: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Scene:
    """Draw what all channels share.

    Parameters
    ----------
    tissues, zones : (I, J, K) tensor of uint8
        Index into `heads.NAMES`, and into `heads.ZONES`.
    lesions : (I, J, K) tensor of float32
        Share of lesion, 0 to 1.
    spacing_mm : float
        Of the grid, isotropic.
    rng : numpy.random.Generator
    healthy : tuple of (I, J, K) tensor of float32, optional
        Tracts and septum, see `Scene`; what lies outside their tissues is left out.

    Returns
    -------
    Scene
    """
    shape, device = tuple(tissues.shape), tissues.device
    white = (zones == ZONES.index('white_matter')).float()
    # Before what depends on lesions: both visits of a pair have the same rim.
    rim = _draw_rim(zones, spacing_mm, rng) * white
    tracts, septum = healthy or (torch.zeros_like(lesions), torch.zeros_like(lesions))
    tracts = tracts * zone_in(zones, 'white_matter', 'brain_stem')
    septum = septum * zone_in(zones, 'ventricles')
    halo = torch.zeros_like(lesions)
    if lesions.any():
        halo = (warp.blur(lesions, rng.uniform(1.5, 4.0) / spacing_mm) * 2).clamp(max=1) * white
    points = warp.control_points(shape, spacing_mm, 25)
    fold = warp.smooth_noise(shape, points, rng, device)[0]
    strength = draw_strength(shape, spacing_mm, rng, device)
    return Scene(tissues, zones, lesions, halo, rim, tracts, septum, fold, strength, spacing_mm)


def _draw_rim(zones: torch.Tensor, spacing_mm: float, rng: np.random.Generator) -> torch.Tensor:
    """Draw how bright it is about the ventricles in healthy people: see `Scene`."""
    wet = (zones == ZONES.index('ventricles')).float()
    horns = wet * (warp.blur(wet, HORN_MM / spacing_mm) < HORN_SHARE)
    band, caps, haze = (
        warp.blur(mask, rng.uniform(*width) / spacing_mm)
        for mask, width in ((wet, BAND_MM), (horns, CAP_MM), (wet, HAZE_MM))
    )
    band = (BAND_SLOPE * (band - rng.uniform(*BAND_EDGE))).clamp(0, 1)
    points = warp.control_points(tuple(zones.shape), spacing_mm, 15)
    places = warp.smooth_noise(tuple(zones.shape), points, rng, zones.device)[0]
    band = band * (0.5 + places).clamp(0, 1)
    caps = (6 * caps).clamp(max=1) * rng.uniform(0, 1)
    haze = (2 * haze).clamp(max=1) * rng.uniform(0, BRIGHTEST_HAZE)
    return torch.maximum(torch.maximum(band, caps), haze)


def zone_in(zones: torch.Tensor, *names: str) -> torch.Tensor:
    """Return where zones are of some names, as booleans."""
    return torch.isin(zones, torch.tensor([ZONES.index(name) for name in names]).to(zones))


def family_signals(family: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the signals of a contrast family, widely; white matter is 1.

    Returns
    -------
    (T,) ndarray of float32
        One a tissue of `heads.NAMES`.
    """
    table = CONTRASTS[family]
    white = table['white_matter']
    # Every material differs from white matter by more or less than in the table.
    stretch = rng.uniform(0.4, 1.6)
    drawn = {
        material: white + (signal - white) * stretch * rng.uniform(0.7, 1.3)
        for material, signal in table.items()
    }
    signals = np.zeros(len(TISSUES), np.float32)
    for index, (zone, material, _) in enumerate(TISSUES.values()):
        if not material:
            continue
        spread = GREY_SPREAD if zone == 'deep_grey' else TISSUE_SPREAD
        signals[index] = drawn[material] / white * rng.normal(1, spread)
        outside = zone == 'background' and material != 'csf'
        if outside and rng.random() < 0.4:
            signals[index] = rng.uniform(0, 2.5)
    signals[NAMES.index('white_matter')] = 1.0
    if rng.random() < 0.6:
        signals[NAMES.index('choroid')] = rng.uniform(0.5, 1.8) if family == FLAIR else 0.6
    return np.clip(signals, 0, 4)


def random_signals(rng: np.random.Generator) -> np.ndarray:
    """Draw signals that follow no family; white matter is 1.

    Returns
    -------
    (T,) ndarray of float32
    """
    shared = {material: rng.uniform(0.02, 1.0) for _, material, _ in TISSUES.values()}
    signals = np.array(
        [shared[material] * rng.normal(1, 0.05) for _, material, _ in TISSUES.values()], np.float32
    )
    signals[0] = 0 if rng.random() < 0.9 else rng.uniform(0, 0.3)
    return np.clip(signals / signals[NAMES.index('white_matter')], 0, 4)


def paint(
    scene: Scene,
    signals: np.ndarray,
    family: str,
    settings: LesionSettings,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give every voxel its signal.

    Parameters
    ----------
    signals : (T,) ndarray
        One a tissue; white matter is 1.
    family : str
        Decides how lesions and hard negatives look.

    Returns
    -------
    image, added : (I, J, K) tensor of float32
        Without blur, shading and noise; what lesions have added to it.
    """
    device = scene.tissues.device
    image = torch.from_numpy(signals).to(device)[scene.tissues.long()]
    spread = torch.from_numpy((rng.uniform(0.01, 0.06, len(signals)) * signals).astype(np.float32))
    texture = warp.blur(warp.noise_like(tuple(image.shape), rng, device), 0.7)
    image = image + spread.to(device)[scene.tissues.long()] * texture * 3
    grey = zone_in(scene.zones, 'cortex', 'deep_grey').float()
    image = image * (1 + grey * rng.uniform(0, FOLD) * scene.fold)
    if family == FLAIR:
        image = image + rng.uniform(0, BRIGHTEST_RIM) * scene.rim + scene.tracts
        white = zone_in(scene.zones, 'white_matter').float()
        image = image * (1 + white * rng.uniform(-UNEVEN, UNEVEN) * scene.fold)
        image = torch.maximum(add_flow(image, scene, rng), scene.septum)
    dirty = rng.uniform(0, settings.dirty)
    share = torch.maximum(_soften(scene, rng), dirty * scene.halo)
    painted = paint_lesions(image, share, scene.strength, family, settings, rng)
    return painted, painted - image


def paint_lesions(
    image: torch.Tensor,
    share: torch.Tensor,
    strength: torch.Tensor,
    family: str,
    settings: LesionSettings,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Paint lesions over an image, drawn or real.

    Parameters
    ----------
    image : (I, J, K) tensor
        White matter is 1.
    share : (I, J, K) tensor
        Share of lesion.
    strength : (I, J, K) tensor
        See `Scene`.
    family : str
        Decides how lesions look.

    Returns
    -------
    (I, J, K) tensor of float32
    """
    change = _lesion_change(family, settings, rng)
    # A lesion differs from white matter; where grey matter does so already, it differs from that.
    base = image.clamp(min=1) if change > 0 else image.clamp(max=1)
    target = (base + change * strength).clamp(min=0.05)
    return (image + share * (target - image)).clamp(min=0)


def draw_strength(
    shape: tuple[int, ...],
    spacing_mm: float,
    rng: np.random.Generator,
    device: torch.device,
) -> torch.Tensor:
    """Draw how lesions' brightness varies from place to place, about 1: see `Scene`."""
    vary = warp.smooth_noise(shape, warp.control_points(shape, spacing_mm, 12), rng, device)[0]
    return (1 + rng.uniform(0.1, 0.4) * vary).clamp(0.3, 1.8)


def _soften(scene: Scene, rng: np.random.Generator) -> torch.Tensor:
    return warp.blur(scene.lesions, rng.uniform(0.2, 0.8) / scene.spacing_mm)


def _lesion_change(family: str, settings: LesionSettings, rng: np.random.Generator) -> float:
    if family == FLAIR:
        return float(rng.uniform(*settings.flair))
    if family == 'T2w':
        return float(rng.uniform(*settings.t2w))
    if family in CONTRASTS:
        return -float(rng.uniform(*settings.t1w))
    return float(rng.uniform(-0.6, 1.2))


def add_flow(
    image: torch.Tensor,
    scene: Scene,
    rng: np.random.Generator,
    *,
    distance_mm: float = FLOW_MM,
    least: float = LEAST_FLOW,
) -> torch.Tensor:
    """Let moving fluid shine in some places, in half of the cases, as it does in FLAIR.

    Parameters
    ----------
    image : (I, J, K) tensor of float32
        White matter is 1.
    scene : Scene
    rng : numpy.random.Generator
    distance_mm : float
        Between the points of the smooth field, of standard deviation 1, that says where.
    least : float
        Value of the field that shines (exceeded).

    Returns
    -------
    (I, J, K) tensor of float32
    """
    if rng.random() < 0.5:
        return image
    fluid = zone_in(scene.zones, 'ventricles', 'csf').float()
    points = warp.control_points(image.shape, scene.spacing_mm, distance_mm)
    field = warp.smooth_noise(tuple(image.shape), points, rng, image.device)[0]
    return image + fluid * (field - least).clamp(min=0) * rng.uniform(0.2, 1.0)
