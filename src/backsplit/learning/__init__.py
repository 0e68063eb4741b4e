"""What a network is trained on: losses over a label scheme. Networks as PyTorch modules, no nnU-Net."""

from backsplit.learning.losses import LossParts, LossWeights, SplitLoss
from backsplit.learning.schedules import Schedule

__all__ = ["LossParts", "LossWeights", "Schedule", "SplitLoss"]
