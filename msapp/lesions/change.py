"""What became of every lesion between two visits.

Lesions of different visits that belong together form a group (`msapp.lesions.matching`), and each
group is one `Change`. It is, by the first rule that holds:

- of one visit only: *new*, *resolved* or *unconfirmed*, see below;
- *merged* if it has fewer lesions at the later visit, *split* if more, however many there are.
  Parts under `LEAST_LESION_MM3` do not count here: a speck that joins its lesion is no event; nor
  is a lesion in parts because the other visit's brain ends between them;
- *enlarged* or *shrunken* if its volume changes by `LEAST_CHANGE` of the earlier volume or more,
  and by more than `LEAST_CHANGE_MM3`; else *stable*. So is a group of several lesions at both
  visits, as many as before.

The relative limit is that of the proposal in spinalcordtoolbox issue 4786. On its own it calls one
voxel more on a lesion of three a change, so the least sizes of ``animaLesionEvolutionDetection``
(Anima) come with it. Both are conventions: 30 % of a lesion of 100 mm3 is its border moved by
0.3 mm, less than two segmentations of one image often differ. By Anima's rules a lesion that grows
by much is new altogether; here it is enlarged, since the old lesion is still in it, and
``new_part_ml`` gives the growth that Anima would call new.

What one visit alone shows, and lies by half outside the brain that the other shows (field of view,
mask), is *unconfirmed*: nobody looked there. Whether a lesion is enlarged or shrunken is told from
the part of it that both visits show.

Two segmentations disagree by chance far more often than lesions appear or vanish: every lesion
near the threshold is found at one visit and missed at another. What is seen at one visit only
therefore needs support, and is *unconfirmed* without:

- where a detector of new lesions, which compares the images themselves, has looked at the pair, a
  lesion of the later visit is new if more than half of its volume (`SUPPORT`), as far as the other
  visit's brain shows it, is in the detector's mask, whatever its size, and unconfirmed if not; so
  is one of the earlier visit resolved where the detector has looked at the visits in reverse;
- where none has, it must have `LEAST_LESION_MM3`.

A lesion that such a detector marked is new as well where all that was there before covers less than
`msapp.lesions.matching.LEAST_OVERLAP` of it: a large new lesion swallows specks that the earlier
mask held. These are *unconfirmed* then, for nobody can tell whether they are still there. Where the
detector has not marked it, it is *unconfirmed* itself, and not an enlarged speck.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from msapp.errors import InputError
from msapp.imaging.tissue import MM3_PER_ML
from msapp.lesions.instances import count_parts, measure_outside
from msapp.lesions.matching import (
    LEAST_OVERLAP,
    ROUNDING,
    SUPPORT,
    Group,
    LinkedVisits,
    check_maps,
    group_lesions,
    link_visits,
    number_by_size,
    paint_groups,
)

# Code of each class in a class image; 0 is outside all lesions.
CLASSES = {
    'new': 1,
    'enlarged': 2,
    'stable': 3,
    'shrunken': 4,
    'resolved': 5,
    'merged': 6,
    'split': 7,
    'unconfirmed': 8,
}
# Those of what one visit shows, or had been a speck: a summary tells their volume, not its change.
ALONE = ('new', 'resolved', 'unconfirmed')

# spinalcordtoolbox issue 4786: a lesion enlarges or shrinks from 30 % on.
LEAST_CHANGE = 0.30
# Anima: growth of no more than this is no new lesion, mm3 (exceeded). Here no change is less
# either; for lesions under 40 mm3 this is the stricter limit.
LEAST_CHANGE_MM3 = 12.0
# Anima: growth beyond this share of what stays is a new lesion attached to the old (exceeded).
NEW_PART = 0.5
# Anima: smallest lesion, mm3 (itself kept).
LEAST_LESION_MM3 = 6.0
DAYS_PER_YEAR = 365.25
# A rate from visits nearer than this is the error of two measurements times a large number.
LEAST_INTERVAL_DAYS = 30.0

# The columns of the table of changes, each with its meaning and unit.
CHANGE_COLUMNS = {
    'kind': 'what became of the lesions, one of CLASSES',
    'identifiers_before': 'identifiers of the lesions at the earlier visit, largest first',
    'identifiers_after': 'the same at the later visit',
    'labels_before': 'labels of the lesions at the earlier visit, in the same order',
    'labels_after': 'the same at the later visit',
    'volume_before_ml': 'their volume at the earlier visit, ml; missing where its brain leaves out '
    'a lesion of the later one',
    'volume_after_ml': 'the same at the later visit',
    'change_ml': 'volume after less volume before, ml; of linked lesions of the part that both '
    'visits show',
    'change_percent': 'the same in percent of that volume before; missing if that is 0',
    'change_ml_per_year': 'change_ml by years between the visits; missing where the days between '
    f'them are not known, or fewer than {LEAST_INTERVAL_DAYS:g}',
    'change_percent_per_year': 'change_percent by years between the visits; missing likewise',
    'overlap': 'Dice overlap of all earlier with all later voxels, 0 to 1',
    'new_part_ml': 'growth of old lesions so large that Anima calls it a new lesion, ml; else 0. '
    'Where a detector looked, 0 too if it marked no more than half of the growth, else all of it',
    'marked_ml': 'volume at the later visit that the detector marked as new and that was no lesion '
    'before, ml; missing without a detector',
}


@dataclass(frozen=True)
class Change:
    """What became of a group of linked lesions; most groups have one lesion at each visit.

    Attributes
    ----------
    parents : tuple of (int or None)
        Of each later lesion that broke off, the identifier of the earlier one it shares most with.
    merged_into : tuple of (int or None)
        Of each earlier lesion that ended in a later one, the identifier of that one.
    kind, identifiers_before, identifiers_after, labels_before, ...
        See `CHANGE_COLUMNS`; missing is NaN, a visit without lesions has empty tuples.
    """

    kind: str
    identifiers_before: tuple[int, ...]
    identifiers_after: tuple[int, ...]
    labels_before: tuple[int, ...]
    labels_after: tuple[int, ...]
    parents: tuple[int | None, ...]
    merged_into: tuple[int | None, ...]
    volume_before_ml: float
    volume_after_ml: float
    change_ml: float
    change_percent: float
    change_ml_per_year: float
    change_percent_per_year: float
    overlap: float
    new_part_ml: float
    marked_ml: float


@dataclass(frozen=True)
class Comparison:
    """What became of all lesions between two visits.

    Attributes
    ----------
    changes : list of Change
        Each lesion of either visit is in one of them. By the smallest identifier in each.
    classes : (I, J, K) ndarray of uint8
        Code in `CLASSES` of each voxel in a lesion of the later visit; and of the earlier visit's
        voxels, where no later lesion lies, if the lesion has no counterpart.
    outside_mm3 : tuple of float, or None
        Volumes of the places that a detector of new lesions marked and of which hardly anything
        (`LEAST_OVERLAP`) is in a lesion of the later visit; None where no detector has looked.
    """

    changes: list[Change]
    classes: np.ndarray
    outside_mm3: tuple[float, ...] | None = None

    def table(self) -> pd.DataFrame:
        """Return one line a change with the columns `CHANGE_COLUMNS`; numbers as ``'3,7'``."""
        rows = [
            {
                name: ','.join(map(str, value)) if isinstance(value, tuple) else value
                for name, value in asdict(change).items()
            }
            for change in self.changes
        ]
        kinds: dict[str, type] = {
            name: object if name.startswith(('kind', 'identifiers', 'labels')) else float
            for name in CHANGE_COLUMNS
        }
        return pd.DataFrame(rows, columns=list(CHANGE_COLUMNS)).astype(kinds)

    def measures(self) -> dict[str, float]:
        """Return how many changes there are of each of `CLASSES`, and their volumes, ml.

        Of `ALONE` that is the volume at the visit that shows them (of what was a speck at the later
        one), as ``new_lesion_volume_ml``; of the others the difference between the visits, as
        ``enlarged_lesion_change_ml``. Where a detector of new lesions has looked, also: of lesions
        that are not new, in how many it marked `LEAST_LESION_MM3` of new tissue or more, and how
        much, as ``grown_lesion_volume_ml``; and what it marked outside all lesions, as
        ``detected_outside_volume_ml``.
        """
        found: dict[str, float] = {}
        for kind in CLASSES:
            changes = [change for change in self.changes if change.kind == kind]
            found[f'{kind}_lesion_count'] = len(changes)
            if kind in ALONE:
                found[f'{kind}_lesion_volume_ml'] = float(
                    sum(
                        change.volume_after_ml if change.labels_after else change.volume_before_ml
                        for change in changes
                    )
                )
            else:
                differences = [change.change_ml for change in changes]
                found[f'{kind}_lesion_change_ml'] = float(sum(differences))
        if self.outside_mm3 is not None:
            least_ml = LEAST_LESION_MM3 * (1 - ROUNDING) / MM3_PER_ML
            grown = [
                change.marked_ml
                for change in self.changes
                if change.kind != 'new' and change.marked_ml >= least_ml
            ]
            found['grown_lesion_count'] = len(grown)
            found['grown_lesion_volume_ml'] = float(sum(grown))
            found['detected_outside_count'] = len(self.outside_mm3)
            found['detected_outside_volume_ml'] = sum(self.outside_mm3) / MM3_PER_ML
        return found


def compare_visits(
    earlier: np.ndarray,
    later: np.ndarray,
    voxel_mm3: float,
    *,
    new: np.ndarray | None = None,
    gone: np.ndarray | None = None,
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    years: float = math.nan,
    identifiers: Mapping[int, int] | None = None,
    next_identifier: int | None = None,
) -> Comparison:
    """Tell what became of every lesion between two visits.

    Parameters
    ----------
    earlier, later : (I, J, K) ndarray of int
        Lesion instances on one grid, 0 outside; labels may be missing and mean nothing.
    voxel_mm3 : float
        Volume of a voxel, mm3.
    new : (I, J, K) ndarray of bool, optional
        Voxels that a detector of new lesions has marked. None where none has looked, which is not
        the same as an empty mask.
    gone : (I, J, K) ndarray of bool, optional
        The same for the visits in reverse: what is a lesion at the earlier one alone.
    seen : tuple of two (I, J, K) ndarray of bool, optional
        Brain that the earlier and the later visit show; all by default.
    years : float
        From the earlier to the later visit; NaN if not known.
    identifiers : mapping of int to int, optional
        Of each earlier label. Without: 1 for the largest lesion, and so on.
    next_identifier : int, optional
        First one to give to parts that broke off and to new lesions; by default the smallest
        above all earlier ones.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If shapes differ, labels are not whole numbers from 0, or ``voxel_mm3`` or ``years`` is not
        above 0.

    Examples
    --------
    >>> lesion = np.repeat([[[0, 1, 1, 0, 0, 0]]], 9, axis=0)
    >>> larger = np.repeat([[[0, 1, 1, 1, 1, 0]]], 9, axis=0)
    >>> (change,) = compare_visits(lesion, larger, 1.0).changes
    >>> change.kind, change.change_percent, change.change_ml
    ('enlarged', 100.0, 0.018)
    """
    check_maps([earlier, later], voxel_mm3, [new, gone, *(seen or ())])
    if years <= 0:
        raise InputError(f'years between visits must be above 0, got {years}. Check acq_time.')
    pair = link_visits(earlier, later, voxel_mm3, new, gone, seen)
    known = number_by_size(earlier) if identifiers is None else identifiers
    free = itertools.count(next_identifier or max(known.values(), default=0) + 1)
    groups = group_lesions(pair, known, free)
    changes = [_describe(pair, group, years) for group in groups]
    classes = paint_groups(
        pair, groups, [CLASSES[change.kind] for change in changes], earlier.shape
    )
    changes.sort(key=lambda change: min(change.identifiers_before + change.identifiers_after))
    outside_mm3 = None if new is None else measure_outside(new, later, voxel_mm3, LEAST_OVERLAP)
    return Comparison(changes, classes, outside_mm3)


def classify_volumes(before_mm3: float, after_mm3: float) -> str:
    """Tell whether a lesion is enlarged, shrunken or stable; see `LEAST_CHANGE`.

    Examples
    --------
    >>> classify_volumes(100, 130), classify_volumes(100, 129), classify_volumes(20, 32)
    ('enlarged', 'stable', 'stable')
    """
    change_mm3 = after_mm3 - before_mm3
    relative = abs(change_mm3) >= LEAST_CHANGE * before_mm3 * (1 - ROUNDING)
    if not relative or abs(change_mm3) <= LEAST_CHANGE_MM3 * (1 + ROUNDING):
        return 'stable'
    return 'enlarged' if change_mm3 > 0 else 'shrunken'


def _describe(pair: LinkedVisits, group: Group, years: float) -> Change:
    """Measure and classify a group; what the other visit's brain leaves out has no volume there."""
    rows, columns = group.rows, group.columns
    before_mm3 = float(pair.before.voxels[rows].sum() * pair.voxel_mm3)
    after_mm3 = float(pair.after.voxels[columns].sum() * pair.voxel_mm3)
    shared_mm3 = float(pair.shared[np.ix_(rows, columns)].sum() * pair.voxel_mm3)
    overlap = 2 * shared_mm3 / (before_mm3 + after_mm3)
    if not columns.size and pair.unseen[0][rows].any():
        after_mm3 = math.nan
    if not rows.size and pair.unseen[1][columns].any():
        before_mm3 = math.nan
    seen_mm3, now_mm3 = before_mm3, after_mm3
    if rows.size and columns.size:
        seen_mm3, now_mm3 = _visible_mm3(pair, rows, columns)
    marked_mm3 = math.nan
    if pair.fresh_voxels is not None:
        marked_mm3 = float(pair.fresh_voxels[columns].sum() * pair.voxel_mm3)
    change_mm3 = now_mm3 - seen_mm3
    percent = 100 * change_mm3 / seen_mm3 if seen_mm3 else math.nan
    return Change(
        kind=_classify(pair, rows, columns),
        identifiers_before=tuple(group.before),
        identifiers_after=tuple(group.after),
        labels_before=tuple(pair.before.labels[rows].tolist()),
        labels_after=tuple(pair.after.labels[columns].tolist()),
        parents=tuple(group.parents),
        merged_into=tuple(group.merged_into),
        volume_before_ml=before_mm3 / MM3_PER_ML,
        volume_after_ml=after_mm3 / MM3_PER_ML,
        change_ml=change_mm3 / MM3_PER_ML,
        change_percent=percent,
        change_ml_per_year=change_mm3 / MM3_PER_ML / years,
        change_percent_per_year=percent / years,
        overlap=overlap,
        new_part_ml=_new_part_mm3(pair, rows, columns, shared_mm3) / MM3_PER_ML,
        marked_ml=marked_mm3 / MM3_PER_ML,
    )


