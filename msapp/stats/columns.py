"""The data dictionaries of visits and their lesions: what each column means, unit and source.

Those of what is told between visits are in `msapp.stats.change_columns`.
"""

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
        'lesion_model_sha256',
        'lesion_contrasts',
        'lesion_contrasts_left_out',
        'detected_new_model',
        'detected_new_model_sha256',
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


def column(description: str, units: str | None = None, source: str = 'msapp') -> Column:
    """Make one entry of a BIDS data dictionary; text columns have no unit."""
    entry = {'Description': description}
    if units is not None:
        entry['Units'] = units
    return entry | {'Source': source}


WHOSE: dict[str, Column] = {
    'participant_id': column('Participant label with its prefix, sub-X.', source='BIDS name'),
    'session_id': column(
        'Session label with its prefix, ses-Y; n/a in a dataset without sessions.',
        source='BIDS name',
    ),
}
SINCE: dict[str, Column] = {
    'since_session': column(
        'The last visit before with FLAIR, with which this one was compared; n/a where there is '
        'none.',
        source='order of acq_time, else of the session labels',
    ),
    'interval_days': column(
        'Time since that visit.', 'day', 'acq_time of the two visits in scans/sessions.tsv'
    ),
}


def position_columns(what: str) -> dict[str, Column]:
    """Six columns: the centre of mass of ``what`` in the two spaces."""
    names = {
        'individual': "the participant's own space (rigid, 1 mm, aligned with MNI)",
        'mni': 'MNI152NLin2009aSym (affine from the individual space)',
    }
    sense = {'x': 'right', 'y': 'anterior', 'z': 'superior'}
    return {
        f'{axis}_{space}_mm': column(
            f'Centre of mass of the {what} in {name}; grows towards {sense[axis]}.',
            'mm',
            f'mean of the voxel centres of the {what}',
        )
        for space, name in names.items()
        for axis in 'xyz'
    }


