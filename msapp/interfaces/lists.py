"""Nodes that gather files of several steps in a list, and pick one out of a list.

Every other result is stored relative to its step's folder, so that a work folder can be moved. What
these pass on lies in the folders of other steps and keeps its whole path. So the place of the work
folder is part of their hash: in a moved or copied one they run again, and only they.
"""

from __future__ import annotations

from nipype.interfaces import utility as niu
from nipype.interfaces.base import traits
from nipype.interfaces.utility.base import MergeInputSpec, SelectInputSpec


class _MergeInput(MergeInputSpec):
    work_dir = traits.Str(mandatory=True)


class Merge(niu.Merge):
    """nipype's ``Merge`` of the files of one work folder."""

    input_spec = _MergeInput


class _SelectInput(SelectInputSpec):
    work_dir = traits.Str(mandatory=True)


class Select(niu.Select):
    """nipype's ``Select`` from the files of one work folder."""

    input_spec = _SelectInput
