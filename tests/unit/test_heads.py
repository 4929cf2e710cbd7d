"""Label maps of heads: labels, zones, the fluid within the brain mask."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from msapp.errors import InputError
from msapp.synthesis import heads
from msapp.synthesis.heads import (
    NAMES,
    TISSUES,
    ZONE_OF_TISSUE,
    ZONES,
    Head,
    inner_csf,
    prepare_heads,
    tissues_of_labels,
)
from msapp.synthesis.lesion_bank import AFFINE, SHAPE, LesionBank, LoadSettings

SPACING = (1.0, 1.0, 1.0)


def test_no_label_belongs_to_two_tissues():
    labels = [label for _, _, numbers in TISSUES.values() for label in numbers]
    assert len(labels) == len(set(labels))


def test_both_sides_get_one_tissue():
    left, right = tissues_of_labels(np.array([2, 3, 17])), tissues_of_labels(np.array([41, 42, 53]))
    assert left.tolist() == right.tolist()
    assert [NAMES[i] for i in left] == ['white_matter', 'cortex', 'hippocampus']


def test_a_stretched_map_gives_the_tissues_of_the_plain_one():
    plain = np.array([0, 2, 41, 24, 515, 516, 530, 164])
    stretched = np.rint(plain * 4095 / 516).astype(int)
    assert tissues_of_labels(stretched).tolist() == tissues_of_labels(plain).tolist()


def test_an_unknown_label_is_named():
    with pytest.raises(InputError, match=r'labels \[99\] are unknown'):
        tissues_of_labels(np.array([0, 2, 99]))


def test_fluid_in_a_narrow_gap_is_within_the_brain_and_fluid_outside_is_not():
    tissues = np.zeros((40, 40, 40), np.uint8)
    tissues[5:35, 5:35, 5:35] = NAMES.index('csf')
    tissues[10:30, 10:30, 10:30] = NAMES.index('cortex')
    tissues[19:22, 10:30, 20:30] = NAMES.index('csf')  # a sulcus 3 mm wide
    split = inner_csf(tissues, SPACING)
    assert (split[19:22, 12:28, 22:28] == NAMES.index('csf')).all()
    assert (split[6, 10:30, 10:30] == NAMES.index('outer_csf')).all()
    assert ZONE_OF_TISSUE[NAMES.index('outer_csf')] == ZONES.index('background')
    assert (split == NAMES.index('cortex')).sum() == (tissues == NAMES.index('cortex')).sum()


def test_what_brain_encloses_is_brain():
    tissues = np.zeros((30, 30, 30), np.uint8)
    tissues[3:27, 3:27, 3:27] = NAMES.index('white_matter')
    tissues[14, 14, 14] = NAMES.index('bone')
    assert inner_csf(tissues, SPACING)[14, 14, 14] == NAMES.index('csf')


def test_a_head_is_read_back_as_it_was(tmp_path):
    tissues = np.random.default_rng(0).integers(0, len(NAMES), (4, 5, 6)).astype(np.uint8)
    head = Head('one', tissues, np.diag([1.0, 1, 1, 1]), np.eye(4) * 2, 'a map')
    head.save(tmp_path / 'one.npz')
    again = Head.load(tmp_path / 'one.npz')
    assert (again.name, again.source) == ('one', 'a map')
    assert (again.tissues == tissues).all()
    assert (again.to_mni == head.to_mni).all()


def test_an_empty_folder_of_heads_is_named(tmp_path):
    with pytest.raises(InputError, match='no label maps'):
        list(prepare_heads(tmp_path, tmp_path / 'cache'))


def test_a_label_map_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    def read(path):
        reads.append(path.name)
        return replace(early, source=heads.source_of(path))

    reads = []
    monkeypatch.setattr(heads, 'read_head', read)
    cache, path = tmp_path / 'cache', tmp_path / 'one.nii.gz'
    early = Head('one', np.ones((2, 2, 2), np.uint8), np.eye(4), np.eye(4))
    early.save(cache / 'one.npz')  # of an earlier version, from nobody knows what
    path.write_bytes(b'a map')
    for expected in (1, 1):
        assert list(prepare_heads(tmp_path, cache)) == [cache / 'one.npz']
        assert len(reads) == expected
    path.write_bytes(b'an edited map')
    list(prepare_heads(tmp_path, cache))
    assert len(reads) == 2
    monkeypatch.setattr(heads, 'PREPARATION', heads.PREPARATION + 1)
    list(prepare_heads(tmp_path, cache))
    assert len(reads) == 3


@pytest.fixture
def bank():
    mask = np.zeros(SHAPE, bool)
    mask[60:66, 100:106, 80:86] = True
    line = np.array([[90 + i, 110, 90] for i in range(5)], np.int16)
    return LesionBank([mask], [line])


def test_banks_of_the_same_lesions_have_one_digest():
    mask, line = np.zeros(SHAPE, bool), np.array([[90, 110, 90]])
    pairs = [(mask, line), (mask.copy(), line.copy()), (~mask, line), (mask, line + 1)]
    first, again, *others = (LesionBank([a], [b]).digest() for a, b in pairs)
    assert first == again
    assert len({first, *others}) == 3


def draw(bank, seed=0, **settings):
    given = {'none': 0, 'patient': 1, 'second': 0, 'thinned': 0, 'singles': 0, 'shift_mm': 0}
    return bank.draw(np.random.default_rng(seed), LoadSettings(**given | settings))


def test_a_patient_is_drawn_whole_or_mirrored(bank):
    sides = {tuple(np.argwhere(draw(bank, seed)).min(axis=0)) for seed in range(20)}
    assert sides == {(60, 100, 80), (SHAPE[0] - 65, 100, 80)}
    assert draw(bank).sum() == 6**3


def test_the_share_without_lesions_is_kept(bank):
    empty = [not draw(bank, seed, none=0.3).any() for seed in range(400)]
    assert 0.23 < np.mean(empty) < 0.37


def test_single_components_keep_their_size(bank):
    sizes = {int(draw(bank, seed, patient=0, singles=0.01).sum()) for seed in range(10)}
    assert sizes <= {5, 10}


def test_a_shift_stays_within_its_limit(bank):
    corners = np.array([np.argwhere(draw(bank, s, shift_mm=4)).min(axis=0) for s in range(60)])
    assert np.abs(corners[:, 1] - 100).max() <= 4
    assert np.abs(corners[:, 1] - 100).max() >= 3


def test_single_components_are_mirrored_about_the_middle():
    right = np.array([[131, 120, 100]])
    found = {
        tuple(
            np.argwhere(draw(LesionBank([], [right]), seed, patient=0, singles=0))[0] + [-91, 0, 0]
        )
        for seed in range(20)
    }
    assert found == {(40, 120, 100), (-40, 120, 100)}


def bank_of(folder, lesions, affine):
    (folder / 'ljubljana').mkdir()
    nib.save(nib.Nifti1Image(lesions, affine), folder / 'ljubljana' / 'a_label-L_mask.nii.gz')
    np.savez(
        folder / 'csim_components.npz',
        shape=SHAPE,
        affine=AFFINE,
        coords=np.zeros((4, 3), int),
        starts=[0, 4],
    )
    return LesionBank.read(folder)


@pytest.mark.parametrize('side', [1, 2])
def test_small_lesions_of_patients_are_neither_lost_nor_shrunken(tmp_path, side):
    lesions = np.zeros(SHAPE, np.uint8)
    corners = np.stack(np.meshgrid(*[np.arange(50, 130, 9)] * 3), axis=-1).reshape(-1, 3)
    for corner in corners:
        lesions[tuple(slice(start, start + side) for start in corner)] = 1
    mask = draw(bank_of(tmp_path, lesions, AFFINE))
    assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == len(corners)
    # 1.14 * 1.15 * 1.25 is 1.64; regular places do not even out.
    assert 1.5 * lesions.sum() < mask.sum() < 2 * lesions.sum()


def test_a_patients_lesions_grow_from_a_rigid_to_the_size_of_mni(tmp_path):
    affine = np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = 90, -126, -72
    centre, radius = np.array([-30.0, 20, 25]), 9.0
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1)
    world = nib.affines.apply_affine(affine, voxels)
    ball = (np.linalg.norm(world - centre, axis=-1) <= radius).astype(np.uint8)
    bank = bank_of(tmp_path, ball, affine)
    mask = next(found for found in (draw(bank, seed) for seed in range(9)) if found[:91].any())
    assert mask.sum() == pytest.approx(1.14 * 1.15 * 1.25 * ball.sum(), rel=0.02)
    found = nib.affines.apply_affine(AFFINE, np.argwhere(mask)).mean(axis=0)
    np.testing.assert_allclose(found, centre * [1.14, 1.15, 1.25], atol=0.2)


def test_patients_that_are_left_out_are_not_read(real_data):
    folder = real_data / 'lesion-priors'
    assert len(LesionBank.read(folder)) == 29
    assert len(LesionBank.read(folder, leave_out=('pat07', 'pat19'))) == 27
