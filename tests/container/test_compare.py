"""The comparison of two output folders finds what differs, and nothing else."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

_spec = importlib.util.spec_from_file_location('compare', Path(__file__).with_name('compare.py'))
compare = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compare)

IMAGE = 'sub-01/anat/sub-01_label-L_mask.nii.gz'
TABLE = 'sub-01/anat/sub-01_desc-lesions_stats.tsv'


def write_image(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(
        nib.Nifti1Image(data.astype(np.float32), np.eye(4) if affine is None else affine), path
    )


@pytest.fixture
def folders(tmp_path):
    """Return two equal output folders."""
    first, second = tmp_path / 'host', tmp_path / 'container'
    write_image(first / IMAGE, np.arange(24).reshape(2, 3, 4))
    (first / TABLE).write_text('lesion\tvolume_ml\n1\t0.25\n2\tn/a\n')
    (first / 'sub-01.html').write_text('report')
    shutil.copytree(first, second)
    return first, second


def test_equal_folders_agree(folders, capsys):
    assert compare.main([str(folder) for folder in folders]) == 0
    assert capsys.readouterr().out == '3 files, 1 images, tolerance 0.001: no difference\n'


@pytest.mark.parametrize('side', [0, 1])
def test_a_missing_file_is_found(folders, side):
    (folders[side] / 'sub-01.html').unlink()
    assert list(compare.differences(*folders)) == [f'sub-01.html: only in {folders[1 - side]}']


def test_a_changed_voxel_is_found(folders):
    data = np.arange(24).reshape(2, 3, 4)
    data[1, 2, 3] += 1
    write_image(folders[1] / IMAGE, data)
    assert list(compare.differences(*folders)) == [
        f'{IMAGE}: 1 voxels differ, most at (1, 2, 3): 23 and 24'
    ]
    assert compare.main([str(folder) for folder in folders]) == 1


def test_a_difference_within_the_tolerance_is_none(folders):
    write_image(folders[1] / IMAGE, np.arange(24).reshape(2, 3, 4) + 5e-4)
    assert list(compare.differences(*folders)) == []
    assert list(compare.differences(*folders, tolerance=1e-4)) != []


def test_a_voxel_that_is_no_number_is_found(folders):
    data = np.arange(24.0).reshape(2, 3, 4)
    data[0, 0, 0] = np.nan
    write_image(folders[1] / IMAGE, data)
    assert list(compare.differences(*folders)) == [f'{IMAGE}: not finite in different voxels']


def test_another_grid_is_found(folders):
    write_image(folders[1] / IMAGE, np.arange(24).reshape(2, 3, 4), np.diag([1, 1, 1.1, 1]))
    assert list(compare.differences(*folders)) == [f'{IMAGE}: different affines']
    write_image(folders[1] / IMAGE, np.zeros((2, 3, 5)))
    assert list(compare.differences(*folders)) == [f'{IMAGE}: shape (2, 3, 4) and (2, 3, 5)']


def test_a_changed_number_in_a_table_is_found(folders):
    (folders[1] / TABLE).write_text('lesion\tvolume_ml\n1\t0.5\n2\tn/a\n')
    (found,) = compare.differences(*folders)
    assert found.startswith(f'{TABLE}: ')
    assert 'volume_ml' in found


def test_run_records_and_work_files_do_not_count(folders):
    for name in ('logs/run/summary.tsv', 'work/node/result.nii.gz'):
        (folders[0] / name).parent.mkdir(parents=True)
        (folders[0] / name).write_text('only here')
    assert list(compare.differences(*folders)) == []


def test_nothing_compared_is_no_success(tmp_path):
    for name in ('host', 'container'):
        (tmp_path / name).mkdir()
    assert compare.main([str(tmp_path / 'host'), str(tmp_path / 'container')]) == 1


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder'):
        compare.list_files(tmp_path / 'nowhere')
