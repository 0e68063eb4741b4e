r"""What the loss needs from the voxels, and its gradient: one pass each, in pieces that fit a cache.

For a voxel with logits $l$, log $L$ of their summed exponentials, and $L_R$ the same over the rest $R$ (all but the
targets): $p_k = e^{l_k - L}$, and within the rest $q_k = e^{l_k - L_R}$, which does not vanish where a target is
certain. Auxiliaries that a sample does not tell apart are pooled with background first, so that they are one class.

With $a_k, b_k$ the derivatives of the total with respect to the summed probability and the overlap of class $k$,
$c_1, c_2$ those with respect to the two cross-entropies of the voxel, $y$ its class and $s = \sum_j a_j p_j + b_y p_y$,
the derivative with respect to $l_k$ is

$p_k (c_1 + a_k - s) + [y \in R]\,[k \in R]\,(c_2 - c_1)\, q_k + [k = y]\,(b_y p_y - c_y)$,

where $c_y$ is $c_2$ for a voxel of the rest and $c_1$ for one of a target.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, Integer, Num
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_PIECE, DEVICE_PIECE = 2**18, 2**24  # numbers in one piece: a core's cache; a small part of a GPU's memory
LANES = 256  # accumulators per class, so that sums keep their digits and GPU threads do not queue at one address


@dataclass(frozen=True, slots=True)
class SampleClasses:
    """The classes that one sample tells apart, as rows: background, then auxiliaries, then targets."""

    channels: Int64[Tensor, " row"]
    """Channel of each row; row 0 is channel 0, or all of `block`."""
    rows: Int64[Tensor, " class"]
    """Row of each class; 0 for those that the sample does not tell from background."""
    block: Int64[Tensor, " block"]
    """Channels that together are background: 0 and those of classes that are not told apart."""
    num_rest: int
    """Rows before the first target."""


@lru_cache(maxsize=4096)
def sample_classes(annotated: tuple[bool, ...], *, num_targets: int, device: torch.device) -> SampleClasses:
    """The classes of a sample, on the device of its logits; kept, so that a GPU is waited for but once.

    Args:
        annotated: one per class; background and targets count as annotated.
        num_targets: T, 1 or more.
        device: of the logits.
    """
    auxiliaries = [k for k in range(num_targets + 1, len(annotated)) if annotated[k]]
    channels = [0, *auxiliaries, *range(1, num_targets + 1)]
    row_of_class = {channel: row for row, channel in enumerate(channels)}
    rows = [row_of_class.get(k, 0) for k in range(len(annotated))]
    block = [k for k, row in enumerate(rows) if row == 0]
    tables = (torch.tensor(numbers, device=device) for numbers in (channels, rows, block))
    return SampleClasses(*tables, num_rest=1 + len(auxiliaries))


class MarginalSums(NamedTuple):
    """What the voxels tell the loss. Classes that a sample does not tell apart have zeros."""

    cross_entropies: Float[Tensor, "2"]
    """CE(Z), of the target, and CE(Y|Z), of the auxiliaries; means over all voxels."""
    overlap: Float[Tensor, "batch class"]
    """Sum of a class's probability over the voxels labelled with it."""
    predicted: Float[Tensor, "batch class"]
    """Sum of a class's probability over all voxels."""
    reference: Float[Tensor, "batch class"]
    """Number of voxels labelled with the class; it has no gradient."""


def marginal_sums(
    logits: Float[Tensor, "batch class *spatial"],
    labels: Float[Tensor, "batch 1 *spatial"] | Integer[Tensor, "batch 1 *spatial"],
    classes: tuple[SampleClasses, ...],
) -> MarginalSums:
    """Cross-entropies, and the sums that soft Dice is made of; float64 for float64 logits, else float32.

    Beside its results it keeps two numbers per voxel for the gradient, which comes in the type of the logits. It has
    no second derivative.

    Args:
        logits: any float type.
        labels: class indices, each in 0 to K - 1.
        classes: one per sample.

    Raises:
        IndexError: a label outside 0 to K - 1 (on a GPU: CUDA's device-side assertion).
    """
    return MarginalSums(*_MarginalSums.apply(logits, labels, classes))


