"""Slurm's own commands, and the one error of theirs that passes by itself."""

import subprocess
from collections.abc import Sequence

from backsplit.errors import ConfigurationError

PASSING = ("Unable to contact slurm controller", "Socket timed out", "Zero Bytes were transmitted")


class UnreachableError(ConfigurationError):
    """Slurm's controller does not answer; jobs go on without it."""


def call(*command: str) -> str:
    """What one of Slurm's commands prints.

    Raises:
        UnreachableError: the controller does not answer.
        ConfigurationError: the command is not there, or objects.
    """
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell
    except FileNotFoundError:
        raise ConfigurationError(f"no {command[0]} on PATH; run this on a machine that submits to Slurm") from None
    if ended.returncode == 0:
        return ended.stdout
    said = " ".join(ended.stderr.split())
    is_passing = any(words in said for words in PASSING)
    raise (UnreachableError if is_passing else ConfigurationError)(f"{command[0]} said: {said}")


def queue(*options: str) -> dict[str, str]:
    """State of the user's jobs by number, ended ones of the last minutes too."""
    lines = call("squeue", "--me", "--states=all", "--noheader", "--format=%i %T", *options).splitlines()
    return dict(line.split() for line in lines)


def submit_batch(options: Sequence[str], script: str, *arguments: str) -> str:
    """Hand a batch script to Slurm; the job's number."""
    return call("sbatch", "--parsable", *options, script, *arguments).strip().split(";")[0]
