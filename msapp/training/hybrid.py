"""Training of the hybrid method's network: patches about the candidates of pairs of visits.

Step one of the method (`msapp.lesions.candidates`) is run on every pair once; which of its patches
make an epoch says `msapp.training.sampling`. Real pairs are taken forwards and in reverse: what
ceased to be lesion becomes one. They are few, so pairs of drawn heads are added.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from msapp.files import atomic_path
from msapp.imaging.distance import DistanceMaps, distance_maps
from msapp.inference.patches import Patch, corners
from msapp.lesions.candidates import Candidates, find_candidates
from msapp.synthesis.change import LESION_SHARE
from msapp.synthesis.heads import PREPARATION
from msapp.synthesis.pairs import PairGenerator
from msapp.training.data import Item
from msapp.training.module import NetworkTraining, dice_per_class
from msapp.training.recipe import Recipe
from msapp.training.sampling import TrainingPatch, describe_patches, draw_epoch, make_batches
from msapp.training.validation import REAL_ENDING
from msapp.training.visits import Visits, keep_lesions, swap_visits

FOLDER = 'candidates'
REVERSED = '-reversed'
AUGMENTATION_PROBABILITY = 0.3
# The source gives no strengths. Noise: torchio's default, a quarter of a grey level. Bias: an
# assumption of what N4 and histogram matching leave, of the order of 10 %, smooth in a patch.
NOISE_LEVELS = 0.25
BIAS_COEFFICIENTS = 0.1
BIAS_ORDER = 2
# Candidates of two scanners can span a hemisphere: a batch of such patches fits no memory. The
# network sees 15 voxels at once, so a part of one teaches it as much in a hundredth of the time. In
# use patches are whole.
LARGEST_SIDE = 24
# Of the source: the learning rate is multiplied by this every so many epochs.
DECAY, DECAY_EPOCHS = 0.1, 4

logger = logging.getLogger(__name__)


# --- Cases ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A pair of visits after step one, and its truth.

    Attributes
    ----------
    name : str
    levels : (2, I, J, K) ndarray of uint8
        Grey levels of both FLAIRs, 0 outside the brain.
    distances : (3, I, J, K) ndarray of float16
        DM, DMz and DMx, mm; see `msapp.imaging.distance.DistanceMaps`.
    truth : (I, J, K) ndarray of bool
        New lesions.
    labels : (I, J, K) ndarray of int32
        Candidates.
    """

    name: str
    levels: np.ndarray
    distances: np.ndarray
    truth: np.ndarray
    labels: np.ndarray

    def patches(self) -> list[TrainingPatch]:
        """Return the patch of each candidate, no side longer than `LARGEST_SIDE`."""
        below_vertex = self.distances[1].astype(np.float32)
        described = describe_patches(self.name, self.labels, self.truth, below_vertex)
        return [self._shortened(patch) for patch in described]

    def _shortened(self, patch: TrainingPatch) -> TrainingPatch:
        """Cut a large patch down, to what is about a new lesion in it if there is one."""
        if max(patch.shape) <= LARGEST_SIDE:
            return patch
        candidate = self.labels[patch.box] == patch.label
        wanted = np.argwhere(candidate & self.truth[patch.box] if patch.true else candidate)
        middle = wanted[len(wanted) // 2]
        sides = np.minimum(patch.shape, LARGEST_SIDE)
        first = np.clip(middle - sides // 2, 0, np.array(patch.shape) - sides)
        low = np.array(patch.start) + first
        start, stop = corners(list(map(slice, low.tolist(), (low + sides).tolist())))
        return replace(patch, start=start, stop=stop)

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        arrays = {name: getattr(self, name) for name in ('levels', 'distances', 'truth', 'labels')}
        with atomic_path(path) as temporary, temporary.open('wb') as stream:
            np.savez_compressed(stream, **arrays)

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(name=path.stem, **dict(file))


def make_case(name: str, candidates: Candidates, maps: DistanceMaps, truth: np.ndarray) -> Case:
    """Gather what step one found between two visits.

    Parameters
    ----------
    name : str
    candidates : Candidates
    maps : DistanceMaps
        Of the intersection of the brain masks, mm; kept in half precision.
    truth : (I, J, K) ndarray of bool
        New lesions.

    Returns
    -------
    Case
    """
    distances = np.stack([maps.depth, maps.below_vertex, maps.from_occiput])
    return Case(
        name=name,
        levels=np.stack([candidates.previous_levels, candidates.current_levels]),
        distances=distances.astype(np.float16),
        truth=truth,
        labels=candidates.labels,
    )


def find_case(name: str, images: torch.Tensor, truth: torch.Tensor, spacing_mm: float) -> Case:
    """Run step one on two FLAIRs.

    Parameters
    ----------
    name : str
    images : (2, I, J, K) tensor of float32
        Earlier and later visit; 0 outside the brain of either.
    truth : (I, J, K) tensor of bool
        New lesions.
    spacing_mm : float
        Of the grid, isotropic.

    Returns
    -------
    Case

    Raises
    ------
    InputError
        If the two show no brain in common, or the later one has one intensity only.
    """
    previous, current = images.cpu().numpy()
    brain, spacing = (current > 0) & (previous > 0), (spacing_mm,) * 3
    candidates = find_candidates(previous, current, brain, spacing)
    return make_case(name, candidates, distance_maps(brain, spacing), truth.cpu().numpy())


def read_real_cases(visits: Sequence[Visits], recipe: Recipe) -> list[Case]:
    """Return the cases of real pairs, forwards and in reverse."""
    cases = []
    for patient in map(keep_lesions, visits):
        both = {patient.name: patient, f'{patient.name}{REVERSED}': swap_visits(patient)}
        cases += [
            find_case(name, pair.images, pair.increase, recipe.spacing_mm)
            for name, pair in both.items()
        ]
    return cases


def read_drawn_cases(
    generator: PairGenerator, count: int, cache: Path, *, prefix: str, seed: int, origin: str = ''
) -> list[Case]:
    """Return the cases of drawn pairs; each is drawn once and kept.

    Parameters
    ----------
    generator : PairGenerator
        Its images must hold whole brains, for the distance maps.
    count : int
    cache : Path
        Gets ``candidates/PREFIX-SETTINGS-NUMBER.npz``: other settings, or another seed, draw anew.
    prefix : str
        Of the names.
    seed : int
        The same seed draws the same pairs.
    origin : str
        What heads and lesions are drawn from; from another one pairs are drawn anew.
    """
    cases = []
    what = f'{PREPARATION} {generator.settings} {seed} {origin}'
    settings = hashlib.sha256(what.encode()).hexdigest()[:8]
    for number in range(count):
        path = cache / FOLDER / f'{prefix}-{settings}-{number + 1:03}.npz'
        if not path.exists():
            logger.info('drawing pair %d of %d', number + 1, count)
            path.parent.mkdir(parents=True, exist_ok=True)
            pair = generator.draw_pair(np.random.default_rng([seed, number]))
            truth = pair.increase > LESION_SHARE
            find_case(path.stem, pair.images, truth, generator.settings.spacing_mm).save(path)
        cases.append(Case.load(path))
    return cases


def all_patches(cases: Sequence[Case]) -> list[TrainingPatch]:
    """Return the patches of all cases."""
    return [patch for case in cases for patch in case.patches()]


# --- Patches --------------------------------------------------------------------------------------


def cut_item(patch: Patch, case: Case) -> Item:
    """Cut what a patch holds out of its case.

    Returns
    -------
    dict of str to tensor of float32
        ``image`` (2, I, J, K), grey levels of both visits; ``distances`` (3, I, J, K), mm;
        ``target`` (1, I, J, K), 1 in new lesions.
    """
    channels = {'image': case.levels, 'distances': case.distances, 'target': case.truth[None]}
    return {
        name: torch.from_numpy(images[:, *patch.box].astype(np.float32))
        for name, images in channels.items()
    }


def patch_transform() -> tio.Transform:
    """Return what is varied in a patch: bias field and noise, each in 30 % of the patches."""
    return tio.Compose(
        [
            tio.RandomBiasField(
                coefficients=BIAS_COEFFICIENTS, order=BIAS_ORDER, p=AUGMENTATION_PROBABILITY
            ),
            tio.RandomNoise(std=(0, NOISE_LEVELS), p=AUGMENTATION_PROBABILITY),
        ]
    )


def augment_item(item: Item, seed: int, *, transform: tio.Transform | None = None) -> Item:
    """Vary the FLAIRs of a patch, each visit by itself; what is outside the brain stays 0.

    Parameters
    ----------
    item : dict of str to tensor
        See `cut_item`; it is left as it is.
    seed : int
        The same seed gives the same patch; torch's own generator is put back.
    transform : torchio.Transform, optional
        Default `patch_transform`.
    """
    image = item['image']
    # As two images, or torchio gives both visits one bias field and one level of noise.
    visits = {f'visit{n}': tio.ScalarImage(tensor=visit[None]) for n, visit in enumerate(image)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        varied = (transform or patch_transform())(tio.Subject(visits))
    levels = torch.cat([varied[name].data for name in visits])
    return item | {'image': levels.masked_fill(image == 0, 0)}


def collate_patches(items: Sequence[Item]) -> Item:
    """Make a batch of patches of several sizes.

    Parameters
    ----------
    items : sequence of dict of str to tensor
        See `cut_item`. Every tensor is ``(C, I, J, K)``.

    Returns
    -------
    dict of str to tensor
        The same names, ``(B, C, I, J, K)``, padded with 0 at the end of each axis to the
        largest side; and ``mask``, (B, 1, I, J, K) tensor of bool, True where nothing is padded.
        Only there does the loss count.
    """
    sides = torch.tensor([next(iter(item.values())).shape[1:] for item in items])
    largest = sides.amax(dim=0).tolist()
    batch = {name: torch.stack([_pad(item[name], largest) for item in items]) for name in items[0]}
    inside = [_pad(torch.ones(1, *shape, dtype=torch.bool), largest) for shape in sides.tolist()]
    return batch | {'mask': torch.stack(inside)}


class Batches(Dataset[Item]):
    """Batches of patches, by the patches that they hold."""

    def __init__(self, cases: Sequence[Case], *, varied: bool) -> None:
        """Hold the cases; ``varied`` ones get noise and bias fields."""
        self._cases = {case.name: case for case in cases}
        self._varied = varied

    def __getitem__(self, batch: Sequence[TrainingPatch]) -> Item:
        """Cut, vary and pad the patches."""
        items = [cut_item(patch, self._cases[patch.case]) for patch in batch]
        if self._varied:
            items = [augment_item(item, int(torch.randint(2**31, ()))) for item in items]
        return collate_patches(items)


class Epochs(Sampler[list[TrainingPatch]]):
    """The batches of each epoch; Lightning tells which one it is."""

    def __init__(self, patches: Collection[TrainingPatch], seed: int) -> None:
        """Hold all patches there are."""
        self._patches, self._seed, self._epoch = list(patches), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[TrainingPatch]]:
        """Give its batches."""
        drawn = draw_epoch(self._patches, seed=self._seed, epoch=self._epoch)
        yield from make_batches(drawn, seed=self._seed, epoch=self._epoch)


def unvaried_batches(
    cases: Sequence[Case], batches: Iterable[list[TrainingPatch]]
) -> DataLoader[Item]:
    """Return what is the same at every validation."""
    return DataLoader(Batches(cases, varied=False), batch_size=None, sampler=list(batches))


# --- Network --------------------------------------------------------------------------------------


class HybridTraining(NetworkTraining):
    """Training of the hybrid method's network: batches of padded patches."""

    def training_step(self, batch: Item, _: int) -> torch.Tensor:
        """Return the loss of one batch."""
        loss = self._score(batch)[0]
        self.log('train_loss', loss, on_step=True, on_epoch=False, batch_size=1)
        return loss

    def validation_step(self, batch: Item, _: int, dataloader_idx: int = 0) -> None:
        """Log loss and Dice of one batch; first come drawn pairs, then real ones."""
        loss, dice = self._score(batch)
        names = ('validation_loss', 'validation_dice_lesions')
        if dataloader_idx:
            names = (f'validation_loss{REAL_ENDING}', f'validation_dice{REAL_ENDING}')
        for name, value in zip(names, (loss, dice), strict=True):
            if not torch.isnan(value):
                # Lightning would add the number of the loader to the name.
                self.log(name, value, batch_size=1, add_dataloader_idx=False)

    def _score(self, batch: Item) -> tuple[torch.Tensor, torch.Tensor]:
        """Return loss and Dice of the voxels that are not padding."""
        inside = batch['mask']
        logits = self.network(batch['image'], batch['distances'], inside).float()
        # As one row of voxels, (1, 1, N, 1, 1).
        logits, target = (
            values[inside][None, None, :, None, None] for values in (logits, batch['target'])
        )
        return self._loss(logits, target), dice_per_class(logits, target)[0]

    def configure_optimizers(self) -> Any:
        """Return Adam; its learning rate falls to a tenth every four epochs."""
        optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.recipe.schedule.learning_rate
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EPOCHS, DECAY)
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler}}


def _pad(tensor: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Pad ``(C, I, J, K)`` with 0 at the end of its last three axes."""
    short = [wanted - side for wanted, side in zip(sides, tensor.shape[1:], strict=True)]
    widths = [width for missing in reversed(short) for width in (0, missing)]
    return functional.pad(tensor, widths)
