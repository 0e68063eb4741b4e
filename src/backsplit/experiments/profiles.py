"""Where jobs run: what Snakemake is told on its command line, and what each job gets of a machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from backsplit.errors import ConfigurationError

CORES_ON_A_CLUSTER = 8
"""Of a job, unless `set-threads` of the profile says otherwise."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An executor of Snakemake, and what jobs get of it."""

    arguments: tuple[str, ...]
    """Snakemake's, as they would be typed: executor, cores, resources."""
    cores: int
    """Of this machine; on a cluster, of a job."""
    threads: int
    """Of a training or prediction."""
    gpus: int
    """Of this machine, each for one job at a time; on a cluster, of a training or prediction. 0: the CPU does it."""
    outlives_driver: bool = False
    """Whether jobs go on, to be found again, when the command that started them is gone."""


def local_profile(*, num_gpus: int, at_a_time: int) -> Profile:
    """This machine: one training per GPU; without GPUs, `at_a_time` trainings that divide the cores.

    Raises:
        ConfigurationError: fewer than one, or more than there are cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= at_a_time <= cores:
        raise ConfigurationError(f"--at-a-time {at_a_time}: this machine has {cores} cores; use 1 to {cores}")
    arguments = ("--executor", "local", "--cores", str(cores), "--resources", f"gpu={num_gpus}", "--latency-wait", "3")
    return Profile(arguments, cores, threads=max(1, cores // max(num_gpus, at_a_time)), gpus=num_gpus)


def cluster_profile(folder: Path, *, has_gpus: bool) -> Profile:
    """A profile of Snakemake's, such as `backsplit-slurm profile` writes; any executor of Snakemake's will do.

    Raises:
        ConfigurationError: there is none.
    """
    if not any((folder / f"config{suffix}").exists() for suffix in (".yaml", ".v9+.yaml")):
        raise ConfigurationError(f"no profile {folder}: expected local, or a folder with Snakemake's config.yaml")
    arguments = ("--profile", str(folder.resolve()))
    return Profile(arguments, CORES_ON_A_CLUSTER, CORES_ON_A_CLUSTER, gpus=int(has_gpus), outlives_driver=True)
