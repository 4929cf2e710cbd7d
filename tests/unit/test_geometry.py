"""Facts about grids, linear maps and the resampling of images."""

from __future__ import annotations

from pathlib import Path

import ants
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from msapp.imaging import geometry

TRANSFORM = 'from-orig_to-individual_mode-image_xfm.txt'


def rigid(angles_degrees=(0, 0, 0), shift_mm=(0, 0, 0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler('xyz', angles_degrees, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


MOTION = rigid((10, -20, 30), (12.3, -45.6, 78.9))


def affine_of(spacing=(1.0, 1.0, 1.0), angles_degrees=(0, 0, 0), origin=(0, 0, 0)) -> np.ndarray:
    return rigid(angles_degrees, origin) @ np.diag([*spacing, 1.0])


def ramp(points: np.ndarray) -> np.ndarray:
    """Rise by 2, -3 and 0.5 a mm along the world's axes."""
    return points @ [2.0, -3.0, 0.5] + 40.0


def world_points(shape, affine) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing='ij'), axis=-1)
    return nib.affines.apply_affine(affine, indices)


def ramp_image(shape, affine) -> nib.Nifti1Image:
    return nib.Nifti1Image(ramp(world_points(shape, affine)).astype(np.float32), affine)


def ball(radius_mm: float, size: int = 64) -> nib.Nifti1Image:
    affine = affine_of(origin=[-(size - 1) / 2] * 3)
    distance = np.linalg.norm(world_points((size,) * 3, affine), axis=-1)
    return nib.Nifti1Image((distance <= radius_mm).astype(np.uint8), affine)


def test_resampling_onto_its_own_grid_changes_nothing():
    image = ramp_image((7, 8, 9), affine_of((1.0, 1.5, 3.0), origin=(-5, 3, 20)))
    assert np.array_equal(geometry.resample(image, image), image.get_fdata(dtype=np.float32))


def test_resampling_an_oblique_image_onto_its_own_grid_keeps_its_border():
    image = ramp_image((7, 8, 9), affine_of((1.0, 1.2, 3.0), (12, -7, 25), (-50, 3, 20)))
    np.testing.assert_allclose(geometry.resample(image, image), image.get_fdata(), atol=1e-3)


def test_half_a_voxel_of_shift_reads_the_ramp_half_a_voxel_further():
    image = ramp_image((6, 6, 6), affine_of((2.0, 2.0, 2.0)))
    moved = geometry.resample(image, image, rigid(shift_mm=(1.0, 0, 0)))
    np.testing.assert_allclose(moved[:5], image.get_fdata()[:5] + 2.0, atol=1e-4)


def test_outside_the_field_of_view_stands_the_fill():
    image = ramp_image((6, 6, 6), np.eye(4))
    moved = geometry.resample(image, image, rigid(shift_mm=(3, 0, 0)), fill=-7.0)
    assert (moved[3:] == -7.0).all()
    np.testing.assert_allclose(moved[:3], image.get_fdata()[3:])


@pytest.mark.parametrize('order', [1, 3])
def test_a_ramp_is_read_exactly_through_any_affine_map_between_any_grids(order):
    image = ramp_image((40, 44, 30), affine_of((2.0, 1.5, 3.0), (5, 10, -15), (-35, -40, -30)))
    grid = nib.Nifti1Image(np.zeros((9, 8, 7), np.uint8), affine_of((1.1, 2.2, 0.9), (40, 5, 9)))
    transform = MOTION.copy()
    transform[:3, :3] @= [[1.1, 0.05, 0], [0, 0.9, 0.02], [0, 0, 1.05]]
    transform[:3, 3] = [4, -6, 8]
    expected = ramp(nib.affines.apply_affine(transform, world_points(grid.shape, grid.affine)))
    result = geometry.resample(image, grid, transform, order=order)
    # Splines near the border of the image ring by some thousandths of its range.
    np.testing.assert_allclose(result, expected, atol=1e-3 if order == 1 else 0.1)


def test_cubic_results_are_clipped_to_the_range_of_the_image():
    data = np.zeros((12, 12, 12), np.float32)
    data[6:] = 100.0
    image = nib.Nifti1Image(data, np.eye(4))
    shift = rigid(shift_mm=(0.5, 0, 0))
    unclipped = ndimage.affine_transform(data, shift, order=3)
    assert unclipped.min() < -1
    assert unclipped.max() > 101
    clipped = geometry.resample(image, image, shift, order=3)
    assert clipped.min() == 0
    assert clipped.max() == 100


def test_nearest_neighbour_invents_no_value():
    labels = np.random.default_rng(0).choice([0, 3, 7], (9, 9, 9)).astype(np.uint8)
    image = nib.Nifti1Image(labels, np.eye(4))
    result = geometry.resample(image, image, rigid((10, 20, 30), (1, 0.4, -0.7)), order=0)
    assert set(np.unique(result)) == {0, 3, 7}


def test_a_rigid_map_keeps_the_volume_of_a_ball():
    moved = geometry.resample_mask(ball(20), ball(20), rigid((10, -20, 30), (3.3, -2.2, 1.4)))
    assert moved.sum() == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.02)


