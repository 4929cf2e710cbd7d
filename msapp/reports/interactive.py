"""The page in which one clicks through an image with its lesions; no network needed."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode, b64encode
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from msapp.errors import InternalError
from msapp.files import write_atomic
from msapp.reports.canvas import LESION_COLOUR, Box, bounding_box, centre_of, check_shapes, scale

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

VIEWER_GREYS = 48  # grey levels of the viewer; keeps its page small
VIEWER_OPACITY = 0.5
BACKGROUND_FRACTION = 0.1  # of the 99th percentile; darker is air
SIDES_STYLE = 'style="position:relative"'


def _largest(mask: np.ndarray) -> tuple[int, int, int]:
    """Return the centre of the largest connected part of ``mask``, voxels."""
    from scipy.ndimage import label

    parts, _ = label(mask)
    return centre_of(parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1)


def _smaller_pngs(page: str) -> str:
    """Re-encode the PNG images inside a page: one grey channel, or a small palette."""
    from PIL import Image

    def shrink(match: re.Match[str]) -> str:
        picture = Image.open(io.BytesIO(b64decode(match[1]))).convert('RGBA')
        pixels = np.asarray(picture)
        buffer = io.BytesIO()
        if (pixels[..., 3] == 255).all() and (np.ptp(pixels[..., :3], axis=-1) == 0).all():
            step = 255 / (VIEWER_GREYS - 1)
            grey = (np.round(pixels[..., 0] / step) * step).astype(np.uint8)
            Image.fromarray(grey).save(buffer, 'PNG', optimize=True)
        else:
            picture.quantize(8, Image.Quantize.FASTOCTREE).save(buffer, 'PNG', optimize=True)
        return f'data:image/png;base64,{b64encode(buffer.getvalue()).decode()}'

    return re.sub(r'data:image/png;base64,([A-Za-z0-9+/=]{200,})', shrink, page)


def _mirrored_affine(affine: np.ndarray, box: Box) -> np.ndarray:
    """Return the affine of the left-right mirrored crop; its x is minus the true x.

    The radiological mode of nilearn's ``view_img`` shows the slice of the wrong side
    (nilearn issue 6134), so the picture itself is mirrored and the sign put right in the page.
    """
    mirrored = np.diag([*np.diag(affine)[:3], 1.0])
    starts = [box[0].stop - 1, box[1].start, box[2].start]
    mirrored[:3, 3] = affine[:3, 3] + np.diag(affine)[:3] * starts
    mirrored[0, 3] *= -1
    return mirrored


def _radiological_page(page: str, shape: tuple[int, ...], title: str) -> str:
    """Finish the page of a mirrored image: true x in the read-out, sides, title, no links."""

    def true_x(match: re.Match[str]) -> str:
        rows = json.loads(match[1])
        return f'"affine": {json.dumps([[-value for value in rows[0]], *rows[1:]])}'

    page, n_affines = re.subn(r'"affine": (\[\[.*?\]\])', true_x, page)
    page, n_divs = re.subn(r'(<div id="div_viewer-[^>]*)>', rf'\1 {SIDES_STYLE}>', page)
    if (n_affines, n_divs) != (1, 1):
        raise InternalError(
            f'The viewer page of nilearn has {n_affines} affines and {n_divs} frames, one of each '
            'is expected. Install the nilearn version of constraints.txt.'
        )
    total = shape[1] + 2 * shape[0]
    middle = shape[1] + shape[0]
    edges = [('P', 0), ('A', shape[1]), ('R', shape[1]), ('L', middle), ('R', middle), ('L', total)]
    spans = ''.join(
        f'<b style="position:absolute;top:8px;color:#fff;font:16px sans-serif;left:'
        f'calc({100 * at / total:.2f}% {"+ 8px" if letter in "PR" else "- 20px"})">{letter}</b>'
        for letter, at in edges
    )
    page = re.sub(r'<link\b[^>]*>', '', page)
    page = re.sub(r'<title>.*?</title>', lambda _: f'<title>{escape(title)}</title>', page)
    page = page.replace('value="100"', f'value="{round(100 * VIEWER_OPACITY)}"', 1)
    return page.replace('</canvas>', f'</canvas>{spans}', 1)


def viewer(
    image: Path | SpatialImage,
    mask: Path | SpatialImage,
    out_html: Path,
    *,
    title: str,
    brain_mask: Path | SpatialImage | None = None,
) -> Path:
    """Write a page in which one can click through the image with the lesions in red.

    Parameters
    ----------
    image, mask : path or nibabel image
        FLAIR and lesion mask on one grid.
    out_html : Path
        The page; it needs no network.
    title : str
        Title of the page.
    brain_mask : path or nibabel image, optional
        The picture is cropped to it; else to where the image is not background.

    Returns
    -------
    Path
    """
    import nibabel as nib
    from matplotlib.colors import ListedColormap
    from nilearn.plotting import view_img

    def load(item: Path | SpatialImage) -> SpatialImage:
        return cast('SpatialImage', nib.load(item)) if isinstance(item, (str, Path)) else item

    source = load(image)
    data = np.asarray(source.dataobj, np.float32)
    lesions = np.asarray(load(mask).dataobj) > 0
    if brain_mask is None:
        brain = data > BACKGROUND_FRACTION * np.percentile(data, 99)
    else:
        brain = np.asarray(load(brain_mask).dataobj) > 0
    check_shapes(brain, data, lesions)
    box = bounding_box(brain, margin=6)
    # Zero means "no data" to view_img, so the darkest tissue is lifted just above it.
    picture = np.maximum(scale(data, brain)[box], 1e-3)[::-1]
    red = lesions[box][::-1]
    affine = _mirrored_affine(source.affine, box)
    centre = _largest(red) if red.any() else centre_of(brain[box][::-1])
    view = view_img(
        nib.Nifti1Image(red.astype(np.float32), affine),
        bg_img=nib.Nifti1Image(picture, affine),
        cut_coords=nib.affines.apply_affine(affine, centre),
        cmap=ListedColormap([LESION_COLOUR, LESION_COLOUR]),
        symmetric_cmap=False,
        vmin=0,
        vmax=1,
        threshold=0.5,
        opacity=VIEWER_OPACITY,
        colorbar=False,
        black_bg=True,
        dim=0,
        show_lr=False,
        resampling_interpolation='nearest',
        width_view=1100,
    )
    page = _radiological_page(view.get_standalone(), picture.shape, title)
    write_atomic(out_html, _smaller_pngs(page).encode('utf-8'))
    return out_html
