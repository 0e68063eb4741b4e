"""Distances between the surfaces of two masks: surfaces are touched once, the rest is arithmetic.

Surfaces are made of elements as in DeepMind's `surface-distance` 0.1, and every score weights an element by its area:
Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy, J. Med. Internet Res.
23(7):e26151, 2021, arXiv:1809.04430.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from backsplit.arrays import Spacing
from backsplit.errors import ConfigurationError, GeometryError
from backsplit.evaluation.nearest import nearest_mm
from backsplit.evaluation.overlap import ReferenceMask, require_one_shape
from backsplit.evaluation.slabs import SomeMask, box_of, slabs
from backsplit.evaluation.surface_elements import FULL, element_areas_mm2, neighbour_codes


@dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """For each surface element of one mask, the distance to the nearest element of the other one, and its area.

    Each pair of arrays is sorted by distance, then area. An empty mask has no elements; the distances to it are
    infinite.
    """

    prediction_to_reference_mm: Float[np.ndarray, " prediction_elements"]
    prediction_areas_mm2: Float[np.ndarray, " prediction_elements"]
    reference_to_prediction_mm: Float[np.ndarray, " reference_elements"]
    reference_areas_mm2: Float[np.ndarray, " reference_elements"]


@dataclass(frozen=True, slots=True, eq=False)
class _Surface:
    corners: Int[np.ndarray, "elements 3"]
    """Corner points of the voxel grid that carry an element."""
    areas_mm2: Float[np.ndarray, " elements"]


def surface_distances(prediction: SomeMask, reference: ReferenceMask, *, spacing_mm: Spacing) -> SurfaceDistances:
    """Distances between the surfaces of two masks, both ways, between the corner points that elements lie at.

    Time and memory grow with the bounding boxes of the masks and with their surfaces, not with the image.

    Raises:
        GeometryError: the masks differ in shape, or the spacing is not positive.
    """
    require_one_shape(prediction, reference)
    if not all(0 < length < math.inf for length in spacing_mm):
        raise GeometryError(f"voxel spacing must be three positive lengths in mm, got {spacing_mm}")
    areas_mm2 = element_areas_mm2(spacing_mm)
    first, second = _surface(prediction, areas_mm2), _surface(reference, areas_mm2)
    return SurfaceDistances(
        *_sorted_distances(first, second, spacing_mm), *_sorted_distances(second, first, spacing_mm)
    )


def hausdorff_mm(surfaces: SurfaceDistances, *, percentile: float) -> float:
    """Robust Hausdorff distance in mm: the larger of the two directed percentiles, elements weighted by area.

    A directed percentile is the smallest distance such that `percentile` per cent of the surface lie no further away.

    Args:
        surfaces: from `surface_distances`.
        percentile: in [0, 100]; 95 gives HD95, 100 the Hausdorff distance.

    Returns:
        NaN when either mask is empty.

    Raises:
        ConfigurationError: the percentile is outside [0, 100].
    """
    if not 0 <= percentile <= 100:
        raise ConfigurationError(f"percentile must be in 0 to 100, got {percentile}")
    if not (surfaces.prediction_areas_mm2.size and surfaces.reference_areas_mm2.size):
        return math.nan
    return max(
        _percentile(surfaces.prediction_to_reference_mm, surfaces.prediction_areas_mm2, percentile / 100),
        _percentile(surfaces.reference_to_prediction_mm, surfaces.reference_areas_mm2, percentile / 100),
    )


def average_surface_distance_mm(surfaces: SurfaceDistances) -> float:
    """ASSD in mm: the mean of the two directed averages, elements weighted by area; NaN when either mask is empty."""
    if not (surfaces.prediction_areas_mm2.size and surfaces.reference_areas_mm2.size):
        return math.nan
    there = np.average(surfaces.prediction_to_reference_mm, weights=surfaces.prediction_areas_mm2)
    back = np.average(surfaces.reference_to_prediction_mm, weights=surfaces.reference_areas_mm2)
    return float(there + back) / 2


def normalised_surface_dice(surfaces: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Share of both surfaces, by area, that lies within `tolerance_mm` of the other surface; in [0, 1].

    Returns:
        NaN when both masks are empty, 0 when one is.

    Raises:
        ConfigurationError: the tolerance is negative or not finite.
    """
    if not 0 <= tolerance_mm < math.inf:
        raise ConfigurationError(f"tolerance must be a finite number of mm, 0 or more, got {tolerance_mm}")
    total_mm2 = surfaces.prediction_areas_mm2.sum() + surfaces.reference_areas_mm2.sum()
    if not total_mm2:
        return math.nan
    near_prediction = surfaces.prediction_to_reference_mm <= tolerance_mm
    near_reference = surfaces.reference_to_prediction_mm <= tolerance_mm
    within_mm2 = (
        surfaces.prediction_areas_mm2[near_prediction].sum() + surfaces.reference_areas_mm2[near_reference].sum()
    )
    return float(within_mm2 / total_mm2)


def _surface(mask: SomeMask, areas_mm2: Float[np.ndarray, "256"]) -> _Surface:
    """Slab by slab; the codes of its first corner points need the plane before it."""
    box = box_of(mask)
    corner, depth = np.array([side.start for side in box]), box[2].stop - box[2].start
    corners, areas = [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    for planes in slabs(tuple(side.stop - side.start for side in box)):
        before = min(planes.start, 1)
        start = box[2].start + planes.start - before
        codes = neighbour_codes(mask[box[0], box[1], slice(start, box[2].start + planes.stop)])
        codes = codes[:, :, before : before + planes.stop - planes.start + (planes.stop == depth)]
        order = "F" if codes.flags.f_contiguous else "C"
        flat = codes.ravel(order)
        places = np.flatnonzero((flat != 0) & (flat != FULL))
        found = np.stack(np.unravel_index(places, codes.shape, order), axis=1)
        corners.append(found + (corner + np.array([0, 0, planes.start])))
        areas.append(areas_mm2[flat[places]])
    return _Surface(np.concatenate(corners), np.concatenate(areas))


def _sorted_distances(
    start: _Surface, end: _Surface, spacing_mm: Spacing
) -> tuple[Float[np.ndarray, " elements"], Float[np.ndarray, " elements"]]:
    """Distance from each element of `start` to the nearest of `end`, and areas, sorted by distance, then area."""
    distances_mm = nearest_mm(start.corners, end.corners, spacing_mm=spacing_mm)
    order = np.lexsort((start.areas_mm2, distances_mm))
    return distances_mm[order], start.areas_mm2[order]


def _percentile(
    distances_mm: Float[np.ndarray, " elements"], areas_mm2: Float[np.ndarray, " elements"], fraction: float
) -> float:
    share = np.cumsum(areas_mm2) / areas_mm2.sum()
    return float(distances_mm[min(int(np.searchsorted(share, fraction)), len(share) - 1)])
