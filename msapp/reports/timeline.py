"""The timeline of a participant: number and volume of lesions over the visits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from msapp.files import write_atomic
from msapp.reports.plots import ALERT, DATA, light_figure, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SECONDS_PER_DAY = 86400.0
WIDTH_IN, HEIGHT_IN = 7.5, 4.6
# More names of visits than this would hide each other if they were not turned.
MOST_UPRIGHT = 5
# Room above the highest point, where new lesions are written.
HEADROOM = 1.3


@dataclass(frozen=True)
class TimelinePoint:
    """A visit on the timeline.

    Attributes
    ----------
    name : str
    acq_time : str
        ISO 8601; empty if not known.
    count, new : int
        Lesions, and those of them that are new since the visit before.
    volume_ml : float
        Of all lesions, ml.
    """

    name: str
    acq_time: str
    count: int
    volume_ml: float
    new: int

    @classmethod
    def of(cls, name: str, acq_time: str, lines: Sequence[Mapping[str, Any]]) -> Self:
        """Sum the lines of the track table of one visit (`msapp.lesions.tracks.TRACK_COLUMNS`)."""
        return cls(
            name=name,
            acq_time=acq_time,
            count=sum(row['label'] > 0 for row in lines),
            volume_ml=float(sum(row['volume_ml'] for row in lines if row['label'] > 0)),
            new=sum(row['state'] == 'new' for row in lines),
        )


def timeline(points: Sequence[TimelinePoint], out: Path) -> Path:
    """Draw lesion count and volume over the dates of the visits, new lesions marked.

    Visits are drawn at equal distances where one has no date, or where dates do not grow.

    Parameters
    ----------
    points : sequence of TimelinePoint
        In order of time.
    out : Path
        PNG to write.

    Returns
    -------
    Path
        ``out``.
    """
    days = days_since_first([point.acq_time for point in points])
    places = [float(number) for number in range(len(points))] if days is None else days
    figure, (counts, volumes) = light_figure(WIDTH_IN, HEIGHT_IN, rows=2)
    _draw_line(counts, places, [float(point.count) for point in points], 'lesions')
    _draw_line(volumes, places, [point.volume_ml for point in points], 'volume (ml)')
    _mark_new(counts, places, points)
    names = [' '.join([point.name, point.acq_time[:10]]).strip() for point in points]
    turned = len(points) > MOST_UPRIGHT
    volumes.set_xticks(
        places, names, rotation=40 if turned else 0, ha='right' if turned else 'center'
    )
    volumes.margins(x=0.1)
    if days is None:
        volumes.set_xlabel('visits in order; their dates are not all known, or not different')
    write_atomic(out, to_png(figure))
    return out


def days_since_first(times: Sequence[str]) -> list[float] | None:
    """Return the days since the first of some times; None if they are not known or do not grow.

    Times of one date say nothing of the order: see `msapp.bids.query.sort_visits`.

    Examples
    --------
    >>> days_since_first(['2020-01-01', '2020-01-31T12:00:00'])
    [0.0, 30.5]
    """
    if not all(times):
        return None
    moments = [datetime.fromisoformat(time) for time in times]
    days = [(moment - moments[0]).total_seconds() / SECONDS_PER_DAY for moment in moments]
    dates = {moment.date() for moment in moments}
    return days if sorted(set(days)) == days and len(dates) == len(days) else None


def _draw_line(axes: Axes, places: list[float], values: list[float], label: str) -> None:
    axes.plot(places, values, '-o', color=DATA, ms=6, lw=1.5)
    axes.set_ylabel(label)
    axes.set_ylim(0, max(*values, 1e-3) * HEADROOM)


def _mark_new(axes: Axes, places: list[float], points: Sequence[TimelinePoint]) -> None:
    """Write the number of new lesions above each visit that has some."""
    for place, point in zip(places, points, strict=True):
        if point.new:
            axes.plot([place], [point.count], 'o', color=ALERT, ms=9)
            axes.annotate(
                f'{point.new} new',
                (place, point.count),
                xytext=(0, 9),
                textcoords='offset points',
                ha='center',
                color=ALERT,
                weight='bold',
            )
