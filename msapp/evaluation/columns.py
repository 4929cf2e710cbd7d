"""The data dictionaries of the tables of ``msapp-evaluate``: meaning, unit and source."""

from __future__ import annotations

from collections.abc import Iterable

Column = dict[str, str]

_VOXEL = 'voxels of the two masks'
_ANIMA = 'animaSegPerfAnalyzer: Commowick et al., Sci. Rep. 2018;8:13650'
_WMH = 'WMH challenge: Kuijf et al., IEEE Trans. Med. Imaging 2019;38:2556-2568'
_ISBI = 'ISBI 2015: Carass et al., NeuroImage 2017;148:77-102'
_IVADOMED = 'ivadomed: a tenth of a lesion covered; false without any shared voxel'
_UNDEFINED = 'n/a where there is nothing to divide by.'


def _column(description: str, units: str, source: str) -> Column:
    return {'Description': description, 'Units': units, 'Source': source}


def _share(description: str, source: str, undefined: str = _UNDEFINED) -> Column:
    return _column(f'{description}, 0 to 1; {undefined}', 'arbitrary', source)


CASE: dict[str, Column] = {
    'case': {
        'Description': 'Participant and session, or the file name.',
        'Source': 'names of the files',
    }
}
VOXEL: dict[str, Column] = {
    'dice': _share('Dice coefficient', _VOXEL, 'n/a if both masks are empty, 0 if one of them is.'),
    'jaccard': _share(
        'Intersection over union', _VOXEL, 'n/a if both masks are empty, 0 if one of them is.'
    ),
    'sensitivity': _share('True positive over reference voxels', _VOXEL),
    'specificity': _share('True negative over background voxels of the whole image', _VOXEL),
    'ppv': _share('True positive over predicted voxels', _VOXEL),
    'npv': _share('True negative over voxels predicted as background', _VOXEL),
    'relative_volume_error_percent': _column(
        'Predicted less reference volume, over the reference volume; n/a without one.',
        'percent',
        _VOXEL,
    ),
    'absolute_volume_difference_percent': _column(
        'The relative volume error without its sign.', 'percent', _VOXEL
    ),
    'hd95_mm': _column(
        '95th percentile Hausdorff distance, surfaces by slice; n/a if a mask is empty.',
        'mm',
        _WMH,
    ),
    'assd_mm': _column(
        'Average symmetric surface distance; n/a if a mask is empty.',
        'mm',
        'mean distance of the surface voxels (faces) of each mask to the other surface',
    ),
    'predicted_ml': _column('Volume of the prediction.', 'mL', _VOXEL),
    'reference_ml': _column('Volume of the reference.', 'mL', _VOXEL),
}


def _lesions(rule: str, counted: str, source: str, undefined: str) -> dict[str, Column]:
    """Make the columns of `LesionScores` for one rule."""
    return {
        f'{rule}_reference_count': _column(f'Reference lesions{counted}.', 'count', source),
        f'{rule}_predicted_count': _column(f'Predicted lesions{counted}.', 'count', source),
        f'{rule}_found_count': _column('Reference lesions that were found.', 'count', source),
        f'{rule}_false_count': _column(
            'Predicted lesions that stand for no reference lesion.', 'count', source
        ),
        f'{rule}_false_mm3': _column('Volume of the false lesions.', 'mm^3', source),
        f'{rule}_sensitivity': _share('Found over reference lesions', source, undefined),
        f'{rule}_ppv': _share('True over predicted lesions', source, undefined),
        f'{rule}_f1': _share('Harmonic mean of the two', source, undefined),
    }


