"""One training on several devices: nnU-Net's data-parallel processes, on NCCL for CUDA and on gloo for CPUs."""

import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from backsplit.errors import ConfigurationError


def run_on(num_processes: int, work: Callable[..., None], *arguments: Any, device: torch.device) -> None:  # noqa: ANN401  passed on
    """Call `work(*arguments, device)` in as many processes, each on a device of its own; in this one if it is one.

    Raises:
        ConfigurationError: fewer CUDA devices than processes, or a device that cannot share a training.
    """
    if num_processes == 1:
        work(*arguments, device)
        return
    if device.type not in {"cuda", "cpu"}:
        raise ConfigurationError(f"--gpus {num_processes} needs CUDA devices, or --device cpu; got {device.type}")
    if device.type == "cuda" and torch.cuda.device_count() < num_processes:
        raise ConfigurationError(f"--gpus {num_processes}: this machine has {torch.cuda.device_count()}")
    mp.spawn(_join, (num_processes, _free_port(), work, arguments, device.type), nprocs=num_processes)


def _join(rank: int, num_processes: int, port: int, work: Callable[..., None], arguments: tuple, kind: str) -> None:
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=num_processes,
    )
    try:
        work(*arguments, device)
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_and_size() -> tuple[int, int]:
    """Number of this process, and how many share the training; 0 and 1 if it is alone."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_over_processes(values: np.ndarray, device: torch.device) -> np.ndarray:
    """Element-wise sum over all processes of the training, the same in each; any shape."""
    if not dist.is_initialized():
        return values
    total = torch.as_tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    dist.all_reduce(total)
    return total.cpu().numpy()
