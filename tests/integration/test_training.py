"""``msapp-train`` on small heads: it learns, goes on where it stopped, and exports a model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from msapp.cli.train import main
from msapp.errors import MissingDependencyError, UsageError
from msapp.models.registry import load_network, load_spec
from msapp.models.spec import Named
from msapp.synthesis.heads import NAMES, Head, source_of
from msapp.synthesis.lesion_bank import SHAPE, LesionBank
from msapp.training import fit, module, patients
from msapp.training.data import make_pair_settings, make_settings
from msapp.training.module import dice_per_class
from msapp.training.recipe import RECIPES, load_recipe

TRAIN = Path(sys.executable).with_name('msapp-train')
STEPS = 24
RECIPE = """
name = "small"
version = "0.0.1"
task = "anatomy"
spacing_mm = 4.0
normalisation = "head"
window = [32, 32, 32]
classes = ["background", "ventricles", "csf", "cortex", "white_matter", "deep_grey", "brain_stem",
           "cerebellum"]
licence = "none"
intended_use = "tests"

[[channels]]
name = "any"

[architecture]
name = "headed_unet"
arguments = {in_channels = 1, out_channels = 8, channels = [8, 16, 16], num_res_units = 1}

[loss]
name = "dice_ce"

[generator]
missing = 0.0
stripped = 0.0

[data]
heads = "heads"
held_out_heads = ["c"]

