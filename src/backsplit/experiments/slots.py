"""Which job uses which GPU: a locked file for each; the kernel frees it when the job ends, however it ends."""

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SLOTS, VISIBLE = "BACKSPLIT_GPU_SLOTS", "CUDA_VISIBLE_DEVICES"
"""Variables: folder with a file per GPU, named as CUDA names it; and what CUDA shows to a process."""
_HELD: list[IO[str]] = []
"""Files whose locks this process holds to its end."""
SECONDS_BETWEEN_LOOKS = 1.0


def lay_out(folder: Path, devices: Sequence[str]) -> None:
    """Make a slot for each device."""
    folder.mkdir(parents=True, exist_ok=True)
    for device in devices:
        (folder / device).touch()


def visible_devices(count: int) -> list[str]:
    """Names of the devices that this process sees: those that `CUDA_VISIBLE_DEVICES` names, else their numbers."""
    named = os.environ.get(VISIBLE)
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


def take(number: int = 1) -> list[str]:
    """Take slots for this process, waiting until they are free, and show CUDA no other device.

    Called before CUDA starts. Without `BACKSPLIT_GPU_SLOTS` nothing happens: the command runs outside of a grid.

    Args:
        number: of GPUs.

    Returns:
        Names of the devices.
    """
    folder = os.environ.get(SLOTS)
    if folder is None:
        return []
    while len(_HELD) < number:
        if not any(_try(path) for path in sorted(Path(folder).iterdir())):
            time.sleep(SECONDS_BETWEEN_LOOKS)
    taken = [Path(file.name).name for file in _HELD]
    os.environ[VISIBLE] = ",".join(taken)
    return taken


def _try(path: Path) -> bool:
    if any(file.name == str(path) for file in _HELD):
        return False
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _HELD.append(file)
    return True
