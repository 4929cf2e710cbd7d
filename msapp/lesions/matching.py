"""Which lesions of two visits belong together, and the identifiers that they pass on.

Two lesions of different visits are *linked* if they share at least `LEAST_OVERLAP` of the smaller
one. Lesions that are linked to each other, directly or through others, form a group. The share
keeps neighbours apart that only graze each other: one shared voxel would otherwise join two old
lesions that lie side by side. Lesions without any link get a second chance, since a lesion of two
voxels across may miss itself where registration is off by a voxel: two of them are linked if
`LEAST_NEAR` of the smaller one lies in the other grown by `REACH_VOXELS`, and of the other in the
smaller one grown no fewer voxels. Lesions that already have a link are not grown, so that a new
lesion beside an old one stays new.

A lesion more than half of which (`SUPPORT`) a detector of new lesions marked has no links where all
that was there before covers less than `LEAST_OVERLAP` of it: a large new lesion swallows specks
that the earlier mask held, and touches others. Nor has it any, up to half of it covered, where
other later lesions share more with those old ones: it lies beside what they have become.

Identifiers stay with a lesion from visit to visit. Of lesions that merge, the largest passes its
identifier on and the others end; of a lesion that splits, the largest part keeps it and the others
get new ones. In a group of several lesions at both visits those that share most stay one lesion.
Identifiers that ended do not come back: a lesion that resolves and is seen again at the same place
two visits later is a new lesion with a new identifier. Only those of lesions that merged do where
they part again, and of lesions that a visit did not show, or may have missed
(`msapp.lesions.tracks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csgraph

from msapp.errors import InputError
from msapp.lesions.instances import crop_box

# Share of the smaller lesion that both must have in common. A tenth makes a lesion found in
# animaSegPerfAnalyzer (MSSEG 2016) and in ivadomed.
LEAST_OVERLAP = 0.10
# Lesions without a link are grown by this, across faces: 1 mm in `individual`, what a sound rigid
# registration of one head may leave. Two voxels would join lesions that merely lie near each other.
REACH_VOXELS = 1
# Share of the smaller lesion that the other must reach when grown. A lesion moved by one voxel is
# reached altogether; lesions side by side by less than this, but for the smallest.
LEAST_NEAR = 0.50
# Share of a lesion that a detector of change must have marked (exceeded).
SUPPORT = 0.5
# Volumes are sums of voxels; a limit must not depend on the last digit.
ROUNDING = 1e-6


class VisitLesions(NamedTuple):
    """The lesions of a visit, counted from 0: largest first, then in the order of the array.

    Attributes
    ----------
    numbers : ndarray of int
        Image of that count plus 1, cropped to the lesions of both visits, with a margin of
        `REACH_VOXELS`.
    labels, voxels : (N,) ndarray of int
        Label and size of each.
    """

    numbers: np.ndarray
    labels: np.ndarray
    voxels: np.ndarray


class LinkedVisits(NamedTuple):
    """Two visits, of N and M lesions, and which of them are linked.

    Attributes
    ----------
    before, after : VisitLesions
    box : tuple of slice
        Part of the image that holds the lesions of both, without the margin.
    links : (N, M) ndarray of bool
    shared : (N, M) ndarray of int
        Voxels that two lesions have in common.
    swallowed : (N,) ndarray of bool
        Earlier lesions most of which lies in a new one.
    unseen : tuple of (N,) and (M,) ndarray of bool
        Lesions of which the other visit does not show `SUPPORT`.
    visible : tuple of (N,) and (M,) ndarray of int
        Voxels of each lesion that the other visit shows.
    shown : tuple of two ndarray of bool, or None
        Brain that the earlier and the later visit show, cropped as the lesions are; None for all.
    marked, gone : ndarray of bool, or None
        What a detector marked as new, and as gone, cropped as the lesions are.
    marked_voxels, fresh_voxels : (M,) ndarray of int, or None
        Voxels of each later lesion that it marked as new; those of them that were no lesion before.
    voxel_mm3 : float
    """

    before: VisitLesions
    after: VisitLesions
    box: tuple[slice, ...]
    links: np.ndarray
    shared: np.ndarray
    swallowed: np.ndarray
    unseen: tuple[np.ndarray, np.ndarray]
    visible: tuple[np.ndarray, np.ndarray]
    shown: tuple[np.ndarray, ...] | None
    marked: np.ndarray | None
    gone: np.ndarray | None
    marked_voxels: np.ndarray | None
    fresh_voxels: np.ndarray | None
    voxel_mm3: float


class Group(NamedTuple):
    """Lesions linked to each other, and their identifiers.

    Attributes
    ----------
    rows, columns : ndarray of int
        The earlier and the later lesions, in the order of size; see `VisitLesions`.
    before, after : list of int
        Their identifiers.
    parents, merged_into : list of (int or None)
        See `msapp.lesions.change.Change`.
    """

    rows: np.ndarray
    columns: np.ndarray
    before: list[int]
    after: list[int]
    parents: list[int | None]
    merged_into: list[int | None]


def check_maps(
    visits: Sequence[np.ndarray], voxel_mm3: float, masks: Sequence[np.ndarray | None]
) -> None:
    """Refuse label images and masks that cannot be compared.

    Parameters
    ----------
    visits : sequence of (I, J, K) ndarray of int
        Lesion instances of each visit; 0 outside.
    voxel_mm3 : float
        Volume of a voxel, mm3.
    masks : sequence of (I, J, K) ndarray, or None
        What else is compared with them; None where there is none.

    Raises
    ------
    InputError
        If the grids differ or are not three-dimensional, labels are not whole numbers from 0, or
        a voxel has no volume.
    """
    shapes = {array.shape for array in (*visits, *masks) if array is not None}
    if len(shapes) > 1 or len(visits[0].shape) != 3:
        raise InputError(
            f'lesions of visits must be on one three-dimensional grid, got {sorted(shapes)}. '
            'Resample all to the individual space.'
        )
    for visit, labels in enumerate(visits):
        if labels.dtype.kind not in 'iu' or labels.min(initial=0) < 0:
            raise InputError(
                f'lesion labels of visit {visit} must be whole numbers from 0, got '
                f'{labels.dtype} from {labels.min(initial=0)}. Label the mask first.'
            )
    if not voxel_mm3 > 0:
        raise InputError(f'the volume of a voxel must be above 0, got {voxel_mm3} mm3.')


def link_visits(
    earlier: np.ndarray,
    later: np.ndarray,
    voxel_mm3: float,
    new: np.ndarray | None,
    gone: np.ndarray | None,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
) -> LinkedVisits:
    """Link the lesions of two visits; the rules are those of the module.

    Parameters
    ----------
    earlier, later : (I, J, K) ndarray of int
        Lesion instances; see `check_maps`.
    voxel_mm3 : float
    new, gone : (I, J, K) ndarray of bool, or None
        What a detector marked as new, and as gone; None where none has looked.
    seen : tuple of two (I, J, K) ndarray of bool, optional
        Brain that the earlier and the later visit show; all by default.
    """
    box = crop_box(earlier > 0, later > 0, margin=0)
    before, after = (_arrange(np.pad(labels[box], REACH_VOXELS)) for labels in (earlier, later))
    shared = _count_overlap(before, after, 0)
    links = _link(before, after, shared)
    swallowed = np.zeros(before.voxels.size, bool)
    marked, left = (
        None if mask is None else np.pad(mask[box].astype(bool), REACH_VOXELS)
        for mask in (new, gone)
    )
    marked_voxels = fresh_voxels = None
    if new is not None:
        marked_voxels = _count_inside(after, new[box])
        fresh_voxels = _count_inside(after, new[box].astype(bool) & (earlier[box] == 0))
        apart = _find_apart(after, links, shared, marked_voxels)
        inside = shared[:, apart].sum(axis=1) > SUPPORT * before.voxels
        swallowed = inside & ~links[:, ~apart].any(axis=1)
        links[:, apart] = False
    visible_before, visible_after = (
        lesions.voxels if seen is None else _count_inside(lesions, seen[other][box])
        for lesions, other in ((before, 1), (after, 0))
    )
    visible = visible_before, visible_after
    shown = seen and tuple(np.pad(mask[box].astype(bool), REACH_VOXELS) for mask in seen)
    unseen = (
        visible_before <= SUPPORT * before.voxels,
        visible_after <= SUPPORT * after.voxels,
    )
    return LinkedVisits(
        before,
        after,
        box,
        links,
        shared,
        swallowed,
        unseen,
        visible,
        shown,
        marked,
        left,
        marked_voxels,
        fresh_voxels,
        voxel_mm3,
    )


def _link(before: VisitLesions, after: VisitLesions, shared: np.ndarray) -> np.ndarray:
    """Link lesions by what they share, and, without any link, by how near they are, (N, M)."""
    smaller = np.minimum.outer(before.voxels, after.voxels) * (1 - ROUNDING)
    links: np.ndarray = shared >= LEAST_OVERLAP * smaller
    alone = ~links.any(axis=1, keepdims=True) & ~links.any(axis=0, keepdims=True)
    near = np.minimum(
        _count_overlap(before, after, REACH_VOXELS), _count_overlap(after, before, REACH_VOXELS).T
    )
    return links | (alone & (near >= LEAST_NEAR * smaller))


def _find_apart(
    after: VisitLesions, links: np.ndarray, shared: np.ndarray, marked_voxels: np.ndarray
) -> np.ndarray:
    """Tell which later lesions are new although they are linked, for they were marked, (M,)."""
    kin = np.where(links, shared, -1)
    heir = (links & (kin == kin.max(axis=1, keepdims=True, initial=-1))).any(axis=0)
    little = shared.sum(axis=0) < np.where(heir, LEAST_OVERLAP, SUPPORT) * after.voxels
    apart: np.ndarray = links.any(axis=0) & little & (marked_voxels > SUPPORT * after.voxels)
    return apart


def _count_inside(lesions: VisitLesions, mask: np.ndarray) -> np.ndarray:
    """Count the voxels of each lesion in a mask of the box without its margin, (N,)."""
    inner = lesions.numbers[(slice(REACH_VOXELS, -REACH_VOXELS),) * mask.ndim]
    return np.bincount(inner[mask.astype(bool)], minlength=lesions.voxels.size + 1)[1:]


def _arrange(labels: np.ndarray) -> VisitLesions:
    """Count the lesions of a label image by size; see `VisitLesions`."""
    inside = np.flatnonzero(labels)
    values, first, which, voxels = np.unique(
        labels.ravel()[inside], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((first, -voxels))
    rank = np.empty_like(order)
    rank[order] = np.arange(1, order.size + 1)
    numbers = np.zeros(labels.shape, np.int64)
    numbers.ravel()[inside] = rank[which]
    return VisitLesions(numbers, values[order], voxels[order])


def number_by_size(labels: np.ndarray) -> dict[int, int]:
    """Return an identifier for each label, 1 for the largest lesion."""
    return {int(label): rank for rank, label in enumerate(_arrange(labels).labels, start=1)}


def _count_overlap(first: VisitLesions, second: VisitLesions, reach: int) -> np.ndarray:
    """Count the voxels of each second lesion in each first one grown by ``reach``, (N, M)."""
    inside = np.flatnonzero(second.numbers)
    strides = [int(np.prod(first.numbers.shape[axis + 1 :])) for axis in range(3)]
    steps = [sign * stride for stride in strides for sign in (-1, 1)] if reach else []
    around = np.sort(
        first.numbers.ravel()[inside + np.array([[0], *([step] for step in steps)])], 0
    )
    fresh = around > 0
    fresh[1:] &= around[1:] != around[:-1]
    shape = (first.labels.size, second.labels.size)
    counts = np.zeros(shape, np.int64)
    owners = np.broadcast_to(second.numbers.ravel()[inside], around.shape)
    np.add.at(counts, (around[fresh] - 1, owners[fresh] - 1), 1)
    return counts


def group_lesions(pair: LinkedVisits, known: Mapping[int, int], free: Iterator[int]) -> list[Group]:
    """Gather the lesions that are linked to each other, and give each an identifier.

    Parameters
    ----------
    pair : LinkedVisits
    known : mapping of int to int
        Identifier of each label of the earlier visit.
    free : iterator of int
        Identifiers that are not used yet, for what is new or broke off.
    """
    return [_name(pair, *linked, known, free) for linked in _find_groups(pair.links)]


def _find_groups(links: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the earlier and the later lesions of each group, in order of size."""
    before, after = links.shape
    if before + after == 0:
        return []
    graph = np.zeros((before + after,) * 2, bool)
    graph[:before, before:] = links
    count, group = csgraph.connected_components(graph, directed=False)
    return [
        (np.flatnonzero(group[:before] == number), np.flatnonzero(group[before:] == number))
        for number in range(count)
    ]


