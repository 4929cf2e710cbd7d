"""Training a network from a recipe: resumable, logged, exported as a model folder."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from msapp.errors import UsageError
from msapp.models.registry import HYBRID, load_network, load_spec, save_model
from msapp.models.spec import ModelSpec, TrainingSet
from msapp.synthesis.generator import HeadGenerator
from msapp.synthesis.heads import Head
from msapp.synthesis.lesion_bank import LesionBank
from msapp.synthesis.pairs import PairGenerator
from msapp.training.brains import BrainCases, read_brains
from msapp.training.checkpoints import (
    Deadline,
    KeepCheckpoint,
    check_origin,
    check_start,
    describe_origin,
    load_checkpoint,
    load_start,
    mix_weights,
    step_of,
)
from msapp.training.data import (
    Drawn,
    Item,
    Mixture,
    Patients,
    Source,
    drawn_from,
    make_pair_settings,
    make_settings,
    read_bank,
    read_heads,
)
from msapp.training.describe import check_model, describe_model, describe_start
from msapp.training.hybrid import (
    Batches,
    Epochs,
    HybridTraining,
    all_patches,
    read_drawn_cases,
    read_real_cases,
    unvaried_batches,
)
from msapp.training.listing import with_listed
from msapp.training.module import NetworkTraining
from msapp.training.pairs import DrawnPairs, PairCases
from msapp.training.patients import Cases, read_case
from msapp.training.pictures import ShowFeed, draw_curves
from msapp.training.progress import TellProgress
from msapp.training.recipe import Recipe
from msapp.training.sampling import make_batches
from msapp.training.validation import Kept, ValidatedSegmentation
from msapp.training.visits import Visits, read_visits

VALIDATION_SEED = 20240
CHECKPOINT = 'last.ckpt'
# Steps; a training of fewer is logged at its end, one of the hybrid method at every step.
LOG_EVERY = 10
# The task whose samples are pairs of visits.
PAIRS = 'longitudinal'
NO_LESIONS = 'lesion_priors: the recipe names none, and pairs are drawn with lesions.'


def train(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    device: str = 'cpu',
    bfloat16: bool = False,
    workers: int = 1,
    threads: int | None = None,
    fold: str | None = None,
    start_from: str | None = None,
    keep_start: float = 0.0,
    seed: int = 0,
    max_minutes: float | None = None,
) -> Path:
    """Train, or go on with, a network, and export it.

    Parameters
    ----------
    recipe : Recipe
    data : Path
        Folder that the recipe's paths start from.
    out : Path
        Gets ``checkpoints``, ``log/from-STEP/metrics.csv``, ``curves.png``, ``feed.png`` and
        ``model``. A checkpoint that is there is gone on from.
    device : {'cpu', 'cuda'}
        On a GPU heads are drawn there too.
    bfloat16 : bool
        Arithmetic of the network; weights and loss keep 32 bits.
    workers : int
        Processes that draw heads, on the CPU.
    threads : int, optional
        Of the network, on the CPU.
    fold : str, optional
        Do not learn from the real cases of this fold; validate on them.
    start_from : str, optional
        Model whose weights to start from.
    keep_start : float
        Share of these weights in those that are exported: after a short training on few cases the
        mean of both serves cases like these and others (Wortsman et al., CVPR 2022).
    seed : int
    max_minutes : float, optional
        Stop after so long, after a whole epoch of the hybrid method; what has been learnt is kept
        and exported.

    Returns
    -------
    Path
        Folder of the exported model.

    Raises
    ------
    UsageError
        If the recipe has no such fold, lacks what is to be drawn from, or leaves nothing to learn
        from or to validate on; if ``out`` holds a training of other settings; or if
        ``start_from`` is of another architecture or input.
    InputError
        If data are missing or cannot be used.
    MissingDependencyError
        If a model that the recipe or ``start_from`` names is not installed.
    """
    lightning.seed_everything(seed, verbose=False)
    if threads:
        torch.set_num_threads(threads)
    checkpoint = out / 'checkpoints' / CHECKPOINT
    recipe = with_listed(recipe, data)
    recipe.left_out(fold)  # a fold of the recipe
    check_model(recipe)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    check_origin(checkpoint, describe_origin(recipe, fold, start_from, drawn_from(recipe, data)))
    resumed = step_of(checkpoint)
    make_job = _hybrid_job if recipe.architecture.name == HYBRID else _segmentation_job
    job = make_job(
        _Given(
            recipe=recipe,
            data=data,
            cache=out / 'cache',
            fold=fold,
            device=device,
            workers=workers,
            seed=seed + resumed,
        )
    )
    start: dict[str, torch.Tensor] = {}
    if start_from:
        known = load_spec(start_from)
        start = load_network(known).state_dict()
        load_start(job.module.network, start, recipe.schedule.only)
        check_start(job.spec, known)
        job = replace(job, spec=describe_start(job.spec, known))
    trainer = _trainer(recipe, out, device, bfloat16, max_minutes, resumed)
    _run(trainer, job, checkpoint if resumed else None)
    _export(job, checkpoint, start, keep_start, out / 'model')
    draw_curves(out / 'log', out / 'curves.png')
    return out / 'model'


@dataclass(frozen=True, kw_only=True)
class _Given:
    """What a training is made from; see `train`."""

    recipe: Recipe
    data: Path
    cache: Path
    fold: str | None
    device: str
    workers: int
    seed: int


@dataclass(frozen=True)
class _Job:
    """What is trained, what on, and what becomes of it."""

    module: NetworkTraining
    batches: DataLoader[Item]
    validation: list[DataLoader[Item]]
    spec: ModelSpec


def _run(trainer: lightning.Trainer, job: _Job, checkpoint: Path | None) -> None:
    try:
        trainer.fit(
            job.module,
            train_dataloaders=job.batches,
            val_dataloaders=job.validation or None,
            ckpt_path=checkpoint,
        )
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise


def _export(
    job: _Job,
    checkpoint: Path,
    start: Mapping[str, torch.Tensor],
    keep_start: float,
    folder: Path,
) -> None:
    """Write the model: the checkpoint's weights, mixed with some of those it started from."""
    # A checkpoint's weights are the running mean; the module has it only if it took a step.
    job.module.load_state_dict(load_checkpoint(checkpoint)['state_dict'])
    if start and keep_start:
        weights = mix_weights(job.module.network.state_dict(), start, keep_start)
        job.module.network.load_state_dict(weights)
    save_model(folder, job.spec, job.module.network)


