"""Facts about one whole run on the phantom, and about runs that follow it."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from msapp.cli.parser import parse
from msapp.imaging.geometry import (
    displacement_mm,
    individual_grid,
    load_transform,
    mask_points_mm,
    same_grid,
)
from msapp.models.registry import load_spec
from msapp.settings import make_settings

VALIDATOR = Path(sys.executable).with_name('bids-validator-deno')
MNI = 'MNI152NLin2009aSym'
SUFFIXES = {'FLAIR': 'FLAIR', 'T1w': 'T1w', 'T2w': 'T2w', 'ceT1w': 'T1w'}
PAIR_ERROR_MM = 1.0
BRAIN_DICE = 0.85
LARGE_LESION_MM3 = 30.0
CHANCE = 2.0
RERUN_CPU_S = 20.0
# Everything that makes a browser fetch a file; a plain link does not.
FETCHED = re.compile(r"""(?:\bsrc=|<link[^>]*\bhref=|url\(|@import\s+)\s*["']?([^"'\s)>]+)""")


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep='\t', dtype={'session_id': str}, na_values='n/a')


def array(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first > 0, second > 0
    return 2 * float((first & second).sum()) / float(first.sum() + second.sum())


def stem(root: Path, participant: str, session: str) -> str:
    """Give what the names of a visit's files begin with."""
    return str(root / participant / session / 'anat' / f'{participant}_{session}')


def truth_of(root: Path, participant: str, session: str) -> str:
    return stem(root / 'derivatives' / 'truth', participant, session)


def images(out: Path) -> list[Path]:
    return sorted(out.glob('sub-*/ses-*/anat/*.nii.gz'))


def expected_files(
    visits: dict[tuple[str, str], tuple[str, ...]],
) -> Iterator[str]:
    """Give every derivative that the contrasts of the visits call for, figures apart."""
    for (participant, session), contrasts in visits.items():
        prefix = f'{participant}/{session}/anat/{participant}_{session}'
        pictures = []
        for contrast in contrasts:
            suffix = SUFFIXES[contrast]
            agent = '_ce-gadolinium' if contrast == 'ceT1w' else ''
            origin = 'orig' if contrast == 'FLAIR' else suffix
            pictures.append(f'{agent}_space-individual_desc-preproc_{suffix}')
            yield f'{prefix}{agent}_from-{origin}_to-individual_mode-image_xfm.txt'
        yield f'{prefix}_from-individual_to-{MNI}_mode-image_xfm.txt'
        pictures += [f'_space-{space}_desc-brain_mask' for space in ('orig', 'individual')]
        pictures += [f'_space-{space}_label-L_mask' for space in ('orig', 'individual', MNI)]
        pictures.append('_space-individual_label-L_probseg')
        labelled = [
            f'_space-individual_desc-{name}_dseg' for name in ('zones', 'lesions', 'locations')
        ]
        tables = ['summary', 'lesions']
        if session == 'ses-2':
            labelled += [
                f'_space-individual_desc-{name}_dseg'
                for name in ('candidatessince1', 'newlesionssince1', 'change')
            ]
            tables += ['candidates', 'newlesions', 'changes']
            pictures += [
                f'_space-{space}_label-{label}_desc-since1_mask'
                for space in ('orig', 'individual')
                for label in ('newcandidate', 'new')
            ]
            pictures.append('_space-individual_label-new_desc-since1_probseg')
            pictures.append('_space-individual_label-gone_desc-since1_mask')
        yield from (f'{prefix}{name}.tsv' for name in labelled)
        yield from (f'{prefix}_desc-{name}_stats.tsv' for name in tables)
        yield from (f'{prefix}{name}.nii.gz' for name in [*pictures, *labelled])


@pytest.fixture(scope='module')
def log_dir(processed) -> Path:
    """Give the record of the first run."""
    return min((processed.out / 'logs').iterdir())


# --- The run and what it leaves ----------------------------------------------------------------


def test_the_run_names_all_of_its_models(processed):
    path = min(processed.out.glob('logs/*/models.json'))
    used = json.loads(path.read_text(encoding='utf-8'))
    assert used['longitudinal']['name'] == 'newlesions'
    assert used['longitudinal, confirming']['name'] == 'lesions'


def test_the_run_ends_well_with_a_line_for_each_participant(processed):
    assert processed.run.returncode == 0, processed.run.stderr
    lines = processed.run.stdout.splitlines()
    assert [line.partition(', ')[0] for line in lines[:2]] == ['sub-01: done', 'sub-02: done']
    assert lines[2].startswith('group: 4 visits.')
    assert 'Traceback' not in processed.run.stdout + processed.run.stderr


def test_exactly_the_expected_derivatives_are_there(processed):
    expected = set(expected_files(processed.visits))
    folders = processed.out.glob('sub-*/ses-*/anat/*')
    found = {path.relative_to(processed.out).as_posix() for path in folders}
    sidecars = {f'{name.partition(".")[0]}.json' for name in expected if 'dseg.tsv' not in name}
    assert found == expected | sidecars


def test_nothing_half_written_is_left(processed):
    assert list(processed.out.glob('**/*.tmp*')) == []
    assert list(processed.out.glob('**/.*.tmp*')) == []


def test_no_image_of_the_input_was_touched(processed, fast_phantom):
    for path in processed.bids.rglob('*'):
        if path.is_file():
            original = fast_phantom / path.relative_to(processed.bids)
            assert path.read_bytes() == original.read_bytes()


def test_every_image_says_what_it_was_made_from(processed):
    roots = {'bids:raw:': processed.bids, 'bids::': processed.out}

    def resolve(uri: str) -> Path:
        scheme = next(scheme for scheme in roots if uri.startswith(scheme))
        return roots[scheme] / uri.removeprefix(scheme)

    for path in images(processed.out):
        sidecar = json.loads(path.with_name(f'{path.name.partition(".")[0]}.json').read_text())
        assert {'Sources', 'SpatialReference', 'SkullStripped'} <= set(sidecar), path.name
        assert sidecar['Sources'], path.name
        for source in sidecar['Sources']:
            assert resolve(source).is_file(), source
        reference = sidecar['SpatialReference']
        assert reference == MNI or resolve(reference).is_file(), reference
        assert (reference == MNI) == (f'space-{MNI}' in path.name)
        if reference != MNI:
            assert same_grid(nib.load(path), nib.load(resolve(reference))), path.name


def test_skull_stripped_images_are_zero_outside_the_brain_and_no_others_claim_to_be(processed):
    for path in images(processed.out):
        if 'desc-preproc' not in path.name:
            continue
        visit = '_'.join(path.name.split('_')[:2])
        brain = array(path.parent / f'{visit}_space-individual_desc-brain_mask.nii.gz') > 0
        sidecar = json.loads(path.with_name(f'{path.name.partition(".")[0]}.json').read_text())
        assert (not array(path)[~brain].any()) == sidecar['SkullStripped'], path.name


def test_the_output_is_valid_bids(processed):
    if not VALIDATOR.exists():
        pytest.skip('bids-validator-deno is not installed')
    result = subprocess.run(
        [VALIDATOR, str(processed.out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'NO_COLOR': '1'},
    )
    assert result.returncode == 0, result.stdout + result.stderr


# --- Grids, transforms, masks ------------------------------------------------------------------


def test_masks_in_orig_lie_on_the_grid_of_the_flair(processed):
    found = [path for path in images(processed.out) if '_space-orig_' in path.name]
    assert len(found) == 12  # brain and lesions of 4 visits, candidates and new lesions of 2
    for path in found:
        participant, session = path.name.split('_')[:2]
        flair = nib.load(f'{stem(processed.bids, participant, session)}_FLAIR.nii.gz')
        mask = nib.load(path)
        assert mask.shape == flair.shape, path.name
        np.testing.assert_allclose(mask.affine, flair.affine, atol=1e-5, err_msg=path.name)


def test_all_other_images_lie_on_the_mni_grid(processed):
    for path in images(processed.out):
        if '_space-orig_' not in path.name:
            assert same_grid(nib.load(path), individual_grid()), path.name


def test_masks_hold_zero_and_one_only(processed):
    for path in images(processed.out):
        if path.name.endswith('_mask.nii.gz'):
            data = array(path)
            assert data.dtype == np.uint8, path.name
            assert set(np.unique(data)) <= {0, 1}, path.name


@pytest.mark.parametrize('participant', ['sub-01', 'sub-02'])
def test_the_movement_between_visits_is_the_true_one(processed, participant):
    first, second = (
        load_transform(
            Path(
                f'{stem(processed.out, participant, session)}_from-orig_to-individual'
                '_mode-image_xfm.txt'
            )
        )
        for session in ('ses-1', 'ses-2')
    )
    true = load_transform(
        Path(
            f'{truth_of(processed.bids, participant, "ses-2")}_from-orig_to-ses1_mode-image_xfm.txt'
        )
    )
    brain = nib.load(
        f'{truth_of(processed.bids, participant, "ses-1")}_space-orig_desc-brain_mask.nii.gz'
    )
    points = mask_points_mm(brain)
    assert displacement_mm(true, np.eye(4), points).mean() > PAIR_ERROR_MM  # the head did move
    error = displacement_mm(second @ np.linalg.inv(first), true, points).mean()
    assert error < PAIR_ERROR_MM


def test_the_brain_mask_covers_the_true_brain(processed):
    for participant, session in processed.visits:
        name = '_space-orig_desc-brain_mask.nii.gz'
        found = array(Path(stem(processed.out, participant, session) + name))
        true = array(Path(truth_of(processed.bids, participant, session) + name))
        assert dice(found, true) > BRAIN_DICE, f'{participant} {session}'


def test_candidates_touch_half_of_the_large_new_lesions(processed):
    touched, inside, everywhere = [], [], []
    for participant in ('sub-01', 'sub-02'):
        truth = truth_of(processed.bids, participant, 'ses-2')
        labels = array(Path(f'{truth}_space-orig_desc-lesions_dseg.nii.gz'))
        table = read(Path(f'{truth}_space-orig_desc-lesions_dseg.tsv'))
        large = table[(table['new'] == 1) & (table['volume_mm3'] >= LARGE_LESION_MM3)]
        mask = array(
            Path(
                f'{stem(processed.out, participant, "ses-2")}_space-orig_label-newcandidate'
                '_desc-since1_mask.nii.gz'
            )
        )
        brain = array(Path(f'{truth}_space-orig_desc-brain_mask.nii.gz')) > 0
        touched += [bool(mask[labels == index].any()) for index in large['index']]
        inside.append(mask[np.isin(labels, large['index'])].mean())
        everywhere.append(mask[brain].mean())
    assert len(touched) >= 4
    assert np.mean(touched) >= 0.5
    # Not by chance: they fill more of the new lesions than of the brain.
    assert np.mean(inside) > CHANCE * np.mean(everywhere)


# --- Tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kind', 'column', 'description', 'sessions'),
    [
        ('lesions', 'lesion', 'lesions', ('ses-1', 'ses-2')),
        ('candidates', 'candidate', 'candidatessince1', ('ses-2',)),
        ('newlesions', 'new_lesion', 'newlesionssince1', ('ses-2',)),
    ],
)
def test_tables_have_a_row_of_the_right_volume_for_every_label(
    processed, kind, column, description, sessions
):
    for participant, session in processed.visits:
        if session not in sessions:
            continue
        prefix = stem(processed.out, participant, session)
        labels = array(Path(f'{prefix}_space-individual_desc-{description}_dseg.nii.gz'))
        table = read(Path(f'{prefix}_desc-{kind}_stats.tsv'))
        numbers, counts = np.unique(labels[labels > 0], return_counts=True)
        assert table[column].tolist() == numbers.tolist()
        np.testing.assert_allclose(table['volume_mm3'], counts, rtol=1e-5)  # voxels of 1 mm3
        lookup = read(Path(f'{prefix}_space-individual_desc-{description}_dseg.tsv'))
        assert lookup['index'].tolist() == numbers.tolist()


def test_masks_hold_the_same_voxels_as_the_labels(processed):
    for labels in processed.out.glob('sub-*/ses-*/anat/*_dseg.nii.gz'):
        visit = '_'.join(labels.name.split('_')[:2])
        kind = re.search('desc-(lesions|candidates|newlesions)', labels.name)
        if not kind:
            continue
        name = {
            'lesions': 'label-L',
            'candidates': 'label-newcandidate_desc-since1',
            'newlesions': 'label-new_desc-since1',
        }[kind[1]]
        mask = array(labels.parent / f'{visit}_space-individual_{name}_mask.nii.gz')
        np.testing.assert_array_equal(array(labels) > 0, mask > 0)


def test_the_summary_adds_up_the_other_tables(processed):
    for participant, session in processed.visits:
        prefix = stem(processed.out, participant, session)
        summary = read(Path(f'{prefix}_desc-summary_stats.tsv')).iloc[0]
        lesions = read(Path(f'{prefix}_desc-lesions_stats.tsv'))
        brain = array(Path(f'{prefix}_space-individual_desc-brain_mask.nii.gz'))
        assert summary['contrasts'] == ','.join(processed.visits[participant, session])
        assert summary['lesion_count'] == len(lesions)
        assert summary['lesion_volume_ml'] == pytest.approx(lesions['volume_mm3'].sum() / 1000)
        assert summary['brain_volume_ml'] == pytest.approx(brain.sum() / 1000, rel=1e-5)
        if session == 'ses-1':
            assert pd.isna(summary['candidate_count'])
            assert pd.isna(summary['detected_new_count'])
            continue
        found = read(Path(f'{prefix}_desc-newlesions_stats.tsv'))
        assert summary['detected_new_model'] == 'newlesions'
        identities = [load_spec(name).identity for name in ('newlesions', 'lesions')]
        assert summary['detected_new_model_sha256'] == '+'.join(identities)
        assert summary['detected_new_count'] == len(found)
        volume_ml = found['volume_mm3'].sum() / 1000
        assert summary['detected_new_volume_ml'] == pytest.approx(volume_ml)
        candidates = read(Path(f'{prefix}_desc-candidates_stats.tsv'))
        volume_ml = candidates['volume_mm3'].sum() / 1000
        assert summary['since_session'] == summary['lesions_since_session'] == 'ses-1'
        assert summary['candidate_count'] == len(candidates)
        assert summary['candidate_volume_ml'] == pytest.approx(volume_ml)
        changes = read(Path(f'{prefix}_desc-changes_stats.tsv'))
        for kind in ('new', 'enlarged', 'shrunken', 'resolved', 'unconfirmed'):
            assert summary[f'{kind}_lesion_count'] == (changes['kind'] == kind).sum()


def test_changes_account_for_every_lesion_of_both_visits(processed):
    for participant in ('sub-01', 'sub-02'):
        changes = read(Path(f'{stem(processed.out, participant, "ses-2")}_desc-changes_stats.tsv'))
        for session, side in (('ses-1', 'before'), ('ses-2', 'after')):
            lesions = read(
                Path(f'{stem(processed.out, participant, session)}_desc-lesions_stats.tsv')
            )
            named = changes[f'labels_{side}'].dropna().astype(str).str.split(',').explode()
            assert sorted(map(int, map(float, named))) == lesions['lesion'].tolist()
            volume_ml = changes[f'volume_{side}_ml'].sum()
            assert volume_ml == pytest.approx(lesions['volume_mm3'].sum() / 1000, rel=1e-4)
        assert changes['change_ml_per_year'].notna().all()  # the phantom has times


def test_tracks_hold_every_lesion_of_every_visit_once(processed):
    for participant in ('sub-01', 'sub-02'):
        tracks = read(processed.out / participant / f'{participant}_desc-tracks_stats.tsv')
        for session in ('ses-1', 'ses-2'):
            path = Path(f'{stem(processed.out, participant, session)}_desc-lesions_stats.tsv')
            lines = tracks[(tracks['session_id'] == session) & (tracks['label'] > 0)]
            assert lines['identifier'].is_unique
            assert sorted(lines['label']) == read(path)['lesion'].tolist()
        figure = f'{participant}/figures/{participant}_desc-timeline_FLAIR.png'
        assert (processed.out / figure).exists()


def test_no_item_of_the_criteria_rests_on_lesions_half_of_which_are_false(processed):
    for participant in ('sub-01', 'sub-02'):
        table = read(processed.out / participant / f'{participant}_desc-dissemination_stats.tsv')
        assert set(table['state']) == {'not measured'}
        assert table['note'].str.contains("network 'lesions' marks, a share of").all()
        page = (processed.out / f'{participant}.html').read_text(encoding='utf-8')
        assert 'Research use: imaging items of the McDonald criteria 2017' in page


def test_the_change_image_shows_the_lesions_of_this_visit_and_what_resolved(processed):
    for participant in ('sub-01', 'sub-02'):
        before, now = (stem(processed.out, participant, name) for name in ('ses-1', 'ses-2'))
        name = '_space-individual_label-L_mask.nii.gz'
        classes = array(Path(f'{now}_space-individual_desc-change_dseg.nii.gz'))
        later = array(Path(now + name)) > 0
        assert classes[later].all()
        assert not classes[~later & (array(Path(before + name)) == 0)].any()
        lookup = read(Path(f'{now}_space-individual_desc-change_dseg.tsv')).set_index('name')
        assert set(np.unique(classes)) <= set(lookup['index'])
        table = read(Path(f'{now}_desc-changes_stats.tsv'))
        new_ml = table.loc[table['kind'] == 'new', 'volume_after_ml'].sum()
        assert (classes == lookup.loc['new', 'index']).sum() / 1000 == pytest.approx(new_ml)


def test_the_interval_is_that_of_the_sessions_table(processed):
    for participant in ('sub-01', 'sub-02'):
        times = pd.to_datetime(
            read(processed.bids / participant / f'{participant}_sessions.tsv')['acq_time']
        )
        days = (times[1] - times[0]).total_seconds() / 86400
        prefix = stem(processed.out, participant, 'ses-2')
        summary = read(Path(f'{prefix}_desc-summary_stats.tsv')).iloc[0]
        assert summary['interval_days'] == pytest.approx(days, rel=1e-5)


def test_group_tables_hold_every_visit_and_every_row(processed):
    visits = read(processed.out / 'group_desc-visits_stats.tsv')
    found = list(zip(visits['participant_id'], visits['session_id'], strict=True))
    assert found == list(processed.visits)
    for kind in ('lesions', 'changes', 'candidates'):
        group = read(processed.out / f'group_desc-{kind}_stats.tsv')
        single = sorted(processed.out.glob(f'sub-*/ses-*/anat/*_desc-{kind}_stats.tsv'))
        rows = pd.concat([read(path) for path in single], ignore_index=True)
        assert len(group) == len(rows) > 0
        volume = 'volume_after_ml' if kind == 'changes' else 'volume_mm3'
        np.testing.assert_allclose(group[volume], rows[volume])


def test_every_column_has_a_description(processed):
    tables = [*processed.out.glob('*_stats.tsv'), *processed.out.glob('sub-*/**/*_stats.tsv')]
    # The group's; summary and lesions of 4 visits, five kinds of 2 visits or participants.
    assert len(tables) == 5 + 2 * 4 + 5 * 2
    for path in tables:
        dictionary = json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))
        assert list(read(path).columns) == list(dictionary)
        assert all(column['Description'] for column in dictionary.values())


