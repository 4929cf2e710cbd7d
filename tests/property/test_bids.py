"""Any dataset, however odd, is either planned as it should be or reported by name with a remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from msapp.bids.checks import LONGEST_PARTICIPANT, LONGEST_SESSION, check_folders, check_label
from msapp.bids.dataset import DESCRIPTION, write_description
from msapp.bids.names import derivative_path
from msapp.bids.query import Participant, plan_participants, read_times
from msapp.bids.times import natural_key, read_time
from msapp.cli.app import main
from msapp.engine.record import Outcome
from msapp.errors import InputError, MsappError, UsageError
from msapp.files import atomic_path
from msapp.settings import Settings

DEADLINE = timedelta(seconds=20)
GOOD = 'sub-01/anat/sub-01_FLAIR.nii.gz'
REMEDY = re.compile(
    r'(?:Convert|Copy|Rename|Fetch|Change|Put|Move|Choose|needed|Check|remove|Give|mend)\b'
)
FILE_NAME_BYTES = 255


def tries(count: int):
    """Give the settings of a property with so many examples."""
    return settings(
        max_examples=count, deadline=DEADLINE, suppress_health_check=[HealthCheck.too_slow]
    )


@pytest.fixture(autouse=True, scope='module')
def quiet() -> Iterator[None]:
    """Keep nibabel from logging every damaged header."""
    before = nib.imageglobals.logger.level
    nib.imageglobals.logger.setLevel(60)
    yield
    nib.imageglobals.logger.setLevel(before)


# --- Datasets -----------------------------------------------------------------------------------


def image_bytes() -> bytes:
    data = np.random.default_rng(0).integers(1, 99, (8, 8, 8)).astype(np.uint8)
    return nib.Nifti1Image(data, np.diag([10.0, 10, 10, 1])).to_bytes()


IMAGE = image_bytes()


def add(root: Path, name: str | Path, content: bytes = b'') -> Path:
    """Add a file, by default a sound image."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name and path.name.lower().endswith('.gz') and not content:
        import gzip

        content = gzip.compress(IMAGE, 1)
    path.write_bytes(content or IMAGE)
    return path


class Dataset:
    """A dataset with one sound participant, in a folder that goes away."""

    def __init__(self, *images: str, inside: str = 'data') -> None:
        self.images, self.inside = images or (GOOD,), inside

    def __enter__(self) -> Path:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name, self.inside)
        add(self.root, 'dataset_description.json', b'{"Name": "x", "BIDSVersion": "1.10.0"}')
        for image in self.images:
            add(self.root, image)
        return self.root

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()


def make_settings(root: Path, **values: object) -> Settings:
    return Settings(
        bids_dir=root, output_dir=root.parent / 'out', levels=('participant',), **values
    )


def plan(root: Path, **values: object) -> dict[str, Participant]:
    """Plan all participants; every sentence must be one line that can be written down."""
    found = plan_participants(make_settings(root, **values))
    for participant in found:
        for text in sentences(participant):
            assert text.encode('utf-8')
            assert text.isprintable(), text
        if participant.error:
            assert REMEDY.search(participant.error), participant.error
            assert participant.label in participant.error
    plans = {participant.label: participant for participant in found}
    assert len(plans) == len(found)
    return plans


def sentences(participant: Participant) -> list[str]:
    visits = [sentence for visit in participant.visits for sentence in visit.left_out]
    return [participant.label, participant.error or 'none', *participant.left_out, *visits]


def used(participant: Participant, root: Path) -> dict[str | None, list[str]]:
    """Return the images of each visit, below the dataset."""
    return {
        visit.session: [path.relative_to(root).as_posix() for path in visit.images.values()]
        for visit in participant.visits
    }


def untouched(plans: dict[str, Participant], root: Path) -> None:
    """Check that the sound participant is planned as if it were alone."""
    assert plans['sub-01'].error is None
    assert used(plans['sub-01'], root) == {None: [GOOD]}
    assert sentences(plans['sub-01']) == ['sub-01', 'none']


names = st.text(
    st.characters(blacklist_categories=('Cs',), blacklist_characters='/\0'), min_size=1, max_size=40
).filter(lambda text: text.strip('.') and len(os.fsencode(text)) < 100)
labels = st.from_regex(r'[A-Za-z0-9]{1,12}', fullmatch=True)


# --- Names --------------------------------------------------------------------------------------


