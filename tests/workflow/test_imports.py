"""Which layer imports which, and how light the command line is."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
HELP_CPU_S = 0.5
HEAVY = {'torch', 'ants', 'nipype', 'bids', 'nibabel', 'nilearn', 'pandas', 'matplotlib'}
# What `msapp --help` has imported when it is done, one name a line.
IMPORTED = """
import sys
from msapp.cli.app import main
try:
    main(['--help'])
except SystemExit as done:
    print('exit', done.code)
print('imported', *sys.modules)
"""


def test_the_layers_import_downwards_only():
    linter = SCRIPTS / 'lint-imports'
    if not linter.exists():
        pytest.skip('import-linter is not installed')
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '0 broken' in result.stdout


def test_help_imports_nothing_heavy():
    result = subprocess.run(
        [sys.executable, '-c', IMPORTED], capture_output=True, text=True, check=True
    )
    *_, done, imported = result.stdout.splitlines()
    assert done == 'exit 0'
    assert not HEAVY & set(imported.split())


def test_help_takes_under_half_a_second():
    def cpu_s() -> float:
        """CPU time of a fresh ``msapp --help``; waiting for a busy machine does not count."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([SCRIPTS / 'msapp', '--help'], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) < HELP_CPU_S
