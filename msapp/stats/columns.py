"""The data dictionaries of the tables: what each column means, its unit and its source."""

from __future__ import annotations

from collections.abc import Mapping

TEXT_COLUMNS = frozenset(
    {
        'participant_id',
        'session_id',
        'acq_time',
        'contrasts',
        'reference_contrast',
        'brain_extraction',
        'lesion_model',
        'detected_new_model',
        'location',
        'since_session',
        'lesions_since_session',
        'kind',
        'identifiers_before',
        'identifiers_after',
        'labels_before',
        'labels_after',
        'state',
        'criterion',
        'item',
        'lesions',
        'note',
    }
)

Column = dict[str, str]
Columns = Mapping[str, Column]


def _column(description: str, units: str | None = None, source: str = 'msapp') -> Column:
    """Make one entry of a BIDS data dictionary; text columns have no unit."""
    entry = {'Description': description}
    if units is not None:
        entry['Units'] = units
    return entry | {'Source': source}


_PARTICIPANT: dict[str, Column] = {
    'participant_id': _column('Participant label with its prefix, sub-X.', source='BIDS name'),
    'session_id': _column(
        'Session label with its prefix, ses-Y; n/a in a dataset without sessions.',
        source='BIDS name',
    ),
}
_INTERVAL: dict[str, Column] = {
    'since_session': _column(
        'The visit before, with which this one was compared; n/a for the first visit.',
        source='order of acq_time, else of the session labels',
    ),
    'interval_days': _column(
        'Time since the visit before.', 'day', 'acq_time of the two visits in scans/sessions.tsv'
    ),
}


def _position(what: str) -> dict[str, Column]:
    """Six columns: the centre of mass of ``what`` in the two spaces."""
    names = {
        'individual': "the participant's own space (rigid, 1 mm, aligned with MNI)",
        'mni': 'MNI152NLin2009aSym (affine from the individual space)',
    }
    sense = {'x': 'right', 'y': 'anterior', 'z': 'superior'}
    return {
        f'{axis}_{space}_mm': _column(
            f'Centre of mass of the {what} in {name}; grows towards {sense[axis]}.',
            'mm',
            f'mean of the voxel centres of the {what}',
        )
        for space, name in names.items()
        for axis in 'xyz'
    }


def _alignment(contrast: str) -> Column:
    return _column(
        f'Alignment of {contrast} with the reference contrast: normalised mutual information '
        'inside the brain mask, 1 (unrelated) to 2 (identical).',
        'arbitrary',
        '(H(A) + H(B)) / H(A, B), Studholme et al., Pattern Recognition 1999;32:71-86',
    )


_ZONES = {
    'ventricles': 'all four ventricles with the choroid plexus',
    'csf': 'cerebrospinal fluid around the brain, as far as the brain mask takes it in',
    'cortex': 'cerebral cortex',
    'white_matter': 'cerebral white matter, lesions in it included',
    'deep_grey': 'thalamus, basal ganglia, hippocampus, amygdala and ventral diencephalon',
    'brain_stem': 'brain stem',
    'cerebellum': 'cerebellum',
}


def _zone(what: str) -> Column:
    return _column(
        f'Volume of the {what}; n/a where brain extraction used no network.',
        'mL',
        'zones of the anatomy network, individual space',
    )


_PLACES = {
    'periventricular': 'within 3 mm of the cerebral ventricles',
    'juxtacortical': 'within 3 mm of the cortex',
    'deep': 'farther from both',
    'infratentorial': 'in brain stem or cerebellum',
}

# What became of lesions, as a visit's summary counts it; of old lesions the change is told.
_OUTCOMES = {
    'new': ('volume', 'Volume at this visit of lesions that are new'),
    'enlarged': ('change', 'Volume gained by lesions that are enlarged'),
    'shrunken': ('change', 'Volume lost, as a number below 0, by lesions that are shrunken'),
    'resolved': ('volume', 'Volume at the visit before of lesions that are resolved'),
    'unconfirmed': ('volume', 'Volume of lesions that one of the two visits shows without support'),
}


def _outcome(kind: str) -> dict[str, Column]:
    measure, text = _OUTCOMES[kind]
    since = 'since the visit before with lesions; n/a where not compared.'
    source = 'column kind of the changes; lesions that overlap between the visits count once'
    return {
        f'{kind}_lesion_count': _column(f'Number of {kind} lesions {since}', 'count', source),
        f'{kind}_lesion_{measure}_ml': _column(f'{text}, {since}', 'mL', source),
    }


