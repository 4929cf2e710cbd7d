"""What the numbers of a study must not be read without: visits that are unlike or not all there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from msapp.errors import UsageError
from msapp.provenance import read_versions
from msapp.runs import Run, last_runs, read_runs
from msapp.settings import Settings, load_toml

# Columns of `msapp.stats.columns.VISITS` that must be the same for all visits of a study.
METHODS = ('brain_extraction', 'lesion_model', 'detected_new_model')
# Settings that change numbers and that no column tells; those left out change none. A
# participant's page tells them, too.
SETTINGS = ('tasks', 'flips', 'mc_samples', 'random_seed', 'bids_filter_file', 'derivatives')
AGAIN = 'Run msapp again at participant level'
MOST_NAMED = 8


class _Record(NamedTuple):
    """The sessions that a run was limited to, and its settings and code, by name, as text."""

    sessions: set[str]
    values: dict[str, str]


def mixed_methods(visits: pd.DataFrame) -> Iterator[str]:
    """Name models, ways and contrasts, where visits of one group are not of the same.

    Parameters
    ----------
    visits : DataFrame
        One row a visit, with the columns of `msapp.stats.columns.VISITS`.
    """
    detectors = visits['detected_new_model']
    # A network may have looked at another pair than that whose lesions were compared.
    without = visits['detected_outside_count'].isna() & visits['new_lesion_count'].notna()
    judged = visits.assign(detected_new_model=detectors.mask(without, 'two masks alone'))
    for measure in METHODS:
        named = judged[measure].dropna()
        if (digits := f'{measure}_sha256') in visits:
            named = (named + ' ' + visits[digits].reindex(named.index).fillna('')).str.strip()
        yield from _mixture(measure, named)
    contrasts = visits['lesion_contrasts'].dropna().str.replace(',', ' and ')
    yield from _mixture(
        'lesion_contrasts',
        contrasts,
        'A network finds other lesions with a contrast than without it: compare only visits '
        'with the same.',
    )


def mixed_runs(visits: pd.DataFrame, output_dir: Path) -> Iterator[str]:
    """Name ``--sloppy``, and settings and code of runs where not all visits are of the same.

    Parameters
    ----------
    visits : DataFrame
        One row a visit.
    output_dir : Path
        Holds ``logs``.
    """
    records = _records(visits, output_dir)
    if records.empty:
        return
    sloppy = [values for values in records['--sloppy'] if 'yes' in values]
    if sloppy:
        were = 'were' if set(sloppy) == {('yes',)} else 'were, or may have been,'
        yield (
            f'--sloppy: {len(sloppy)} of {len(visits)} visits {were} made with it: do not take '
            f'their numbers for results. {AGAIN} without it.'
        )
    for name in records.columns.drop('--sloppy'):
        doubtful = bool(records[name].map(len).gt(1).any())
        yield from _mixture(name, records[name].map(' or '.join), doubtful=doubtful)
    if unknown := len(visits) - len(records):
        yield (
            f'{unknown} of {len(visits)} visits: {output_dir / "logs"} tells no run that made '
            'them, so their settings and code may not be those of the others.'
        )


def _mixture(
    name: str,
    kinds: pd.Series,
    advice: str = f'{AGAIN}, with one for all.',
    *,
    doubtful: bool = False,
) -> Iterator[str]:
    """Name the kinds of visits with the number of each, if there are, or may be, several."""
    counts = kinds.value_counts()
    found = ', '.join(f'{kind} (n = {count})' for kind, count in counts.items())
    if len(counts) > 1:
        yield (
            f'{name}: not the same for all visits: {found}. Their numbers cannot be compared. '
            f'{advice}'
        )
    elif doubtful:
        yield (
            f'{name}: not known for all numbers: {found}, for a run that may have made some of '
            f'them did not end well. {advice}'
        )


def _records(visits: pd.DataFrame, output_dir: Path) -> pd.DataFrame:
    """Return settings and code, as text, of the run that made each visit, where that is known.

    A cell holds one text; several where several runs may have made the visit.
    """
    read = cache(_read_record)  # one run has many participants
    runs: dict[str, list[tuple[Run, _Record]]] = defaultdict(list)
    for run in read_runs(output_dir):
        if run.began:
            runs[run.participant].append((run, read(run.folder)))
    found = {}
    for index, visit in visits.iterrows():
        made = [*_makers(runs[visit['participant_id']], visit['session_id'])]
        if made and all(made):
            found[index] = {name: tuple(sorted({item[name] for item in made})) for name in made[0]}
    return pd.DataFrame.from_dict(found, orient='index')


def _makers(runs: Iterable[tuple[Run, _Record]], session: str | None) -> Iterator[dict[str, str]]:
    """Give what is known of the runs that may have made a visit.

    The newest, and, as long as they did not end well, those before it.
    """
    for run, record in runs:
        if not record.sessions or session in record.sessions:
            yield record.values
            if run.whole:
                return


def _read_record(folder: Path) -> _Record:
    """Read what changes numbers; a record that cannot be read is of all sessions, and empty."""
    try:
        given = load_toml(folder / 'settings.toml')
        versions = read_versions(folder)
        code = ' '.join(filter(None, (versions['msapp'], versions.get('code'))))
    except (UsageError, KeyError, TypeError):
        return _Record(set(), {})
    settings = describe_settings(given, ('sloppy', *SETTINGS))
    return _Record(with_prefix('ses', given.get('session_label', ())), settings | {'msapp': code})


def describe_settings(given: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return settings in words, by their flags; those not given have their default.

    Examples
    --------
    >>> describe_settings({'flips': True}, ('flips', 'mc_samples'))
    {'--flips': 'yes', '--mc-samples': '0'}
    """
    return {
        f'--{name.replace("_", "-")}': _text(given.get(name, Settings.model_fields[name].default))
        for name in names
    }


