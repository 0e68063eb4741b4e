"""HD95 and NSD by border voxels, as MONAI has them; on request, since most tools mean surface elements.

The border of a mask are its voxels with a neighbour across a face that is not in it; each counts the same, whatever its
area. The same organ scores lower NSD this way than by surface elements.

Source:
    MONAI 1.6, `monai.metrics.HausdorffDistanceMetric` and `SurfaceDiceMetric`.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import binary_erosion

from backsplit.arrays import Spacing
from backsplit.evaluation.nearest import nearest_mm
from backsplit.evaluation.overlap import ReferenceMask, require_one_shape
from backsplit.evaluation.slabs import SomeMask, planes_of, slabs


@dataclass(frozen=True, slots=True, eq=False)
class BorderDistances:
    """From each border voxel of one mask to the nearest one of the other, in mm; infinite where that is empty."""

    prediction_to_reference_mm: Float[np.ndarray, " prediction_voxels"]
    reference_to_prediction_mm: Float[np.ndarray, " reference_voxels"]


def border_distances(prediction: SomeMask, reference: ReferenceMask, *, spacing_mm: Spacing) -> BorderDistances:
    """Distances between the borders of two masks, both ways; time grows with the box that is given.

    Raises:
        GeometryError: the masks differ in shape.
    """
    require_one_shape(prediction, reference)
    first, second = _border(prediction), _border(reference)
    return BorderDistances(
        nearest_mm(first, second, spacing_mm=spacing_mm), nearest_mm(second, first, spacing_mm=spacing_mm)
    )


def border_hausdorff_mm(distances: BorderDistances, *, percentile: float) -> float:
    """The larger of the two directed percentiles, interpolated linearly; NaN when either mask is empty."""
    both = (distances.prediction_to_reference_mm, distances.reference_to_prediction_mm)
    if not all(each.size for each in both):
        return math.nan
    return max(float(np.percentile(each, percentile)) for each in both)


def border_surface_dice(distances: BorderDistances, *, tolerance_mm: float) -> float:
    """Share of all border voxels within the tolerance of the other border; NaN when both masks are empty."""
    both = np.concatenate([distances.prediction_to_reference_mm, distances.reference_to_prediction_mm])
    return float(np.mean(both <= tolerance_mm)) if both.size else math.nan


def _border(mask: SomeMask) -> Int[np.ndarray, "voxels 3"]:
    found = [np.zeros((0, 3), np.int64)]
    for planes in slabs(mask.shape):
        before = min(planes.start, 1)
        padded = np.pad(planes_of(mask, slice(planes.start - before, planes.stop + 1)), 1)
        first = 1 + before
        inside = (padded & ~binary_erosion(padded))[1:-1, 1:-1, first : first + planes.stop - planes.start]
        found.append(np.argwhere(inside) + np.array([0, 0, planes.start]))
    return np.concatenate(found)