class _MarginalSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, classes: tuple[SampleClasses, ...]) -> tuple[Tensor, ...]:  # noqa: ANN401  torch's own
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        logs = logits.new_empty((len(logits), 2, logits[0, 0].numel()), dtype=dtype)
        with torch.autocast(logits.device.type, enabled=False):
            sums = [_sums(sample, logs[i]) for i, sample in enumerate(_samples(logits, labels, classes))]
        entropies, overlap, predicted, reference = (torch.stack(part) for part in zip(*sums, strict=True))
        ctx.save_for_backward(logits, labels, logs)
        ctx.classes = classes
        ctx.mark_non_differentiable(reference)
        return entropies.sum(0) / logs[:, 0].numel(), overlap, predicted, reference

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401  torch's own
        logits, labels, logs = ctx.saved_tensors
        entropies, overlap, predicted, _ = upstream
        entropies = entropies / logs[:, 0].numel()
        gradient = torch.empty_like(logits)
        with torch.autocast(logits.device.type, enabled=False):
            for i, sample in enumerate(_samples(logits, labels, ctx.classes)):
                of_rows = (sums[i].index_select(0, sample.classes.channels) for sums in (overlap, predicted))
                _write_gradient(sample, logs[i], _Derivatives(*entropies, *of_rows), _by_channel(gradient[i]))
        return gradient, None, None


class _Derivatives(NamedTuple):
    """Of the total, with respect to both cross-entropies of a voxel and to the sums of each row."""

    target: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    overlap: Float[Tensor, " row"]
    predicted: Float[Tensor, " row"]


class _Piece(NamedTuple):
    """Some voxels of a sample."""

    voxels: slice
    logits: Float[Tensor, "row voxel"]
    """A copy, to be overwritten; background is pooled."""
    row: Int64[Tensor, " voxel"]
    """Of the labels."""


