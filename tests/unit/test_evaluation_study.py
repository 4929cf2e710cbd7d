"""Facts about whole evaluations: which files belong together, grids, tables, thresholds, exits."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from msapp.cli import evaluate as command
from msapp.cli.evaluate import main
from msapp.errors import InputError, UsageError
from msapp.evaluation import lesiontables, study
from msapp.evaluation.cases import Case, find_cases, load_case
from msapp.evaluation.columns import BY_RULE, VOXEL, case_columns
from msapp.evaluation.study import (
    Scoring,
    isbi_score,
    score_case,
    score_masks,
    score_study,
    summarize,
)
from msapp.evaluation.thresholds import (
    best_thresholds,
    summarize_sweep,
    sweep_study,
    sweep_thresholds,
)

AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def cubes(*starts, size=3, shape=(30, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    for start in starts:
        mask[start : start + size, 4 : 4 + size, 4 : 4 + size] = 1
    return mask


TRUTH = cubes(2, 10, 18)
FOUND_TWO = cubes(2, 10, 25)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


@pytest.fixture
def case(tmp_path) -> Case:
    prediction = save(tmp_path / 'pred.nii.gz', FOUND_TWO)
    return Case('one', prediction, save(tmp_path / 'truth.nii.gz', TRUTH))


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three visits: perfect, two of three lesions found, and one without lesions."""
    masks = {
        'sub-01_ses-1': (TRUTH, TRUTH),
        'sub-01_ses-2': (FOUND_TWO, TRUTH),
        'sub-02_ses-1': (cubes(5), cubes()),
    }
    for name, (prediction, truth) in masks.items():
        participant, session = name.split('_')
        anat = tmp_path / 'out' / participant / session / 'anat'
        save(anat / f'{name}_space-orig_label-L_mask.nii.gz', prediction)
        save(tmp_path / 'manual' / f'{name}_manual.nii', truth)
    return tmp_path / 'out', tmp_path / 'manual'


