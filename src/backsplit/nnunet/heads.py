"""The linear map from features to logits that ends a network, cut off so that it can come after averaging."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor, nn


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
    candidates = {name: module for name, module in folds[0].named_modules() if _is_short(module, num_classes)}
    name = _last_layer(folds[0], candidates, example) if candidates else None
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


def _is_short(module: nn.Module, num_classes: int) -> bool:
    """Whether a layer maps channels to the classes, voxel by voxel, and they are less than half as many."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d) or module.out_channels != num_classes:
        return False
    is_pointwise = set(module.kernel_size) == set(module.stride) == {1} and module.groups == 1
    return is_pointwise and 2 * module.in_channels < num_classes


@torch.inference_mode()
def _last_layer(network: nn.Module, candidates: dict[str, nn.Module], example: Tensor) -> str | None:
    """Which of the layers puts out what the network puts out; found by running it."""
    made: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: made.update({name: output}))
        for name, module in candidates.items()
    ]
    output = network(example)
    for hook in hooks:
        hook.remove()
    return next((name for name, of_layer in made.items() if of_layer is output), None)
