r"""Closed forms of the Fisher information that labels carry about the logits of a softmax, under any coarsening.

Everything is about the K fine logits $z$ of a voxel with probabilities $p = \mathrm{softmax}(z)$. For a coarse class
$c$, let $v_c$ be $p$ inside its block and 0 elsewhere, and $q_c = \sum_k v_{c,k}$. A coarse label then informs by

$$F = \sum_c v_c v_c^\top / q_c - p p^\top,$$

a fine one (every class a block of its own) by $\mathrm{diag}(p) - p p^\top$. The difference, the missing information,
is block diagonal: inside a block it is $q_c$ times the fine information of the classes given the block.

Volumes are read once, a slab that fits the cache at a time; a K x K matrix exists once, as a mean over voxels, and
never per voxel.

Source:
    Saluja et al., arXiv 2511.19394, section 3 (Lemma 1, Theorem 1, Proposition 1); the missing-information identity is
    Louis, J. R. Stat. Soc. B 44(2), 1982.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from backsplit.arrays import Probabilities
from backsplit.errors import LabelError
from backsplit.labels import Coarsening, identity

Matrix = Float[np.ndarray, "fine fine"]
SUM_TOLERANCE = 2e-3
"""Half precision keeps three digits of a probability."""
_SLAB_BYTES = 2**19
"""Of probabilities at a time; with what is made of them they stay in a core's cache."""


def fine_score(p: Float[np.ndarray, " fine"], fine_class: int) -> Float[np.ndarray, " fine"]:
    r"""Gradient of $\log p_y$ with respect to the logits, $e_y - p$."""
    return np.eye(p.size)[fine_class] - p


def coarse_score(
    p: Float[np.ndarray, " fine"], coarse_class: int, coarsening: Coarsening
) -> Float[np.ndarray, " fine"]:
    r"""Gradient of $\log q_c$ with respect to the fine logits, $v_c / q_c - p$.

    It is the mean of the fine scores given the coarse label (Lemma 1, score projection).

    Args:
        p: class probabilities of one voxel, each > 0, sum 1.
        coarse_class: what the annotator said.
        coarsening: what the annotator tells apart.
    """
    block = list(coarsening.blocks[coarse_class])
    inside = np.zeros_like(p)
    inside[block] = p[block]
    return inside / inside.sum() - p


def information(p: Probabilities, coarsening: Coarsening) -> Matrix:
    r"""Mean over voxels of the information about the fine logits that one coarse label carries.

    Args:
        p: probabilities, fine classes along axis 0, any number of voxels; sum 1 in each voxel.
        coarsening: the classes an annotator tells apart; the identity gives the fine information.

    Returns:
        Symmetric positive semi-definite matrix in float64. Rows and columns sum to 0: a shift of all logits is never
        informed about. Classes without probability inform by 0.

    Raises:
        LabelError: another number of classes than the coarsening has, no voxel, or probabilities that do not sum to 1.
    """
    return _within_blocks(p, coarsening) - _within_blocks(p, _all_in_one(coarsening.num_fine))


def missing_information(p: Probabilities, coarsening: Coarsening, *, finer: Coarsening | None = None) -> Matrix:
    r"""Mean over voxels of what a coarse label does not tell and a finer one does (Theorem 1, Proposition 1).

    Args:
        p: as for `information`.
        coarsening: what the coarse annotator tells apart.
        finer: what the finer one does; by default every class. The coarsening must follow from it.

    Returns:
        Symmetric positive semi-definite; 0 where the two annotators tell the same apart.

    Raises:
        LabelError: as for `information`, or the coarsening tells apart what `finer` merges.
    """
    finer = identity(coarsening.num_fine) if finer is None else finer
    _require_nested(finer, coarsening)
    return _within_blocks(p, finer) - _within_blocks(p, coarsening)


def information_chain(p: Probabilities, coarsenings: Sequence[Coarsening]) -> list[Matrix]:
    """What each step of a sequence of coarsenings loses; the steps add up to what the sequence loses as a whole.

    Args:
        p: as for `information`.
        coarsenings: from fine to coarse, each of the K fine classes, each following from the one before.

    Returns:
        One matrix per step, each positive semi-definite.

    Raises:
        LabelError: as for `missing_information`.
    """
    for finer, coarser in pairwise(coarsenings):
        _require_nested(finer, coarser)
    kept = [_within_blocks(p, coarsening) for coarsening in coarsenings]
    return [before - after for before, after in pairwise(kept)]