@tries(50)
@given(st.sampled_from(('sub-', 'sub_', 'SUB-', 'Sub-', 'sub ', 'sub')), st.one_of(names, labels))
@example('sub-', '01-2')
@example('sub_', '01')
@example('sub-', 'ä')
@example('sub-', '01 2')
@example('sub-', '01_b')  # its images counted as sub-01's
@example('sub-', '01\n')
@example('sub-', '01.')
@example('sub-', '²')
@example('SUB-', '02')
@example('sub-', 'x' * 65)
def test_a_participant_of_any_name_is_used_or_named(prefix, rest):
    name = prefix + rest
    assume(name != 'sub-01')
    with Dataset() as root:
        image = f'{name}/anat/{name}_FLAIR.nii.gz'
        add(root, image)
        plans = plan(root)
        untouched(plans, root)
        others = [label for label in plans if label != 'sub-01']
        if re.fullmatch(r'sub-[A-Za-z0-9]{1,64}', name):
            assert used(plans[name], root) == {None: [image]}
        elif prefix == 'sub':
            assert others == [] or plans[others[0]].error
        else:
            (label,) = others
            assert 'Rename the folder and its files.' in plans[label].error


@pytest.mark.parametrize('name', [b'sub-\xff', b'sub-01\xe4'])
def test_a_participant_whose_name_is_no_text_is_named(name):
    with Dataset() as root:
        os.mkdir(os.path.join(os.fsencode(root), name))  # noqa: PTH102, PTH118 (bytes)
        plans = plan(root)
        untouched(plans, root)
        (other,) = plans.keys() - {'sub-01'}
        assert other.startswith('sub-')
        assert '\\udc' in other


def test_an_image_whose_name_is_no_text_is_named():
    with Dataset() as root:
        folder = os.fsencode(root / 'sub-01' / 'anat')
        Path(os.fsdecode(folder + b'/sub-01_acq-\xff_FLAIR.nii.gz')).write_bytes(IMAGE)
        (visit,) = plan(root)['sub-01'].visits
        assert visit.images == {'FLAIR': root / GOOD}
        assert visit.left_out[0].startswith('sub-01_acq-\\udcff_FLAIR.nii.gz: not used')


@tries(40)
@given(st.one_of(names, labels))
@example('1_b')  # its images counted as those of ses-1
@example('1-2')
@example('1 2')
@example('1²')
@example('01')
@example('y' * 33)
def test_a_session_of_any_name_is_a_visit_or_named(rest):
    assume(rest != '1')
    name = f'ses-{rest}'
    first = 'sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz'
    with Dataset(GOOD, first) as root:
        image = f'sub-02/{name}/anat/sub-02_{name}_FLAIR.nii.gz'
        add(root, image)
        plans = plan(root)
        untouched(plans, root)
        found = used(plans['sub-02'], root)
        assert found.pop('ses-1') == [first]
        if re.fullmatch(r'ses-[A-Za-z0-9]{1,32}', name):
            assert found == {name: [image]}
        else:
            assert found == {}
            (reason,) = plans['sub-02'].left_out
            assert 'a session label may' in reason
            assert 'Rename the folder and its files.' in reason


@tries(50)
@given(
    st.one_of(
        names,
        st.builds(
            '{}{}{}{}'.format,
            st.sampled_from(('sub-01', 'sub-02', 'sub-01_ses-1', '._sub-01', 'SUB-01', '')),
            st.sampled_from(('', '_acq-3D', '_run-2', '_acq-', '_x', ' (copy)', '_acq-a_acq-b')),
            st.sampled_from(('_FLAIR', '_T1w', '_T2w', '_flair', '_bold', 'FLAIR', '_FLAIR_mask')),
            st.sampled_from(('.nii', '.nii.gz', '.NII.GZ', '.Nii', '.nii.bz2', '.nii.gz.part', '')),
        ),
    )
)
@example('sub-02_FLAIR.nii.gz')
@example('sub-01_ses-1_FLAIR.nii.gz')
@example('sub-01_FLAIR.NII.GZ')
@example('._sub-01_FLAIR.nii.gz')
@example('sub-01_FLAIR (copy).nii.gz')
@example('sub-01_FLAIR.nii')
@example('sub-01_flair.nii.gz')
@example('sub-01_acq-3D_T1W.nii.gz')
def test_a_file_of_any_name_is_used_or_named(name):
    assume(name != 'sub-01_FLAIR.nii.gz')
    pattern = r'sub-01(_[a-z]+-[A-Za-z0-9]+)*_(FLAIR|T1w|T2w)\.nii(\.gz)?'
    with Dataset() as root:
        add(root, f'sub-01/anat/{name}')
        participant = plan(root)['sub-01']
        assert participant.error is None, participant.error
        (visit,) = participant.visits
        others = {path.name for path in visit.images.values()} - {'sub-01_FLAIR.nii.gz'}
        if re.fullmatch(pattern, name):
            assert name in others or any(name in reason for reason in visit.left_out)
            assert others <= {name}
        else:
            assert others == set()
        looks = re.search(r'(?i)(flair|t1w|t2w).*\.nii', name) and not name.startswith('.')
        fits = re.fullmatch(r'sub-01(_[A-Za-z]+-[A-Za-z0-9+]+)*_[A-Za-z0-9]+\.nii(\.gz)?', name)
        contrasts = {'flair': 'FLAIR', 't1w': 'T1w', 't2w': 'T2w'}
        suffix = name.partition('.')[0].rpartition('_')[2]
        if looks and (not fits or contrasts.get(suffix.lower(), suffix) != suffix):
            assert any('Rename it' in reason for reason in visit.left_out)


