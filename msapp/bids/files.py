"""The images of a participant: found by listing folders, told apart by their names.

The folders of a dataset are listed one by one rather than indexed by pybids, which reads labels
off the whole path: images of ``ses-1_b`` would count as those of ``ses-1``, those of a folder
within ``anat`` as the visit's own, a dataset below a folder ``func`` would seem to hold nothing,
and a link to a parent folder would be followed without end. Names are still taken apart by pybids.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msapp.bids.checks import LABEL, check_session_label, printable
from msapp.errors import InputError, UsageError

# Keys of --bids-filter-file, with and without the underscore that other apps use.
FILTER_KEYS = {'flair': 'FLAIR', 't1w': 'T1w', 't2w': 'T2w', 'cet1w': 'ceT1w', 't1w_ce': 'ceT1w'}
EXTENSIONS = ('.nii', '.nii.gz')
SUFFIXES = {suffix.lower(): suffix for suffix in ('FLAIR', 'T1w', 'T2w')}
# What looks like an image of use here, though its name may be wrong.
LIKE_AN_IMAGE = re.compile(rf'.*({"|".join(SUFFIXES)}).*\.nii', re.IGNORECASE)
# A name that is wrong about participant, session or case alone: these two, if it has them, then
# other entities, suffix, extension.
WRONG_STEM = re.compile(
    r'(?:(sub[^_]*[-0-9][^_]*)_)?(?:(ses[^_]*[-0-9][^_]*)_)?((?:(?!sub|ses)[a-z]+-[a-z0-9+]+_)*)'
    rf'({"|".join(SUFFIXES)})(\.nii(?:\.gz)?)',
    re.IGNORECASE,
)
LIKE_A_PARTICIPANT = re.compile(r'sub(?![A-Za-z0-9])', re.IGNORECASE)
LIKE_A_SESSION = re.compile(r'ses(?![A-Za-z0-9])', re.IGNORECASE)


@dataclass(frozen=True)
class ImageFile:
    """An image and the entities of its name, by pybids' names (``acquisition``, ``run``)."""

    path: Path
    entities: Mapping[str, Any]