VISITS: dict[str, Column] = {
    **_PARTICIPANT,
    'acq_time': _column('Date and time of the scan.', source='sessions.tsv or scans.tsv'),
    'contrasts': _column('Contrasts that were used, separated by commas.', source='BIDS names'),
    'reference_contrast': _column('Contrast on whose grid the visit was read: FLAIR, else T1w.'),
    'slice_thickness_mm': _column(
        'Largest voxel size of the reference image.', 'mm', 'header of the reference image'
    ),
    'voxel_volume_mm3': _column(
        'Voxel volume of the reference image.', 'mm^3', 'header of the reference image'
    ),
    'brain_extraction': _column(
        'Method of brain extraction that was used.', source='--brain-extraction'
    ),
    'brain_volume_ml': _column('Volume of the brain mask.', 'mL', 'brain mask, individual space'),
    **{f'{zone}_ml': _zone(text) for zone, text in _ZONES.items()},
    'lesion_model': _column('Name of the lesion model.', source='--lesion-model'),
    'lesion_count': _column(
        'Number of separate lesions.', 'count', 'connected components of the lesion mask'
    ),
    'lesion_volume_ml': _column(
        'Total volume of the lesions.', 'mL', 'lesion mask, individual space'
    ),
    'largest_lesion_ml': _column('Volume of the largest lesion.', 'mL', 'lesion instances'),
    **{
        f'{name}_lesion_count': _column(
            f'Number of lesions whose class is {name}; n/a without zones of the brain.',
            'count',
            'column location of the lesions',
        )
        for name in _PLACES
    },
    **{
        f'{name}_lesion_volume_ml': _column(
            f'Volume of lesion {where}; n/a without zones of the brain.',
            'mL',
            'class of each voxel, individual space',
        )
        for name, where in _PLACES.items()
    },
    'nawm_noise_fraction': _column(
        'Noise: robust standard deviation of normal-appearing white matter over its mode.',
        'arbitrary',
        '1.4826 * median distance below the mode / mode, reference image, white matter',
    ),
    'mni_alignment': _column(
        'Alignment of the reference contrast with the MNI152NLin2009aSym template: normalised '
        'mutual information inside the template brain, 1 (unrelated) to 2 (identical).',
        'arbitrary',
        '(H(A) + H(B)) / H(A, B), Studholme et al., Pattern Recognition 1999;32:71-86',
    ),
    'T1w_alignment': _alignment('T1w'),
    'T2w_alignment': _alignment('T2w'),
    'ceT1w_alignment': _alignment('post-contrast T1w'),
    **_INTERVAL,
    'visit_motion_mm': _column(
        'Mean displacement of the brain left between this visit and the one before after the '
        'rigid alignment; large values point to a failed alignment or to distortion.',
        'mm',
        'affine between the visits against the rigid maps, averaged over the brain mask',
    ),
    'visit_correlation': _column(
        'Pearson correlation of the FLAIR with the FLAIR of the visit before, inside the brain.',
        'arbitrary',
        'aligned and intensity-matched FLAIR images',
    ),
    'lesions_since_session': _column(
        'The visit before with lesions found on FLAIR, with whose lesions those of this visit were '
        'compared; n/a where there is none.',
        source='order of acq_time, else of the session labels',
    ),
    **{name: entry for kind in _OUTCOMES for name, entry in _outcome(kind).items()},
    'candidate_count': _column(
        'Number of candidate new or enlarged lesions since the visit before (not confirmed).',
        'count',
        'intensity changes between the two FLAIR images',
    ),
    'candidate_volume_ml': _column(
        'Total volume of the candidates (not confirmed).', 'mL', 'candidate mask, individual space'
    ),
    'detected_new_model': _column(
        'Name of the network that looked for new lesions; n/a where none did.',
        source='--new-lesion-method',
    ),
    'detected_new_count': _column(
        'Number of new or enlarged places that this network found since the visit before.',
        'count',
        'mask of new lesions, individual space',
    ),
    'detected_new_volume_ml': _column(
        'Total volume of these places.', 'mL', 'mask of new lesions, individual space'
    ),
}

_UNCERTAINTIES = {
    'entropy': 'Predictive entropy (nat)',
    'variance': 'Variance of the sampled probability',
    'mutual_information': 'Mutual information of prediction and weights (nat)',
    'predicted_variance': 'Variance of the logit that the network itself predicts',
}

