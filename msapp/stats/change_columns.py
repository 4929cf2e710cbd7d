"""The data dictionaries of what is told between visits: changes, new lesions, tracks, items."""

from __future__ import annotations

from msapp.stats.columns import SINCE, WHOSE, Column, column, position_columns

_LINKS = 'links between the lesion instances of consecutive visits'
_INSTANCES = 'voxels of 1 mm^3, lesion instances of both visits, individual space'
_RATE = 'acq_time of the two visits, years of 365.25 days'
_NO_RATE = 'n/a without acq_time, or for fewer than 30 days'
_NOT_SEEN = 'n/a where the brain of that visit leaves out a lesion of the other one'

CHANGES: dict[str, Column] = {
    **WHOSE,
    **SINCE,
    'kind': column(
        'What became of a lesion, or of a group of lesions that overlap between the visits: new, '
        'enlarged, stable, shrunken, resolved, merged, split; unconfirmed is what one visit alone '
        'shows without support, or what had been a speck.',
        source='30 % and 12 mm^3 of change, at least 6 mm^3: spinalcordtoolbox issue 4786, Anima; '
        'new and resolved by --new-lesion-method where a network looked',
    ),
    'identifiers_before': column(
        'Numbers of the lesions at the visit before, the same at all visits, largest first, '
        'separated by commas.',
        source=_LINKS,
    ),
    'identifiers_after': column('The same at this visit.', source=_LINKS),
    'labels_before': column(
        'Their numbers in the instance image of the visit before, in the same order.',
        source='instance label',
    ),
    'labels_after': column(
        'Their numbers in the instance image of this visit, in the same order.',
        source='instance label',
    ),
    'volume_before_ml': column(f'Their volume at the visit before; {_NOT_SEEN}.', 'mL', _INSTANCES),
    'volume_after_ml': column(f'Their volume at this visit; {_NOT_SEEN}.', 'mL', _INSTANCES),
    'change_ml': column(
        'Volume at this visit less that at the visit before; of lesions of both visits that of the '
        'part that both brain masks hold.',
        'mL',
        _INSTANCES,
    ),
    'change_percent': column(
        'The same in percent of the volume at the visit before; n/a for new lesions.',
        '%',
        _INSTANCES,
    ),
    'change_ml_per_year': column(
        f'Change of volume by years between the visits; {_NO_RATE}.', 'mL/year', _RATE
    ),
    'change_percent_per_year': column(
        f'Change in percent by years between the visits; n/a for new lesions; {_NO_RATE}.',
        '%/year',
        _RATE,
    ),
    'overlap': column(
        'Dice overlap of the lesions of both visits.', 'arbitrary', '0 to 1, instance images'
    ),
    'new_part_ml': column(
        'Growth of old lesions so large that it counts as a new lesion attached to them, else 0. '
        'Where a network for new lesions looked, 0 too if it marked no more than half of the '
        'growth, else all of it.',
        'mL',
        'more than half of what stays and more than 12 mm^3: animaLesionEvolutionDetection, Anima',
    ),
    'marked_ml': column(
        'Their volume at this visit that the network for new lesions marked and that was no '
        'lesion at the visit before; n/a without one.',
        'mL',
        'label-new mask, instance images',
    ),
}

CANDIDATES: dict[str, Column] = {
    **WHOSE,
    **SINCE,
    'candidate': column('Number of the candidate in its image.', 'count', 'instance label'),
    'volume_mm3': column('Volume of the candidate.', 'mm^3', 'voxels of 1 mm^3'),
    **position_columns('candidate'),
    'intensity_ratio': column(
        'Mean over its voxels of FLAIR intensity in this visit over that in the visit before.',
        'arbitrary',
        'after intensity matching; above 1 means brighter now',
    ),
    'depth_mm': column(
        'Distance to the brain surface (DM).', 'mm', 'distance map of the brain mask'
    ),
    'below_vertex_mm': column(
        'Distance below the highest point of the brain (DMz).', 'mm', 'brain mask'
    ),
    'from_occiput_mm': column(
        'Distance in front of the rearmost point of the brain (DMx).', 'mm', 'brain mask'
    ),
    **{
        f'patch_{side}_{axis}': column(
            f'{word} voxel of the patch around the candidate along axis {axis}, {rule}.',
            'voxel',
            'individual grid, counted from 0',
        )
        for axis in 'ijk'
        for side, word, rule in (('start', 'First', 'inclusive'), ('stop', 'End', 'exclusive'))
    },
}