# --- Reports and records -----------------------------------------------------------------------


def test_reports_fetch_nothing_from_the_network_and_no_missing_file(processed):
    pages = [*processed.out.glob('*.html'), *processed.out.glob('sub-*/figures/*.html')]
    assert len(pages) == 3 + 4
    for page in pages:
        # A frame holds a page of its own, escaped once more.
        text = html.unescape(page.read_text(encoding='utf-8'))
        targets = {match[:80] for match in FETCHED.findall(text)}
        files = {name for name in targets if not name.startswith(('data:', '#'))}
        assert not [name for name in files if re.match(r'(?:https?:)?//', name)], page.name
        assert [name for name in files if not (page.parent / name).is_file()] == [], page.name


def test_the_report_names_every_visit_and_image_and_warns_of_sloppiness(processed):
    for participant in ('sub-01', 'sub-02'):
        page = (processed.out / f'{participant}.html').read_text(encoding='utf-8')
        for (owner, session), contrasts in processed.visits.items():
            if owner == participant:
                assert session in page
                for contrast in contrasts:
                    agent = 'ce-gadolinium_' if contrast == 'ceT1w' else ''
                    assert f'{owner}_{session}_{agent}{SUFFIXES[contrast]}.nii.gz' in page
        assert '--sloppy' in page
        assert 'are only as good as these' in page
        assert (
            f'{participant}_ses-2_desc-'
            not in page.partition('Changes: ses-2')[2].partition('Candidates since')[0]
        )  # no figure of the changes is missing
        assert 'not a medical device' in page


