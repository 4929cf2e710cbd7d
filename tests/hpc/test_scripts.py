"""What reaches Apptainer from a job and from the options, with a program that stands in for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from msapp.cli.slurm import main

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'slurm' / 'participant.sbatch'


def arguments_of_apptainer(folder: Path, **values: str) -> list[str]:
    """Run the script for the first participant; return the arguments that Apptainer got."""
    seen, program = folder / 'seen', folder / 'apptainer'
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{seen}"\n')
    program.chmod(0o755)
    labels = folder / 'labels.txt'
    labels.write_text('sub-01\n')
    task = {
        'PATH': f'{folder}:{os.environ["PATH"]}',
        'MSAPP_BIDS': str(folder / 'bids'),
        'MSAPP_OUT': str(folder / 'out'),
        'MSAPP_LABELS': str(labels),
        'MSAPP_IMAGE': 'msapp.sif',
        'SLURM_ARRAY_TASK_ID': '1',
    }
    subprocess.run(['bash', str(SCRIPT)], check=True, env=task | values)
    return seen.read_text().splitlines()


def test_gpus_of_the_job_are_handed_into_the_container(tmp_path):
    arguments = arguments_of_apptainer(tmp_path, CUDA_VISIBLE_DEVICES='1')
    at = arguments.index('--nv')
    assert arguments[at + 1 : at + 4] == ['--env', 'CUDA_VISIBLE_DEVICES=1', 'msapp.sif']


def test_a_job_without_gpus_asks_for_none(tmp_path):
    assert '--nv' not in arguments_of_apptainer(tmp_path)


def test_a_model_given_by_path_is_seen_in_the_container(tmp_path, capsys):
    image, bids, model = tmp_path / 'msapp.sif', tmp_path / 'bids', tmp_path / 'mine'
    image.touch()
    (bids / 'sub-01').mkdir(parents=True)
    call = [str(bids), str(tmp_path / 'out'), '--image', str(image), '--dry-run', '--']
    assert main([*call, '--lesion-model', str(model)]) == 0
    assert f'APPTAINER_BIND={model}"' in capsys.readouterr().out
    assert main([*call, '--lesion-model', './mine']) == 2
    assert 'mine: with --image, paths must be absolute' in capsys.readouterr().err
