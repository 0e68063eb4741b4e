"""Where nnU-Net finds its data, and where its chatter goes."""

import contextlib
import os
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

_SET_BY_US: dict[str, str] = {}
"""nnU-Net's variables as this process set them, to tell them from those of the user."""


@dataclass(frozen=True, slots=True)
class Folders:
    """nnU-Net's three roots."""

    raw: Path
    preprocessed: Path
    results: Path

    def activate(self) -> "Folders":
        """Point this process and its children at the folders; where the user has set a variable, that one wins.

        Returns:
            The folders that are in force.
        """
        in_force = {}
        for role in ("raw", "preprocessed", "results"):
            name, wanted = f"nnUNet_{role}", str(getattr(self, role))
            if os.environ.get(name) == _SET_BY_US.get(name):
                os.environ[name] = _SET_BY_US[name] = wanted
            in_force[role] = Path(os.environ[name])
        return Folders(**in_force)


@contextlib.contextmanager
def output_to(log: Path) -> Generator[None]:
    """Append everything that is printed or warned inside the block to a log file instead of the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("always")
        yield
