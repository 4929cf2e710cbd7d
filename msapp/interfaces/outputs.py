"""Nodes that write into the output folder: images with sidecars, transforms, tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
from nipype.interfaces.base import File, traits

from msapp.files import atomic_path, write_atomic
from msapp.interfaces.base import InterfaceInputSpec, NodeInterface, TraitedSpec, load
from msapp.provenance import sha256_file

# In a sink's own folder: the SHA-256 of each file that it wrote; copying may change their times.
WRITTEN = 'written.sha256'


class SinkInput(InterfaceInputSpec):
    """What every node that writes into the output folder takes."""

    # Hashed, though what is written does not depend on it: with one work folder for two output
    # folders a sink that wrote last into the other one must write again. It also runs again where
    # its file is gone, or is another work folder's (`is_own`).
    output_dir = traits.Str(mandatory=True)
    # Else nipype would hash the file, where msapp is called in the output folder.
    name = traits.Str(mandatory=True, hash_files=False, desc='path below output_dir')
    others = traits.List(
        traits.Str(), [], usedefault=True, hash_files=False, desc='what is written beside it'
    )


class SinkOutput(TraitedSpec):
    """The file that was written, and a note on it."""

    out_file = traits.Str()
    written = File(desc='else nipype would remove it')


class Sink(NodeInterface):
    """A node that writes into the output folder, and remembers what it wrote."""

    def _run_interface(self, runtime: Any) -> Any:
        runtime = super()._run_interface(runtime)
        note = Path(runtime.cwd) / WRITTEN
        names = (self.inputs.name, *self.inputs.others)
        write_atomic(note, _hashes([Path(self.inputs.output_dir) / name for name in names]))
        self._results['written'] = str(note)
        return runtime


def is_own(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether files in the output folder are those that a sink wrote.

    Parameters
    ----------
    folder : Path
        Of the sink, in the work folder.
    files : sequence of Path
        All of its files, in its own order.
    """
    try:
        return (folder / WRITTEN).read_text(encoding='utf-8') == _hashes(files)
    except (OSError, UnicodeDecodeError):
        return False


def _hashes(files: Sequence[Path]) -> str:
    return '\n'.join(sha256_file(file) for file in files)


class _SaveFileInput(SinkInput):
    in_file = File(exists=True, mandatory=True)
    metadata = traits.Dict(desc='the JSON sidecar')


class _SaveImageInput(_SaveFileInput):
    found = traits.Dict({}, usedefault=True, desc='more of the sidecar, known once steps have run')


class SaveImage(Sink):
    """Write an image, compressed, and its JSON sidecar, each in one step."""

    input_spec, output_spec = _SaveImageInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        target = Path(self.inputs.output_dir) / self.inputs.name
        with atomic_path(target) as temporary:
            nib.save(load(self.inputs.in_file), temporary)
        sidecar = target.with_name(target.name.removesuffix('.nii.gz') + '.json')
        metadata = {**self.inputs.metadata, **self.inputs.found}
        write_atomic(sidecar, json.dumps(metadata, indent=2) + '\n')
        return {'out_file': str(target)}


class SaveTransform(Sink):
    """Copy a transform and write its JSON sidecar."""

    input_spec, output_spec = _SaveFileInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        target = Path(self.inputs.output_dir) / self.inputs.name
        with atomic_path(target) as temporary:
            shutil.copyfile(self.inputs.in_file, temporary)
        write_atomic(target.with_suffix('.json'), json.dumps(self.inputs.metadata, indent=2) + '\n')
        return {'out_file': str(target)}


class _SaveTableInput(SinkInput):
    kind = traits.Enum(
        'lesions',
        'changes',
        'candidates',
        'newlesions',
        'selfcheck',
        'tracks',
        'dissemination',
        mandatory=True,
    )
    rows = traits.List(traits.Dict(), mandatory=True)
    common = traits.Dict(mandatory=True, desc='columns that all rows share')
    columns = traits.List(traits.Str(), desc='a table with others is written anew')


class SaveTable(Sink):
    """Write a table of any number of rows with its data dictionary."""

    input_spec, output_spec = _SaveTableInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.stats import tables

        dictionary = tables.TABLES[self.inputs.kind]
        target = Path(self.inputs.output_dir) / self.inputs.name
        unknown = dict.fromkeys(dictionary)
        rows = [{**unknown, **self.inputs.common, **row} for row in self.inputs.rows]
        tables.write_table(target, rows, dictionary)
        return {'out_file': str(target)}


class _SaveInstancesInput(SinkInput):
    rows = traits.List(traits.Dict(), mandatory=True)


class SaveLookup(Sink):
    """Write the lookup table that BIDS wants beside a ``dseg`` image."""

    input_spec, output_spec = _SaveInstancesInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        target = Path(self.inputs.output_dir) / self.inputs.name
        words = {'lesion': 'lesion', 'candidate': 'candidate', 'new_lesion': 'new lesion'}
        lines = ['index\tname']
        for row in self.inputs.rows:
            key = next(key for key in words if key in row)
            lines.append(f'{row[key]}\t{words[key]} {row[key]}')
        write_atomic(target, '\n'.join(lines) + '\n')
        return {'out_file': str(target)}


class _SaveNamesInput(SinkInput):
    names = traits.List(traits.Str(), mandatory=True, desc='by index, from 0')


class SaveNames(Sink):
    """Write the lookup table of a ``dseg`` image whose classes are always the same."""

    input_spec, output_spec = _SaveNamesInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        target = Path(self.inputs.output_dir) / self.inputs.name
        lines = [
            'index\tname',
            *(f'{index}\t{name}' for index, name in enumerate(self.inputs.names)),
        ]
        write_atomic(target, '\n'.join(lines) + '\n')
        return {'out_file': str(target)}


class _SaveSummaryInput(SinkInput):
    common = traits.Dict(mandatory=True, desc='columns known before anything ran')
    columns = traits.List(traits.Str(), desc='a table with others is written anew')
    brain = traits.Dict()
    extraction = traits.Dict()
    noise = traits.Dict()
    lesions = traits.Dict()
    changes = traits.Dict()
    candidates = traits.Dict()
    new_lesions = traits.Dict()
    alignment_T1w = traits.Dict()  # noqa: N815 (BIDS names of contrasts)
    alignment_T2w = traits.Dict()  # noqa: N815
    alignment_ceT1w = traits.Dict()  # noqa: N815


MEASURES = (
    'brain',
    'extraction',
    'noise',
    'lesions',
    'changes',
    'candidates',
    'new_lesions',
    'alignment_T1w',
    'alignment_T2w',
    'alignment_ceT1w',
)


class SaveSummary(Sink):
    """Write one visit's numbers; what no node measured is ``n/a``."""

    input_spec, output_spec = _SaveSummaryInput, SinkOutput

    def run_function(self, folder: Path) -> dict[str, Any]:
        """See the class."""
        from msapp.stats.columns import VISITS
        from msapp.stats.tables import write_table

        row: dict[str, Any] = dict.fromkeys(VISITS)
        row |= self.inputs.common
        for name in MEASURES:
            row |= getattr(self.inputs, name) or {}
        target = Path(self.inputs.output_dir) / self.inputs.name
        write_table(target, [row], VISITS)
        return {'out_file': str(target)}
