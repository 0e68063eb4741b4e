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
    first, stop = _planes(labels) if labels.flags.c_contiguous else (0, labels.shape[0])
    while first < stop and not labels[first].any():
        first += 1
    while first < stop and not labels[stop - 1].any():
        stop -= 1
    if first == stop:
        return NOTHING
    seen = np.bitwise_or.reduce(labels[first:stop], axis=0)  # from the front, all planes at once
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    return slice(first, stop), slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def joint_box(first: Box, second: Box) -> Box:
    """Box around two boxes, either of which may be empty."""
    if NOTHING in (first, second):
        return second if first == NOTHING else first
    x, y, z = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))
    return x, y, z


def _planes(labels: Voxels) -> tuple[int, int]:
    """First plane, and the one after the last, along the first axis of an array in C order, that may hold voxels."""
    flat, per_word = labels.ravel(), WORD_BYTES // labels.dtype.itemsize
    num_whole = flat.size - flat.size % per_word
    is_some = flat[:num_whole].view(np.uint64) != 0
    places = list(np.flatnonzero(flat[num_whole:]) + num_whole)
    if is_some.any():
        places += [is_some.argmax() * per_word, (is_some.size - is_some[::-1].argmax()) * per_word - 1]
    plane = labels.shape[1] * labels.shape[2]
    return (int(min(places)) // plane, int(max(places)) // plane + 1) if places else (0, 0)
