"""Report figures: slices of the individual space, drawn so that errors show at a glance.

All functions take arrays on the ``individual`` grid (1 mm isotropic, RAS axes, aligned with
MNI), write one PNG of 1400 px width and under 500 kB atomically, and draw in the radiological
convention, which the figure states.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msapp.lesions.change import CLASSES
from msapp.reports.canvas import (
    BRAIN_COLOUR,
    CANDIDATE_COLOUR,
    EDGE_COLOUR,
    LESION_COLOUR,
    NEW_COLOUR,
    Rows,
    bounding_box,
    check_shapes,
    layout,
    legend,
    letters,
    montage,
    new_sheet,
    outline,
    place,
    save,
    scale,
)
from msapp.reports.interactive import viewer

__all__ = [
    'BRAIN_COLOUR',
    'CANDIDATE_COLOUR',
    'CERTAINTY_STYLES',
    'CHANGE_COLOURS',
    'LESION_COLOUR',
    'NEW_COLOUR',
    'ZONE_COLOURS',
    'change_map',
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
# Of `msapp.lesions.change.CLASSES`; what asks for a look is drawn last, over the rest.
CHANGE_COLOURS = {
    'stable': '#c8ccd2',
    'unconfirmed': '#9d7bff',
    'merged': '#b3e06b',
    'split': '#ffe08a',
    'shrunken': '#4dd2ff',
    'enlarged': '#ffb000',
    'resolved': '#39d98a',
    'new': NEW_COLOUR,
}
# Changes without event: no slice is chosen for them while there are others.
QUIET_CHANGES = ('stable', 'unconfirmed')


def mosaic(
    image: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    contours: Sequence[Contour] = (),
    title: str,
    slices: Slices = 'brain',
    focus: np.ndarray | None = None,
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
    focus : (I, J, K) ndarray of bool, optional
        With ``'area'``: the mask that counts instead of those of ``contours``.
    affine : (4, 4) ndarray, optional
        Voxel to mm of the grid (diagonal); slices are then labelled in mm.

    Returns
    -------
    Path
        ``out``.
    """
    check_shapes(brain_mask, image, *(mask for mask, _, _ in contours))
    if slices == 'area' and contours and focus is None:
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


def change_map(
    image: np.ndarray,
    classes: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    title: str,
    affine: np.ndarray | None = None,
) -> Path:
    """Draw lesions outlined by what became of them since the visit before.

    Parameters
    ----------
    image : (I, J, K) ndarray of float
        FLAIR of the later visit.
    classes : (I, J, K) ndarray of int
        Of `msapp.lesions.change.Comparison`.
    out : Path
        PNG to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the window and the crop.
    title : str
    affine : (4, 4) ndarray, optional
        As in `mosaic`.

    Returns
    -------
    Path
    """
    contours = [
        (classes == CLASSES[name], colour, name)
        for name, colour in CHANGE_COLOURS.items()
        if (classes == CLASSES[name]).any()
    ]
    quiet = [CLASSES[name] for name in QUIET_CHANGES]
    events = (classes > 0) & ~np.isin(classes, quiet)
    return mosaic(
        image,
        out,
        brain_mask=brain_mask,
        contours=contours,
        title=title,
        slices='area',
        focus=events if events.any() else classes > 0,
        affine=affine,
    )


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
