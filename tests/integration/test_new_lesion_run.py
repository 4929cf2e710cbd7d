"""A run on two visits with a network for new lesions of the user's own.

The weights of the network say nothing, its way through the app does.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from msapp.lesions.instances import label_instances
from msapp.models.registry import save_model
from msapp.models.spec import ModelSpec
from msapp.networks import build_network
from msapp.synthesis.injection import DIAMETERS_MM

MINIMUM_MM3 = 5.0
ARGUMENTS = {'in_channels': 2, 'out_channels': 1, 'channels': [4, 8], 'num_res_units': 0}
FOUND = 'newlesionssince1'


@pytest.fixture(scope='module')
def bids(fast_phantom, tmp_path_factory):
    """The FLAIRs of two visits."""
    root = tmp_path_factory.mktemp('pair') / 'bids'
    for session in ('ses-1', 'ses-2'):
        (root / 'sub-01' / session / 'anat').mkdir(parents=True)
        for path in (fast_phantom / 'sub-01' / session / 'anat').glob('*_FLAIR.*'):
            shutil.copy(path, root / 'sub-01' / session / 'anat')
    shutil.copy(fast_phantom / 'dataset_description.json', root)
    return root


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A network with random weights, so that some voxels are above the threshold."""
    torch.manual_seed(5)
    spec = ModelSpec(
        name='newmine',
        version='0.2',
        task='longitudinal',
        channels=[{'name': 'previous'}, {'name': 'current'}],
        spacing_mm=(1.0, 1.0, 1.0),
        normalisation={'name': 'white_matter'},
        architecture={'name': 'headed_unet', 'arguments': ARGUMENTS},
        window=(64, 64, 64),
        overlap=0.25,
        threshold=0.55,
        minimum_mm3=MINIMUM_MM3,
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    folder = tmp_path_factory.mktemp('models') / 'newmine'
    return save_model(folder, spec, build_network('headed_unet', ARGUMENTS))


@pytest.fixture(scope='module')
def out(bids, model, call_msapp):
    folder = bids.parent / 'out'
    run = call_msapp(
        bids, folder, 'participant', '--sloppy', '--brain-extraction', 'template',
        '--lesion-model', 'threshold', '--new-lesion-method', model.folder, '--self-check',
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder


def find(out, name):
    (path,) = out.glob(f'sub-01/ses-2/anat/sub-01_ses-2_{name}')
    return path


def voxels(out, name):
    return np.asanyarray(nib.load(find(out, f'{name}.nii.gz')).dataobj)


def test_the_mask_is_about_where_the_probability_reaches_the_threshold(out, model):
    probability = voxels(out, 'space-individual_label-new_desc-since1_probseg')
    mask = voxels(out, 'space-individual_label-new_desc-since1_mask') > 0
    assert mask.any()
    expected = label_instances(probability >= model.threshold, 1.0, minimum_mm3=MINIMUM_MM3)
    assert mask[expected > 0].all()
    assert ndimage.binary_dilation(expected > 0, iterations=6)[mask].all()
    assert ((voxels(out, f'space-individual_desc-{FOUND}_dseg') > 0) == mask).all()


def test_nothing_is_found_outside_the_brain(out):
    brain = voxels(out, 'space-individual_desc-brain_mask') > 0
    assert not voxels(out, 'space-individual_label-new_desc-since1_probseg')[~brain].any()


def test_the_mask_in_orig_has_the_grid_of_the_later_flair(out, bids):
    image = nib.load(find(out, 'space-orig_label-new_desc-since1_mask.nii.gz'))
    raw = nib.load(bids / 'sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz')
    assert image.shape == raw.shape
    assert np.allclose(image.affine, raw.affine, atol=1e-4)


def test_the_sidecar_names_model_weights_and_both_visits(out, model):
    sidecar = json.loads(find(out, 'space-individual_label-new_desc-since1_mask.json').read_text())
    assert (sidecar['Model'], sidecar['ModelSHA256']) == ('newmine', model.weights_sha256)
    assert sidecar['TrainedOnSyntheticDataOnly'] is True
    assert sidecar['ComparedWith'] == 'ses-1'
    assert [Path(source).parts[-3] for source in sidecar['Sources']] == ['ses-1', 'ses-2']


def test_the_tables_count_what_the_images_show(out):
    labels = voxels(out, f'space-individual_desc-{FOUND}_dseg')
    table = pd.read_csv(find(out, 'desc-newlesions_stats.tsv'), sep='\t')
    assert table['volume_mm3'].tolist() == np.bincount(labels.ravel())[1:].tolist()
    assert table['mean_probability'].between(0, 1, inclusive='right').all()
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t').iloc[0]
    assert summary['detected_new_model'] == 'newmine'
    assert summary['detected_new_count'] == len(table)
    assert summary['detected_new_volume_ml'] == pytest.approx((labels > 0).sum() / 1000, rel=1e-4)


def test_only_what_the_network_marked_counts_as_a_new_lesion(out):
    marked = voxels(out, 'space-individual_label-new_desc-since1_mask') > 0
    lesions = voxels(out, 'space-individual_desc-lesions_dseg')
    changes = pd.read_csv(find(out, 'desc-changes_stats.tsv'), sep='\t', dtype=str)
    appeared = changes[changes['labels_before'].isna() | (changes['labels_before'] == 'n/a')]
    assert len(appeared)
    for row in appeared.itertuples():
        inside = lesions == int(row.labels_after)
        assert row.kind == ('new' if marked[inside].mean() > 0.5 else 'unconfirmed')


def test_only_what_it_marked_with_the_visits_exchanged_is_resolved(out):
    gone = voxels(out, 'space-individual_label-gone_desc-since1_mask') > 0
    (path,) = out.glob('sub-01/ses-1/anat/*_space-individual_desc-lesions_dseg.nii.gz')
    before = np.asanyarray(nib.load(path).dataobj)
    changes = pd.read_csv(find(out, 'desc-changes_stats.tsv'), sep='\t', dtype=str)
    went = changes[changes['labels_after'].isna() | (changes['labels_after'] == 'n/a')]
    assert len(went)
    for row in went.itertuples():
        inside = before == int(row.labels_before)
        assert row.kind == ('resolved' if gone[inside].mean() > 0.5 else 'unconfirmed')


def test_the_page_shows_the_places_and_says_what_the_network_is(out):
    page = (out / 'sub-01.html').read_text(encoding='utf-8').replace('&#39;', "'")
    assert "by the network 'newmine'" in page
    assert "The network 'newmine' was trained on synthetic images alone." in page
    for name in ('detected', 'detectedmosaic'):
        assert (out / f'sub-01/figures/sub-01_ses-2_desc-{name}_FLAIR.png').exists()


def test_the_self_check_counts_painted_lesions_of_each_size(out):
    table = pd.read_csv(find(out, 'desc-selfcheck_stats.tsv'), sep='\t')
    assert table['diameter_mm'].tolist() == list(DIAMETERS_MM)
    assert (table['injected_count'] > 0).all()
    assert table['recovered_fraction'].between(0, 1).all()
    assert (table['recovered_count'] <= table['injected_count']).all()
    assert (out / 'sub-01/figures/sub-01_ses-2_desc-selfcheck_FLAIR.png').exists()
    page = (out / 'sub-01.html').read_text(encoding='utf-8')
    assert 'Self-check: how many painted lesions were found' in page


def test_flags_that_need_a_network_for_new_lesions_say_so(bids, tmp_path, call_msapp):
    calls = {
        ('--new-lesion-method', 'candidates', '--self-check'): '--self-check needs a network',
        ('--tasks', 'lesions', '--self-check'): '--self-check needs a network',
        ('--new-lesion-method', 'anatomy'): 'this model is for anatomy, not for longitudinal',
        ('--new-lesion-method', 'nosuch'): 'no such model is installed',
    }
    for flags, message in calls.items():
        run = call_msapp(bids, tmp_path / 'out', 'participant', *flags)
        assert run.returncode == 69
        assert message in run.stderr
        assert 'Traceback' not in run.stderr