class TestMatching:
    def names(self, matches) -> list[tuple[str, str, str]]:
        return [(case.name, case.prediction.name, case.truth.name) for case in matches.cases]

    def test_two_files(self, case):
        matches = find_cases(case.prediction, case.truth)
        assert self.names(matches) == [('pred', 'pred.nii.gz', 'truth.nii.gz')]

    def test_participant_and_session(self, folders):
        matches = find_cases(*folders)
        assert [name for name, *_ in self.names(matches)] == [
            'sub-01_ses-1',
            'sub-01_ses-2',
            'sub-02_ses-1',
        ]
        for case in matches.cases:
            assert case.truth.name.startswith(case.name)
            assert case.prediction.name.startswith(case.name)
        assert matches.only_predicted == matches.only_truth == ()

    def test_the_same_path_outweighs_the_name(self, tmp_path):
        for folder in ('a', 'b'):
            for patient in ('p1', 'p2'):
                save(tmp_path / folder / patient / 'mask.nii.gz', TRUTH)
        matches = find_cases(tmp_path / 'a', tmp_path / 'b')
        assert [case.name for case in matches.cases] == ['p1/mask', 'p2/mask']
        assert all(case.prediction.parent.name == case.truth.parent.name for case in matches.cases)

    def test_the_name_outweighs_the_visit(self, tmp_path):
        save(tmp_path / 'a' / 'sub-1' / 'sub-1_desc-x_mask.nii.gz', TRUTH)
        save(tmp_path / 'a' / 'sub-1' / 'sub-1_desc-y_mask.nii.gz', TRUTH)
        save(tmp_path / 'b' / 'sub-1_desc-x_mask.nii', TRUTH)
        matches = find_cases(tmp_path / 'a', tmp_path / 'b')
        assert self.names(matches)[0][1:] == ('sub-1_desc-x_mask.nii.gz', 'sub-1_desc-x_mask.nii')
        assert [path.name for path in matches.only_predicted] == ['sub-1_desc-y_mask.nii.gz']

    def test_several_files_of_a_visit_must_be_chosen_from(self, folders):
        predictions, truths = folders
        anat = predictions / 'sub-01' / 'ses-1' / 'anat'
        save(anat / 'sub-01_ses-1_space-individual_label-L_mask.nii.gz', TRUTH)
        with pytest.raises(UsageError, match=r'sub-01_ses-1: several.*--prediction-files'):
            find_cases(predictions, truths)
        matches = find_cases(predictions, truths, prediction_glob='*_space-orig_label-L_mask.*')
        assert len(matches.cases) == 3

    def test_what_is_alone_is_told(self, folders):
        predictions, truths = folders
        save(truths / 'sub-03_ses-1_manual.nii', TRUTH)
        save(predictions / 'sub-04' / 'sub-04_mask.nii', TRUTH)
        matches = find_cases(predictions, truths)
        assert len(matches.cases) == 3
        assert [path.name for path in matches.only_truth] == ['sub-03_ses-1_manual.nii']
        assert [path.name for path in matches.only_predicted] == ['sub-04_mask.nii']

    @pytest.mark.parametrize(
        ('predicted', 'true', 'together'),
        [
            (('sub-01/ses-1', 'sub-01/ses-2'), ('sub-01/ses-1', 'sub-02/ses-1'), ['sub-01_ses-1']),
            (('patient01', 'patient02'), ('patient01', 'patient03'), ['patient01/mask']),
            # One participant: month 12 is not month 24.
            (('sub-01/month0', 'sub-01/month12'), ('sub-01/month0', 'sub-01/month24'), ['sub-01']),
        ],
    )
    def test_files_of_one_name_that_are_left_over_are_not_paired(
        self, tmp_path, predicted, true, together
    ):
        for folder, places in (('a', predicted), ('b', true)):
            for place in places:
                save(tmp_path / folder / place / 'mask.nii.gz', TRUTH)
        matches = find_cases(tmp_path / 'a', tmp_path / 'b')
        assert [case.name for case in matches.cases] == together
        assert matches.only_predicted == (tmp_path / 'a' / predicted[1] / 'mask.nii.gz',)
        assert matches.only_truth == (tmp_path / 'b' / true[1] / 'mask.nii.gz',)

    @pytest.mark.parametrize(
        ('predicted', 'true'),
        [('sub-01/ses-1', 'sub-01/ses-2'), ('patient01', 'patient02'), ('sub-01', 'patient02')],
    )
    def test_a_name_alone_does_not_join_two_patients(self, tmp_path, predicted, true):
        save(tmp_path / 'a' / predicted / 'mask.nii.gz', TRUTH)
        save(tmp_path / 'b' / true / 'mask.nii.gz', TRUTH)
        with pytest.raises(UsageError, match=r'not in sub-folders that differ'):
            find_cases(tmp_path / 'a', tmp_path / 'b')

    def test_a_name_of_its_own_is_found_in_any_sub_folder(self, tmp_path):
        for name in ('patient01', 'patient02'):
            save(tmp_path / 'a' / name / f'{name}_mask.nii.gz', TRUTH)
            save(tmp_path / 'b' / f'{name}_mask.nii', TRUTH)
        matches = find_cases(tmp_path / 'a', tmp_path / 'b')
        assert len(matches.cases) == 2
        assert all(case.truth.name[:9] == case.prediction.name[:9] for case in matches.cases)

    def test_hidden_files_and_folders_are_no_cases_and_a_broken_link_is(self, folders):
        predictions, truths = folders
        key = 'MD5E-s9--0a.nii.gz'
        save(truths / '.git' / 'annex' / 'objects' / key / key, TRUTH)
        save(truths / 'sub-01' / '._mask.nii.gz', TRUTH)
        (truths / 'old.nii.gz').mkdir()
        (truths / 'sub-09_manual.nii.gz').symlink_to(f'.git/annex/objects/gone/{key}')
        matches = find_cases(predictions, truths)
        assert len(matches.cases) == 3
        assert matches.only_truth == (truths / 'sub-09_manual.nii.gz',)

    def test_what_cannot_be_paired_is_refused(self, tmp_path, case):
        (tmp_path / 'empty').mkdir()
        save(tmp_path / 'x' / 'a.nii', TRUTH)
        with pytest.raises(UsageError, match='no such file'):
            find_cases(tmp_path / 'none', case.truth)
        with pytest.raises(UsageError, match='two files or two folders'):
            find_cases(tmp_path / 'x', case.truth)
        with pytest.raises(UsageError, match='are the same'):
            find_cases(case.truth, case.truth)
        with pytest.raises(UsageError, match=r'x \(1 images\).*empty \(0 images\)'):
            find_cases(tmp_path / 'x', tmp_path / 'empty')


