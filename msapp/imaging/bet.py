"""Brain masks by FSL BET, where it is installed."""

from __future__ import annotations

import nibabel as nib

from msapp.errors import MissingDependencyError


def bet_mask(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """Return FSL BET's brain mask of an image, on its grid.

    Raises
    ------
    MissingDependencyError
        If fslpy or FSL is not installed.

    References
    ----------
    S. M. Smith, Hum. Brain Mapp. 17:143, 2002.
    """
    require_fsl()
    from fsl.wrappers import LOAD, bet

    result = bet(image, LOAD, mask=True, robust=True)
    return result['output_mask']


def require_fsl() -> None:
    """Raise unless BET can be called.

    Raises
    ------
    MissingDependencyError
        Saying what to install, or which option to use instead.
    """
    import shutil

    try:
        import fsl.wrappers  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            '--brain-extraction bet needs the Python package fslpy: pip install "msapp[bet]", or '
            'use --brain-extraction template.'
        ) from error
    import os

    fsldir = os.environ.get('FSLDIR')
    if not fsldir or not shutil.which('bet', path=f'{fsldir}/bin:{fsldir}/share/fsl/bin'):
        raise MissingDependencyError(
            '--brain-extraction bet needs FSL, which was not found (FSLDIR is not set or holds no '
            'bet). Install FSL and set FSLDIR, or use --brain-extraction template.'
        )
