"""What the numbers of a participant's visits warn of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msapp.imaging.brain import PLAIN_SIMILARITY

# Two voxels; real pairs had 0.1 to 0.5 mm (n = 3).
MOST_MOTION_MM = 2.0


def find_doubts(summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Give a warning for each measure that a wrong result is likely to have.

    Parameters
    ----------
    summaries : mapping of str to mapping
        Of each visit by its name: columns of `msapp.stats.columns.VISITS`; empty where nothing was
        measured.
    """
    for name, summary in summaries.items():
        alignment, moved = summary.get('mni_alignment'), summary.get('visit_motion_mm')
        if alignment is not None and alignment < PLAIN_SIMILARITY:
            yield (
                f'{name}: its match with the MNI template is weak ({alignment:.4f}; right '
                f'ones have {PLAIN_SIMILARITY} and more). Look at the brain mask: where it is '
                'wrong, volumes and places are.'
            )
        if isinstance(left_out := summary.get('lesion_contrasts_left_out'), str):
            yield (
                f'{name}: lesions were found without {left_out}, whose field of view does not hold '
                'the whole brain at this visit or at another of this participant.'
            )
        yield from _unequal(name, summaries)
        if moved is not None and moved > MOST_MOTION_MM:
            yield (
                f'{name}: after the rigid alignment {moved:.1f} mm are left between it and '
                f'the visit that it is compared with (above {MOST_MOTION_MM:g} mm). Look at both '
                'side by side: where they do not match, changes are wrong.'
            )


def _unequal(name: str, summaries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Warn where lesions were found from other contrasts than those they are compared with."""
    since = str(summaries[name].get('lesions_since_session'))
    before, now = (summaries.get(visit, {}).get('lesion_contrasts') for visit in (since, name))
    if isinstance(before, str) and isinstance(now, str) and before != now:
        yield (
            f'{name}: lesions were found from {_listed(now)} here and from {_listed(before)} at '
            f'{since}, with which they are compared. The network marks other lesions then: what is '
            'called new, resolved, enlarged or shrunken may be no change.'
        )


def _listed(contrasts: str) -> str:
    """Return contrasts of a table's cell as in a sentence."""
    return contrasts.replace(',', ' and ')
