"""The self-check of a detector of new lesions: what it is shown, and what is counted."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from msapp.imaging import geometry
from msapp.inference import newlesions
from msapp.interfaces.base import save, save_matrix
from msapp.interfaces.newlesions import CheckDetector
from msapp.synthesis.injection import CLEAR_MM, DIAMETERS_MM, EACH

SHAPE = (80, 80, 80)
# A lesion of both visits, and one that the later visit alone shows.
OLD, NEW = np.zeros((2, *SHAPE), bool)
OLD[4:10, 4:10, 4:10] = NEW[70:76, 4:10, 4:10] = True
PREVIOUS, CURRENT = 1 + 0.6 * OLD, 1 + 0.6 * (OLD | NEW)
ONES = np.ones(SHAPE, np.float32)
# Certain on a lattice alone: with fewer places to begin at, painting takes a second.
WHITE_MATTER = 0.8 * ONES
WHITE_MATTER[::3, ::3, ::3] = 1


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Check a network that marks what it is told to; a lesion at one visit is what is bright."""
    grid = nib.Nifti1Image(np.zeros(SHAPE, np.float32), np.eye(4))
    monkeypatch.setattr(geometry, 'individual_grid', lambda: grid)
    monkeypatch.setattr(
        newlesions,
        'predict_lesions',
        lambda images, *_, **__: (images['FLAIR'] > 1.1) * np.float32(0.9),
    )

    def run(network, **other):
        monkeypatch.setattr(
            newlesions, 'predict_new_lesions', lambda images, *_, **__: network(images)
        )
        maps = {'previous': PREVIOUS, 'current': CURRENT, 'scan': CURRENT, 'found': NEW}
        maps |= {'previous_brain': ONES, 'previous_white_matter': ONES * ~OLD}
        maps |= {'current_mask': ONES, 'current_white_matter': WHITE_MATTER * ~(OLD | NEW)} | other
        files = {
            name: save(array.astype(np.float32), grid, tmp_path / f'{name}.nii')
            for name, array in maps.items()
        }
        same = save_matrix(np.eye(4), tmp_path / 'same.txt')
        files |= dict.fromkeys(('previous_to_current', 'current_to_individual'), same)
        node = CheckDetector(model='newlesions', model_sha256='none', **files)
        return node.run_function(tmp_path)

    return run


def brightening(images):
    return (images['current'] - images['previous'] > 0.1) * np.float32(0.9)


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def test_a_network_that_sees_every_brightening_recovers_every_lesion(check):
    rows = check(brightening)['rows']
    assert [row['diameter_mm'] for row in rows] == list(DIAMETERS_MM)
    for row in rows:
        assert row['recovered_count'] == row['half_marked_count'] == row['injected_count'] == EACH
        assert row['recovered_fraction'] == 1


def test_a_blind_network_recovers_none(check):
    for row in check(lambda images: ONES * 0)['rows']:
        assert row['injected_count'] == EACH
        assert row['recovered_count'] == row['half_marked_count'] == 0
        assert row['recovered_fraction'] == row['marked_fraction'] == 0


def test_a_network_that_marks_what_was_new_already_recovers_none(check):
    assert {row['recovered_count'] for row in check(lambda _: NEW * ONES * 0.9)['rows']} == {0}


def test_the_network_is_shown_the_earlier_visit_and_the_later_one_with_painted_lesions(check):
    shown = []
    made = check(lambda images: shown.append(images) or brightening(images))
    (images,) = shown
    assert np.allclose(images['previous'], PREVIOUS, atol=0.01)
    assert (images['current'] == voxels(made['image'])).all()
    added = images['current'] - CURRENT
    assert added.max() > 0.3
    assert added.min() > -1e-3


def test_nothing_is_painted_beside_what_was_found_or_outside_white_matter_of_both_brains(check):
    found, brain, white = np.zeros(SHAPE, bool), ONES.copy(), WHITE_MATTER.copy()
    found[:30], brain[:, :20], white[..., 60:] = True, 0, 0
    made = check(brightening, found=found, previous_brain=brain, current_white_matter=white)
    examples = voxels(made['examples']) > 0
    assert examples.any()
    assert not examples[: 30 + int(CLEAR_MM)].any()
    assert not examples[:, :20].any()
    assert not examples[..., 60:].any()
