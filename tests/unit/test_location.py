"""Facts about where lesions lie: distances, classes and the table, on slabs of known width."""

from __future__ import annotations

import numpy as np
import pytest

from msapp.imaging.tissue import ZONES
from msapp.lesions.contrast import normal_white_matter, surround_contrast
from msapp.lesions.instances import label_instances, measure_instances
from msapp.lesions.location import (
    COLUMNS,
    LOCATIONS,
    classify_lesion,
    classify_voxels,
    count_locations,
    locate_lesions,
    measure_distances,
)

BACKGROUND, VENTRICLES, CSF, CORTEX, WHITE, DEEP_GREY, STEM, CEREBELLUM = range(len(ZONES))
ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (2.0, 0.5, 1.5)
SHAPE = (70, 20, 20)
# First voxel of each slab along the first axis. Every slab has at least 1200 mm3.
SLABS = {0: CORTEX, 6: WHITE, 32: VENTRICLES, 35: WHITE, 45: STEM, 55: CEREBELLUM}
INNER = slice(8, 11)


def slabs(**replaced: int) -> np.ndarray:
    """Return the map of `SLABS`, some zones replaced by others."""
    zones = np.zeros(SHAPE, np.uint8)
    for start, zone in SLABS.items():
        zones[start:] = replaced.get(ZONES[zone], zone)
    return zones


def rod(start: int, stop: int, across: slice = INNER) -> np.ndarray:
    """Return a lesion in the middle of the slabs, 3 x 3 voxels across."""
    mask = np.zeros(SHAPE, bool)
    mask[start:stop, across, across] = True
    return mask


def table(zones, lesions, spacing_mm=ISOTROPIC, **options):
    labels = label_instances(lesions, float(np.prod(spacing_mm)))
    return locate_lesions(labels, zones, spacing_mm, **options).table


def locate(zones, lesions, spacing_mm=ISOTROPIC):
    """Return the line of the only lesion."""
    (line,) = table(zones, lesions, spacing_mm).to_dict('records')
    return line


def shares(line) -> list[float]:
    return [line[f'{name}_fraction'] for name in LOCATIONS]


class TestDistances:
    @pytest.mark.parametrize('spacing_mm', [ISOTROPIC, ANISOTROPIC])
    def test_they_run_from_voxel_centre_to_voxel_centre(self, spacing_mm):
        line = locate(slabs(), rod(15, 18), spacing_mm)
        step = spacing_mm[0]
        assert line['cortex_mm'] == pytest.approx((15 - 5) * step)
        assert line['ventricle_mm'] == pytest.approx((32 - 17) * step)
        assert line['posterior_fossa_mm'] == pytest.approx((45 - 17) * step)
        assert line['location'] == 'deep'

    @pytest.mark.parametrize('spacing_mm', [ISOTROPIC, ANISOTROPIC])
    def test_a_corner_is_as_far_as_pythagoras_says(self, spacing_mm):
        zones = slabs(ventricles=WHITE)
        zones[20:26, 14:20, 14:20] = VENTRICLES
        found = measure_distances(zones, rod(12, 15), spacing_mm)
        steps = np.array([20 - 14, 14 - 10, 14 - 10]) * spacing_mm
        assert found[0, 14, 10, 10] == pytest.approx(np.linalg.norm(steps))

    def test_zones_within_lesions_do_not_count(self):
        lesions = rod(12, 30)
        plain = measure_distances(slabs(), lesions, ISOTROPIC)
        for zone in (BACKGROUND, VENTRICLES, CORTEX, STEM):
            zones = slabs()
            zones[lesions] = zone
            np.testing.assert_array_equal(measure_distances(zones, lesions, ISOTROPIC), plain)

    def test_a_lesion_drawn_into_the_ventricle_touches_what_is_left_of_it(self):
        assert locate(slabs(), rod(25, 34))['ventricle_mm'] == 1.0

    @pytest.mark.parametrize(('voxels', 'ventricle_mm'), [(49, 32 - 15), (50, 20 - 15)])
    def test_islands_of_ventricle_below_50_mm3_do_not_count(self, voxels, ventricle_mm):
        zones = slabs()
        island = (np.arange(50) < voxels).reshape(10, 5)
        zones[20, 5:15, 7:12] = np.where(island, VENTRICLES, WHITE)
        assert locate(zones, rod(14, 16))['ventricle_mm'] == ventricle_mm

    def test_the_smallest_island_is_a_volume_not_a_number_of_voxels(self):
        zones = slabs()
        zones[20, 8:10, 8:11] = VENTRICLES
        assert locate(zones, rod(14, 16), (2.0, 2.0, 2.0))['ventricle_mm'] == 2 * (32 - 15)
        assert locate(zones, rod(14, 16), (2.0, 2.0, 2.1))['ventricle_mm'] == 2 * (20 - 15)

    def test_specks_of_cortex_and_cerebellum_do_not_count(self):
        zones = slabs()
        zones[20:23, 5:14, 5:14] = CORTEX
        zones[24:27, 5:14, 5:14] = CEREBELLUM
        line = locate(zones, rod(15, 18))
        assert (line['cortex_mm'], line['posterior_fossa_mm']) == (10, 28)

    def test_the_fourth_ventricle_is_no_ventricle(self):
        zones = slabs(ventricles=WHITE)
        zones[53:56, 5:15, 5:15] = VENTRICLES
        assert np.isinf(measure_distances(zones, rod(15, 18), ISOTROPIC)[0]).all()
        zones[32:35] = VENTRICLES
        assert locate(zones, rod(38, 52))['ventricle_mm'] == 38 - 34

    def test_background_around_the_head_changes_nothing(self):
        lesions = rod(15, 18)
        found = measure_distances(slabs(), lesions, ISOTROPIC)
        padded = measure_distances(np.pad(slabs(), 4), np.pad(lesions, 4), ISOTROPIC)
        np.testing.assert_array_equal(padded[:, 4:-4, 4:-4, 4:-4], found)
        assert np.isinf(padded[:, 0]).all()

    def test_two_grids_are_refused(self):
        with pytest.raises(ValueError, match='one grid is needed'):
            measure_distances(slabs(), np.zeros((2, 2, 2), bool), ISOTROPIC)


