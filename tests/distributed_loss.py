"""What each of two processes does in the test of the loss under distributed training; light to import."""

from pathlib import Path

import torch
from torch import distributed

from backsplit.learning import LossWeights, SplitLoss

ANNOTATED = torch.tensor([[True, True, True, False, True], [True, True, False, False, True]])


def batch():
    """Logits and labels of two samples."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 5, 6, 5, 4), generator=generator, dtype=torch.float64).requires_grad_()
    return logits, torch.randint(5, (2, 1, 6, 5, 4), generator=generator)


def loss_and_gradient(samples):
    """Total loss of these samples of the batch, and its gradient with respect to all logits."""
    logits, labels = batch()
    loss = SplitLoss(num_targets=1, weights=LossWeights(0.3, 1.0, 0.7), batch_dice=True)
    total = loss(logits[samples], labels[samples], ANNOTATED[samples]).total(loss.weights)
    total.backward()
    return total.detach(), logits.grad


def one_process(rank, folder):
    """Loss of one sample while the other process has the other one."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder, "store")), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(loss_and_gradient(slice(rank, rank + 1)), Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()
