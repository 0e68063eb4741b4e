"""The box that holds a mask, found without looking closely at every voxel."""

import numpy as np
from jaxtyping import Bool, Integer

Box = tuple[slice, slice, slice]
Voxels = Bool[np.ndarray, "_ _ _"] | Integer[np.ndarray, "_ _ _"]
NOTHING: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
WORD_BYTES = 8


def bounding_box(labels: Voxels) -> Box:
    """Smallest box around the voxels of a mask, or of a label map that are not 0; an empty box where there are none.

    Eight bytes at a time are looked at along memory, which gives the planes that hold any; only these are looked at
    closely.
    """
    if labels.flags.f_contiguous and not labels.flags.c_contiguous:
        x, y, z = bounding_box(labels.transpose())
        return z, y, x
    planes = _planes(labels) if labels.flags.c_contiguous else slice(0, labels.shape[0])
    box = [planes, slice(0, labels.shape[1]), slice(0, labels.shape[2])]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        (occupied,) = np.nonzero(labels[tuple(box)].any(axis=others))
        if not occupied.size:
            return NOTHING
        start = box[axis].start
        box[axis] = slice(start + int(occupied[0]), start + int(occupied[-1]) + 1)
    return box[0], box[1], box[2]


def joint_box(first: Box, second: Box) -> Box:
    """Box around two boxes, either of which may be empty."""
    if NOTHING in (first, second):
        return second if first == NOTHING else first
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return x, y, z


def _planes(labels: Voxels) -> slice:
    """Planes along the first axis of an array in C order that may hold voxels."""
    flat, per_word = labels.ravel(), WORD_BYTES // labels.dtype.itemsize
    num_whole = flat.size - flat.size % per_word
    words = np.flatnonzero(flat[:num_whole].view(np.uint64))
    rest = np.flatnonzero(flat[num_whole:]) + num_whole
    places = [*(words[[0, -1]] * per_word + (0, per_word - 1) if words.size else ()), *rest]
    plane = labels.shape[1] * labels.shape[2]
    return slice(int(min(places)) // plane, int(max(places)) // plane + 1) if places else slice(0, 0)
