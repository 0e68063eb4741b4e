"""Where jobs run: a profile is Snakemake's settings as data, and how a machine's cores and GPUs are divided."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from backsplit.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Profile:
    """An executor of Snakemake, and what jobs get of it."""

    name: str
    executor: str
    cores: int
    """Of this machine; on a cluster, of each job."""
    threads: int
    """Of a training or prediction."""
    gpus: int
    """Of this machine, each for one job at a time; on a cluster, of a training or prediction. 0: the CPU does it."""
    nodes: int | None = None
    """Jobs at a time on a cluster; None on this machine."""
    executor_settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the executor's plugin."""
    latency_wait: int = 3
    """Seconds in which the files of a job must appear."""
    retries: int = 0
    seconds_between_status_checks: int = 1
    outlives_driver: bool = False
    """Whether jobs go on, to be found again, when the command that started them is gone."""

    @property
    def resources(self) -> dict[str, int]:
        """What Snakemake counts on this machine beside cores."""
        return {} if self.nodes is not None else {"gpu": self.gpus}

    def to_json(self) -> dict[str, Any]:
        """What `engine` reads."""
        return {
            "executor": self.executor,
            "executor_settings": dict(self.executor_settings),
            "cores": self.cores,
            "nodes": self.nodes,
            "resources": self.resources,
            "latency_wait": self.latency_wait,
            "retries": self.retries,
            "seconds_between_status_checks": self.seconds_between_status_checks,
        }


def local_profile(*, num_gpus: int, at_a_time: int) -> Profile:
    """This machine: one training per GPU; without GPUs, `at_a_time` trainings that divide the cores.

    Raises:
        ConfigurationError: fewer than one, or more than there are cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= at_a_time <= cores:
        raise ConfigurationError(f"--at-a-time {at_a_time}: this machine has {cores} cores; use 1 to {cores}")
    return Profile("local", "local", cores, threads=max(1, cores // max(num_gpus, at_a_time)), gpus=num_gpus)


def profile_named(name: str, *, num_gpus: int, at_a_time: int) -> Profile:
    """The profile of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name == "local":
        return local_profile(num_gpus=num_gpus, at_a_time=at_a_time)
    raise ConfigurationError(f"no profile {name!r}; there is local")
