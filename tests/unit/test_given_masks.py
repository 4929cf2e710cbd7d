"""Which brain masks of --derivatives are used, and which are not and why."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from msapp.bids.query import Participant, Visit, find_given_masks, plan_participants
from msapp.errors import UsageError
from msapp.settings import Settings

MASK = 'sub-01/anat/sub-01_desc-brain_mask.nii.gz'


def put(root: Path, name: str, shift_mm: float = 0.0) -> Path:
    """Write a small image; masks and FLAIR share a grid unless shifted."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(0).integers(1, 99, (8, 8, 8)).astype(np.uint8)
    affine = np.diag([10.0, 10, 10, 1])
    affine[2, 3] = shift_mm
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def roots(tmp_path) -> list[Path]:
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    return [tmp_path / 'a', tmp_path / 'b']


@pytest.fixture
def of_visit(tmp_path):
    def make(session: str | None, contrast: str = 'FLAIR') -> Participant:
        return Participant('sub-01', (Visit(session, {contrast: put(tmp_path, 'x.nii.gz')}),))

    return make


def plan(root: Path, derivatives: list[Path]) -> Participant:
    put(root, 'data/sub-01/anat/sub-01_FLAIR.nii.gz')
    values = {'bids_dir': root / 'data', 'output_dir': root / 'out', 'levels': ('participant',)}
    (participant,) = plan_participants(Settings(**values, derivatives=derivatives))
    return participant


def test_the_first_dataset_with_a_mask_counts(roots, of_visit):
    second = put(roots[1], 'sub-01/ses-1/anat/sub-01_ses-1_desc-brain_mask.nii.gz')
    participants = [of_visit('ses-1')]
    assert find_given_masks(participants, roots) == {('sub-01', 'ses-1'): second}
    first = put(roots[0], 'sub-01/ses-1/anat/sub-01_ses-1_space-FLAIR_desc-brain_mask.nii.gz')
    assert find_given_masks(participants, roots) == {('sub-01', 'ses-1'): first}


def test_a_mask_that_names_its_space_may_have_another_grid(roots, of_visit):
    mask = put(roots[0], 'sub-01/anat/sub-01_space-orig_desc-brain_mask.nii.gz', shift_mm=12)
    assert find_given_masks([of_visit(None)], roots) == {('sub-01', None): mask}


@pytest.mark.parametrize(('contrast', 'count'), [('FLAIR', 0), ('T1w', 1)])
def test_a_mask_in_the_space_of_the_reference_contrast_only(roots, of_visit, contrast, count):
    put(roots[0], 'sub-01/anat/sub-01_space-T1w_desc-brain_mask.nii.gz')
    assert len(find_given_masks([of_visit(None, contrast)], roots)) == count


def test_masks_in_other_spaces_or_of_other_visits_are_not_taken(roots, of_visit):
    put(roots[0], 'sub-01/ses-1/anat/sub-01_ses-1_space-MNI_desc-brain_mask.nii.gz')
    put(roots[0], 'sub-01/ses-2/anat/sub-01_ses-2_desc-brain_mask.nii.gz')
    assert find_given_masks([of_visit('ses-1')], roots) == {}


def test_a_mask_without_a_space_needs_the_grid_of_the_reference(roots, tmp_path):
    """As fMRIPrep names the mask of the T1w, which may lie elsewhere than the FLAIR."""
    put(roots[0], MASK, shift_mm=12)
    participant = plan(tmp_path, roots)
    assert find_given_masks([participant], roots) == {}
    first, second = participant.visits[0].left_out
    assert first.startswith('sub-01_desc-brain_mask.nii.gz: not used, for it names no space')
    assert first.endswith('name it sub-01_space-FLAIR_desc-brain_mask.nii.gz.')
    assert second.startswith('Brain mask: none of --derivatives fits')
    mask = put(roots[1], MASK)
    participant = plan(tmp_path, roots)
    assert find_given_masks([participant], roots) == {('sub-01', None): mask}
    assert participant.visits[0].left_out == (first,)


def test_a_mask_that_has_a_qform_alone_is_on_the_grid_of_its_image(roots, tmp_path):
    """Towards left and posterior a little oblique, a qform in 32 bits is off by 0.34 mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler('xyz', (7, -1, 0), degrees=True).as_matrix()
    affine = affine @ np.diag([-10.0, -10, 10, 1])
    image = nib.Nifti1Image(np.ones((18, 26, 26), np.uint8), affine)
    image.set_qform(affine)
    flair, mask = tmp_path / 'x.nii.gz', roots[0] / MASK
    mask.parent.mkdir(parents=True)
    nib.save(image, flair)
    image.set_sform(None)
    nib.save(image, mask)
    participant = Participant('sub-01', (Visit(None, {'FLAIR': flair}),))
    assert find_given_masks([participant], roots) == {('sub-01', None): mask}


def test_a_mask_that_has_an_sform_half_a_millimetre_off_is_not_that_of_the_image(roots, tmp_path):
    put(roots[0], MASK, shift_mm=0.3)
    (visit,) = plan(tmp_path, roots).visits
    assert visit.left_out[0].startswith('sub-01_desc-brain_mask.nii.gz: not used, for it names no')


def test_a_visit_without_a_mask_says_so_where_masks_are_given(roots, tmp_path):
    (visit,) = plan(tmp_path, roots).visits
    assert visit.left_out == (
        'Brain mask: none of --derivatives fits; the brain is found in sub-01_FLAIR.nii.gz.',
    )
    (visit,) = plan(tmp_path, []).visits
    assert visit.left_out == ()


@pytest.mark.parametrize('name', [MASK, MASK.replace('_desc', '_space-orig_desc')])
def test_a_broken_link_is_named(roots, tmp_path, name):
    path = roots[0] / name
    path.parent.mkdir(parents=True)
    path.symlink_to('/no/such')
    put(roots[1], MASK)
    assert plan(tmp_path, roots).error == (
        'sub-01 brain mask of --derivatives: the file does not exist (a broken link?). '
        f'Fetch it first. File: {path}'
    )


def two_volumes(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 2), np.uint8), np.diag([10.0, 10, 10, 1])), path)


def empty(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([10.0, 10, 10, 1])), path)


def cut(path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 255, (32, 32, 32), np.uint8)
    nib.save(nib.Nifti1Image(data, np.diag([2.5, 2.5, 2.5, 1])), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def move(path: Path) -> None:
    put(path.parent, path.name, shift_mm=400)


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (two_volumes, 'the mask has 8 x 8 x 8 x 2 voxels; one 3-D volume is needed.'),
        (empty, 'the mask is empty: no voxel is above 0.'),
        (cut, 'the file is cut short or damaged'),
        (move, 'the mask lies outside the image it is for'),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_when_planning(roots, tmp_path, spoil, told):
    path = put(roots[0], MASK.replace('_desc', '_space-orig_desc'))
    assert plan(tmp_path, roots).error is None
    spoil(path)
    error = plan(tmp_path, roots).error
    assert error.startswith(f'sub-01 brain mask of --derivatives: {told}')
    assert error.endswith(f'File: {path}')


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r'--derivatives .*none: no such folder'):
        find_given_masks([], [tmp_path / 'none'])
    with pytest.raises(UsageError, match=r'--derivatives .*none: no such folder'):
        plan(tmp_path, [tmp_path / 'none'])