def test_the_record_has_the_time_of_every_step(processed, log_dir):
    timings = read(log_dir / 'timings.tsv')
    summary = read(log_dir / 'summary.tsv').set_index('participant_id')
    assert set(timings['status']) == {'done'}
    assert timings.groupby('participant').size().to_dict() == summary['steps_total'].to_dict()
    assert (summary['status'] == 'done').all()
    assert (summary['steps_run'] == summary['steps_total']).all()
    assert timings['cpu_s'].sum() < processed.run.cpu_s


def test_the_settings_of_a_run_repeat_it(processed, log_dir):
    written = log_dir / 'settings.toml'
    assert tomllib.loads(written.read_text())['bids-dir'] == str(processed.bids)
    folders = [str(processed.bids), str(processed.out), 'participant', 'group']
    from_file, _ = parse([*folders, '--config-file', str(written)])
    from_command, _ = parse(list(processed.run.arguments))
    assert make_settings(from_file) == make_settings(from_command)
    assert from_file['sloppy'] is True


# --- Runs that follow ---------------------------------------------------------------------------


def steps(stdout: str) -> dict[str, tuple[int, int]]:
    """Give how many steps each participant ran and reused, from the summary lines."""
    pattern = re.compile(r'^(sub-\w+): done, (\d+) steps run, (\d+) reused', re.MULTILINE)
    return {name: (int(run), int(reused)) for name, run, reused in pattern.findall(stdout)}