def _name(
    pair: LinkedVisits,
    rows: np.ndarray,
    columns: np.ndarray,
    known: Mapping[int, int],
    free: Iterator[int],
) -> Group:
    """Pass the identifiers of a group on, give new ones, and record what broke off or ended."""
    stays = _match(pair, rows, columns)
    before = [known[label] for label in pair.before.labels[rows].tolist()]
    after = [
        before[stays[index]] if index in stays else next(free) for index in range(len(columns))
    ]
    parents: list[int | None] = [None] * len(after)
    merged_into: list[int | None] = [None] * len(before)
    if before and after:
        kin = np.where(pair.links, pair.shared, -1)[np.ix_(rows, columns)]
        for index in set(range(len(after))) - set(stays):
            parents[index] = before[kin[:, index].argmax()]
        for index in set(range(len(before))) - set(stays.values()):
            merged_into[index] = after[kin[index].argmax()]
    return Group(rows, columns, before, after, parents, merged_into)


def _match(pair: LinkedVisits, rows: np.ndarray, columns: np.ndarray) -> dict[int, int]:
    """Choose which earlier lesion each later one of a group is, as positions in the group.

    The largest, where one visit has a single lesion; else those that share most voxels.
    """
    links = np.argwhere(pair.links[np.ix_(rows, columns)]).tolist()
    if min(rows.size, columns.size) > 1:
        links.sort(key=lambda link: -pair.shared[rows[link[0]], columns[link[1]]])
    chosen: dict[int, int] = {}
    for row, column in links:
        if column not in chosen and row not in chosen.values():
            chosen[column] = row
    return chosen


def paint_groups(
    pair: LinkedVisits, groups: Sequence[Group], codes: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    """Return an image of one code a group: its later lesions, or the earlier ones without any.

    Parameters
    ----------
    pair : LinkedVisits
    groups, codes
        Each group, and its code from 1 to 255.
    shape : tuple of int
        Of the images that were linked.

    Returns
    -------
    (I, J, K) ndarray of uint8
        0 outside; later lesions cover earlier ones.
    """
    earlier = np.zeros(pair.before.labels.size + 1, np.uint8)
    later = np.zeros(pair.after.labels.size + 1, np.uint8)
    for group, code in zip(groups, codes, strict=True):
        later[group.columns + 1] = code
        if not group.columns.size:
            earlier[group.rows + 1] = code
    painted = later[pair.after.numbers]
    painted = np.where(painted > 0, painted, earlier[pair.before.numbers])
    whole = np.zeros(shape, np.uint8)
    whole[pair.box] = painted[(slice(REACH_VOXELS, -REACH_VOXELS),) * len(shape)]
    return whole
