"""How many voxels each label has."""

import numpy as np

from backsplit.arrays import LabelMap


def count_labels(labels: LabelMap) -> dict[int, int]:
    """Voxels by label value, for the values that occur, in their order.

    Most of a label map is background: of narrow maps eight bytes at a time are looked at, and only those counted that
    are not all 0.
    """
    flat = labels.ravel(order="K")
    if labels.dtype.itemsize > 2 or labels.dtype.kind != "u":
        return {int(value): int(count) for value, count in zip(*np.unique(flat, return_counts=True), strict=True)}
    num_whole = flat.size - flat.size % 8
    words = flat[:num_whole].view(np.uint64)
    some = np.concatenate([words[words != 0].view(flat.dtype), flat[num_whole:]])
    counts = np.bincount(some, minlength=1)
    counts[0] += flat.size - some.size
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