class TestGrids:
    def moved(self, case: Case, shift_mm: tuple[float, float, float]) -> Case:
        affine = AFFINE.copy()
        affine[:3, 3] += shift_mm
        save(case.prediction, FOUND_TWO, affine)
        return case

    def test_one_grid(self, case):
        images = load_case(case)
        assert images.warning == ''
        assert images.spacing_mm == (1, 1, 2)

    def test_a_header_moved_by_less_than_half_a_voxel_is_told(self, case):
        warning = load_case(self.moved(case, (0.1, 0, 0.8))).warning
        assert 'up to 0.4 voxels apart' in warning
        assert str(case.prediction) in warning
        assert str(case.truth) in warning

    def test_half_a_voxel_is_refused(self, case):
        with pytest.raises(InputError, match=r'0\.5 voxels apart') as error:
            load_case(self.moved(case, (0, 0.5, 0)))
        assert str(case.prediction) in str(error.value)
        assert str(case.truth) in str(error.value)

    def test_another_orientation_is_refused(self, case):
        save(case.prediction, FOUND_TWO, np.diag([1.0, 1.0, 2.0, 1.0]))
        with pytest.raises(InputError, match='58 voxels apart'):
            load_case(case)

    def test_another_shape_is_refused(self, case):
        save(case.prediction, FOUND_TWO[1:])
        with pytest.raises(InputError, match=r'\(29, 12, 12\) and \(30, 12, 12\) differ'):
            load_case(case)

    def test_the_voxel_size_is_that_of_the_truth(self, case):
        save(case.prediction, FOUND_TWO, AFFINE @ np.diag([1.001, 1, 1, 1]))
        assert load_case(case).spacing_mm == (1, 1, 2)

    def test_an_axis_of_length_one_is_dropped(self, case):
        save(case.prediction, FOUND_TWO[..., None])
        assert load_case(case).prediction.shape == TRUTH.shape

    @pytest.mark.parametrize(
        ('data', 'message'),
        [
            (np.full(TRUTH.shape, np.nan, np.float32), 'not finite'),
            (np.zeros((*TRUTH.shape, 2), np.uint8), '3-D one is needed'),
            (np.zeros(TRUTH.shape[:2], np.uint8), '3-D one is needed'),
        ],
    )
    def test_what_is_no_mask_is_refused(self, case, data, message):
        save(case.prediction, data)
        with pytest.raises(InputError, match=message):
            load_case(case)

    def test_files_that_are_no_images_are_refused(self, case):
        case.prediction.write_bytes(b'no image')
        with pytest.raises(InputError, match='cannot be read'):
            load_case(case)
        case.prediction.unlink()
        with pytest.raises(InputError, match='no such file'):
            load_case(case)

    def test_a_damaged_file_is_refused(self, case):
        data = bytearray(case.prediction.read_bytes())
        data[60:70] = b'0123456789'
        case.prediction.write_bytes(data)
        with pytest.raises(InputError, match='cannot be read'):
            load_case(case)
        case.prediction.write_bytes(case.truth.read_bytes()[:80])
        with pytest.raises(InputError, match='cannot be read'):
            load_case(case)

    def test_voxels_without_size_are_refused(self, case):
        for path, data in ((case.prediction, FOUND_TWO), (case.truth, TRUTH)):
            image = nib.Nifti1Image(data, None)
            image.header.set_sform(np.diag([0.0, 1, 1, 1]), 1)
            image.header.set_qform(None, 0)
            path.write_bytes(gzip.compress(image.to_bytes()))
        with pytest.raises(InputError, match='voxels of'):
            load_case(case)

    def test_a_truth_of_fractions_is_refused(self, case):
        save(case.truth, TRUTH * np.float32(0.4))
        with pytest.raises(InputError, match='holds fractions'):
            load_case(case)


