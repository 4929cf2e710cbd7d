import json
import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from msapp.errors import InternalError
from msapp.lesions.change import CLASSES
from msapp.reports.canvas import (
    HEADER_PX,
    MAX_BYTES,
    WIDTH_PX,
    Slice,
    choose_slices,
    new_sheet,
    outline,
    plane,
    scale,
)
from msapp.reports.figures import (
    CHANGE_COLOURS,
    change_map,
    checkerboard,
    flicker,
    mosaic,
    viewer,
)
from msapp.reports.panels import (
    CANDIDATES,
    CAPTION_VOXELS,
    CROP_MM,
    NEW_LESIONS,
    ROWS,
    regions_panel,
)

SHAPE = (40, 48, 36)
RED = '#ff0000'


@pytest.fixture
def brain():
    """An ellipsoid in the middle of a small grid."""
    axes = np.indices(SHAPE, sparse=True)
    radii = [size / 2 - 4 for size in SHAPE]
    inside = sum(
        ((axis - (size - 1) / 2) / radius) ** 2
        for axis, size, radius in zip(axes, SHAPE, radii, strict=True)
    )
    return inside <= 1


@pytest.fixture
def image(brain):
    noise = np.random.default_rng(0).normal(0, 5, SHAPE)
    return (100 * brain + noise * brain).astype(np.float32)


def pixels(path):
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def red(picture):
    return (picture[..., 0] > 150) & (picture[..., 1] < 90) & (picture[..., 2] < 90)


def test_the_right_of_the_patient_is_on_the_left_and_the_front_is_up():
    head = np.zeros(SHAPE)
    head[30, 40, 20] = 1  # right, anterior
    row, column = np.argwhere(plane(head, Slice(2, 20)))[0]
    assert column < SHAPE[0] / 2
    assert row < SHAPE[1] / 2


def test_the_top_is_up_and_sagittal_slices_face_left():
    head = np.zeros(SHAPE)
    head[20, 40, 30] = 1  # anterior, superior
    row, column = np.argwhere(plane(head, Slice(0, 20)))[0]
    assert (row < SHAPE[2] / 2, column < SHAPE[1] / 2) == (True, True)


def test_a_mark_on_the_left_of_the_patient_lies_right_of_each_slice(tmp_path, image, brain):
    mask = np.zeros(SHAPE, bool)
    mask[10:14, 20:28, 14:22] = True
    out = mosaic(
        image,
        tmp_path / 'm.png',
        brain_mask=brain,
        contours=[(mask, RED, '')],
        title='',
        slices='area',
    )
    found = red(pixels(out))
    # Each axial row holds 7 slices; the mark lies in the right half of its slice.
    box_width, gap = 40, 3
    width = 7 * box_width + 6 * gap
    columns = np.flatnonzero(found[58:700].any(axis=0)) * width / WIDTH_PX
    within = columns % (box_width + gap)
    assert columns.size
    assert within.min() > box_width / 2


def test_outlines_are_drawn_in_their_colour(tmp_path, image, brain):
    mask = np.zeros(SHAPE, bool)
    mask[16:24, 20:28, 17] = True
    title = 'outline'
    with_mask = mosaic(
        image,
        tmp_path / 'a.png',
        brain_mask=brain,
        contours=[(mask, RED, 'mark')],
        title=title,
        slices='area',
    )
    without = mosaic(image, tmp_path / 'b.png', brain_mask=brain, title=title, slices='brain')
    assert red(pixels(with_mask)).sum() > 50
    assert not red(pixels(without)).any()


def test_an_outline_runs_around_its_mask_at_the_right_pixels():
    canvas = np.zeros((100, 200), np.float32)
    mask = np.zeros_like(canvas)
    mask[40:60, 50:80] = 1
    figure, axes, pixel = new_sheet(canvas, '')
    outline(axes, mask, RED)
    figure.canvas.draw()
    found = red(np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int))
    rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
    top, left = (rows[0] - HEADER_PX) / pixel, columns[0] / pixel
    bottom, right = (rows[-1] - HEADER_PX) / pixel, columns[-1] / pixel
    assert np.allclose([top, bottom, left, right], [40, 60, 50, 80], atol=0.5)
    assert not found[HEADER_PX + round(50 * pixel), round(65 * pixel)]  # the mask is not filled


