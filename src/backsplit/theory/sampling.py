"""A few voxels that stand for all: weighted so that sums over them are without bias."""

from collections.abc import Sequence

import numpy as np
import torch

from backsplit.theory.last_layer import Voxels


def thinned(voxels: Voxels, size: int, generator: np.random.Generator) -> Voxels:
    r"""At most so many of the voxels, drawn with a chance that grows with their information, weighted; on the CPU.

    Any sum over voxels, weighted, is estimated without bias: about the weight $w_v$ and the share of information
    $t_v = w_v (1 - \sum_k p_k^2)$ the voxels of the largest $t_v / u_v$ are kept, $u_v$ uniform, and count
    $\max(1, \tau / t_v)$ times, $\tau$ the largest ratio that is left out. Voxels without information are left out.

    Source:
        Priority sampling: Duffield, Lund and Thorup, Priority sampling for estimation of arbitrary subset sums, J. ACM
        54(6), 2007.
    """
    p, weights = voxels.probabilities, voxels.counts
    share = (weights * (1 - (p**2).sum(dim=0))).clamp_min(0).cpu().double().numpy()
    ratio = share / (1 - generator.random(share.size))
    order = np.argsort(-ratio, kind="stable")
    kept = torch.from_numpy(np.sort(order[:size][ratio[order[:size]] > 0]))
    threshold = ratio[order[size]] if share.size > size else 0.0
    factor = np.maximum(1, threshold / share[kept.numpy()])
    chosen = voxels.where(kept.to(p.device))
    scaled = weights[kept.to(p.device)] * torch.from_numpy(factor).to(weights)
    return Voxels(chosen.features.cpu(), chosen.probabilities.cpu(), scaled.cpu())


def joined(parts: Sequence[Voxels]) -> Voxels:
    """Weighted voxels of several places, one after the other."""
    features, probabilities = (
        torch.cat([getattr(part, name) for part in parts], dim=1) for name in ("features", "probabilities")
    )
    return Voxels(features, probabilities, torch.cat([part.counts for part in parts]))
