"""Lesions followed over all visits of a participant: one identifier each, from visit to visit.

Neighbours that touch at one visit and not at the next, by a voxel often, merge and split. The parts
of a lesion that had merged take back the identifiers of the lesions at whose places they lie. What
merged is remembered as it was just before.

So does a lesion that one visit does not show and a later one shows again, where neither its end nor
its return is confirmed: out of the field of view, or about the threshold and missed by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from msapp.errors import InputError
from msapp.imaging.tissue import MM3_PER_ML
from msapp.lesions.change import Change, Comparison, compare_visits
from msapp.lesions.matching import LEAST_OVERLAP, check_maps, number_by_size

# The columns of the table of tracks, each with its meaning and unit.
TRACK_COLUMNS = {
    'identifier': 'number of the lesion, the same at all visits',
    'visit': 'number of the visit, from 0',
    'label': 'label of the lesion at this visit; 0 if it has ended',
    'volume_ml': 'its volume, ml; missing where the brain of the visit leaves its place out',
    'parent': 'identifier of the lesion it broke off from since the visit before, else missing',
    'merged_into': 'identifier of the lesion it ended in since the visit before, else missing',
    'state': 'first, at the first visit; split, of parts that broke off; merged into; else what '
    'became of it since the visit before, one of CLASSES',
}


@dataclass(frozen=True)
class Tracks:
    """The lesions of a participant over all visits.

    Attributes
    ----------
    table : pandas.DataFrame
        One line a lesion and visit with the columns `TRACK_COLUMNS`, and one for the visit by
        which a lesion has ended, with label and volume 0. By identifier, then visit. One that had
        ended in another and parts from it again goes on; so does one that was not shown.
    comparisons : list of Comparison
        Of each two visits that follow each other, with the same identifiers.
    """

    table: pd.DataFrame
    comparisons: list[Comparison]


def track_lesions(
    visits: Sequence[np.ndarray],
    voxel_mm3: float,
    *,
    new: Sequence[np.ndarray | None] | None = None,
    gone: Sequence[np.ndarray | None] | None = None,
    seen: Sequence[np.ndarray] | None = None,
    years: Sequence[float] | None = None,
) -> Tracks:
    """Follow every lesion over all visits.

    Parameters
    ----------
    visits : sequence of (I, J, K) ndarray of int
        Lesion instances of each visit in order of time, on one grid; one visit is enough.
    voxel_mm3 : float
        Volume of a voxel, mm3.
    new, gone : sequence of ((I, J, K) ndarray of bool or None), optional
        Of each two visits that follow each other: see `msapp.lesions.change.compare_visits`.
    seen : sequence of (I, J, K) ndarray of bool, optional
        Brain that each visit shows; all by default.
    years : sequence of float, optional
        Of each two visits that follow each other.

    Returns
    -------
    Tracks
        Identifiers depend on what is where, not on the values of the labels.

    Raises
    ------
    InputError
        As in `msapp.lesions.change.compare_visits`; or if there is no visit, or ``new``,
        ``gone`` or ``years`` do not have one entry for each two visits.
    """
    if not visits:
        raise InputError('no visit was given; lesions cannot be followed. Give at least one.')
    came = _one_each('new', new, None, len(visits))
    went = _one_each('gone', gone, None, len(visits))
    gaps = _one_each('years', years, math.nan, len(visits))
    check_maps(visits, voxel_mm3, [*came, *went])
    known = number_by_size(visits[0])
    rows: list[dict[str, Any]] = [
        {'identifier': name, 'visit': 0, 'label': label, 'state': 'first'}
        for label, name in known.items()
    ]
    comparisons = []
    used = len(known)
    merged: dict[int, _Merged] = {}
    lost: dict[int, np.ndarray] = {}
    for visit, (appeared, vanished, gap) in enumerate(zip(came, went, gaps, strict=True), start=1):
        found = compare_visits(
            visits[visit - 1],
            visits[visit],
            voxel_mm3,
            new=appeared,
            gone=vanished,
            seen=None if seen is None else (seen[visit - 1], seen[visit]),
            years=gap,
            identifiers=known,
            next_identifier=used + 1,
        )
        changes = _find_again(found.changes, lost, visits[visit])
        changes = [_part_again(change, merged, visits[visit]) for change in changes]
        changes.sort(key=lambda change: min(change.identifiers_before + change.identifiers_after))
        found = replace(found, changes=changes)
        for change in changes:
            merged |= _merge(change, visits[visit - 1])
            lost |= _lose(change, visits[visit - 1])
        known = {
            label: name
            for change in found.changes
            for label, name in zip(change.labels_after, change.identifiers_after, strict=True)
        }
        used = max(used, *known.values(), 0)
        rows += [row for change in found.changes for row in _track(change, visit)]
        comparisons.append(found)
    return Tracks(_tabulate(rows, visits, voxel_mm3), comparisons)


def _one_each(name: str, entries: Sequence[Any] | None, default: Any, visits: int) -> list[Any]:
    """Return one entry for each two visits that follow each other."""
    found = [default] * (visits - 1) if entries is None else list(entries)
    if len(found) != visits - 1:
        raise InputError(
            f'{name} has {len(found)} entries for {visits} visits; {visits - 1} are needed.'
        )
    return found


@dataclass(frozen=True)
class _Merged:
    """A lesion before it merged: what it ended in (or itself) and its voxels, flat indices."""

    into: int
    voxels: np.ndarray


def _merge(change: Change, earlier: np.ndarray) -> dict[int, _Merged]:
    """Return the lesions of a change that merged, as they were, by their identifiers."""
    heirs = set(change.merged_into) - {None}
    return {
        name: _Merged(into or name, np.flatnonzero(earlier == label))
        for name, label, into in zip(
            change.identifiers_before, change.labels_before, change.merged_into, strict=True
        )
        if into is not None or name in heirs
    }


def _part_again(change: Change, merged: dict[int, _Merged], later: np.ndarray) -> Change:
    """Give the parts of a lesion that had merged the identifiers of what they were before.

    Those are in ``merged`` as lesions of their own from then on.
    """
    if len(change.labels_before) != 1 or len(change.labels_after) < 2:
        return change
    (whole,) = change.identifiers_before
    members = [name for name in merged if name != whole and _ended_in(merged, name) == whole]
    if not members:
        return change
    places = {name: merged[name].voxels for name in (whole, *members)}
    overlaps = _overlaps(places, change.labels_after, later)
    # The lesion itself goes on in any case; the others in the order of how well they fit.
    names: dict[int, int] = {}
    best = sorted(overlaps, key=lambda pair: (pair[0] != whole, -overlaps[pair]))
    for name, label in best:
        if label not in names and name not in names.values():
            names[label] = name
    if whole not in names.values():
        return change
    for name in names.values():
        merged[name] = replace(merged[name], into=name)
    given = dict(zip(change.labels_after, change.identifiers_after, strict=True))
    spare = (name for name in change.identifiers_after if name != whole)
    after = tuple(names.get(label) or next(spare) for label in given)
    parents = tuple(None if name == whole else whole for name in after)
    return replace(change, identifiers_after=after, parents=parents)


def _lose(change: Change, earlier: np.ndarray) -> dict[int, np.ndarray]:
    """Return the voxels, flat indices, of lesions whose end is not confirmed, by identifier."""
    if change.labels_after or change.kind != 'unconfirmed':
        return {}
    pairs = zip(change.identifiers_before, change.labels_before, strict=True)
    return {name: np.flatnonzero(earlier == label) for name, label in pairs}


def _find_again(
    changes: Sequence[Change], lost: dict[int, np.ndarray], later: np.ndarray
) -> list[Change]:
    """Give unconfirmed lesions the identifiers of lost ones at their places, those that fit best.

    What is found is taken out of ``lost``.
    """
    found = list(changes)
    came = {
        change.labels_after[0]: index
        for index, change in enumerate(found)
        if not change.labels_before and change.kind == 'unconfirmed'
    }
    if not came or not lost:
        return found
    overlaps = _overlaps(lost, came, later)
    for name, label in sorted(overlaps, key=lambda pair: -overlaps[pair]):
        if name in lost and label in came:
            index = came.pop(label)
            found[index] = replace(found[index], identifiers_after=(name,))
            del lost[name]
    return found


def _overlaps(
    places: Mapping[int, np.ndarray], labels: Iterable[int], later: np.ndarray
) -> dict[tuple[int, int], float]:
    """Return the Dice overlap, by identifier and label, of lesions that share enough to be one.

    Parameters
    ----------
    places : mapping of int to (N,) ndarray
        Voxels, flat indices, of each identifier.
    labels : iterable of int
        Of the lesions of ``later`` that may be meant.
    later : (I, J, K) ndarray of int
    """
    flat, sizes, labels = later.ravel(), _sizes(later), [*labels]
    found: dict[tuple[int, int], float] = {}
    for name, voxels in places.items():
        shared = _sizes(flat[voxels])
        for label in labels:
            both = shared.get(label, 0)
            if both >= LEAST_OVERLAP * min(voxels.size, sizes[label]):
                found[name, label] = 2 * both / (voxels.size + sizes[label])
    return found


def _ended_in(merged: dict[int, _Merged], name: int) -> int:
    """Return the lesion that one which merged is in by now."""
    while name in merged and merged[name].into != name:
        name = merged[name].into
    return name


def _track(change: Change, visit: int) -> Iterator[dict[str, Any]]:
    """Give the lines of the track table of a change, at its later visit."""
    nothing = {'visit': visit, 'parent': None, 'merged_into': None}
    for name, label, parent in zip(
        change.identifiers_after, change.labels_after, change.parents, strict=True
    ):
        state = change.kind if parent is None else 'split'
        yield nothing | {'identifier': name, 'label': label, 'parent': parent, 'state': state}
    for name, into in zip(change.identifiers_before, change.merged_into, strict=True):
        if name not in change.identifiers_after:
            state = change.kind if into is None else 'merged into'
            ended: dict[str, Any] = {'identifier': name, 'label': 0, 'merged_into': into}
            if math.isnan(change.volume_after_ml):  # the visit does not show the place
                ended['volume_ml'] = math.nan
            yield nothing | ended | {'state': state}


def _tabulate(
    rows: list[dict[str, Any]], visits: Sequence[np.ndarray], voxel_mm3: float
) -> pd.DataFrame:
    """Make the table of tracks, with volumes."""
    voxels = [_sizes(labels) for labels in visits]
    for row in rows:
        volume_ml = voxels[row['visit']].get(row['label'], 0) * voxel_mm3 / MM3_PER_ML
        row.setdefault('volume_ml', volume_ml)
    whole = dict.fromkeys(('identifier', 'visit', 'label'), int)
    kinds = dict.fromkeys(TRACK_COLUMNS, 'Int64') | whole | {'volume_ml': float, 'state': object}
    table = pd.DataFrame(rows, columns=list(TRACK_COLUMNS)).astype(kinds)
    return table.sort_values(['identifier', 'visit'], ignore_index=True)


def _sizes(labels: np.ndarray) -> dict[int, int]:
    """Return the number of voxels of each label."""
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
