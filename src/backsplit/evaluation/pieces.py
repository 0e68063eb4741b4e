"""Components of a mask that is seen a slab at a time: pieces, and which of them belong together."""

from itertools import product

import cc3d
import numpy as np
from jaxtyping import Int, Integer
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backsplit.arrays import Mask

Plane = Integer[np.ndarray, "x y"]
_SHIFTS = tuple(product((-1, 0, 1), repeat=2))


class Pieces:
    """The 26-connected components of slab after slab across the last axis."""

    def __init__(self) -> None:
        self._sizes = [np.zeros(0, np.int64)]
        self._links = [np.zeros((0, 2), np.int64)]
        self._num_pieces = 0
        self._last: Plane | None = None

    def add(self, mask: Mask) -> Integer[np.ndarray, "x y z"]:
        """Number the pieces of the next slab, from 1 on over all slabs, by their first voxels, x fastest."""
        parts = cc3d.connected_components(
            np.asfortranarray(mask), connectivity=26
        )  # cc3d 3.29 misreads views with gaps
        sizes = np.bincount(parts[parts > 0], minlength=1)[1:]
        parts = parts.astype(np.uint32)
        parts[parts > 0] += self._num_pieces
        if self._last is not None:
            self._links.append(_touching(self._last, parts[:, :, 0]))
        self._sizes.append(sizes)
        self._num_pieces += sizes.size
        self._last = parts[:, :, -1].copy()
        return parts

    def joined(self, min_voxels: int) -> tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " components"]]:
        """Number of the component of each piece, 0 where it is too small, and the voxels of each component.

        Components are numbered from 1 without gaps, by their first voxels.
        """
        before, after = np.concatenate(self._links).T - 1
        shape = (self._num_pieces, self._num_pieces)
        graph = coo_matrix((np.ones(before.size, bool), (before, after)), shape)
        _, found = connected_components(graph, directed=False) if self._num_pieces else (0, np.zeros(0, np.int64))
        _, first, inverse = np.unique(found, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))[inverse]
        sizes = np.bincount(order, np.concatenate(self._sizes), first.size).astype(np.int64)
        is_kept = sizes >= max(min_voxels, 1)
        return (np.cumsum(is_kept) * is_kept)[order], sizes[is_kept]


def _touching(before: Plane, after: Plane) -> Int[np.ndarray, "links 2"]:
    """Pairs of pieces with neighbouring voxels in two neighbouring planes."""
    around = np.pad(before, 1)
    width, height = after.shape
    found = []
    for x, y in _SHIFTS if before.any() and after.any() else ():
        beside = around[1 + x : 1 + x + width, 1 + y : 1 + y + height]
        both = (beside > 0) & (after > 0)
        found.append(np.stack([beside[both], after[both]], axis=1).astype(np.int64))
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
