"""Components of a mask that is seen a slab at a time: pieces, and which of them belong together."""

from itertools import product
from typing import NamedTuple

import cc3d
import numpy as np
from jaxtyping import Int, Integer
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from backsplit.arrays import Mask

Plane = Integer[np.ndarray, "x y"]
_SHIFTS = tuple(product((-1, 0, 1), repeat=2))


class Slab(NamedTuple):
    """The pieces of one slab."""

    numbers: Integer[np.ndarray, "x y z"]
    """From 1, 0 outside; by their first voxels, x fastest."""
    places: Int[np.ndarray, " voxels"]
    """Of the mask, x fastest."""
    of_places: Integer[np.ndarray, " voxels"]
    """Numbers there."""
    offset: int
    """Pieces of the slabs before."""

    def plane(self, place: int) -> Int[np.ndarray, "x y"]:
        """Numbers over all slabs in a plane, 0 outside."""
        local = self.numbers[:, :, place].astype(np.int64)
        return np.where(local > 0, local + self.offset, 0)


def shared_voxels(prediction: Slab, reference: Slab) -> tuple[Int[np.ndarray, "pairs 2"], Int[np.ndarray, " pairs"]]:
    """Numbers, over all slabs, of a reference and a predicted piece that share voxels, and how many they share."""
    referred = reference.numbers.ravel("F")[prediction.places]
    both = referred > 0
    width = int(prediction.of_places.max(initial=0)) + 1
    codes, shared = _counted(referred[both].astype(np.int64) * width + prediction.of_places[both])
    return np.stack([codes // width + reference.offset, codes % width + prediction.offset], axis=1), shared


def _counted(codes: Int[np.ndarray, " voxels"]) -> tuple[Int[np.ndarray, " different"], Int[np.ndarray, " different"]]:
    """The different numbers, in order, and how often each comes; without sorting where they are small."""
    if codes.max(initial=0) > codes.size:
        return np.unique(codes, return_counts=True)
    counts = np.bincount(codes)
    different = np.flatnonzero(counts)
    return different, counts[different]


class Pieces:
    """The 26-connected components of slab after slab across the last axis."""

    def __init__(self) -> None:
        self._sizes = [np.zeros(0, np.int64)]
        self._links = [np.zeros((0, 2), np.int64)]
        self._num_pieces = 0
        self._last: Plane | None = None

    def add(self, mask: Mask) -> Slab:
        """Take in the next slab."""
        whole = np.asfortranarray(mask)  # cc3d 3.29 misreads views with gaps
        numbers = cc3d.connected_components(whole, connectivity=26)
        places = np.flatnonzero(whole.ravel("F"))
        of_places = numbers.ravel("F")[places]
        sizes = np.bincount(of_places, minlength=1)[1:]
        slab = Slab(numbers, places, of_places, self._num_pieces)
        if self._last is not None:
            self._links.append(_touching(self._last, slab.plane(0)))
        self._sizes.append(sizes)
        self._num_pieces += sizes.size
        self._last = slab.plane(-1)
        return slab

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
    around, base = np.pad(before, 1), int(after.max(initial=0)) + 1
    width, height = after.shape
    codes = [np.zeros(0, np.int64)]
    for x, y in _SHIFTS if before.any() and base > 1 else ():
        beside = around[1 + x : 1 + x + width, 1 + y : 1 + y + height]
        both = (beside > 0) & (after > 0)
        codes.append(beside[both] * base + after[both])
    different, _ = _counted(np.concatenate(codes))
    return np.stack([different // base, different % base], axis=1)