def test_a_mask_follows_the_transform():
    moved = geometry.resample_mask(ball(10), ball(10), rigid(shift_mm=(0, 7, 0)))
    centre = nib.affines.apply_affine(ball(10).affine, ndimage.center_of_mass(moved))
    np.testing.assert_allclose(centre, (0, -7, 0), atol=0.05)


def test_the_rotation_is_taken_out_of_a_scaled_one():
    rotation = MOTION[:3, :3]
    scaled = MOTION.copy()
    scaled[:3, :3] = rotation @ np.diag([1.1, 0.8, 1.3])
    np.testing.assert_allclose(geometry.nearest_rigid(scaled), MOTION, atol=1e-12)


def test_no_rotation_is_nearer_than_the_one_found():
    matrix = MOTION.copy()
    matrix[:3, :3] @= [[1.1, 0.2, 0], [0, 0.9, 0.1], [0, 0, 1.2]]
    found = geometry.nearest_rigid(matrix)[:3, :3]
    best = np.linalg.norm(matrix[:3, :3] - found)
    for turn in Rotation.random(50, random_state=0).as_rotvec():
        other = found @ Rotation.from_rotvec(0.05 * turn).as_matrix()
        assert np.linalg.norm(matrix[:3, :3] - other) > best


def test_a_mirror_has_no_nearest_rigid_map():
    with pytest.raises(ValueError, match='mirrors space'):
        geometry.nearest_rigid(np.diag([-1.0, 1, 1, 1]))


def test_the_mean_of_a_rotation_and_its_inverse_is_the_identity():
    motion = rigid((10, -20, 30))
    mean = geometry.mean_rigid([motion, np.linalg.inv(motion)])
    np.testing.assert_allclose(mean, np.eye(4), atol=1e-9)


def test_the_mean_of_rotations_about_one_axis_is_their_mean_angle():
    axis = np.array([1.0, 2.0, -2.0]) / 3
    angles = np.array([10.0, 25.0, 100.0])
    matrices = [np.eye(4) for _ in angles]
    for matrix, angle in zip(matrices, angles, strict=True):
        matrix[:3, :3] = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix()
        matrix[:3, 3] = (angle, 0, 3)
    mean = geometry.mean_rigid(matrices)
    np.testing.assert_allclose(
        Rotation.from_matrix(mean[:3, :3]).as_rotvec(degrees=True), 45.0 * axis, atol=1e-6
    )
    np.testing.assert_allclose(mean[:3, 3], (45, 0, 3))


def test_moving_the_common_space_moves_the_mean_with_it():
    matrices = [rigid((5 * n, -3 * n, n), (n, 2, -n)) for n in range(4)]
    moved = geometry.mean_rigid([MOTION @ matrix for matrix in matrices])
    np.testing.assert_allclose(moved, MOTION @ geometry.mean_rigid(matrices), atol=1e-8)


def test_the_mean_does_not_depend_on_the_order():
    matrices = [rigid((20 * n, -30, 10 * n), (n, 0, 0)) for n in range(4)]
    first, second = geometry.mean_rigid(matrices), geometry.mean_rigid(matrices[::-1])
    np.testing.assert_allclose(first, second, atol=1e-8)


def test_displacement_is_a_chord():
    points = np.array([[0.0, 0, 0], [50, 0, 0], [0, 50, 20]])
    moved = geometry.displacement_mm(np.eye(4), rigid((0, 0, 10)), points)
    chord = 2 * 50 * np.sin(np.radians(5))
    np.testing.assert_allclose(moved, [0, chord, chord], atol=1e-9)


def test_mask_points_are_voxel_centres_in_the_world():
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[1, 2, 0] = mask[2, 0, 1] = 1
    image = nib.Nifti1Image(mask, affine_of((2, 3, 4), origin=(-10, 0, 5)))
    assert geometry.mask_points_mm(image).tolist() == [[-8, 6, 5], [-6, 0, 9]]


