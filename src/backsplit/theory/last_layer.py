r"""Fisher information that labels carry about the last layer of a network, exactly, summed over voxels.

A network ends in a 1x1 convolution: the logits of a voxel are $z = W h$, with $H$ features $h$, the last of which is 1
(the bias). About $W$, class after class in one vector, the label of a voxel informs by $F \otimes h h^\top$, where $F$
is the $K \times K$ matrix of `backsplit.theory.fisher`. That matrix is a sum over pairs,

$$F = \sum_{j<k} p_j p_k (e_j - e_k)(e_j - e_k)^\top,$$

so all of it stands in the off-diagonal blocks of one Gram matrix of $p_j h$, and no difference of nearly equal numbers
is taken. What a coarsening loses is the same inside each of its blocks, with $p_j p_k / q_c$. Nothing of size
$K \times K$ or $H \times H$ exists per voxel: voxels go through in pieces that fit a cache.

Source:
    Saluja et al., arXiv 2511.19394, section 3; the Kronecker form of a linear layer is that of Martens and Grosse,
    Optimizing neural networks with Kronecker-factored approximate curvature, ICML 2015, without their approximation.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from backsplit.errors import LabelError, ModelError
from backsplit.labels import Coarsening

Matrix = Float[np.ndarray, "weights weights"]
"""About the weights, or some classes' weights: index `k * H + i` is feature `i` of class `k`."""
Block = tuple[int, ...]
Sums = Mapping[Block, Float[np.ndarray, "_ _"]]
"""Information inside blocks of classes, summed over voxels; that inside the block of all classes is the fine one."""
PIECE_BYTES = {"cpu": 2**21, "cuda": 2**28}
"""Of the products $p_j h$ that exist at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Voxels:
    """What the last layer took and what came of it, at some voxels."""

    features: Float[Tensor, "features voxels"]
    """Without the 1 of the bias."""
    probabilities: Float[Tensor, "classes voxels"]
    weights: Float[Tensor, " voxels"] | None = None
    """How many voxels each stands for; None means itself."""

    @property
    def num_classes(self) -> int:
        """K."""
        return self.probabilities.shape[0]

    @property
    def counts(self) -> Float[Tensor, " voxels"]:
        """How many voxels each stands for."""
        return torch.ones_like(self.probabilities[0]) if self.weights is None else self.weights

    def where(self, chosen: Tensor) -> "Voxels":
        """Some of the voxels, by index or mask."""
        weights = None if self.weights is None else self.weights[chosen]
        return Voxels(self.features[:, chosen], self.probabilities[:, chosen], weights)


def find_last_layer(network: nn.Module, patch: Float[Tensor, "batch channel ..."]) -> nn.Module:
    """The 1x1 convolution whose output is that of the network.

    Args:
        network: ready to run, with one output.
        patch: something that it takes.

    Raises:
        ModelError: it ends in something else, or in a layer without bias.
    """
    name = name_of_last_layer(network, patch, lambda layer: layer.bias is not None)
    if name is None:
        raise ModelError(
            f"{type(network).__name__} does not end in a 1x1 convolution with bias, so the information about its last "
            "layer has no closed form here; use one of `backsplit train --network`"
        )
    return network.get_submodule(name)


@torch.no_grad()
def name_of_last_layer(
    network: nn.Module, patch: Float[Tensor, "batch channel ..."], is_meant: Callable[[nn.Conv2d | nn.Conv3d], bool]
) -> str | None:
    """Which of the 1x1 convolutions that are meant puts out what the network puts out.

    Found by running it on tensors that have shapes and no numbers, which takes neither time nor memory.

    Returns:
        None where none does.
    """
    made: dict[str, Tensor] = {}
    meant = [name for name, layer in network.named_modules() if _is_pointwise(layer) and is_meant(layer)]
    if not meant:
        return None
    shapes = _without_numbers(network)
    for name in meant:
        layer = shapes.get_submodule(name)
        layer.register_forward_hook(lambda _, __, output, name=name: made.update({name: output}))
    output = shapes(patch.to("meta"))
    return next((name for name, of_layer in made.items() if of_layer is output), None)


def _is_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d | nn.Conv3d]:
    is_convolution = isinstance(layer, nn.Conv2d | nn.Conv3d)
    return is_convolution and {*layer.kernel_size, *layer.stride, layer.groups} == {1}


def _without_numbers(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have shapes and no numbers."""
    tensors = (*network.parameters(), *network.buffers())
    return deepcopy(network, {id(tensor): _shape_of(tensor) for tensor in tensors})


def _shape_of(tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor.to("meta")) if isinstance(tensor, nn.Parameter) else tensor.to("meta")


def look(network: nn.Module, layer: nn.Module, patch: Float[Tensor, "batch channel ..."]) -> Voxels:
    """Run a network over a batch of patches, and keep what its last layer took and put out.

    Args:
        network: ready to run.
        layer: from `find_last_layer`.
        patch: of the device of the network.

    Returns:
        Voxels in the order of the batch and of its axes, in float32.

    Raises:
        ModelError: logits that are not finite.
    """
    taken: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    try:
        with torch.no_grad():
            logits = network(patch).float()
    finally:
        hook.remove()
    if not torch.isfinite(logits).all():
        raise ModelError("the network puts out numbers that are not finite; train it again, or in float32")
    return Voxels(_by_channel(taken[-1].float()), _by_channel(logits.softmax(dim=1)))