def test_slices_are_chosen_where_the_area_is(brain):
    mask = np.zeros(SHAPE, bool)
    mask[18:22, 18:22, 9] = True
    mask[16:24, 16:24, 25] = True
    assert choose_slices(brain, 2, 2, mask) == [9, 25]
    assert len(choose_slices(brain, 2, 7, mask)) == 7
    assert {9, 25} <= set(choose_slices(brain, 2, 7, mask))


def test_slices_without_area_are_spread_through_the_brain(brain):
    even = choose_slices(brain, 2, 5)
    assert choose_slices(brain, 2, 5, np.zeros(SHAPE, bool)) == even
    assert even == sorted(even)
    assert np.flatnonzero(brain.any(axis=(0, 1)))[0] < even[0]


def test_the_window_is_that_of_the_brain(brain):
    image = np.where(brain, 50.0, 0.0)
    image[0, 0, 0] = 1e6  # a bright artefact outside the brain
    image[20, 24, 18] = 60.0
    scaled = scale(image, brain)
    assert scaled.max() == 1
    assert scaled[20, 24, 18] == 1


def test_not_a_number_and_an_empty_mask_are_drawn(tmp_path, image, brain):
    image = image.copy()
    image[:5] = np.nan
    out = mosaic(image, tmp_path / 'm.png', brain_mask=np.zeros(SHAPE, bool), title='no brain')
    assert pixels(out).max() > 200


def test_figures_are_small_wide_and_leave_nothing_beside_them(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 30, (120, 140, 110)).astype(np.float32)
    everything = np.ones(noise.shape, bool)
    out = mosaic(noise, tmp_path / 'sub' / 'm.png', brain_mask=everything, title='noise')
    assert Image.open(out).size[0] == WIDTH_PX
    assert out.stat().st_size < 2 * MAX_BYTES  # pure noise is the worst case there is
    assert [item.name for item in out.parent.iterdir()] == ['m.png']


def test_two_visits_share_one_layout(tmp_path, image, brain):
    first, second = flicker(
        image, image * 3, tmp_path / 'a.png', tmp_path / 'b.png', brain_mask=brain, labels=('', '')
    )
    assert np.abs(pixels(first) - pixels(second)).max() <= 4


def test_a_shift_changes_the_checkerboard(tmp_path, image, brain):
    names = {'brain_mask': brain, 'labels': ('a', 'b')}
    still = checkerboard(image, image, tmp_path / 'a.png', **names)
    moved = checkerboard(image, np.roll(image, 4, axis=0), tmp_path / 'b.png', **names)
    assert np.abs(pixels(still) - pixels(moved)).max() > 100


def test_candidates_are_shown_largest_first_and_outlined_on_the_current_visit_only(
    tmp_path, image, brain
):
    labels = np.zeros(SHAPE, np.int32)
    labels[15:20, 20:25, 15:20] = 7
    labels[25:27, 20:22, 15:17] = 3
    table = [{'candidate': 7, 'x_individual_mm': -3.0, 'y_individual_mm': None}]
    out = regions_panel(
        image,
        image,
        labels,
        tmp_path / 'c.png',
        brain_mask=brain,
        wording=replace(CANDIDATES, most=1),
        table=table,
    )
    picture = pixels(out)
    magenta = (picture[..., 0] > 180) & (picture[..., 1] < 130) & (picture[..., 2] > 150)
    columns = np.flatnonzero(magenta.any(axis=0))
    first_half = columns < WIDTH_PX / 6  # the axial picture of the visit before
    assert columns.size
    assert not first_half.any()