[schedule]
steps = 24
learning_rate = 0.01
warm_up = 2
average = 0.5
validate_every = 12
validation_samples = 2
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data of three balls that are called heads, already prepared, and a recipe."""
    root = tmp_path_factory.mktemp('training')
    (root / 'data' / 'heads').mkdir(parents=True)
    cache = root / 'out' / 'cache' / 'heads'
    for number, name in enumerate('abc'):
        points = np.indices((40, 40, 40)) - 19.5
        radius = np.linalg.norm(points, axis=0) * (1 + 0.05 * number)
        tissues = np.digitize(-radius, [-18.0, -15.0, -10.0, -5.0]).astype(np.uint8)
        affine = np.diag([3.0, 3, 3, 1])
        affine[:3, 3] = -58.5
        path = root / 'data' / 'heads' / f'{name}.nii.gz'
        nib.save(nib.Nifti1Image(tissues, affine), path)
        # What is prepared is not read again.
        Head(name, tissues, affine, np.eye(4), source_of(path)).save(cache / f'{name}.npz')
    (root / 'recipe.toml').write_text(RECIPE)
    return root


def arguments(folder, *flags):
    paths = [folder / 'recipe.toml', folder / 'out', '--data', folder / 'data']
    return [*paths, '--threads', '1', '--workers', '0', '--device', 'cpu', *flags]


def train(folder, *flags):
    command = [TRAIN, *arguments(folder, *flags)]
    return subprocess.run(
        [str(item) for item in command], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope='module')
def trained(folder):
    """Two parts of one training."""
    first = train(folder, '--steps', STEPS // 2)
    assert first.returncode == 0, first.stderr
    second = train(folder)
    assert second.returncode == 0, second.stderr
    (folder / 'out' / 'said.txt').write_text(second.stderr)
    return folder / 'out'


def test_a_second_call_goes_on_where_the_first_stopped(trained):
    logs = sorted(path.name for path in (trained / 'log').iterdir())
    assert logs == ['from-000000', f'from-{STEPS // 2:06}']
    kept = torch.load(trained / 'checkpoints' / 'last.ckpt', weights_only=False)
    assert kept['global_step'] == STEPS


def test_it_says_where_it_goes_on(trained):
    assert f'training begins at step {STEPS // 2} of {STEPS}' in (trained / 'said.txt').read_text()


def test_it_learns(trained):
    parts = [pd.read_csv(path) for path in sorted(trained.glob('log/*/metrics.csv'))]
    losses = pd.concat(parts)['validation_loss'].dropna().tolist()
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_pictures_are_drawn(trained):
    for name in ('feed.png', 'curves.png'):
        assert (trained / name).read_bytes().startswith(b'\x89PNG')


def test_the_model_says_what_it_was_trained_on_and_runs(trained):
    spec = load_spec(trained / 'model')
    assert spec.training.synthetic_only
    assert [item.n for item in spec.training.data] == [2]  # the third head is held out
    assert spec.validation == ()
    with torch.inference_mode():
        logits = load_network(spec)(torch.zeros(1, 1, 32, 32, 32))
    assert logits.shape == (1, 8, 32, 32, 32)


def test_the_exported_weights_are_the_running_mean(trained):
    kept = torch.load(trained / 'checkpoints' / 'last.ckpt', weights_only=False)
    mean = {k.removeprefix('network.'): v for k, v in kept['state_dict'].items()}
    exported = load_network(load_spec(trained / 'model')).state_dict()
    last = kept['current_model_state']
    name = 'head.bias'
    # Half precision on disk.
    assert torch.allclose(exported[name], mean[name], atol=1e-3)
    assert not torch.equal(mean[name], last[f'network.{name}'])


def test_a_call_after_the_end_changes_no_weight(folder, trained):
    """It takes no step, so nothing hands the running mean over."""
    before = load_network(load_spec(trained / 'model')).state_dict()
    for flags in ((), ('--max-minutes', '1')):
        assert main([str(item) for item in arguments(folder, *flags)]) == 0
        for name, tensor in load_network(load_spec(trained / 'model')).state_dict().items():
            assert torch.equal(tensor, before[name])


def test_each_call_has_its_own_minutes(folder, trained, tmp_path):
    shutil.copytree(trained / 'cache', tmp_path / 'cache')
    given = [folder / 'recipe.toml', tmp_path, '--data', folder / 'data', '--threads', '1']
    steps = []
    for _ in range(2):
        flags = ['--workers', '0', '--device', 'cpu', '--steps', '9999', '--max-minutes', '0.02']
        assert main([str(item) for item in (*given, *flags)]) == 0
        kept = torch.load(tmp_path / 'checkpoints' / 'last.ckpt', weights_only=False)
        steps.append(kept['global_step'])
    assert 0 < steps[0] < steps[1]


def test_a_training_without_a_log_is_exported_all_the_same(folder, trained, tmp_path):
    for kept in ('cache', 'checkpoints'):
        shutil.copytree(trained / kept, tmp_path / kept)
    given = [folder / 'recipe.toml', tmp_path, '--data', folder / 'data', '--threads', '1']
    assert main([str(item) for item in (*given, '--workers', '0', '--device', 'cpu')]) == 0
    assert not (tmp_path / 'curves.png').exists()
    exported, before = (
        load_network(load_spec(p / 'model')).state_dict() for p in (tmp_path, trained)
    )
    assert all(torch.equal(exported[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ('flags', 'named'),
    [(['--learning-rate', '1e-5'], '"learning_rate": 1e-05'), (['--from', 'anatomy'], '"from"')],
)
def test_a_training_of_other_settings_is_not_gone_on_with(folder, trained, flags, named):
    before = (trained / 'model' / 'weights.safetensors').read_bytes()
    answer = train(folder, *flags)
    assert answer.returncode == 2
    assert 'holds a training of other settings' in answer.stderr
    assert named in answer.stderr
    assert (trained / 'model' / 'weights.safetensors').read_bytes() == before


def test_a_training_of_other_label_maps_is_not_gone_on_with(folder, trained, tmp_path, capsys):
    shutil.copytree(folder / 'data', tmp_path / 'data')
    shutil.copytree(trained, tmp_path / 'out')
    (tmp_path / 'data' / 'heads' / 'a.nii.gz').write_bytes(b'another')
    given = [folder / 'recipe.toml', tmp_path / 'out', '--data', tmp_path / 'data']
    assert main([str(item) for item in given]) == 2
    assert '"drawn_from"' in capsys.readouterr().err


def test_an_interrupted_training_says_what_to_do(folder, trained, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Segmentation, 'training_step', interrupt)
    shutil.copytree(trained / 'cache', tmp_path / 'cache')
    given = [folder / 'recipe.toml', tmp_path, '--data', folder / 'data', '--threads', '1']
    assert main([str(item) for item in (*given, '--workers', '0', '--device', 'cpu')]) == 130
    assert 'Run the same command again' in capsys.readouterr().err


def test_part_of_the_starting_weights_can_be_kept(folder, trained, tmp_path):
    exported = {}
    for share in ('0', '0.25', '1'):
        out = tmp_path / share
        shutil.copytree(trained / 'cache', out / 'cache')
        given = [folder / 'recipe.toml', out, '--data', folder / 'data', '--threads', '1']
        flags = ['--workers', '0', '--device', 'cpu', '--steps', '2', '--keep-start', share]
        command = [*given, *flags, '--from', trained / 'model']
        assert main([str(item) for item in command]) == 0
        exported[share] = load_network(load_spec(out / 'model')).state_dict()
    for name, start in load_network(load_spec(trained / 'model')).state_dict().items():
        torch.testing.assert_close(exported['1'][name], start)
        mean = 0.75 * exported['0'][name] + 0.25 * start
        # Half precision on disk.
        torch.testing.assert_close(exported['0.25'][name], mean, atol=1e-3, rtol=1e-3)
    assert (exported['0']['head.bias'] != exported['1']['head.bias']).any()


def test_a_variance_head_can_be_added_and_nothing_else_learns(folder, trained, tmp_path):
    recipe, exported = tmp_path / 'recipe.toml', []
    recipe.write_text(RECIPE.replace('units = 1}', 'units = 1, variance_head = true}'))
    for steps in ('1', '4'):
        out = tmp_path / steps
        shutil.copytree(trained / 'cache', out / 'cache')
        given = [recipe, out, '--data', folder / 'data', '--threads', '1', '--workers', '0']
        flags = ['--device', 'cpu', '--steps', steps, '--from', trained / 'model']
        assert main([str(item) for item in (*given, *flags, '--only', 'variance_head')]) == 0
        assert load_spec(out / 'model').predicts_variance
        exported.append(load_network(load_spec(out / 'model')).state_dict())
    before = load_network(load_spec(trained / 'model')).state_dict()
    added = exported[0].keys() - before.keys()
    assert added == {'variance_head.weight', 'variance_head.bias'}
    for name, weights in exported[0].items():
        assert torch.equal(exported[1][name], weights) == (name not in added), name
        assert name in added or torch.equal(before[name], weights), name


def test_a_part_that_is_not_there_is_refused(folder):
    recipe = load_recipe(str(folder / 'recipe.toml'), {'only': 'tail'})
    with pytest.raises(UsageError, match=r'^--only .*no part "tail"\. Choose one of unet, head'):
        module.Segmentation(recipe)


def test_a_recipe_with_one_part_that_learns_needs_a_start_too(folder, tmp_path, capsys):
    recipe = tmp_path / 'recipe.toml'
    recipe.write_text(RECIPE.replace('[schedule]', '[schedule]\nonly = "head"'))
    command = [recipe, tmp_path / 'out', '--data', folder / 'data', '--device', 'cpu']
    assert main([str(item) for item in command]) == 2
    assert '--only (schedule.only in the recipe) needs --from' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert main(['lesions', str(tmp_path / 'file' / 'x'), '--data', str(tmp_path)]) == 70
    error = capsys.readouterr().err
    assert error.startswith(f'msapp-train: error: {tmp_path / "file" / "x"}')
    assert error.endswith(': Not a directory.\n')


def test_a_model_of_another_architecture_is_refused(folder, trained, tmp_path, capsys):
    shutil.copytree(trained / 'cache', tmp_path / 'cache')
    given = [folder / 'recipe.toml', tmp_path, '--data', folder / 'data', '--workers', '0']
    command = [*given, '--device', 'cpu', '--steps', '2', '--from', 'anatomy']
    assert main([str(item) for item in command]) == 2
    assert '--from names a model of another architecture' in capsys.readouterr().err
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
    ('flags', 'message', 'code'),
    [
        (['--keep-start', '2', '--from', 'lesions'], '--keep-start 2: must be between 0 and 1', 2),
        (['--keep-start', '0.5'], '--keep-start needs --from', 2),
        (['--only', 'head'], '--only (schedule.only in the recipe) needs --from', 2),
        (['--max-minutes', '0'], '--max-minutes 0: must be above 0', 2),
        (['--max-minutes', 'nan'], '--max-minutes nan: must be above 0', 2),
        (['--random-seed', '-1'], '--random-seed -1: must be a whole number from 0 on', 2),
        (['--workers', '-1'], '--workers -1: must be a whole number from 0 on', 2),
        (['--threads', '0'], '--threads 0: must be a whole number from 1 on', 2),
        (['--fold', 'x'], '--fold x: not in the recipe', 2),
        (['--from', 'nothing'], 'nothing', 69),
        (['--device', 'cuda'], 'GPU', 69),
    ],
)
def test_what_cannot_be_is_said(folder, trained, capsys, flags, message, code):
    if '--device' in flags and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    assert main([str(item) for item in arguments(folder, *flags)]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('in_channels = 1', 'in_channels = 2', 'in_channels is 2, but there are 1 channels'),
        ('[32, 32, 32]', '[30, 30, 30]', 'window: all sides must be multiples of 4'),
        ('["c"]', '["a", "b", "c"]', 'data.held_out_heads: all heads are held out'),
    ],
)
def test_a_recipe_that_no_model_can_be_made_of_is_refused(
    folder, trained, tmp_path, capsys, old, new, message
):
    assert RECIPE.count(old) == 1
    (tmp_path / 'recipe.toml').write_text(RECIPE.replace(old, new))
    shutil.copytree(trained / 'cache', tmp_path / 'cache')
    given = [tmp_path / 'recipe.toml', tmp_path, '--data', folder / 'data', '--device', 'cpu']
    assert main([str(item) for item in given]) == 2
    assert message in capsys.readouterr().err


def test_what_nothing_foresaw_is_told_as_a_bug(folder, monkeypatch, capsys):
    monkeypatch.setattr(fit, 'train', lambda *_, **__: 1 / 0)
    assert main([str(item) for item in arguments(folder)]) == 70
    said = capsys.readouterr().err
    assert 'msapp-train: internal error: ZeroDivisionError' in said
    trace = Path(said.split('Traceback: ')[1].strip())
    assert 'test_training.py' in trace.read_text()
    trace.unlink()


@pytest.mark.parametrize('has_it', [True, False])
def test_a_cpu_without_bf16_is_named(folder, monkeypatch, capsys, has_it):
    monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: has_it)
    monkeypatch.setattr(fit, 'train', lambda *_, **given: Path(f'bf16={given["bfloat16"]}'))
    assert main([str(item) for item in arguments(folder, '--precision', 'bf16')]) == 0
    said = capsys.readouterr()
    assert 'bf16=True' in said.out
    assert ('this CPU does not have it' in said.err) != has_it


@pytest.mark.parametrize('path', sorted(RECIPES.glob('*.toml')), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = load_recipe(path.stem)
    make = make_pair_settings if recipe.task == 'longitudinal' else make_settings
    settings = make(recipe)
    assert settings.shape == recipe.window
    for case in recipe.data.real:
        assert set(case.images) <= {channel.name for channel in recipe.channels}
    data = recipe.data
    for fold in data.folds.values():
        assert set(fold) <= {
            item.name for item in (*data.real, *data.brains, *data.pairs, *data.visits)
        }


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('window = 3', 'window'),
        ('colour = "red"', 'colour: Extra inputs'),
        ('name =', 'not a valid TOML'),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path, change, message):
    path = tmp_path / 'recipe.toml'
    path.write_text(re.sub('window = .*', '', RECIPE).replace('task', f'{change}\ntask', 1))
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_those_there_are():
    with pytest.raises(UsageError, match='anatomy, hybrid, lesions'):
        load_recipe('nothing')


def test_an_unknown_field_of_the_generator_is_named(tmp_path):
    path = tmp_path / 'recipe.toml'
    path.write_text(RECIPE.replace('[generator]', '[generator]\nsmell = 1'))
    with pytest.raises(UsageError, match='generator: unknown smell'):
        make_settings(load_recipe(str(path)))


def test_dice_per_class_leaves_out_what_is_nowhere():
    logits = torch.zeros(1, 3, 1, 1, 4)
    logits[0, 1, 0, 0, :2] = 5
    target = torch.tensor([[[[[1, 0, 0, 0]]]]])
    scores = dice_per_class(logits, target)
    assert scores[0] == pytest.approx(2 / 3)
    assert torch.isnan(scores[1])


# --- The hybrid method ---------------------------------------------------------------------------


@pytest.fixture
def ball():
    """A ball of white matter in fluid, the world's origin in its middle."""
    radius = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
    tissues = np.zeros(radius.shape, np.uint8)
    for name, limit in (('scalp', 30), ('csf', 26), ('white_matter', 24)):
        tissues[radius < limit] = NAMES.index(name)
    affine = np.eye(4)
    affine[:3, 3] = -31.5
    return Head('ball', tissues, affine, np.eye(4))