@dataclass(frozen=True, slots=True)
class _Sample:
    logits: Float[Tensor, "class voxel"]
    labels: Num[Tensor, " voxel"]
    classes: SampleClasses

    def pieces(self, dtype: torch.dtype) -> Iterator[_Piece]:
        """The voxels, as many at a time as keep the work in a cache."""
        num_classes, num_voxels = self.logits.shape
        length = max(1024, (CPU_PIECE if self.logits.device.type == "cpu" else DEVICE_PIECE) // max(num_classes, 8))
        for start in range(0, num_voxels, length):
            voxels = slice(start, start + length)
            logits = self.logits[:, voxels].index_select(0, self.classes.channels).to(dtype)
            if len(self.classes.block) > 1:
                logits[0] = self.background(voxels, dtype).logsumexp(0)
            yield _Piece(voxels, logits, self.classes.rows.index_select(0, self.labels[voxels].int()))

    def background(self, voxels: slice, dtype: torch.dtype) -> Float[Tensor, "block voxel"]:
        """Logits of the channels that together are background."""
        return self.logits[:, voxels].index_select(0, self.classes.block).to(dtype)


def _samples(logits: Tensor, labels: Tensor, classes: tuple[SampleClasses, ...]) -> Iterator[_Sample]:
    for sample, sample_labels, its_classes in zip(logits, labels, classes, strict=True):
        yield _Sample(_by_channel(sample), sample_labels.flatten(), its_classes)


def _by_channel(sample: Tensor) -> Float[Tensor, "class voxel"]:
    return sample.flatten(1)


def _sums(sample: _Sample, logs: Float[Tensor, "2 voxel"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropies summed over the voxels, and the other `MarginalSums`, of one sample; fills `logs`, L_R and L."""
    classes, num_rest = sample.classes, sample.classes.num_rest
    num_rows, num_voxels = len(classes.channels), len(sample.labels)
    entropies, predicted = logs.new_zeros(2), logs.new_zeros(num_rows)
    overlap, reference = logs.new_zeros((2, num_rows * LANES))
    lane = torch.arange(num_voxels, device=logs.device) % LANES
    one = logs.new_ones(()).expand(num_voxels)
    for voxels, logits, row in sample.pieces(logs.dtype):
        picked = logits.gather(0, row[None])[0]
        rest_peak, log_rest = _exponentiate(logits[:num_rest])
        targets_peak, log_targets = _exponentiate(logits[num_rest:])
        log_all = torch.logaddexp(log_rest, log_targets)
        predicted[:num_rest] += torch.mv(logits[:num_rest], (rest_peak - log_all).exp_())
        predicted[num_rest:] += torch.mv(logits[num_rest:], (targets_peak - log_all).exp_())
        kept = picked if num_rest == 1 else torch.where(row < num_rest, log_rest, picked)  # log-weight of Z, not Y
        entropies += torch.stack(((log_all - kept).sum(), (kept - picked).sum()))
        accumulator = torch.add(lane[: len(row)], row, alpha=LANES)
        overlap.scatter_add_(0, accumulator, (picked - log_all).exp_())
        reference.scatter_add_(0, accumulator, one[: len(row)])
        logs[0, voxels], logs[1, voxels] = log_rest, log_all
    of_rows = (overlap.view(num_rows, LANES).sum(1), predicted, reference.view(num_rows, LANES).sum(1))
    no_class = logs.new_zeros(len(classes.rows))
    return entropies, *(no_class.index_copy(0, classes.channels, row_sums) for row_sums in of_rows)


def _exponentiate(logits: Float[Tensor, "row voxel"]) -> tuple[Tensor, Tensor]:
    """Replace logits by exp(logits - peak); the peak, and the log of the summed exponentials of the logits."""
    if len(logits) == 1:
        peak = logits[0].clone()
        logits.fill_(1)
        return peak, peak
    peak = logits.amax(0)
    logits.sub_(peak).exp_()
    return peak, logits.sum(0).log_().add_(peak)


def _write_gradient(
    sample: _Sample, logs: Float[Tensor, "2 voxel"], derivatives: _Derivatives, gradient: Float[Tensor, "class voxel"]
) -> None:
    """Fill `gradient`, the derivative of the total with respect to the logits of one sample."""
    for piece in sample.pieces(logs.dtype):
        pooled = piece.logits[0].clone() if len(sample.classes.block) > 1 else None
        _replace_by_gradient(piece, sample.classes.num_rest, logs[:, piece.voxels], derivatives)
        part = gradient[:, piece.voxels]
        part.copy_(piece.logits.index_select(0, sample.classes.rows))
        if pooled is not None:
            shares = sample.background(piece.voxels, logs.dtype).sub_(pooled).exp_()
            part.index_copy_(0, sample.classes.block, shares.mul_(piece.logits[0]).to(part.dtype))


def _replace_by_gradient(piece: _Piece, num_rest: int, logs: Float[Tensor, "2 voxel"], of: _Derivatives) -> None:
    """Replace the logits of a piece by their derivatives; the formula of the module."""
    _, logits, row = piece
    (log_rest, log_all), rest, targets = logs, logits[:num_rest], logits[num_rest:]
    rest.sub_(log_rest).exp_()
    targets.sub_(log_all).exp_()
    rest_share = (log_rest - log_all).exp_()
    is_rest = row < num_rest
    own = logits.gather(0, row[None])[0].mul_(torch.where(is_rest, rest_share, 1.0))
    own.mul_(of.overlap.index_select(0, row))
    common = of.target - own - rest_share * torch.mv(rest.T, of.predicted[:num_rest])
    common.sub_(torch.mv(targets.T, of.predicted[num_rest:]))
    of_rest = is_rest * (of.auxiliary - of.target)
    rest.mul_(torch.addcmul(common * rest_share + of_rest, rest_share, of.predicted[:num_rest, None]))
    targets.mul_(common + of.predicted[num_rest:, None])
    logits.scatter_add_(0, row[None], (own - of.target - of_rest)[None])
