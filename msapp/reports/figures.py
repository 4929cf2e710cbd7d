"""Report figures: slices of the individual space, drawn so that errors show at a glance.

All functions take arrays on the ``individual`` grid (1 mm isotropic, RAS axes, aligned with
MNI), write one PNG of 1400 px width and under 500 kB atomically, and draw in the radiological
convention, which the figure states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from msapp.reports.canvas import (
    BRAIN_COLOUR,
    CANDIDATE_COLOUR,
    EDGE_COLOUR,
    GAP,
    INK,
    LESION_COLOUR,
    Rows,
    Slice,
    bounding_box,
    check_shapes,
    layout,
    legend,
    letters,
    montage,
    new_sheet,
    outline,
    place,
    plane,
    save,
    scale,
    write,
)
from msapp.reports.interactive import viewer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    'BRAIN_COLOUR',
    'CANDIDATE_COLOUR',
    'CERTAINTY_STYLES',
    'LESION_COLOUR',
    'ZONE_COLOURS',
    'candidates_panel',
    'checkerboard',
    'flicker',
    'mosaic',
    'viewer',
]

Contour = tuple[np.ndarray, str, str]
Slices = Literal['brain', 'area']

# Fluid around the brain is left without an outline: it would hide the cortex.
ZONE_COLOURS = {
    'ventricles': '#4dd2ff',
    'cortex': '#ff5a4d',
    'white_matter': '#f2f4f7',
    'deep_grey': '#ffd23f',
    'brain_stem': '#7bd88f',
    'cerebellum': '#c792ea',
}
# Of `msapp.lesions.uncertainty.split_by_entropy`.
CERTAINTY_STYLES = {
    'surer': ('#7bd88f', 'surer lesion'),
    'unsure': ('#ffd23f', 'unsure lesion'),
    'doubtful': ('#ff4fd8', 'doubtful, not counted'),
}
CROP_MM = 60  # side of a candidate's picture
CAPTION_VOXELS = 9  # room above each row of the panel
PLANE_GAP = 2 * GAP  # between the three planes of a row


def mosaic(
    image: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    contours: Sequence[Contour] = (),
    title: str,
    slices: Slices = 'brain',
    affine: np.ndarray | None = None,
) -> Path:
    """Draw 21 axial, 7 coronal and 6 sagittal slices, with outlines of masks.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        The contrast to draw.
    out : Path
        PNG to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the window and the crop; an empty mask means the whole grid.
    contours : sequence of (mask, colour, label)
        Masks drawn as thin outlines, with a legend.
    title : str
        First line of the header.
    slices : {'brain', 'area'}
        ``'brain'``: evenly through the brain; ``'area'``: the slices in which the masks of
        ``contours`` cover most area.
    affine : (4, 4) ndarray, optional
        Voxel to mm of the grid (diagonal); slices are then labelled in mm.

    Returns
    -------
    Path
        ``out``.
    """
    check_shapes(brain_mask, image, *(mask for mask, _, _ in contours))
    focus = None
    if slices == 'area' and contours:
        focus = np.logical_or.reduce([np.asarray(mask, bool) for mask, _, _ in contours])
    rows = layout(brain_mask, ((2, 3, 7), (1, 1, 7), (0, 1, 6)), focus)
    box = bounding_box(brain_mask)
    cells, size = place(rows, box)
    note = 'Slices with most outlined area' if focus is not None and focus.any() else ''
    figure, axes, _ = new_sheet(montage(scale(image, brain_mask), cells, size, box), title, note)
    for mask, colour, _ in contours:
        outline(axes, montage(np.asarray(mask, np.float32), cells, size, box), colour)
    letters(axes, cells, affine)
    legend(figure, [(colour, label) for _, colour, label in contours])
    return save(figure, out)


def _edges(image: np.ndarray, brain_mask: np.ndarray, rows: Rows) -> np.ndarray:
    """Find edges (Canny, sigma 1.5 mm) of a 0..1 image in the slices of ``rows``."""
    from scipy.ndimage import binary_dilation
    from skimage.feature import canny

    edges = np.zeros(image.shape, bool)
    near = binary_dilation(brain_mask, iterations=3) if brain_mask.any() else ~brain_mask
    for where in (where for row in rows for where in row):
        at: list[Any] = [slice(None)] * 3
        at[where.axis] = where.position
        found = canny(image[tuple(at)], sigma=1.5, mask=near[tuple(at)])
        edges[tuple(at)] |= found
    return edges


def checkerboard(
    first: np.ndarray,
    second: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    labels: tuple[str, str],
    affine: np.ndarray | None = None,
) -> Path:
    """Draw two images as a checkerboard, and the edges of the second over the first.

    Misalignment shows as steps where tiles meet, and as edges beside the anatomy. The window
    of each image is its own, so contrasts can be mixed.

    Parameters
    ----------
    first, second : (I, J, K) ndarray of float
        Two contrasts, or one contrast of two visits.
    out : Path
        PNG to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the windows and the crop.
    labels : tuple of str
        What the two images are: ``('FLAIR', 'T1w')`` or ``('ses-1', 'ses-2')``.
    affine : (4, 4) ndarray, optional
        As in `mosaic`.

    Returns
    -------
    Path
    """
    tile = 22  # mm; coarse enough to recognise a sulcus, fine enough to have many borders
    check_shapes(brain_mask, first, second)
    one, two = scale(first, brain_mask), scale(second, brain_mask)
    board = np.indices(first.shape, sparse=True)
    parity = (board[0] // tile + board[1] // tile + board[2] // tile) % 2 == 0
    upper = [
        *layout(brain_mask, ((2, 1, 5),), None),
        [*layout(brain_mask, ((1, 1, 3),), None)[0], *layout(brain_mask, ((0, 1, 2),), None)[0]],
    ]
    rows = [*upper, *upper]
    box = bounding_box(brain_mask, margin=8)
    cells, size = place(rows, box)
    half = len(cells) // 2
    canvas = montage(np.where(parity, one, two), cells[:half], size, box)
    canvas += montage(one, cells[half:], size, box)
    edges = montage(_edges(two, brain_mask, upper).astype(np.float32), cells[half:], size, box)
    title = (
        f'Checkerboard of {labels[0]} and {labels[1]}; below, edges of {labels[1]} on {labels[0]}'
    )
    figure, axes, _ = new_sheet(canvas, title)
    overlay = np.zeros((*edges.shape, 4), np.float32)
    overlay[edges > 0] = (1.0, 0.69, 0.0, 0.85)
    axes.imshow(overlay, interpolation='nearest', aspect='auto')
    letters(axes, cells, affine)
    legend(figure, [(EDGE_COLOUR, f'edges of {labels[1]}')])
    return save(figure, out)


def flicker(
    first: np.ndarray,
    second: np.ndarray,
    out_first: Path,
    out_second: Path,
    *,
    brain_mask: np.ndarray,
    labels: tuple[str, str],
    focus: np.ndarray | None = None,
    affine: np.ndarray | None = None,
) -> tuple[Path, Path]:
    """Draw two visits as two pictures of identical layout, to be shown in turn.

    Parameters
    ----------
    first, second : (I, J, K) ndarray of float
        The visit before and this visit; each has its own window.
    out_first, out_second : Path
        PNGs to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the windows and the crop.
    labels : tuple of str
        Titles of the two pictures.
    focus : (I, J, K) ndarray of bool, optional
        Slices with most of this mask (candidates) are shown; else they are evenly spread.
    affine : (4, 4) ndarray, optional
        As in `mosaic`.

    Returns
    -------
    tuple of Path
    """
    check_shapes(brain_mask, first, second, *(() if focus is None else (focus,)))
    rows = layout(brain_mask, ((2, 3, 5), (0, 1, 4)), focus)
    box = bounding_box(brain_mask)
    cells, size = place(rows, box)
    for image, out, label in ((first, out_first, labels[0]), (second, out_second, labels[1])):
        figure, axes, _ = new_sheet(montage(scale(image, brain_mask), cells, size, box), label)
        letters(axes, cells, affine)
        save(figure, out)
    return out_first, out_second


def _crops(volume: np.ndarray, centre: tuple[int, int, int]) -> list[np.ndarray]:
    """Cut an axial, a coronal and a sagittal square around ``centre``; zeros off the grid."""
    half = CROP_MM // 2
    block = np.zeros((CROP_MM,) * 3, np.float32)
    source, target = [], []
    for middle, size in zip(centre, volume.shape, strict=True):
        start, stop = max(0, middle - half), min(size, middle - half + CROP_MM)
        source.append(slice(start, stop))
        target.append(slice(start - middle + half, stop - middle + half))
    block[tuple(target)] = volume[tuple(source)]
    return [plane(block, Slice(axis, half)) for axis in (2, 1, 0)]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float, np.number)) else float('nan')


def _caption(row: Mapping[str, Any] | None, number: int, volume_mm3: int) -> str:
    """Title of one candidate; position in mm where the table has it."""
    text = f'Candidate {number}: {volume_mm3} mm³'
    if row is None:
        return text
    for space, name in (('individual', 'individual'), ('mni', 'MNI')):
        values = [_number(row.get(f'{axis}_{space}_mm')) for axis in 'xyz']
        if np.isfinite(values).all():
            places = ', '.join(f'{a} {v:+.0f}' for a, v in zip('xyz', values, strict=True))
            text += f'   {name} space {places} mm'
    return text


def _panel(
    volumes: tuple[np.ndarray, np.ndarray], labels: np.ndarray, shown: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Put the crops of the candidates side by side; return the picture and the outlines."""
    from scipy.ndimage import find_objects

    boxes = find_objects(labels.astype(np.int32))
    step, pair = CROP_MM + CAPTION_VOXELS, 2 * CROP_MM + GAP
    width = 3 * pair + 2 * PLANE_GAP
    canvas = np.zeros((max(len(shown), 1) * step, width), np.float32)
    lines = np.zeros_like(canvas)
    for row, number in enumerate(shown):
        i, j, k = ((part.start + part.stop - 1) // 2 for part in boxes[number - 1])
        below = slice(row * step + CAPTION_VOXELS, (row + 1) * step)
        before, now, numbers = (_crops(volume, (i, j, k)) for volume in (*volumes, labels))
        for column in range(3):
            left = column * (pair + PLANE_GAP)
            right = left + CROP_MM + GAP
            canvas[below, left : left + CROP_MM] = before[column]
            canvas[below, right : right + CROP_MM] = now[column]
            lines[below, right : right + CROP_MM] = numbers[column] == number
    return canvas, lines


def _label_row(axes: Axes, top: float, text: str, names: tuple[str, str]) -> None:
    """Write the title of a candidate, the visit of each picture and its sides."""
    planes = (('axial', 'RL'), ('coronal', 'RL'), ('sagittal', 'AP'))
    top += CAPTION_VOXELS
    for column, (title, sides) in enumerate(planes):
        for half in (0, 1):
            left = column * (2 * CROP_MM + GAP + PLANE_GAP) + half * (CROP_MM + GAP) + 1
            middle, bottom = top + CROP_MM / 2, top + CROP_MM - 1.5
            write(axes, left, middle, sides[0], va='center')
            write(axes, left + CROP_MM - 3, middle, sides[1], va='center', ha='right')
            write(axes, left, bottom, f'{title}, {names[half]}', va='bottom')
    write(axes, 0.5, top - 1.5, text, va='bottom', fontsize=11, weight='bold')


def candidates_panel(
    previous: np.ndarray,
    current: np.ndarray,
    labels: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    table: Sequence[Mapping[str, Any]] = (),
    max_rows: int = 8,
    names: tuple[str, str] = ('before', 'now'),
) -> Path:
    """Draw the largest candidates: three planes, before and now, 60 mm wide.

    Parameters
    ----------
    previous, current : (I, J, K) ndarray of float
        The FLAIR of the visit before and of this one, intensity-matched: both are drawn in
        the window of ``current``.
    labels : (I, J, K) ndarray of int
        Candidate number, 0 outside; drawn as a thin outline on the current visit only.
    out : Path
        PNG to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the window.
    table : sequence of mapping
        Rows of the changes table; their positions go into the titles.
    max_rows : int
        Candidates shown, largest first.
    names : tuple of str
        Names of the two visits.

    Returns
    -------
    Path
    """
    check_shapes(brain_mask, previous, current, labels)
    counts = np.bincount(labels.astype(np.int64).ravel())
    order = [int(n) for n in np.argsort(-counts, kind='stable') if n > 0 and counts[n] > 0]
    shown = order[:max_rows]
    volumes = (
        scale(previous, brain_mask, like=current),
        scale(current, brain_mask),
    )
    canvas, lines = _panel(volumes, labels, shown)
    title = f'Candidates since the visit before: {len(shown)} of {len(order)}, largest first'
    note = f'Pairs: {names[0]} | {names[1]} (outlined). Not confirmed lesions'
    figure, axes, _ = new_sheet(canvas, title, note)
    outline(axes, lines, CANDIDATE_COLOUR, width=0.9)
    rows = {int(row['candidate']): row for row in table}
    for place_in_panel, number in enumerate(shown):
        text = _caption(rows.get(number), number, int(counts[number]))
        _label_row(axes, place_in_panel * (CROP_MM + CAPTION_VOXELS), text, names)
    if not shown:
        middle = canvas.shape[1] / 2, canvas.shape[0] / 2
        axes.text(*middle, 'No candidate was found.', color=INK, ha='center', fontsize=16)
    return save(figure, out)
