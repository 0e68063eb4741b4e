"""Volumes resized axis by axis to what scikit-image and batchgenerators make of them for nnU-Net.

Interpolation with splines is a matrix product along each axis, so a volume takes three products with narrow bands
instead of 64 neighbours per voxel. A label map is read once, however many labels it has: nearly all voxels lie between
voxels of one label, and only at the others do the labels vote.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Integer
from scipy import ndimage
from torch import Tensor

Image = Float[np.ndarray, "z y x"]
ResizedImage = Float32[np.ndarray, "new_z new_y new_x"]
LabelMap = Integer[np.ndarray, "z y x"]
ResizedLabels = Integer[np.ndarray, "new_z new_y new_x"]
Labels = Integer[np.ndarray, " voxel"]
Indices = tuple[np.ndarray, ...]

NEGLIGIBLE = 1e-7
"""Weights below this are left out; the tails of a cubic spline add up to less than 1e-6 of the largest value."""
BLOCK_ROWS = 32
"""Resized rows per product; their bands overlap enough to be one dense block."""
NEARLY_EVEN = 1e-9
"""Two labels whose scores differ by less may be equal by rounding; the sums of both decide."""
SLAB_VOXELS = 2**20
"""Resized labels that are worked on at a time; the arrays of a slab stay in the cache."""


def resize_image(image: Image, shape: Sequence[int], *, order: int, sliced_axis: int | None = None) -> ResizedImage:
    """The image at another number of voxels of the same field of view, as `skimage.transform.resize` makes it.

    With `mode="edge"`, no anti-aliasing and clipping to the image's range. The difference is below 1e-5 of the largest
    absolute value: sums are float32, bands are cut where weights fall below 1e-7.

    Args:
        image: any float type; `[z, y, x]` in nnU-Net.
        shape: voxels along each axis of the result.
        order: of the spline, 0 (nearest) to 5.
        sliced_axis: interpolate within the slices across this axis only, and take the nearest slice; clipping is slice
            by slice then. nnU-Net does so for thick slices.

    Returns:
        float32.
    """
    if sliced_axis is None:
        resized = _interpolate(image, shape, order)
        return np.clip(resized, image.min(), image.max(), out=resized)
    nearest = _nearest(_positions(image.shape[sliced_axis], shape[sliced_axis]), image.shape[sliced_axis])
    slices, place = np.unique(nearest, return_inverse=True)
    chosen = image.take(slices, sliced_axis)
    within = tuple(axis for axis in range(3) if axis != sliced_axis)
    resized = _interpolate(chosen, [*shape[:sliced_axis], len(slices), *shape[sliced_axis + 1 :]], order)
    np.clip(resized, chosen.min(within, keepdims=True), chosen.max(within, keepdims=True), out=resized)
    return resized if len(place) == len(slices) else resized.take(place, sliced_axis)


def _interpolate(image: Image, shape: Sequence[int], order: int) -> ResizedImage:
    """Spline interpolation without clipping; axes that shrink come first."""
    resized = torch.empty(image.shape).copy_(torch.from_numpy(image))  # torch aligns memory alike in every run
    for axis in sorted(range(3), key=lambda axis: shape[axis] / image.shape[axis]):
        if shape[axis] != image.shape[axis]:
            resized = _multiply(_weights(image.shape[axis], shape[axis], order), resized, axis)
    return resized.numpy()


def _weights(old: int, new: int, order: int) -> Float64[np.ndarray, "new old"]:
    """What each voxel of a row adds to each voxel of the resized row: SciPy's answer for each unit row."""
    return ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)


