"""Where a target can win at all, found before anything is brought to the grid of the image.

Linear interpolation keeps order: where one class beats another at all corners of a cell, it beats it inside. So a cell
with one rival that beats all targets at its corners holds no target, and one whose corners a target wins outright is
that target's. What is left, the cells at the borders of targets, is decided class by class in
`backsplit.nnunet.export`; of those alone the logits are kept.

The strongest rival of each voxel does not do instead of this: the largest of interpolated values is not the
interpolation of the largest ones, nor is the largest average the average of the largest.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Integer, UInt8

from backsplit.labels import Coarsening, identity
from backsplit.nnunet.tiles import Slab, TiledNetwork

Rule = Literal["argmax", "pooled"]
Logits = Float32[np.ndarray, "_ voxels"]
"""One row per class."""
CHUNK_VALUES = 2**19
"""Logits at a time: 2 MiB, which a core's cache holds."""
MARGIN, SMALLEST = 2.0**-9, 2.0**-20
"""By which a class beats another for certain, relative and absolute: half precision rounds by a quarter of it."""
BITS = 2 ** np.arange(8, dtype=np.uint8)
OUTSIDE = 10.0
"""By how much background wins where all tiles were left out."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the logits."""

    coarsening: Coarsening
    """Classes of the network to label values; 0 is the rest."""
    rule: Rule = "argmax"
    with_posterior: bool = False
    """Keep the log odds of each label value against the rest."""

    @property
    def compared(self) -> Coarsening:
        """Classes that are compared with each other, to label values."""
        return identity(self.coarsening.num_coarse) if self.rule == "pooled" else self.coarsening

    def compare(self, logits: Logits) -> Logits:
        """The logits of the compared classes."""
        return self.pool(logits) if self.rule == "pooled" else logits

    def pool(self, logits: Logits) -> Logits:
        """One logit per label value: the logarithm of the sum of its classes' exponentials."""
        pooled = [
            logits[block[0]] if len(block) == 1 else torch.from_numpy(logits[list(block)]).logsumexp(0).numpy()
            for block in self.coarsening.blocks
        ]
        return np.stack(pooled)


@dataclass(frozen=True, slots=True)
class Screened:
    """What is known before anything is resampled. Cell `i` lies between voxel `i` and the one that follows."""

    cells: Integer[np.ndarray, "z y x"]
    """Label value of all that lies in a cell, or `undecided`."""
    places: Integer[np.ndarray, " kept"]
    """Voxels whose logits are kept, by their place in the flat volume, in increasing order."""
    logits: Float16[np.ndarray, "kept compared"]
    odds: Float16[np.ndarray, "targets z y x"] | None
    """Log odds of each target against the rest, if they were asked for."""

    @property
    def undecided(self) -> int:
        """The value of cells that may hold several classes."""
        return int(np.iinfo(self.cells.dtype).max)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the voxels of a slab say about the cells around them."""

    slab: Slab
    beaten: UInt8[np.ndarray, "classes_8 z y x"]
    """One bit per class: whether it beats all targets."""
    won: Integer[np.ndarray, "z y x"]
    """The label value that wins outright, or 0."""
    odds: Float16[np.ndarray, "targets z y x"]

    def followed_by(self, other: "_Seen") -> "_Seen":
        """Both as one."""
        one, two = self.slab, other.slab
        values, is_covered = torch.cat((one.values, two.values), 1), torch.cat((one.is_covered, two.is_covered))
        beaten, won, odds = (
            np.concatenate(pair, axis=-3)
            for pair in ((self.beaten, other.beaten), (self.won, other.won), (self.odds, other.odds))
        )
        return _Seen(Slab(one.start, values, is_covered), beaten, won, odds)

    def last_plane(self) -> "_Seen":
        """A copy of it, so that the rest can be let go."""
        slab = self.slab
        start = slab.start + len(slab.is_covered) - 1
        plane = Slab(start, slab.values[:, -1:].clone(), slab.is_covered[-1:].clone())
        return _Seen(plane, *(each[..., -1:, :, :].copy() for each in (self.beaten, self.won, self.odds)))


def screen(
    slabs: Iterable[Slab],
    network: TiledNetwork,
    question: Question,
    *,
    shape: Sequence[int],
    is_interpolated: Sequence[bool],
) -> Screened:
    """Find the cells that are decided, and keep the logits at the corners of the others.

    Args:
        slabs: the whole volume.
        network: turns their values into logits.
        question: what to tell apart.
        shape: of the volume.
        is_interpolated: for each axis, whether voxels of the image lie between two planes; else each lies in one.
    """
    compared = question.compared
    cells = np.zeros(shape, np.min_scalar_type(compared.num_coarse))
    odds = np.zeros((compared.num_coarse - 1, *shape), np.float16) if question.with_posterior else None
    places, logits = [np.zeros(0, np.int64)], [np.zeros((0, compared.num_fine), np.float16)]
    undecided = np.iinfo(cells.dtype).max
    looked = (_look(slab, network, question, cells.dtype) for slab in slabs)
    for seen, num_cells in _with_next_plane(looked):
        slab = seen.slab
        planes = slice(slab.start, slab.start + num_cells)
        cells[planes] = _cells(seen, is_interpolated, undecided)[:num_cells]
        if odds is not None:
            odds[:, planes] = seen.odds[:, :num_cells]
        kept = np.flatnonzero(_corners(cells[planes] == undecided, len(seen.won), is_interpolated))
        places.append(kept + slab.start * shape[1] * shape[2])
        logits.append(question.compare(_logits(slab, network, kept)).astype(np.float16).T)
    all_places, first = np.unique(np.concatenate(places), return_index=True)
    return Screened(cells, all_places, np.concatenate(logits)[first], odds)


def _with_next_plane(looked: Iterable[_Seen]) -> Iterator[tuple[_Seen, int]]:
    """Each slab with the first plane of the next; and how many planes of cells are complete in it."""
    last = None
    for seen in looked:
        joined = seen if last is None else last.followed_by(seen)
        num_planes = len(joined.won)
        if num_planes > 1:
            yield joined, num_planes - 1
        last = joined.last_plane()
    if last is not None:
        yield last, 1


def _logits(slab: Slab, network: TiledNetwork, voxels: slice | Integer[np.ndarray, " voxels"]) -> Logits:
    """Logits of the network at some voxels of the flat slab; where all tiles were left out, background's wins."""
    at = voxels if isinstance(voxels, slice) else torch.from_numpy(voxels)
    logits = network.logits(slab.values.flatten(1)[:, at])
    is_outside = ~slab.is_covered.flatten()[at].cpu().numpy()
    if is_outside.any():
        logits[:, is_outside] = -OUTSIDE
        logits[0, is_outside] = 0
    return logits


