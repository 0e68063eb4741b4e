"""Voxels that a mask encloses: where an organ model leaves out the lesion inside an organ."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from backsplit.arrays import LabelMap

Box = tuple[slice, slice, slice]
Part = Bool[np.ndarray, "width height depth"]
"""A mask inside a box of the image."""
Planes = Bool[np.ndarray, "plane a b"]
IN_PLANE = np.array([[[0] * 3] * 3, [[0, 1, 0], [1, 1, 1], [0, 1, 0]], [[0] * 3] * 3], bool)


def in_holes(labels: LabelMap, value: int, box: Box, where: Part, window: Box) -> Part:
    """Which voxels of a mask lie in holes of a structure.

    A hole is what the structure encloses within a plane across any of the three array axes. What it encloses in space
    it encloses in every plane too. Planes are filled once, from the structure as it is, and only those that `where` has
    voxels in.

    Args:
        labels: label map of the image.
        value: the structure in it.
        box: tight box of the structure.
        where: the voxels in question inside `window`, none of them in the structure.
        window: part of `box`.

    Returns:
        Shape of `where`.
    """
    held = np.zeros_like(where)
    for axis in range(3):
        moved = np.moveaxis(where, axis, 0)
        (planes,) = np.nonzero(moved.any(axis=(1, 2)))
        if not planes.size:
            return held
        starts = [inner.start - outer.start for inner, outer in zip(window, box, strict=True)]
        first = starts.pop(axis)
        structure = np.moveaxis(labels[box], axis, 0)[planes + first] == value
        view = tuple(slice(start, start + length) for start, length in zip(starts, moved.shape[1:], strict=True))
        np.moveaxis(held, axis, 0)[planes] |= filled(structure)[:, *view]
    return held & where


def filled(planes: Planes) -> Planes:
    """Each plane with its holes filled: what its edge does not reach through the four neighbours in the plane."""
    pieces, num_pieces = ndimage.label(~planes, structure=IN_PLANE)
    is_outer = np.zeros(num_pieces + 1, bool)
    for edge in (pieces[:, :1], pieces[:, -1:], pieces[:, :, :1], pieces[:, :, -1:]):
        is_outer[edge] = True
    is_outer[0] = False
    return ~is_outer[pieces]