def _multiply(weights: Float64[np.ndarray, "new old"], volume: Tensor, axis: int) -> Tensor:
    """The product along an axis of a contiguous volume, block by block of the band."""
    shape = list(volume.shape)
    shape[axis] = len(weights)
    result = torch.empty(shape)
    before, after = result.shape[:axis].numel(), result.shape[axis + 1 :].numel()
    source, target = (each.view(before, each.shape[axis], after) for each in (volume, result))
    for start in range(0, len(weights), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        reached = np.flatnonzero(np.abs(weights[rows]).max(0) > NEGLIGIBLE)
        columns = slice(int(reached[0]), int(reached[-1]) + 1)
        block = torch.tensor(weights[rows, columns], dtype=torch.float32)
        if after == 1:
            torch.mm(source[:, columns, 0], block.T, out=target[:, rows, 0])
            continue
        for index in range(before):
            torch.mm(block, source[index, columns], out=target[index, rows])
    return result


@dataclass(frozen=True, slots=True)
class Axis:
    """From where along an axis each resized voxel gets its value."""

    corners: Integer[np.ndarray, "corners new"]
    """Voxels before and after it, the outermost one twice beyond its centre; or the nearest one alone."""
    weights: Float64[np.ndarray, "corners new"]
    nearest: Integer[np.ndarray, " new"]

    @property
    def is_interpolated(self) -> bool:
        """Whether values between two voxels are wanted."""
        return len(self.corners) == 2

    def part(self, rows: slice) -> "Axis":
        """The same for some of the resized voxels."""
        return Axis(self.corners[:, rows], self.weights[:, rows], self.nearest[rows])


class _Between(NamedTuple):
    """Resized voxels between voxels of several labels."""

    labels: LabelMap
    axes: Sequence[Axis]
    where: Indices
    """Of the voxels, along each axis."""

    def some(self, which: Bool[np.ndarray, " voxel"]) -> "_Between":
        """Some of the voxels."""
        return self._replace(where=tuple(index[which] for index in self.where))

    def corners(self) -> Iterator[tuple[Labels, Float64[np.ndarray, " voxel"]]]:
        """Label and weight of each corner, the last axis fastest: SciPy's order, so that sums are equal bit by bit."""
        flat, (_, height, width) = self.labels.reshape(-1), self.labels.shape
        planes, rows, columns = (
            list(zip(axis.corners.take(index, 1) * stride, axis.weights.take(index, 1), strict=True))
            for axis, index, stride in zip(self.axes, self.where, (height * width, width, 1), strict=True)
        )
        for (plane, x), (row, y) in product(planes, rows):
            start, weight = plane + row, x * y
            for column, z in columns:
                yield flat.take(start + column), weight * z

    def nearest(self) -> Labels:
        """Label of the nearest voxel."""
        return self.labels[tuple(axis.nearest[index] for axis, index in zip(self.axes, self.where, strict=True))]


def resize_labels(
    labels: LabelMap, shape: Sequence[int], *, order: int, sliced_axis: int | None = None
) -> ResizedLabels:
    """The label map at another number of voxels of the same field of view, as batchgenerators resizes it for nnU-Net.

    Each voxel takes the label whose mask has the largest linear interpolation. Of equals it takes that of the nearest
    voxel if it is among them, the lowest otherwise. Time and memory do not depend on the number of labels, only on the
    number of voxels where labels meet.

    Args:
        labels: `[z, y, x]` in nnU-Net.
        shape: voxels along each axis of the result.
        order: 1, or 0 for the nearest voxel's label.
        sliced_axis: take the nearest slice along this axis, and interpolate within slices only.

    Returns:
        The labels' own type; equal to batchgenerators' in every voxel, ties included.
    """
    axes = [
        axis_between(old, new, order=0 if axis == sliced_axis else order)
        for axis, (old, new) in enumerate(zip(labels.shape, shape, strict=True))
    ]
    labels, resized = np.ascontiguousarray(labels), np.empty(shape, labels.dtype)
    step = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        rows = slice(start, start + step)
        resized[rows] = _vote(labels, [axes[0].part(rows), *axes[1:]])
    return resized


def axis_between(old: int, new: int, *, order: int) -> Axis:
    """How voxels along an axis become others of the same extent: by the nearest (order 0), or between two (order 1).

    The weights are SciPy's bit by bit: the second is what the first leaves of 1.
    """
    positions = _positions(old, new)
    nearest = _nearest(positions, old)
    if order == 0 or old == new:
        return Axis(nearest[None], np.ones((1, new)), nearest)
    before = np.floor(positions).astype(np.intp)
    first = 1 - (positions - before)
    return Axis(np.clip([before, before + 1], 0, old - 1), np.stack([first, 1 - first]), nearest)


def _positions(old: int, new: int) -> Float64[np.ndarray, " new"]:
    """Centres of the resized voxels along an axis, in voxels of the old one; the outer ones may lie beyond it."""
    return (np.arange(new) + 0.5) * (old / new) - 0.5


def _nearest(positions: Float64[np.ndarray, " new"], old: int) -> Integer[np.ndarray, " new"]:
    return np.clip(np.floor(positions + 0.5).astype(np.intp), 0, old - 1)


def _vote(labels: LabelMap, axes: Sequence[Axis]) -> ResizedLabels:
    """The winning label of each voxel that the axes span."""
    low, high = _extremes(labels, axes)
    where = np.flatnonzero(low != high)
    between = _Between(labels, axes, np.unravel_index(where, low.shape))
    low.reshape(-1)[where] = _winners(between, low.take(where), high.take(where))
    return low


def _extremes(labels: LabelMap, axes: Sequence[Axis]) -> tuple[ResizedLabels, ResizedLabels]:
    """Lowest and highest label of the corners of each voxel; beyond the outermost voxel, of that one and the next."""
    first, last = axes[0].corners[0, 0], axes[0].corners[-1, -1]
    low = high = labels[first : last + 1]
    for axis, cell in enumerate([axes[0].corners[0] - first, axes[1].corners[0], axes[2].corners[0]]):
        num_cells = low.shape[axis] - 1
        if len(axes[axis].corners) == 2 and num_cells > 0:
            this, following = (tuple([slice(None)] * axis + [part]) for part in (slice(None, -1), slice(1, None)))
            low, high = np.minimum(low[this], low[following]), np.maximum(high[this], high[following])
            cell = np.minimum(cell, num_cells - 1)  # noqa: PLW2901
        low, high = low.take(cell, axis), high.take(cell, axis)
    return low, high


def _winners(between: _Between, low: Labels, high: Labels) -> Labels:
    """The winning label of voxels whose corners have two labels or more."""
    score, has_third = np.zeros(low.size), np.zeros(low.size, bool)
    for label, weight in between.corners():
        is_high = label == high
        score += weight * is_high
        has_third |= (label != low) ^ is_high
    winners = np.where(score > 0.5, high, low)
    is_open = has_third | (np.abs(score - 0.5) < NEARLY_EVEN)
    winners[is_open] = _winners_of_many(between.some(is_open))
    return winners


def _winners_of_many(between: _Between) -> Labels:
    """The same for any number of labels, and for ties."""
    corners = list(between.corners())
    labels = np.stack([label for label, _ in corners])
    scores = np.zeros(labels.shape)
    for label, weight in corners:
        scores += weight * (label == labels)
    is_top = scores == scores.max(0)
    lowest = np.where(is_top, labels, np.iinfo(labels.dtype).max).min(0)
    nearest = between.nearest()
    return np.where((is_top & (labels == nearest)).any(0), nearest, lowest)