class TestScores:
    def test_every_column_is_explained(self):
        row = score_masks(TRUTH > 0, TRUTH > 0, (1, 1, 1), study.RULES)
        assert ['case', *row] == list(case_columns(study.RULES))
        assert set(BY_RULE) == set(study.RULES)
        for column in (VOXEL | BY_RULE['wmh']).values():
            assert column['Units']
            assert column['Source']

    def test_rules_add_their_columns(self):
        row = score_masks(FOUND_TWO > 0, TRUTH > 0, (1, 1, 2), study.RULES)
        assert row['dice'] == row['wmh_dice'] == pytest.approx(2 / 3)
        for name in ('anima_f1', 'wmh_f1', 'ivadomed_f1', 'isbi_ltpr'):
            assert row[name] == pytest.approx(2 / 3)
        assert row['isbi_lfpr'] == pytest.approx(1 / 3)
        assert (row['anima_false_count'], row['anima_false_mm3']) == (1, 54)

    def test_a_label_of_the_truth_can_be_chosen(self, case):
        save(case.truth, cubes(2, 10) + 3 * cubes(25))
        assert score_case(case, Scoring())[0]['dice'] == 1
        assert score_case(case, Scoring(label=3))[0]['dice'] == pytest.approx(0.5)

    def test_wmh_takes_label_2_out(self, case):
        save(case.truth, cubes(2, 10) + 2 * cubes(25))
        row = score_case(case, Scoring(rules=('wmh',), label=1))[0]
        assert (row['wmh_dice'], row['dice']) == (1, pytest.approx(0.8))

    def test_wmh_knows_no_label_3(self, case):
        save(case.truth, 3 * TRUTH)
        with pytest.raises(InputError, match='wmh reads 1'):
            score_case(case, Scoring(rules=('wmh',)))

    def test_probabilities_need_a_threshold_and_masks_do_not(self, case):
        save(case.prediction, FOUND_TWO * np.float32(0.6))
        with pytest.raises(InputError, match='--probability'):
            score_case(case, Scoring())
        assert score_case(case, Scoring(threshold=0.5))[0]['predicted_ml'] > 0
        assert score_case(case, Scoring(threshold=0.7))[0]['predicted_ml'] == 0

    def test_a_probability_of_the_threshold_is_lesion(self, case):
        save(case.prediction, FOUND_TWO * np.float32(0.5))
        assert score_case(case, Scoring(threshold=0.5))[0]['predicted_ml'] > 0

    def test_percentages_are_no_probabilities(self, case):
        save(case.prediction, FOUND_TWO * np.float32(90))
        with pytest.raises(InputError, match='from 0 to 90'):
            score_case(case, Scoring(threshold=0.5))

    def test_settings_are_checked(self):
        with pytest.raises(ValueError, match='rules must be of'):
            Scoring(rules=('anima', 'shifts'))
        with pytest.raises(ValueError, match='threshold must be in'):
            Scoring(threshold=0)


