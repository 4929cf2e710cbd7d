"""Facts about the plan of a run: which images of a dataset are used, and which are not and why."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from msapp.bids.files import list_images
from msapp.bids.query import (
    Participant,
    Visit,
    find_participants,
    interval_days,
    not_in_run,
    plan_participants,
    read_filters,
    read_times,
    sort_visits,
)
from msapp.errors import UsageError
from msapp.settings import Settings
from msapp.workflows.base import pair_columns


class Dataset:
    """A small BIDS dataset that grows by its images' names."""

    def __init__(self, root: Path) -> None:
        self.root = root / 'data'
        self.root.mkdir()
        self.write('dataset_description.json', '{"Name": "x", "BIDSVersion": "1.10.0"}')

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def add(
        self, *names: str, voxel_mm: tuple[float, ...] = (10.0, 10.0, 10.0), side_mm: float = 100
    ) -> None:
        """Add images by the last part of their path, the folders follow from the name."""
        for name in names:
            folders = [part for part in name.split('_') if part.startswith(('sub-', 'ses-'))]
            folder = self.root.joinpath(*folders, 'anat')
            folder.mkdir(parents=True, exist_ok=True)
            shape = [round(side_mm / step) for step in voxel_mm]
            data = np.random.default_rng(0).integers(1, 99, shape).astype(np.uint8)
            nib.save(nib.Nifti1Image(data, np.diag([*voxel_mm, 1.0])), folder / f'{name}.nii.gz')

    def settings(self, **values) -> Settings:
        return Settings(
            bids_dir=self.root,
            output_dir=self.root.parent / 'out',
            levels=('participant',),
            **values,
        )

    def plan(self, filters: object = None, **values) -> list[Participant]:
        if filters is not None:
            path = self.root.parent / 'filters.json'
            path.write_text(json.dumps(filters))
            values['bids_filter_file'] = path
        return plan_participants(self.settings(**values))


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Dataset(tmp_path)


def used(visit: Visit) -> dict[str, str]:
    return {contrast: path.name for contrast, path in visit.images.items()}


def sessions(participant: Participant) -> list[str | None]:
    return [visit.session for visit in participant.visits]


class TestNames:
    STEM = 'sub-01_ses-1'

    def advice(self, dataset: Dataset, *names: str) -> dict[str, str]:
        for name in names:
            dataset.write(f'sub-01/ses-1/anat/{name}', '')
        _, left_out = list_images(dataset.root, 'sub-01', 'ses-1')
        return {text.partition(':')[0]: text[text.index('Rename') :] for text in left_out}

    @pytest.mark.parametrize(
        ('wrong', 'right'),
        [
            ('sub-01_ses1_ce-gadolinium_T1w.nii.gz', 'ce-gadolinium_T1w.nii.gz'),
            ('sub-01_T2w.nii.gz', 'T2w.nii.gz'),
            ('sub-01_ses-1_acq-3D_flair.NII.GZ', 'acq-3D_FLAIR.nii.gz'),
            ('SUB-01_Ses-1_T1w.nii.gz', 'T1w.nii.gz'),
            ('sub01_FLAIR.nii.gz', 'FLAIR.nii.gz'),
        ],
    )
    def test_where_the_stem_or_the_case_is_wrong_the_rest_is_kept(self, dataset, wrong, right):
        assert self.advice(dataset, wrong) == {wrong: f'Rename it, as {self.STEM}_{right}.'}

    @pytest.mark.parametrize(
        ('name', 'right', 'other'),
        [
            ('sub-1_ses-1_acq-3D_run-2_FLAIR.nii', 'acq-3D_run-2_FLAIR.nii', 'sub-1'),
            ('sub02_FLAIR.nii.gz', 'FLAIR.nii.gz', 'sub02'),
            ('SUB-02_ses-1_FLAIR.nii.gz', 'FLAIR.nii.gz', 'SUB-02'),
            ('sub-01_ses-2_T1w.nii.gz', 'T1w.nii.gz', 'ses-2'),
            ('sub-02_ses2_T1w.nii.gz', 'T1w.nii.gz', 'sub-02 ses2'),
        ],
    )
    def test_an_image_of_another_visit_is_not_renamed_lightly(self, dataset, name, right, other):
        told = f'Rename it, as {self.STEM}_{right}, if it is an image of sub-01 ses-1, not of '
        assert self.advice(dataset, name) == {name: f'{told}{other}.'}

    @pytest.mark.parametrize(
        'name',
        ['sub-01_ses-1_FLAIR_lesionmask.nii.gz', 'subtraction_FLAIR.nii.gz', 'mask_FLAIR.nii.gz'],
    )
    def test_what_may_be_something_else_gets_no_name(self, dataset, name):
        assert self.advice(dataset, name) == {
            name: 'Rename it if it is a FLAIR image, as '
            f'{self.STEM}[_acq-LABEL][_ce-LABEL]_FLAIR.nii.gz.'
        }

    def test_no_name_is_given_twice(self, dataset):
        names = ('sub-1_ses-1_T1w.nii.gz', 'sub-2_ses-1_T1w.nii.gz', 'sub-2_ses-1_ce-x_T1w.nii.gz')
        first, second, third = self.advice(dataset, *names).values()
        assert first.startswith(f'Rename it, as {self.STEM}_T1w.nii.gz, if')
        assert second.startswith('Rename it if it is a T1w image')
        assert third.startswith(f'Rename it, as {self.STEM}_ce-x_T1w.nii.gz, if')

    def test_the_name_of_another_image_is_never_given(self, dataset):
        wrong, right = 'sub-01_ses1_T1w.nii.gz', f'{self.STEM}_T1w.nii.gz'
        assert self.advice(dataset, wrong, right)[wrong].startswith('Rename it if it is')