def _segmentation_job(given: _Given) -> _Job:
    recipe = given.recipe
    share = recipe.data.synthetic_share
    trained_on, held_out = list[Head](), list[Head]()
    if share or recipe.data.held_out_heads:
        trained_on, held_out = read_heads(recipe, given.data, given.cache)
    bank = read_bank(recipe, given.data)
    out = recipe.left_out(given.fold)
    cases = _read_patients(given, bank, out) if share < 1 else None
    drawn = drawn_samples(recipe, trained_on, bank, given.device) if share else None
    on_gpu = given.device == 'cuda'
    batches = DataLoader(
        Mixture(drawn, cases, share, given.seed),
        batch_size=recipe.schedule.batch,
        num_workers=0 if on_gpu else given.workers,
        worker_init_fn=_one_thread,
        persistent_workers=not on_gpu and given.workers > 0,
    )
    real = TrainingSet(name=cases.description, n=len(cases)) if cases else None
    return _Job(
        # Twice as fast on a CPU.
        module=ValidatedSegmentation(recipe).to(memory_format=torch.channels_last_3d),
        batches=batches,
        validation=_validation(given, held_out, bank),
        spec=describe_model(recipe, heads=len(trained_on) if share else 0, bank=bank, real=real),
    )


def _validation(
    given: _Given, held_out: Sequence[Head], bank: LesionBank | None
) -> list[DataLoader[Item]]:
    """Return drawn samples of heads, and the patients, that are held out; nothing if nothing is."""
    recipe, drawn = given.recipe, list[Item]()
    if held_out:
        source, rng = drawn_samples(recipe, held_out, bank), np.random.default_rng(VALIDATION_SEED)
        drawn = [source.draw(rng) for _ in range(recipe.schedule.validation_samples)]
    unscored = recipe.unscored(given.fold)
    patients = _read_patients(given, None, unscored) if given.fold else None
    kept = Kept(drawn, patients.wholes() if patients else ())
    if not len(kept) and recipe.data.synthetic_share:
        raise UsageError(
            'held_out_heads: the recipe holds no head out for validation, and no --fold a patient.'
        )
    return [DataLoader(kept, batch_size=1)] if len(kept) else []