def test_a_transform_reads_back_as_written(tmp_path: Path):
    geometry.save_transform(tmp_path / TRANSFORM, MOTION)
    np.testing.assert_allclose(geometry.load_transform(tmp_path / TRANSFORM), MOTION, atol=1e-4)


def test_a_landmark_comes_back_from_there_and_back(tmp_path: Path):
    there, back = tmp_path / 'there.txt', tmp_path / 'back.txt'
    geometry.save_transform(there, MOTION)
    geometry.save_transform(back, np.linalg.inv(MOTION))
    # Six digits of every number in the file: thousandths of a millimetre at 100 mm.
    landmarks = np.array([[0.0, 0, 0], [70, -100, 60], [-70, 60, -50]])
    round_trip = geometry.load_transform(back) @ geometry.load_transform(there)
    assert geometry.displacement_mm(round_trip, np.eye(4), landmarks).max() < 2e-3


def test_ants_takes_a_point_where_the_matrix_takes_it(tmp_path: Path):
    path = tmp_path / TRANSFORM
    geometry.save_transform(path, MOTION)
    point = np.array([20.0, -30.0, 40.0])
    lps = ants.read_transform(str(path)).apply_to_point(tuple(point * [-1, -1, 1]))
    expected = nib.affines.apply_affine(MOTION, point)
    np.testing.assert_allclose(np.array(lps) * [-1, -1, 1], expected, atol=2e-3)


def test_a_transform_that_ants_wrote_about_a_centre_is_read(tmp_path: Path):
    transform = ants.create_ants_transform(
        transform_type='AffineTransform',
        precision='double',
        matrix=MOTION[:3, :3],
        translation=(5, 6, 7),
        center=(10, 20, -30),
    )
    path = tmp_path / 'centred.mat'
    ants.write_transform(transform, str(path))
    lps = transform.apply_to_point((20.0, -30.0, 40.0))
    mapped = nib.affines.apply_affine(geometry.load_transform(path), (-20.0, 30.0, 40.0))
    np.testing.assert_allclose(mapped, np.array(lps) * [-1, -1, 1], atol=1e-4)


@pytest.fixture
def textured() -> nib.Nifti1Image:
    data = np.zeros((32, 32, 32), np.float32)
    data[8:24, 10:20, 12:26] = np.random.default_rng(0).uniform(1, 2, (16, 10, 14))
    return nib.Nifti1Image(data, affine_of((1.5, 1, 1), origin=(-24, -16, -16)))


@pytest.mark.parametrize('inverse', [False, True])
def test_ants_resamples_with_the_file_as_resample_does(tmp_path: Path, textured, inverse):
    path = tmp_path / TRANSFORM
    motion = rigid((8, -5, 12), (3, -4, 5))
    geometry.save_transform(path, motion)
    image = geometry.to_ants(textured.get_fdata(), textured.affine)
    transform = ants.read_transform(str(path))
    transform = transform.invert() if inverse else transform
    by_ants = transform.apply_to_image(image, reference=image).numpy()
    ours = geometry.resample(textured, textured, np.linalg.inv(motion) if inverse else motion)
    inside = np.s_[3:-3, 3:-3, 3:-3]
    assert ours[inside].max() > 1
    np.testing.assert_allclose(ours[inside], by_ants[inside], atol=1e-3)


def test_ants_apply_transforms_takes_the_file(tmp_path: Path, textured):
    path = tmp_path / TRANSFORM
    motion = rigid((8, -5, 12), (3, -4, 5))
    geometry.save_transform(path, motion)
    image = geometry.to_ants(textured.get_fdata(), textured.affine)
    by_ants = ants.apply_transforms(fixed=image, moving=image, transformlist=[str(path)]).numpy()
    ours = geometry.resample(textured, textured, motion)
    inside = np.s_[3:-3, 3:-3, 3:-3]
    np.testing.assert_allclose(ours[inside], by_ants[inside], atol=1e-3)