class TestImages:
    def test_the_finest_image_is_used_and_the_other_is_named(self, dataset):
        dataset.add('sub-01_run-1_FLAIR', voxel_mm=(10, 10, 12.5))
        dataset.add('sub-01_run-2_FLAIR', voxel_mm=(8, 8, 10))
        (participant,) = dataset.plan()
        (visit,) = participant.visits
        assert used(visit) == {'FLAIR': 'sub-01_run-2_FLAIR.nii.gz'}
        assert visit.left_out == (
            'sub-01_run-1_FLAIR.nii.gz: sub-01_run-2_FLAIR.nii.gz is finer or comes first and is '
            'used. Choose with --bids-filter-file.',
        )

    def test_of_equal_voxel_volumes_the_rounder_is_finer(self, dataset):
        dataset.add('sub-01_run-1_FLAIR', voxel_mm=(5, 5, 10))
        dataset.add('sub-01_run-2_FLAIR', voxel_mm=(6.25, 6.25, 6.4))
        (visit,) = dataset.plan()[0].visits
        assert used(visit) == {'FLAIR': 'sub-01_run-2_FLAIR.nii.gz'}

    def test_rounding_noise_does_not_choose_between_equal_images(self, dataset):
        dataset.add('sub-01_run-1_FLAIR', 'sub-01_run-2_FLAIR')
        path = dataset.root / 'sub-01/anat/sub-01_run-1_FLAIR.nii.gz'
        image = nib.load(path)
        affine = np.diag([10.00001, 10.00001, 9.99998, 1.0])
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), affine), path)
        (visit,) = dataset.plan()[0].visits
        assert used(visit) == {'FLAIR': 'sub-01_run-1_FLAIR.nii.gz'}

    def test_of_equal_images_the_first_name_is_used(self, dataset):
        dataset.add('sub-01_run-2_FLAIR', 'sub-01_run-1_FLAIR')
        (visit,) = dataset.plan()[0].visits
        assert used(visit) == {'FLAIR': 'sub-01_run-1_FLAIR.nii.gz'}

    def test_a_filter_chooses_the_coarser_image(self, dataset):
        dataset.add('sub-01_acq-2D_FLAIR')
        dataset.add('sub-01_acq-3D_FLAIR', voxel_mm=(8, 8, 8))
        (visit,) = dataset.plan({'flair': {'acquisition': '2D'}})[0].visits
        assert used(visit) == {'FLAIR': 'sub-01_acq-2D_FLAIR.nii.gz'}
        assert visit.left_out == ()

    def test_a_filter_may_ask_that_an_entity_is_absent(self, dataset):
        dataset.add('sub-01_FLAIR')
        dataset.add('sub-01_acq-3D_FLAIR', voxel_mm=(8, 8, 8))
        (visit,) = dataset.plan({'flair': {'acquisition': None}})[0].visits
        assert used(visit) == {'FLAIR': 'sub-01_FLAIR.nii.gz'}

    def test_a_filter_of_one_contrast_leaves_the_others(self, dataset):
        dataset.add('sub-01_run-1_T1w', 'sub-01_run-2_T1w', 'sub-01_FLAIR')
        (visit,) = dataset.plan({'T1w': {'run': 2}})[0].visits
        assert used(visit) == {
            'FLAIR': 'sub-01_FLAIR.nii.gz',
            'T1w': 'sub-01_run-2_T1w.nii.gz',
        }

    def test_of_complex_images_the_magnitude_is_used_and_the_rest_named(self, dataset):
        dataset.add('sub-01_FLAIR', 'sub-01_part-phase_T2w', 'sub-01_part-mag_T1w')
        dataset.add('sub-01_part-imag_T1w', voxel_mm=(8, 8, 8))
        (visit,) = dataset.plan()[0].visits
        assert used(visit) == {
            'FLAIR': 'sub-01_FLAIR.nii.gz',
            'T1w': 'sub-01_part-mag_T1w.nii.gz',
        }
        first, second = visit.left_out
        assert first.startswith('sub-01_part-imag_T1w.nii.gz: not used, for it holds the part')
        assert second.startswith('sub-01_part-phase_T2w.nii.gz: not used')

    def test_a_filter_may_ask_for_a_part_of_complex_images(self, dataset):
        dataset.add('sub-01_part-mag_T1w', 'sub-01_part-real_T1w')
        (visit,) = dataset.plan({'t1w': {'part': 'real'}})[0].visits
        assert used(visit) == {'T1w': 'sub-01_part-real_T1w.nii.gz'}
        assert visit.left_out == ()

    def test_t1w_with_contrast_agent_is_a_contrast_of_its_own(self, dataset):
        dataset.add('sub-01_FLAIR', 'sub-01_T1w', 'sub-01_ce-gadolinium_T1w', 'sub-01_T2w')
        (visit,) = dataset.plan()[0].visits
        assert used(visit) == {
            'FLAIR': 'sub-01_FLAIR.nii.gz',
            'T1w': 'sub-01_T1w.nii.gz',
            'T2w': 'sub-01_T2w.nii.gz',
            'ceT1w': 'sub-01_ce-gadolinium_T1w.nii.gz',
        }
        assert visit.left_out == ()

    def test_t1w_with_contrast_agent_alone_is_not_enough(self, dataset):
        dataset.add('sub-01_ce-gadolinium_T1w')
        (participant,) = dataset.plan()
        assert 'neither FLAIR nor T1w found (found: ceT1w)' in participant.error

    @pytest.mark.parametrize(('name', 'contrast'), [('FLAIR', 'FLAIR'), ('T1w', 'T1w')])
    def test_a_visit_is_read_on_flair_else_on_t1w(self, dataset, name, contrast):
        dataset.add(f'sub-01_{name}', 'sub-01_T2w')
        (visit,) = dataset.plan()[0].visits
        assert visit.reference == contrast

    def test_derivatives_and_other_data_are_not_looked_at(self, dataset):
        dataset.add('sub-01_FLAIR')
        for folder in ('derivatives/x/sub-01/anat', 'sourcedata/sub-01/anat', 'sub-01/func'):
            dataset.write(f'{folder}/sub-01_acq-fine_FLAIR.nii.gz', 'not an image')
        (participant,) = dataset.plan()
        assert participant.error is None
        assert used(participant.visits[0]) == {'FLAIR': 'sub-01_FLAIR.nii.gz'}


