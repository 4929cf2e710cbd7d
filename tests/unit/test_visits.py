"""Real patients' visits: kept, reversed, freed of what is no lesion, left out."""

from __future__ import annotations

import torch

from msapp.training.data import kept_path
from msapp.training.recipe import load_recipe
from msapp.training.visits import FOLDER, Visits, keep_lesions, read_visits, swap_visits


def test_visits_come_back_from_their_file(patient, tmp_path):
    patient.save(tmp_path / 'one.npz')
    again = Visits.load(tmp_path / 'one.npz')
    assert again.name == patient.name
    assert again.paired is True
    assert torch.allclose(again.images, patient.images, atol=1e-3)
    assert torch.equal(again.increase, patient.increase)
    assert (again.affine == patient.affine).all()


def test_in_reverse_what_went_comes(patient):
    swapped = swap_visits(patient)
    assert torch.equal(swapped.increase, patient.decrease)
    assert torch.equal(swapped.images[0], patient.images[1])
    assert swapped.slice_mm.tolist() == [1.0, 4.0]
    came = swapped.increase
    assert (swapped.images[1] > swapped.images[0])[came].all()


def test_regions_that_are_no_lesions_are_dropped(patient):
    lesion = patient.increase.clone()
    patient.increase[30:34, 5:9, 5:9] = True  # as dark as white matter
    patient.increase[30:34, 20:24, 5:9] = True
    patient.images[:, 30:34, 20:24, 5:9] = 1.5  # bright before and after
    kept = keep_lesions(patient)
    assert torch.equal(kept.increase, lesion)
    assert torch.equal(kept.decrease, patient.decrease)


def test_left_out_patients_are_not_even_read(patient, tmp_path):
    made = load_recipe('newlesions')
    entries = [*made.data.pairs, *made.data.visits]
    left = next(entry for entry in entries if entry.name == 'ljub20')
    image = tmp_path / left.image
    image.parent.mkdir(parents=True)
    image.write_bytes(b'an image')
    patient.save(kept_path(tmp_path / FOLDER, left.name, left, [image]))
    out = [entry.name for entry in entries if entry != left]
    read = list(read_visits(made, tmp_path, tmp_path, leave_out=out))
    assert [visits.name for visits in read] == [patient.name]