def test_the_hybrid_method_is_trained_and_goes_on(ball, tmp_path, monkeypatch):
    mask = np.zeros(SHAPE, bool)
    mask[100:106, 122:130, 68:76] = True  # about x = 12, y = 0, z = 0 mm
    component = np.argwhere(np.ones((6, 6, 6))) + np.array([89, 138, 70])
    monkeypatch.setattr(fit, 'read_heads', lambda *_: ([ball], [ball]))
    monkeypatch.setattr(fit, 'read_bank', lambda *_: LesionBank([mask], [component]))
    monkeypatch.setattr(fit, 'drawn_from', lambda *_: None)
    whole = load_recipe('hybrid')
    changes = {
        'window': (56, 56, 56),
        'architecture': Named(name='hybrid', arguments={'channels': [4] * 7}),
        'data': whole.data.model_copy(update={'drawn_pairs': 4, 'pairs': ()}),
        'generator': {
            'stripped': 1.0,
            'unchanged': 0.0,
            'enlarged': 1.0,
            'same_scanner': 1.0,
            'shift_mm': 0.0,
            'turn_deg': 0.0,
            'lesions': {'flair': [0.8, 1.0], 'dirty': 0.0},
        },
    }
    changed = {'epochs': 5, 'validation_samples': 2, 'learning_rate': 0.01, 'average': 0.5}
    schedule = whole.schedule.model_copy(update=changed)
    recipe = whole.model_copy(update={**changes, 'schedule': schedule})
    # Stopped as early as can be, it ends its epoch.
    for minutes in (1e-6, None):
        fit.train(recipe, data=tmp_path, out=tmp_path, workers=0, threads=1, max_minutes=minutes)
    parts = [pd.read_csv(path) for path in sorted(tmp_path.glob('log/*/metrics.csv'))]
    assert len(parts) == 2
    assert parts[0]['epoch'].dropna().unique().tolist() == [0]
    assert parts[1]['epoch'].dropna().unique().tolist() == [1, 2, 3, 4]
    first, last = (part['step'].max() + 1 for part in parts)
    assert last == 5 * first
    # One tenth after four epochs, those of the first part among them.
    rates = parts[1]['lr-Adam'].dropna().tolist()
    assert (rates[0], rates[-1]) == pytest.approx((1e-2, 1e-3))
    # In so few steps the running statistics, with which it is validated, do not settle.
    losses = pd.concat(parts)['train_loss'].dropna().tolist()
    assert losses[-1] < losses[0]
    spec = load_spec(tmp_path / 'model')
    assert (spec.architecture.name, spec.threshold) == ('hybrid', 0.75)
    assert spec.training.synthetic_only
    network = load_network(spec)
    assert network(torch.zeros(1, 2, 5, 6, 7), torch.zeros(1, 3, 5, 6, 7)).shape == (1, 1, 5, 6, 7)