class TestFilterFile:
    @pytest.mark.parametrize('key', ['t1w_ce', 'ceT1w', 'CET1W'])
    def test_names_of_contrasts(self, tmp_path, key):
        (tmp_path / 'f.json').write_text(json.dumps({key: {'run': 1}}))
        assert read_filters(tmp_path / 'f.json') == {'ceT1w': {'run': 1}}

    def test_none_is_empty(self):
        assert read_filters(None) == {}

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('{"flair": ', 'cannot be read as JSON'),
            ('{"bold": {"run": 1}}', '"bold" is not a contrast with entities. An example'),
            ('{"flair": "3D"}', '"flair" is not a contrast with entities'),
            ('["flair"]', 'is not a contrast with entities'),
        ],
    )
    def test_a_wrong_one_says_what_it_should_be(self, tmp_path, text, message):
        path = tmp_path / 'f.json'
        path.write_text(text)
        with pytest.raises(UsageError, match=message) as caught:
            read_filters(path)
        assert str(caught.value).startswith(str(path))

    def test_a_missing_one(self, tmp_path):
        with pytest.raises(UsageError, match='cannot be read as JSON'):
            read_filters(tmp_path / 'none.json')

    def test_an_unknown_entity_says_so(self, dataset):
        dataset.add('sub-01_acq-3D_FLAIR')
        with pytest.raises(UsageError, match='acq'):
            dataset.plan({'flair': {'acq': '3D'}})

    def test_a_filter_that_leaves_no_image_is_named(self, dataset):
        dataset.add('sub-01_acq-3D_FLAIR', 'sub-01_T1w')
        (participant,) = dataset.plan({'flair': {'acquisition': '2D'}})
        (visit,) = participant.visits
        assert 'FLAIR' in ' '.join([*visit.left_out, *participant.left_out])


