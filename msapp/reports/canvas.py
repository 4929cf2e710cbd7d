"""The drawing sheet of the report figures: slices, rows of slices, header and PNG file.

Arrays lie on the ``individual`` grid: 1 mm isotropic, RAS axes. Pictures follow the
radiological convention that viewers in hospitals use: the patient's right is on the left of
the picture, and sagittal slices face left.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from msapp.errors import InternalError
from msapp.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONVENTION = 'Radiological convention: R = right of the patient, sagittal slices face left (A)'
WIDTH_PX = 1400
DPI = 100
HEADER_PX = 58
GAP = 3  # voxels between two slices
WINDOW_PERCENTILES = (0.5, 99.5)
BACKGROUND, INK, MUTED = '#000000', '#f2f4f7', '#9aa7b4'
LESION_COLOUR, CANDIDATE_COLOUR, BRAIN_COLOUR, EDGE_COLOUR = (
    '#ff5a4d',
    '#ff4fd8',
    '#4dd2ff',
    '#ffb000',
)
NEW_COLOUR = '#ff3b30'
MAX_BYTES = 500_000


class Slice(NamedTuple):
    """One slice: axis 0 sagittal, 1 coronal, 2 axial; ``position`` in voxels."""

    axis: int
    position: int


class Cell(NamedTuple):
    """Where a slice lies in the picture, in voxels from the upper left corner."""

    slice: Slice
    top: int
    left: int
    height: int
    width: int


Rows = Sequence[Sequence[Slice]]
Box = tuple[slice, slice, slice]


def check_shapes(brain_mask: np.ndarray, *volumes: np.ndarray) -> None:
    """Refuse volumes that do not share the grid of the brain mask."""
    for volume in volumes:
        if volume.shape != brain_mask.shape or volume.ndim != 3:
            raise InternalError(
                f'A figure needs volumes of one shape, got {volume.shape} and a brain mask of '
                f'{brain_mask.shape}. Resample them to the individual space first.'
            )


def scale(image: np.ndarray, brain_mask: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """Map intensities to 0..1 by the 0.5 and 99.5 percentile inside the brain.

    The percentiles are those of ``like`` where it is given, else of ``image`` itself. An
    empty mask means the whole image; a constant image becomes 0.
    """
    source = image if like is None else like
    values = source[brain_mask & np.isfinite(source)]
    if values.size == 0:
        values = source[np.isfinite(source)]
    if values.size == 0:
        return np.zeros(image.shape, np.float32)
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    scaled = (np.nan_to_num(image, nan=low) - low) / max(float(high - low), 1e-12)
    return np.clip(scaled, 0, 1).astype(np.float32)


def bounding_box(mask: np.ndarray, margin: int = 4) -> Box:
    """Return the box around ``mask``, grown by ``margin`` voxels; the whole grid if empty."""
    box = []
    for axis, size in enumerate(mask.shape):
        hit = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        if hit.size == 0:
            return slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2])
        box.append(slice(max(0, int(hit[0]) - margin), min(size, int(hit[-1]) + 1 + margin)))
    return box[0], box[1], box[2]


def centre_of(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the centre of the box around ``mask``, voxels."""
    i, j, k = ((part.start + part.stop - 1) // 2 for part in bounding_box(mask, margin=0))
    return i, j, k


def plane(volume: np.ndarray, where: Slice, box: Box | None = None) -> np.ndarray:
    """Cut one slice as it is shown: upright, patient's right (or anterior) on the left.

    Examples
    --------
    >>> head = np.zeros((3, 3, 3)); head[2, 2, 1] = 1  # right, anterior
    >>> plane(head, Slice(2, 1)).astype(int).tolist()
    [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    """
    # No np.take: it copies a volume whose slices do not lie one after the other in memory.
    index: list[int | slice] = list(box) if box else [slice(None)] * 3
    index[where.axis] = where.position
    return volume[tuple(index)][::-1, ::-1].T


def choose_slices(
    brain_mask: np.ndarray, axis: int, count: int, area_of: np.ndarray | None = None
) -> list[int]:
    """Choose slice positions: evenly through the brain, or those richest in ``area_of``.

    With ``area_of`` the slices with most of it come first, at least 3 mm apart; what is left
    of ``count`` is spread evenly. Positions are sorted and unique.
    """
    apart = 3
    extent = bounding_box(brain_mask, margin=0)[axis]
    # The outermost tenth on each side shows little but skull base and vertex.
    even = np.linspace(extent.start, extent.stop - 1, count + 2)[1:-1].round().astype(int)
    if area_of is None:
        return sorted({int(index) for index in even})
    area = np.count_nonzero(area_of, axis=tuple({0, 1, 2} - {axis}))
    chosen: list[int] = []
    for index in np.argsort(-area, kind='stable'):
        if len(chosen) == count or area[index] == 0:
            break
        if all(abs(int(index) - other) >= apart for other in chosen):
            chosen.append(int(index))
    for index in sorted(even, key=lambda i: -min((abs(i - c) for c in chosen), default=0)):
        if len(chosen) < count and int(index) not in chosen:
            chosen.append(int(index))
    return sorted(chosen)


def layout(
    brain_mask: np.ndarray, counts: Sequence[tuple[int, int, int]], focus: np.ndarray | None
) -> list[list[Slice]]:
    """Make rows of slices from ``(axis, rows, slices a row)``."""
    rows = []
    for axis, n_rows, per_row in counts:
        indices = choose_slices(brain_mask, axis, n_rows * per_row, focus)
        slices = [Slice(axis, index) for index in indices]
        rows += [slices[i : i + per_row] for i in range(0, len(slices), per_row)]
    return rows


def place(rows: Rows, box: Box, row_gap: int = GAP) -> tuple[list[Cell], tuple[int, int]]:
    """Place slices in centred rows; return the cells and the size (height, width)."""
    size = [part.stop - part.start for part in box]

    def shape(where: Slice) -> tuple[int, int]:
        across, up = (size[axis] for axis in range(3) if axis != where.axis)
        return up, across

    widths = [sum(shape(s)[1] + GAP for s in row) - GAP for row in rows]
    cells, top = [], 0
    for row, width in zip(rows, widths, strict=True):
        left = (max(widths) - width) // 2
        for where in row:
            height, across = shape(where)
            cells.append(Cell(where, top, left, height, across))
            left += across + GAP
        top += max(shape(s)[0] for s in row) + row_gap
    return cells, (top - row_gap, max(widths))


def montage(
    volume: np.ndarray, cells: Sequence[Cell], size: tuple[int, int], box: Box
) -> np.ndarray:
    """Draw the slices of a volume into one array, zeros between them."""
    canvas = np.zeros(size, np.float32)
    for cell in cells:
        part = plane(volume, cell.slice, box)
        canvas[cell.top : cell.top + cell.height, cell.left : cell.left + cell.width] = part
    return canvas


def new_sheet(canvas: np.ndarray, title: str, note: str = '') -> tuple[Figure, Axes, float]:
    """Start a dark figure with a header and the grey ``canvas`` (0..1) below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixel = WIDTH_PX / canvas.shape[1]
    height_px = round(canvas.shape[0] * pixel) + HEADER_PX
    figure = Figure(figsize=(WIDTH_PX / DPI, height_px / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1 - HEADER_PX / height_px))
    axes.imshow(canvas, cmap='gray', vmin=0, vmax=1, interpolation='bicubic', aspect='auto')
    axes.set_axis_off()

    def head(x_px: float, y_px: float, text: str, **style: Any) -> None:
        figure.text(x_px / WIDTH_PX, 1 - y_px / height_px, text, parse_math=False, **style)

    head(12, 26, title, color=INK, fontsize=13, weight='bold')
    head(12, 47, CONVENTION + (f'. {note}' if note else ''), color=MUTED, fontsize=9.5)
    return figure, axes, pixel


def write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write text into the picture with a dark rim, so that it reads on any grey."""
    from matplotlib.patheffects import withStroke

    rim = withStroke(linewidth=2.2, foreground='black')
    settings: dict[str, Any] = {'color': INK, 'fontsize': 9} | style
    axes.text(x, y, text, parse_math=False, path_effects=[rim], **settings)


def letters(axes: Axes, cells: Sequence[Cell], affine: np.ndarray | None) -> None:
    """Write R/L or A/P at the sides of each slice, and its position below."""
    for cell in cells:
        axis, position = cell.slice
        left, right = ('A', 'P') if axis == 0 else ('R', 'L')
        middle, bottom = cell.top + cell.height / 2, cell.top + cell.height - 2
        write(axes, cell.left + 1, middle, left, va='center')
        write(axes, cell.left + cell.width - 2, middle, right, va='center', ha='right')
        if affine is None:
            label = f'{"ijk"[axis]} {position}'
        else:
            label = f'{"xyz"[axis]} {affine[axis, axis] * position + affine[axis, 3]:+.0f} mm'
        write(axes, cell.left + 1, bottom, label, va='bottom', color=MUTED, fontsize=8)


def legend(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    """Add a legend of (colour, label) in the upper right corner."""
    from matplotlib.lines import Line2D

    if entries:
        handles = [Line2D([], [], color=colour, lw=2, label=label) for colour, label in entries]
        figure.legend(
            handles=handles,
            loc='upper right',
            ncols=len(handles),
            fontsize=10,
            frameon=False,
            labelcolor=INK,
            borderaxespad=0.3,
        )


def outline(axes: Axes, canvas: np.ndarray, colour: str, width: float = 1.1) -> None:
    """Draw the border of the mask ``canvas`` as a thin line, ``width`` points."""
    if (canvas > 0.5).any() and not (canvas > 0.5).all():
        axes.contour(canvas, levels=[0.5], colors=[colour], linewidths=width)


def fewer_colours(rgb: np.ndarray, greys: int) -> bytes:
    """Encode a picture as a palette PNG: ``greys`` levels, and up to 64 other colours.

    Grey and coloured pixels get their own palettes, so thin outlines keep their colour.
    """
    from PIL import Image

    coloured = rgb.max(axis=-1) - rgb.min(axis=-1) > 12
    levels = np.linspace(0, 255, greys).round().astype(np.uint8)
    brightness = rgb.mean(axis=-1, dtype=np.float32) / 255
    index = (brightness * (greys - 1)).round().astype(np.uint8)
    palette = np.repeat(levels[:, None], 3, axis=1)
    if coloured.any():
        strip = Image.fromarray(rgb[coloured][None]).quantize(64, Image.Quantize.FASTOCTREE)
        extra = np.array(strip.getpalette(), np.uint8).reshape(-1, 3)
        index[coloured] = np.asarray(strip)[0] + greys
        palette = np.concatenate([palette, extra])
    picture = Image.fromarray(index, 'P')
    picture.putpalette(palette.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG', optimize=True)
    return buffer.getvalue()


def _pixels(figure: Figure) -> np.ndarray:
    """Return a figure as it is drawn: (height, width, 3) ndarray of uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def save(figure: Figure, out: Path) -> Path:
    """Write the figure as the finest palette PNG that stays under `MAX_BYTES`."""
    return save_sheets([figure], out)


def save_sheets(figures: Iterable[Figure], out: Path) -> Path:
    """Write figures one below the other, with `MAX_BYTES` for each; they are drawn in turn."""
    sheets = [_pixels(figure) for figure in figures]
    rgb = np.concatenate(sheets)
    for greys in (128, 64, 32, 16):
        data = fewer_colours(rgb, greys)
        if len(data) <= MAX_BYTES * len(sheets):
            break
    write_atomic(out, data)
    return out