def test_of_an_image_stored_twice_one_is_used_and_the_other_named():
    with Dataset() as root:
        add(root, 'sub-01/anat/sub-01_FLAIR.nii')
        (visit,) = plan(root)['sub-01'].visits
        assert visit.images['FLAIR'].name == 'sub-01_FLAIR.nii'
        assert visit.left_out[0].startswith('sub-01_FLAIR.nii.gz: ')


def test_an_image_with_an_upper_case_extension_alone_is_named_as_the_reason():
    with Dataset(GOOD, 'sub-02/anat/sub-02_FLAIR.NII.GZ') as root:
        assert 'sub-02_FLAIR.NII.GZ: not used' in plan(root)['sub-02'].error


@pytest.mark.parametrize(('wrong', 'right'), [('Flair', 'FLAIR'), ('T1W', 'T1w'), ('t2w', 'T2w')])
def test_an_image_with_a_suffix_in_the_wrong_case_is_named(wrong, right):
    with Dataset(GOOD, f'sub-02/anat/sub-02_{wrong}.nii.gz') as root:
        plans = plan(root)
        untouched(plans, root)
        assert f'sub-02_{wrong}.nii.gz: not used' in plans['sub-02'].error
        assert f'Rename it, as sub-02_{right}.nii.gz.' in plans['sub-02'].error


@pytest.mark.parametrize('name', ['Ses-2', 'ses_2', 'SES-2', 'ses 2'])
def test_a_session_without_the_prefix_is_named(name):
    first = 'sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz'
    with Dataset(GOOD, first, f'sub-02/{name}/anat/sub-02_{name}_FLAIR.nii.gz') as root:
        plans = plan(root)
        untouched(plans, root)
        assert used(plans['sub-02'], root) == {'ses-1': [first]}
        (reason,) = plans['sub-02'].left_out
        assert reason.startswith(f'{name}: not used, for the name of a session')
        assert 'Rename the folder and its files.' in reason


def test_a_session_that_is_a_broken_link_is_named():
    first = 'sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz'
    with Dataset(GOOD, first) as root:
        (root / 'sub-02' / 'ses-2').symlink_to('/no/such')
        add(root, 'sub-02/ses-1_scans.tsv', b'x')
        expected = 'ses-2: is no folder (a broken link?). Fetch it, or remove it.'
        assert plan(root)['sub-02'].left_out == (expected,)
        plans = plan(root, session_label=('2',))
        assert list(plans) == ['sub-02']
        assert expected in plans['sub-02'].error


def test_the_longest_labels_leave_room_for_every_name(tmp_path):
    participant, session = 'sub-' + 'p' * LONGEST_PARTICIPANT, 'ses-' + 's' * LONGEST_SESSION
    check_label(participant)
    since = f'since{"s" * LONGEST_SESSION}'
    image = {'extension': '.nii.gz', 'space': 'individual'}
    for entities in (
        {**image, 'label': 'newcandidate', 'desc': since, 'suffix': 'probseg'},
        {**image, 'label': 'enhancing', 'desc': 'relevanceceT1w', 'suffix': 'probseg'},
        {**image, 'space': 'MNI152NLin2009aSym', 'label': 'cordlesion', 'suffix': 'probseg'},
        {
            **{'ceagent': 'gadolinium', 'from': 'individual', 'to': 'MNI152NLin2009aSym'},
            **{'mode': 'image', 'suffix': 'xfm', 'extension': '.json'},
        },
    ):
        path = tmp_path / derivative_path(participant, session, **entities)
        with atomic_path(path) as temporary:
            assert len(temporary.name) <= FILE_NAME_BYTES
            temporary.touch()
        assert path.exists()


