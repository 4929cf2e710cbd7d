"""Light plots of numbers: what the group report and the timeline of a participant share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
DATA, ALERT, GREY = '#0b5cad', '#b3261e', '#5b6875'


def light_figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Start a light figure of plots below each other, inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout='constrained')
    FigureCanvasAgg(figure)
    plots = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    for axes in plots:
        axes.spines[['top', 'right']].set_visible(False)
    return figure, plots


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    return buffer.getvalue()
