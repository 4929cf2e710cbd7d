"""What the template of a participant's report reads: figures and tables that are on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from msapp.errors import InputError
from msapp.reports.html import png_data_uri
from msapp.reports.panels import WORDINGS
from msapp.stats.columns import Columns
from msapp.stats.tables import read_table

CAPTIONS = {
    'lesions': 'Look for lesions without an outline, and for outlines on normal bright tissue '
    '(septum, choroid plexus, cortex, flow artefacts). Distrust the volumes where the brain '
    'mask or the alignment below is wrong.',
    'uncertainty': 'Outlines by the entropy of the sampled probability. Look first at unsure '
    'lesions and at doubtful tissue, where errors are most frequent; a surer lesion may be false '
    'as well.',
    'brain': 'The outline should follow the surface of the brain. Distrust volumes and lesions '
    'where it cuts into the brain or takes in eyes, dura or neck.',
    'zones': 'The outlines should follow ventricles, cortex and deep grey matter. Distrust volumes '
    'of zones, and where a lesion is said to lie, where they do not.',
    'alignment': 'Sulci and ventricles should run on across the tiles, and edges should lie on '
    'the borders of the anatomy. Distrust everything that uses this contrast where both step '
    'aside by more than a voxel.',
    'mosaic': 'Look for motion (ghosts, blur), missing slices, strong shading and clipped '
    'anatomy. Lesions cannot be trusted where you could not see them yourself.',
    'before': 'Lesions that appear or grow blink; anatomy that stands still is well aligned. '
    'Distrust the candidates where the whole head moves or its brightness jumps.',
    'changemap': 'Lesions outlined by what became of them, on this visit; resolved ones where the '
    'visit before shows them. Believe a change only if you see it where both visits '
    'alternate, under "Before and after" below.',
    'newlesions': 'Each pair shows the visit before and this one in the same window, aligned. '
    'Believe a new lesion only if it is bright now and was not before, and if its surroundings '
    'agree. One that touches old lesions is part of theirs (merged, enlarged), and not among '
    'these: look at the largest new or enlarged places, too.',
    'timeline': 'Lesions and their volume at each visit. Where one visit stands out, look at its '
    'image quality and its outlines first.',
    'visits': 'Tiles alternate between the visits: structures should run on across them. '
    'Distrust the candidates near any step.',
    'detected': 'Each pair shows the visit before and this one in the same window, aligned. '
    'Believe a place only if it is bright now and was not before, and if its surroundings agree.',
    'selfcheck': 'None of these lesions is real. They should look like lesions of this patient: '
    'where they are easier to see, so they are to find, and the shares above are too high.',
    'detectedmosaic': 'All new or enlarged places on this visit. Many of them along the cortex '
    'or the ventricles point to misalignment or another scanner, not to new lesions.',
    'candidates': 'Each pair shows the visit before and this one in the same window. Believe a '
    'candidate only if the pictures differ inside the outline and agree around it.',
    'candidatemosaic': 'All candidates on this visit. Many candidates along the cortex or the '
    'ventricles point to misalignment or atrophy, not to new lesions.',
}


@dataclass(frozen=True)
class FigureView:
    """One figure of the page; ``uri`` is None where the file was not made."""

    name: str
    title: str
    caption: str
    uri: str | None


@dataclass(frozen=True)
class TableView:
    """One table of the page; ``problem`` says why there are no rows to show."""

    columns: Columns
    names: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    problem: str | None


@dataclass(frozen=True)
class Files:
    """Names of the files of one visit; without session, of a participant."""

    output_dir: Path
    participant: str
    session: str | None

    @property
    def stem(self) -> str:
        """What names begin with."""
        return f'{self.participant}_{self.session}' if self.session else self.participant

    def figure(self, description: str, contrast: str, title: str) -> FigureView:
        """Read one figure; ``ceT1w`` is the post-contrast T1w."""
        middle = f'desc-{description}_{contrast}'
        if contrast == 'ceT1w':
            middle = f'ce-gadolinium_desc-{description}_T1w'
        name = f'{self.stem}_{middle}.png'
        uri = png_data_uri(self.output_dir / self.participant / 'figures' / name)
        return FigureView(name, title, CAPTIONS.get(description, ''), uri)

    def panel(self, description: str, title: str, number: int) -> FigureView:
        """Read the panel of a number of regions; the caption says how many of them it shows."""
        view = self.figure(description, 'FLAIR', title)
        shown = min(number, WORDINGS[description].most)
        counted = f'{shown} of {number} shown, largest first. ' if number else ''
        return replace(view, caption=counted + view.caption)

    def viewer(self) -> str | None:
        """Read the page of the viewer, if there is one."""
        folder = self.output_dir / self.participant / 'figures'
        for contrast in ('FLAIR', 'T1w'):
            try:
                path = folder / f'{self.stem}_desc-viewer_{contrast}.html'
                return path.read_text(encoding='utf-8')
            except (OSError, UnicodeDecodeError):
                continue
        return None

    def table(
        self, description: str, columns: Columns, names: tuple[str, ...], counted: Any = None
    ) -> TableView:
        """Read one table of the visit; a missing or broken one becomes a sentence.

        One of which the visit's summary says NaN in place of what it ``counted`` is of an earlier
        run.
        """
        if counted is not None and pd.isna(counted):
            return TableView(columns, names, (), 'Not measured by the last run.')
        folder = self.output_dir / self.participant / (self.session or '') / 'anat'
        return self._read(folder / f'{self.stem}_desc-{description}_stats.tsv', columns, names)

    def participant_table(self, description: str, columns: Columns) -> TableView:
        """Read one table that is of no visit."""
        name = f'{self.participant}_desc-{description}_stats.tsv'
        names = tuple(name for name in columns if name != 'participant_id')
        return self._read(self.output_dir / self.participant / name, columns, names)

    def _read(self, path: Path, columns: Columns, names: tuple[str, ...]) -> TableView:
        if not path.exists():
            return TableView(columns, names, (), f'Not made: {path.name}.')
        try:
            frame = read_table(path)
        except InputError as error:
            return TableView(columns, names, (), f'{error} Run msapp again for this participant.')
        absent = [name for name in names if name not in frame.columns]
        if absent:
            return TableView(
                columns, names, (), f'{path.name}: columns {", ".join(absent)} are missing.'
            )
        return TableView(columns, names, tuple(_records(frame)), None)


def common_note(table: TableView, state: str) -> str | None:
    """Return the note of all rows, if they have but one and all are of this state; else None."""
    notes = {row['note'] for row in table.rows}
    same = len(notes) == 1 and {row['state'] for row in table.rows} == {state}
    return notes.pop() if same else None


def either(files: Files, description: str, reference: str, title: str) -> FigureView:
    """Read a figure on FLAIR or T1w: the expected contrast first, then the other one."""
    expected = files.figure(description, reference, title)
    other = files.figure(description, 'T1w' if reference == 'FLAIR' else 'FLAIR', title)
    return other if expected.uri is None and other.uri is not None else expected


def present(files: Files, description: str, expected: Sequence[str], verb: str) -> list[FigureView]:
    """Read a figure of every contrast; an absent one counts only where it was expected."""
    names = {'ceT1w': 'post-contrast T1w'}
    views = {
        contrast: files.figure(description, contrast, verb.format(names.get(contrast, contrast)))
        for contrast in ('FLAIR', 'T1w', 'T2w', 'ceT1w')
    }
    return [view for name, view in views.items() if view.uri is not None or name in expected]


def if_made(files: Files, description: str, reference: str, title: str) -> list[FigureView]:
    """Read a figure that only some runs make."""
    view = either(files, description, reference, title)
    return [view] if view.uri is not None else []


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict('records')]