class TestStudy:
    def test_one_bad_case_does_not_stop_the_others(self, folders):
        truths = folders[1]
        bad = truths / 'sub-01_ses-1_manual.nii'
        save(bad, TRUTH[1:])
        result = score_study(find_cases(*folders).cases, Scoring())
        assert result.table['case'].tolist() == ['sub-01_ses-2', 'sub-02_ses-1']
        assert list(result.failures) == ['sub-01_ses-1']
        assert str(bad) in result.failures['sub-01_ses-1']

    def test_a_summary_says_how_many_cases_it_is_of(self, folders):
        result = score_study(find_cases(*folders).cases, Scoring())
        summary = summarize(result.table).set_index('score')
        f1 = summary.loc['anima_f1']
        assert f1['n'] == 2
        assert f1['mean'] == f1['median'] == pytest.approx(5 / 6)
        assert f1['sd'] == pytest.approx(math.sqrt(2) / 6)
        assert summary.loc['dice', 'n'] == 3
        assert summary.loc['dice', 'mean'] == pytest.approx(5 / 9)
        assert summary.loc['anima_false_count', 'mean'] == pytest.approx(2 / 3)

    def test_lesions_of_all_cases(self, folders):
        result = score_study(find_cases(*folders).cases, Scoring())
        counts = result.lesions.groupby(['case', 'mask']).size()
        assert counts['sub-01_ses-1', 'reference'] == 3
        assert counts['sub-02_ses-1', 'prediction'] == 1
        sizes = lesiontables.score_by_size(result.lesions, (0, 50, 100))
        assert sizes['reference_count'].tolist() == [0, 6]
        assert sizes['found_count'].tolist() == [0, 5]
        assert sizes['predicted_count'].tolist() == [0, 7]
        assert sizes['true_count'].tolist() == [0, 5]

    def test_the_isbi_score_of_a_table(self, tmp_path):
        cases = []
        for number, starts in enumerate([(2,), (2, 10), (2, 10, 18)]):
            prediction = save(tmp_path / f'p{number}.nii', cubes(*starts))
            truth = save(tmp_path / f't{number}.nii', cubes(*starts))
            cases.append(Case(str(number), prediction, truth))
        result = score_study(cases, Scoring(rules=('isbi',)))
        assert isbi_score(result.table) == pytest.approx(1)
        assert isbi_score(result.table, inter_rater=0.9) == pytest.approx(100)


def probabilities() -> np.ndarray:
    """Give two true lesions 0.9 and 0.5, and a false one 0.3."""
    values = 0.9 * cubes(2) + 0.5 * cubes(10) + 0.3 * cubes(18)
    return values.astype(np.float32)


class TestThresholds:
    TWO = cubes(2, 10) > 0

    def test_scores_by_threshold(self):
        table = sweep_thresholds(probabilities(), self.TWO, (1, 1, 1), (0.2, 0.4, 0.6, 1.0))
        assert table['threshold'].tolist() == [0.2, 0.4, 0.6, 1.0]
        np.testing.assert_allclose(table['dice'], [0.8, 1, 2 / 3, 0])
        np.testing.assert_allclose(table['anima_f1'], [0.8, 1, 2 / 3, 0])
        np.testing.assert_allclose(table['anima_ppv'], [2 / 3, 1, 1, math.nan])
        assert table['anima_false_count'].tolist() == [1, 0, 0, 0]

    def test_the_scores_are_those_of_a_mask(self):
        values = np.random.default_rng(0).random((20, 20, 10)).astype(np.float32)
        reference = np.random.default_rng(1).random(values.shape) > 0.6
        line = sweep_thresholds(values, reference, (1, 1, 2), [0.5]).iloc[0]
        row = score_masks(values >= 0.5, reference, (1, 1, 2))
        for name in line.index.drop('threshold'):
            assert line[name] == pytest.approx(row[name])

    def test_without_lesions_only_the_false_ones_are_counted(self):
        table = sweep_thresholds(probabilities(), cubes() > 0, (1, 1, 1), (0.2, 1.0))
        assert table[['dice', 'anima_f1', 'anima_ppv']].isna().all(axis=None)
        assert table['anima_false_count'].tolist() == [3, 0]

    def test_the_best_of_each(self):
        means = pd.DataFrame(
            {'threshold': [0.1, 0.5, 0.9], 'dice': [0.2, 0.7, 0.7], 'anima_f1': [0.9, 0.5, 0.4]}
        )
        assert best_thresholds(means) == {'dice': (0.5, 0.7), 'anima_f1': (0.1, 0.9)}
        assert best_thresholds(means.assign(dice=math.nan)) == {'anima_f1': (0.1, 0.9)}

    def test_means_are_of_the_same_cases_at_every_threshold(self, tmp_path):
        truths = {'a': cubes(2, 10), 'b': cubes(2), 'c': cubes()}
        cases = [
            Case(
                name,
                save(tmp_path / f'{name}_p.nii', probabilities()),
                save(tmp_path / f'{name}_t.nii', truth),
            )
            for name, truth in truths.items()
        ]
        save(tmp_path / 'percent.nii', probabilities() * 100)
        cases.append(Case('d', tmp_path / 'percent.nii', cases[0].truth))
        result = sweep_study(cases, (0.4, 1.0))
        assert list(result.failures) == ['d']
        means = summarize_sweep(result.table)
        assert means['n_dice'].tolist() == means['n_anima_f1'].tolist() == [2, 2]
        assert means['dice'].tolist() == [pytest.approx((1 + 2 / 3) / 2), 0]
        assert means['anima_false_count'].tolist() == [1, 0]

    @pytest.mark.parametrize('thresholds', [(), (0,), (0.5, 1.1)])
    def test_thresholds_are_checked(self, thresholds):
        with pytest.raises(ValueError, match='thresholds must be in'):
            sweep_thresholds(probabilities(), self.TWO, (1, 1, 1), thresholds)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False)


