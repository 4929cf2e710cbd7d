"""A run with networks: the brain and its zones by msapp's, lesions by one of the user's own.

The weights of the latter say nothing, its way through the app does.
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

from msapp.imaging.tissue import ZONES
from msapp.lesions.instances import label_instances
from msapp.lesions.location import LOCATIONS
from msapp.models.registry import save_model
from msapp.models.spec import ModelSpec
from msapp.networks import build_network

THRESHOLD, MINIMUM_MM3 = 0.6, 5.0
ARGUMENTS = {
    'in_channels': 2,
    'out_channels': 1,
    'channels': [4, 8],
    'num_res_units': 0,
    'dropout': 0.2,
}
SAMPLES = 2
FLAGS = (
    '--tasks', 'lesions', '--brain-extraction', 'network', '--mc-samples', str(SAMPLES), '--sloppy',
)  # fmt: skip


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A network with random weights, so that some voxels are above the threshold."""
    torch.manual_seed(3)
    network = build_network('headed_unet', ARGUMENTS)
    spec = ModelSpec(
        name='mine',
        version='0.3',
        task='lesions',
        channels=[{'name': 'FLAIR'}, {'name': 'T1w', 'may_be_missing': True}],
        spacing_mm=(1.0, 1.0, 1.0),
        normalisation={'name': 'white_matter'},
        architecture={'name': 'headed_unet', 'arguments': ARGUMENTS},
        window=(64, 64, 64),
        overlap=0.25,
        threshold=THRESHOLD,
        minimum_mm3=MINIMUM_MM3,
        supports=('mc-samples',),
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    return save_model(tmp_path_factory.mktemp('models') / 'mine', spec, network)


@pytest.fixture(scope='module')
def bids(fast_phantom, tmp_path_factory):
    """One visit, with FLAIR and T1w."""
    root = tmp_path_factory.mktemp('network') / 'bids'
    visit = Path('sub-01', 'ses-1', 'anat')
    (root / visit).mkdir(parents=True)
    shutil.copy(fast_phantom / 'dataset_description.json', root)
    for path in (fast_phantom / visit).iterdir():
        if path.name.startswith(('sub-01_ses-1_FLAIR', 'sub-01_ses-1_T1w')):
            shutil.copy(path, root / visit)
    return root


@pytest.fixture(scope='module')
def out(bids, model, call_msapp):
    """One run on it."""
    folder = bids.parent / 'out'
    run = call_msapp(
        bids, folder, 'participant', '--participant-label', '01', '--session-label', '1',
        *FLAGS, '--lesion-model', model.folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return folder


def find(out, name):
    (path,) = out.glob(f'sub-01/ses-1/anat/sub-01_ses-1_{name}')
    return path


def test_the_mask_is_where_the_probability_reaches_the_threshold(out):
    image = nib.load(find(out, 'space-individual_label-L_probseg.nii.gz'))
    probability = np.asanyarray(image.dataobj)
    mask = np.asanyarray(nib.load(find(out, 'space-individual_label-L_mask.nii.gz')).dataobj) > 0
    assert mask.any()
    expected = label_instances(probability >= THRESHOLD, 1.0, minimum_mm3=MINIMUM_MM3) > 0
    assert (mask == expected).all()


def test_the_sidecar_names_model_weights_and_sources(out, model):
    sidecar = json.loads(find(out, 'space-individual_label-L_mask.json').read_text())
    assert sidecar['Model'] == 'mine'
    assert sidecar['ModelVersion'] == '0.3'
    assert sidecar['ModelSHA256'] == model.weights_sha256
    assert sidecar['TrainedOnSyntheticDataOnly'] is True
    assert [path.rpartition('_')[2] for path in sidecar['Sources']] == [
        'FLAIR.nii.gz',
        'T1w.nii.gz',
    ]


def test_tables_name_the_model_and_its_probability(out):
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t')
    assert summary['lesion_model'].tolist() == ['mine']
    lesions = pd.read_csv(find(out, 'desc-lesions_stats.tsv'), sep='\t')
    assert len(lesions) == summary['lesion_count'].item()
    assert lesions['mean_probability'].between(THRESHOLD, 1).all()


def test_zones_fill_the_brain_and_have_the_volumes_of_the_table(out):
    zones = np.asanyarray(nib.load(find(out, 'space-individual_desc-zones_dseg.nii.gz')).dataobj)
    image = nib.load(find(out, 'space-individual_desc-brain_mask.nii.gz'))
    brain = np.asanyarray(image.dataobj) > 0
    assert not zones[~brain].any()
    assert (zones[brain] > 0).mean() > 0.99
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t')
    names = pd.read_csv(find(out, 'space-individual_desc-zones_dseg.tsv'), sep='\t')
    assert names['name'].tolist() == list(ZONES)
    for index, name in names.iloc[1:].itertuples(index=False):
        assert summary[f'{name}_ml'].item() == pytest.approx(
            (zones == index).sum() / 1000, rel=1e-4
        )
    assert (out / 'sub-01/figures/sub-01_ses-1_desc-zones_FLAIR.png').exists()
    assert 'Zones of the brain' in (out / 'sub-01.html').read_text(encoding='utf-8')


def test_the_brain_mask_names_its_model(out):
    sidecar = json.loads(find(out, 'space-individual_desc-brain_mask.json').read_text())
    assert (sidecar['Method'], sidecar['Model']) == ('network', 'anatomy')
    assert sidecar['TrainedOnSyntheticDataOnly'] is False


def test_every_lesion_has_a_place(out):
    lesions = pd.read_csv(find(out, 'desc-lesions_stats.tsv'), sep='\t')
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t')
    assert lesions['location'].isin(LOCATIONS).all()
    shares = lesions[[f'{name}_fraction' for name in LOCATIONS]].sum(axis=1)
    assert np.allclose(shares, 1, atol=1e-4)
    for name in LOCATIONS:
        assert summary[f'{name}_lesion_count'].item() == (lesions['location'] == name).sum()
    places = nib.load(find(out, 'space-individual_desc-locations_dseg.nii.gz'))
    mask = nib.load(find(out, 'space-individual_label-L_mask.nii.gz'))
    assert np.array_equal(np.asanyarray(places.dataobj) > 0, np.asanyarray(mask.dataobj) > 0)


def test_samples_give_maps_and_columns_of_uncertainty(out):
    lesions = pd.read_csv(find(out, 'desc-lesions_stats.tsv'), sep='\t')
    for name in ('entropy', 'variance', 'mutual_information'):
        stem = f'space-individual_label-L_desc-{name.replace("_", "")}_probseg'
        values = np.asanyarray(nib.load(find(out, f'{stem}.nii.gz')).dataobj)
        assert 0 <= values.min() < values.max() <= np.log(2) + 1e-6
        assert json.loads(find(out, f'{stem}.json').read_text())['Samples'] == SAMPLES
        assert (lesions[f'{name}_mean'] >= 0).all()
    assert lesions['predicted_variance_mean'].isna().all()


def test_the_report_says_which_network_and_that_it_saw_no_real_image(out):
    page = (out / 'sub-01.html').read_text(encoding='utf-8')
    assert "network 'mine' 0.3" in page.replace('&#39;', "'")
    assert 'trained on synthetic images alone' in page


def test_the_record_holds_the_hash_of_the_weights(out, model):
    (path,) = out.glob('logs/*/models.json')
    models = json.loads(path.read_text())
    assert sorted(models) == ['anatomy', 'lesions']
    assert models['lesions'] == {
        'name': 'mine',
        'version': '0.3',
        'sha256': model.weights_sha256,
    }


def test_another_model_is_not_mistaken_for_this_one(out, model, bids, call_msapp):
    network = build_network('headed_unet', ARGUMENTS)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-9.0)
    changed = model.model_copy(update={'version': '0.4'})
    save_model(model.folder, changed, network)
    run = call_msapp(
        bids, out, 'participant', '--participant-label', '01', '--session-label', '1',
        *FLAGS, '--lesion-model', model.folder,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t')
    assert summary['lesion_count'].tolist() == [0]