class TestClasses:
    @pytest.mark.parametrize(
        ('start', 'stop', 'location'),
        [
            (6, 9, 'juxtacortical'),
            (7, 9, 'juxtacortical'),
            (8, 9, 'deep'),
            (28, 30, 'deep'),
            (28, 31, 'periventricular'),
            (35, 37, 'periventricular'),
            (40, 44, 'deep'),
            (46, 50, 'infratentorial'),
            (60, 64, 'infratentorial'),
        ],
    )
    def test_a_lesion_touches_a_zone_up_to_one_voxel_away(self, start, stop, location):
        assert locate(slabs(), rod(start, stop))['location'] == location

    def test_a_lesion_in_the_cortex_is_juxtacortical(self):
        assert locate(slabs(), rod(1, 4))['location'] == 'juxtacortical'

    @pytest.mark.parametrize(
        ('spacing_mm', 'near'), [(ISOTROPIC, 3), (ANISOTROPIC, 1), ((0.7, 1.0, 1.0), 4)]
    )
    def test_a_confluent_lesion_has_shares_of_several_classes(self, spacing_mm, near):
        line = locate(slabs(), rod(6, 32), spacing_mm)
        assert line['location'] == 'periventricular'
        assert shares(line) == pytest.approx([near / 26, near / 26, (26 - 2 * near) / 26, 0])

    def test_voxels_are_classified_one_by_one(self):
        codes = classify_voxels(measure_distances(slabs(), rod(6, 32), ISOTROPIC))
        along = [LOCATIONS[code - 1] for code in codes[6:32, 9, 9]]
        assert along == ['juxtacortical'] * 3 + ['deep'] * 20 + ['periventricular'] * 3

    @pytest.mark.parametrize(('start', 'location'), [(40, 'infratentorial'), (39, 'deep')])
    def test_half_of_a_lesion_in_the_posterior_fossa_decides(self, start, location):
        # One voxel thick, so that the zones that count are at its side: 5 voxels lie below.
        line = locate(slabs(), rod(start, 50, across=slice(9, 10)))
        assert line['location'] == location
        assert line['infratentorial_fraction'] == 5 / (50 - start)

    def test_a_lesion_that_lies_on_the_cerebellum_is_not_infratentorial(self):
        line = locate(slabs(), rod(40, 45))
        assert line['location'] == 'deep'
        # The middle of its last layer is nearer to it than to white matter outside the lesion.
        assert line['posterior_fossa_mm'] == 0
        assert line['infratentorial_fraction'] == 1 / 45

    def test_the_fourth_ventricle_makes_nothing_periventricular(self):
        zones = slabs()
        zones[53:56, 5:15, 5:15] = VENTRICLES
        line = locate(zones, rod(47, 53))
        assert line['location'] == 'infratentorial'
        assert shares(line) == [0, 0, 0, 1]

    def test_ventricles_come_before_cortex(self):
        places = np.array([[2.0, 9.0], [1.0, 1.0], [50.0, 50.0]])
        assert classify_lesion(places) == 'periventricular'
        assert classify_voxels(places).tolist() == [1, 2]


