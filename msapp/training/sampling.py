"""Batches of patches around candidates of new lesions, in the shares of the hybrid method.

An epoch has a balanced part and extra patches on top of it. In the balanced part every patch
that touches a lesion (a true positive, TP) comes once, with as many that touch none (false
positives, FP), drawn uniformly from all of them. The extra patches are 30 % of the balanced
part: 85 % of them infratentorial (33 % TP, 67 % FP), 15 % supratentorial FP. With 100 TP these
are 200 patches and 60 extra ones: 17 infratentorial TP, 34 infratentorial FP and 9
supratentorial FP. Shares hold for the epoch, to the patch (by largest remainder), and not for
each batch, since batches gather patches of like size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from msapp.errors import InputError
from msapp.inference.patches import Patch, corners
from msapp.lesions.candidates import patch_of
from msapp.lesions.instances import measure_instances

BATCH = 32
EXTRA_SHARE = 0.30
INFRATENTORIAL_OF_EXTRA = 0.85
TRUE_OF_INFRATENTORIAL = 0.33
# A candidate further below the vertex than this share of the brain's height is infratentorial.
# On 15 of our label maps of heads (those with cerebral white matter) the plane that best parts
# brain stem and cerebellar white matter from that of the cerebrum lies at 0.58 to 0.62; at 0.6
# it has 90 to 96 % of the former below it, and 6 to 18 % of the latter (temporal lobes).
INFRATENTORIAL_HEIGHT = 0.6


@dataclass(frozen=True, kw_only=True)
class TrainingPatch(Patch):
    """A patch whose truth is known.

    Attributes
    ----------
    case : str
        Name of the pair of visits.
    true : bool
        Whether the candidate shares a voxel with a new lesion.
    infratentorial : bool
        Whether the candidate lies deeper than `INFRATENTORIAL_HEIGHT`.
    """

    case: str
    true: bool
    infratentorial: bool


@dataclass(frozen=True)
class EpochCounts:
    """How many patches of each kind make an epoch: a balanced part, and extra ones."""

    true: int
    false: int
    infratentorial_true: int
    infratentorial_false: int
    supratentorial_false: int

    @property
    def total(self) -> int:
        """Patches of an epoch."""
        return self.true + self.false + self.extra

    @property
    def extra(self) -> int:
        """Patches on top of the balanced part."""
        return self.infratentorial_true + self.infratentorial_false + self.supratentorial_false


def describe_patches(
    case: str, labels: np.ndarray, truth: np.ndarray, below_vertex_mm: np.ndarray
) -> list[TrainingPatch]:
    """Return the patch of each candidate.

    Parameters
    ----------
    case : str
    labels : (I, J, K) ndarray of int
        Candidates; see `msapp.lesions.candidates.find_candidates`.
    truth : (I, J, K) ndarray of bool
        New lesions.
    below_vertex_mm : (I, J, K) ndarray
        Distance map DMz of the brain, mm; its largest value is the brain's height.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if not labels.shape == truth.shape == below_vertex_mm.shape:
        raise ValueError(
            f'{case}: labels {labels.shape}, truth {truth.shape} and distances '
            f'{below_vertex_mm.shape} must have one shape'
        )
    deep_mm = INFRATENTORIAL_HEIGHT * float(below_vertex_mm.max())
    patches = []
    for found in measure_instances(labels, np.eye(4)):
        inside = labels[found.box] == found.label
        start, stop = corners(patch_of(found, labels.shape))
        patches.append(
            TrainingPatch(
                label=found.label,
                start=start,
                stop=stop,
                case=case,
                true=bool(truth[found.box][inside].any()),
                infratentorial=float(below_vertex_mm[found.box][inside].mean()) > deep_mm,
            )
        )
    return patches


def plan_epoch(patches: Sequence[TrainingPatch], *, true_count: int | None = None) -> EpochCounts:
    """Return how many patches of each kind make an epoch.

    An extra kind of which there are no patches leaves its share to another: infratentorial TP to
    infratentorial FP (the share of the posterior fossa stays); infratentorial FP to
    supratentorial FP (that of FP stays); supratentorial FP to infratentorial FP.

    Parameters
    ----------
    patches : sequence of TrainingPatch
        All there are.
    true_count : int, optional
        TP patches of the balanced part; default all, each once.

    Raises
    ------
    InputError
        If there are no TP or no FP patches at all.
    ValueError
        If ``true_count`` is not positive.
    """
    kinds = _kinds(patches)
    if not kinds['true'] or not kinds['false']:
        raise InputError(
            f'{len(patches)} candidates, {len(kinds["true"])} of which touch a new lesion: both '
            'kinds are needed for training. Add cases, or check the lesion masks.'
        )
    true = len(kinds['true']) if true_count is None else true_count
    if true < 1:
        raise ValueError(f'true_count must be at least 1, got {true}')
    shares = _extra_shares({name for name, found in kinds.items() if found})
    extra = split_count(round(EXTRA_SHARE * 2 * true), list(shares.values()))
    return EpochCounts(true, true, **dict(zip(shares, extra, strict=True)))


