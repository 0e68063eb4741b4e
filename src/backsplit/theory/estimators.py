r"""Fisher information that labels carry about all parameters of a network, estimated with standard errors.

About the parameters labels inform by the mean over voxels of $J^\top F J$, with $J$ the derivative of a voxel's logits
and $F$ as in `backsplit.theory.fisher`. Along a direction $u$ that is a quadratic form, exact from one Jacobian-vector
product, for all coarsenings at once:

$$u^\top J^\top F J u = \sum_c q_c (\bar u_c - \bar u)^2,$$

the variance between blocks of $Ju$: $\bar u_c$ is its mean inside block $c$, $\bar u$ its mean over classes. With
random signs for $u$ the mean of the form is the trace.

Source:
    Hutchinson, A stochastic estimator of the trace of the influence matrix, Commun. Stat. Simul. Comput. 18(3), 1989.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from backsplit.errors import ConfigurationError
from backsplit.labels import Coarsening

Direction = Mapping[str, Tensor]
"""A value per parameter, by the parameter's name."""
Patch = Float[Tensor, "batch channel ..."]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over random directions."""

    value: float
    standard_error: float
    """Of the mean; about the directions alone, patches are taken as they are."""


def directional_information(
    network: nn.Module, patches: Sequence[Patch], direction: Direction, coarsenings: Sequence[Coarsening]
) -> Float[np.ndarray, " coarsenings"]:
    r"""Mean over voxels of $u^\top J^\top F J u$ for each coarsening; exact.

    Args:
        network: in evaluation mode, with one output of K classes.
        patches: of the network's device.
        direction: $u$.
        coarsenings: of the K classes; the identity gives the fine information.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    total, num_voxels = np.zeros(len(coarsenings)), 0
    for patch in patches:
        both = jvp(lambda values, taken=patch: _output(network, values, taken), (parameters,), (dict(direction),))
        p, change = both[0].cpu().double().softmax(dim=1), both[1].cpu().double()
        total += [float(_between_blocks(p, change, each)) for each in coarsenings]
        num_voxels += p[:, 0].numel()
    return total / num_voxels


def traces(
    network: nn.Module, patches: Sequence[Patch], coarsenings: Sequence[Coarsening], *, num_probes: int, seed: int
) -> list[Estimate]:
    """Trace of the information about all parameters, mean over voxels, for each coarsening.

    The same directions serve all coarsenings, so that their estimates keep the order of the information.

    Args:
        network: as for `directional_information`.
        patches: likewise.
        coarsenings: likewise.
        num_probes: random directions, 2 or more.
        seed: of the directions.

    Raises:
        ConfigurationError: fewer than 2 directions, which have no standard error.
    """
    if num_probes < 2:
        raise ConfigurationError(f"a standard error needs 2 random directions or more, got {num_probes}")
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        directional_information(network, patches, _random_signs(network, generator), coarsenings)
        for _ in range(num_probes)
    ]
    errors = np.std(drawn, axis=0, ddof=1) / np.sqrt(num_probes)
    return [Estimate(float(mean), float(error)) for mean, error in zip(np.mean(drawn, axis=0), errors, strict=True)]


def target_direction(
    network: nn.Module, patch: Patch, target: int, where: Float[Tensor, "batch ..."]
) -> dict[str, Tensor]:
    """Gradient of the target's mean posterior over some voxels, about all parameters, by one vector-Jacobian product.

    Args:
        network: as for `directional_information`.
        patch: of the network's device.
        target: class.
        where: weight of each voxel of the patch; the mean is weighted by it.
    """
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    both = vjp(lambda values: _output(network, values, patch).softmax(dim=1), parameters)
    cotangent = torch.zeros_like(both[0])
    cotangent[:, target] = where / where.sum()
    return both[1](cotangent)[0]


def _output(network: nn.Module, parameters: Direction, patch: Patch) -> Tensor:
    """What the network puts out with other parameters.

    `tie_weights` would leave networks changed that hold a module under two names, as those of nnU-Net do (torch 2.13).
    """
    return functional_call(network, dict(parameters), (patch,), tie_weights=False)


def _between_blocks(p: Tensor, change: Tensor, coarsening: Coarsening) -> Tensor:
    """Sum over voxels of the variance between blocks; classes along axis 1."""
    mean, total = (p * change).sum(dim=1), torch.zeros((), dtype=p.dtype, device=p.device)
    for block in coarsening.blocks:
        inside = p[:, list(block)]
        mass = inside.sum(dim=1)
        within = (inside * change[:, list(block)]).sum(dim=1) / mass.clamp_min(torch.finfo(p.dtype).tiny)
        total += (mass * (within - mean) ** 2).sum()
    return total


def _random_signs(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Made on the CPU, so that a seed means the same on every device."""
    return {
        name: (torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1)
        for name, value in network.named_parameters()
    }
