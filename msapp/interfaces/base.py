"""What the thin interfaces share: images in a node's own folder, and the lines of tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nipype.interfaces import base
from nipype.interfaces.base import SimpleInterface, TraitedSpec, traits

from msapp.imaging import geometry
from msapp.provenance import programs_digest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ['InterfaceInputSpec', 'NetworkInterfaceInputSpec', 'NodeInterface', 'TraitedSpec']


class InterfaceInputSpec(base.BaseInterfaceInputSpec):
    """Inputs of every step: the code it runs is one of them, else old results would be reused."""

    code = traits.Str(
        programs_digest(), usedefault=True, desc='digest of all code of msapp, and of its libraries'
    )


class NetworkInterfaceInputSpec(InterfaceInputSpec):
    """Inputs of a step that runs a network.

    A workflow sets ``use_gpu`` when it makes the node, always: the engine then gives the step
    a GPU if the run has any, and `msapp.inference.device.current_device` says which. It is not
    part of the step's hash, so a result is reused wherever it was computed.
    """

    use_gpu = traits.Bool(
        False, usedefault=True, nohash=True, desc='take a GPU slot, where there is one'
    )


class NodeInterface(SimpleInterface):
    """A nipype interface whose ``run_function`` returns its outputs as a dictionary."""

    def run_function(self, folder: Path) -> dict[str, Any]:
        """Compute the outputs; files go to ``folder``."""
        raise NotImplementedError

    def _run_interface(self, runtime: Any) -> Any:
        self._results.update(self.run_function(Path(runtime.cwd)))
        return runtime


def load(path: str) -> nib.Nifti1Image:
    """Load an image from the work folder."""
    image: nib.Nifti1Image = nib.load(path)  # type: ignore[assignment]
    return image


def array(path: str) -> np.ndarray:
    """Load an image's data as float32."""
    return np.asanyarray(load(path).dataobj, dtype=np.float32)


def mask_array(path: str) -> np.ndarray:
    """Load a mask as booleans."""
    return np.asanyarray(load(path).dataobj) > 0


def label_array(path: str) -> np.ndarray:
    """Load a label image as whole numbers."""
    return np.asanyarray(load(path).dataobj).astype(np.int32)


def save(data: np.ndarray, grid: nib.spatialimages.SpatialImage, path: Path) -> str:
    """Write an array on a grid and return the path as text."""
    nib.save(geometry.like(data, grid), path)
    return str(path)


def matrix(path: str) -> np.ndarray:
    """Load a transform."""
    return geometry.load_transform(Path(path))


def save_matrix(transform: np.ndarray, path: Path) -> str:
    """Write a transform and return the path as text."""
    geometry.save_transform(path, transform)
    return str(path)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the lines of a table; what is not known is None."""
    known = table.astype(object).where(table.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in known.to_dict('records')]
