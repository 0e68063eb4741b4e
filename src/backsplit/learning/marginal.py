r"""What the loss needs from the voxels, and its gradient, in one pass each.

For a voxel with logits $l$, log $L$ of their summed exponentials, and $L_R$ the same over the rest $R$ (all but the
targets): $p_k = e^{l_k - L}$, and within the rest $q_k = e^{l_k - L_R}$, which does not vanish where a target is
certain. Auxiliaries that a sample does not tell apart are pooled with background first, so that they are one class.

With $a_k, b_k$ the derivatives of the total with respect to the summed probability and the overlap of class $k$,
$c_1, c_2$ those with respect to the two cross-entropies of the voxel, $y$ its class and $s = \sum_j a_j p_j + b_y p_y$,
the derivative with respect to $l_k$ is

$p_k (c_1 + a_k - s) + [y \in R]\,[k \in R]\,(c_2 - c_1)\, q_k + [k = y]\,(b_y p_y - c_y)$,

where $c_y$ is $c_2$ for a voxel of the rest and $c_1$ for one of a target. Logarithms are binary inside, because powers
of 2 are faster than those of e. Where background and one target are all there is, the sigmoid of their difference says
it: $p_1 = \sigma(l_1 - l_0)$.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, softplus

from backsplit.learning.voxelgroups import LOG_2, SampleClasses, VoxelGroup, voxel_groups

LANES = 256  # accumulators per class, so that sums keep their digits and GPU threads do not queue at one address
OVERLAP, PREDICTED, REFERENCE = range(3)


class MarginalSums(NamedTuple):
    """What the voxels of each output tell the loss. Classes that a sample does not tell apart have zeros."""

    cross_entropies: Float[Tensor, "output 2"]
    """CE(Z), of the target, and CE(Y|Z), of the auxiliaries; means over all voxels."""
    overlap: Float[Tensor, "output batch foreground"]
    """Sum of a class's probability over the voxels labelled with it."""
    predicted: Float[Tensor, "output batch foreground"]
    """Sum of a class's probability over all voxels."""
    reference: Float[Tensor, "output batch foreground"]
    """Number of voxels labelled with the class; it has no gradient."""


def marginal_sums(
    logits: Sequence[Float[Tensor, "batch class ..."]],
    labels: Sequence[Num[Tensor, "batch 1 ..."]],
    classes: Sequence[SampleClasses],
) -> MarginalSums:
    """Cross-entropies, and the sums that soft Dice is made of; float64 for float64 logits, else float32.

    Beside its results it keeps up to three numbers per voxel for the gradient, which comes in the type of the logits.
    It has no second derivative.

    Args:
        logits: one tensor per output of the network, any float type.
        labels: one tensor per output; class indices, each in 0 to K - 1.
        classes: one per sample.

    Raises:
        IndexError: a label outside 0 to K - 1 (on a GPU: CUDA's device-side assertion).
    """
    return MarginalSums(*_MarginalSums.apply(tuple(classes), tuple(labels), *logits))


def sums_of_annotated(
    logits: Sequence[Float[Tensor, "batch class ..."]],
    labels: Sequence[Num[Tensor, "batch 1 ..."]],
    classes: Sequence[SampleClasses],
    *,
    ignore: int,
) -> MarginalSums:
    """The same without the voxels of one label; cross-entropies are means over the others, 0 where there are none."""
    of_outputs = [_sums_of_one(*pair, classes, ignore) for pair in zip(logits, labels, strict=True)]
    return MarginalSums(*(torch.stack(parts) for parts in zip(*of_outputs, strict=True)))


def _sums_of_one(logits: Tensor, labels: Tensor, classes: Sequence[SampleClasses], ignore: int) -> list[Tensor]:
    """Of one output; samples keep different numbers of voxels, so each is summed up by itself."""
    found, numbers = [], []
    for sample, kind in enumerate(classes):
        is_kept = labels[sample, 0].flatten() != ignore
        kept_logits = logits[sample].flatten(1)[:, is_kept][None]
        kept_labels = labels[sample].flatten(1)[:, is_kept][None]
        numbers.append(kept_labels.numel())
        found.append([part[0] for part in marginal_sums([kept_logits], [kept_labels], [kind])])
    share = torch.tensor(numbers, dtype=found[0][0].dtype, device=logits.device) / max(sum(numbers), 1)
    entropies = torch.stack([each[0] for each in found]).nan_to_num()  # the mean over no voxel
    return [share @ entropies, *(torch.cat([each[part] for each in found]) for part in (1, 2, 3))]