def _classify(pair: LinkedVisits, rows: np.ndarray, columns: np.ndarray) -> str:
    """Return the class of a group; the rules are those of the module."""
    least_voxels = LEAST_LESION_MM3 * (1 - ROUNDING) / pair.voxel_mm3
    alone = not (rows.size and columns.size)
    if alone and (pair.unseen[0][rows].any() or pair.unseen[1][columns].any()):
        return 'unconfirmed'
    if not rows.size and pair.marked_voxels is not None:
        least = SUPPORT * pair.visible[1][columns[0]]
        return 'new' if pair.marked_voxels[columns[0]] > least else 'unconfirmed'
    if not columns.size and pair.swallowed[rows].any():
        return 'unconfirmed'
    if not columns.size and pair.gone is not None:
        left = pair.gone[pair.before.numbers == rows[0] + 1].sum()
        return 'resolved' if left > SUPPORT * pair.visible[0][rows[0]] else 'unconfirmed'
    if alone:
        largest = max(*pair.before.voxels[rows], *pair.after.voxels[columns], 0)
        return 'unconfirmed' if largest < least_voxels else 'resolved' if rows.size else 'new'
    if pair.marked is not None and _hardly_covered(pair, rows, columns):
        return 'unconfirmed'
    if max(rows.size, columns.size) > 1:
        then, now = pair.shown or (None, None)
        had = count_parts(pair.before.numbers, rows + 1, now, least_voxels)
        has = count_parts(pair.after.numbers, columns + 1, then, least_voxels)
        if max(had, 1) != max(has, 1):
            return 'merged' if has < had else 'split'
    return classify_volumes(*_visible_mm3(pair, rows, columns))