def _alignment(contrast: str) -> Column:
    return column(
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
    return column(
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
OUTCOMES = {
    'new': ('volume', 'Volume at this visit of lesions that are new'),
    'enlarged': ('change', 'Volume gained by lesions that are enlarged'),
    'stable': ('change', 'Volume gained, or below 0 lost, by lesions that are stable'),
    'shrunken': ('change', 'Volume lost, as a number below 0, by lesions that are shrunken'),
    'resolved': ('volume', 'Volume at the visit before of lesions that are resolved'),
    'merged': ('change', 'Volume gained, or below 0 lost, by lesions that merged'),
    'split': ('change', 'Volume gained, or below 0 lost, by lesions that split'),
    'unconfirmed': (
        'volume',
        'Volume of lesions that one of the two visits shows without support, or grown from a speck',
    ),
}


def _outcome(kind: str) -> dict[str, Column]:
    measure, text = OUTCOMES[kind]
    since = 'since the visit before with lesions; n/a where not compared.'
    source = 'column kind of the changes; lesions that overlap between the visits count once'
    return {
        f'{kind}_lesion_count': column(f'Number of {kind} lesions {since}', 'count', source),
        f'{kind}_lesion_{measure}_ml': column(f'{text}, {since}', 'mL', source),
    }


VISITS: dict[str, Column] = {
    **WHOSE,
    'acq_time': column('Date and time of the scan.', source='sessions.tsv or scans.tsv'),
    'contrasts': column('Contrasts that were used, separated by commas.', source='BIDS names'),
    'reference_contrast': column('Contrast on whose grid the visit was read: FLAIR, else T1w.'),
    'slice_thickness_mm': column(
        'Largest voxel size of the reference image.', 'mm', 'header of the reference image'
    ),
    'voxel_volume_mm3': column(
        'Voxel volume of the reference image.', 'mm^3', 'header of the reference image'
    ),
    'brain_extraction': column(
        'Method of brain extraction that was used.', source='--brain-extraction'
    ),
    'brain_volume_ml': column('Volume of the brain mask.', 'mL', 'brain mask, individual space'),
    **{f'{zone}_ml': _zone(text) for zone, text in _ZONES.items()},
    'lesion_model': column('Name of the lesion model.', source='--lesion-model'),
    'lesion_model_sha256': column(
        'First 12 digits of the SHA-256 of its weights, which two models of one name do not share; '
        'n/a for the threshold.',
        source='--lesion-model',
    ),
    'lesion_contrasts': column(
        'Contrasts that lesions were found from, separated by commas: those that all visits of the '
        'participant with FLAIR have, of those that the model takes.',
        source='images that the model was given',
    ),
    'lesion_contrasts_left_out': column(
        'Contrasts that the model takes and that were not given to it, for they do not show the '
        'whole brain, of this visit or of another of the participant.',
        source='brain mask, individual space',
    ),
    'lesion_count': column(
        'Number of separate lesions.', 'count', 'connected components of the lesion mask'
    ),
    'lesion_volume_ml': column(
        'Total volume of the lesions.', 'mL', 'lesion mask, individual space'
    ),
    'largest_lesion_ml': column('Volume of the largest lesion.', 'mL', 'lesion instances'),
    **{
        f'{name}_lesion_count': column(
            f'Number of lesions whose class is {name}; n/a without zones of the brain.',
            'count',
            'column location of the lesions',
        )
        for name in _PLACES
    },
    **{
        f'{name}_lesion_volume_ml': column(
            f'Volume of lesion {where}; n/a without zones of the brain.',
            'mL',
            'class of each voxel, individual space',
        )
        for name, where in _PLACES.items()
    },
    'nawm_noise_fraction': column(
        'Noise: robust standard deviation of normal-appearing white matter over its mode.',
        'arbitrary',
        '1.4826 * median distance below the mode / mode, reference image, white matter',
    ),
    'mni_alignment': column(
        'Alignment of the reference contrast with the MNI152NLin2009aSym template: normalised '
        'mutual information inside the template brain, 1 (unrelated) to 2 (identical).',
        'arbitrary',
        '(H(A) + H(B)) / H(A, B), Studholme et al., Pattern Recognition 1999;32:71-86',
    ),
    'T1w_alignment': _alignment('T1w'),
    'T2w_alignment': _alignment('T2w'),
    'ceT1w_alignment': _alignment('post-contrast T1w'),
    **SINCE,
    'visit_motion_mm': column(
        'Mean displacement of the brain left between this visit and the one before after the '
        'rigid alignment; large values point to a failed alignment or to distortion.',
        'mm',
        'affine between the visits against the rigid maps, averaged over the brain mask',
    ),
    'visit_correlation': column(
        'Pearson correlation of the FLAIR with the FLAIR of the visit before, inside the brain.',
        'arbitrary',
        'aligned and intensity-matched FLAIR images',
    ),
    'lesions_since_session': column(
        'The visit before with lesions found on FLAIR, with whose lesions those of this visit were '
        'compared; n/a where there is none.',
        source='order of acq_time, else of the session labels',
    ),
    'lesions_interval_days': column(
        'Time since that visit, to which the numbers of new, enlarged, shrunken and resolved '
        'lesions belong.',
        'day',
        'acq_time of the two visits in scans/sessions.tsv',
    ),
    **{name: entry for kind in OUTCOMES for name, entry in _outcome(kind).items()},
    'grown_lesion_count': column(
        'Number of lesions, of any class but new (merged, stable and unconfirmed too), within '
        'which the network for new lesions marked at least 6 mm^3 that were no lesion before; n/a '
        'without one.',
        'count',
        'column marked_ml of the changes',
    ),
    'grown_lesion_volume_ml': column(
        'Volume of that tissue. Part of it may be in the change of lesions that are enlarged, '
        'stable, merged or split, and in the volume of those that are unconfirmed.',
        'mL',
        'column marked_ml of the changes',
    ),
    'detected_outside_count': column(
        'Number of places that the network for new lesions marked and that are no lesion of this '
        'visit (less than a tenth of them): in no other number here but detected_new_count.',
        'count',
        'mask of new lesions and lesion instances, individual space',
    ),
    'detected_outside_volume_ml': column(
        'Volume of these places.',
        'mL',
        'mask of new lesions and lesion instances, individual space',
    ),
    'candidate_count': column(
        'Number of candidate new or enlarged lesions since the visit before (not confirmed).',
        'count',
        'intensity changes between the two FLAIR images',
    ),
    'candidate_volume_ml': column(
        'Total volume of the candidates (not confirmed).', 'mL', 'candidate mask, individual space'
    ),
    'detected_new_model': column(
        'Name of the network that looked for new lesions; n/a where none did.',
        source='--new-lesion-method',
    ),
    'detected_new_model_sha256': column(
        'First 12 digits of the SHA-256 of its weights; after a +, of those of the network that '
        'confirms what it marks.',
        source='--new-lesion-method',
    ),
    'detected_new_count': column(
        'Number of new or enlarged places that this network found since the visit before.',
        'count',
        'mask of new lesions, individual space',
    ),
    'detected_new_volume_ml': column(
        'Total volume of these places.', 'mL', 'mask of new lesions, individual space'
    ),
    'detected_new_least_mm3': column(
        'Smallest place in white matter that could be among these: what is smaller is not told '
        'from how far the two FLAIRs differ where nothing is marked. n/a for networks that no '
        'other one confirms, whose places are not measured by that.',
        'mm^3',
        'spread of either FLAIR where the other is as bright as white matter',
    ),
}

_UNCERTAINTIES = {
    'entropy': 'Predictive entropy (nat)',
    'variance': 'Variance of the sampled probability',
    'mutual_information': 'Mutual information of prediction and weights (nat)',
    'predicted_variance': 'Variance of the logit that the network itself predicts',
}

LESIONS: dict[str, Column] = {
    **WHOSE,
    'lesion': column('Number of the lesion in the instance image.', 'count', 'instance label'),
    'volume_mm3': column('Volume of the lesion.', 'mm^3', 'voxels of 1 mm^3, individual space'),
    **position_columns('lesion'),
    'extent_mm': column(
        'Largest side of the box around the lesion.', 'mm', 'bounding box, individual space'
    ),
    'contrast_sd': column(
        'Mean height of the lesion above the mode of normal-appearing white matter.',
        'robust standard deviations',
        'reference image, SD as 1.4826 * median distance below the mode of white matter',
    ),
    'depth_mm': column(
        'Mean distance of the lesion to the brain surface.', 'mm', 'distance map of the brain mask'
    ),
    'mean_probability': column(
        "Mean of the network's probability over the lesion; n/a for a method without one.",
        'arbitrary',
        '0 to 1, probability map, individual space',
    ),
    **{
        f'{name}_mm': column(
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
    'location': column(
        'One class for the whole lesion: infratentorial, periventricular, juxtacortical or deep, '
        'the first that holds; n/a without zones of the brain.',
        source='McDonald criteria 2017; distances up to 2 mm count as touching',
    ),
    **{
        f'{name}_fraction': column(
            f'Share of the volume of the lesion that lies {where}; n/a without zones.',
            'arbitrary',
            '0 to 1, class of each voxel, individual space',
        )
        for name, where in _PLACES.items()
    },
    'surround_contrast': column(
        'FLAIR of the lesion less that of normal-appearing white matter around it, where the mode '
        'of white matter is 1.',
        'arbitrary',
        'mean of the lesion less median of white matter 2 to 10 mm from it',
    ),
    **{
        f'{name}_{kind}': column(
            f'{title} of the lesion, {word} over its voxels; n/a without --mc-samples.',
            'arbitrary',
            'Monte Carlo dropout, Nair et al., Med Image Anal 2020;59:101557',
        )
        for name, title in _UNCERTAINTIES.items()
        for kind, word in (('mean', 'mean'), ('log_sum', 'sum of the natural logarithms'))
    },
}
