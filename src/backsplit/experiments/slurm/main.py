"""The command line that a Snakemake profile names."""

import sys
from collections.abc import Sequence

from backsplit.errors import BackSplitError

USAGE = """usage: backsplit-slurm submit JOBSCRIPT   submit a job of Snakemake's unless it is alive; print its number
       backsplit-slurm status NUMBER      print success, failed or running
       backsplit-slurm profile FOLDER     write a Snakemake profile to edit
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 done, 1 something that the user can mend, 2 wrong usage.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 2 or given[0] not in {"submit", "status", "profile"}:
        sys.stderr.write(USAGE)
        return 2
    try:
        sys.stdout.write(f"{_run(*given)}\n")
    except BackSplitError as error:
        sys.stderr.write(f"backsplit-slurm: error: {error}\n")
        return 1
    return 0


def _run(command: str, argument: str) -> str:
    if command == "status":
        from backsplit.experiments.slurm.status import status  # noqa: PLC0415  each command imports its own alone

        return status(argument)
    if command == "submit":
        from backsplit.experiments.slurm.submit import submit  # noqa: PLC0415

        return submit(argument)
    from backsplit.experiments.slurm.profiles import write_profile  # noqa: PLC0415

    return write_profile(argument)