NEW_LESIONS: dict[str, Column] = {
    **WHOSE,
    **SINCE,
    'new_lesion': column(
        'Number of the new or enlarged place in its image.', 'count', 'instance label'
    ),
    'volume_mm3': column('Volume of the place.', 'mm^3', 'voxels of 1 mm^3, individual space'),
    **position_columns('place'),
    'extent_mm': column(
        'Largest side of the box around the place.', 'mm', 'bounding box, individual space'
    ),
    'mean_probability': column(
        "Mean of the network's probability over the place, and over what it grew by.",
        'arbitrary',
        '0 to 1, probability map, individual space',
    ),
    **{
        f'{visit}_intensity': column(
            f'Mean FLAIR intensity of the place in the {which} visit.',
            'mode of white matter',
            'FLAIR scaled by white matter, individual space',
        )
        for visit, which in (('previous', 'earlier'), ('current', 'later'))
    },
}

SELF_CHECK: dict[str, Column] = {
    **WHOSE,
    **SINCE,
    'detected_new_model': column(
        'Name of the network that was checked.', source='--new-lesion-method'
    ),
    'detected_new_model_sha256': column(
        'First 12 digits of the SHA-256 of its weights; after a +, of those of the network that '
        'confirms what it marks.',
        source='--new-lesion-method',
    ),
    'diameter_mm': column(
        'Diameter of a sphere of the volume of the painted lesions.', 'mm', '--self-check'
    ),
    'volume_mm3': column('Volume of each painted lesion.', 'mm^3', 'before it is imaged'),
    'injected_count': column(
        'Number of lesions of this size painted into the later FLAIR; fewer where there is no '
        'room, or none.',
        'count',
        '--self-check',
    ),
    'recovered_count': column(
        'Number of them that the network for new lesions found.',
        'count',
        'at least a tenth of the volume marked',
    ),
    'recovered_fraction': column(
        'Recovered over painted lesions; n/a where none was painted.', 'arbitrary', '0 to 1'
    ),
    'half_marked_count': column(
        'Number of painted lesions of which more than half was marked, as a segmented lesion '
        'needs to count as new among the changes.',
        'count',
        'more than half of the volume marked',
    ),
    'marked_fraction': column(
        'Mean share of the volume of a painted lesion that was marked; n/a where none was painted.',
        'arbitrary',
        '0 to 1',
    ),
}

TRACKS: dict[str, Column] = {
    **WHOSE,
    'identifier': column(
        'Number of the lesion, the same at all visits; one that ended comes back only where the '
        'lesion had merged with another and parts from it again, or where neither its end nor its '
        'return is confirmed (unconfirmed at both visits).',
        'count',
        _LINKS,
    ),
    'visit': column(
        'Number of the visit among those whose lesions were followed, from 0.', 'count', _LINKS
    ),
    'label': column(
        'Number of the lesion in the instance image of the visit; 0 if it has ended.',
        'count',
        'instance label',
    ),
    'volume_ml': column(f'Volume of the lesion at the visit; {_NOT_SEEN}.', 'mL', _INSTANCES),
    'parent': column(
        'Identifier of the lesion that it broke off from since the visit before, else n/a.',
        'count',
        _LINKS,
    ),
    'merged_into': column(
        'Identifier of the lesion that it ended in since the visit before, else n/a.',
        'count',
        _LINKS,
    ),
    'state': column(
        'first, at the first visit; split, of parts that broke off; merged into; else what became '
        'of it since the visit before, as kind of the changes.',
        source=_LINKS,
    ),
}

_CRITERIA = 'research use only: Thompson et al., Lancet Neurol 2018;17:162-173, not a diagnosis'
DISSEMINATION: dict[str, Column] = {
    'participant_id': WHOSE['participant_id'],
    'criterion': column('Dissemination in space or in time.', source=_CRITERIA),
    'item': column(
        'What is asked for; the last item of each criterion is its conclusion.', source=_CRITERIA
    ),
    'state': column(
        'met, not met or not measured, from automatic segmentations.', source=_CRITERIA
    ),
    'lesions': column(
        'Identifiers of the lesions that meet it, separated by commas.', source=_CRITERIA
    ),
    'note': column('What the state rests on, and what is missing.', source=_CRITERIA),
}