LESIONS: dict[str, Column] = {
    **_PARTICIPANT,
    'lesion': _column('Number of the lesion in the instance image.', 'count', 'instance label'),
    'volume_mm3': _column('Volume of the lesion.', 'mm^3', 'voxels of 1 mm^3, individual space'),
    **_position('lesion'),
    'extent_mm': _column(
        'Largest side of the box around the lesion.', 'mm', 'bounding box, individual space'
    ),
    'contrast_sd': _column(
        'Mean height of the lesion above the mode of normal-appearing white matter.',
        'robust standard deviations',
        'reference image, SD as 1.4826 * median distance below the mode of white matter',
    ),
    'depth_mm': _column(
        'Mean distance of the lesion to the brain surface.', 'mm', 'distance map of the brain mask'
    ),
    'mean_probability': _column(
        "Mean of the network's probability over the lesion; n/a for a method without one.",
        'arbitrary',
        '0 to 1, probability map, individual space',
    ),
    **{
        f'{name}_mm': _column(
            f'Smallest distance of the lesion to {what}; n/a without zones of the brain.',
            'mm',
            'between voxel centres, zones outside lesions, individual space',
        )
        for name, what in (
            ('ventricle', 'the cerebral ventricles'),
            ('cortex', 'the cerebral cortex'),
            ('posterior_fossa', 'brain stem and cerebellum (0 in them)'),
        )
    },
    'location': _column(
        'One class for the whole lesion: infratentorial, periventricular, juxtacortical or deep, '
        'the first that holds; n/a without zones of the brain.',
        source='McDonald criteria 2017; distances up to 2 mm count as touching',
    ),
    **{
        f'{name}_fraction': _column(
            f'Share of the volume of the lesion that lies {where}; n/a without zones.',
            'arbitrary',
            '0 to 1, class of each voxel, individual space',
        )
        for name, where in _PLACES.items()
    },
    'surround_contrast': _column(
        'FLAIR of the lesion less that of normal-appearing white matter around it, where the mode '
        'of white matter is 1.',
        'arbitrary',
        'mean of the lesion less median of white matter 2 to 10 mm from it',
    ),
    **{
        f'{name}_{kind}': _column(
            f'{title} of the lesion, {word} over its voxels; n/a without --mc-samples.',
            'arbitrary',
            'Monte Carlo dropout, Nair et al., Med Image Anal 2020;59:101557',
        )
        for name, title in _UNCERTAINTIES.items()
        for kind, word in (('mean', 'mean'), ('log_sum', 'sum of the natural logarithms'))
    },
}

_LINKS = 'links between the lesion instances of consecutive visits'
_INSTANCES = 'voxels of 1 mm^3, lesion instances of both visits, individual space'
_RATE = 'acq_time of the two visits, years of 365.25 days'

CHANGES: dict[str, Column] = {
    **_PARTICIPANT,
    **_INTERVAL,
    'kind': _column(
        'What became of a lesion, or of a group of lesions that overlap between the visits: new, '
        'enlarged, stable, shrunken, resolved, merged, split; unconfirmed is what one visit alone '
        'shows without support.',
        source='30 % and 12 mm^3 of change, at least 6 mm^3: spinalcordtoolbox issue 4786, Anima; '
        'new by --new-lesion-method where a network looked',
    ),
    'identifiers_before': _column(
        'Numbers of the lesions at the visit before, the same at all visits, largest first, '
        'separated by commas.',
        source=_LINKS,
    ),
    'identifiers_after': _column('The same at this visit.', source=_LINKS),
    'labels_before': _column(
        'Their numbers in the instance image of the visit before, in the same order.',
        source='instance label',
    ),
    'labels_after': _column(
        'Their numbers in the instance image of this visit, in the same order.',
        source='instance label',
    ),
    'volume_before_ml': _column('Their volume at the visit before.', 'mL', _INSTANCES),
    'volume_after_ml': _column('Their volume at this visit.', 'mL', _INSTANCES),
    'change_ml': _column('Volume at this visit less that at the visit before.', 'mL', _INSTANCES),
    'change_percent': _column(
        'The same in percent of the volume at the visit before; n/a for new lesions.',
        '%',
        _INSTANCES,
    ),
    'change_ml_per_year': _column(
        'Change of volume by years between the visits; n/a without acq_time.', 'mL/year', _RATE
    ),
    'change_percent_per_year': _column(
        'Change in percent by years between the visits; n/a for new lesions and without acq_time.',
        '%/year',
        _RATE,
    ),
    'overlap': _column(
        'Dice overlap of the lesions of both visits.', 'arbitrary', '0 to 1, instance images'
    ),
    'new_part_ml': _column(
        'Growth of old lesions so large that it counts as a new lesion attached to them, else 0.',
        'mL',
        'more than half of what stays and more than 12 mm^3: animaLesionEvolutionDetection, Anima',
    ),
}