class _MarginalSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's own
        classes: tuple[SampleClasses, ...],
        labels: tuple[Tensor, ...],
        *logits: Tensor,
    ) -> tuple[Tensor, ...]:
        dtype = torch.float64 if logits[0].dtype == torch.float64 else torch.float32
        entropies = logits[0].new_zeros((len(logits), 2), dtype=dtype)
        sums = logits[0].new_zeros((3, len(logits), *logits[0].shape[:2]), dtype=dtype)
        kept: list[Tensor] = []
        with torch.autocast(logits[0].device.type, enabled=False):
            for output, pair in enumerate(zip(logits, labels, strict=True)):
                for group in voxel_groups(*pair, classes):
                    add = _add_two_classes if len(group.classes.channels) == 2 else _add_classes
                    kept += add(group, entropies[output], sums[:, output, group.samples])
                entropies[output] /= labels[output].numel()
        ctx.save_for_backward(*logits, *labels, *kept)
        ctx.classes = classes
        overlap, predicted, reference = (part[..., 1:].contiguous() for part in sums)
        ctx.mark_non_differentiable(reference)
        return entropies, overlap, predicted, reference

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  torch's own
        entropies, overlap, predicted, _ = upstream
        num_outputs = len(entropies)
        logits, labels = ctx.saved_tensors[:num_outputs], ctx.saved_tensors[num_outputs : 2 * num_outputs]
        kept = iter(ctx.saved_tensors[2 * num_outputs :])
        overlap, predicted = pad(overlap, (1, 0)), pad(predicted, (1, 0))
        gradients = [torch.empty_like(scale, memory_format=torch.contiguous_format) for scale in logits]
        with torch.autocast(logits[0].device.type, enabled=False):
            for output, gradient in enumerate(gradients):
                per_voxel = entropies[output] / labels[output].numel()
                for group in voxel_groups(logits[output], labels[output], ctx.classes):
                    of = _Derivatives(*per_voxel, group.of_rows(overlap[output]), group.of_rows(predicted[output]))
                    part = gradient.flatten(2)[group.samples, :, group.voxels]
                    if len(group.classes.channels) == 2:
                        _two_class_gradient(group, next(kept), of, part)
                    else:
                        _gradient(group, (next(kept), next(kept), next(kept)), of, part)
        return None, None, *gradients


class _Derivatives(NamedTuple):
    """Of the total, with respect to both cross-entropies of a voxel and to the sums of each row."""

    target: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""]
    overlap: Float[Tensor, "sample row"]
    predicted: Float[Tensor, "sample row"]


# --- any number of classes ----------------------------------------------------------------------------------------