def lost_trace(p: Probabilities, coarsening: Coarsening) -> Float[np.ndarray, "..."]:
    r"""Map of the information that a coarsening loses: trace of the missing information in each voxel.

    It is $1 - \sum_c \lVert v_c \rVert^2 / q_c$, in [0, 1]: the chance that two draws of the fine class, the second
    given the block of the first, differ.

    Args:
        p: probabilities, fine classes along axis 0.
        coarsening: what the annotator tells apart.

    Returns:
        One number per voxel, in the type of `p`, at least float32.

    Raises:
        LabelError: as for `information`.
    """
    flat = _flat(p, coarsening)
    lost = np.empty(flat.shape[1], np.result_type(flat.dtype, np.float32))
    for where, slab in _slabs(flat):
        kept = np.zeros(slab.shape[1], lost.dtype)
        total = np.zeros_like(kept)
        for block in coarsening.blocks:
            part = _rows(slab, block)
            mass = part.sum(axis=0)
            total += mass
            kept += mass if len(block) == 1 else np.einsum("kn,kn->n", part, part) * _inverse(mass)
        _check_sum(total)
        np.subtract(1, kept, out=lost[where])
    return np.maximum(lost, 0, out=lost).reshape(p.shape[1:])


def lost_by_class(missing: Matrix) -> Float[np.ndarray, " fine"]:
    r"""Share of each fine class in the lost trace: $p_k (1 - p_k / q_c)$, the diagonal of the missing information."""
    return missing.diagonal().copy()


def lost_by_pair(missing: Matrix) -> Matrix:
    r"""Share of each pair of fine classes in the lost trace: $2 p_j p_k / q_c$ inside a block, 0 across blocks.

    Returns:
        Symmetric, 0 on the diagonal; the upper triangle sums to the trace of `missing`.
    """
    pairs = -2 * missing
    np.fill_diagonal(pairs, 0)
    return pairs


def spectrum(matrix: Matrix) -> Float[np.ndarray, " fine"]:
    """Eigenvalues of an information matrix, largest first; rounding below 0 is cut off."""
    return np.maximum(np.linalg.eigvalsh(matrix)[::-1], 0)


def _within_blocks(p: Probabilities, coarsening: Coarsening) -> Matrix:
    r"""Mean over voxels of $\sum_c v_c v_c^\top / q_c$."""
    flat = _flat(p, coarsening)
    total = np.zeros((coarsening.num_fine,) * 2)
    for _, slab in _slabs(flat):
        mass = np.zeros(slab.shape[1], slab.dtype)
        for block in coarsening.blocks:
            part = _rows(slab, block)
            inside = part.sum(axis=0)
            mass += inside
            total[np.ix_(block, block)] += inside.sum() if len(block) == 1 else (part * _inverse(inside)) @ part.T
        _check_sum(mass)
    return total / flat.shape[1]


def _rows(slab: Float[np.ndarray, "fine slab"], block: tuple[int, ...]) -> Float[np.ndarray, "block slab"]:
    """The classes of a block, without a copy where they follow each other."""
    is_run = block[-1] - block[0] == len(block) - 1
    return slab[block[0] : block[-1] + 1] if is_run else slab[list(block)]


def _inverse(mass: Float[np.ndarray, " slab"]) -> Float[np.ndarray, " slab"]:
    """One over a block's probability; where that is 0 the block informs about nothing, whatever is returned here."""
    return 1 / np.maximum(mass, np.finfo(mass.dtype).tiny)


def _flat(p: Probabilities, coarsening: Coarsening) -> Float[np.ndarray, "fine voxels"]:
    if p.shape[0] != coarsening.num_fine:
        raise LabelError(
            f"probabilities of {p.shape[0]} classes, the coarsening is one of {coarsening.num_fine}; classes belong "
            "on axis 0"
        )
    if not math.prod(p.shape[1:]):
        raise LabelError(f"probabilities of shape {p.shape} hold no voxel; information is a mean over voxels")
    return p.reshape(p.shape[0], -1)


def _slabs(flat: Float[np.ndarray, "fine voxels"]) -> Iterator[tuple[slice, Float[np.ndarray, "fine slab"]]]:
    """Voxels in pieces, at least in float32."""
    kind = np.result_type(flat.dtype, np.float32)
    step = max(1, _SLAB_BYTES // (flat.shape[0] * kind.itemsize))
    for start in range(0, flat.shape[1], step):
        where = slice(start, min(start + step, flat.shape[1]))
        yield where, flat[:, where].astype(kind, copy=False)


def _check_sum(mass: Float[np.ndarray, " slab"]) -> None:
    worst = float(np.abs(mass - 1).max())
    if not worst <= SUM_TOLERANCE:  # `not <=`, so that NaN fails
        raise LabelError(
            f"probabilities of a voxel sum to {float(mass[np.abs(mass - 1).argmax()]):.4g}, expected 1; are these "
            "logits, or do classes lie on another axis than 0?"
        )


def _all_in_one(num_fine: int) -> Coarsening:
    return Coarsening((0,) * num_fine)


def _require_nested(finer: Coarsening, coarser: Coarsening) -> None:
    if finer.num_fine != coarser.num_fine or any(
        len({coarser.parent[fine] for fine in block}) > 1 for block in finer.blocks
    ):
        raise LabelError(
            f"coarsening {coarser.parent} does not follow from {finer.parent}: it tells apart what that one merges"
        )