@pytest.mark.parametrize('margin_mm', [0.0, 5.0])
def test_an_isotropic_grid_covers_the_corners_and_little_more(margin_mm):
    image = nib.Nifti1Image(
        np.zeros((20, 30, 8), np.uint8), affine_of((1, 0.7, 5), (20, -10, 35), (7, -8, 9))
    )
    grid = geometry.isotropic_grid(image, 2.5, margin_mm=margin_mm)
    corners = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in image.shape])).reshape(3, -1).T
    world = nib.affines.apply_affine(image.affine, corners)
    low = grid.affine[:3, 3] - 1.25
    high = low + 2.5 * np.array(grid.shape)
    np.testing.assert_allclose(geometry.spacing_mm(grid), 2.5)
    np.testing.assert_allclose(low, world.min(axis=0) - margin_mm, atol=1e-6)
    over = high - world.max(axis=0) - margin_mm
    assert (over > -1e-5).all()
    assert (over < 2.5).all()


@pytest.mark.parametrize(
    'affine',
    [
        affine_of((1, 2, 3), (10, 20, -30), (5, -60, 70)),
        np.diag([-1.0, 1, 2, 1]),
        np.array([[0, 0, 3.0, -20], [-1, 0, 0, 4], [0, 2, 0, 6], [0, 0, 0, 1]]),
    ],
    ids=['oblique', 'flipped', 'sagittal'],
)
def test_a_voxel_keeps_its_place_in_ants(affine):
    image = geometry.to_ants(np.zeros((5, 6, 7)), affine)
    index = (1, 2, 3)
    lps = ants.transform_index_to_physical_point(image, index)
    expected = nib.affines.apply_affine(affine, index)
    np.testing.assert_allclose(np.array(lps) * [-1, -1, 1], expected, atol=1e-5)
    assert image.shape == (5, 6, 7)


def test_like_has_the_grid_and_no_wider_type_than_needed():
    grid = nib.Nifti1Image(np.zeros((2, 3, 4)), affine_of((1, 2, 3)))
    mask = geometry.like(np.ones((2, 3, 4), bool), grid)
    assert mask.get_data_dtype() == np.uint8
    assert geometry.like(np.ones((2, 3, 4)), grid).get_data_dtype() == np.float32
    assert geometry.same_grid(mask, grid)
    assert mask.header.get_xyzt_units()[0] == 'mm'


def test_grids_differ_by_shape_and_by_place():
    grid = nib.Nifti1Image(np.zeros((2, 3, 4)), np.eye(4))
    moved = nib.Nifti1Image(np.zeros((2, 3, 4)), rigid(shift_mm=(0, 0, 0.02)))
    longer = nib.Nifti1Image(np.zeros((2, 3, 5)), np.eye(4))
    assert not geometry.same_grid(grid, moved)
    assert not geometry.same_grid(grid, longer)


def grid_of(affine) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros((256, 256, 176), np.uint8), affine)


@pytest.mark.parametrize(
    ('first', 'second'),
    [
        (affine_of(origin=(8000, 0, 0)), affine_of(origin=(8000.08, 0, 0))),
        (np.eye(4), affine_of((1.001, 1, 1))),
    ],
    ids=['far from the origin', 'at the far end'],
)
def test_grids_are_told_apart_wherever_they_part(first, second):
    assert not geometry.same_grid(grid_of(first), grid_of(second))


@pytest.mark.parametrize('origin', [(-98, -134, -72), (900, -700, 1500)])
def test_a_grid_is_the_same_after_it_was_written(tmp_path: Path, origin):
    """Headers hold 32-bit numbers."""
    grid = grid_of(affine_of((0.9, 1.1, 1.0), (12, -7, 25), origin))
    nib.save(grid, tmp_path / 'grid.nii')
    assert geometry.same_grid(grid, nib.load(tmp_path / 'grid.nii'))
    assert not np.array_equal(grid.affine, nib.load(tmp_path / 'grid.nii').affine)


def test_a_grid_is_the_same_where_a_program_rounds_its_numbers():
    grid = grid_of(affine_of((0.9, 1.1, 1.0), (12, -7, 25), (-98, -134, -72)))
    signs = np.random.default_rng(0).choice([-1, 1], (4, 4))
    assert geometry.same_grid(grid, grid_of(grid.affine * (1 + 1e-5 * signs)))


def test_voxel_volume_of_an_oblique_grid():
    image = nib.Nifti1Image(np.zeros((2, 2, 2)), affine_of((1.0, 0.5, 3.0), (10, 20, 30)))
    assert geometry.voxel_volume_mm3(image) == pytest.approx(1.5)
    assert geometry.spacing_mm(image) == pytest.approx((1.0, 0.5, 3.0))


def test_the_individual_grid_is_the_one_of_the_template():
    from nilearn import datasets

    assert geometry.same_grid(
        geometry.individual_grid(), datasets.load_mni152_brain_mask(resolution=1)
    )
