"""How a job fares: by the exit status that it left, else by the queue."""

import os
import time

from backsplit.experiments.slurm.files import QUEUE, exit_status_of

ASK_EVERY_S = 10.0
FAILED = {
    "BOOT_FAIL",
    "CANCELLED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
UNKNOWN = "UNKNOWN"


def status(job: str) -> str:
    """`success`, `failed` or `running`, the three words that the executor knows.

    The queue is asked at most every `ASK_EVERY_S`, once for all jobs. A job that it does not know, and that left no
    exit status, failed; while the controller does not answer, jobs count as they did before.
    """
    try:
        with open(exit_status_of(job)) as file:  # noqa: PTH123  pathlib would be a fifth of the start-up
            return "success" if file.read().strip() == "0" else "failed"
    except FileNotFoundError:
        pass
    seen, states = _remembered()
    if job not in states or not 0 <= time.time() - seen < ASK_EVERY_S:
        states = _ask(states | {job: states.get(job, "RUNNING")})
    state = states.get(job, UNKNOWN)
    if state in FAILED | {UNKNOWN}:
        return "failed"
    return "success" if state == "COMPLETED" else "running"


def is_live(job: str, state: str) -> bool:
    """Whether a job has not ended, or will be started again."""
    return state not in FAILED | {"COMPLETING", "COMPLETED"} and not os.path.exists(exit_status_of(job))  # noqa: PTH110


def _remembered() -> tuple[float, dict[str, str]]:
    """When the queue was last asked, and what it said."""
    try:
        with open(QUEUE) as file:  # noqa: PTH123
            seen, *lines = file.read().splitlines()
    except FileNotFoundError:
        return 0.0, {}
    return float(seen), dict(line.split() for line in lines)


def _ask(before: dict[str, str]) -> dict[str, str]:
    """The queue now, or as it was before if the controller does not answer; either is remembered."""
    from backsplit.experiments.slurm.controller import UnreachableError, queue  # noqa: PLC0415  costs as much as Python

    try:
        states = queue()
    except UnreachableError:
        states = before
    temporary = f"{QUEUE}.{os.getpid()}"
    with open(temporary, "w") as file:  # noqa: PTH123
        file.writelines(f"{line}\n" for line in (time.time(), *(f"{key} {state}" for key, state in states.items())))
    os.replace(temporary, QUEUE)  # noqa: PTH105
    return states
