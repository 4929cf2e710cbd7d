"""The report of a study: what was processed, lesion load over time, and outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from msapp.reports.doubts import find_doubts
from msapp.reports.html import count, encode_png, heading, show, unit, write_page
from msapp.reports.plots import ALERT, DATA, GREY, light_figure, to_png
from msapp.stats.columns import VISITS
from msapp.stats.tables import GroupTables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Modified z-score and its limit: Iglewicz & Hoaglin, How to Detect and Handle Outliers, 1993.
OUTLIER_LIMIT = 3.5
MAD_TO_SD = 1.4826
FEWEST_FOR_OUTLIERS = 5
MOST_NAMED = 12  # names drawn in one strip; more would hide each other
QUALITY = (
    'brain_volume_ml',
    'nawm_noise_fraction',
    'mni_alignment',
    'T1w_alignment',
    'T2w_alignment',
    'ceT1w_alignment',
    'visit_motion_mm',
    'visit_correlation',
)
TABLE_COLUMNS = (
    'acq_time',
    'contrasts',
    'interval_days',
    'lesions_interval_days',
    'lesion_count',
    'lesion_volume_ml',
    'new_lesion_count',
    'enlarged_lesion_count',
    'resolved_lesion_count',
    'detected_new_count',
    'detected_new_volume_ml',
    'candidate_count',
    'candidate_volume_ml',
    *QUALITY,
)

# Columns that are summed: what they count, the words where nothing was measured, and in what.
COUNTS = (
    (
        'lesion_count',
        'lesions, each counted at every visit that has it',
        'lesions not measured',
        'visit',
    ),
    (
        'new_lesion_count',
        'new lesions by change classes',
        'new lesions not measured',
        'pair',
    ),
    (
        'detected_new_count',
        'new or enlarged places by a network for new lesions',
        'no network for new lesions used',
        'pair',
    ),
    (
        'candidate_count',
        'candidates (not confirmed new lesions)',
        'candidates not looked for',
        'pair',
    ),
)


@dataclass(frozen=True)
class Plot:
    """One plot, or the sentence that stands in its place."""

    title: str
    caption: str
    uri: str | None = None


@dataclass(frozen=True)
class VisitRow:
    """One line of the table of visits; ``href`` is None where there is no report."""

    participant: str
    session: str
    href: str | None
    values: Mapping[str, Any]
    flags: tuple[str, ...]


def robust_z(values: np.ndarray) -> np.ndarray:
    """Return (x - median) / (1.4826 MAD); zeros where the MAD is 0, NaN where x is.

    Parameters
    ----------
    values : (N,) ndarray of float
        Measures of N visits.

    Returns
    -------
    (N,) ndarray of float

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    centre = np.nanmedian(values) if np.isfinite(values).any() else np.nan
    distance = values - centre
    mad = np.nanmedian(np.abs(distance)) if np.isfinite(distance).any() else np.nan
    return distance * 0.0 if not mad else distance / (MAD_TO_SD * mad)


def outliers(visits: pd.DataFrame, measure: str) -> pd.Series:
    """Return True for visits whose ``measure`` lies beyond 3.5 robust SDs of the median.

    With fewer than 5 values nothing is called an outlier.
    """
    values = visits[measure].to_numpy(float)
    if np.isfinite(values).sum() < FEWEST_FOR_OUTLIERS:
        return pd.Series(False, index=visits.index)
    return pd.Series(np.abs(robust_z(values)) > OUTLIER_LIMIT, index=visits.index)


def days_since_first(visits: pd.DataFrame) -> pd.Series:
    """Return the days since the first visit of each participant; NaN where unknown.

    Scan times are used if every visit of the participant has a date of its own, else the
    intervals added up, if each visit but one was compared with another. A participant with one
    visit is at day 0.
    """
    days = pd.Series(np.nan, index=visits.index)
    times = pd.to_datetime(visits['acq_time'], errors='coerce', format='ISO8601', utc=True)
    for _, group in visits.groupby('participant_id', sort=False):
        when = times[group.index]
        if len(group) == 1:
            days[group.index] = 0.0
        elif when.notna().all() and when.dt.normalize().is_unique:
            days[group.index] = (when - when.min()).dt.total_seconds() / 86400
        else:
            days[group.index] = _add_intervals(group)
    return days


