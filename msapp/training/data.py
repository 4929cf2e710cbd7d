"""What a network is fed: drawn heads, and patches of real patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from torch.utils.data import IterableDataset

from msapp.bids.checks import check_image
from msapp.bids.nifti import check_length, open_image, readable
from msapp.errors import InputError, UsageError
from msapp.imaging.brain import extract_brain
from msapp.imaging.geometry import resample
from msapp.imaging.intensity import normalize
from msapp.inference.normalise import HEAD, clip_white_matter, scale_head
from msapp.synthesis import appearance, warp
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator
from msapp.synthesis.heads import Head, prepare_heads
from msapp.synthesis.lesion_bank import AFFINE as BANK_AFFINE
from msapp.synthesis.lesion_bank import LesionBank
from msapp.synthesis.pairs import PairSettings
from msapp.training.recipe import RealCase, Recipe

# White matter's mode is known exactly for a drawn head only; for a patient it is estimated.
SCALE_ERROR = 0.08
CERTAIN_WHITE_MATTER = 0.9
LESION_SHARE = 0.5
# A patch of a patient is centred on a lesion this often, and gets further lesions this often.
LESION_WEIGHT = 0.7
PAINTED = 0.6
# Where lesions are painted into a patient, and the file that says where MNI lies in it.
WHITE, FROM_MNI = 'white_matter', 'from-MNI_xfm.txt'
SOFTEST_BORDER_MM = 0.8
# Cortex in FLAIR of patients, where white matter's mode is 1.
CORTEX = 1.2

Item = dict[str, torch.Tensor]


def make_settings(recipe: Recipe) -> GeneratorSettings:
    """Return the generator's settings that a recipe gives.

    Raises
    ------
    UsageError
        If a field is unknown.
    """
    settings: GeneratorSettings = _fill(GeneratorSettings, _given(recipe), 'generator')
    return settings


def make_pair_settings(recipe: Recipe) -> PairSettings:
    """Return the settings that a recipe for pairs of visits gives.

    Raises
    ------
    UsageError
        If a field is unknown.
    """
    settings: PairSettings = _fill(PairSettings, _given(recipe), 'generator')
    return settings


def _given(recipe: Recipe) -> dict[str, Any]:
    return {
        'shape': recipe.window,
        'spacing_mm': recipe.spacing_mm,
        'channels': [channel.name for channel in recipe.channels],
        **recipe.generator,
    }


def _fill(kind: type, values: dict[str, Any], where: str) -> Any:
    """Make a dataclass of a table, and of the tables in it."""
    known = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise UsageError(
            f'{where}: unknown {", ".join(unknown)}. There are {", ".join(sorted(known))}.'
        )
    hints = get_type_hints(kind)
    filled = {}
    for name, value in values.items():
        if is_dataclass(hints[name]) and isinstance(value, dict):
            value = _fill(hints[name], value, f'{where}.{name}')
        elif isinstance(value, list):
            value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        filled[name] = value
    return kind(**filled)


def read_heads(recipe: Recipe, data: Path, cache: Path) -> tuple[list[Head], list[Head]]:
    """Return the heads to train on, and those that are held out."""
    paths = prepare_heads(data / recipe.data.heads, cache / 'heads')
    heads = [Head.load(path) for path in paths]
    out = set(recipe.data.held_out_heads)
    if missing := out - {head.name for head in heads}:
        raise InputError(f'{data / recipe.data.heads}: no {", ".join(sorted(missing))}.')
    return [h for h in heads if h.name not in out], [h for h in heads if h.name in out]


def read_bank(recipe: Recipe, data: Path) -> LesionBank | None:
    """Return the lesions to paint, or None."""
    if recipe.data.lesion_priors is None:
        return None
    folder = data / recipe.data.lesion_priors
    return LesionBank.read(folder, leave_out=recipe.data.held_out_priors)


def read_case(case: RealCase, recipe: Recipe, data: Path, cache: Path) -> tio.Subject:
    """Read a real patient; images are scaled to white matter's mode once and kept.

    Raises
    ------
    InputError
        If a file is missing, or the grids differ.
    """
    paths = {name: data / case.images[name] for name in _contrasts(recipe) if name in case.images}
    if not paths:
        raise InputError(f'{case.name}: the recipe lists no image that its network takes.')
    mask = nib.as_closest_canonical(load_mask(data / case.lesions))
    kept = cache / 'cases' / case.name
    if not (kept / FROM_MNI).exists():
        _prepare_case(paths, kept)
    images: dict[str, tio.Image] = {
        name: tio.ScalarImage(kept / f'{name}.nii.gz') for name in [*paths, WHITE]
    }
    for name, path in paths.items():
        if images[name].spatial_shape != mask.shape:
            raise InputError(f'{path}: another grid than {data / case.lesions}.')
    lesions = np.asanyarray(mask.dataobj) > 0
    tensor = torch.from_numpy(lesions[None].astype(np.float32))
    # The header of the mask may be off by part of a voxel; the images' counts.
    images['lesions'] = tio.LabelMap(tensor=tensor, affine=images[WHITE].affine)
    return tio.Subject(images, name=case.name, from_mni=np.loadtxt(kept / FROM_MNI))


def _contrasts(recipe: Recipe) -> list[str]:
    return [channel.name for channel in recipe.channels]


def _prepare_case(paths: Mapping[str, Path], kept: Path) -> None:
    """Scale the images of a patient, and find its white matter, which is the first image's."""
    kept.mkdir(parents=True, exist_ok=True)
    first = None
    for name, path in paths.items():
        image = nib.as_closest_canonical(load_image(path))
        brain = extract_brain(image)
        white = resample(brain.white_matter, image)
        values = np.asanyarray(image.dataobj, np.float32)
        scaled = normalize(values, white > CERTAIN_WHITE_MATTER)
        nib.save(nib.Nifti1Image(scaled, image.affine), kept / f'{name}.nii.gz')
        if first is None:
            first = brain
            nib.save(nib.Nifti1Image(white, image.affine), kept / f'{WHITE}.nii.gz')
    assert first is not None
    np.savetxt(kept / FROM_MNI, first.from_mni)