def _add_classes(
    group: VoxelGroup, entropies: Float[Tensor, "2"], sums: Float[Tensor, "3 sample class"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Add to cross-entropies and sums; return L_R, L and the probability of the label, for the gradient."""
    channels, num_rest = group.classes.channels, group.classes.num_rest
    logits, row = group.by_row(), group.row_of_label()
    rest, targets = logits[:, :num_rest], logits[:, num_rest:]
    picked = logits.gather(1, row[:, None])[:, 0]
    rest_peak, log_rest = _exponentiate(rest)
    targets_peak, log_targets = _exponentiate(targets)
    log_all = torch.logaddexp2(log_rest, log_targets)
    rest.mul_(rest_peak.sub_(log_all).exp2_()[:, None])
    targets.mul_(targets_peak.sub_(log_all).exp2_()[:, None])
    sums[PREDICTED].index_add_(1, channels, logits.sum(2))
    fine = log_all - picked
    probability = fine.neg().exp2_()
    if num_rest > 1:
        auxiliary = _where_rest(log_rest - picked, group)
        entropies[1].add_(auxiliary.sum(), alpha=LOG_2)
        fine -= auxiliary
    entropies[0].add_(fine.sum(), alpha=LOG_2)
    bins = logits.new_zeros((2, len(row) * len(channels) * LANES))
    lane = torch.add(_lanes(row.shape, len(channels), row.device), row, alpha=LANES).flatten()
    bins[0].scatter_add_(0, lane, probability.flatten())
    bins[1].scatter_add_(0, lane, bins.new_ones(()).expand(len(lane)))
    sums[::2].index_add_(2, channels, bins.view(2, len(row), len(channels), LANES).sum(-1))
    return log_rest, log_all, probability


def _where_rest(value: Tensor, group: VoxelGroup) -> Float[Tensor, "sample voxel"]:
    """The value where the label is no target, else 0."""
    return torch.addcmul(value, value, group.is_target(), value=-1)


def _exponentiate(logits: Float[Tensor, "sample row voxel"]) -> tuple[Tensor, Tensor]:
    """Replace logits by 2^(logits - peak); the peak, and the binary logarithm of the summed 2^logits."""
    if logits.shape[1] == 1:
        peak = logits[:, 0].clone()
        logits.fill_(1)
        return peak, peak.clone()
    peak = logits.amax(1)
    logits.sub_(peak[:, None]).exp2_()
    return peak, logits.sum(1).log2_().add_(peak)


@lru_cache(maxsize=32)
def _lanes(shape: tuple[int, int], num_rows: int, device: torch.device) -> Int64[Tensor, "sample voxel"]:
    """Where the accumulators of each sample start, plus one of them for each voxel in turn."""
    voxel = torch.arange(shape[1], device=device).bitwise_and_(LANES - 1)
    return torch.arange(shape[0], device=device)[:, None] * (num_rows * LANES) + voxel


def _gradient(
    group: VoxelGroup,
    kept: tuple[Tensor, Tensor, Tensor],
    of: _Derivatives,
    gradient: Float[Tensor, "sample class voxel"],
) -> None:
    """Fill `gradient`; the formula of the module."""
    (log_rest, log_all, probability), num_rest = kept, group.classes.num_rest
    logits, row = group.by_row(), group.row_of_label()
    rest, targets = logits[:, :num_rest], logits[:, num_rest:]
    rest.sub_(log_rest[:, None]).exp2_()
    targets.sub_(log_all[:, None]).exp2_()
    rest_share = (log_rest - log_all).exp2_()
    own = of.overlap.gather(1, row).mul_(probability)
    of_rest, of_targets = of.predicted[:, :num_rest], of.predicted[:, num_rest:]
    common = (of.target - own).sub_(_weighted_sum(targets, of_targets))
    common.addcmul_(rest_share, _weighted_sum(rest, of_rest), value=-1)
    extra = _where_rest(of.auxiliary - of.target, group)
    of_whole_rest = torch.addcmul(extra, common, rest_share)
    rest.mul_(torch.addcmul(of_whole_rest[:, None], rest_share[:, None], of_rest[..., None]))
    targets.mul_(common[:, None] + of_targets[..., None])
    logits.scatter_add_(1, row[:, None], own.sub_(extra).sub_(of.target)[:, None])
    for run, channels in group.classes.runs:
        gradient[:, channels] = logits[:, run]
    _share_background(group, logits[:, num_rest - 1], gradient)


def _weighted_sum(
    rows: Float[Tensor, "sample row voxel"], weights: Float[Tensor, "sample row"]
) -> Float[Tensor, "sample voxel"]:
    return torch.stack([torch.mv(sample.T, weight) for sample, weight in zip(rows, weights, strict=True)])


def _share_background(
    group: VoxelGroup, of_background: Float[Tensor, "sample voxel"], gradient: Float[Tensor, "sample class voxel"]
) -> None:
    """Give each channel of the background block its share of what the pooled logit gets."""
    if len(group.classes.block) > 1:
        shares = group.background().softmax(1).mul_(of_background[:, None])
        gradient.index_copy_(1, group.classes.block, shares.to(gradient.dtype))


# --- background and one target ------------------------------------------------------------------------------------


def _add_two_classes(
    group: VoxelGroup, entropies: Float[Tensor, "2"], sums: Float[Tensor, "3 sample class"]
) -> tuple[Tensor]:
    """Add to cross-entropies and sums; return the probability of the target, for the gradient."""
    target = group.logits[:, 1].to(group.dtype)
    if len(group.classes.block) > 1:
        difference = target - group.background().logsumexp(1)
    else:
        difference = target - group.logits[:, 0]
    is_target = group.is_target()
    probability = difference.sigmoid()
    sums[:, :, 1] += torch.stack(((probability * is_target).sum(1), probability.sum(1), is_target.sum(1)))
    against = torch.addcmul(difference, difference, is_target, value=-2)  # the logit of the wrong answer
    entropies[0] += softplus(against, threshold=40).sum()
    return (probability,)


def _two_class_gradient(
    group: VoxelGroup, probability: Tensor, of: _Derivatives, gradient: Float[Tensor, "sample class voxel"]
) -> None:
    """Fill `gradient`: (p - y) c_1 + p (1 - p) (a_1 + b_1 y) for the target, its negative for background."""
    is_target = group.is_target()
    of_target = torch.addcmul(of.predicted[:, 1:], of.overlap[:, 1:], is_target).mul_(probability)
    of_target.addcmul_(of_target, probability, value=-1)
    of_target.addcmul_(probability - is_target, of.target)
    gradient[:, 1] = of_target
    gradient[:, 0] = of_target.neg_()
    _share_background(group, of_target, gradient)