def _hybrid_job(given: _Given) -> _Job:
    recipe = given.recipe
    trained_on, held_out = read_heads(recipe, given.data, given.cache)
    bank = read_bank(recipe, given.data)
    if bank is None:
        raise UsageError(NO_LESIONS)
    visits = _read_visits(given, recipe.left_out(given.fold))
    held_back = _read_visits(given, recipe.unscored(given.fold)) if given.fold else []
    cases, checked = (
        read_drawn_cases(
            PairGenerator(heads, make_pair_settings(recipe), bank=bank, device=given.device),
            count,
            given.cache,
            prefix=prefix,
            seed=case_seed,
            origin=f'{[head.source for head in heads]} {bank.digest()}',
        )
        for prefix, heads, count, case_seed in (
            ('drawn', trained_on, recipe.data.drawn_pairs, VALIDATION_SEED),
            ('validation', held_out, recipe.schedule.validation_samples, VALIDATION_SEED + 1),
        )
    )
    cases += read_real_cases(visits, recipe)
    batches = DataLoader(
        Batches(cases, varied=True),
        # The sampler gives whole batches.
        batch_size=None,
        sampler=Epochs(all_patches(cases), given.seed),
        num_workers=given.workers,
        worker_init_fn=_one_thread,
    )
    validation = [unvaried_batches(checked, Epochs(all_patches(checked), VALIDATION_SEED))]
    if held_back:
        scored = read_real_cases(held_back, recipe)
        every = make_batches(all_patches(scored), seed=VALIDATION_SEED, epoch=0)
        validation.append(unvaried_batches(scored, every))
    real = TrainingSet(name=PairCases.description, n=len(visits)) if visits else None
    spec = describe_model(recipe, heads=len(trained_on), bank=bank, real=real)
    return _Job(HybridTraining(recipe), batches, validation, spec)


def _read_patients(
    given: _Given, bank: LesionBank | None, leave_out: Collection[str]
) -> Patients | None:
    """Read the real data of a recipe, but for some names; None if none is left."""
    recipe = given.recipe
    if recipe.task == PAIRS:
        visits = _read_visits(given, leave_out)
        return PairCases(visits, recipe, bank) if visits else None
    if recipe.data.brains:
        heads = read_brains(recipe, given.data, given.cache, leave_out=leave_out)
        return BrainCases(heads, recipe) if heads else None
    chosen = [case for case in recipe.data.real if case.name not in leave_out]
    if not chosen:
        return None
    read = [read_case(case, recipe, given.data, given.cache) for case in chosen]
    return Cases(read, recipe, bank)


def _read_visits(given: _Given, leave_out: Collection[str]) -> list[Visits]:
    return list(read_visits(given.recipe, given.data, given.cache, leave_out=leave_out))


def drawn_samples(
    recipe: Recipe, heads: Sequence[Head], bank: LesionBank | None, device: str = 'cpu'
) -> Source:
    """Return what synthetic samples of a recipe are drawn from.

    Raises
    ------
    UsageError
        If pairs are to be drawn and there are no lesions.
    """
    if recipe.task != PAIRS:
        generator = HeadGenerator(heads, make_settings(recipe), bank=bank, device=device)
        return Drawn(generator, recipe)
    if bank is None:
        raise UsageError(NO_LESIONS)
    settings = make_pair_settings(recipe)
    return DrawnPairs(PairGenerator(heads, settings, bank=bank, device=device))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _trainer(
    recipe: Recipe, out: Path, device: str, bfloat16: bool, max_minutes: float | None, resumed: int
) -> lightning.Trainer:
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    schedule = recipe.schedule
    # Within an epoch of the hybrid method there is no going on.
    deadline = Deadline(
        timedelta(minutes=max_minutes or 0), interval='epoch' if schedule.epochs else 'step'
    )
    return lightning.Trainer(
        accelerator='gpu' if device == 'cuda' else 'cpu',
        devices=1,
        # Alone, also within a batch job.
        plugins=[LightningEnvironment()],
        precision='bf16-mixed' if bfloat16 else '32-true',
        max_steps=schedule.steps or -1,
        max_epochs=schedule.epochs or -1,
        # A short training is validated at its end.
        val_check_interval=min(schedule.validate_every, schedule.steps) or 1.0,
        check_val_every_n_epoch=1 if schedule.epochs else None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(LOG_EVERY, schedule.steps or 1),
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        # A logger empties the folder it is given.
        logger=CSVLogger(
            out, name='log', version=f'from-{resumed:06}', flush_logs_every_n_steps=LOG_EVERY
        ),
        callbacks=[
            KeepCheckpoint(out / 'checkpoints' / CHECKPOINT, schedule.checkpoint_minutes),
            EMAWeightAveraging(decay=schedule.average),
            LearningRateMonitor('step'),
            ShowFeed(out / 'feed.png'),
            TellProgress(),
            *([] if max_minutes is None else [deadline]),
        ],
    )