def draw_epoch(
    patches: Sequence[TrainingPatch],
    *,
    seed: int,
    epoch: int = 0,
    true_count: int | None = None,
) -> list[TrainingPatch]:
    """Draw the patches of an epoch, in the counts of `plan_epoch`.

    Within a kind no patch comes twice before each came once. The extra patches are drawn apart
    from the balanced part and may repeat it.

    Parameters
    ----------
    patches : sequence of TrainingPatch
        All there are; their order does not matter.
    seed, epoch : int
        The same two give the same patches.
    true_count : int, optional
        See `plan_epoch`.

    Returns
    -------
    list of TrainingPatch
        One kind after the other; `make_batches` mixes them.
    """
    ordered = sorted(patches, key=lambda patch: (patch.case, patch.label))
    counts, kinds = plan_epoch(ordered, true_count=true_count), _kinds(ordered)
    rng = np.random.default_rng([seed, epoch])
    return [
        patch for name, count in asdict(counts).items() for patch in _draw(kinds[name], count, rng)
    ]


def make_batches(
    patches: Sequence[TrainingPatch],
    *,
    seed: int,
    epoch: int = 0,
    size: int = BATCH,
) -> list[list[TrainingPatch]]:
    """Part the patches of an epoch into batches of like sizes, in random order.

    The patches are parted in two by one of their sides, again and again, where it saves most
    padding. All batches but one have ``size`` patches. The result can be the ``batch_sampler`` of a
    `torch.utils.data.DataLoader` whose data set takes patches as keys.

    Parameters
    ----------
    patches : sequence of TrainingPatch
        Of `draw_epoch`.
    seed, epoch : int
        The same two give the same batches.
    size : int
        Patches of a batch.

    Raises
    ------
    ValueError
        If ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f'size must be at least 1, got {size}')
    rng = np.random.default_rng([seed, epoch])
    mixed = [patches[index] for index in rng.permutation(len(patches))]
    batches = list(_part(mixed, size)) if mixed else []
    return [batches[index] for index in rng.permutation(len(batches))]


def split_count(count: int, shares: Sequence[float]) -> list[int]:
    """Split a number by shares, by largest remainder; of equal remainders the first wins.

    Parameters
    ----------
    count : int
    shares : sequence of float
        They add up to 1.

    Examples
    --------
    >>> split_count(60, [0.2805, 0.5695, 0.15])
    [17, 34, 9]
    """
    if not math.isclose(sum(shares), 1) or min(shares) < 0:
        raise ValueError(f'shares must be at least 0 and add up to 1, got {list(shares)}')
    exact = [count * share for share in shares]
    counts = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda n: counts[n] - exact[n])
    for index in by_remainder[: count - sum(counts)]:
        counts[index] += 1
    return counts


def _kinds(patches: Sequence[TrainingPatch]) -> dict[str, list[TrainingPatch]]:
    """Return the patches that each part of `EpochCounts` is drawn from."""
    true = [patch for patch in patches if patch.true]
    false = [patch for patch in patches if not patch.true]
    return {
        'true': true,
        'false': false,
        'infratentorial_true': [patch for patch in true if patch.infratentorial],
        'infratentorial_false': [patch for patch in false if patch.infratentorial],
        'supratentorial_false': [patch for patch in false if not patch.infratentorial],
    }


def _extra_shares(there: set[str]) -> dict[str, float]:
    """Return the share of each kind of extra patches, given which kinds there are."""
    shares = {
        'infratentorial_true': INFRATENTORIAL_OF_EXTRA * TRUE_OF_INFRATENTORIAL,
        'infratentorial_false': INFRATENTORIAL_OF_EXTRA * (1 - TRUE_OF_INFRATENTORIAL),
        'supratentorial_false': 1 - INFRATENTORIAL_OF_EXTRA,
    }
    # In this order: what infratentorial FP get from the first they may have to hand on.
    heirs = {
        'infratentorial_true': 'infratentorial_false',
        'infratentorial_false': 'supratentorial_false',
        'supratentorial_false': 'infratentorial_false',
    }
    for name, heir in heirs.items():
        if name not in there:
            shares[heir] += shares[name]
            shares[name] = 0.0
    return shares


def _draw(
    pool: Sequence[TrainingPatch], count: int, rng: np.random.Generator
) -> list[TrainingPatch]:
    """Draw from a pool, as often as it takes whole, and for the rest without repeats."""
    if count == 0:
        return []
    rounds, rest = divmod(count, len(pool))
    chosen = rng.choice(len(pool), rest, replace=False)
    return [*pool] * rounds + [pool[index] for index in chosen]


def _part(patches: list[TrainingPatch], size: int) -> Iterator[list[TrainingPatch]]:
    if len(patches) <= size:
        yield patches
        return
    for part in _best_cut(np.array([patch.shape for patch in patches]), size):
        yield from _part([patches[index] for index in part], size)


def _best_cut(shapes: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which shapes to put in either of two parts, the first a multiple of ``step``.

    Of all cuts between shorter and longer sides, on any axis, it is the one after which least has
    to be padded.
    """
    orders = [np.argsort(shapes[:, axis], kind='stable') for axis in range(3)]
    cuts = [
        (order[:cut], order[cut:]) for order in orders for cut in range(step, len(shapes), step)
    ]
    return min(cuts, key=lambda parts: sum(_padded_voxels(shapes[part]) for part in parts))


def _padded_voxels(shapes: np.ndarray) -> int:
    """Return the voxels of a batch of patches of these shapes, ``(B, 3)``."""
    sides: list[int] = shapes.max(axis=0).tolist()
    return len(shapes) * math.prod(sides)
