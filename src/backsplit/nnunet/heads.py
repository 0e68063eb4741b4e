"""The linear map from features to logits that ends a network, cut off so that it can come after averaging."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from backsplit.theory.last_layer import name_of_last_layer


@dataclass(frozen=True, slots=True)
class Head:
    """The linear maps that end the networks of all folds, side by side: averaged features to averaged logits."""

    weight: Float32[Tensor, "classes features"]
    bias: Float32[Tensor, " classes"]


def take_heads(folds: Sequence[nn.Module], example: Tensor, num_classes: int) -> Head | None:
    """Cut off what maps features to logits, if features in single precision are smaller than logits in half.

    Returns:
        The maps as one, which averages over the folds, too; None where nothing was cut off.
    """
    name = name_of_last_layer(
        folds[0], example, lambda layer: layer.out_channels == num_classes > 2 * layer.in_channels
    )
    if name is None:
        return None
    weights, biases = zip(*(_map_of(fold, name) for fold in folds), strict=True)
    for fold in folds:
        fold.set_submodule(name, nn.Identity())
    return Head(torch.cat(weights, dim=1) / len(folds), torch.stack(biases).mean(0))


def _map_of(network: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    weights = dict(network.get_submodule(name).named_parameters())
    weight = weights["weight"].detach().flatten(1).float()
    return weight, weights["bias"].detach().float() if "bias" in weights else weight.new_zeros(len(weight))
