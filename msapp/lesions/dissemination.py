"""Imaging items of the 2017 McDonald criteria: dissemination in space and in time, as a table.

A. J. Thompson et al., Lancet Neurol. 2018;17:162-173. In space: a T2 lesion in at least two of four
places (periventricular, cortical or juxtacortical, infratentorial, spinal cord). In time: a new T2
or enhancing lesion at follow-up with a baseline for reference, or enhancing and non-enhancing
lesions at one time. Symptomatic lesions count like all others. The 2024 revision (X. Montalban et
al., Lancet Neurol. 2025;24:850-865), which adds the optic nerve, is not covered.

Each item is *met*, *not met* or *not measured*, and so is each of the two conclusions, by the
three-valued logic of S. C. Kleene: a conclusion is not measured if it is not met so far and what
was not measured could still meet it. How this applies:

- Lesions are those of at least `LEAST_LONG_AXIS_MM` in long axis, as the criteria define them.
- Places are those of `msapp.lesions.location`, one a lesion (that of the last visit at which it is
  known): a large lesion that touches ventricle and cortex counts as periventricular only.
  ``juxtacortical`` covers cortical lesions, as far as the images show any. A lesion whose place is
  not known could be in any one of the three in the brain.
- A place needs to be seen at one visit, since lesions stay. Activity belongs to its time: a visit
  without enhancement known, or not compared with the one before, could have shown some.
- Items in time are of the brain. The cord is not compared between visits, and no enhancement of it
  is known.
- A lesion enhances anew if neither it nor one that it broke off from or that ended in it enhanced
  at the visit before. Enhancement is what an image after gadolinium shows; enhancement predicted
  from other images is no measurement, so leave it out.
- A lesion that is ``unconfirmed`` (`msapp.lesions.change`) is not new; the note names it.
- New tissue that touches an old lesion may be its growth, or a new lesion that is part of it now;
  what a detector marked outside all lesions may be one that their mask missed. Where no lesion is
  new, such tissue leaves it open; the note names it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from msapp.imaging.tissue import MM3_PER_ML
from msapp.lesions.change import LEAST_LESION_MM3
from msapp.lesions.location import LOCATIONS
from msapp.lesions.matching import ROUNDING

HEADING = (
    'Research use only: imaging items of the 2017 McDonald criteria (Thompson et al., '
    'Lancet Neurol. 2018;17:162-173), from automatic segmentations. Not a diagnosis.'
)
MET, NOT_MET, NOT_MEASURED = 'met', 'not met', 'not measured'
BRAIN_PLACES = ('periventricular', 'juxtacortical', 'infratentorial')
# Places with a lesion that make dissemination in space.
LEAST_PLACES = 2
# Thompson et al.: a lesion is at least this long, mm.
LEAST_LONG_AXIS_MM = 3.0

# The columns of the table, each with its meaning.
COLUMNS = {
    'criterion': 'space or time',
    'item': 'what is asked for; the last of each criterion is its conclusion',
    'state': 'met, not met or not measured',
    'lesions': 'identifiers of the lesions that meet it, of the cord as cord-1',
    'note': 'what the state rests on, and what is missing',
}


@dataclass(frozen=True, kw_only=True)
class VisitFindings:
    """What is known of a visit.

    Attributes
    ----------
    name : str
        For notes, such as ``ses-2``.
    places : mapping of int to (str or None)
        One of `msapp.lesions.location.LOCATIONS` by identifier of each brain lesion of at least
        `LEAST_LONG_AXIS_MM`; None if the place is not known.
    new : frozenset of int, optional
        Lesions that are new since the visit before; None if no detector compared the two. Always
        None at the first visit.
    unconfirmed : frozenset of int
        Lesions without counterpart at the visit before that nothing else supports.
    touched : frozenset of int
        Lesions of the visit before that new tissue touches, by a detector.
    outside : int
        Places that a detector marked as new outside all lesions.
    enhancing : frozenset of int, optional
        Lesions that enhance after gadolinium; None without such an image.
    kin : mapping of int to frozenset of int
        By identifier, the lesions of the visit before that it broke off from or that ended in it.
    cord : tuple of int, optional
        Labels of the spinal cord's lesions; None where the cord was not imaged.
    """

    name: str
    places: Mapping[int, str | None]
    new: frozenset[int] | None = None
    unconfirmed: frozenset[int] = frozenset()
    touched: frozenset[int] = frozenset()
    outside: int = 0
    enhancing: frozenset[int] | None = None
    kin: Mapping[int, frozenset[int]] = field(default_factory=dict)
    cord: tuple[int, ...] | None = None


class Dissemination(NamedTuple):
    """The items, a line each with the columns `COLUMNS`, and `HEADING`, which goes with them."""

    heading: str
    table: pd.DataFrame


class _Item(NamedTuple):
    state: str
    lesions: tuple[int | str, ...]
    note: str


def gather_findings(
    tracks: pd.DataFrame,
    visit: int,
    name: str,
    places: Mapping[int, str | None],
    long_axes_mm: Mapping[int, float],
    *,
    judged: bool = True,
    changes: Iterable[Mapping[str, Any]] = (),
    outside: int = 0,
    enhancing: Iterable[int] | None = None,
    cord: Iterable[int] | None = None,
) -> VisitFindings:
    """Collect what is known of a visit whose lesions are tracked.

    Parameters
    ----------
    tracks : pandas.DataFrame
        Table of `msapp.lesions.tracks.Tracks`.
    visit : int
        Number of the visit in it, from 0.
    name : str
        For notes.
    places : mapping of int to (str or None)
        Location by label in the visit's image, from `msapp.lesions.location.Locations`.
    long_axes_mm : mapping of int to float
        Longest extent by label, mm; lesions under `LEAST_LONG_AXIS_MM` are left out.
    judged : bool
        Whether a detector compared the visit's images with those of the visit before. What is new
        by two segmentations alone does not count.
    changes : iterable of mapping, optional
        Lines of the table of `msapp.lesions.change.Comparison`, since the visit before.
    outside : int
        As of `VisitFindings`.
    enhancing : iterable of int, optional
        Labels that enhance; None without an image after gadolinium.
    cord : iterable of int, optional
        Labels of the cord's lesions; None where it was not imaged.

    Returns
    -------
    VisitFindings
        By identifier.
    """
    here = tracks[tracks['visit'] == visit]
    long = {label for label, length in long_axes_mm.items() if length >= LEAST_LONG_AXIS_MM}
    lines = here[here['label'].isin(long)]
    names = dict(zip(lines['label'].tolist(), lines['identifier'].tolist(), strict=True))
    states = dict(zip(names.values(), lines['state'], strict=True))
    lit = None if enhancing is None else set(enhancing)
    return VisitFindings(
        name=name,
        places={identifier: places[label] for label, identifier in names.items()},
        new=_of_state(states, 'new') if visit and judged else None,
        unconfirmed=_of_state(states, 'unconfirmed'),
        touched=_touched(changes, states),
        outside=outside,
        enhancing=None if lit is None else frozenset(names[label] for label in lit & set(names)),
        kin=_kin(here),
        cord=None if cord is None else tuple(cord),
    )


def assess_dissemination(visits: Sequence[VisitFindings]) -> Dissemination:
    """Tell which imaging items of the McDonald criteria a participant meets.

    Parameters
    ----------
    visits : sequence of VisitFindings
        In order of time, at least one. Identifiers stay with a lesion.

    Returns
    -------
    Dissemination

    Raises
    ------
    ValueError
        If there is no visit, a location is none of `LOCATIONS`, lesions that are said to be new or
        to enhance have no place, or the first visit has new lesions.

    Examples
    --------
    >>> visit = VisitFindings(name='ses-1', places={1: 'periventricular', 2: 'infratentorial'})
    >>> assess_dissemination([visit]).table.set_index('item')['state']['dissemination_in_space']
    'met'
    """
    _check(visits)
    rows = []
    for criterion, items in (('space', _space_items(visits)), ('time', _time_items(visits))):
        for name, (state, lesions, note) in items.items():
            rows.append((criterion, name, state, ','.join(map(str, lesions)), note))
    return Dissemination(HEADING, pd.DataFrame(rows, columns=list(COLUMNS)))


def not_assessed(reason: str) -> Dissemination:
    """Return the items of a participant of whom nothing can be told: none is measured."""
    items = assess_dissemination([VisitFindings(name='', places={})]).table
    return Dissemination(HEADING, items.assign(state=NOT_MEASURED, lesions='', note=reason))


def any_of(states: Iterable[str]) -> str:
    """Return the state of what is met if any of several is; of none at all, it is not measured.

    Examples
    --------
    >>> any_of(['not met', 'not measured']), any_of(['not measured', 'met']), any_of(['not met'])
    ('not measured', 'met', 'not met')
    """
    found = set(states)
    for state in (MET, NOT_MEASURED, NOT_MET):
        if state in found:
            return state
    return NOT_MEASURED


def _of_state(states: Mapping[int, str], state: str) -> frozenset[int]:
    return frozenset(name for name, found in states.items() if found == state)


def _touched(changes: Iterable[Mapping[str, Any]], counted: Iterable[int]) -> frozenset[int]:
    """Return the old lesions that new tissue touches and that are now in one of ``counted``."""
    least_ml = LEAST_LESION_MM3 * (1 - ROUNDING) / MM3_PER_ML
    touched: set[int] = set()
    for line in changes:
        before, after = (
            {int(name) for name in line[f'identifiers_{when}'].split(',') if name}
            for when in ('before', 'after')
        )
        if (line['marked_ml'] or 0) >= least_ml and after.intersection(counted):
            touched |= before
    return frozenset(touched)


def _kin(lines: pd.DataFrame) -> dict[int, frozenset[int]]:
    """Return by identifier the lesions of the visit before that it broke off from or took in."""
    broke_off = lines[lines['parent'].notna()]
    ended = lines[lines['merged_into'].notna()]
    kin: dict[int, frozenset[int]] = {}
    for name, other in (
        *zip(broke_off['identifier'], broke_off['parent'], strict=True),
        *zip(ended['merged_into'], ended['identifier'], strict=True),
    ):
        kin[int(name)] = kin.get(int(name), frozenset()) | {int(other)}
    return kin


def _check(visits: Sequence[VisitFindings]) -> None:
    """Refuse findings that contradict each other."""
    if not visits:
        raise ValueError('at least one visit is needed')
    if visits[0].new is not None:
        raise ValueError(f'{visits[0].name} is the first visit; its lesions cannot be new')
    for visit in visits:
        strange = set(visit.places.values()) - {*LOCATIONS, None}
        if strange:
            raise ValueError(f'{visit.name}: locations must be in {LOCATIONS}, got {strange}')
        claimed = visit.unconfirmed.union(visit.new or (), visit.enhancing or ())
        lost = claimed - set(visit.places)
        if lost:
            raise ValueError(f'{visit.name}: lesions {sorted(lost)} have no place')


def _space_items(visits: Sequence[VisitFindings]) -> dict[str, _Item]:
    """Return the items in space and their conclusion."""
    places: dict[int, str | None] = {}
    for visit in visits:
        places |= {name: place or places.get(name) for name, place in visit.places.items()}
    unknown = [name for name in sorted(places) if places[name] is None]
    items = {
        place: _brain_item([name for name in sorted(places) if places[name] == place], unknown)
        for place in BRAIN_PLACES
    }
    items['spinal_cord'] = _cord_item(visits)
    met = [name for name, item in items.items() if item.state == MET]
    possible = len(met) + len(unknown) + (items['spinal_cord'].state == NOT_MEASURED)
    if len(met) >= LEAST_PLACES:
        state = MET
    else:
        state = NOT_MEASURED if possible >= LEAST_PLACES else NOT_MET
    lesions = tuple(dict.fromkeys(lesion for name in met for lesion in items[name].lesions))
    note = f'{len(met)} of the {LEAST_PLACES} places needed: {", ".join(met) or "none"}'
    items['dissemination_in_space'] = _Item(state, lesions if state == MET else (), note)
    return items


def _brain_item(lesions: list[int], unknown: list[int]) -> _Item:
    """Return the item of a place in the brain."""
    if lesions:
        return _Item(MET, tuple(lesions), '')
    if unknown:
        return _Item(NOT_MEASURED, (), f'place not known of lesion {_join(unknown)}')
    return _Item(NOT_MET, (), '')


def _cord_item(visits: Sequence[VisitFindings]) -> _Item:
    """Return the item of the spinal cord; labels of several visits carry the visit's name."""
    imaged = [visit for visit in visits if visit.cord is not None]
    if not imaged:
        return _Item(NOT_MEASURED, (), 'spinal cord not imaged')
    lesions = tuple(
        f'cord-{label}' if len(imaged) == 1 else f'{visit.name}:cord-{label}'
        for visit in imaged
        for label in visit.cord or ()
    )
    note = f'spinal cord imaged at {_join(visit.name for visit in imaged)}'
    return _Item(MET if lesions else NOT_MET, lesions, note)


