"""What Fisher information costs: the closed forms against memory traffic, the last layer against a forward pass.

Run:  OMP_NUM_THREADS=1 python benchmarks/fisher.py

Prints CPU seconds of one thread, medians of interleaved runs, and ratios. The unit of the closed forms is one read and
one write of the probabilities (`np.copyto`); that of the last layer a forward pass over one patch of nnU-Net's U-Net of
KiTS23, whose last layer has 32 features.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from loss_cost import FEATURES, unet

from backsplit.labels import identity, to_target
from backsplit.theory import information, lost_trace, missing_information
from backsplit.theory.last_layer import find_last_layer, look, target_gradients, within_block

SHAPE, NUM_FINE = (128, 128, 128), 10
ROUNDS_OF_CLOSED_FORMS, ROUNDS_OF_NETWORK = 7, 3
Works = dict[str, Callable[[], object]]


def closed_forms() -> Works:
    """Over the probabilities of one volume."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (NUM_FINE, *SHAPE)).astype(np.float32)
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    copy, binary = np.empty_like(p), to_target(num_targets=1, num_fine=NUM_FINE)
    return {
        "one read, one write": lambda: np.copyto(copy, p),
        "map of lost information": lambda: lost_trace(p, binary),
        "missing information": lambda: missing_information(p, binary),
        "fine information": lambda: information(p, identity(NUM_FINE)),
    }


def last_layer() -> Works:
    """Over one patch."""
    torch.manual_seed(0)
    network: Any = unet(FEATURES["cuda"], NUM_FINE).eval()
    patch = torch.randn(1, 1, *SHAPE)
    network.decoder.deep_supervision = False
    layer = find_last_layer(network, patch)
    voxels = look(network, layer, patch)
    everything = tuple(range(NUM_FINE))
    return {
        "forward pass": lambda: forward(network, patch),
        "fine information of the last layer": lambda: within_block(voxels, everything),
        "what binary labels lose of it": lambda: within_block(voxels, (0, *everything[2:])),
        "gradients of the target": lambda: target_gradients(voxels, 1),
    }


def forward(network: torch.nn.Module, patch: torch.Tensor) -> torch.Tensor:
    """Without gradients."""
    with torch.no_grad():
        return network(patch)


def report(works: Works, num_rounds: int) -> None:
    """Print seconds, and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(num_rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    unit = median(seconds[next(iter(works))])
    for name, each in seconds.items():
        print(f"{name}: {1000 * median(each):.1f} ms, {median(each) / unit:.2f}x")


if __name__ == "__main__":
    report(closed_forms(), ROUNDS_OF_CLOSED_FORMS)
    report(last_layer(), ROUNDS_OF_NETWORK)
