"""Many cases scored into one table, and its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd

from msapp.errors import InputError
from msapp.evaluation.cases import WHOLE, Case, Images, load_case
from msapp.evaluation.challenges import (
    OTHER_PATHOLOGY,
    IsbiTerms,
    isbi2015_score,
    isbi2015_terms,
    score_wmh2017,
)
from msapp.evaluation.lesiontables import match_table
from msapp.evaluation.lesionwise import (
    LesionScores,
    detect_anima,
    pair_anima,
    score_anima,
    score_ivadomed,
)
from msapp.evaluation.voxel import Spacing, score_voxels

RULES = ('anima', 'wmh', 'isbi', 'ivadomed')
THRESHOLD = 0.5

Result = TypeVar('Result')


@dataclass(frozen=True)
class Scoring:
    """How cases are scored.

    Attributes
    ----------
    rules : tuple of str
        Of `RULES`; scores by voxel are always given.
    threshold : float or None
        Predictions are probabilities, and values of this and more are lesion; None for masks.
    label : int or None
        Value of the truth that is lesion; None for every value above 0. The rule ``wmh`` reads
        its own labels 1 and 2 in any case.
    """

    rules: tuple[str, ...] = ('anima',)
    threshold: float | None = None
    label: int | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.rules) - set(RULES))
        if unknown:
            raise ValueError(f'rules must be of {list(RULES)}, got {unknown}')
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f'threshold must be in (0, 1], got {self.threshold}')


@dataclass(frozen=True)
class Study:
    """The scores of many cases.

    Attributes
    ----------
    table : pandas.DataFrame
        One line a case; columns as in `msapp.evaluation.columns`.
    lesions : pandas.DataFrame
        One line a lesion: `match_table` by the rule of Anima, with the column ``case`` before.
    failures : mapping
        What went wrong, by the name of each case that could not be scored.
    warnings : tuple of str
    """

    table: pd.DataFrame
    lesions: pd.DataFrame
    failures: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def make_reference(images: Images, label: int | None = None) -> np.ndarray:
    """Return the true lesions of a case: one label, or every value above 0.

    Returns
    -------
    (I, J, K) ndarray of bool
    """
    return images.truth > 0 if label is None else images.truth == label


def read_probability(case: Case, images: Images) -> np.ndarray:
    """Return a prediction as probabilities.

    Raises
    ------
    InputError
        If values lie outside 0 to 1.
    """
    low, high = float(images.prediction.min()), float(images.prediction.max())
    # Interpolation and the scaling of NIfTI leave values a little outside.
    if low < -WHOLE or high > 1 + WHOLE:
        raise InputError(
            f'{case.prediction}: holds values from {low:g} to {high:g}; probabilities lie in '
            '0 to 1.'
        )
    return images.prediction


def make_prediction(case: Case, images: Images, threshold: float | None = None) -> np.ndarray:
    """Return the predicted lesions of a case.

    Parameters
    ----------
    case : Case
    images : Images
    threshold : float, optional
        Probabilities of this and more are lesion; without it the prediction is a mask or labels,
        and every value above 0 is.

    Returns
    -------
    (I, J, K) ndarray of bool

    Raises
    ------
    InputError
        If probabilities lie outside 0 to 1, or a mask holds fractions.
    """
    if threshold is not None:
        return read_probability(case, images) >= threshold
    values = images.prediction
    if not np.allclose(values, np.rint(values), rtol=0, atol=WHOLE):
        raise InputError(
            f'{case.prediction}: holds fractions. If they are probabilities, use --probability.'
        )
    return np.rint(values) > 0


def score_masks(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    rules: Iterable[str] = ('anima',),
    *,
    labels: np.ndarray | None = None,
) -> dict[str, float]:
    """Score one prediction by voxel and by the rules asked for.

    Parameters
    ----------
    prediction, reference : (I, J, K) ndarray of bool
    spacing_mm : tuple of float
        Voxel size, mm.
    rules : iterable of str
        Of `RULES`.
    labels : (I, J, K) ndarray of int, optional
        The truth for the rule ``wmh``: 1 lesion, 2 other pathology; the reference by default.

    Returns
    -------
    dict
        Scores by the name of their column, in the order of `msapp.evaluation.columns`.
    """
    row: dict[str, float] = asdict(score_voxels(prediction, reference, spacing_mm))
    if 'anima' in rules:
        row |= _prefixed('anima', score_anima(prediction, reference, spacing_mm))
    if 'wmh' in rules:
        truth = reference.astype(np.uint8) if labels is None else labels
        scores = asdict(score_wmh2017(prediction, truth, spacing_mm))
        row |= {f'wmh_{name}': value for name, value in scores.items()}
    if 'isbi' in rules:
        terms = isbi2015_terms(prediction, reference, spacing_mm)
        row |= {'isbi_lfpr': terms.lfpr, 'isbi_ltpr': terms.ltpr}
    if 'ivadomed' in rules:
        row |= _prefixed('ivadomed', score_ivadomed(prediction, reference, spacing_mm))
    return row


def _prefixed(rule: str, scores: LesionScores) -> dict[str, float]:
    """Name the scores of a rule by it."""
    return {f'{rule}_{name}': value for name, value in asdict(scores).items()}


def score_case(case: Case, scoring: Scoring) -> tuple[dict[str, object], pd.DataFrame, str]:
    """Read and score one case.

    Returns
    -------
    row : dict
        A line of `Study.table`.
    lesions : pandas.DataFrame
        Lines of `Study.lesions`.
    warning : str
        Empty if there is none.

    Raises
    ------
    InputError
        If the images cannot be read or compared.
    """
    images = load_case(case)
    if (
        'wmh' in scoring.rules
        and not 0 <= images.truth.min() <= images.truth.max() <= OTHER_PATHOLOGY
    ):
        raise InputError(
            f'{case.truth}: holds values from {images.truth.min()} to {images.truth.max()}; the '
            'rule wmh reads 1 as lesion and 2 as other pathology. Leave the rule out.'
        )
    reference = make_reference(images, scoring.label)
    prediction = make_prediction(case, images, scoring.threshold)
    spacing = images.spacing_mm
    scores = score_masks(prediction, reference, spacing, scoring.rules, labels=images.truth)
    overlaps = pair_anima(prediction, reference, float(np.prod(spacing)))
    lesions = match_table(overlaps, detect_anima(overlaps))
    lesions.insert(0, 'case', case.name)
    return {'case': case.name, **scores}, lesions, images.warning


def for_each_case(
    cases: Sequence[Case],
    work: Callable[[Case], Result],
    on_case: Callable[[str], None] | None = None,
) -> tuple[list[Result], dict[str, str]]:
    """Do the same with every case; one that cannot be read or compared does not stop the others.

    Parameters
    ----------
    cases : sequence of Case
    work : callable
    on_case : callable, optional
        Called with the name of each case before it is read.

    Returns
    -------
    results : list
        Of the cases that went well, in order.
    failures : dict
        What went wrong, by the name of each other case.
    """
    results = []
    failures: dict[str, str] = {}
    for case in cases:
        if on_case is not None:
            on_case(case.name)
        try:
            results.append(work(case))
        except InputError as error:
            failures[case.name] = str(error)
    return results, failures


def score_study(
    cases: Sequence[Case], scoring: Scoring, *, on_case: Callable[[str], None] | None = None
) -> Study:
    """Score many cases.

    Parameters
    ----------
    cases : sequence of Case
    scoring : Scoring
    on_case : callable, optional
        Called with the name of each case before it is read.

    Returns
    -------
    Study
        A case that cannot be read or compared is among its failures.
    """
    results, failures = for_each_case(cases, lambda case: score_case(case, scoring), on_case)
    rows, lesions, warnings = zip(*results, strict=True) if results else ((), (), ())
    return Study(
        table=pd.DataFrame(list(rows)),
        lesions=pd.concat(lesions, ignore_index=True) if lesions else pd.DataFrame(),
        failures=failures,
        warnings=tuple(filter(None, warnings)),
    )


def summarize(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean, standard deviation, median and number of each score of a table.

    Parameters
    ----------
    table : pandas.DataFrame
        Text columns are left out.

    Returns
    -------
    pandas.DataFrame
        One line a score: ``score``, ``mean``, ``sd`` (of the sample; NaN for one case),
        ``median``, ``n`` (cases where the score is defined: compare it with the number of cases).
    """
    numbers = table.select_dtypes('number')
    return pd.DataFrame(
        {
            'score': list(numbers.columns),
            'mean': numbers.mean().to_numpy(),
            'sd': numbers.std(ddof=1).to_numpy(),
            'median': numbers.median().to_numpy(),
            'n': numbers.count().to_numpy(),
        }
    )


def isbi_score(table: pd.DataFrame, *, inter_rater: float | None = None) -> float:
    """Return the score of ISBI 2015 of a table whose rules held ``isbi``, against one rater.

    See `isbi2015_score`.
    """
    terms = [
        IsbiTerms(
            dice=row['dice'],
            ppv=row['ppv'],
            lfpr=row['isbi_lfpr'],
            ltpr=row['isbi_ltpr'],
            predicted_mm3=1000 * row['predicted_ml'],
            reference_mm3=1000 * row['reference_ml'],
        )
        for row in table.to_dict('records')
    ]
    return isbi2015_score([terms], inter_rater=inter_rater)