def _time_items(visits: Sequence[VisitFindings]) -> dict[str, _Item]:
    """Return the items in time and their conclusion."""
    follow_ups = list(itertools.pairwise(visits))
    items = {
        'new_t2_lesion': _combine([_new_lesions(visit) for _, visit in follow_ups]),
        'new_enhancing_lesion': _combine([_new_enhancing(*pair) for pair in follow_ups]),
        'enhancing_and_non_enhancing': _combine([_simultaneous(visit) for visit in visits]),
    }
    lesions = tuple(dict.fromkeys(name for item in items.values() for name in item.lesions))
    state = any_of(item.state for item in items.values())
    items['dissemination_in_time'] = _Item(state, lesions, 'lesions of the brain')
    return items


def _combine(items: Sequence[_Item]) -> _Item:
    """Return an item over several visits."""
    if not items:
        return _Item(NOT_MEASURED, (), 'no second visit')
    lesions = tuple(dict.fromkeys(name for item in items for name in item.lesions))
    notes = '; '.join(item.note for item in items if item.note)
    return _Item(any_of(item.state for item in items), lesions, notes)


def _new_lesions(visit: VisitFindings) -> _Item:
    """Return the item of new T2 lesions at a follow-up."""
    if visit.new is None:
        return _Item(NOT_MEASURED, (), f'{visit.name}: no network for new lesions looked')
    state = MET if visit.new else NOT_MEASURED if visit.touched or visit.outside else NOT_MET
    notes = [f'unconfirmed {_join(sorted(visit.unconfirmed))}'] if visit.unconfirmed else []
    if state == NOT_MEASURED and visit.outside:
        notes.append(f'places with new tissue outside all lesions: {visit.outside}')
    if state == NOT_MEASURED and visit.touched:
        notes.append(f'new tissue touches lesion {_join(sorted(visit.touched))}: growth or new')
    note = f'{visit.name}: {", ".join(notes)}' if notes else ''
    return _Item(state, tuple(sorted(visit.new)), note)