@tries(60)
@given(st.lists(st.text(max_size=8), max_size=6))
@example(['²'])
@example(['٣', '3', 'a', ''])
def test_any_labels_have_an_order(found):
    assert sorted(sorted(found, reverse=True), key=natural_key) == sorted(
        sorted(found), key=natural_key
    ) or len({tuple(natural_key(name)) for name in found}) < len(found)


# --- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'inside',
    [
        'func/data',
        'sub-99/ses-3/anat/bids',
        'derivatives/x',
        'sourcedata/raw',
        'code/x',
        '.hidden/x',
        'run-2_acq-x/ce-gadolinium_T1w',
        'a [b] #1 %20 ä? *',
    ],
)
def test_the_folders_above_a_dataset_mean_nothing(inside):
    with Dataset(inside=inside) as root:
        check_folders(make_settings(root, dry_run=True))
        plans = plan(root)
        untouched(plans, root)
        assert list(plans) == ['sub-01']


def link_to_parent(root: Path) -> None:
    for name in ('a', 'b', 'c'):
        (root / 'sub-01' / 'anat' / name).symlink_to('..')


def link_to_root(root: Path) -> None:
    for name in ('a', 'b', 'sub-01/ses'):
        (root / name).symlink_to(root)


def nest_a_participant(root: Path) -> None:
    add(root, f'sub-01/{GOOD}')


def nest_a_folder(root: Path) -> None:
    add(root, 'sub-01/anat/old/sub-01_FLAIR.nii.gz')
    add(root, 'sub-01/anat/anat/sub-01_FLAIR.nii.gz')


def nest_derivatives(root: Path) -> None:
    add(root, f'derivatives/x/{GOOD}')
    add(root, f'sourcedata/{GOOD}')


def add_a_layout_file(root: Path) -> None:
    add(root, 'sub-01/layout_config.json', b'{')


@pytest.mark.parametrize(
    'disturb',
    [
        link_to_parent,
        link_to_root,
        nest_a_participant,
        nest_a_folder,
        nest_derivatives,
        add_a_layout_file,
    ],
)
def test_folders_that_mean_nothing_change_nothing(disturb):
    with Dataset() as root:
        disturb(root)
        plans = plan(root)
        untouched(plans, root)
        assert list(plans) == ['sub-01']


def file_for_participant(root: Path) -> None:
    (root / 'sub-02').write_text('x')


def dangling_participant(root: Path) -> None:
    (root / 'sub-02').symlink_to('gone')


def link_of_participant_to_itself(root: Path) -> None:
    (root / 'sub-02').symlink_to('sub-02')


def empty_participant(root: Path) -> None:
    (root / 'sub-02').mkdir()


def link_to_another_participant(root: Path) -> None:
    (root / 'sub-02').symlink_to('sub-01')


def file_for_anat(root: Path) -> None:
    add(root, 'sub-02/anat', b'x')


def session_without_anat(root: Path) -> None:
    (root / 'sub-02' / 'ses-1' / 'func').mkdir(parents=True)


def images_beside_anat(root: Path) -> None:
    add(root, 'sub-02/sub-02_FLAIR.nii.gz')


def other_session_in_the_name(root: Path) -> None:
    add(root, 'sub-02/ses-1/anat/sub-02_ses-2_FLAIR.nii.gz')


def folder_for_image(root: Path) -> None:
    (root / 'sub-02/anat/sub-02_FLAIR.nii.gz').mkdir(parents=True)


def dangling_image(root: Path) -> None:
    (root / 'sub-02/anat').mkdir(parents=True)
    (root / 'sub-02/anat/sub-02_FLAIR.nii.gz').symlink_to('../../.git/annex/objects/x')


def pipe_for_image(root: Path) -> None:
    (root / 'sub-02/anat').mkdir(parents=True)
    os.mkfifo(root / 'sub-02/anat/sub-02_FLAIR.nii.gz')


def empty_image(root: Path) -> None:
    add(root, 'sub-02/anat/sub-02_FLAIR.nii.gz').write_bytes(b'')


SPOILT = [
    file_for_participant,
    dangling_participant,
    link_of_participant_to_itself,
    empty_participant,
    link_to_another_participant,
    file_for_anat,
    session_without_anat,
    images_beside_anat,
    other_session_in_the_name,
    folder_for_image,
    dangling_image,
    pipe_for_image,
    empty_image,
]


@pytest.mark.parametrize('spoil', SPOILT)
def test_a_participant_without_images_is_named_and_the_other_planned(spoil):
    with Dataset() as root:
        spoil(root)
        plans = plan(root)
        untouched(plans, root)
        assert list(plans) == ['sub-01', 'sub-02']
        assert plans['sub-02'].error
        assert plans['sub-02'].visits == ()


