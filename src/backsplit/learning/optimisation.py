"""Optimisers and learning rates as data: the paper's choice for each network."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from backsplit.errors import ConfigurationError
from backsplit.learning.networks import network_named

POLY_EXPONENT = 0.9  # nnU-Net's


@dataclass(frozen=True, slots=True)
class Optimisation:
    """An optimiser, and how its learning rate falls from epoch to epoch; JSON types only.

    Raises:
        ConfigurationError: a number that no optimiser can work with.
    """

    name: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    """Of the first epoch."""
    weight_decay: float
    """Added to the gradient by sgd and adam, decoupled from it by adamw."""
    eps: float = 1e-8
    """In the denominator of adam and adamw; sgd has none."""
    momentum: float = 0.0
    """Nesterov's, of sgd; adam and adamw keep PyTorch's betas."""
    decay: Literal["poly", "cosine"] = "poly"
    floor: float = 0.0
    """Learning rate that the decay ends at, one epoch after the last."""

    def __post_init__(self) -> None:
        if (
            not 0 <= self.floor < self.learning_rate
            or min(self.weight_decay, self.eps) < 0
            or not 0 <= self.momentum < 1
        ):
            raise ConfigurationError(
                f"learning rate {self.learning_rate}, floor {self.floor}, weight decay {self.weight_decay}, eps "
                f"{self.eps}, momentum {self.momentum}: expected 0 <= floor < learning rate, 0 <= momentum < 1 and no "
                "negative number"
            )


NNUNET = Optimisation("sgd", learning_rate=1e-2, weight_decay=3e-5, momentum=0.99)
BY_NAME: dict[str, Optimisation] = {
    "unet": NNUNET,
    "unet-2d": NNUNET,
    "resenc-m": NNUNET,
    "segresnet": Optimisation("adam", learning_rate=1e-4, weight_decay=1e-5, eps=1e-5),
    "swin-unetr": Optimisation("adamw", learning_rate=8e-4, weight_decay=1e-2, eps=1e-5, decay="cosine", floor=1e-6),
    "short": Optimisation("adamw", learning_rate=3e-3, weight_decay=1e-2),
}


def optimisation_of(name: str) -> Optimisation:
    """What a network is trained with in the paper; `short` gets any U-Net somewhere in hundreds of iterations.

    Raises:
        ConfigurationError: no network of that name.

    Source:
        Supplement D of Saluja et al., arXiv 2511.19394; `short` is ours.
    """
    return BY_NAME[name if name == "short" else network_named(name)]


def optimizer_of(optimisation: Optimisation, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A new optimiser of PyTorch, at the learning rate of the first epoch."""
    rate, decay = optimisation.learning_rate, optimisation.weight_decay
    if optimisation.name == "sgd":
        momentum = optimisation.momentum
        return torch.optim.SGD(parameters, rate, weight_decay=decay, momentum=momentum, nesterov=momentum > 0)
    kind = torch.optim.Adam if optimisation.name == "adam" else torch.optim.AdamW
    return kind(parameters, rate, eps=optimisation.eps, weight_decay=decay)


def learning_rate_at(optimisation: Optimisation, epoch: int, num_epochs: int) -> float:
    r"""Learning rate of an epoch, a function of nothing but its number.

    With $t$ the epoch's share of all, $f + (l - f) (1 - t)^{0.9}$ for `poly`, nnU-Net's PolyLRScheduler where $f = 0$,
    and $f + (l - f) (1 + \cos \pi t) / 2$ for `cosine`, PyTorch's CosineAnnealingLR.

    Args:
        optimisation: learning rate $l$, floor $f$ and decay.
        epoch: 0 for the first; the floor from `num_epochs` on.
        num_epochs: of the whole training, 1 or more.
    """
    share = min(epoch / num_epochs, 1.0)
    left = (1 - share) ** POLY_EXPONENT if optimisation.decay == "poly" else (1 + math.cos(math.pi * share)) / 2
    return optimisation.floor + (optimisation.learning_rate - optimisation.floor) * left


@dataclass(frozen=True, slots=True)
class EpochScheduler:
    """Sets the learning rate of an epoch when told its number, as nnU-Net's trainer does at the start of each.

    It has no state, so a resumed training needs none restored: the first call after it is told the right number.
    """

    optimisation: Optimisation
    optimizer: torch.optim.Optimizer
    num_epochs: int

    def step(self, current_step: int) -> None:
        """Set the learning rate of all parameter groups to that of this epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.optimisation, current_step, self.num_epochs)

    def get_last_lr(self) -> list[float]:
        """Learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]


def scheduler_of(optimisation: Optimisation, optimizer: torch.optim.Optimizer, num_epochs: int) -> EpochScheduler:
    """A scheduler for nnU-Net's `self.lr_scheduler`; the optimiser is at the rate of the first epoch afterwards."""
    scheduler = EpochScheduler(optimisation, optimizer, num_epochs)
    scheduler.step(0)
    return scheduler
