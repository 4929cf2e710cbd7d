"""What tests of drawn and of real pairs of visits share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msapp.synthesis.lesion_bank import SHAPE, LesionBank


@pytest.fixture(scope='module')
def bank():
    """A patient with a lesion on the right, and a component of 125 mm3 in front of the origin."""
    mask = np.zeros(SHAPE, bool)
    mask[100:106, 122:130, 68:76] = True  # about x = 12, y = 0, z = 0 mm
    component = np.argwhere(np.ones((5, 5, 5))) + np.array([89, 138, 70])
    return LesionBank([mask], [component])


@pytest.fixture
def patient():
    """Two visits of white matter in the world of MNI, with a cube that came and one that went."""
    # Of the extra 'training', which other tests do without.
    from msapp.training.visits import Visits

    side = 48
    box = (slice(10, 20),) * 3
    affine = np.eye(4)
    affine[:3, 3] = -side / 2
    images = torch.ones(2, side, side, side)
    images[:, :2] = 0
    increase, decrease = torch.zeros(2, side, side, side).bool()
    increase[box] = True
    images[1][box] = 1.8
    decrease[30:40, 30:40, 30:40] = True
    images[0][decrease] = 1.6
    return Visits(
        name='one',
        images=images,
        white=(images[0] > 0).float(),
        increase=increase,
        decrease=decrease,
        affine=affine,
        from_mni=np.eye(4),
        slice_mm=np.array([4.0, 1.0]),
        paired=True,
    )