def test_a_dataset_of_nothing_but_files_is_no_dataset(tmp_path):
    add(tmp_path, 'data/sub-01', b'x')
    with pytest.raises(UsageError, match=r'holds no sub-\* folder'):
        check_folders(make_settings(tmp_path / 'data', dry_run=True))


def test_a_path_that_is_no_text_is_refused(tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff'))
    add(root, GOOD)
    with pytest.raises(UsageError, match=r'udcff.*Rename the folder'):
        check_folders(make_settings(root, dry_run=True))


def test_sessions_beside_images_without_one_are_used_and_the_others_named():
    images = (GOOD, 'sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz')
    with Dataset(*images) as root:
        participant = plan(root)['sub-01']
        assert used(participant, root) == {'ses-1': [images[1]]}
        (reason,) = participant.left_out
        assert reason.startswith('sub-01_FLAIR.nii.gz: not used, for sub-01 has sessions')


def test_a_session_without_images_is_named():
    with Dataset('sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz') as root:
        (root / 'sub-01' / 'ses-2').mkdir()
        (root / 'sub-01' / 'ses-3' / 'anat').mkdir(parents=True)
        assert plan(root)['sub-01'].left_out == (
            'ses-2: neither FLAIR nor T1w found (found: nothing).',
            'ses-3: neither FLAIR nor T1w found (found: nothing).',
        )


def reads_everything() -> bool:
    """Tell whether permissions do not hold for this user, as for most administrators."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'closed')
        path.touch(mode=0)
        return os.access(path, os.R_OK)


@pytest.mark.skipif(reads_everything(), reason='this user may read everything')
@pytest.mark.parametrize('place', ['sub-02', 'sub-02/anat'])
def test_a_folder_without_permission_is_named(place):
    with Dataset(GOOD, 'sub-02/anat/sub-02_FLAIR.nii.gz') as root:
        (root / place).chmod(0)
        try:
            plans = plan(root)
            untouched(plans, root)
            assert 'Change its permissions' in plans['sub-02'].error
        finally:
            (root / place).chmod(0o700)


# --- Files beside the images ----------------------------------------------------------------------


JUNK = [
    b'',
    b'{',
    b'[]',
    b'3',
    b'null',
    b'"x"',
    b'\xff\xfe{\x00',
    b'\xef\xbb\xbf{"Name": "x"}',
    '{"Name": "Jürgen"}'.encode('latin-1'),
    '{"Name": "x"}'.encode('utf-16'),
    b'{"Name": 3, "License": [1], "GeneratedBy": 3}',
    b'{"Name": "\\ud800", "License": "\\n"}',
    b'[' * 100_000,
    b'{"EchoTime": "long", "EchoTime": NaN}',
    b'\0' * 100,
]
BESIDE = [
    'dataset_description.json',
    '.bidsignore',
    'participants.tsv',
    'participants.json',
    'T1w.json',
    'sub-01/anat/sub-01_FLAIR.json',
    'sub-01/sub-01_sessions.json',
]


@pytest.mark.parametrize('name', BESIDE)
def test_no_junk_beside_the_images_changes_what_is_planned(name):
    for content in JUNK:
        with Dataset() as root:
            add(root, name, b'x').write_bytes(content)
            untouched(plan(root), root)
    with Dataset() as root:
        (root / name).unlink(missing_ok=True)
        untouched(plan(root), root)
        (root / name).mkdir()
        untouched(plan(root), root)


@pytest.mark.parametrize(
    'table',
    [
        'participant_id\nsub-01\nsub-01\n',
        'participant_id\nsub-77\nsub-01\n',
        '\ufeffparticipant_id\tage\r\nsub-01\t\r\n',
        'age\n33\n',
    ],
    ids=['twice', 'without a folder', 'mark and CRLF', 'no labels'],
)
def test_folders_count_and_not_the_table_of_participants(table):
    with Dataset() as root:
        add(root, 'participants.tsv', table.encode())
        plans = plan(root)
        untouched(plans, root)
        assert list(plans) == ['sub-01']


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@tries(40)
@given(
    st.dictionaries(st.sampled_from(('Name', 'License', 'GeneratedBy', 'x')), json_values),
    st.dictionaries(st.sampled_from(('Name', 'License', 'GeneratedBy', 'x')), json_values),
)
@example({}, {'GeneratedBy': 3})
@example({}, {'GeneratedBy': [3, None]})
@example({'Name': None, 'License': ['x']}, {})
@example({'Name': '\ud800'}, {})
def test_a_description_is_written_whatever_that_of_the_input_says(source, target):
    with Dataset() as root:
        out = root.parent / 'out'
        add(root, DESCRIPTION, json.dumps(source).encode())
        add(out, DESCRIPTION, json.dumps(target).encode())
        generators = target.get('GeneratedBy')
        items = generators if isinstance(generators, list) else []
        ours = any(isinstance(item, dict) and item.get('Name') == 'msapp' for item in items)
        if target and not ours:
            with pytest.raises(UsageError, match='another program'):
                write_description(out, root)
            return
        write_description(out, root)
        written = json.loads((out / DESCRIPTION).read_text(encoding='utf-8'))
        assert written['Name'].startswith('msapp: ')
        assert isinstance(written['License'], str)
        assert [item['Name'] for item in written['GeneratedBy']] == ['msapp']


@pytest.mark.parametrize(
    ('variable', 'kind'),
    [
        ('NONE', 'docker'),
        ('APPTAINER_CONTAINER', 'apptainer'),
        ('SINGULARITY_CONTAINER', 'apptainer'),
    ],
)
def test_a_description_names_what_runs_the_container(monkeypatch, variable, kind):
    for name in ('APPTAINER_CONTAINER', 'SINGULARITY_CONTAINER'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MSAPP_CONTAINER', 'msapp:1')
    monkeypatch.setenv(variable, '/msapp.sif')
    with Dataset() as root:
        write_description(root.parent / 'out', root)
        written = json.loads((root.parent / 'out' / DESCRIPTION).read_text(encoding='utf-8'))
    assert written['GeneratedBy'][0]['Container'] == {'Type': kind, 'Tag': 'msapp:1'}


@pytest.mark.parametrize('content', JUNK)
def test_a_description_is_written_over_junk(content):
    with Dataset() as root:
        out = root.parent / 'out'
        for folder in (root, out):
            add(folder, DESCRIPTION, b'x').write_bytes(content)
        try:
            write_description(out, root)
        except UsageError:
            assert isinstance(json.loads(content.decode('utf-8-sig')), dict)
        else:
            assert json.loads((out / DESCRIPTION).read_bytes())['DatasetType'] == 'derivative'
        assert not list(out.glob('.*tmp*'))


# --- Times ----------------------------------------------------------------------------------------


times = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(datetime.isoformat)
cells = st.text(
    st.characters(codec='latin-1', categories=('L', 'N', 'P')).filter(lambda sign: sign != '"'),
    max_size=8,
)


@st.composite
def tables(draw) -> tuple[dict[str, str], bytes]:
    """Draw the times of sessions, and a table as some program would write it."""
    found = draw(st.dictionaries(labels, times, min_size=1, max_size=4))
    encoding = draw(st.sampled_from(('utf-8', 'utf-8-sig', 'latin-1', 'utf-16')))
    newline = draw(st.sampled_from(('\n', '\r\n')))
    prefix, trailing = draw(st.sampled_from(('ses-', ''))), draw(st.sampled_from(('', '\t', ' ')))
    comment = [draw(cells) for _ in range(len(found) + 1)]
    rows = [['session_id', f'ä{comment[0]}', 'acq_time']]
    rows += [
        [prefix + label, text, time]
        for (label, time), text in zip(found.items(), comment[1:], strict=True)
    ]
    lines = ['\t'.join(rows[0]), *('\t'.join(row) + trailing for row in rows[1:])]
    text = newline.join(lines) + draw(st.sampled_from((newline, '')))
    return {f'ses-{label}': time for label, time in found.items()}, text.encode(encoding)


@tries(50)
@given(tables())
@example(({'ses-A': '2020-01-01'}, b'session_id\tacq_time\nses-A\t2020-01-01\t\n'))
@example(({'ses-A': '2020-01-01'}, b'session_id\tacq_time\tx\nses-A\t2020-01-01\t\xe4\n'))
@example(({'ses-A': '2020-01-01'}, b'\xef\xbb\xbfsession_id\tacq_time\r\nA\t 2020-01-01 \r\n'))
def test_times_are_read_from_a_table_of_any_spelling(table):
    expected, content = table
    with Dataset() as root:
        add(root, 'sub-01/sub-01_sessions.tsv', content)
        assert read_times(root, 'sub-01') == expected


@tries(50)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=4).map(
            lambda rows: 'session_id\tacq_time\n' + '\n'.join('\t'.join(row) for row in rows)
        ),
    )
)
@example('session_id\tacq_time\nses-1\t"2020')
@example('acq_time\tacq_time\tsession_id\n1\t2\t3\n')
@example('session_id\tacq_time\n' + 'ses-1\t9999-99-99\n' * 3)
@example(b'\xff\xfe\x00')
@example(b'\0')
def test_any_table_has_times_that_can_be_compared_or_none(content):
    raw = content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass')
    first = 'sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz'
    with Dataset(GOOD, first, first.replace('ses-1', 'ses-2')) as root:
        for name in ('sub-02/sub-02_sessions.tsv', 'sub-02/ses-1/sub-02_ses-1_scans.tsv'):
            add(root, name, b'x').write_bytes(raw)
        found = read_times(root, 'sub-02').values()
        assert [read_time(value) for value in found] == list(found)
        plans = plan(root)
        untouched(plans, root)
        assert {visit.session for visit in plans['sub-02'].visits} == {'ses-1', 'ses-2'}


@pytest.mark.parametrize('become', [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_for_a_table_holds_no_times(become):
    with Dataset() as root:
        become(root / 'sub-01/sub-01_sessions.tsv')
        become(root / 'sub-01/sub-01_scans.tsv')
        assert read_times(root, 'sub-01') == {}


@tries(40)
@given(st.lists(st.one_of(times, st.text(max_size=10), st.just('n/a')), min_size=2, max_size=4))
@example(['2020-01-01T10:00:00', '2020-02-30T10:00:00'])
@example(['2021-01-01', '2020-01-01'])
@example(['2020-01-01', '2020-01-01'])
@example(['2020-01-01', '2020-01-01T00:00:00Z'])
@example(['1900-01-01T15:00:00', '1900-01-01T09:00:00'])
def test_visits_are_sorted_by_time_or_it_is_said_why_not(values):
    values = [re.sub(r'[\s"]', '', value) for value in values]
    visits = [f'ses-{number}' for number in range(len(values))]
    images = [f'sub-02/{name}/anat/sub-02_{name}_FLAIR.nii.gz' for name in visits]
    rows = ''.join(f'{name}\t{value}\n' for name, value in zip(visits, values, strict=True))
    with Dataset(GOOD, *images) as root:
        add(root, 'sub-02/sub-02_sessions.tsv', f'session_id\tacq_time\n{rows}'.encode())
        participant = plan(root)['sub-02']
    known = [read_time(value) for value in values]
    found = [visit.session for visit in participant.visits]
    said = any('sorted by their labels' in reason for reason in participant.left_out)
    if all(known):
        days = [datetime.fromisoformat(str(time)).date() for time in known]
        order = sorted(range(len(values)), key=lambda i: days[i])
        assert found == [visits[i] for i in order]
        assert said == (len(set(days)) < len(days))
        told = any(reason.startswith('By acq_time') for reason in participant.left_out)
        assert told == (found != visits)
    else:
        assert found == visits
        assert said


# --- The filter file ------------------------------------------------------------------------------


filter_values = st.one_of(
    st.none(),
    st.integers(-1, 3),
    st.sampled_from(('3D', '2D', '1', '01', '02', '2', 'FLAIR', 'nii.gz', '.nii', 'anat', '²')),
    st.lists(st.sampled_from((None, 1, '3D', '02')), max_size=2),
    json_values,
)
entities = st.sampled_from(
    (
        'run',
        'acquisition',
        'subject',
        'session',
        'suffix',
        'extension',
        'datatype',
        'acq',
        'ceagent',
    )
)


def is_entity(entities: dict[str, object]) -> bool:
    """Tell whether a filter's entities have BIDS names and values that a name can have."""
    values = [
        item
        for value in entities.values()
        for item in (value if isinstance(value, list) else [value])
    ]
    return 'acq' not in entities and all(isinstance(item, str | int | None) for item in values)


@tries(50)
@given(st.dictionaries(st.sampled_from(('flair', 't1w')), st.dictionaries(entities, filter_values)))
@example({'flair': {'subject': '02'}})  # took the image of another participant
@example({'flair': {'session': '2'}})  # took the image of another visit
@example({'flair': {'run': {'a': 1}}})
@example({'flair': {'run': [[1]]}})
@example({'flair': {'run': '²'}})
def test_a_filter_never_takes_the_image_of_another(filters):
    images = [
        f'sub-{label}/ses-{session}/anat/sub-{label}_ses-{session}{rest}.nii.gz'
        for label in ('01', '02')
        for session in ('1', '2')
        for rest in ('_acq-3D_run-1_FLAIR', '_acq-2D_run-02_FLAIR', '_T1w')
    ]
    with Dataset(*images) as root:
        path = add(root.parent, 'filters.json', json.dumps(filters).encode())
        if not all(map(is_entity, filters.values())):
            with pytest.raises(UsageError, match=r'filters\.json: .*(long names|must be a text)'):
                plan(root, bids_filter_file=path)
            return
        plans = plan(root, bids_filter_file=path)
    for label, participant in plans.items():
        for visit in participant.visits:
            for image in visit.images.values():
                assert image.name.startswith(f'{label}_{visit.session}_')


@pytest.mark.parametrize('content', JUNK)
def test_a_filter_file_of_junk_is_refused_or_filters_nothing(content):
    with Dataset() as root:
        path = add(root.parent, 'filters.json', b'x')
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            plan(root, bids_filter_file=path)
        assert str(caught.value).startswith(str(path))


def test_a_filter_file_with_a_mark_at_its_start_is_read():
    with Dataset(GOOD, 'sub-01/anat/sub-01_acq-3D_FLAIR.nii.gz') as root:
        text = '\ufeff{"flair": {"acquisition": "3D"}}'
        path = add(root.parent, 'filters.json', text.encode())
        (visit,) = plan(root, bids_filter_file=path)['sub-01'].visits
        assert visit.images['FLAIR'].name == 'sub-01_acq-3D_FLAIR.nii.gz'


# --- The whole app --------------------------------------------------------------------------------


def cut(root: Path) -> None:
    path = add(root, 'sub-02/anat/sub-02_FLAIR.nii.gz')
    path.write_bytes(path.read_bytes()[:-9])


def mirror(root: Path) -> None:
    image = nib.Nifti1Image.from_bytes(IMAGE)
    image.set_sform(np.diag([-10.0, 10, 10, 1]), 1)
    image.set_qform(np.diag([10.0, 10, 10, 1]), 1)
    add(root, 'sub-02/anat/sub-02_FLAIR.nii.gz')
    nib.save(image, root / 'sub-02/anat/sub-02_FLAIR.nii.gz')


def odd_name(root: Path) -> None:
    os.mkdir(os.fsencode(root) + b'/sub-02\xff')  # noqa: PTH102 (bytes)


@pytest.mark.parametrize('spoil', [*SPOILT, cut, mirror, odd_name])
def test_a_dry_run_names_the_bad_participant_and_plans_the_good(capsys, spoil):
    with Dataset() as root:
        spoil(root)
        before = sorted(map(os.fsencode, root.rglob('*')))
        main([str(root), str(root.parent / 'out'), 'participant', '--dry-run'])
        captured = capsys.readouterr()
        assert sorted(map(os.fsencode, root.rglob('*'))) == before
        assert not (root.parent / 'out').exists()
    lines = captured.out.splitlines()
    assert 'sub-01: 1 visit(s)' in lines
    (bad,) = [line for line in lines if line.startswith('sub-02')]
    assert ': left out. ' in bad
    assert REMEDY.search(bad)
    assert captured.err == ''


def pretend_to_run(graph: object, *, participants: dict[str, str], **_: object) -> list[Outcome]:
    return [
        Outcome(
            participant=label,
            status='done',
            steps_total=1,
            steps_run=1,
            steps_reused=0,
            error=None,
            failed_step=None,
            crash_file=None,
            wall_s=1.0,
            exit_code=0,
        )
        for label in participants.values()
    ]


@pytest.mark.parametrize('spoil', [cut, mirror, dangling_participant, odd_name])
@pytest.mark.parametrize(('alone', 'code'), [(False, 1), (True, 65)])
def test_the_exit_code_tells_bad_data_from_some_bad_data(
    capsys, monkeypatch, spoil: Callable[[Path], None], alone, code
):
    monkeypatch.setattr('msapp.engine.run.run_graph', pretend_to_run)
    with Dataset() as root:
        spoil(root)
        if alone:
            shutil.rmtree(root / 'sub-01')
            (root / 'sub-03').mkdir()
        out = root.parent / 'out'
        assert main([str(root), str(out), 'participant', '--skip-bids-validation']) == code
        lines = capsys.readouterr().out.splitlines()
        pages = [page.name for page in out.glob('sub-02*.html') if page.stat().st_size]
        # One of a name that no participant can have would stay when the folder is renamed.
        assert pages == ([] if spoil is odd_name else ['sub-02.html'])
        rows = next(out.glob('logs/*/summary.tsv')).read_text(encoding='utf-8').splitlines()
    bad = [line for line in lines if line.startswith('sub-02')]
    assert len(bad) == 1
    assert ': failed. ' in bad[0]
    assert sum(row.startswith('sub-02') for row in rows) == 1
    assert sum(line.startswith('sub-01: done') for line in lines) == (not alone)


def test_every_refusal_is_of_the_one_family():
    assert issubclass(InputError, MsappError)
    assert (InputError.exit_code, UsageError.exit_code) == (65, 2)