def load_image(path: Path) -> nib.Nifti1Image:
    """Read an image, checked as the app checks those it is given.

    Raises
    ------
    InputError
        If it cannot be used: which file, why, and what to do.
    """
    with _naming(path):
        image: nib.Nifti1Image = check_image(path)  # type: ignore[assignment]
        return image


def load_mask(path: Path) -> nib.Nifti1Image:
    """Read a manual mask; one without any voxel is a mask too.

    Raises
    ------
    InputError
        If it cannot be read, or is not 3-D.
    """
    with _naming(path):
        image = open_image(path)
        with readable():
            check_length(path, image)
        mask: nib.Nifti1Image = nib.squeeze_image(image)
        if len(mask.shape) != 3:
            raise InputError(
                f'the mask has {len(mask.shape)} axes, 3 are needed. Convert it again.'
            )
        return mask


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be used."""
    try:
        yield
    except InputError as error:
        raise InputError(f'{path}: {error}') from error


def case_transform() -> tio.Transform:
    """Return what is varied in a real patient's patch."""
    return tio.Compose(
        [
            tio.RandomFlip(axes=(0,), p=0.5),
            tio.RandomAffine(scales=0.1, degrees=10, p=0.5),
            tio.RandomBiasField(coefficients=0.2, order=2, p=0.3),
            tio.RandomNoise(std=(0, 0.05), p=0.3),
            tio.RandomGamma(log_gamma=(-0.15, 0.15), p=0.3),
            tio.RandomBlur(std=(0, 0.8), p=0.2),
        ]
    )


