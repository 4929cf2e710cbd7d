"""What a network is fed: drawn heads, real patients, and where what is made of them is kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, get_type_hints

import nibabel as nib
import numpy as np
import torch
from torch.utils.data import IterableDataset

from msapp.bids.checks import check_image
from msapp.bids.nifti import check_length, open_image, readable
from msapp.errors import InputError, UsageError
from msapp.inference.normalise import HEAD, clip_white_matter, scale_head
from msapp.provenance import sha256_file
from msapp.synthesis.change import LESION_SHARE
from msapp.synthesis.generator import GeneratorSettings, HeadGenerator
from msapp.synthesis.heads import PREPARATION, Head, prepare_heads, source_of
from msapp.synthesis.lesion_bank import LesionBank
from msapp.synthesis.pairs import PairSettings
from msapp.training.recipe import Recipe

# White matter's mode is known exactly for a drawn head only; for a patient it is estimated.
SCALE_ERROR = 0.08

logger = logging.getLogger(__name__)

Item = dict[str, torch.Tensor]


def make_settings(recipe: Recipe) -> GeneratorSettings:
    """Return the generator's settings that a recipe gives.

    Raises
    ------
    UsageError
        If a field is unknown.
    """
    needed = [channel.name for channel in recipe.channels if not channel.may_be_missing]
    settings: GeneratorSettings = _fill(
        GeneratorSettings, {'needed': needed, **_given(recipe)}, 'generator'
    )
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
    """Return the heads to train on, and those that are held out.

    Raises
    ------
    UsageError
        If the recipe names no folder of heads, or all of them are held out.
    InputError
        If there are none, or one that is to be held out is missing.
    """
    if recipe.data.heads is None:
        raise UsageError(
            'data.heads: the recipe names no label maps of heads. Without any, set '
            'synthetic_share = 0 and leave held_out_heads out.'
        )
    paths = prepare_heads(data / recipe.data.heads, cache / 'heads')
    heads = [Head.load(path) for path in paths]
    out = set(recipe.data.held_out_heads)
    if missing := out - {head.name for head in heads}:
        raise InputError(f'{data / recipe.data.heads}: no {", ".join(sorted(missing))}.')
    if recipe.data.synthetic_share and len(out) == len(heads):
        raise UsageError('data.held_out_heads: all heads are held out, none is left to learn from.')
    return [h for h in heads if h.name not in out], [h for h in heads if h.name in out]


def read_bank(recipe: Recipe, data: Path) -> LesionBank | None:
    """Return the lesions to paint, or None."""
    if recipe.data.lesion_priors is None:
        return None
    folder = data / recipe.data.lesion_priors
    return LesionBank.read(folder, leave_out=recipe.data.held_out_priors)


def drawn_from(recipe: Recipe, data: Path) -> str | None:
    """Return the SHA-256 of the label maps and lesions that a recipe names; None without any.

    Raises
    ------
    InputError
        If there are no lesions where it names some.
    """
    heads, bank = recipe.data.heads, read_bank(recipe, data)
    sources = [source_of(path) for path in sorted((data / heads).glob('*.nii.gz'))] if heads else []
    if not sources and bank is None:
        return None
    return hashlib.sha256(f'{sources} {bank and bank.digest()}'.encode()).hexdigest()


def kept_path(folder: Path, name: str, entry: object, files: Iterable[Path]) -> Path:
    """Return where what is made of some files is kept: ``FOLDER/NAME-HASH.npz``.

    Another `PREPARATION` is another place. Where nothing is kept yet, that is logged: to make it
    takes a minute or two.

    Parameters
    ----------
    folder : Path
    name : str
        Of the patient.
    entry : object
        Whose text says what is made: an entry of the recipe, and the settings that matter.
    files : iterable of Path
        Other contents are another place.

    Raises
    ------
    InputError
        If a file does not exist.
    """
    digest = hashlib.sha256(f'{PREPARATION} {entry}'.encode())
    for path in files:
        if not path.is_file():
            raise InputError(f'{path}: the file does not exist. Check the recipe, and --data.')
        digest.update(sha256_file(path).encode())
    kept = folder / f'{name}-{digest.hexdigest()[:8]}.npz'
    if not kept.exists():
        logger.info('preparing %s', name)
    return kept


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

    def wholes(self) -> list[Item]:
        """Return whole images with their targets, as they are, for validation."""
        ...


class Mixture(IterableDataset):
    """An endless stream of samples, synthetic and real in the recipe's share."""

    def __init__(
        self, drawn: Source | None, cases: Patients | None, share: float, seed: int
    ) -> None:
        """Hold the sources; every worker process draws other samples.

        Raises
        ------
        UsageError
            If there is none.
        """
        source = cases if drawn is None else drawn
        if source is None:
            raise UsageError(
                'synthetic_share is 0, and no real case is left to learn from. List some in the '
                'recipe, or choose another --fold.'
            )
        self._drawn, self._cases, self._share, self._seed = source, cases, share, seed

    def __iter__(self) -> Iterator[Item]:
        """Yield samples for ever."""
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        while True:
            real = self._cases is not None and rng.random() >= self._share
            item = self._cases.draw(rng) if real and self._cases else self._drawn.draw(rng)
            # Heads drawn on a GPU may share a batch with patients, who are not there.
            yield {name: values.cpu() for name, values in item.items()}
