"""Facts about the names of derivatives."""

from __future__ import annotations

import pytest

from msapp.bids.names import contrast_entities, derivative_path, figure_path, participant_path
from msapp.errors import InternalError

NII, MNI = '.nii.gz', 'MNI152NLin2009aSym'


def transform(origin: str, target: str) -> dict[str, str]:
    return {'from': origin, 'to': target, 'mode': 'image', 'suffix': 'xfm', 'extension': '.txt'}


# What stands after sub-01_ses-2_ in each kind of file that a run writes.
KINDS = [
    (
        {'space': 'individual', 'desc': 'preproc', 'suffix': 'FLAIR', 'extension': NII},
        'space-individual_desc-preproc_FLAIR.nii.gz',
    ),
    (
        {
            'space': 'individual',
            'desc': 'preproc',
            'extension': NII,
            **contrast_entities('ceT1w'),
        },
        'ce-gadolinium_space-individual_desc-preproc_T1w.nii.gz',
    ),
    *(
        (
            {'space': 'individual', 'desc': 'change', 'suffix': 'dseg', 'extension': extension},
            f'space-individual_desc-change_dseg{extension}',
        )
        for extension in (NII, '.tsv')
    ),
    (
        {'space': 'orig', 'desc': 'brain', 'suffix': 'mask', 'extension': NII},
        'space-orig_desc-brain_mask.nii.gz',
    ),
    (
        {'space': 'individual', 'desc': 'brain', 'suffix': 'mask', 'extension': NII},
        'space-individual_desc-brain_mask.nii.gz',
    ),
    *(
        (
            {'space': space, 'label': 'L', 'suffix': 'mask', 'extension': NII},
            f'space-{space}_label-L_mask.nii.gz',
        )
        for space in ('orig', 'individual', MNI)
    ),
    (
        {'space': 'individual', 'desc': 'lesions', 'suffix': 'dseg', 'extension': NII},
        'space-individual_desc-lesions_dseg.nii.gz',
    ),
    (
        {'space': 'individual', 'desc': 'lesions', 'suffix': 'dseg', 'extension': '.tsv'},
        'space-individual_desc-lesions_dseg.tsv',
    ),
    (
        {
            'space': 'orig',
            'label': 'newcandidate',
            'desc': 'since1',
            'suffix': 'mask',
            'extension': NII,
        },
        'space-orig_label-newcandidate_desc-since1_mask.nii.gz',
    ),
    (transform('orig', 'individual'), 'from-orig_to-individual_mode-image_xfm.txt'),
    (transform('T1w', 'individual'), 'from-T1w_to-individual_mode-image_xfm.txt'),
    (
        {**transform('T1w', 'individual'), 'ceagent': 'gadolinium'},
        'ce-gadolinium_from-T1w_to-individual_mode-image_xfm.txt',
    ),
    (transform('individual', MNI), f'from-individual_to-{MNI}_mode-image_xfm.txt'),
    *(
        ({'desc': kind, 'suffix': 'stats', 'extension': '.tsv'}, f'desc-{kind}_stats.tsv')
        for kind in ('summary', 'lesions', 'changes', 'candidates')
    ),
]


@pytest.mark.parametrize(('entities', 'rest'), KINDS, ids=[rest for _, rest in KINDS])
def test_every_kind_of_file_has_its_name_with_and_without_sessions(entities, rest):
    with_session = derivative_path('sub-01', 'ses-2', **entities)
    assert with_session.as_posix() == f'sub-01/ses-2/anat/sub-01_ses-2_{rest}'
    assert derivative_path('sub-01', None, **entities).as_posix() == f'sub-01/anat/sub-01_{rest}'


def test_no_two_kinds_share_a_name():
    assert len({rest for _, rest in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ('session', 'name'),
    [
        ('ses-2', 'sub-01/figures/sub-01_ses-2_desc-viewer_FLAIR.html'),
        (None, 'sub-01/figures/sub-01_desc-viewer_FLAIR.html'),
    ],
)
def test_figures_of_all_visits_lie_in_one_folder(session, name):
    path = figure_path('sub-01', session, desc='viewer', suffix='FLAIR', extension='.html')
    assert path.as_posix() == name


@pytest.mark.parametrize('entity', ['run', 'acquisition', 'res', 'hemisphere', 'nonsense'])
def test_an_entity_without_a_place_is_an_error(entity):
    with pytest.raises(InternalError, match=f'no name can be built from .*{entity}') as caught:
        derivative_path('sub-01', None, suffix='mask', extension=NII, **{entity: '1'})
    assert caught.value.exit_code == 70


@pytest.mark.parametrize('missing', ['suffix', 'extension'])
def test_a_name_without_suffix_or_extension_is_an_error(missing):
    given = {'suffix': 'mask', 'extension': NII}
    del given[missing]
    with pytest.raises(InternalError, match='no name can be built'):
        derivative_path('sub-01', None, **given)


def test_an_entity_without_a_value_is_an_error():
    with pytest.raises(InternalError):
        derivative_path('sub-01', None, desc='', suffix='mask', extension=NII)


def test_labels_are_taken_with_and_without_their_prefixes():
    entities = {'suffix': 'T1w', 'extension': NII}
    assert derivative_path('01', '2', **entities) == derivative_path('sub-01', 'ses-2', **entities)


def test_a_table_of_all_visits_lies_beside_the_sessions():
    path = participant_path('sub-01', desc='tracks', suffix='stats', extension='.tsv')
    assert path.as_posix() == 'sub-01/sub-01_desc-tracks_stats.tsv'


@pytest.mark.parametrize('contrast', ['FLAIR', 'T1w', 'T2w'])
def test_a_plain_contrast_is_its_suffix(contrast):
    assert contrast_entities(contrast) == {'suffix': contrast}
