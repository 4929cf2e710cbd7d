"""Facts about the hashes that decide whether a step runs again."""

from __future__ import annotations

import os
from importlib import metadata

import nibabel as nib
import numpy as np
import pytest
from nipype.interfaces.base import specs
from nipype.pipeline import engine as pe

from msapp import provenance
from msapp.engine.run import _each_file_hashed_once
from msapp.interfaces.imaging import CorrectBias
from msapp.interfaces.outputs import SaveTransform
from msapp.provenance import code_digest, programs_digest


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    path = tmp_path / 'image.nii'
    path.write_bytes(b'first')
    read = []
    plain = specs.hash_infile
    monkeypatch.setattr(specs, 'hash_infile', lambda file: read.append(file) or plain(file))
    with _each_file_hashed_once():
        assert specs.hash_infile(path) == specs.hash_infile(path) == plain(path)
    assert read == [path]


def test_a_changed_file_has_another_hash(tmp_path):
    path = tmp_path / 'image.nii'
    with _each_file_hashed_once():
        path.write_bytes(b'first')
        first = specs.hash_infile(path)
        path.write_bytes(b'other')
        os.utime(path, ns=(1, 1))
        assert specs.hash_infile(path) not in (None, first)


def test_a_file_that_is_gone_has_no_hash_and_nipype_is_left_as_it_was(tmp_path):
    plain = specs.hash_infile
    with _each_file_hashed_once():
        assert specs.hash_infile(tmp_path / 'none') is None
    assert specs.hash_infile is plain


def test_a_sink_writes_again_for_another_output_folder(tmp_path):
    """One work folder, two output folders: each gets what the last run into it asked for."""

    def write(folder, content):
        path = tmp_path / f'{content}.txt'
        if not path.exists():
            path.write_text(content, encoding='utf-8')
        node = pe.Node(
            SaveTransform(
                in_file=str(path), metadata={}, output_dir=str(tmp_path / folder), name='x.txt'
            ),
            name='sink',
            base_dir=str(tmp_path / 'work'),
        )
        node.run()
        return (tmp_path / folder / 'x.txt').read_text(encoding='utf-8')

    assert write('one', 'before') == 'before'
    assert write('two', 'after') == 'after'
    assert write('one', 'after') == 'after'


def test_a_step_runs_again_with_other_code(tmp_path):
    """Else a new version would take over the results of the old one, in the old work folder."""
    mask = tmp_path / 'mask.nii'
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), mask)
    hashes = [CorrectBias(in_file=str(mask)).inputs.get_hashval()[1] for _ in range(2)]
    hashes.append(CorrectBias(in_file=str(mask), code='other').inputs.get_hashval()[1])
    assert hashes[0] == hashes[1] != hashes[2]
    assert CorrectBias().inputs.code == programs_digest()


def test_the_digest_of_the_code_covers_workflows_and_models(tmp_path, monkeypatch):
    package = tmp_path / 'msapp'
    (tmp_path / 'models').mkdir()
    package.mkdir()
    (package / 'models').symlink_to('../models')
    monkeypatch.setattr(provenance, '__file__', str(package / 'provenance.py'))
    seen = set()
    for path in (package / 'a.py', package / 'models/b.py'):
        for content in ('x = 1', 'x = 2'):
            path.write_text(content, encoding='utf-8')
            code_digest.cache_clear()
            seen.add(code_digest())
    assert len(seen) == 4
    code_digest.cache_clear()


@pytest.mark.parametrize('library', ['antspyx', 'torch'])
def test_the_digest_of_a_step_changes_with_a_library(monkeypatch, library):
    """Else an upgrade in the same work folder would reuse all results under new versions."""
    before, read = programs_digest(), []
    plain = metadata.version

    def upgraded(name):
        read.append(name)
        return '99' if name == library else plain(name)

    monkeypatch.setattr(metadata, 'version', upgraded)
    assert programs_digest() == before
    assert not read, 'it is found once a process'
    programs_digest.cache_clear()
    assert programs_digest() != before
    programs_digest.cache_clear()
