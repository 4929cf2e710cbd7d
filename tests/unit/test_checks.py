"""Every message of the input checks, provoked by a real broken file or folder."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msapp.bids.checks import check_folders, check_image, check_label
from msapp.errors import InputError, UsageError
from msapp.settings import Settings

# Where fields of the NIfTI-1 header begin, bytes.
DIM, DATATYPE, PIXDIM, CODES, SROW_X = 40, 70, 80, 252, 280


@pytest.fixture
def voxels() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 100, (10, 10, 10)).astype(np.float32)


def save(path: Path, data: np.ndarray, voxel_mm: float = 10.0) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])), path)
    return path


def edit(path: Path, at: int, layout: str, *values: float) -> Path:
    """Overwrite bytes of a compressed image's header."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into('<' + layout, raw, at, *values)
    path.write_bytes(gzip.compress(bytes(raw)))
    return path


@pytest.fixture
def image(tmp_path, voxels) -> Path:
    return save(tmp_path / 'image.nii.gz', voxels)


def refuse(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check_image(path)
    assert caught.value.exit_code == 65


class TestImages:
    def test_a_sound_image_is_read_whole(self, image, voxels):
        assert np.array_equal(check_image(image).get_fdata(), voxels)

    @pytest.mark.parametrize('name', ['image.nii', 'image.nii.gz'])
    @pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.float32, np.float64])
    def test_any_real_type_is_read(self, tmp_path, voxels, name, dtype):
        checked = check_image(save(tmp_path / name, voxels.astype(dtype)))
        assert np.array_equal(checked.get_fdata(), voxels.astype(dtype))

    def test_a_single_volume_loses_its_fourth_axis(self, tmp_path, voxels):
        checked = check_image(save(tmp_path / 'a.nii.gz', voxels[..., None]))
        assert checked.shape == (10, 10, 10)
        assert np.array_equal(checked.get_fdata(), voxels)

    def test_a_single_volume_loses_all_its_trailing_axes(self, tmp_path, voxels):
        assert check_image(save(tmp_path / 'a.nii.gz', voxels[..., None, None])).ndim == 3

    def test_several_volumes(self, tmp_path, voxels):
        path = save(tmp_path / 'a.nii.gz', np.stack([voxels] * 3, axis=-1))
        refuse(path, '3 volumes found, one is needed.*--bids-filter-file, or average')

    def test_several_volumes_along_the_fifth_axis(self, tmp_path, voxels):
        path = save(tmp_path / 'a.nii.gz', np.stack([voxels[..., None]] * 3, axis=-1))
        refuse(path, '3 volumes found')

    def test_no_volume(self, tmp_path):
        refuse(save(tmp_path / 'a.nii.gz', np.zeros((10, 10, 10, 0), np.float32)), 'volume|empty')

    @pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, tmp_path, voxels, value):
        voxels[0, 0, :2] = value
        path = save(tmp_path / 'a.nii.gz', voxels)
        refuse(path, '^2 voxels are NaN or infinite. Replace them .with 0 outside the head')

    def test_a_voxel_size_that_is_not_finite(self, image):
        edit(image, PIXDIM, 'fff', np.nan, 10, 10)
        refuse(image, r'voxel size is nan x 10 x 10 mm; each must be above 0.*mend the header')

    def test_a_voxel_size_of_zero_that_leaves_no_brain(self, image):
        edit(edit(image, PIXDIM, 'fff', 0, 10, 10), CODES, 'hh', 0, 0)
        refuse(image, r'voxel size is 0 x 10 x 10 mm; each must be above 0.*mend the header')

    def test_a_voxel_size_of_zero_is_never_taken_for_one_millimetre(self, tmp_path):
        large = np.random.default_rng(0).integers(1, 9, (64, 64, 64)).astype(np.uint8)
        image = edit(save(tmp_path / 'a.nii.gz', large, 3.0), PIXDIM, 'fff', 0, 0, 0)
        refuse(edit(image, CODES, 'hh', 0, 0), 'voxel size is 0 x 0 x 0 mm')

    def test_a_field_of_view_that_is_no_brain(self, tmp_path, voxels):
        path = save(tmp_path / 'a.nii.gz', voxels, 1.0)
        refuse(path, 'field of view is 10 x 10 x 10 mm; a brain needs 60 to 1000 mm. Check the')

    def test_a_field_of_view_in_the_wrong_unit(self, tmp_path, voxels):
        refuse(save(tmp_path / 'a.nii.gz', voxels, 10000.0), '100000 x 100000 x 100000 mm')

    @pytest.mark.parametrize('length', [8, 7])
    def test_too_few_voxels(self, tmp_path, voxels, length):
        path = save(tmp_path / 'a.nii.gz', voxels[:, :, :length])
        if length == 8:
            assert check_image(path).shape == (10, 10, 8)
        else:
            refuse(path, '10 x 10 x 7 voxels; at least 8 are needed along each axis.*localizer')

    def test_a_single_slice(self, tmp_path, voxels):
        refuse(save(tmp_path / 'a.nii.gz', voxels[0]), 'has 10 x 10 voxels.*single slice')

    @pytest.mark.parametrize('row', [(0, 0, 0, 0), (np.nan, 0, 0, 0), (0, 10, 0, 0)])
    def test_an_orientation_that_cannot_be_inverted(self, image, row):
        edit(image, SROW_X, 'ffff', *row)
        refuse(image, r'orientation in the header \(qform, sform\) is broken.*anew from DICOM')

    @pytest.mark.parametrize('value', [0, 5, -3])
    def test_an_image_with_nothing_in_it(self, tmp_path, voxels, value):
        path = save(tmp_path / 'a.nii.gz', np.full_like(voxels, value))
        refuse(path, 'the image is empty: all voxels are equal or not above 0')

    def test_an_image_of_z_scores(self, tmp_path, voxels):
        scores = ((voxels - voxels.mean()) / voxels.std()).astype(np.float32)
        refuse(save(tmp_path / 'a.nii.gz', scores), '48 % of the voxels are below 0.*Give the')

    def test_the_ringing_of_an_interpolation_is_allowed(self, tmp_path, voxels):
        ringing = np.where(voxels < 50, -0.01 * voxels.max(), voxels).astype(np.float32)
        assert check_image(save(tmp_path / 'a.nii.gz', ringing)).shape == ringing.shape

    def test_an_image_without_positive_values(self, tmp_path, voxels):
        refuse(save(tmp_path / 'a.nii.gz', -voxels), 'all voxels are equal or not above 0')

    def test_complex_values(self, tmp_path, voxels):
        path = save(tmp_path / 'a.nii.gz', voxels.astype(np.complex64))
        refuse(path, 'voxels of type complex64 cannot be used; one real number is needed')

    def test_colours(self, tmp_path):
        colours = np.zeros((10, 10, 10), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
        refuse(save(tmp_path / 'a.nii.gz', colours), 'voxels of type .* cannot be used')

    def test_a_file_that_is_not_there(self, tmp_path):
        link = tmp_path / 'link.nii.gz'
        link.symlink_to(tmp_path / 'gone.nii.gz')
        for path in (tmp_path / 'none.nii.gz', link):
            refuse(path, 'does not exist .a broken link.*Fetch it first')

    @pytest.mark.parametrize(
        'kept',
        [
            400,
            2000,
            pytest.param(
                -1,
            ),
        ],
    )
    def test_a_compressed_file_that_was_cut(self, image, kept):
        image.write_bytes(image.read_bytes()[:kept])
        refuse(image, 'cut short or damaged.*Copy or convert it again|Convert it again')

    def test_a_file_that_was_cut(self, tmp_path, voxels):
        path = save(tmp_path / 'a.nii', voxels)
        path.write_bytes(path.read_bytes()[:1000])
        refuse(path, 'cut short or damaged. Copy or convert it again')

    def test_a_damaged_voxel_in_a_compressed_file(self, tmp_path, voxels):
        whole = save(tmp_path / 'a.nii', voxels.astype(np.uint8)).read_bytes()
        damaged = bytearray(gzip.compress(whole, compresslevel=0))
        damaged[-100] ^= 0x01
        path = tmp_path / 'a.nii.gz'
        path.write_bytes(bytes(damaged))
        refuse(path, 'cut short or damaged.*Copy or convert it again')

    @pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
    @pytest.mark.parametrize('content', [b'', b'version https://git-lfs.github.com/spec/v1\n'])
    def test_a_file_that_is_no_image(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        refuse(tmp_path / name, 'not a readable NIfTI image .*Convert it again')

    def test_a_folder_with_the_name_of_an_image(self, tmp_path):
        (tmp_path / 'a.nii.gz').mkdir()
        refuse(tmp_path / 'a.nii.gz', 'not a readable NIfTI image')

    def test_a_type_code_that_does_not_exist(self, image):
        refuse(edit(image, DATATYPE, 'h', 77), 'not a readable NIfTI image .*Convert it again')

    def test_a_header_that_asks_for_more_than_the_file_holds(self, image):
        refuse(edit(image, DIM, 'hhhh', 3, 10, 10, 20), 'cut short or damaged')

    @pytest.mark.parametrize(
        'shape',
        [
            pytest.param(
                (3, 32767, 32767, 32767),
            ),
            pytest.param(
                (7, *(32767,) * 7),
            ),
        ],
    )
    def test_a_header_that_asks_for_more_than_there_can_be(self, image, shape):
        layout = 'h' * len(shape)
        refuse(edit(image, DIM, layout, *shape), 'damaged|volumes found|not a readable')

    def test_a_file_that_may_not_be_read(self, image, monkeypatch):
        def deny(*_args, **_kwargs):
            raise PermissionError(13, 'Permission denied')

        monkeypatch.setattr(nib, 'load', deny)
        refuse(image, 'may not be read. Change its permissions')


class TestLabels:
    @pytest.mark.parametrize('label', ['sub-01', 'sub-A1b2', 'sub-control001'])
    def test_letters_and_digits(self, label):
        check_label(label)

    @pytest.mark.parametrize('label', ['sub-a_b', 'sub-a b', 'sub-a!', 'sub-', 'sub-é'])
    def test_anything_else(self, label):
        with pytest.raises(InputError, match=r'only letters and digits.*Rename the') as caught:
            check_label(label)
        assert f'got "{label.removeprefix("sub-")}"' in str(caught.value)

    def test_a_line_break(self):
        with pytest.raises(InputError):
            check_label('sub-01\n')


class TestFolders:
    @pytest.fixture
    def dataset(self, tmp_path) -> Path:
        (tmp_path / 'data' / 'sub-01').mkdir(parents=True)
        return tmp_path / 'data'

    @staticmethod
    def settings(source: Path, target: Path, level='participant', **values) -> Settings:
        return Settings(bids_dir=source, output_dir=target, levels=(level,), **values)

    def refuse(self, settings: Settings, message: str) -> None:
        with pytest.raises(UsageError, match=message) as caught:
            check_folders(settings)
        assert caught.value.exit_code == 2

    def test_folders_are_made_and_nothing_is_left_in_them(self, dataset, tmp_path):
        output, work = tmp_path / 'new' / 'out', tmp_path / 'scratch'
        check_folders(self.settings(dataset, output, work_dir=work))
        assert list(output.iterdir()) == []
        assert list(work.iterdir()) == []
        assert [path.name for path in dataset.iterdir()] == ['sub-01']

    def test_no_input(self, tmp_path):
        settings = self.settings(tmp_path / 'none', tmp_path / 'out')
        self.refuse(settings, 'none: no such folder. Give the root of a BIDS dataset')
        assert not (tmp_path / 'out').exists()

    def test_an_input_without_participants(self, tmp_path):
        (tmp_path / 'data').mkdir()
        settings = self.settings(tmp_path / 'data', tmp_path / 'out')
        self.refuse(settings, r'holds no sub-\* folder.*holds dataset_description.json')

    def test_the_group_level_reads_no_participants_of_the_input(self, tmp_path):
        (tmp_path / 'data').mkdir()
        check_folders(self.settings(tmp_path / 'data', tmp_path / 'out', 'group'))

    def test_the_group_level_makes_no_folder(self, dataset, tmp_path):
        check_folders(self.settings(dataset, tmp_path / 'out', 'group'))
        assert not (tmp_path / 'out').exists()
        (tmp_path / 'out').mkdir()
        check_folders(self.settings(dataset, tmp_path / 'out', 'group'))
        assert list((tmp_path / 'out').iterdir()) == []

    @pytest.mark.parametrize('place', ['.', 'out', 'sub-01', 'code/derivatives', 'derivatives2'])
    def test_an_output_inside_the_input(self, dataset, place):
        settings = self.settings(dataset, dataset / place)
        self.refuse(settings, 'lies inside the input dataset. Choose a folder outside.*derivatives')

    def test_an_output_inside_the_input_by_a_detour(self, dataset, tmp_path):
        (tmp_path / 'link').symlink_to(dataset)
        for place in (tmp_path / 'link' / 'out', tmp_path / 'x' / '..' / 'data' / 'out'):
            self.refuse(self.settings(dataset, place), 'lies inside the input dataset')

    def test_derivatives_inside_the_input_are_allowed(self, dataset):
        check_folders(self.settings(dataset, dataset / 'derivatives' / 'msapp'))
        assert (dataset / 'derivatives' / 'msapp').is_dir()

    def test_a_work_folder_inside_the_input(self, dataset, tmp_path):
        settings = self.settings(dataset, tmp_path / 'out', work_dir=dataset / 'work')
        self.refuse(settings, 'lies inside the input dataset')

    @pytest.mark.parametrize('folder', ['output', 'work'])
    def test_a_folder_that_cannot_be_written(self, dataset, tmp_path, folder):
        (tmp_path / 'file').write_text('in the way')
        blocked, free = tmp_path / 'file' / 'x', tmp_path / 'out'
        settings = self.settings(
            dataset,
            blocked if folder == 'output' else free,
            work_dir=blocked if folder == 'work' else tmp_path / 'work',
        )
        self.refuse(settings, 'x: cannot be written .Not a directory.*bind it without ":ro"')

    def test_a_file_where_the_folder_should_be(self, dataset, tmp_path):
        (tmp_path / 'out').write_text('in the way')
        settings = self.settings(dataset, tmp_path / 'out')
        self.refuse(settings, 'cannot be written .*Choose another folder')
