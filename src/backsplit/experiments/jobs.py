"""What a command does as a job of a grid: it takes a GPU that no other job uses, and ends when the run is gone.

Both are locks of files, which the kernel frees when their holder ends, however it ends.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

SLOTS, VISIBLE = "BACKSPLIT_GPU_SLOTS", "CUDA_VISIBLE_DEVICES"
"""Variables: folder with a file per GPU, named as CUDA names it; and what CUDA shows to a process."""
LIFELINE = "BACKSPLIT_LIFELINE"
"""Variable: file whose lock the run holds."""
_HELD: list[IO[str]] = []
"""Files whose locks this process holds to its end."""
SECONDS_BETWEEN_LOOKS = 1.0


def lay_out(folder: Path, devices: Sequence[str]) -> None:
    """Make a slot for each device."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in {path.name for path in folder.iterdir()} - {*devices}:
        (folder / old).unlink()
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


def die_with_run(lifeline: Path | None = None) -> None:
    """End this process when the run that started it is gone.

    Args:
        lifeline: of the run; by default that of `BACKSPLIT_LIFELINE`, and without that nothing happens.
    """
    path = lifeline or os.environ.get(LIFELINE)
    if path is not None:
        threading.Thread(target=_watch, args=(Path(path),), daemon=True).start()


def _watch(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("r") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_SH)
                break
            except OSError:  # a file system that cannot wait for a lock
                time.sleep(1)
    os._exit(1)
