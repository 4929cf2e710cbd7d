"""Facts about the midpoint space: it lies halfway, and no visit is favoured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from msapp.imaging import geometry, midpoint
from msapp.imaging.brain import load_template


def rigid(angles_degrees, shift_mm) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('xyz', angles_degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


MOTION = rigid((3, -4, 5), (4, -3, 5))
# What the match with MNI gets wrong, in opposite directions for the two visits.
WRONG = rigid((1, 2, -1), (1.0, -1.5, 2.0)) @ np.diag([1.03, 0.97, 1.02, 1.0])
MAPS = [
    rigid((0, 0, 0), (0, 0, 0)),
    rigid((10, -5, 3), (4, 5, 6)),
    rigid((-20, 8, 1), (-9, 2, 30)),
]


def test_the_mean_of_the_maps_into_the_midpoint_is_the_identity():
    to_midpoint = [np.linalg.inv(matrix) for matrix in midpoint.recentre(MAPS)]
    np.testing.assert_allclose(geometry.mean_rigid(to_midpoint), np.eye(4), atol=1e-8)


def test_recentring_keeps_the_relation_of_every_pair():
    centred = midpoint.recentre(MAPS)
    for i, first in enumerate(MAPS):
        for j, second in enumerate(MAPS):
            np.testing.assert_allclose(
                centred[j] @ np.linalg.inv(centred[i]), second @ np.linalg.inv(first), atol=1e-9
            )


@pytest.mark.parametrize('first', range(3))
def test_the_midpoint_is_the_same_whichever_visit_it_is_reckoned_from(first):
    from_other = [matrix @ np.linalg.inv(MAPS[first]) for matrix in MAPS]
    for ours, theirs in zip(midpoint.recentre(MAPS), midpoint.recentre(from_other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_two_visits_are_as_far_from_their_midpoint_as_each_other():
    centred = midpoint.recentre(MAPS[:2])
    back = [np.linalg.inv(matrix) for matrix in centred]
    shifts = [np.linalg.norm(matrix[:3, 3]) for matrix in back]
    assert shifts[0] == pytest.approx(shifts[1], abs=1e-6)
    first, second, whole = (
        Rotation.from_matrix(matrix[:3, :3]).magnitude() for matrix in (*back, MAPS[1])
    )
    assert first == pytest.approx(second, abs=1e-8)
    assert first == pytest.approx(whole / 2, abs=1e-8)


@pytest.fixture(scope='module')
def template():
    return load_template()


@pytest.fixture(scope='module')
def visits(template):
    """Give the template moved by +MOTION and by -MOTION, each with a flawed map from MNI."""
    motions = [MOTION, np.linalg.inv(MOTION)]
    flaws = [WRONG, np.linalg.inv(WRONG)]

    def move(image, motion):
        return geometry.like(geometry.resample(image, image, np.linalg.inv(motion)), image)

    return (
        [move(template.image, motion) for motion in motions],
        [move(template.brain, motion) for motion in motions],
        [motion @ flaw for motion, flaw in zip(motions, flaws, strict=True)],
    )


@pytest.fixture(scope='module')
def both_orders(visits):
    orders = visits, [part[::-1] for part in visits]
    return tuple(midpoint.find_midpoint(*order, voxel_mm=4.0) for order in orders)


@pytest.fixture(scope='module')
def points(template):
    return geometry.mask_points_mm(template.brain)[::50]


def test_the_midpoint_is_halfway_between_the_visits(both_orders, points):
    forward, _ = both_orders
    for found, motion in zip(forward.to_visit, (MOTION, np.linalg.inv(MOTION)), strict=True):
        assert geometry.displacement_mm(found, motion, points).max() < 0.5
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-5)


def test_the_visits_lie_on_each_other_in_the_midpoint_space(both_orders, points):
    first, second = both_orders[0].to_visit
    relation = second @ np.linalg.inv(first)
    truth = np.linalg.inv(MOTION) @ np.linalg.inv(MOTION)
    assert geometry.displacement_mm(relation, truth, points).max() < 0.3


def test_swapping_the_visits_gives_the_same_space(both_orders, points):
    forward, backward = both_orders
    for ours, theirs in zip(forward.to_visit, backward.to_visit[::-1], strict=True):
        assert geometry.displacement_mm(ours, theirs, points).max() < 0.2
    assert geometry.displacement_mm(forward.from_mni, backward.from_mni, points).max() < 0.2


def test_opposite_flaws_of_the_maps_from_mni_cancel(both_orders, points):
    forward, _ = both_orders
    flaw = geometry.displacement_mm(WRONG, np.eye(4), points).max()
    rest = geometry.displacement_mm(forward.from_mni, np.eye(4), points).max()
    assert rest < flaw / 5


def test_one_visit_has_the_rigid_part_of_its_map_from_mni(visits, template):
    images, brains, from_mni = visits
    alone = midpoint.find_midpoint(images[:1], brains[:1], from_mni[:1])
    own = geometry.nearest_rigid(from_mni[0])
    np.testing.assert_allclose(alone.to_visit[0][:3, :3], own[:3, :3], atol=1e-9)
    # Both ways to MNI agree: through the individual space, and at once.
    np.testing.assert_allclose(alone.to_visit[0] @ alone.from_mni, from_mni[0], atol=1e-9)
    # The individual space lies on MNI but for scale: their origins coincide.
    np.testing.assert_allclose(alone.from_mni[:3, 3], 0, atol=1e-9)