class TestVisits:
    def test_they_are_sorted_by_time_against_their_labels(self, dataset):
        dataset.add('sub-01_ses-A_FLAIR', 'sub-01_ses-B_FLAIR')
        dataset.write(
            'sub-01/sub-01_sessions.tsv',
            'session_id\tacq_time\nses-A\t2020-06-01T10:00:00\nses-B\t2019-06-01T10:00:00\n',
        )
        (participant,) = dataset.plan()
        assert sessions(participant) == ['ses-B', 'ses-A']
        assert interval_days(*participant.visits) == 366
        (reason,) = participant.left_out
        assert reason.startswith('By acq_time the order of the visits is ses-B, ses-A, which is ')

    def test_visits_of_one_date_are_sorted_by_label_without_an_interval(self, dataset):
        """Dates anonymised to one day leave times of day, which say nothing of the order."""
        for session, hour in (('1', 15), ('2', '09')):
            dataset.add(f'sub-01_ses-{session}_FLAIR')
            dataset.write(
                f'sub-01/ses-{session}/sub-01_ses-{session}_scans.tsv',
                f'filename\tacq_time\nanat/x.nii.gz\t1900-01-01T{hour}:00:00\n',
            )
        (participant,) = dataset.plan()
        assert sessions(participant) == ['ses-1', 'ses-2']
        (reason,) = participant.left_out
        assert reason.startswith('ses-1, ses-2 have one date (1900-01-01) in acq_time: they are')
        assert pair_columns(*participant.visits)['interval_days'] is None

    def test_times_with_a_zone_are_compared_as_utc(self, dataset):
        dataset.add('sub-01_ses-A_FLAIR', 'sub-01_ses-B_FLAIR')
        dataset.write(
            'sub-01/sub-01_sessions.tsv',
            'session_id\tacq_time\nses-A\t2020-06-02T01:30:00+02:00\nses-B\t2020-06-02T00:30:00Z\n',
        )
        (participant,) = dataset.plan()
        assert sessions(participant) == ['ses-A', 'ses-B']
        assert interval_days(*participant.visits) == pytest.approx(1 / 24)
        assert participant.visits[0].acq_time == '2020-06-01T23:30:00'
        assert not participant.left_out

    def test_times_that_deny_the_order_of_labels_are_told(self, dataset):
        dataset.add('sub-01_ses-A_FLAIR', 'sub-01_ses-B_FLAIR', 'sub-01_ses-C_FLAIR')
        dataset.write(
            'sub-01/sub-01_sessions.tsv',
            'session_id\tacq_time\nses-A\t2020-06-01\nses-B\t2019-06-01\nses-C\tn/a\n',
        )
        (participant,) = dataset.plan()
        assert sessions(participant) == ['ses-A', 'ses-B', 'ses-C']
        assert any('ses-B comes after ses-A by its label' in text for text in participant.left_out)
        previous, current, _ = participant.visits
        assert pair_columns(previous, current)['interval_days'] is None

    @pytest.mark.parametrize(
        'table',
        [
            'session_id\tacq_time\nses-A\t2020-06-01\nses-B\tn/a\n',
            'session_id\tacq_time\nses-A\t2020-06-01\nses-B\tlast spring\n',
            'session_id\nses-A\nses-B\n',
            'session_id\tacq_time\nses-A\t1\t2\t3\nses-B\t2019\t1\n"',
            '',
            '\x00\x01',
        ],
        ids=['one time', 'no time', 'no column', 'ragged', 'empty', 'binary'],
    )
    def test_without_a_time_for_each_they_are_sorted_by_label_and_it_is_said(self, dataset, table):
        dataset.add('sub-01_ses-A_FLAIR', 'sub-01_ses-B_FLAIR')
        dataset.write('sub-01/sub-01_sessions.tsv', table)
        (participant,) = dataset.plan()
        assert participant.error is None
        assert sessions(participant) == ['ses-A', 'ses-B']
        assert any('sorted by their labels' in reason for reason in participant.left_out)
        assert interval_days(*participant.visits) is None

    @pytest.mark.parametrize('note', ['"bad scan', 'slice 3" thick', '""', '"good scan"'])
    def test_a_quote_in_a_table_is_a_sign_like_others(self, dataset, note):
        dataset.write(
            'sub-01/sub-01_sessions.tsv',
            f'session_id\tnote\tacq_time\nses-1\t{note}\t2020-01-01\nses-2\tx\t2020-06-01\n',
        )
        assert read_times(dataset.root, 'sub-01') == {'ses-1': '2020-01-01', 'ses-2': '2020-06-01'}

    def test_cells_that_a_spreadsheet_quoted_are_read(self, dataset):
        table = '"session_id"\t"acq_time"\n"ses-1"\t"2020-01-01"\n'
        dataset.write('sub-01/sub-01_sessions.tsv', table)
        assert read_times(dataset.root, 'sub-01') == {'ses-1': '2020-01-01'}

    def test_a_table_that_is_no_text_is_ignored(self, dataset):
        path = dataset.write('sub-01/sub-01_sessions.tsv', '')
        path.write_bytes(b'session_id\tacq_time\nses-\xff\xfe\t2020\n')
        assert read_times(dataset.root, 'sub-01') == {}

    def test_numbers_in_labels_are_sorted_as_numbers(self, dataset):
        dataset.add(*(f'sub-01_ses-M{month}_FLAIR' for month in (6, 12, 24)))
        assert sessions(dataset.plan()[0]) == ['ses-M6', 'ses-M12', 'ses-M24']

    def test_scans_tsv_stands_in_for_sessions_tsv(self, dataset):
        for session, time in (('A', '2021-01-01'), ('B', '2020-01-01')):
            name = f'sub-01/ses-{session}/sub-01_ses-{session}_scans.tsv'
            dataset.write(name, f'filename\tacq_time\nanat/x.nii.gz\tn/a\nanat/y.nii.gz\t{time}\n')
        assert read_times(dataset.root, 'sub-01') == {'ses-A': '2021-01-01', 'ses-B': '2020-01-01'}
        dataset.write(
            'sub-01/sub-01_sessions.tsv', 'session_id\tacq_time\nses-A\t2019-05-05\nses-B\tn/a\n'
        )
        assert read_times(dataset.root, 'sub-01') == {'ses-A': '2019-05-05', 'ses-B': '2020-01-01'}

    def test_a_participant_without_sessions_has_one_visit(self, dataset):
        dataset.add('sub-01_FLAIR')
        dataset.write(
            'sub-01/sub-01_scans.tsv', 'filename\tacq_time\nanat/sub-01_FLAIR.nii.gz\t2020-01-01\n'
        )
        (visit,) = dataset.plan()[0].visits
        assert (visit.session, visit.name, visit.acq_time) == (None, 'the visit', '2020-01-01')

    def test_a_visit_without_flair_and_t1w_is_left_out_and_the_other_used(self, dataset):
        dataset.add('sub-01_ses-1_FLAIR', 'sub-01_ses-2_T2w')
        (participant,) = dataset.plan()
        assert participant.error is None
        assert sessions(participant) == ['ses-1']
        assert participant.left_out == ('ses-2: neither FLAIR nor T1w found (found: T2w).',)

    def test_only_the_sessions_asked_for_are_used(self, dataset):
        dataset.add('sub-01_ses-1_FLAIR', 'sub-01_ses-2_FLAIR')
        (participant,) = dataset.plan(session_label=('ses-2',))
        assert sessions(participant) == ['ses-2']

    def test_who_has_none_of_the_sessions_asked_for_is_no_part_of_the_run(self, dataset, caplog):
        dataset.add('sub-01_ses-1_FLAIR', 'sub-01_ses-2_FLAIR', 'sub-02_ses-1_FLAIR')
        dataset.add('sub-03_FLAIR')
        dataset.write('sub-04/ses-2/anat/sub-04_ses-2_FLAIR.nii.gz', 'broken')
        with caplog.at_level(logging.INFO, 'msapp'):
            plans = {plan.label: plan for plan in dataset.plan(session_label=('2',))}
        assert plans.keys() == {'sub-01', 'sub-04'}
        assert plans['sub-01'].error is None
        assert plans['sub-04'].error
        sentences = [f'sub-0{n}: has no ses-2; not part of this run.' for n in (2, 3)]
        assert [record.getMessage() for record in caplog.records] == sentences
        assert list(not_in_run(dataset.settings(session_label=('2',))).values()) == sentences
        assert not_in_run(dataset.settings()) == {}

    def test_a_session_that_nobody_has_beside_one_that_exists(self, dataset):
        dataset.add('sub-01_ses-1_FLAIR')
        with pytest.raises(UsageError, match='--session-label: ses-9 not found'):
            dataset.plan(session_label=('1', '9'))

    def test_a_session_that_nobody_has(self, dataset):
        dataset.add('sub-01_ses-1_FLAIR')
        with pytest.raises(UsageError, match='--session-label: ses-9 not found'):
            dataset.plan(session_label=('9',))

    @pytest.mark.parametrize(
        ('first', 'second', 'days'),
        [
            ('2020-02-28T12:00:00', '2020-03-01T00:00:00', 1.5),
            ('2020-01-01', '2021-01-01', 366),
            ('2020-01-02', '2020-01-01', -1),
            ('2020-01-01T09:00:00', '2020-01-01T15:00:00', None),
            (None, '2020-01-01', None),
            ('2020-01-01', None, None),
        ],
    )
    def test_intervals_are_days(self, first, second, days):
        previous, current = (Visit(None, {}, acq_time=time) for time in (first, second))
        assert interval_days(previous, current) == days

    def test_dates_and_times_sort_together(self):
        times = ['2020-01-03', '2020-01-02T23:59:59.5', '2020-01-01']
        visits = [Visit(f'ses-{i}', {}, acq_time=time) for i, time in enumerate(times)]
        assert [visit.session for visit in sort_visits(visits)] == ['ses-2', 'ses-1', 'ses-0']