def list_folder(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted; nothing where it is missing or no folder.

    Raises
    ------
    InputError
        If it may not be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(
            f'{printable(str(folder))}: cannot be read ({error.strerror}). Change its permissions, '
            'or copy it again.'
        ) from error


def misnamed_participants(bids_dir: Path) -> dict[str, str]:
    """Return what looks like a participant but is no ``sub-*`` folder, with the reason."""
    found = {}
    for path in list_folder(bids_dir):
        name = printable(path.name)
        if not path.is_dir():
            if path.name.startswith('sub-') and LABEL.fullmatch(path.name.removeprefix('sub-')):
                found[name] = f'{name}: is no folder (a broken link?). Fetch it, or remove it.'
        elif LIKE_A_PARTICIPANT.match(path.name) and not path.name.startswith('sub-'):
            inside = [entry.name for entry in list_folder(path)]
            if any(entry == 'anat' or entry.startswith('ses-') for entry in inside):
                found[name] = (
                    f'{name}: the name of a participant\'s folder begins with "sub-". Rename the '
                    'folder and its files.'
                )
    return found


def list_sessions(folder: Path) -> tuple[list[str], list[str]]:
    """Return the labels (``ses-1``) of a participant's sessions, and why others are not used."""
    labels, left_out = [], []
    for path in list_folder(folder):
        name = printable(path.name)
        if not path.is_dir():
            if path.name.startswith('ses-') and LABEL.fullmatch(path.name.removeprefix('ses-')):
                left_out.append(f'{name}: is no folder (a broken link?). Fetch it, or remove it.')
        elif path.name.startswith('ses-'):
            try:
                check_session_label(path.name)
                labels.append(path.name)
            except InputError as error:
                left_out.append(str(error))
        elif LIKE_A_SESSION.match(path.name) and (path / 'anat').is_dir():
            left_out.append(
                f'{name}: not used, for the name of a session\'s folder begins with "ses-". Rename '
                'the folder and its files.'
            )
    return labels, left_out


def list_images(
    bids_dir: Path, participant: str, session: str | None
) -> tuple[list[ImageFile], list[str]]:
    """List the images of a visit's ``anat`` folder.

    Parameters
    ----------
    bids_dir : Path
    participant, session : str
        Labels with their prefixes; no session where the participant has none.

    Returns
    -------
    images : list of ImageFile
        Those whose names fit their folder, sorted; they need not be readable.
    left_out : list of str
        Sentences about files that look like images but have other names.
    """
    from bids.layout import parse_file_entities

    folder = Path(participant, session or '', 'anat')
    stem = '_'.join(filter(None, (participant, session)))
    fits = re.compile(rf'{stem}(?:_[A-Za-z]+-[A-Za-z0-9+]+)*_([A-Za-z0-9]+)\.nii(?:\.gz)?')
    known = _bids_entities().values()
    images, left_out = [], []
    paths = list_folder(bids_dir / folder)
    taken = {path.name for path in paths}
    for path in paths:
        name = fits.fullmatch(path.name)
        if name and SUFFIXES.get(name[1].lower(), name[1]) == name[1]:
            # With the folders from the dataset down alone: those above say nothing of the image.
            place = f'/{folder.as_posix()}/{path.name}'
            images.append(ImageFile(path, parse_file_entities(place, entities=known)))
        elif LIKE_AN_IMAGE.match(path.name) and not path.name.startswith('.'):
            left_out.append(
                f'{printable(path.name)}: not used, for its name is none that BIDS gives an image '
                f'in {folder.as_posix()}. {_rename_advice(path.name, stem, taken)}'
            )
    return images, left_out


def _rename_advice(name: str, stem: str, taken: set[str]) -> str:
    """Say how to rename an image; one name is given once, and never that of another file.

    Where it has another participant or session, or more than these and the case is wrong, what is
    in the file may be something else.
    """
    if parts := WRONG_STEM.fullmatch(name):
        participant, session, entities, suffix, extension = parts.groups()
        right = f'{stem}_{entities}{SUFFIXES[suffix.lower()]}{extension.lower()}'
        if right not in taken:
            taken.add(right)
            own = stem.split('_')
            known = [_plain(label) for label in own]
            others = [
                printable(label)
                for label in (participant, session)
                if label and _plain(label) not in known
            ]
            doubt = f', if it is an image of {" ".join(own)}, not of {" ".join(others)}'
            return f'Rename it, as {right}{doubt if others else ""}.'
    kind = SUFFIXES[LIKE_AN_IMAGE.match(name)[1].lower()]  # type: ignore[index]
    extension = '.nii.gz' if name.lower().endswith('.gz') else '.nii'
    return f'Rename it if it is a {kind} image, as {stem}[_acq-LABEL][_ce-LABEL]_{kind}{extension}.'


def _plain(label: str) -> str:
    """Return a label without what is often written wrongly: its case and its hyphen."""
    return label.casefold().replace('-', '')


@functools.cache
def _bids_entities() -> Mapping[str, Any]:
    """Return pybids' entities by name; making them takes longer than listing a folder."""
    from bids.layout.models import Config

    entities: Mapping[str, Any] = Config.load('bids').entities
    return entities


def read_filters(path: Path | None) -> dict[str, dict[str, Any]]:
    """Read ``--bids-filter-file``: contrast to the entities its image must have.

    Raises
    ------
    UsageError
        If the file is not JSON of that form.
    """
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f'{path}: cannot be read as JSON ({error}).') from error
    filters = {}
    for key, entities in content.items() if isinstance(content, dict) else [(str(content), 0)]:
        if key.lower() not in FILTER_KEYS or not isinstance(entities, dict):
            raise UsageError(
                f'{path}: "{printable(key)}" is not a contrast with entities. An example: '
                '{"flair": {"acquisition": "3D"}, "t1w": {"run": 2}}; '
                f'contrasts are {", ".join(sorted(FILTER_KEYS))}.'
            )
        for name, value in entities.items():
            _check_filter(path, name, value)
        filters[FILTER_KEYS[key.lower()]] = entities
    return filters


def _check_filter(path: Path, name: str, value: object) -> None:
    """Refuse entities that are not known and values that no name can have."""
    if name not in _bids_entities():
        raise UsageError(
            f'{path}: --bids-filter-file: "{printable(name)}" is no entity. Entities have their '
            'long names: acquisition, run, reconstruction, ...'
        )
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | None) for item in items):
        raise UsageError(
            f'{path}: --bids-filter-file: the value of "{name}" must be a text, a whole number, '
            'null (the entity is absent) or a list of these.'
        )


def passes(entities: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Tell whether an image's entities are those a filter asks for.

    Examples
    --------
    >>> passes({'run': 2, 'acquisition': '3D'}, {'run': ['1', '02'], 'echo': None})
    True
    """
    return all(_passes(entities.get(name), value) for name, value in filters.items())


def _passes(found: object, wanted: object) -> bool:
    """Compare one entity with a value or with several; an empty list asks for nothing."""
    options = wanted if isinstance(wanted, list) else [wanted]
    return not options or any(_equals(found, option) for option in options)


def _equals(found: object, option: object) -> bool:
    """Compare numbers as numbers, texts as texts, extensions with and without their dot."""
    if found is None or option is None:
        return found is option
    if isinstance(found, int):
        return str(option).isdecimal() and int(str(option)) == found
    return str(found).lstrip('.') == str(option).lstrip('.')
