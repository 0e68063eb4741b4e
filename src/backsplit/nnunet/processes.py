"""One training on several devices: nnU-Net's data-parallel processes, on NCCL for CUDA and on gloo for CPUs."""

import logging
import multiprocessing
import socket
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from backsplit.errors import BackSplitError, ConfigurationError
from backsplit.workers import die_with_parent

PACKAGE = "backsplit"  # its loggers speak for the first process


class _Group(NamedTuple):
    """What the processes of a training share."""

    size: int
    kind: str
    """Type of their devices."""
    port: int
    log: Queue
    log_level: int
    errors: Queue


class _ToParent(logging.Handler):
    """Hands a record of a child process to the logger of its name in this one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on."""
        logging.getLogger(record.name).handle(record)


def run_on(num_processes: int, work: Callable[..., None], *arguments: Any, device: torch.device) -> None:  # noqa: ANN401  passed on
    """Call `work(*arguments, device)` in as many processes, each on a device of its own; in this one if it is one.

    The first process logs through the loggers of this one; all end when this one is killed.

    Raises:
        ConfigurationError: fewer CUDA devices than processes, or a device that cannot share a training.
        BackSplitError: what a process raised.
    """
    if num_processes == 1:
        work(*arguments, device)
        return
    if device.type not in {"cuda", "cpu"}:
        raise ConfigurationError(f"--gpus {num_processes} needs CUDA devices, or --device cpu; got {device.type}")
    if device.type == "cuda" and torch.cuda.device_count() < num_processes:
        raise ConfigurationError(f"--gpus {num_processes}: this machine has {torch.cuda.device_count()}")
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger(PACKAGE).getEffectiveLevel()
    group = _Group(num_processes, device.type, _free_port(), context.Queue(), level, context.Queue())
    listener = QueueListener(group.log, _ToParent())
    listener.start()
    try:
        mp.spawn(_join, (group, work, arguments), nprocs=num_processes)
    except mp.ProcessRaisedException:
        if not group.errors.empty():
            raise group.errors.get() from None
        raise
    finally:
        listener.stop()


def _join(rank: int, group: _Group, work: Callable[..., None], arguments: tuple) -> None:
    die_with_parent()
    logging.getLogger(PACKAGE).setLevel(group.log_level)
    if rank == 0:
        logging.getLogger(PACKAGE).addHandler(QueueHandler(group.log))
    device = torch.device(group.kind, rank) if group.kind == "cuda" else torch.device(group.kind)
    if group.kind == "cuda":
        torch.cuda.set_device(device)
    backend, address = "nccl" if group.kind == "cuda" else "gloo", f"tcp://127.0.0.1:{group.port}"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=group.size)
    try:
        work(*arguments, device)
    except BackSplitError as error:
        group.errors.put(error)
        raise
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