def test_a_second_run_runs_nothing(processed):
    before = {path: path.stat().st_mtime_ns for path in images(processed.out)}
    total = {name: run for name, (run, _) in steps(processed.run.stdout).items()}
    again = processed.again()
    assert again.returncode == 0, again.stderr
    assert steps(again.stdout) == {name: (0, count) for name, count in total.items()}
    assert {path: path.stat().st_mtime_ns for path in images(processed.out)} == before
    assert again.cpu_s < RERUN_CPU_S


def test_a_deleted_file_comes_back_alone(processed):
    name = '_space-orig_label-L_mask'
    image = Path(f'{stem(processed.out, "sub-01", "ses-2")}{name}.nii.gz')
    other = Path(f'{stem(processed.out, "sub-01", "ses-1")}{name}.nii.gz')
    data, time_of_other = array(image), other.stat().st_mtime_ns
    image.unlink()
    again = processed.again('--participant-label', '01')
    assert again.returncode == 0, again.stderr
    assert steps(again.stdout)['sub-01'][0] == 1
    np.testing.assert_array_equal(array(image), data)
    assert other.stat().st_mtime_ns == time_of_other


def test_a_deleted_sidecar_comes_back(processed):
    sidecar = Path(f'{stem(processed.out, "sub-01", "ses-1")}_space-orig_label-L_mask.json')
    content = sidecar.read_text()
    sidecar.unlink()
    again = processed.again('--participant-label', '01')
    try:
        assert again.returncode == 0
        assert sidecar.exists()
        assert sidecar.read_text() == content
    finally:
        sidecar.write_text(content)


def test_reports_only_writes_the_reports_anew_and_nothing_else(processed):
    """The page tells what the files were made with, whatever this command asks for."""
    page = processed.out / 'sub-01.html'
    content = page.read_text(encoding='utf-8')
    before = {path: path.stat().st_mtime_ns for path in images(processed.out)}
    page.write_text('spoilt', encoding='utf-8')
    again = processed.again('--reports-only', '--lesion-model', 'threshold', '--random-seed', '7')
    assert again.returncode == 0, again.stderr
    assert page.read_text(encoding='utf-8') == content
    assert {path: path.stat().st_mtime_ns for path in images(processed.out)} == before
