r"""Cross-entropy and soft Dice, each split into a target part and an auxiliary part.

With $Y$ the fine label and $Z = g(Y)$ the target label (targets kept, everything else "rest"), the chain rule gives
$CE(Y) = CE(Z) + CE(Y \mid Z)$: the fine cross-entropy is the one of binary training on pooled logits plus what it
takes to name the rest. The loss weighs the two:

$L = CE(Z) + \lambda\, CE(Y \mid Z) - w\, Dice(target) - \mu\, mean\, Dice(auxiliary)$

Source: Saluja et al., arXiv 2511.19394, section 3 (the coarsening $Z = g(Y)$) and 4.2 (Dice and cross-entropy of
nnU-Net); the weights are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, distributed, nn

from backsplit.errors import LabelError
from backsplit.learning.marginal import MarginalSums, marginal_sums, sums_of_annotated
from backsplit.learning.voxelgroups import sample_classes

SMOOTH = 1e-5  # added to numerator and denominator of the soft Dice, as in nnU-Net's trainer

Preset = Literal["target-first", "paper", "curriculum", "annealed"]


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss; the cross-entropy of the target has weight 1."""

    auxiliary_cross_entropy: float
    """lambda, 0 or more."""
    target_dice: float
    """w, 0 or more."""
    auxiliary_dice: float
    """mu, 0 or more."""

    @classmethod
    def preset(cls, name: Preset, *, num_targets: int, num_classes: int) -> "LossWeights":
        """The weights of a named loss at the start of a training; `Schedule.preset` says how they change.

        Args:
            name: `paper` is nnU-Net's Dice and cross-entropy on the fine classes, where every foreground class has
                the same share of the Dice term. `target-first` gives the targets the weight that they have in binary
                training and 0.3 to the auxiliary part, so that a short training does not spend itself on large organs.
                `curriculum` has the same weights and brings auxiliaries in one after another. `annealed` begins with
                1 for all parts and ends with none for the auxiliary ones.
            num_targets: T, 1 or more.
            num_classes: K, background included; K = T + 1 means that there is no auxiliary part.
        """
        if name in {"target-first", "curriculum"}:
            return cls(auxiliary_cross_entropy=0.3, target_dice=1.0, auxiliary_dice=0.3)
        if name == "annealed":
            return cls(auxiliary_cross_entropy=1.0, target_dice=1.0, auxiliary_dice=1.0)
        share = num_targets / (num_classes - 1)
        return cls(auxiliary_cross_entropy=1.0, target_dice=share, auxiliary_dice=1 - share)


class LossParts(NamedTuple):
    """The parts of the loss before weighting, each a scalar tensor; Dice parts are scores in 0 to 1."""

    cross_entropy_target: Tensor
    cross_entropy_auxiliary: Tensor
    dice_target: Tensor
    dice_auxiliary: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """The loss to minimise."""
        return (
            self.cross_entropy_target
            + weights.auxiliary_cross_entropy * self.cross_entropy_auxiliary
            - weights.target_dice * self.dice_target
            - weights.auxiliary_dice * self.dice_auxiliary
        )