CANDIDATES: dict[str, Column] = {
    **_PARTICIPANT,
    **_INTERVAL,
    'candidate': _column('Number of the candidate in its image.', 'count', 'instance label'),
    'volume_mm3': _column('Volume of the candidate.', 'mm^3', 'voxels of 1 mm^3'),
    **_position('candidate'),
    'intensity_ratio': _column(
        'Mean FLAIR intensity in this visit over that in the visit before.',
        'arbitrary',
        'after intensity matching; above 1 means brighter now',
    ),
    'depth_mm': _column(
        'Distance to the brain surface (DM).', 'mm', 'distance map of the brain mask'
    ),
    'below_vertex_mm': _column(
        'Distance below the highest point of the brain (DMz).', 'mm', 'brain mask'
    ),
    'from_occiput_mm': _column(
        'Distance in front of the rearmost point of the brain (DMx).', 'mm', 'brain mask'
    ),
    **{
        f'patch_{side}_{axis}': _column(
            f'{word} voxel of the patch around the candidate along axis {axis}, {rule}.',
            'voxel',
            'individual grid, counted from 0',
        )
        for axis in 'ijk'
        for side, word, rule in (('start', 'First', 'inclusive'), ('stop', 'End', 'exclusive'))
    },
}

NEW_LESIONS: dict[str, Column] = {
    **_PARTICIPANT,
    **_INTERVAL,
    'new_lesion': _column(
        'Number of the new or enlarged place in its image.', 'count', 'instance label'
    ),
    'volume_mm3': _column('Volume of the place.', 'mm^3', 'voxels of 1 mm^3, individual space'),
    **_position('place'),
    'extent_mm': _column(
        'Largest side of the box around the place.', 'mm', 'bounding box, individual space'
    ),
    'mean_probability': _column(
        "Mean of the network's probability over the place.",
        'arbitrary',
        '0 to 1, probability map, individual space',
    ),
    **{
        f'{visit}_intensity': _column(
            f'Mean FLAIR intensity of the place in the {which} visit.',
            'mode of white matter',
            'FLAIR scaled by white matter, individual space',
        )
        for visit, which in (('previous', 'earlier'), ('current', 'later'))
    },
}

SELF_CHECK: dict[str, Column] = {
    **_PARTICIPANT,
    **_INTERVAL,
    'detected_new_model': _column(
        'Name of the network that was checked.', source='--new-lesion-method'
    ),
    'diameter_mm': _column(
        'Diameter of a sphere of the volume of the painted lesions.', 'mm', '--self-check'
    ),
    'volume_mm3': _column('Volume of each painted lesion.', 'mm^3', 'before it is imaged'),
    'injected_count': _column(
        'Number of lesions of this size painted into the later FLAIR.', 'count', '--self-check'
    ),
    'recovered_count': _column(
        'Number of them that the network for new lesions found.',
        'count',
        'at least a tenth of the volume marked',
    ),
    'recovered_fraction': _column('Recovered over painted lesions.', 'arbitrary', '0 to 1'),
    'marked_fraction': _column(
        'Mean share of the volume of a painted lesion that was marked.', 'arbitrary', '0 to 1'
    ),
}

TRACKS: dict[str, Column] = {
    **_PARTICIPANT,
    'identifier': _column(
        'Number of the lesion, the same at all visits; one that ended never comes back.',
        'count',
        _LINKS,
    ),
    'visit': _column(
        'Number of the visit among those whose lesions were followed, from 0.', 'count', _LINKS
    ),
    'label': _column(
        'Number of the lesion in the instance image of the visit; 0 if it has ended.',
        'count',
        'instance label',
    ),
    'volume_ml': _column('Volume of the lesion at the visit.', 'mL', _INSTANCES),
    'parent': _column(
        'Identifier of the lesion that it broke off from since the visit before, else n/a.',
        'count',
        _LINKS,
    ),
    'merged_into': _column(
        'Identifier of the lesion that it ended in since the visit before, else n/a.',
        'count',
        _LINKS,
    ),
    'state': _column(
        'first, at the first visit; split, of parts that broke off; merged into; else what became '
        'of it since the visit before, as kind of the changes.',
        source=_LINKS,
    ),
}

_CRITERIA = 'research use only: Thompson et al., Lancet Neurol 2018;17:162-173, not a diagnosis'
DISSEMINATION: dict[str, Column] = {
    'participant_id': _PARTICIPANT['participant_id'],
    'criterion': _column('Dissemination in space or in time.', source=_CRITERIA),
    'item': _column(
        'What is asked for; the last item of each criterion is its conclusion.', source=_CRITERIA
    ),
    'state': _column(
        'met, not met or not measured, from automatic segmentations.', source=_CRITERIA
    ),
    'lesions': _column(
        'Identifiers of the lesions that meet it, separated by commas.', source=_CRITERIA
    ),
    'note': _column('What the state rests on, and what is missing.', source=_CRITERIA),
}