class TestMissingZones:
    def test_without_cortex_a_lesion_far_from_ventricles_is_not_called_deep(self):
        line = locate(slabs(cortex=WHITE), rod(15, 18))
        assert line['location'] is None
        assert np.isnan([line['cortex_mm'], *shares(line)]).all()
        assert line['ventricle_mm'] == 32 - 17

    @pytest.mark.parametrize('zone', ['ventricles', 'cortex'])
    def test_deep_needs_every_zone(self, zone):
        assert locate(slabs(**{zone: WHITE}), rod(15, 18))['location'] is None

    def test_deep_needs_the_posterior_fossa(self):
        line = locate(slabs(brain_stem=WHITE, cerebellum=WHITE), rod(15, 18))
        assert line['location'] is None
        assert np.isnan(line['posterior_fossa_mm'])

    def test_what_is_seen_is_said_whatever_is_missing(self):
        assert locate(slabs(cortex=WHITE), rod(28, 32))['location'] == 'periventricular'
        assert locate(slabs(ventricles=WHITE), rod(6, 9))['location'] == 'juxtacortical'
        assert locate(slabs(cortex=WHITE), rod(46, 50))['location'] == 'infratentorial'

    def test_voxels_of_unknown_class_are_0(self):
        codes = classify_voxels(measure_distances(slabs(cortex=WHITE), rod(15, 32), ISOTROPIC))
        assert np.unique(codes[15:32, INNER, INNER]).tolist() == [0, 1]

    def test_a_map_without_zones_tells_nothing(self):
        line = locate(np.zeros(SHAPE, np.uint8), rod(15, 18))
        assert line['location'] is None
        distances = ('ventricle_mm', 'cortex_mm', 'posterior_fossa_mm')
        assert np.isnan([line[name] for name in distances]).all()


class TestTable:
    def test_it_has_one_line_a_lesion_and_the_documented_columns(self):
        found = table(slabs(), rod(6, 9) | rod(14, 20), ANISOTROPIC)
        assert list(found.columns) == list(COLUMNS)
        assert found['lesion'].tolist() == [1, 2]
        assert found['location'].tolist() == ['deep', 'juxtacortical']

    def test_without_lesions_it_has_all_columns_of_the_same_kinds(self):
        empty = table(slabs(), np.zeros(SHAPE, bool))
        assert len(empty) == 0
        assert dict(empty.dtypes) == dict(table(slabs(), rod(6, 9)).dtypes)

    def test_the_four_shares_add_up_to_1(self):
        found = table(slabs(), rod(3, 12) | rod(20, 32) | rod(40, 60))
        fractions = found[[f'{name}_fraction' for name in LOCATIONS]]
        np.testing.assert_allclose(fractions.sum(axis=1), 1)

    def test_voxels_have_their_class_in_lesions_and_0_elsewhere(self):
        labels = rod(6, 32).astype(np.int32)
        found = locate_lesions(labels, slabs(), ISOTROPIC)
        expected = classify_voxels(measure_distances(slabs(), labels > 0, ISOTROPIC))
        np.testing.assert_array_equal(found.voxels, np.where(labels, expected, 0))
        assert found.voxels.dtype == np.uint8

    def test_numbers_of_lesions_that_are_missing_are_passed_over(self):
        labels = rod(6, 9) * 2 + rod(46, 50) * 5
        found = locate_lesions(labels, slabs(), ISOTROPIC).table
        assert found['lesion'].tolist() == [2, 5]
        assert found['location'].tolist() == ['juxtacortical', 'infratentorial']

    def test_contrast_is_measured_where_there_is_a_flair(self):
        flair = np.ones(SHAPE)
        flair[rod(14, 18)] = 1.3
        found = table(slabs(), rod(14, 18), flair=flair)
        assert found['surround_contrast'].tolist() == pytest.approx([0.3])
        assert table(slabs(), rod(14, 18))['surround_contrast'].isna().all()