def _text(value: Any) -> str:
    """Return a setting in words; the order of several does not count.

    Examples
    --------
    >>> [_text(value) for value in (True, 0, None, ('lesions', 'cord'), [])]
    ['yes', '0', 'none', 'cord lesions', 'none']
    """
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, list | tuple):
        return ' '.join(sorted(map(str, value))) or 'none'
    return 'none' if value is None else str(value)


def with_prefix(prefix: str, labels: Collection[str]) -> set[str]:
    """Return labels with their prefix, each exactly once.

    Examples
    --------
    >>> sorted(with_prefix('sub', ('01', 'sub-01', '02')))
    ['sub-01', 'sub-02']
    """
    return {f'{prefix}-{label.removeprefix(f"{prefix}-")}' for label in labels}


def without_results(
    visits: pd.DataFrame, participants: Collection[str], sessions: Collection[str]
) -> Iterator[str]:
    """Name participants and sessions that were asked for and of which no visit is there."""
    for flag, column, wanted in (
        ('--participant-label', 'participant_id', participants),
        ('--session-label', 'session_id', sessions),
    ):
        if absent := sorted(set(wanted) - set(visits[column])):
            yield f'{flag}: no results of {", ".join(absent)} found. Process what is missing first.'


def not_in_input(visits: pd.DataFrame, bids_dir: Path) -> Iterator[str]:
    """Name the visits with results whose folder the input does not have, in one sentence.

    They are counted all the same: the tables are of what was processed.
    """
    gone = list(dict.fromkeys(_gone(visits, bids_dir)))
    if gone:
        more = f' and {len(gone) - MOST_NAMED} more' if len(gone) > MOST_NAMED else ''
        yield (
            f'{bids_dir}: does not hold {", ".join(gone[:MOST_NAMED])}{more}, of which there are '
            'results. They are counted. Remove their results if they should not be.'
        )


def _gone(visits: pd.DataFrame, bids_dir: Path) -> Iterator[str]:
    for participant, session in zip(visits['participant_id'], visits['session_id'], strict=True):
        folder = bids_dir / participant
        if not folder.is_dir():
            yield participant
        elif not (folder / (session or 'anat')).is_dir():
            yield f'{participant} {session or "without a session"}'


def unfinished(output_dir: Path, participants: Collection[str]) -> Iterator[str]:
    """Name the participants, of some or of all, whose last run failed, if anything is there."""
    for participant, run in last_runs(output_dir).items():
        if run.whole or (participants and participant not in participants):
            continue
        if (output_dir / participant).is_dir():
            numbers = 'Numbers of it here are of an earlier run, or not all there.'
        elif (output_dir / f'{participant}.html').is_file():
            numbers = 'It is not in these tables.'
        else:
            continue
        yield f'{participant}: its last run did not end well ({run.error}). {numbers}'
