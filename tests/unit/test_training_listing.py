"""Real patients of a recipe listed from a BIDS dataset with manual masks."""

from __future__ import annotations

import contextlib

import nibabel as nib
import numpy as np
import pytest

from msapp.errors import InputError, UsageError
from msapp.models.registry import load_spec
from msapp.models.spec import Channel, Named
from msapp.training import checkpoints
from msapp.training.checkpoints import check_origin, check_start, describe_origin
from msapp.training.listing import with_listed
from msapp.training.recipe import RealDataset, load_recipe

AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])
VISITS = ('sub-01/ses-1', 'sub-01/ses-2', 'sub-02')
WITH_T1W = 'sub-01/ses-1'


def stem(visit):
    return visit.replace('/', '_')


def write(path, values=None, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(20.0**3).reshape(20, 20, 20) if values is None else values
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)


def mask_of(data, visit, ending='_label-L_mask'):
    return data / 'study/derivatives/manual' / visit / 'anat' / f'{stem(visit)}{ending}.nii.gz'


@pytest.fixture
def data(tmp_path):
    """A dataset of three visits, one of them with T1w, with their masks."""
    for visit in VISITS:
        for contrast in ('FLAIR', 'T1w') if visit == WITH_T1W else ('FLAIR',):
            write(tmp_path / 'study' / visit / 'anat' / f'{stem(visit)}_{contrast}.nii.gz')
        write(mask_of(tmp_path, visit), np.eye(20)[None].repeat(20, 0))
    return tmp_path


def recipe(**changes):
    shipped = load_recipe('lesions')
    dataset = RealDataset(folder='study', masks='derivatives/manual', **changes)
    named = {'bids': dataset, 'real': (), 'folds': {'both': ('sub-01', 'sub-02')}}
    return shipped.model_copy(update={'data': shipped.data.model_copy(update=named)})


def test_each_visit_is_a_case_and_each_participant_a_fold(data):
    listed = with_listed(recipe(), data).data
    assert [case.name for case in listed.real] == ['sub-01', 'sub-01', 'sub-02']
    assert [sorted(case.images) for case in listed.real] == [['FLAIR', 'T1w'], ['FLAIR'], ['FLAIR']]
    for visit, case in zip(VISITS, listed.real, strict=True):
        assert case.images['FLAIR'] == f'study/{visit}/anat/{stem(visit)}_FLAIR.nii.gz'
        assert data / case.lesions == mask_of(data, visit)
    assert listed.folds == {
        'both': ('sub-01', 'sub-02'),
        'sub-01': ('sub-01',),
        'sub-02': ('sub-02',),
    }


def test_what_is_left_out_needs_no_mask_and_what_has_no_flair_is_no_case(data):
    mask_of(data, 'sub-01/ses-1').unlink()
    write(data / 'study/sub-03/anat/sub-03_T1w.nii.gz')
    write(data / 'study/sub-04/anat/sub-04_FLAIR.nii.gz', np.zeros((20, 20, 20)))
    listed = with_listed(recipe(leave_out=('sub-01_ses-1', 'sub-04')), data).data
    assert [case.name for case in listed.real] == ['sub-01', 'sub-02']


def test_patterns_choose_among_several_masks(data):
    write(mask_of(data, 'sub-02', '_desc-brain_mask'))
    with pytest.raises(InputError, match=r'sub-02: several masks \(sub-02_desc-brain_mask.nii.gz'):
        with_listed(recipe(), data)
    assert len(with_listed(recipe(mask_names='_label-L_mask.nii.gz'), data).data.real) == 3


def test_all_missing_masks_are_named_at_once(data):
    for visit in VISITS[1:]:
        mask_of(data, visit).unlink()
    with pytest.raises(InputError, match=r'manual: no mask of sub-01_ses-2, sub-02\. A mask is'):
        with_listed(recipe(), data)


def test_a_mask_of_another_grid_is_named(data):
    write(mask_of(data, 'sub-02'), np.zeros((20, 20, 10)))
    with pytest.raises(InputError, match=r'sub-02_label-L_mask.nii.gz: another grid than that of'):
        with_listed(recipe(), data)


def test_an_image_that_cannot_be_used_is_named(data):
    write(data / 'study/sub-02/anat/sub-02_FLAIR.nii.gz', np.zeros((20, 20, 20)))
    with pytest.raises(InputError, match=r'the image is empty.* name sub-02 in data\.bids\.leave'):
        with_listed(recipe(), data)


def test_a_wrong_folder_is_named(data):
    with pytest.raises(UsageError, match=r'data.bids: .*elsewhere/study: no such folder'):
        with_listed(recipe(), data / 'elsewhere')


def test_a_training_goes_on_only_with_the_preparation_that_it_began_with(tmp_path, monkeypatch):
    """The first of them was not named beside the checkpoint."""

    def check():
        check_origin(checkpoint, describe_origin(load_recipe('lesions'), None, None))

    checkpoint = tmp_path / 'last.ckpt'
    monkeypatch.setattr(checkpoints, 'PREPARATION', 1)
    check()
    assert 'preparation' not in (tmp_path / checkpoints.ORIGIN).read_text()
    checkpoint.touch()
    check()
    monkeypatch.setattr(checkpoints, 'PREPARATION', 2)
    with pytest.raises(UsageError, match=r'other settings .*"preparation": 2'):
        check()


def test_a_recipe_without_dataset_stays_and_its_trainings_go_on(data):
    """What is kept beside a checkpoint was written before recipes could name a dataset."""
    shipped = load_recipe('lesions')
    assert with_listed(shipped, data) is shipped
    assert '"bids"' not in describe_origin(shipped, None, None)
    assert 'sub-02_FLAIR' in describe_origin(with_listed(recipe(), data), None, None)


@pytest.mark.parametrize(
    ('task', 'changes', 'message'),
    [
        ('lesions', {}, None),
        ('lesions', {'channels': ('T1w', 'FLAIR')}, r'channels of this model: .*FLAIR.*T1w'),
        ('enhancement', {'channels': ('T1w', 'FLAIR')}, None),
        ('lesions', {'spacing_mm': (2.0, 2.0, 2.0)}, r'voxels, mm of this model: \(1.0, 1.0, 1.0'),
        ('enhancement', {'normalisation': 'head'}, 'scale of intensities of this model: white_'),
    ],
)
def test_what_is_started_from_must_mean_the_same_by_its_input(task, changes, message):
    start = load_spec('lesions')
    if 'channels' in changes:
        changes['channels'] = tuple(Channel(name=name) for name in changes['channels'])
    if 'normalisation' in changes:
        changes['normalisation'] = Named(name=changes['normalisation'])
    spec = start.model_copy(update={'task': task} | changes)
    refused = pytest.raises(UsageError, match=message) if message else contextlib.nullcontext()
    with refused:
        check_start(spec, start)