def _new_enhancing(before: VisitFindings, visit: VisitFindings) -> _Item:
    """Return the item of lesions that enhance at a follow-up and did not at the visit before.

    Where enhancement at the visit before is not known, new T2 lesions that enhance count.
    """
    if visit.enhancing is None:
        return _Item(NOT_MEASURED, (), f'{visit.name}: enhancement not known')
    if before.enhancing is None:
        fresh = visit.enhancing & (visit.new or frozenset())
        state = MET if fresh else NOT_MEASURED if visit.enhancing else NOT_MET
        note = '' if state != NOT_MEASURED else f'{before.name}: enhancement not known'
    else:
        known = before.enhancing
        fresh = frozenset(
            name for name in visit.enhancing - known if not visit.kin.get(name, frozenset()) & known
        )
        state, note = MET if fresh else NOT_MET, ''
    return _Item(state, tuple(sorted(fresh)), note)


def _simultaneous(visit: VisitFindings) -> _Item:
    """Return the item of enhancing beside non-enhancing lesions at one visit."""
    if visit.enhancing is None:
        return _Item(NOT_MEASURED, (), f'{visit.name}: enhancement not known')
    others = len(set(visit.places) - visit.enhancing)
    if not visit.enhancing or not others:
        return _Item(NOT_MET, (), '')
    note = f'{visit.name}: beside {others} without enhancement'
    return _Item(MET, tuple(sorted(visit.enhancing)), note)


def _join(entries: Iterable[object]) -> str:
    return ', '.join(map(str, entries))
