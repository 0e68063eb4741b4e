"""The box that holds a mask, found without looking closely at every voxel."""

from collections.abc import Iterable
from functools import reduce

import numpy as np
from jaxtyping import Bool, Int, Integer

Box = tuple[slice, slice, slice]
Voxels = Bool[np.ndarray, "_ _ _"] | Integer[np.ndarray, "_ _ _"]
NOTHING: Box = (slice(0, 0), slice(0, 0), slice(0, 0))


def bounding_box(labels: Voxels) -> Box:
    """Smallest box around the voxels of a mask, or of a label map that are not 0; an empty box where there are none.

    Memory is gone through once, in its own order, for the planes that hold any; only these are looked at closely.
    """
    if labels.flags.f_contiguous and not labels.flags.c_contiguous:
        x, y, z = bounding_box(labels.transpose())
        return z, y, x
    planes = _planes(labels) if labels.size else np.zeros(0, np.intp)
    if not planes.size:
        return NOTHING
    first, stop = int(planes[0]), int(planes[-1]) + 1
    seen = np.bitwise_or.reduce(labels[first:stop], axis=0)  # from the front, all planes at once
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    return slice(first, stop), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def joint_box(first: Box, second: Box) -> Box:
    """Box around two boxes, either of which may be empty."""
    if NOTHING in (first, second):
        return second if first == NOTHING else first
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return x, y, z


def joint_boxes(boxes: Iterable[Box]) -> Box:
    """Box around any number of boxes."""
    return reduce(joint_box, boxes, NOTHING)


def box_within(outer: Box, inner: Box) -> Box:
    """A box of the whole array, from one of the part of it that another box cuts out; that of nothing stays so."""
    if inner == NOTHING:
        return NOTHING
    x, y, z = (slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))
    return x, y, z


def _planes(labels: Voxels) -> Int[np.ndarray, " planes"]:
    """Which planes along the first axis hold any; as many bytes at a time as divide a plane."""
    if not labels.flags.c_contiguous:
        return np.flatnonzero(labels.any(axis=(1, 2)))
    planes = labels.reshape(len(labels), -1).view(np.uint8)
    word = next(kind for kind in (np.uint64, np.uint32, np.uint16, np.uint8) if planes.shape[1] % kind().itemsize == 0)
    return np.flatnonzero(planes.view(word).max(axis=1))
