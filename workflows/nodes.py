"""Nodes: made with their memory, their model and a name; and what those of a graph write."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from msapp.interfaces.outputs import SinkInput, is_own
from msapp.models.registry import ModelSpec, confirming_model

# Memory that holds a few images of the individual grid, GB.
SMALL_GB, LARGE_GB = 1.0, 2.0
FIGURES = 'figures'
# A network of the size that may be shipped, its windows, and torch itself.
NETWORK_GB = 3.0


def make_node(interface: Any, name: str, *, mem_gb: float = SMALL_GB, **inputs: Any) -> pe.Node:
    """Make a node with its memory and its constant inputs."""
    node = pe.Node(interface, name=name, mem_gb=mem_gb, n_procs=1)
    node.inputs.trait_set(**inputs)
    return node


class SinkNode(pe.Node):
    """A node that writes into the output folder, and again where its files are not there any more.

    A file may be gone, or another run may have written it, from another work folder.

    Attributes
    ----------
    files : tuple of Path
        All that it writes.
    """

    files: tuple[Path, ...] = ()

    @property
    def overwrite(self) -> bool:
        """Whether to run although nothing that it depends on has changed."""
        if not all(file.exists() for file in self.files):
            return True
        # Before its graph runs it has no folder.
        return self.base_dir is not None and not is_own(Path(self.output_dir()), self.files)

    @overwrite.setter
    def overwrite(self, _: bool | None) -> None:
        """Nipype sets it; it is not kept."""


def make_sink(interface: Any, node_name: str, files: Sequence[Path], **inputs: Any) -> SinkNode:
    """Make a node that writes files into the output folder."""
    node = SinkNode(interface, name=node_name, mem_gb=SMALL_GB, n_procs=1)
    node.files = tuple(files)
    node.inputs.trait_set(**inputs)
    return node


def make_network_node(interface: Any, name: str, spec: ModelSpec, **inputs: Any) -> pe.Node:
    """Make a node that runs a model, on a GPU where the run has one."""
    described = [item.to_toml() for item in (spec, confirming_model(spec)) if item]
    return make_node(
        interface,
        name,
        mem_gb=NETWORK_GB,
        model=str(spec.folder),
        model_sha256=hashlib.sha256(''.join(described).encode()).hexdigest(),
        use_gpu=True,
        **inputs,
    )


def safe_name(text: str) -> str:
    """Return a node or workflow name for a BIDS label.

    Examples
    --------
    >>> safe_name('ses-1'), safe_name('ce-gadolinium T1w')
    ('ses_1', 'ce_gadolinium_T1w')
    """
    return re.sub(r'\W', '_', text)


def leftovers(graph: pe.Workflow, output_dir: Path, participant: str) -> list[Path]:
    """Return a participant's results that are not of this graph, but of earlier runs.

    Other tasks, another choice of visits or a visit in between leave them behind. Figures are not
    among them, see `remove_old_figures`.

    Parameters
    ----------
    graph : nipype.Workflow
    output_dir : Path
    participant : str
        Label with prefix.
    """
    unplanned = _unplanned(graph, output_dir, participant, '**/*.*')
    return [path for path in unplanned if FIGURES not in path.parts]


def remove_old_figures(graph: pe.Workflow, output_dir: Path, participant: str) -> None:
    """Remove the figures of earlier runs that this graph does not make.

    A report shows what figures there are: beside the numbers of this run they would be false.

    Parameters
    ----------
    graph : nipype.Workflow
    output_dir : Path
    participant : str
        Label with prefix.
    """
    for path in _unplanned(graph, output_dir, participant, f'{FIGURES}/*.*'):
        (output_dir / path).unlink(missing_ok=True)


def _unplanned(graph: pe.Workflow, output_dir: Path, participant: str, pattern: str) -> list[Path]:
    """Return a participant's files, below the output folder, that no sink of a graph writes."""
    part = graph.get_node(f'{safe_name(participant)}_wf')
    nodes = [part.get_node(name) for name in part.list_node_names()]
    planned = {
        _stem(Path(name))
        for node in nodes
        if isinstance(node.inputs, SinkInput)
        for name in (node.inputs.name, *node.inputs.others)
    }
    folder = output_dir / participant
    found = (path.relative_to(output_dir) for path in folder.glob(pattern))
    return sorted(path for path in found if _stem(path) not in planned)


def _stem(path: Path) -> Path:
    """Return what a file shares with its sidecars."""
    return path.with_name(path.name.partition('.')[0])
