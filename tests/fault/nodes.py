"""Small interfaces that misbehave in the ways real ones do; importable by worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from msapp.errors import InputError


class _InputSpec(BaseInterfaceInputSpec):
    value = traits.Int(0, usedefault=True)
    in_file = File()
    mode = traits.Str('add', usedefault=True)
    marker = traits.Str('', nohash=True)  # nipype would hash the content of the file it names


class _OutputSpec(TraitedSpec):
    value = traits.Int()
    out_file = File(exists=True)


class Toy(SimpleInterface):
    """Add one to ``value`` and to the number in ``in_file``, unless ``mode`` says otherwise."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def _run_interface(self, runtime):
        marker = Path(self.inputs.marker) if self.inputs.marker else None
        if marker is not None:
            with marker.open('a') as stream:
                stream.write('x')
        getattr(self, f'_{self.inputs.mode}')(marker)
        value = self.inputs.value
        if self.inputs.in_file:
            value += int(Path(self.inputs.in_file).read_text())
        self._results['value'] = value + 1
        out_file = Path(runtime.cwd) / 'value.txt'
        out_file.write_text(str(value + 1))
        self._results['out_file'] = str(out_file)
        return runtime

    def _add(self, marker):
        pass

    def _die(self, marker):
        os.kill(os.getpid(), signal.SIGKILL)

    def _die_once(self, marker):
        if len(marker.read_text()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def _raise(self, marker):
        raise ValueError('the toy is broken')

    def _explain(self, marker):
        raise InputError('sub-02 ses-1 FLAIR: 3 volumes found, one is needed.\nName it: really.')

    def _sleep(self, marker):
        time.sleep(60)

    def _compute(self, marker):
        a = np.random.default_rng(0).random((6000, 6000))
        a @ a @ a @ a @ a @ a @ a @ a  # minutes of compiled code that never looks at signals

    def _allocate(self, marker):
        block = np.ones(200 * 2**20 // 8)
        end = time.process_time() + 0.3
        while time.process_time() < end:
            block[0] += 1

    def _exhaust(self, marker):
        np.empty(2**60, np.uint8)

    def _nap(self, marker):
        time.sleep(1)
