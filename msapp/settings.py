"""Everything a run was asked to do, as one frozen object that travels as an argument."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from msapp.errors import UsageError

Level = Literal['participant', 'group']
# Steps run in folders of their own, so no path may depend on where the command was given.
AbsolutePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.abspath(path)))]  # noqa: PTH100
# A name, or the path of a folder; text with a separator in it is a path.
ModelName = Annotated[
    str,
    AfterValidator(lambda text: os.path.abspath(text) if os.sep in text else text),  # noqa: PTH100
]
Space = Literal['orig', 'individual', 'MNI152NLin2009aSym']
Task = Literal['lesions', 'enhancement', 'longitudinal', 'cord', 'filling']
# Settings whose name on the command line is another than theirs with hyphens.
NAMES = {
    'bids_dir': 'bids_dir',
    'output_dir': 'output_dir',
    'levels': 'the level of analysis (participant, group)',
    'mem_gb': '--mem',
}


class Settings(BaseModel):
    """The settings of one run; see ``msapp --help`` for what each does.

    Examples
    --------
    >>> Settings(bids_dir='/bids', output_dir='/out', levels=('participant',)).tasks
    ('lesions', 'longitudinal')
    """

    model_config = ConfigDict(frozen=True, extra='forbid')

    bids_dir: AbsolutePath
    output_dir: AbsolutePath
    levels: tuple[Level, ...]

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: AbsolutePath | None = None
    bids_database_dir: AbsolutePath | None = None
    skip_bids_validation: bool = False
    derivatives: tuple[AbsolutePath, ...] = ()

    tasks: tuple[Task, ...] = ('lesions', 'longitudinal')
    lesion_model: ModelName = 'lesions'
    new_lesion_method: ModelName = 'newlesions'
    brain_extraction: Literal['network', 'bet', 'template'] = 'network'
    output_spaces: tuple[Space, ...] = ('orig', 'individual', 'MNI152NLin2009aSym')
    flips: bool = False
    self_check: bool = False
    mc_samples: int = Field(default=0, ge=0)
    explain: bool = False

    work_dir: AbsolutePath | None = None
    nprocs: int | None = Field(default=None, ge=1)
    omp_nthreads: int | None = Field(default=None, ge=1)
    mem_gb: float | None = Field(default=None, gt=0)
    low_mem: bool = False
    device: Literal['auto', 'cpu', 'cuda'] = 'auto'
    gpus: int | None = Field(default=None, ge=0)
    use_plugin: AbsolutePath | None = None
    random_seed: int = Field(default=0, ge=0, lt=2**31 - 1)

    reports_only: bool = False
    boilerplate_only: bool = False
    dry_run: bool = False
    stop_on_first_crash: bool = False
    clean_workdir: bool = False
    resource_monitor: bool = False
    write_graph: bool = False
    sloppy: bool = False

    @property
    def work_path(self) -> Path:
        """Folder of intermediate files: ``--work-dir``, else ``work`` inside the output."""
        return self.work_dir or self.output_dir / 'work'

    def to_toml(self) -> str:
        """Return the settings as TOML that ``--config-file`` reads back."""
        import tomli_w

        values = self.model_dump(mode='json', exclude_none=True)
        return tomli_w.dumps({key.replace('_', '-'): value for key, value in values.items()})


def load_toml(path: Path) -> dict[str, Any]:
    """Read a settings file; keys may use hyphens as on the command line.

    Raises
    ------
    UsageError
        If the file cannot be read or is not TOML.
    """
    return {setting_name(key): value for key, value in read_toml(path).items()}


def setting_name(key: str) -> str:
    """Return the field of `Settings` that a key of a settings file stands for."""
    return key.replace('-', '_')


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file with its keys as they are written.

    Raises
    ------
    UsageError
        If the file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise UsageError(f'{path}: cannot read the settings file ({error.strerror}).') from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f'{path}: not a valid TOML settings file: {error}.') from error


def make_settings(values: dict[str, Any]) -> Settings:
    """Validate ``values``, naming every wrong one as on the command line.

    Raises
    ------
    UsageError
        If a setting is unknown or out of range.
    """
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = '; '.join(
            f'{_on_command_line(str(item["loc"][0]))}: {item["msg"]}, got {item["input"]!r}'
            for item in error.errors()
        )
        raise UsageError(f'{problems}. See {Path(sys.argv[0]).name} --help.') from error


def _on_command_line(name: str) -> str:
    return NAMES.get(name, f'--{name.replace("_", "-")}')
