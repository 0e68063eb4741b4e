"""Where the body is in a CT, and the body or brain in an MR."""

from collections.abc import Sequence
from typing import Literal

import cc3d
import edt
import numpy as np
from jaxtyping import Float, Num
from scipy import ndimage
from skimage.filters import threshold_otsu

from backsplit.arrays import Mask, Spacing, Voxels
from backsplit.errors import SourceError
from backsplit.volume import Grid, Volume

AIR_BELOW_HU = -190
"""Where fat begins: skin's outermost voxels, half air, are outside."""
TABLE_MM = 4.0
"""Parts up to twice as thick count as table, blanket or tube, but for what lies this near to a thicker part."""
LEAST_COMMON, MOST_SPECKS = 0.5, 0.01
"""What a masked outside has: this share of the faces' voxels, and no larger a share of voxels apart from the body."""
BRIGHTEST_PERCENTILE = 99.5
"""Intensities above it count as it, before Otsu's threshold."""


def ct_body(image: Volume) -> Mask:
    """The body of a CT, with what it encloses in each slice across the patient: the largest part above -190 HU.

    What is thin is left out: opening by 4 mm cuts off table, blankets and tubes. An arm or leg that nothing in the
    image connects to the largest part is outside. So is air that reaches a side of the image, as where lungs are cut.

    Raises:
        SourceError: no voxel is below 0 HU, or nothing is thick enough.
    """
    if image.voxels.min() >= 0:
        raise SourceError(
            f"no voxel is below 0 HU (lowest {image.voxels.min()}); this is no CT in HU, or not calibrated"
        )
    dense, spacing = np.ascontiguousarray(image.voxels >= AIR_BELOW_HU), image.grid.spacing_mm
    core = _largest_part(_depth_mm(dense, spacing) > TABLE_MM)
    if not core.any():
        raise SourceError(f"no body: nothing above {AIR_BELOW_HU} HU is thicker than {2 * TABLE_MM:g} mm")
    return _filled(dense & (_depth_mm(~core, spacing) <= TABLE_MM), image.grid)


def mr_body(image: Volume) -> Mask:
    """The body or brain of an MR, with what it encloses in each slice across the patient.

    Where most of the image's faces have one and the same value and few voxels that differ from it lie apart, what is
    outside has been masked, as in extracted brains, and all that differs from it is inside. Else Otsu's threshold tells
    bright from dark. Of both, the largest part is taken. An image that shows no outside is split by its own
    intensities: its darkest tissue, where it reaches a side of the image, is taken for the outside.

    Raises:
        SourceError: the image is constant.
    """
    voxels = image.voxels
    if voxels.min() == voxels.max():
        raise SourceError(f"the image is constant ({voxels.min()}); expected an MR that shows a body")
    values, counts = np.unique(_faces(voxels, (0, 1, 2)), return_counts=True)
    differs = voxels != values[counts.argmax()]
    part = _largest_part(differs, connectivity=6)
    specks = np.count_nonzero(differs) - np.count_nonzero(part)
    if counts.max() < LEAST_COMMON * counts.sum() or specks > MOST_SPECKS * np.count_nonzero(~part):
        scaled = (voxels.astype(np.float64) - voxels.min()) / (float(voxels.max()) - float(voxels.min()))
        differs = scaled > threshold_otsu(
            np.minimum(scaled, np.percentile(scaled, BRIGHTEST_PERCENTILE, method="nearest"))
        )
    return _filled(_largest_part(differs), image.grid)


def _depth_mm(mask: Mask, spacing_mm: Spacing) -> Float[np.ndarray, "x y z"]:
    """Distance to the nearest voxel outside; the mask goes on beyond the image."""
    return edt.edt(mask, anisotropy=spacing_mm, parallel=1)


def _largest_part(mask: Mask, *, connectivity: Literal[6, 26] = 26) -> Mask:
    return cc3d.largest_k(np.asfortranarray(mask), k=1, connectivity=connectivity) > 0 if mask.any() else mask


def _filled(mask: Mask, grid: Grid) -> Mask:
    """The mask and what it encloses, slice by slice across the patient's long axis."""
    across = grid.axis_along(2)
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[tuple(slice(None) if axis == across else 1 for axis in range(3))] = [False, True, False]
    rest, num_parts = ndimage.label(~mask, in_plane)
    is_outside = np.zeros(num_parts + 1, bool)
    is_outside[_faces(rest, [axis for axis in range(3) if axis != across])] = True
    is_outside[0] = False
    return ~is_outside[rest]


def _faces(voxels: Voxels, axes: Sequence[int]) -> Num[np.ndarray, " face"]:
    """Voxels of the first and last slice along some axes."""
    return np.concatenate([np.take(voxels, end, axis).ravel() for axis in axes for end in (0, -1)])
