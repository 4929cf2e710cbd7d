"""A step that says which GPU it was given and when; importable by worker processes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from nipype.interfaces.base import TraitedSpec, traits

from msapp.inference.device import GPU_VARIABLE
from msapp.interfaces.base import NetworkInterfaceInputSpec, NodeInterface

PATIENCE_S = 20


class _InputSpec(NetworkInterfaceInputSpec):
    value = traits.Int(0, usedefault=True)
    name = traits.Str()
    mode = traits.Str('nap', usedefault=True)
    partner = traits.Str('', usedefault=True)
    folder = traits.Str(nohash=True)


class _OutputSpec(TraitedSpec):
    value = traits.Int()


class GpuToy(NodeInterface):
    """Append a line a try to ``folder/name``: start, end (s) and the slot it was given."""

    input_spec = _InputSpec
    output_spec = _OutputSpec

    def run_function(self, folder):
        log = Path(self.inputs.folder) / self.inputs.name
        start, slot = time.time(), os.environ.get(GPU_VARIABLE)
        first = not log.exists()
        with log.open('a') as stream:
            stream.write('')
        if self.inputs.mode == 'raise' or (self.inputs.mode == 'die_once' and first):
            self._write(log, start, slot)
            if self.inputs.mode == 'raise':
                raise ValueError('the toy is broken')
            os.kill(os.getpid(), signal.SIGKILL)
        if self.inputs.mode == 'meet':
            self._meet(log.with_name(self.inputs.partner))
        time.sleep(0.3)
        self._write(log, start, slot)
        return {'value': self.inputs.value + 1}

    def _meet(self, partner):
        """Wait until the partner has begun: a proof that both run at once."""
        end = time.time() + PATIENCE_S
        while not partner.exists():
            if time.time() > end:
                raise TimeoutError(f'{partner.name} never came')
            time.sleep(0.02)

    def _write(self, log, start, slot):
        with log.open('a') as stream:
            stream.write(json.dumps([start, time.time(), slot]) + '\n')
