"""Scores from voxel counts alone: voxels are touched once, the rest is arithmetic."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from backsplit.errors import GeometryError
from backsplit.evaluation.slabs import Labelled, SomeMask, planes_of, slabs

ReferenceMask = Bool[np.ndarray, "reference_x reference_y reference_z"] | Labelled
"""A mask whose shape should be that of the prediction; a user may bring another, which is a `GeometryError`."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel counts of two masks."""

    num_both: int
    num_prediction: int
    num_reference: int


def count_overlap(prediction: SomeMask, reference: ReferenceMask) -> Overlap:
    """Count the voxels of each mask and of their intersection.

    Raises:
        GeometryError: the masks differ in shape.
    """
    require_one_shape(prediction, reference)
    counts = np.zeros(3, np.int64)
    for planes in slabs(prediction.shape):
        predicted, referred = planes_of(prediction, planes), planes_of(reference, planes)
        counts += [np.count_nonzero(mask) for mask in (predicted & referred, predicted, referred)]
    return Overlap(*map(int, counts))


def dice(overlap: Overlap) -> float:
    """Twice the intersection over the sum of sizes, in [0, 1]; NaN when both masks are empty, 0 when one is."""
    return _share(2 * overlap.num_both, overlap.num_prediction + overlap.num_reference)


def iou(overlap: Overlap) -> float:
    """Intersection over union (Jaccard index), in [0, 1]; NaN when both masks are empty, 0 when one is."""
    return _share(overlap.num_both, overlap.num_prediction + overlap.num_reference - overlap.num_both)


def precision(overlap: Overlap) -> float:
    """Share of the prediction that is in the reference; NaN when the prediction is empty."""
    return _share(overlap.num_both, overlap.num_prediction)


def recall(overlap: Overlap) -> float:
    """Share of the reference that is in the prediction; NaN when the reference is empty."""
    return _share(overlap.num_both, overlap.num_reference)


def require_one_shape(prediction: SomeMask, reference: ReferenceMask) -> None:
    """See that two masks can be compared.

    Raises:
        GeometryError: they differ in shape.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"prediction has shape {prediction.shape}, reference {reference.shape}; bring both to one grid first"
        )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