def _add_intervals(group: pd.DataFrame) -> list[float]:
    """Add up the intervals of one participant along the chain of ``since_session``."""
    if group['since_session'].isna().sum() != 1:
        return [float('nan')] * len(group)
    links = {
        row['session_id']: (row['since_session'], float(row['interval_days']))
        for _, row in group.iterrows()
    }

    def day(session: str, seen: tuple[str, ...] = ()) -> float:
        before, interval = links.get(session, (None, np.nan))
        if session in seen or session not in links:
            return float('nan')
        if not isinstance(before, str):
            return 0.0
        return day(before, (*seen, session)) + interval

    return [day(session) for session in group['session_id']]


def _draw(width: float, height: float, paint: Callable[[Axes], None]) -> str:
    """Draw one light plot and return it as a ``data:`` address."""
    figure, (axes,) = light_figure(width, height)
    paint(axes)
    return encode_png(to_png(figure))


def _load_plot(visits: pd.DataFrame) -> Plot:
    """Lesion volume of each participant over the days since the first visit."""
    title = 'Lesion volume over time'
    table = visits.assign(days=days_since_first(visits)).dropna(subset=['lesion_volume_ml'])
    if len(table) < 2:
        return Plot(title, f'{count(len(table), "visit")} with a lesion volume: nothing to plot.')
    dated = table.dropna(subset=['days'])
    undated = len(table) - len(dated)
    if dated.empty:
        return Plot(title, 'No visit has a date or an interval, so there is no time axis.')

    def paint(axes: Axes) -> None:
        for _, group in dated.groupby('participant_id'):
            ordered = group.sort_values('days')
            axes.plot(
                ordered['days'],
                ordered['lesion_volume_ml'],
                '-o',
                color=DATA,
                alpha=0.6,
                ms=4,
                lw=1,
            )
        if dated['days'].max() == 0:
            axes.set_xlim(-1, 1)
        axes.set_xlabel('days since the first visit')
        axes.set_ylabel('lesion volume (ml)')
        axes.set_ylim(bottom=0)

    caption = 'One line a participant, one dot a visit. Sudden jumps are more often a failed '
    caption += 'brain mask or alignment than disease: open the report of that participant.'
    if undated:
        caption += f' {count(undated, "visit")} without a date or an interval not shown.'
    return Plot(title, caption, _draw(7, 4, paint))


def _candidate_plot(visits: pd.DataFrame) -> Plot:
    """Candidates of each pair of visits against the interval between them."""
    title = 'Candidates by interval'
    table = visits.dropna(subset=['candidate_count'])
    if table.empty:
        return Plot(title, 'No pair of visits was compared.')
    counts = table['candidate_count']
    summary = (
        f'{count(len(table), "pair")} of visits; candidates: median {counts.median():g}, '
        f'range {counts.min():g} to {counts.max():g}. Candidates are not confirmed new lesions.'
    )
    from matplotlib.ticker import MaxNLocator

    dated = table.dropna(subset=['interval_days'])
    if len(dated) < 2:
        return Plot(title, summary + ' Too few pairs with a known interval to plot.')

    def paint(axes: Axes) -> None:
        axes.plot(
            dated['interval_days'], dated['candidate_count'], 'o', color=DATA, alpha=0.6, ms=5
        )
        axes.set_xlabel('days since the visit before')
        axes.set_ylabel('candidates')
        axes.set_ylim(bottom=-0.3)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    undated = len(table) - len(dated)
    if undated:
        summary += f' {count(undated, "pair")} without an interval not shown.'
    return Plot(title, summary, _draw(7, 4, paint))


