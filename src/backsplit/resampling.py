"""Masks on another grid."""

from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813  as its own manual calls it
from scipy.ndimage import find_objects

from backsplit.arrays import LabelMap, Voxels
from backsplit.volume import Grid, Volume

Box = tuple[slice, slice, slice]
TIE = 1e-6
"""Weights closer than this are equal; ITK's float32 weights of one point are off by less."""


def resample_labels(labels: Volume, grid: Grid, *, interpolation: Literal["nearest", "linear"]) -> Volume:
    """The label map on another grid; 0 outside its field of view, which ends half a voxel beyond the outer centres.

    Args:
        labels: label map of whole numbers, 0 or more.
        grid: where the result lies.
        interpolation: `nearest` takes the value of the nearest voxel. `linear` interpolates the one-hot mask of every
            value, 0 included, and takes the value of the largest weight, the lower one of equals. That is done value
            by value, each where it can have weight, so it takes at most two volumes of float32 beside the result,
            however many values there are.

    Returns:
        The label map in the type of `labels`; no value that `labels` lacks, but for 0.
    """
    if interpolation == "nearest":
        return Volume(_resampled(labels, grid, sitk.sitkNearestNeighbor, outside=0), grid)
    return Volume(_most_weight(labels, grid), grid)


def _most_weight(labels: Volume, grid: Grid) -> LabelMap:
    result, largest = np.zeros(grid.shape, labels.voxels.dtype), _weights(labels, grid, 0)
    boxes = enumerate(find_objects(labels.voxels), start=1)
    for value, near in [(value, _padded(box, labels.grid.shape)) for value, box in boxes if box is not None]:
        reached = _reached(near, labels.grid, grid)
        if not largest[reached].size:
            continue
        weights = _weights(Volume(labels.voxels[near], _cropped(labels.grid, near)), _cropped(grid, reached), value)
        wins = weights > largest[reached] + TIE
        result[reached][wins], largest[reached][wins] = value, weights[wins]
    return result


def _weights(labels: Volume, grid: Grid, value: int) -> Voxels:
    """Linear interpolation of one value's mask; beyond the field of view all weight is on 0."""
    mask = (labels.voxels == value).astype(np.float32)
    return _resampled(Volume(mask, labels.grid), grid, sitk.sitkLinear, outside=int(value == 0))


def _padded(box: Box, shape: tuple[int, int, int]) -> Box:
    """The box and the voxels around it, which a mask's weights reach to."""
    x, y, z = (slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))
    return x, y, z


def _reached(box: Box, start: Grid, end: Grid) -> Box:
    """Voxels of another grid that lie in a box, its outer half voxels included; it may be empty."""
    corners = np.array(list(product(*((s.start - 0.5, s.stop - 0.5) for s in box))))
    places_mm = start.origin_mm + corners * start.spacing_mm @ np.reshape(start.direction, (3, 3)).T
    axes_mm = np.reshape(end.direction, (3, 3)) * end.spacing_mm
    indices = np.linalg.solve(axes_mm, (places_mm - end.origin_mm).T)
    low, high = np.floor(indices.min(axis=1)).astype(int), np.ceil(indices.max(axis=1)).astype(int) + 1
    x, y, z = (slice(*np.clip((a, b), 0, n).tolist()) for a, b, n in zip(low, high, end.shape, strict=True))
    return x, y, z


def _cropped(grid: Grid, box: Box) -> Grid:
    steps_mm = np.multiply(grid.spacing_mm, [s.start for s in box])
    x, y, z = (grid.origin_mm + np.reshape(grid.direction, (3, 3)) @ steps_mm).tolist()
    width, height, depth = (s.stop - s.start for s in box)
    return replace(grid, shape=(width, height, depth), origin_mm=(x, y, z))


def _resampled(volume: Volume, grid: Grid, interpolator: int, *, outside: int) -> Voxels:
    image = sitk.GetImageFromArray(volume.voxels.transpose())
    image.SetSpacing(volume.grid.spacing_mm)
    image.SetOrigin(volume.grid.origin_mm)
    image.SetDirection(volume.grid.direction)
    resample = sitk.ResampleImageFilter()
    resample.SetSize(grid.shape)
    resample.SetOutputSpacing(grid.spacing_mm)
    resample.SetOutputOrigin(grid.origin_mm)
    resample.SetOutputDirection(grid.direction)
    resample.SetInterpolator(interpolator)
    resample.SetDefaultPixelValue(outside)
    return sitk.GetArrayFromImage(resample.Execute(image)).transpose()