class Cases:
    """Patches of real patients, most about lesions, with one contrast missing at times.

    Few patients have few lesions: into most patches those of others are painted.
    """

    description = 'real patients with manual masks'

    def __init__(
        self, subjects: Sequence[tio.Subject], recipe: Recipe, bank: LesionBank | None = None
    ) -> None:
        """Hold the subjects, and the lesions to paint into them."""
        self._subjects = list(subjects)
        self._bank = bank
        self._channels = _contrasts(recipe)
        self._settings = make_settings(recipe)
        self._transform = case_transform()
        weights = {0: 1 - LESION_WEIGHT, 1: LESION_WEIGHT}
        self._sampler = tio.LabelSampler(recipe.window, 'lesions', weights)

    def __len__(self) -> int:
        """Return the number of patients."""
        return len(self._subjects)

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one patch; torch's own generator is put back."""
        subject = self._subjects[rng.integers(len(self._subjects))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            patch = next(self._sampler(subject, num_patches=1))
            if self._bank is not None and rng.random() < PAINTED:
                self._paint(patch, self._bank, rng)
            patch = self._transform(patch)
        there = [name for name in self._channels if name in patch]
        kept = [name for name in there if rng.random() >= self._settings.missing]
        kept = kept or [there[rng.integers(len(there))]]
        lesions = patch['lesions'].data
        empty = torch.zeros_like(lesions)
        images = [patch[name].data if name in kept else empty for name in self._channels]
        return {
            'image': clip_white_matter(torch.cat(images).float()),
            'target': (lesions > LESION_SHARE).float(),
        }

    def _paint(self, patch: tio.Subject, bank: LesionBank, rng: np.random.Generator) -> None:
        """Paint further lesions into the white matter of a patch, in place."""
        settings, shape, mm = self._settings, patch.spatial_shape, patch.spacing[0]
        load = torch.from_numpy(bank.draw(rng, settings.load)).float()
        voxels = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing='ij')).float()
        to_mni = np.linalg.inv(patch['from_mni']) @ patch[WHITE].affine
        share = warp.sample_share(load, warp.to_voxels(voxels, np.linalg.inv(to_mni) @ BANK_AFFINE))
        share = share * patch[WHITE].data[0]
        soft = warp.blur(share, rng.uniform(0, SOFTEST_BORDER_MM) / mm)
        strength = appearance.draw_strength(shape, mm, rng, load.device)
        look = settings.lesions.above(CORTEX)
        for name in self._channels:
            if name in patch:
                image = patch[name].data[0]
                painted = appearance.paint_lesions(image, soft, strength, name, look, rng)
                patch[name].set_data(painted[None])
        patch['lesions'].set_data(torch.maximum(patch['lesions'].data, share[None]))


class Drawn:
    """Drawn heads, as a network is fed with them."""

    def __init__(self, generator: HeadGenerator, recipe: Recipe) -> None:
        """Hold the generator."""
        self._generator = generator
        self._recipe = recipe

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one sample."""
        sample = self._generator.draw(rng)
        if self._recipe.normalisation == HEAD:
            image = torch.stack([scale_head(channel) for channel in sample.images])
        else:
            scales = torch.from_numpy(1 + rng.normal(0, SCALE_ERROR, len(sample.images)))
            scaled = sample.images * scales.float().to(sample.images.device)[:, None, None, None]
            image = clip_white_matter(scaled)
        if self._recipe.task == 'anatomy':
            target = sample.zones[None].long()
        else:
            target = (sample.lesions[None] > LESION_SHARE).float()
        return {'image': image, 'target': target}


class Source(Protocol):
    """What samples are drawn from."""

    def draw(self, rng: np.random.Generator) -> Item:
        """Draw one sample."""
        ...


class Patients(Source, Protocol):
    """Real patients."""

    description: str

    def __len__(self) -> int:
        """Return their number."""
        ...


class Mixture(IterableDataset):
    """An endless stream of samples, synthetic and real in the recipe's share."""

    def __init__(self, drawn: Source, cases: Patients | None, share: float, seed: int) -> None:
        """Hold the sources; every worker process draws other samples."""
        self._drawn, self._cases, self._share, self._seed = drawn, cases, share, seed

    def __iter__(self) -> Iterator[Item]:
        """Yield samples for ever."""
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        while True:
            real = self._cases is not None and rng.random() >= self._share
            yield self._cases.draw(rng) if real and self._cases else self._drawn.draw(rng)