def _look(slab: Slab, network: TiledNetwork, question: Question, dtype: np.dtype) -> _Seen:
    """Look at each voxel of a slab, a cacheful of logits at a time."""
    shape, compared = slab.is_covered.shape, question.compared
    targets = np.flatnonzero(compared.parent)
    num_targets = compared.num_coarse - 1 if question.with_posterior else 0
    seen = _Seen(
        slab,
        np.zeros((-(-compared.num_fine // 8), *shape), np.uint8),
        np.zeros(shape, dtype),
        np.zeros((num_targets, *shape), np.float16),
    )
    beaten, won, odds = (
        each.reshape(*each.shape[:-3], math.prod(shape)) for each in (seen.beaten, seen.won, seen.odds)
    )
    step = max(1, CHUNK_VALUES // network.num_classes)
    for first in range(0, won.size, step):
        chunk = slice(first, first + step)
        of_network = _logits(slab, network, chunk)
        logits = question.compare(of_network)
        beaten[:, chunk] = _beaten(logits, targets)
        won[chunk] = _won(logits, compared, np.flatnonzero(~beaten[:, chunk].any(0)))
        if question.with_posterior:
            pooled = question.pool(of_network)
            odds[:, chunk] = pooled[1:] - pooled[0]
    return seen


def _beaten(logits: Logits, targets: Integer[np.ndarray, " targets"]) -> UInt8[np.ndarray, "classes_8 voxels"]:
    """Bits of the classes that beat all targets; a target never beats itself."""
    beats = np.zeros((-(-len(logits) // 8) * 8, logits.shape[1]), bool)
    np.greater_equal(logits, _certainly_above(logits[targets].max(0)), out=beats[: len(logits)])
    groups = beats.view(np.uint8).reshape(-1, 8, logits.shape[1])
    return np.einsum("gbv,b->gv", groups, BITS)  # nine times as fast as packbits along the first axis


def _won(logits: Logits, compared: Coarsening, where: Integer[np.ndarray, " open"]) -> Integer[np.ndarray, " voxels"]:
    """Label value of the class that beats all others, 0 where it is of the rest or there is none."""
    won, logits = np.zeros(logits.shape[1], np.int64), logits[:, where]
    if where.size:
        is_near = logits > -_certainly_above(-logits.max(0))
        winner = np.asarray(compared.parent)[logits.argmax(0)]
        won[where] = np.where(is_near.sum(0) == 1, winner, 0)
    return won


def _certainly_above(values: Float32[np.ndarray, " voxels"]) -> Float32[np.ndarray, " voxels"]:
    """The least that beats a value so clearly that rounding to half precision, after interpolation, cannot undo it."""
    beside = values + np.float32(MARGIN) * np.abs(values) + np.float32(SMALLEST)
    return beside / np.where(beside < 0, np.float32(1 + MARGIN), np.float32(1 - MARGIN))


def _cells(seen: _Seen, is_interpolated: Sequence[bool], undecided: int) -> Integer[np.ndarray, "z y x"]:
    """What the corners of each cell agree on; the last cell along an axis has one plane of corners."""
    beaten, won = seen.beaten.copy(), seen.won.copy()
    for axis in np.flatnonzero(is_interpolated):
        this, following = ((..., part, *[slice(None)] * (2 - axis)) for part in (slice(None, -1), slice(1, None)))
        beaten[this] &= beaten[following]
        won[this] = np.where(won[this] == won[following], won[this], 0)
    is_beaten = beaten.any(0)
    return np.where(is_beaten, 0, np.where(won == 0, undecided, won)).astype(won.dtype)


def _corners(
    is_undecided: Bool[np.ndarray, "cells y x"], num_planes: int, is_interpolated: Sequence[bool]
) -> Bool[np.ndarray, "z y x"]:
    """Voxels at the corners of undecided cells."""
    is_corner = np.zeros((num_planes, *is_undecided.shape[1:]), bool)
    is_corner[: len(is_undecided)] = is_undecided
    for axis in np.flatnonzero(is_interpolated):
        this, following = ((..., part, *[slice(None)] * (2 - axis)) for part in (slice(None, -1), slice(1, None)))
        is_corner[following] |= is_corner[this].copy()
    return is_corner
