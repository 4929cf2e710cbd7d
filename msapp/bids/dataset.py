"""The output as a BIDS derivative dataset: description, exceptions, sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from msapp import __version__
from msapp.bids.checks import printable
from msapp.errors import InputError, MissingDependencyError, UsageError
from msapp.files import write_atomic

BIDS_VERSION = '1.10.0'
DESCRIPTION = 'dataset_description.json'
# What BIDS has no name for; everything else must pass the validator.
IGNORED = (
    '*.html',
    'work',
    'logs',
    'figures',
    '.locks',
    '*_xfm.txt',
    '*_xfm.json',
    '*_stats.tsv',
    '*_stats.json',
)


def write_description(output_dir: Path, bids_dir: Path) -> None:
    """Write ``dataset_description.json`` and ``.bidsignore`` of the output.

    Raises
    ------
    UsageError
        If the folder holds the output of another program.
    """
    path = output_dir / DESCRIPTION
    # Only a description that can be read tells whose output it is.
    if (known := _read_json(path)) and not _is_of_msapp(known):
        raise UsageError(
            f'{output_dir}: holds the output of another program (see {DESCRIPTION}). '
            'Choose an empty folder.'
        )
    generated: dict[str, Any] = {
        'Name': 'msapp',
        'Version': __version__,
        'Description': 'BIDS App for multiple sclerosis MRI. Research use only.',
    }
    if os.environ.get('MSAPP_CONTAINER'):
        apptainer = os.environ.get('APPTAINER_CONTAINER') or os.environ.get('SINGULARITY_CONTAINER')
        generated['Container'] = {
            'Type': 'apptainer' if apptainer else 'docker',
            'Tag': os.environ['MSAPP_CONTAINER'],
        }
    source = _read_json(bids_dir / DESCRIPTION)
    description = {
        'Name': f'msapp: {_text(source, "Name", "multiple sclerosis MRI")}',
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'License': _text(source, 'License', 'unknown'),
        'GeneratedBy': [generated],
        'DatasetLinks': {'raw': bids_dir.resolve().as_uri()},
        'SourceDatasets': [{'URL': bids_dir.resolve().as_uri()}],
    }
    if description != known:
        write_atomic(path, json.dumps(description, indent=2) + '\n')
    write_atomic(output_dir / '.bidsignore', '\n'.join(IGNORED) + '\n')


def check_output(output_dir: Path) -> None:
    """Check that the participant level has written to a folder; nothing is made there.

    Raises
    ------
    InputError
        If it does not exist, or has no ``dataset_description.json`` of msapp.
    """
    if not _is_of_msapp(_read_json(output_dir / DESCRIPTION)):
        raise InputError(
            f'{output_dir}: no visit was processed yet. It holds no {DESCRIPTION} of msapp: '
            'check the name of the folder. Run msapp at participant level first.'
        )


def _is_of_msapp(description: dict[str, Any]) -> bool:
    generators = description.get('GeneratedBy')
    items = generators if isinstance(generators, list) else []
    return any(item.get('Name') == 'msapp' for item in items if isinstance(item, dict))


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; one that is missing or broken is empty."""
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(content: dict[str, Any], key: str, default: str) -> str:
    """Return a value that must be text and that UTF-8 can hold, else the default."""
    value = content.get(key)
    return printable(value) if isinstance(value, str) and value.strip() else default


def validate(bids_dir: Path) -> str:
    """Run the schema validator on a dataset.

    Returns
    -------
    str
        What it found wrong, in its words; empty where it found nothing.

    Raises
    ------
    MissingDependencyError
        If it is not installed, or cannot be run to its end.
    """
    # Beside the interpreter, where an environment has it without being activated, or on the PATH.
    places = [str(Path(sys.executable).parent), os.environ.get('PATH', os.defpath)]
    program = shutil.which('bids-validator-deno', path=os.pathsep.join(places))
    if program is None:
        raise MissingDependencyError(
            'the BIDS validator is not installed. Install it: pip install bids-validator-deno'
        )
    try:
        # Its cache would go to the home folder, which need not exist and is not ours to fill.
        with tempfile.TemporaryDirectory(prefix='msapp-') as cache:
            result = subprocess.run(
                [program, str(bids_dir), '--ignoreWarnings'],
                capture_output=True,
                text=True,
                errors='replace',
                timeout=300,
                check=False,
                env={**os.environ, 'NO_COLOR': '1', 'DENO_DIR': cache},
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingDependencyError(f'the BIDS validator did not end ({error})') from error
    return (result.stdout or result.stderr).strip() if result.returncode else ''


def uri(path: Path, bids_dir: Path, output_dir: Path) -> str:
    """Return the BIDS URI of a file of the input (``bids:raw:``) or the output (``bids::``).

    Examples
    --------
    >>> uri(Path('/in/sub-1/anat/a.nii'), Path('/in'), Path('/out'))
    'bids:raw:sub-1/anat/a.nii'
    """
    if path.is_relative_to(output_dir):
        return f'bids::{path.relative_to(output_dir).as_posix()}'
    if path.is_relative_to(bids_dir):
        return f'bids:raw:{path.relative_to(bids_dir).as_posix()}'
    return path.as_uri()