BY_RULE: dict[str, dict[str, Column]] = {
    'anima': _lesions(
        'anima',
        ' larger than 3 mm^3, of voxels that share faces',
        _ANIMA,
        'n/a without reference lesions (the false lesions count then); without predicted ones '
        'the PPV is n/a and F1 is 0.',
    ),
    'wmh': {
        'wmh_dice': _share(
            'Dice coefficient, other pathology (label 2) taken out', _WMH, 'n/a if both are empty.'
        ),
        'wmh_hd95_mm': _column(
            '95th percentile Hausdorff distance, other pathology taken out.', 'mm', _WMH
        ),
        'wmh_avd_percent': _column(
            'Absolute volume difference; n/a without true lesions.', 'percent', _WMH
        ),
        'wmh_recall': _share(
            'True lesions that are touched, corner-connected', _WMH, '1 without true lesions.'
        ),
        'wmh_f1': _share(
            'Harmonic mean of recall and precision of lesions', _WMH, '1 if both masks are empty.'
        ),
    },
    'isbi': {
        'isbi_lfpr': _share('Predicted lesions that touch no true one', _ISBI),
        'isbi_ltpr': _share('True lesions that are touched', _ISBI),
    },
    'ivadomed': _lesions(
        'ivadomed',
        ', of voxels that share faces',
        _IVADOMED,
        '1 if both masks are empty, 0 if one is.',
    ),
}
SIZES: dict[str, Column] = {
    'from_mm3': _column('Lower limit of lesion size, inclusive.', 'mm^3', '--size-edges'),
    'to_mm3': _column(
        'Upper limit of lesion size, exclusive; n/a if there is none.', 'mm^3', '--size-edges'
    ),
    'reference_count': _column('Reference lesions of this size.', 'count', _ANIMA),
    'found_count': _column('Those that were found.', 'count', _ANIMA),
    'recall': _share('Found over reference lesions', _ANIMA),
    'predicted_count': _column('Predicted lesions of this size.', 'count', _ANIMA),
    'true_count': _column('Those that stand for a reference lesion.', 'count', _ANIMA),
    'ppv': _share('True over predicted lesions', _ANIMA),
    'f1': _share('Harmonic mean of recall and PPV', _ANIMA),
}
SUMMARY: dict[str, Column] = {
    'score': {'Description': 'Name of the score.', 'Source': 'column of the table of cases'},
    'mean': _column('Mean over the cases where it is defined.', 'unit of the score', 'cases'),
    'sd': _column('Standard deviation of the sample.', 'unit of the score', 'cases'),
    'median': _column('Median.', 'unit of the score', 'cases'),
    'n': _column('Cases where the score is defined.', 'count', 'cases'),
}
_WITH_LESIONS = 'n/a without true lesions.'
_SWEEP: dict[str, Column] = {
    'threshold': _column('Probabilities of this and more are lesion.', 'arbitrary', '--threshold'),
    'dice': _share('Dice coefficient', _VOXEL, _WITH_LESIONS),
    'anima_sensitivity': _share('Found over reference lesions', _ANIMA, _WITH_LESIONS),
    'anima_ppv': _share('True over predicted lesions', _ANIMA),
    'anima_f1': _share('Harmonic mean of the two', _ANIMA, _WITH_LESIONS),
    'anima_false_count': BY_RULE['anima']['anima_false_count'],
    'anima_false_mm3': BY_RULE['anima']['anima_false_mm3'],
}
SWEEP: dict[str, Column] = {**CASE, **_SWEEP}
SWEEP_SUMMARY: dict[str, Column] = {
    **_SWEEP,
    'n_dice': _column('Cases with true lesions, over which Dice is averaged.', 'count', 'cases'),
    'n_anima_f1': _column(
        'Cases with true lesions larger than 3 mm^3, over which F1 is averaged.', 'count', 'cases'
    ),
    'n_anima_ppv': _column(
        'Of these the cases in which something was marked, over which PPV is averaged.',
        'count',
        'cases',
    ),
}


def case_columns(rules: Iterable[str]) -> dict[str, Column]:
    """Return the dictionary of the table of cases for the rules that were asked for.

    Examples
    --------
    >>> list(case_columns(['isbi']))[-2:]
    ['isbi_lfpr', 'isbi_ltpr']
    """
    wanted = set(rules)
    chosen = [columns for rule, columns in BY_RULE.items() if rule in wanted]
    return {name: column for part in (CASE, VOXEL, *chosen) for name, column in part.items()}