class TestParticipants:
    @pytest.fixture
    def three(self, dataset) -> Dataset:
        dataset.add('sub-02_FLAIR', 'sub-01_FLAIR', 'sub-10_FLAIR')
        return dataset

    def test_all_are_planned_in_order(self, three):
        assert [plan.label for plan in three.plan()] == ['sub-01', 'sub-02', 'sub-10']

    @pytest.mark.parametrize('labels', [('02', '10'), ('sub-10', '02', 'sub-02')])
    def test_labels_are_taken_with_and_without_prefix(self, three, labels):
        assert find_participants(three.settings(participant_label=labels)) == ['sub-02', 'sub-10']

    def test_a_label_is_no_beginning_of_another(self, three):
        three.add('sub-1_FLAIR')
        (participant,) = three.plan(participant_label=('1',))
        assert used(participant.visits[0]) == {'FLAIR': 'sub-1_FLAIR.nii.gz'}

    def test_an_unknown_label_names_those_that_exist(self, three):
        with pytest.raises(
            UsageError, match=r'--participant-label: sub-77, sub-9 not found in'
        ) as caught:
            three.plan(participant_label=('9', '01', '77'))
        assert str(caught.value).endswith('It holds sub-01, sub-02, sub-10.')

    def test_of_many_labels_the_first_are_named_and_the_rest_counted(self, dataset):
        for number in range(11):
            (dataset.root / f'sub-{number:02}').mkdir()
        with pytest.raises(UsageError, match=r'sub-00, .*, sub-07 and 3 more'):
            dataset.plan(participant_label=('99',))

    def test_an_odd_label_has_an_error_and_the_others_go_on(self, three):
        (three.root / 'sub-a_b!').mkdir()
        plans = {plan.label: plan for plan in three.plan()}
        assert 'only letters and digits, got "a_b!"' in plans['sub-a_b!'].error
        assert all(plans[label].error is None for label in ('sub-01', 'sub-02', 'sub-10'))

    def test_without_any_visit_there_is_an_error(self, three):
        (three.root / 'sub-20' / 'anat').mkdir(parents=True)
        plans = {plan.label: plan for plan in three.plan()}
        assert plans['sub-20'].error == (
            'sub-20: the visit: neither FLAIR nor T1w found (found: nothing). '
            'A FLAIR or a T1w image is needed.'
        )
        assert plans['sub-20'].visits == ()
        assert plans['sub-01'].error is None

    def test_a_broken_image_is_named_with_visit_contrast_and_file(self, three):
        three.add('sub-20_ses-1_FLAIR')
        path = three.root / 'sub-20' / 'ses-1' / 'anat' / 'sub-20_ses-1_FLAIR.nii.gz'
        path.write_bytes(b'broken')
        plans = {plan.label: plan for plan in three.plan()}
        assert plans['sub-20'].error.startswith('sub-20 ses-1 FLAIR: not a readable NIfTI image')
        assert plans['sub-20'].error.endswith(f'File: {path}')
        assert plans['sub-01'].error is None

    def test_a_broken_image_stops_its_participant(self, dataset):
        dataset.add('sub-01_FLAIR')
        path = dataset.write('sub-01/anat/sub-01_T2w.nii.gz', 'broken')
        (participant,) = dataset.plan()
        assert 'sub-01 T2w: not a readable NIfTI image' in participant.error
        assert str(path) in participant.error

    def test_an_image_of_the_cord_beside_those_of_the_brain_is_left_out(self, dataset):
        dataset.add('sub-01_FLAIR')
        dataset.add('sub-01_acq-cord_T2w', voxel_mm=(4.0, 4.0, 4.0), side_mm=40)
        (participant,) = dataset.plan()
        assert participant.error is None
        assert 'T2w' not in participant.visits[0].images
        assert 'the field of view is 40' in ' '.join(participant.visits[0].left_out)

    def test_an_image_of_the_cord_alone_stops_its_participant(self, dataset):
        dataset.add('sub-01_acq-cord_T1w', voxel_mm=(4.0, 4.0, 4.0), side_mm=40)
        (participant,) = dataset.plan()
        assert 'the field of view is 40' in participant.error

    def test_a_broken_image_with_a_sound_one_beside_it_is_left_out(self, dataset):
        dataset.add('sub-01_run-1_FLAIR')
        path = dataset.write('sub-01/anat/sub-01_run-2_FLAIR.nii.gz', 'broken')
        (participant,) = dataset.plan()
        assert participant.error is None
        assert path.name in ' '.join(participant.visits[0].left_out)
