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
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

SMOOTH = 1e-5  # added to numerator and denominator of the soft Dice, as in nnU-Net's trainer

Preset = Literal["target-first", "paper"]


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
        """The weights of a named loss.

        Args:
            name: `paper` is nnU-Net's Dice and cross-entropy on the fine classes, where every foreground class has
                the same share of the Dice term. `target-first` gives the targets the weight that they have in binary
                training and 0.3 to the auxiliary part, so that a short training does not spend itself on large organs.
            num_targets: T, 1 or more.
            num_classes: K, background included; K = T + 1 means that there is no auxiliary part.
        """
        if name == "target-first":
            return cls(auxiliary_cross_entropy=0.3, target_dice=1.0, auxiliary_dice=0.3)
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
        self, *, num_targets: int, weights: LossWeights, scale_weights: Sequence[float] = (1.0,), batch_dice: bool
    ) -> None:
        """Fix what does not change while training.

        Args:
            num_targets: T; logits have T + 1 channels or more, targets at 1 to T.
            weights: of the parts.
            scale_weights: one per output of deep supervision, finest first, sum 1; an output of weight 0 is skipped.
            batch_dice: sum overlaps over the batch before dividing, instead of one Dice per sample.
        """
        super().__init__()
        self.num_targets = num_targets
        self.weights = weights
        self.scale_weights = tuple(scale_weights)
        self.batch_dice = batch_dice

    def forward(self, logits: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor]) -> LossParts:
        """Parts of the loss, averaged over the outputs by `scale_weights`.

        Args:
            logits: `(batch, class, *spatial)`, 2D or 3D, any float type; a sequence under deep supervision.
            labels: `(batch, 1, *spatial)`, class indices of any integer or float type, each in 0 to K - 1.
        """
        if isinstance(logits, Tensor) and isinstance(labels, Tensor):
            return self.parts(logits, labels)
        scales = [
            torch.stack(self.parts(scale, target)) * weight
            for weight, scale, target in zip(self.scale_weights, logits, labels, strict=True)
            if weight
        ]
        return LossParts(*torch.stack(scales).sum(0))

    def parts(
        self,
        logits: Float[Tensor, "batch class *spatial"],
        labels: Float[Tensor, "batch 1 *spatial"] | Integer[Tensor, "batch 1 *spatial"],
    ) -> LossParts:
        """Parts of the loss of one output, in float32."""
        logits, labels = logits.float(), labels.long()
        log_sum = torch.logsumexp(logits, dim=1, keepdim=True)
        ce_target, ce_auxiliary = self._cross_entropies(logits, log_sum, labels)
        dice = self._soft_dice((logits - log_sum).exp(), labels)
        dice_target, dice_auxiliary = dice[..., : self.num_targets], dice[..., self.num_targets :]
        no_auxiliary = dice_target.new_zeros(())
        return LossParts(
            ce_target,
            ce_auxiliary,
            dice_target.mean(),
            dice_auxiliary.mean() if dice_auxiliary.shape[-1] else no_auxiliary,
        )

    def _cross_entropies(self, logits: Tensor, log_sum: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        rest = torch.cat((logits[:, :1], logits[:, self.num_targets + 1 :]), dim=1)
        log_rest = torch.logsumexp(rest, dim=1, keepdim=True)
        picked = logits.gather(1, labels)
        is_rest = (labels == 0) | (labels > self.num_targets)
        target = log_sum - torch.where(is_rest, log_rest, picked)
        auxiliary = torch.where(is_rest, log_rest - picked, torch.zeros_like(picked))
        return target.mean(), auxiliary.mean()

    def _soft_dice(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Soft Dice of the foreground classes, `(batch, class - 1)`, or `(class - 1,)` with `batch_dice`."""
        axes = tuple(range(2, probabilities.ndim))
        foreground = probabilities[:, 1:]
        with torch.no_grad():
            classes = torch.arange(1, probabilities.shape[1], device=labels.device)
            is_class = labels == classes.view(1, -1, *(1 for _ in axes))
            reference = is_class.sum(axes, dtype=torch.float32)
        overlap = (foreground * is_class).sum(axes)
        predicted = foreground.sum(axes)
        if self.batch_dice:
            overlap, predicted, reference = overlap.sum(0), predicted.sum(0), reference.sum(0)
        return (2 * overlap + SMOOTH) / (reference + predicted + SMOOTH)
