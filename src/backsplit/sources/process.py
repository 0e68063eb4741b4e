"""Run a tool of others for one case: what it is given, its process, and the label map that it writes."""

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from backsplit.cases import Case
from backsplit.errors import SourceError
from backsplit.volume import Volume, read_labels, read_volume, write_volume

LAUNCH = "backsplit.sources.launch"
PARENT = "BACKSPLIT_PARENT"
"""Environment variable that tells the launched process who started it."""
NIFTI_ENDINGS = (".nii", ".nii.gz")
NUM_LAST_LINES = 3
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def installed_version(package: str, *, extra: str) -> str:
    """Version of a package that an extra of BackSplit brings.

    Raises:
        SourceError: it is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        raise SourceError(f'{package} is not installed; install it with `pip install "backsplit[{extra}]"`') from None


def image_of(case: Case, channel: int) -> Path:
    """The image of one channel.

    Raises:
        SourceError: the case has no such channel.
    """
    if not 0 <= channel < len(case.images):
        raise SourceError(f"{case.name}: no channel {channel}; it has {len(case.images)}, counted from 0")
    return case.images[channel]


def nifti_of(image: Path, scratch: Path) -> Path:
    """The image as a NIfTI file: itself if it is one, else a copy in `scratch`."""
    if image.name.endswith(NIFTI_ENDINGS):
        return image
    copy = scratch / "image.nii.gz"
    write_volume(read_volume(image), copy)
    return copy


def run_tool(module: str, arguments: Sequence[str], *, tool: str, case: str, environment: Mapping[str, str]) -> None:
    """Call `main` of a module in a process of its own, and pass on what it prints, line by line.

    Args:
        module: importable name.
        arguments: its command line.
        tool: its name in errors.
        case: the one that it works on, for errors.
        environment: variables in place of, or beside, those of this process.

    Raises:
        SourceError: it ended with an error, or was killed; the message ends with its last lines.
    """
    # -P: no module of the folder that the user happens to be in comes before those that are installed
    command = [sys.executable, "-P", "-m", LAUNCH, module, *arguments]
    ours = {PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}
    last: deque[str] = deque(maxlen=NUM_LAST_LINES)
    with subprocess.Popen(  # noqa: S603  no shell, and the program is this Python
        command,
        env={**os.environ, **ours, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            _pass_on(process, last)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise SourceError(f"{case}: {tool} {_end(process.returncode)}; it said last: {_joined(last)}")


def _pass_on(process: subprocess.Popen[str], last: deque[str]) -> None:
    """Print what a process prints, until it ends, and keep the last lines that hold something."""
    for line in process.stdout or ():
        sys.stdout.write(line)
        if text := COLOUR.sub("", line).strip():
            last.append(text)
    process.wait()


def _end(status: int) -> str:
    if status > 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    return f"was ended by {name}" + (", most often for lack of memory" if name == "SIGKILL" else "")


def _joined(lines: Collection[str]) -> str:
    return " / ".join(lines) or "nothing"


def read_output(
    path: Path, *, tool: str, case: str, groups: Sequence[Collection[int]], known: Collection[int]
) -> Volume:
    """The label map that a tool wrote, with values of the source: `i + 1` where it has a value of `groups[i]`, else 0.

    Args:
        path: label map of the tool.
        tool: its name in errors.
        case: the one that it worked on, for errors.
        groups: values of the tool, per structure of the source; no value in two groups.
        known: all values that the tool's table names; 0 need not be among them.

    Raises:
        SourceError: there is no such file, or it holds a value that the tool's table does not name.
        VolumeError: it is no readable volume.
        LabelError: it is no label map.
    """
    if not path.exists():
        raise SourceError(f"{case}: {tool} ended without an error, but wrote no label map; its output is in the log")
    written = read_labels(path)
    low, high = int(written.voxels.min()), int(written.voxels.max())
    values = np.full(max(high, *known) + 1, -1, dtype=np.int16)
    values[[0, *known]] = 0
    for index, group in enumerate(groups, start=1):
        values[list(group)] = index
    if low < 0 or (voxels := values[written.voxels]).min() < 0:
        unknown = sorted(set(np.unique(written.voxels).tolist()) - {0, *known})
        raise SourceError(
            f"{case}: {tool} wrote the values {unknown[:5]}, which its table of structures does not name; the weights "
            "are not those of this version of the tool"
        )
    return Volume(voxels.astype(np.min_scalar_type(len(groups))), written.grid)