class TestCounts:
    def test_lesions_count_by_their_class_and_volume_by_its_voxels(self):
        labels = label_instances(rod(6, 32) | rod(46, 50), 1.0)
        found = locate_lesions(labels, slabs(), (1.0, 2.0, 1.0))
        assert count_locations(found.voxels, found.table, (1.0, 2.0, 1.0)) == pytest.approx(
            {
                'periventricular_lesion_count': 1,
                'periventricular_lesion_volume_ml': 0.054,
                'juxtacortical_lesion_count': 0,
                'juxtacortical_lesion_volume_ml': 0.054,
                'deep_lesion_count': 0,
                'deep_lesion_volume_ml': 0.36,
                'infratentorial_lesion_count': 1,
                'infratentorial_lesion_volume_ml': 0.072,
            }
        )

    def test_what_is_not_known_is_in_no_class(self):
        found = locate_lesions(rod(15, 18).astype(int), slabs(cortex=WHITE), ISOTROPIC)
        assert not any(count_locations(found.voxels, found.table, ISOTROPIC).values())


class TestContrast:
    def contrast(self, lesions, image, white_matter, spacing_mm=ISOTROPIC):
        labels = label_instances(lesions, 1.0)
        lesion = next(measure_instances(labels, np.diag([*spacing_mm, 1.0])))
        return surround_contrast(lesion, labels, image, white_matter, spacing_mm)

    def test_it_is_the_lesion_minus_the_normal_white_matter_around_it(self):
        lesions = rod(15, 18)
        image = np.full(SHAPE, 0.9)
        # Neither the blurred rim nor what lies beyond 10 mm nor other zones count.
        image[13:20] = 5.0
        image[:5] = image[28:] = 7.0
        image[lesions] = 1.5
        white = normal_white_matter(slabs(), lesions, ISOTROPIC)
        white[13:20] = False
        assert self.contrast(lesions, image, white) == pytest.approx(0.6)

    def test_the_surround_is_a_median_and_the_lesion_a_mean(self):
        lesions = rod(15, 17)
        image = np.ones(SHAPE)
        image[15], image[16] = 1.2, 1.6
        white = np.zeros(SHAPE, bool)
        white[20:23, 5:10, 5:10] = True
        image[20, 5:10, 5:10] = 100.0
        assert self.contrast(lesions, image, white) == pytest.approx(0.4)

    @pytest.mark.parametrize(('voxels', 'known'), [(29, False), (30, True)])
    def test_it_is_missing_with_less_than_30_mm3_of_white_matter(self, voxels, known):
        white = np.zeros(SHAPE, bool)
        white[20, 6:11, 6:12] = (np.arange(30) < voxels).reshape(5, 6)
        found = self.contrast(rod(15, 18), np.ones(SHAPE), white)
        assert np.isfinite(found) == known

    @pytest.mark.parametrize(('distance', 'known'), [(10, True), (11, False)])
    def test_white_matter_counts_up_to_10_mm(self, distance, known):
        white = np.zeros(SHAPE, bool)
        white[29 + distance] = True
        lesions = np.zeros(SHAPE, bool)
        lesions[28:30] = True
        assert np.isfinite(self.contrast(lesions, np.ones(SHAPE), white)) == known
        half = (0.5, 1.0, 1.0)
        assert np.isfinite(self.contrast(lesions, np.ones(SHAPE), white, half))

    def test_normal_white_matter_keeps_off_borders_and_lesions(self):
        white = normal_white_matter(slabs(), rod(15, 18), ISOTROPIC)
        along = np.flatnonzero(white[:, 9, 9])
        # White matter is 6 to 31, 35 to 44, and the brain stem follows on to 54.
        expected = [*range(7, 13), *range(20, 31), *range(36, 54)]
        assert along.tolist() == expected

    def test_a_lesion_at_the_border_of_white_matter_erodes_none_of_it(self):
        lesions = rod(4, 8)
        with_lesion = normal_white_matter(slabs(), lesions, ISOTROPIC)
        assert with_lesion[10, 9, 9]
        assert not with_lesion[9, 9, 9]

    def test_a_map_without_white_matter_has_none_that_is_normal(self):
        none = np.zeros(SHAPE, bool)
        assert not normal_white_matter(np.zeros(SHAPE, np.uint8), none, ISOTROPIC).any()