@pytest.mark.parametrize(
    ('schedule', 'message'),
    [('', 'either steps or epochs'), ('steps = 3\nepochs = 2', 'either steps or epochs')],
)
def test_a_training_has_one_length(tmp_path, schedule, message):
    path = tmp_path / 'recipe.toml'
    path.write_text(RECIPE.replace('steps = 24', schedule))
    with pytest.raises(UsageError, match=message):
        load_recipe(str(path))


def test_brain_masks_of_real_heads_are_learnt_from(folder, trained, tmp_path):
    """A head named by a fold is left out; without any real head the model says so."""
    points = np.indices((40, 40, 40)) * 4.0 - 78
    ball = (np.linalg.norm(points, axis=0) < 60).astype(np.uint8)
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = -78
    nib.save(nib.Nifti1Image(ball * 100 + points[0] / 10 + 20, affine), tmp_path / 'T1w.nii.gz')
    nib.save(nib.Nifti1Image(ball, affine), tmp_path / 'mask.nii.gz')
    shutil.copytree(trained / 'cache', tmp_path / 'out' / 'cache')
    shutil.copytree(folder / 'data' / 'heads', tmp_path / 'heads')
    brains = '\n[data.folds]\nall = ["p"]\n\n[[data.brains]]\nname = "p"\nimage = "T1w.nii.gz"\n'
    recipe = RECIPE.replace('held_out_heads', 'synthetic_share = 0.5\nheld_out_heads')
    recipe = recipe.replace('\n[schedule]', f'{brains}brain = "mask.nii.gz"\n\n[schedule]')
    (tmp_path / 'recipe.toml').write_text(recipe)
    for flags, synthetic in (((), False), (('--fold', 'all'), True)):
        shutil.rmtree(tmp_path / 'out' / 'checkpoints', ignore_errors=True)
        given = [tmp_path / 'recipe.toml', tmp_path / 'out', '--data', tmp_path, '--steps', '2']
        options = ['--threads', '1', '--workers', '0', '--device', 'cpu', *flags]
        assert main([str(item) for item in (*given, *options)]) == 0
        training = load_spec(tmp_path / 'out' / 'model').training
        assert training.synthetic_only is synthetic
        assert any('brain masks' in item.name for item in training.data) is not synthetic
    assert len(list((tmp_path / 'out' / 'cache' / 'brains').iterdir())) == 1


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A dataset of two patients with masks, a recipe that draws nothing, and no registration."""
    rng = np.random.default_rng(0)
    for name in ('sub-01', 'sub-02'):
        image = rng.uniform(50, 100, (20, 20, 20)).astype(np.float32)
        for folder, ending in ((name, 'FLAIR'), (f'derivatives/manual/{name}', 'mask')):
            path = tmp_path / 'study' / folder / 'anat' / f'{name}_{ending}.nii.gz'
            path.parent.mkdir(parents=True)
            nib.save(nib.Nifti1Image(image, np.diag([5.0, 5, 5, 1])), path)

    def prepare(paths, mask):
        lesions = np.zeros((40, 40, 40), bool)
        lesions[18:24, 18:24, 18:24] = True
        flair = (1 + 0.5 * lesions + rng.normal(0, 0.05, lesions.shape)).astype(np.float32)
        white = np.ones_like(flair)
        return patients.Patient({'FLAIR': flair}, white, lesions, np.eye(4), np.eye(4))

    monkeypatch.setattr(patients, '_prepare', prepare)
    text = (RECIPES / 'lesions.toml').read_text()
    for pattern, new in (
        (r'channels = \[16.*\]', 'channels = [4, 8]'),
        (r'window = .*', 'window = [32, 32, 32]'),
        (r'prior = .*', ''),
        (
            r'(?s)\[data\].*(?=\[schedule\])',
            '[data]\nsynthetic_share = 0\n\n[data.bids]\nfolder = "study"\n'
            'masks = "derivatives/manual"\n\n[data.folds]\nboth = ["sub-01", "sub-02"]\n\n',
        ),
        (r'validate_every = .*', 'validate_every = 5'),
    ):
        text = re.sub(pattern, new, text, count=1)
    (tmp_path / 'recipe.toml').write_text(text)
    return tmp_path


@pytest.mark.parametrize(('fold', 'learnt_from'), [(None, 2), ('sub-01', 1)])
def test_own_patients_alone_are_learnt_from_and_a_fold_is_validated_on(study, fold, learnt_from):
    """Neither label maps nor lesion masks of others are needed, where nothing is drawn."""
    given = [study / 'recipe.toml', study / 'out', '--data', study, '--threads', '1']
    flags = ['--workers', '0', '--device', 'cpu', '--steps', '3']
    flags += ['--fold', fold] if fold else []
    assert main([str(item) for item in (*given, *flags)]) == 0
    spec = load_spec(study / 'out' / 'model')
    assert [(item.name, item.n) for item in spec.training.data] == [
        ('real patients with manual masks', learnt_from)
    ]
    assert not spec.training.synthetic_only
    assert 'Nothing was measured.' in (study / 'out' / 'model' / 'CARD.md').read_text()
    table = pd.read_csv(study / 'out' / 'log' / 'from-000000' / 'metrics.csv')
    measured = {name for name in table if name.startswith('validation')}
    assert measured == ({'validation_loss_real', 'validation_dice_real'} if fold else set())
    if fold:  # at the end, though it is shorter than validate_every
        assert table['validation_dice_real'].dropna().between(0, 1).tolist() == [True]
    assert (study / 'out' / 'curves.png').exists()


def test_a_fold_that_leaves_no_patient_is_refused(study, capsys):
    given = [study / 'recipe.toml', study / 'out', '--data', study, '--fold', 'both']
    assert main([str(item) for item in (*given, '--workers', '0', '--device', 'cpu')]) == 2
    assert 'no real case is left to learn from' in capsys.readouterr().err


def test_what_confirms_new_lesions_must_be_there_before_a_training(tmp_path):
    recipe = load_recipe('newlesions').model_copy(update={'confirmed_by': 'nosuch'})
    with pytest.raises(MissingDependencyError, match='nosuch: no such model is installed'):
        fit.train(recipe, data=tmp_path, out=tmp_path / 'out')


@pytest.mark.parametrize(('name', 'table'), [('lesions', 'brains'), ('anatomy', 'real')])
def test_data_that_cannot_teach_the_task_are_refused(name, table, tmp_path):
    other = (RECIPES / f'{"anatomy" if table == "brains" else "lesions"}.toml').read_text()
    entry = (
        other[other.index(f'[[data.{table}]]') :].partition('\n[[data')[0].partition('\n[sch')[0]
    )
    path = tmp_path / 'recipe.toml'
    path.write_text((RECIPES / f'{name}.toml').read_text() + '\n' + entry)
    with pytest.raises(UsageError, match=rf'data\.{table}: of use for the task'):
        load_recipe(str(path))
