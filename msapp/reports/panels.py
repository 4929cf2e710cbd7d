"""The panel of the report that shows regions of a visit beside the visit before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from msapp.reports.canvas import (
    CANDIDATE_COLOUR,
    GAP,
    INK,
    NEW_COLOUR,
    Slice,
    check_shapes,
    new_sheet,
    outline,
    plane,
    save_sheets,
    scale,
    write,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CROP_MM = 60  # side of a region's picture
CAPTION_VOXELS = 9  # room above each row of the panel
PLANE_GAP = 2 * GAP  # between the three planes of a row
ROWS = 8  # of one sheet
# Regions shown of what each must be looked at: five sheets.
MOST_NEW = 40


@dataclass(frozen=True)
class Wording:
    """What a panel of regions says of them, and how many it shows.

    Attributes
    ----------
    word : str
        What stands before the number of each.
    key : str
        Column of the table that holds the number.
    title, note, none : str
        Title and second line of the panel, and what it says where there are no regions.
    colour : str
        Of the outlines.
    most : int
        Regions shown, largest first.
    """

    word: str
    key: str
    title: str
    note: str
    none: str
    colour: str
    most: int = ROWS


CANDIDATES = Wording(
    word='Candidate',
    key='candidate',
    title='Candidates since the visit before',
    note='Not confirmed lesions',
    none='No candidate was found.',
    colour=CANDIDATE_COLOUR,
)
DETECTED = Wording(
    word='Place',
    key='new_lesion',
    title='New or enlarged places since the visit before',
    note='By a network; not read by anyone',
    none='The network found nothing new.',
    colour=NEW_COLOUR,
    most=MOST_NEW,
)
PAINTED = Wording(
    word='Painted lesion',
    key='painted',
    title='Self-check: lesions painted into this visit',
    note='None of them is real',
    none='There was no room to paint a lesion.',
    colour=CANDIDATE_COLOUR,
)
NEW_LESIONS = Wording(
    word='New lesion',
    key='identifier',
    title='New lesions since the visit before',
    note='From automatic segmentations',
    none='No new lesion was found.',
    colour=NEW_COLOUR,
    most=MOST_NEW,
)
# By the description in the name of the figure.
WORDINGS = {
    'candidates': CANDIDATES,
    'detected': DETECTED,
    'selfcheck': PAINTED,
    'newlesions': NEW_LESIONS,
}


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


def _caption(word: str, row: Mapping[str, Any] | None, number: int, volume_mm3: int) -> str:
    """Title of one region; position in mm where the table has it."""
    text = f'{word} {number}: {volume_mm3} mm³'
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
    """Put the crops of the regions side by side; return the picture and the outlines."""
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
    """Write the title of a region, the visit of each picture and its sides."""
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


def _sheet(
    volumes: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    captions: Mapping[int, str],
    *,
    title: str,
    wording: Wording,
    names: tuple[str, str],
) -> Figure:
    """Draw the regions that have a caption, in its order, on a sheet of their own."""
    canvas, lines = _panel(volumes, labels, list(captions))
    note = f'Pairs: {names[0]} | {names[1]} (outlined). {wording.note}'
    figure, axes, _ = new_sheet(canvas, title, note)
    outline(axes, lines, wording.colour, width=0.9)
    for row, caption in enumerate(captions.values()):
        _label_row(axes, row * (CROP_MM + CAPTION_VOXELS), caption, names)
    if not captions:
        middle = canvas.shape[1] / 2, canvas.shape[0] / 2
        axes.text(*middle, wording.none, color=INK, ha='center', fontsize=16)
    return figure


def _parts(count: int, most: int) -> Iterator[tuple[slice, str]]:
    """Divide regions into sheets: the places of each, and which of all they are, in words.

    Examples
    --------
    >>> [words for _, words in _parts(9, 40)], [words for _, words in _parts(0, 40)]
    (['1 to 8 of 9, largest first', '9 of 9, largest first'], ['none'])
    """
    shown = min(count, most)
    for start in range(0, max(shown, 1), ROWS):
        stop = min(start + ROWS, shown)
        first = f'{start + 1} to ' if stop > start + 1 else ''
        which = f'{first}{stop} of {count}, largest first' if count else 'none'
        yield slice(start, stop), which


def regions_panel(
    previous: np.ndarray,
    current: np.ndarray,
    labels: np.ndarray,
    out: Path,
    *,
    brain_mask: np.ndarray,
    wording: Wording = CANDIDATES,
    table: Sequence[Mapping[str, Any]] = (),
    names: tuple[str, str] = ('before', 'now'),
) -> Path:
    """Draw the largest regions: three planes, before and now, 60 mm wide.

    They come on sheets of `ROWS`, one below the other in one picture.

    Parameters
    ----------
    previous, current : (I, J, K) ndarray of float
        The FLAIR of the visit before and of this one, white matter scaled alike: both are drawn
        in the window of ``current``.
    labels : (I, J, K) ndarray of int
        Number of the region, 0 outside; drawn as a thin outline on the current visit only.
    out : Path
        PNG to write.
    brain_mask : (I, J, K) ndarray of bool
        Sets the window.
    wording : Wording
        What the regions are, and how many are shown.
    table : sequence of mapping
        Rows with the number, under ``wording.key``, and the position, which goes into the titles.
    names : tuple of str
        Names of the two visits.

    Returns
    -------
    Path
    """
    check_shapes(brain_mask, previous, current, labels)
    counts = np.bincount(labels.astype(np.int64).ravel())
    order = [int(n) for n in np.argsort(-counts, kind='stable') if n > 0 and counts[n] > 0]
    rows = {int(row[wording.key]): row for row in table}
    volumes = (scale(previous, brain_mask, like=current), scale(current, brain_mask))
    sheets = (
        _sheet(
            volumes,
            labels,
            {n: _caption(wording.word, rows.get(n), n, int(counts[n])) for n in order[part]},
            title=f'{wording.title}: {which}',
            wording=wording,
            names=names,
        )
        for part, which in _parts(len(order), wording.most)
    )
    return save_sheets(sheets, out)
