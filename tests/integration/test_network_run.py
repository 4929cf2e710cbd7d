"""A run with a network of the user's own: its weights say nothing, its way through the app does."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from msapp.lesions.instances import label_instances
from msapp.models.registry import save_model
from msapp.models.spec import ModelSpec
from msapp.networks import build_network

THRESHOLD, MINIMUM_MM3 = 0.6, 5.0
ARGUMENTS = {'in_channels': 2, 'out_channels': 1, 'channels': [4, 8], 'num_res_units': 0}


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
        training={'synthetic_only': True},
        licence='none',
        intended_use='tests',
    )
    return save_model(tmp_path_factory.mktemp('models') / 'mine', spec, network)


@pytest.fixture(scope='module')
def out(fast_phantom, model, call_msapp, tmp_path_factory):
    """One visit, with FLAIR and T1w."""
    folder = tmp_path_factory.mktemp('network') / 'out'
    run = call_msapp(
        fast_phantom, folder, 'participant', '--participant-label', '01', '--session-label', '1',
        '--tasks', 'lesions', '--lesion-model', model.folder, '--sloppy',
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


def test_the_report_says_which_network_and_that_it_saw_no_real_image(out):
    page = (out / 'sub-01.html').read_text(encoding='utf-8')
    assert "network 'mine' 0.3" in page.replace('&#39;', "'")
    assert 'trained on synthetic images alone' in page


def test_the_record_holds_the_hash_of_the_weights(out, model):
    (path,) = out.glob('logs/*/models.json')
    assert json.loads(path.read_text()) == {
        'lesions': {'name': 'mine', 'version': '0.3', 'sha256': model.weights_sha256}
    }


def test_another_model_is_not_mistaken_for_this_one(out, model, fast_phantom, call_msapp):
    network = build_network('headed_unet', ARGUMENTS)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(-9.0)
    changed = model.model_copy(update={'version': '0.4'})
    save_model(model.folder, changed, network)
    run = call_msapp(
        fast_phantom, out, 'participant', '--participant-label', '01', '--session-label', '1',
        '--tasks', 'lesions', '--lesion-model', model.folder, '--sloppy',
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    summary = pd.read_csv(find(out, 'desc-summary_stats.tsv'), sep='\t')
    assert summary['lesion_count'].tolist() == [0]