class SplitLoss(nn.Module):
    """The loss of every arm, for one output or for the outputs of deep supervision.

    With the weights of `paper` it equals nnU-Net's `DC_and_CE_loss` with `MemoryEfficientSoftDiceLoss`; without
    auxiliary classes, or with both auxiliary weights at 0, it is binary training on pooled logits.
    """

    def __init__(
        self,
        *,
        num_targets: int,
        weights: LossWeights,
        scale_weights: Sequence[float] = (1.0,),
        batch_dice: bool,
        ignore: int | None = None,
    ) -> None:
        """Fix what does not change while training.

        Args:
            num_targets: T; logits have T + 1 channels or more, targets at 1 to T.
            weights: of the parts.
            scale_weights: one per output of deep supervision, finest first, sum 1; an output of weight 0 is skipped.
            batch_dice: sum overlaps over the batch before dividing, instead of one Dice per sample.
            ignore: label of voxels that nobody annotated. What such a voxel tells is the coarsening to one class, whose
                likelihood is 1, so it takes no part; None where there are none, which is faster.
        """
        super().__init__()
        self.num_targets = num_targets
        self.weights = weights
        self.scale_weights = tuple(scale_weights)
        self.batch_dice = batch_dice
        self.ignore = ignore

    def forward(
        self,
        logits: Tensor | Sequence[Tensor],
        labels: Tensor | Sequence[Tensor],
        annotated: Bool[Tensor, "batch class"] | None = None,
    ) -> LossParts:
        """Parts of the loss, averaged over the outputs by `scale_weights`; differentiable once.

        Args:
            logits: `(batch, class, *spatial)`, 2D or 3D, any float type; a sequence under deep supervision.
            labels: `(batch, 1, *spatial)`, class indices of any integer or float type, each in 0 to K - 1.
            annotated: which classes each sample tells from background; background and targets always. The rest is one
                block with background, and where a label names a class of the block, it means the block. None is all.
                Best on the CPU: it is read there, and a GPU would be waited for.

        Raises:
            LabelError: `annotated` does not have a column per class, or leaves out background or a target.
            IndexError: a label outside 0 to K - 1 (on a GPU: CUDA's device-side assertion).
        """
        if isinstance(logits, Tensor) and isinstance(labels, Tensor):
            return self._parts([logits], [labels], annotated, (1.0,))
        scales = zip(self.scale_weights, logits, labels, strict=True)
        weights, logits, labels = zip(*(scale for scale in scales if scale[0]), strict=True)
        return self._parts(logits, labels, annotated, weights)

    def _parts(
        self,
        logits: Sequence[Float[Tensor, "batch class ..."]],
        labels: Sequence[Num[Tensor, "batch 1 ..."]],
        annotated: Bool[Tensor, "_ _"] | None,
        scale_weights: Sequence[float],
    ) -> LossParts:
        told_apart = self._told_apart(logits[0], annotated)
        device = logits[0].device
        classes = [sample_classes(one, num_targets=self.num_targets, device=device) for one in told_apart]
        if self.ignore is None:
            sums = marginal_sums(logits, labels, classes)
        else:
            sums = sums_of_annotated(logits, labels, classes, ignore=self.ignore)
        known = None if annotated is None else annotated[:, 1:].to(sums.predicted, non_blocking=True)
        dice_target, dice_auxiliary = self._soft_dice(sums, known)
        parts = (*sums.cross_entropies.unbind(1), dice_target, dice_auxiliary)
        return LossParts(*(_weighted(part, scale_weights) for part in parts))

    def _told_apart(self, logits: Tensor, annotated: Tensor | None) -> list[tuple[bool, ...]]:
        batch, num_classes = logits.shape[:2]
        if annotated is None:
            return [(True,) * num_classes] * batch
        if annotated.shape != (batch, num_classes):
            raise LabelError(
                f"`annotated` has shape {tuple(annotated.shape)}; {batch} samples of {num_classes} classes need "
                f"{(batch, num_classes)}"
            )
        told_apart = [tuple(sample) for sample in annotated.tolist()]
        if not all(all(sample[: self.num_targets + 1]) for sample in told_apart):
            raise LabelError(
                f"`annotated` leaves out background or a target (classes 0 to {self.num_targets}): {told_apart}; "
                "only auxiliaries may be missing"
            )
        return told_apart

    def _soft_dice(self, sums: MarginalSums, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean soft Dice of the targets, and of the annotated auxiliaries or 0 without; one per output."""
        _, overlap, predicted, reference = sums
        known = torch.ones_like(reference) if known is None else known.expand_as(reference)
        if self.batch_dice:
            totals = torch.stack((overlap, predicted, reference, known)).sum(2, keepdim=True)
            overlap, predicted, reference, known = _SumOverProcesses.apply(totals)
        dice = (2 * overlap + SMOOTH) / (reference + predicted + SMOOTH)
        targets, auxiliaries = dice.split((self.num_targets, dice.shape[-1] - self.num_targets), dim=-1)
        is_known = (known[..., self.num_targets :] > 0).to(dice.dtype)
        of_samples = (auxiliaries * is_known).sum(-1) / is_known.sum(-1).clamp_min(1)
        return targets.mean((1, 2)), of_samples.mean(1)


def _weighted(per_output: Float[Tensor, " output"], weights: Sequence[float]) -> Float[Tensor, ""]:
    """Weighted sum; plain numbers, so that a GPU is not waited for."""
    return torch.stack([weight * value for weight, value in zip(weights, per_output, strict=True)]).sum()


class _SumOverProcesses(torch.autograd.Function):
    """Sum over the processes of a distributed training; the identity outside of one.

    Every process adds the same term to its loss, and the gradients are averaged afterwards. So each passes on the
    gradient times the number of processes, and the average is the gradient of one process with the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # noqa: ANN401  torch's own
        is_distributed = distributed.is_available() and distributed.is_initialized()
        ctx.num_processes = distributed.get_world_size() if is_distributed else 1
        total = local.clone()
        if ctx.num_processes > 1:
            distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:  # noqa: ANN401  torch's own
        return upstream[0] * ctx.num_processes