def _strip_plot(visits: pd.DataFrame, measure: str) -> Plot | None:
    """One quality measure, its outliers named; None where nobody has it."""
    table = visits.dropna(subset=[measure])
    if table.empty:
        return None
    title = heading(measure) + (f' ({unit(VISITS, measure)})' if unit(VISITS, measure) else '')
    n = len(table)
    if n < FEWEST_FOR_OUTLIERS:
        values = ', '.join(show(value, measure) for value in table[measure])
        return Plot(
            title,
            f'{count(n, "value")} ({values}): too few to call an outlier, at least '
            f'{FEWEST_FOR_OUTLIERS} are needed.',
        )
    values = table[measure].to_numpy(float)
    far = outliers(table, measure).to_numpy()
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, n)
    spread[far] = np.linspace(-0.35, 0.35, int(far.sum()) + 2)[1:-1]  # names apart

    def paint(axes: Axes) -> None:
        axes.plot(values[~far], spread[~far], 'o', color=DATA, alpha=0.55, ms=5)
        axes.plot(values[far], spread[far], 'D', color=ALERT, ms=6)
        axes.axvline(float(np.median(values)), color=GREY, lw=1, ls='--')
        for i in np.flatnonzero(far)[:MOST_NAMED]:
            name = _name(table.iloc[int(i)])
            axes.annotate(
                name,
                (values[i], spread[i]),
                xytext=(0, 7),
                textcoords='offset points',
                fontsize=8,
                color=ALERT,
                ha='center',
                parse_math=False,
            )
        axes.set_ylim(-0.6, 0.7)
        axes.margins(x=0.14)
        axes.yaxis.set_visible(False)
        axes.spines['left'].set_visible(False)

    caption = f'{n} visits; dashed: median. '
    if np.median(np.abs(values - np.median(values))) == 0:
        caption += 'More than half of the values are the same, so outliers cannot be judged.'
    elif far.any():
        caption += f'{count(int(far.sum()), "outlier")} (red): look at the figures before use.'
    else:
        caption += 'No outlier.'
    return Plot(title, caption, _draw(5.5, 1.9, paint))


def _name(row: pd.Series) -> str:
    session = row['session_id']
    return (
        f'{row["participant_id"]} {session}' if isinstance(session, str) else row['participant_id']
    )


def _rows(output_dir: Path, visits: pd.DataFrame) -> list[VisitRow]:
    """Lines of the table of visits, each with a link to its report where there is one."""
    flags = {measure: outliers(visits, measure) for measure in QUALITY}
    rows = []
    for index, row in visits.iterrows():
        participant = str(row['participant_id'])
        page = f'{participant}.html'
        rows.append(
            VisitRow(
                participant=participant,
                session=row['session_id'] if isinstance(row['session_id'], str) else '',
                href=quote(page) if (output_dir / page).is_file() else None,
                values={name: row[name] for name in TABLE_COLUMNS},
                flags=tuple(name for name in QUALITY if flags[name][index]),
            )
        )
    return rows


def _totals(visits: pd.DataFrame) -> Iterator[str]:
    """Say how many there are of what was counted, and in how many visits or pairs of visits."""
    for column, what, without, noun in COUNTS:
        values = visits[column].dropna()
        n = count(len(values), noun)
        yield f'{what}: {int(values.sum())} (n = {n})' if len(values) else without


def group_doubts(visits: pd.DataFrame) -> Iterator[str]:
    """Name the visits whose measures break a limit of quality, as the participants' pages do.

    Parameters
    ----------
    visits : DataFrame
        One row a visit, with the columns of `msapp.stats.columns.VISITS`.
    """
    for participant, group in visits.groupby('participant_id'):
        measured = group.assign(session_id=group['session_id'].fillna('the visit'))
        summaries = {row['session_id']: row.to_dict() for _, row in measured.iterrows()}
        yield from (f'{participant}, {doubt}' for doubt in find_doubts(summaries))


def write_group_report(
    output_dir: Path, tables: GroupTables, *, versions: Mapping[str, str]
) -> Path:
    """Write ``group.html`` from the collected tables.

    Parameters
    ----------
    output_dir : Path
        Root of the derivatives; the participants' reports are looked for here.
    tables : GroupTables
        As `msapp.stats.tables.collect_group` returns them.
    versions : mapping
        Program names and versions to print.

    Returns
    -------
    Path
        The page; it holds all its pictures and loads nothing.
    """
    visits = tables.visits
    strips = [_strip_plot(visits, measure) for measure in QUALITY]
    return write_page(
        output_dir / 'group.html',
        'group.html.j2',
        n_participants=int(visits['participant_id'].nunique()),
        n_visits=len(visits),
        n_pairs=int(visits[['candidate_count', 'new_lesion_count']].notna().any(axis=1).sum()),
        totals=list(_totals(visits)),
        limited_to=tables.limited_to,
        problems=tables.problems,
        doubts=list(group_doubts(visits)),
        plots=[_load_plot(visits), _candidate_plot(visits)],
        strips=[strip for strip in strips if strip is not None],
        limit=OUTLIER_LIMIT,
        rows=_rows(output_dir, visits),
        columns=VISITS,
        names=TABLE_COLUMNS,
        versions=versions,
    )