@pytest.mark.parametrize(('most', 'sheets'), [(40, [8, 4]), (10, [8, 2]), (12, [8, 4]), (8, [8])])
def test_every_new_lesion_has_a_row_on_sheets_one_below_the_other(
    tmp_path, image, brain, most, sheets
):
    labels = np.zeros(SHAPE, np.int32)
    for number, (i, j) in enumerate(np.ndindex(3, 4), start=1):
        labels[8 * i + 8 : 8 * i + 12, 8 * j + 8 : 8 * j + 12, 16:20] = number
    out = regions_panel(
        image,
        image,
        labels,
        tmp_path / 'n.png',
        brain_mask=brain,
        wording=replace(NEW_LESIONS, most=most),
    )
    outlined = red(pixels(out))
    row = (CROP_MM + CAPTION_VOXELS) * WIDTH_PX / 381  # of the 381 voxels from left to right
    heights = [HEADER_PX + round(count * row) for count in sheets]
    assert outlined.shape[0] == sum(heights)
    for count, sheet in zip(sheets, np.split(outlined, np.cumsum(heights)[:-1]), strict=True):
        assert count <= ROWS
        rows = np.array_split(sheet[HEADER_PX:], count)
        assert all(part.sum() > 50 for part in rows)
        assert not sheet[:HEADER_PX].any()
    assert out.stat().st_size < MAX_BYTES * len(sheets)


def test_no_candidate_is_said_and_not_an_error(tmp_path, image, brain):
    labels = np.zeros(SHAPE, np.int32)
    out = regions_panel(image, image, labels, tmp_path / 'c.png', brain_mask=brain)
    assert pixels(out).max() > 200


def test_both_visits_of_a_new_lesion_have_the_window_of_the_later_one(tmp_path, image, brain):
    labels = np.zeros(SHAPE, np.int32)
    labels[18:22, 22:26, 16:20] = 2
    out = regions_panel(
        np.full(SHAPE, 1e4, np.float32),  # far above the window
        image,
        labels,
        tmp_path / 'n.png',
        brain_mask=brain,
        wording=NEW_LESIONS,
        table=[{'identifier': 2}],
    )
    picture = pixels(out)
    before, now = (picture[HEADER_PX:, start : start + 180] for start in (0, WIDTH_PX // 6 + 20))
    assert np.median(before[before.shape[0] // 2]) == 255
    assert np.median(now) < 255
    assert not red(before).any()
    assert red(now).any()


def test_a_change_map_outlines_each_class_in_its_colour_where_something_happened(
    tmp_path, image, brain
):
    assert set(CHANGE_COLOURS) == set(CLASSES)
    classes = np.zeros(SHAPE, np.uint8)
    classes[8:32, 8:40, 10] = CLASSES['stable']  # much larger, but no event
    classes[16:24, 20:28, 24] = CLASSES['resolved']
    one, two = (
        change_map(image, shown, tmp_path / 'c.png', brain_mask=brain, title='')
        and pixels(tmp_path / 'c.png')[200:]
        for shown in (classes, np.where(classes == CLASSES['stable'], 0, classes))
    )
    green = np.array([0x39, 0xD9, 0x8A])
    assert (np.abs(one - green).max(axis=-1) < 40).sum() > 50
    assert (np.abs(two - green).max(axis=-1) < 40).sum() > 50


def test_volumes_of_different_shape_are_refused(tmp_path, image, brain):
    with pytest.raises(InternalError, match='volumes of one shape'):
        mosaic(image[:-1], tmp_path / 'm.png', brain_mask=brain, title='')


def test_the_viewer_reads_true_coordinates_and_loads_nothing(tmp_path, image, brain):
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = (-20, -24, -18)
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:13, 20:23, 14:17] = 1  # centre 11, 21, 15: x = -9, the left of the patient
    page_path = viewer(
        nib.Nifti1Image(image, affine),
        nib.Nifti1Image(mask, affine),
        tmp_path / 'v.html',
        title='odd </script> name',
        brain_mask=nib.Nifti1Image(brain.astype(np.uint8), affine),
    )
    page = page_path.read_text()
    assert not re.search(r'(src|href)\s*=\s*["\']?\s*(https?:)?//', page)
    assert '<link' not in page
    assert 'odd </script> name' not in page
    params = json.JSONDecoder().raw_decode(page[page.index('{"canvas"') :])[0]
    position = [params['numSlice'][axis] + 1 for axis in 'XYZ']  # as the page's script counts
    world = np.array(params['affine']) @ [*position, 1]
    assert np.allclose(world[:3], (-9, -3, -3))
    assert position[0] > params['nbSlice']['X'] / 2  # left of the patient: right of the picture
