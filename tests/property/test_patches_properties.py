"""Properties of merged patches that hold for any patches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msapp.inference.patches import Patch, merge_nearest

many = settings(max_examples=150, deadline=None)
SHAPE = (9, 6, 4)
# Exact in binary, so that the reference below knows the same ties.
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3)


@st.composite
def some_patches(draw) -> list[Patch]:
    """Return patches anywhere in the image, labelled in any order."""
    labels = draw(st.lists(st.integers(1, 50), max_size=8, unique=True))
    patches = []
    for label in labels:
        start = [draw(st.integers(0, side - 1)) for side in SHAPE]
        stop = [draw(st.integers(a + 1, side)) for a, side in zip(start, SHAPE, strict=True)]
        patches.append(Patch(label=label, start=tuple(start), stop=tuple(stop)))
    return patches


def values_of(patches: list[Patch]) -> list[np.ndarray]:
    """Return values that tell patches and voxels apart."""
    return [
        np.random.default_rng(patch.label).random(patch.shape) + patch.label for patch in patches
    ]


def squared_mm(voxel: tuple[int, ...], patch: Patch, spacing: np.ndarray) -> float:
    """Return the squared distance of a voxel from a patch's centre, mm2."""
    centre = (np.add(patch.start, patch.stop) - 1) / 2
    return float((((voxel - centre) * spacing) ** 2).sum())


@many
@given(some_patches(), st.randoms(use_true_random=False), spacings)
def test_the_order_of_patches_does_not_matter(patches, random, spacing_mm):
    result = merge_nearest(SHAPE, patches, values_of(patches), spacing_mm=spacing_mm)
    mixed = random.sample(patches, len(patches))
    again = merge_nearest(SHAPE, mixed, values_of(mixed), spacing_mm=spacing_mm)
    np.testing.assert_array_equal(result, again)


@many
@given(some_patches())
def test_each_value_comes_from_a_patch_around_the_voxel(patches):
    result = merge_nearest(SHAPE, patches, values_of(patches))
    images = np.zeros((len(patches), *SHAPE), np.float32)
    for image, patch, inside in zip(images, patches, values_of(patches), strict=True):
        image[patch.box] = inside
    held = (images > 0).any(axis=0)
    assert (result[~held] == 0).all()
    assert (images == result).any(axis=0)[held].all()


@many
@given(some_patches(), spacings)
def test_each_voxel_has_the_label_that_its_definition_gives(patches, spacing_mm):
    values = [np.full(patch.shape, patch.label) for patch in patches]
    result = merge_nearest(SHAPE, patches, values, spacing_mm=spacing_mm)
    spacing = np.array(spacing_mm)
    for voxel in np.ndindex(*SHAPE):
        ranked = [
            (squared_mm(voxel, patch, spacing), patch.label)
            for patch in patches
            if (np.array(patch.start) <= voxel).all() and (voxel < np.array(patch.stop)).all()
        ]
        assert result[voxel] == (min(ranked)[1] if ranked else 0)