class TestCommand:
    def run(self, *arguments) -> int:
        return main([str(argument) for argument in arguments])

    def test_two_files(self, case, capsys):
        assert self.run(case.prediction, case.truth) == 0
        out, err = capsys.readouterr()
        lines = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
        assert lines['dice'] == ['0.666667']
        assert lines['hd95_mm'][1] == 'mm'
        assert lines['anima_false_mm3'] == ['54', 'mm^3']
        assert err == ''

    def test_folders_and_tables(self, folders, tmp_path, capsys):
        output = tmp_path / 'tables' / 'scores.tsv'
        code = self.run(*folders, '--rules', 'anima,wmh,isbi', '--by-size', '--output', output)
        assert code == 0
        out = capsys.readouterr().out
        assert '1 of 3 cases have no true lesion; false lesions in 1 of them, 1 in all' in out
        assert 'ISBI 2015 score' in out
        table = read(output)
        assert table.columns.tolist() == list(case_columns(('anima', 'wmh', 'isbi')))
        assert table['case'].tolist() == ['sub-01_ses-1', 'sub-01_ses-2', 'sub-02_ses-1']
        assert math.isnan(table['anima_f1'][2])
        assert read(output.with_name('scores_summary.tsv'))['n'].max() == 3
        sizes = read(output.with_name('scores_sizes.tsv'))
        assert sizes['reference_count'].tolist() == [0, 6, 0, 0]
        for path in output.parent.glob('*.tsv'):
            dictionary = json.loads(path.with_suffix('.json').read_text())
            assert list(dictionary) == read(path).columns.tolist()

    def test_thresholds(self, tmp_path, capsys):
        prediction = save(tmp_path / 'p.nii', probabilities())
        truth = save(tmp_path / 't.nii', cubes(2, 10))
        output = tmp_path / 'sweep.tsv'
        code = self.run(
            prediction, truth, '--probability', '--threshold', '0.2,0.4,0.6', '--output', output
        )
        assert code == 0
        out = capsys.readouterr().out
        assert 'best mean dice: 1.000 at threshold 0.4' in out
        assert 'too good to be expected of others' in out
        assert read(output)['threshold'].tolist() == [0.2, 0.4, 0.6]
        assert read(tmp_path / 'sweep_summary.tsv')['n_dice'].tolist() == [1, 1, 1]
        assert self.run(prediction, truth, '--probability', '--threshold', '0.6') == 0
        assert 'ppv                                         1' in capsys.readouterr().out

    def test_a_truth_without_prediction_is_a_failure(self, folders, capsys):
        save(folders[1] / 'sub-03_ses-1_manual.nii', TRUTH)
        assert self.run(*folders) == 1
        assert 'sub-03_ses-1_manual.nii: has no prediction' in capsys.readouterr().err

    def test_one_bad_case_is_told_and_the_others_scored(self, folders, capsys):
        save(folders[1] / 'sub-01_ses-1_manual.nii', TRUTH[1:])
        assert self.run(*folders) == 1
        out, err = capsys.readouterr()
        assert 'sub-01_ses-1 could not be scored' in err
        assert 'sub-01_ses-2' in out

    def test_bad_data(self, case, capsys):
        save(case.prediction, FOUND_TWO[1:])
        assert self.run(case.prediction, case.truth) == 65
        err = capsys.readouterr().err
        assert str(case.prediction) in err
        assert str(case.truth) in err
        assert 'Traceback' not in err

    def test_a_header_moved_a_little_is_a_warning(self, case, capsys):
        affine = AFFINE.copy()
        affine[0, 3] += 0.4
        save(case.prediction, FOUND_TWO, affine)
        assert self.run(case.prediction, case.truth) == 0
        assert '0.4 voxels apart' in capsys.readouterr().err

    @pytest.mark.parametrize(
        'flags',
        [
            ('--threshold', '0.5'),
            ('--probability', '--threshold', '0.3,0.5', '--by-size'),
            ('--probability', '--threshold', '0.3,0.5', '--rules', 'wmh'),
        ],
    )
    def test_options_that_do_not_go_together(self, case, flags, capsys):
        assert self.run(case.prediction, case.truth, *flags) == 2
        assert '--threshold' in capsys.readouterr().err

    @pytest.mark.parametrize(
        'flags',
        [
            ('--threshold', '0'),
            ('--threshold', 'half'),
            ('--rules', 'anima,shifts'),
            ('--size-edges', '10,5'),
            ('--output', 'table.csv'),
        ],
    )
    def test_values_are_checked(self, case, flags):
        with pytest.raises(SystemExit) as end:
            self.run(case.prediction, case.truth, *flags)
        assert end.value.code == 2

    def test_what_is_missing(self, case, tmp_path):
        assert self.run(tmp_path / 'none.nii', case.truth) == 2

    def test_a_name_that_the_system_refuses(self, case, tmp_path, capsys):
        path = tmp_path / ('n' * 300)
        assert self.run(path, case.truth) == 70
        assert capsys.readouterr().err == f'msapp-evaluate: error: {path}: File name too long.\n'

    def test_a_table_that_cannot_be_written(self, case, tmp_path, capsys):
        (tmp_path / 'file').write_text('')
        output = tmp_path / 'file' / 'scores.tsv'
        assert self.run(case.prediction, case.truth, '--output', output) == 2
        assert 'cannot write' in capsys.readouterr().err

    def test_a_table_on_a_file_system_that_fails(self, case, tmp_path, capsys, monkeypatch):
        def refuse(*_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr('msapp.files.os.fsync', refuse)
        output = tmp_path / 'scores.tsv'
        assert self.run(case.prediction, case.truth, '--output', output) == 2
        assert capsys.readouterr().err == (
            f'msapp-evaluate: error: {output}: cannot write (Read-only file system). Choose a '
            'folder with write permission and free space.\n'
        )

    def test_its_constants_are_those_of_the_package(self):
        assert command.RULES == study.RULES
        assert command.THRESHOLD == study.THRESHOLD
        assert command.SIZE_EDGES_MM3 == lesiontables.SIZE_EDGES_MM3

    def test_help_is_light_and_knows_its_units(self):
        code = (
            'import sys\n'
            'from msapp.cli.evaluate import main\n'
            'try: main(["--help"])\n'
            'except SystemExit: print("imported", *sys.modules)\n'
        )
        result = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        )
        *text, imported = result.stdout.splitlines()
        heavy = {'numpy', 'scipy', 'pandas', 'nibabel', 'torch', 'monai'}
        assert not heavy & set(imported.split())
        assert {'mm', 'mm3', 'mL', '%'} <= set(re.findall(r'\w+|%', ' '.join(text)))
