"""The one idea: a surjection of fine onto coarse classes, and what it does to labels and probabilities."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from backsplit.arrays import Probabilities
from backsplit.errors import LabelError


@dataclass(frozen=True, slots=True)
class Coarsening:
    """Surjection of fine classes onto coarse ones: fine class `k` belongs to coarse class `parent[k]`.

    Coarsenings compose, `(outer @ inner).parent[k] == outer.parent[inner.parent[k]]`, and have no inverse. In the
    paper's words: binary labels are `Z = g(Y)`, and `g` is this object (Saluja et al., section 3).

    Raises:
        LabelError: no class, a negative parent, or a coarse class without any fine class.
    """

    parent: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parent or min(self.parent) < 0:
            raise LabelError(f"a coarsening needs one coarse class (0 or more) per fine class, got {self.parent}")
        missing = sorted(set(range(max(self.parent) + 1)) - set(self.parent))
        if missing:
            raise LabelError(f"coarse classes {missing} have no fine class in {self.parent}; number them without gaps")

    @property
    def num_fine(self) -> int:
        """Number of fine classes."""
        return len(self.parent)

    @property
    def num_coarse(self) -> int:
        """Number of coarse classes."""
        return max(self.parent) + 1

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """For each coarse class, its fine classes in increasing order; a partition of the fine classes."""
        return tuple(
            tuple(fine for fine, coarse in enumerate(self.parent) if coarse == block)
            for block in range(self.num_coarse)
        )

    def __matmul__(self, inner: "Coarsening") -> "Coarsening":
        """Apply `inner` first, then this one.

        Raises:
            LabelError: `inner` does not end in as many classes as this one starts from.
        """
        if inner.num_coarse != self.num_fine:
            raise LabelError(f"cannot compose: inner gives {inner.num_coarse} classes, outer takes {self.num_fine}")
        return Coarsening(tuple(self.parent[middle] for middle in inner.parent))

    def of_labels(self, labels: Integer[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
        """Coarse label of each fine label, in the narrowest unsigned type; any shape.

        Raises:
            LabelError: a label is not one of the fine classes.
        """
        if labels.size and (labels.min() < 0 or labels.max() >= self.num_fine):
            extra = sorted({int(value) for value in np.unique(labels)} - set(range(self.num_fine)))
            raise LabelError(f"labels {extra} are not fine classes (0 to {self.num_fine - 1})")
        table = np.asarray(self.parent, dtype=np.min_scalar_type(self.num_coarse - 1))
        return table[labels.astype(np.int64, copy=False)]

    def of_probabilities(self, probabilities: Probabilities) -> Float[np.ndarray, "coarse ..."]:
        """Sum over each block along axis 0: shape `(num_fine, ...)` to `(num_coarse, ...)`, same dtype.

        Merging probabilities and merging the labels of their argmax differ: 0.4 loses against 0.3 + 0.3.

        Raises:
            LabelError: axis 0 does not have `num_fine` entries.
        """
        if probabilities.shape[0] != self.num_fine:
            raise LabelError(
                f"axis 0 has {probabilities.shape[0]} entries, the coarsening {self.num_fine} fine classes"
            )
        return np.stack([probabilities[list(block)].sum(axis=0) for block in self.blocks])


def identity(num_classes: int) -> Coarsening:
    """The coarsening that merges nothing."""
    return Coarsening(tuple(range(num_classes)))


def to_target(*, num_targets: int, num_fine: int) -> Coarsening:
    """Targets keep their index, everything else becomes background: the paper's binary training for one target.

    Raises:
        LabelError: no target, or fewer fine classes than background and targets.
    """
    if not 0 < num_targets < num_fine:
        raise LabelError(f"{num_targets} targets and background do not fit into {num_fine} fine classes")
    return into_background(range(num_targets + 1, num_fine), num_fine=num_fine)


def into_background(merged: Iterable[int], *, num_fine: int) -> Coarsening:
    """Merge the given fine classes into background and close the gaps, order kept.

    Raises:
        LabelError: a class is outside `0..num_fine-1`.
    """
    absorbed = {0, *merged}
    if not absorbed <= set(range(num_fine)):
        raise LabelError(f"classes {sorted(absorbed - set(range(num_fine)))} are outside 0 to {num_fine - 1}")
    kept = [fine for fine in range(num_fine) if fine not in absorbed]
    position = {fine: coarse for coarse, fine in enumerate(kept, start=1)}
    return Coarsening(tuple(position.get(fine, 0) for fine in range(num_fine)))