def _visible_mm3(pair: LinkedVisits, rows: np.ndarray, columns: np.ndarray) -> tuple[float, float]:
    """Return the volumes of a group at each visit, as far as the other one shows them."""
    before, after = pair.visible[0][rows].sum(), pair.visible[1][columns].sum()
    return float(before * pair.voxel_mm3), float(after * pair.voxel_mm3)


def _hardly_covered(pair: LinkedVisits, rows: np.ndarray, columns: np.ndarray) -> bool:
    """Tell whether what was there before is but specks in a much larger lesion."""
    before_mm3, after_mm3 = _visible_mm3(pair, rows, columns)
    shared_mm3 = pair.shared[np.ix_(rows, columns)].sum() * pair.voxel_mm3
    little = shared_mm3 < LEAST_OVERLAP * after_mm3
    return bool(little and classify_volumes(before_mm3, after_mm3) == 'enlarged')


def _new_part_mm3(
    pair: LinkedVisits, rows: np.ndarray, columns: np.ndarray, shared_mm3: float
) -> float:
    """Return the growth of a group if it is a new lesion by Anima's rule, else 0."""
    grown_mm3 = pair.visible[1][columns].sum() * pair.voxel_mm3 - shared_mm3
    least_mm3 = max(NEW_PART * shared_mm3, LEAST_CHANGE_MM3) * (1 + ROUNDING)
    if shared_mm3 == 0 or grown_mm3 <= least_mm3:
        return 0.0
    if pair.marked is not None:
        grown = np.isin(pair.after.numbers, columns + 1) & ~np.isin(pair.before.numbers, rows + 1)
        if pair.marked[grown].mean() <= SUPPORT:
            return 0.0
    return float(grown_mm3)