def _by_channel(values: Float[Tensor, "batch channel ..."]) -> Float[Tensor, "channel voxels"]:
    return values.transpose(0, 1).reshape(values.shape[1], -1)


def blocks_of(coarsenings: Iterable[Coarsening]) -> tuple[Block, ...]:
    """The blocks that `information` needs sums of; those of one class lose nothing."""
    coarsenings = tuple(coarsenings)
    merged = {block for each in coarsenings for block in each.blocks if len(block) > 1}
    return tuple(sorted(merged | {tuple(range(each.num_fine)) for each in coarsenings}))


def within_block(voxels: Voxels, block: Block) -> Matrix:
    r"""Information that tells the classes of a block apart, given the block, summed over voxels.

    It is $\sum_v \sum_{j<k} (p_j p_k / q)\, (e_j - e_k)(e_j - e_k)^\top \otimes h h^\top$, with $j, k$ in the block and
    $q$ the sum of its probabilities: all the fine information for the block of all classes, and what merging the block
    loses for any other (Proposition 1).

    Args:
        voxels: any number of them, weighted or not.
        block: classes, in increasing order.

    Returns:
        Symmetric positive semi-definite, in float64, of the weights of the classes of the block alone.

    Raises:
        LabelError: a class that the network does not put out.
    """
    if not block or not set(block) <= set(range(voxels.num_classes)):
        raise LabelError(f"block {block} is outside the classes 0 to {voxels.num_classes - 1} of the network")
    p = voxels.probabilities[list(block)]
    scale = p.sum(dim=0).clamp_min(torch.finfo(p.dtype).tiny).rsqrt()
    scale = scale if voxels.weights is None else scale * voxels.weights.sqrt()
    gram = _gram(p * scale, voxels.features)
    return _from_pairs(gram, len(block))


def target_gradients(voxels: Voxels, target: int) -> Matrix:
    r"""Gram matrix of the gradients of the target's posterior, summed over voxels.

    The gradient of $p_t$ about $W$ is $p_t (e_t - p) \otimes h$.

    Returns:
        Symmetric positive semi-definite, in float64, of all weights.
    """
    p = voxels.probabilities
    gradient = -p[target] * p
    gradient[target] += p[target]
    scaled = gradient if voxels.weights is None else gradient * voxels.weights.sqrt()
    return _gram(scaled, voxels.features).numpy()


def information(sums: Sums, coarsening: Coarsening) -> Matrix:
    """Information that coarse labels carry about the last layer, summed over the voxels of `sums`.

    Args:
        sums: of the blocks that `blocks_of` names for this coarsening.
        coarsening: of the classes of the network; the identity gives the fine information.

    Returns:
        Symmetric positive semi-definite up to rounding.
    """
    total = sums[tuple(range(coarsening.num_fine))].copy()
    num_features = len(total) // coarsening.num_fine
    for block in coarsening.blocks:
        if len(block) > 1:
            rows = np.add.outer(np.array(block) * num_features, np.arange(num_features)).ravel()
            total[np.ix_(rows, rows)] -= sums[block]
    return total


def of_logits(matrix: Matrix, num_classes: int) -> Float[np.ndarray, "classes classes"]:
    """Information about the logits, from that about the last layer: the part of the bias, whose feature is 1."""
    num_features = len(matrix) // num_classes
    return matrix[num_features - 1 :: num_features, num_features - 1 :: num_features].copy()


def _gram(scaled: Float[Tensor, "classes voxels"], features: Float[Tensor, "features voxels"]) -> Tensor:
    """Sum over voxels of the outer product of `scaled (x) (features, 1)` with itself, in float64 on the CPU."""
    num_rows, num_voxels = scaled.shape[0] * (features.shape[0] + 1), scaled.shape[1]
    step = max(64, PIECE_BYTES.get(scaled.device.type, 2**21) // (num_rows * scaled.element_size()))
    total = torch.zeros((num_rows, num_rows), dtype=torch.float64)  # here: not all devices have float64
    for start in range(0, num_voxels, step):
        left, right = scaled[:, start : start + step], features[:, start : start + step]
        product = torch.cat([left[:, None] * right, left[:, None]], dim=1).flatten(0, 1)
        total += (product @ product.T).cpu()
    return total


def _from_pairs(gram: Float[Tensor, "rows rows"], num_classes: int) -> Matrix:
    """Off-diagonal blocks with the sign turned; on the diagonal what makes the blocks of a row sum to 0."""
    blocks = gram.numpy().reshape(num_classes, -1, num_classes, len(gram) // num_classes)
    each = np.arange(num_classes)
    blocks[each, :, each] = 0
    diagonal = blocks.sum(axis=2)
    np.negative(blocks, out=blocks)
    blocks[each, :, each] = diagonal
    return blocks.reshape(len(gram), -1)
