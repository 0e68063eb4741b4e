"""Distance from each point of a voxel grid to the nearest of a set: near ones by looking around, far ones by a search.

Where two surfaces are compared, most points lie a few voxels from the other one. These are found by trying the steps of
the grid from the shortest on; what is left goes to a distance transform or to a search tree, whichever is cheaper.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree

from backsplit.arrays import Spacing
from backsplit.evaluation.slabs import slabs

Starts = Int[np.ndarray, "starts 3"]
Ends = Int[np.ndarray, "ends 3"]
Distances = Float[np.ndarray, " starts"]
Indices = Int[np.ndarray, " waiting"]
Points = Int[np.ndarray, "points 3"]
Corner = Int[np.ndarray, "3"]
_REACH = 4
"""Steps are tried up to this many times the finest spacing."""
_GRID_POINTS = 2**24
"""Of a stretch of planes; at least as many planes as its neighbours look at, too."""
_DENSE_POINTS_PER_QUERY = 50
"""Up to so many grid points per distance a transform is quick; beyond, points lie far apart in a large box."""
_MOST_DENSE_POINTS = 2**22
"""A transform takes some 20 bytes a grid point."""


def nearest_mm(start: Starts, end: Ends, *, spacing_mm: Spacing) -> Distances:
    """Exact Euclidean distance in mm from each start to the nearest end; infinite where there is no end.

    Args:
        start: grid points, in voxels.
        end: grid points, in voxels.
        spacing_mm: distance of neighbouring grid points along each axis.
    """
    distances_mm = np.full(len(start), math.inf)
    if len(start) and len(end):
        _look_around(start, end, spacing_mm, distances_mm)
        far = np.flatnonzero(np.isinf(distances_mm))
        if far.size:
            distances_mm[far] = _search(start[far], end, spacing_mm)
    return distances_mm


def _look_around(start: Starts, end: Ends, spacing_mm: Spacing, distances_mm: Distances) -> None:
    """Fill in the distances of the points from which a step leads to an end; a stretch of planes at a time."""
    reach = _steps(spacing_mm)[0].max(axis=0)
    low, high = end.min(axis=0) - reach, end.max(axis=0) + reach
    near = np.flatnonzero(_inside(start, low, high))
    width, height, depth = (int(length) for length in high - low + 1)
    for planes in slabs((width, height, depth), num_voxels=max(_GRID_POINTS, 2 * int(reach[2]) * width * height)):
        first, last = low[2] + planes.start, low[2] + planes.stop - 1
        waiting = near[(start[near, 2] >= first) & (start[near, 2] <= last)]
        if waiting.size:
            _try_steps(start, waiting, end, spacing_mm, distances_mm)


def _try_steps(start: Starts, waiting: Indices, end: Ends, spacing_mm: Spacing, distances_mm: Distances) -> None:
    """The shortest steps first, on the grid around the points that are waiting."""
    steps, lengths_mm = _steps(spacing_mm)
    reach, tried = steps.max(axis=0), start[waiting]
    low, high = tried.min(axis=0) - reach, tried.max(axis=0) + reach
    is_end = _grid(end[_inside(end, low, high)], low, high)
    places, flat = (tried - low) @ is_end.strides, is_end.ravel()
    for jump, length_mm in zip(steps @ is_end.strides, lengths_mm, strict=True):
        found = flat[places + jump]
        distances_mm[waiting[found]] = length_mm
        waiting, places = waiting[~found], places[~found]
        if not waiting.size:
            return


@lru_cache(maxsize=64)
def _steps(spacing_mm: Spacing) -> tuple[Int[np.ndarray, "steps 3"], Float[np.ndarray, " steps"]]:
    """All steps within reach, and their lengths in mm; the shortest first."""
    limit_mm = _REACH * min(spacing_mm)
    spans = [np.arange(-int(limit_mm / edge_mm), int(limit_mm / edge_mm) + 1) for edge_mm in spacing_mm]
    steps = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths_mm = np.linalg.norm(steps * spacing_mm, axis=1)
    order = np.argsort(lengths_mm, kind="stable")
    order = order[lengths_mm[order] <= limit_mm]
    return steps[order], lengths_mm[order]


def _search(start: Starts, end: Ends, spacing_mm: Spacing) -> Distances:
    """Distances of any length; a distance transform costs by the grid point, a search tree by the query."""
    low, high = np.minimum(start.min(axis=0), end.min(axis=0)), np.maximum(start.max(axis=0), end.max(axis=0))
    if np.prod(high - low + 1) <= min(_DENSE_POINTS_PER_QUERY * len(start), _MOST_DENSE_POINTS):
        return distance_transform_edt(~_grid(end, low, high), sampling=spacing_mm)[tuple((start - low).T)]
    _, nearest = KDTree(end * np.asarray(spacing_mm)).query(start * np.asarray(spacing_mm))
    return np.linalg.norm((start - end[nearest]) * spacing_mm, axis=1)  # whole steps: the same anywhere in the image


def _inside(points: Points, low: Corner, high: Corner) -> Bool[np.ndarray, " points"]:
    """Which grid points lie in a box."""
    x, y, z = ((points[:, axis] >= low[axis]) & (points[:, axis] <= high[axis]) for axis in range(3))
    return x & y & z


def _grid(points: Points, low: Corner, high: Corner) -> Bool[np.ndarray, "x y z"]:
    """The grid points from `low` to `high`, True at the given ones."""
    is_point = np.zeros(high - low + 1, dtype=bool)
    is_point[tuple((points - low).T)] = True
    return is_point
