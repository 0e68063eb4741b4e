"""Where nnU-Net finds its data, and where its chatter goes."""

import contextlib
import os
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path


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
            in_force[role] = os.environ.setdefault(f"nnUNet_{role}", str(getattr(self, role)))
        return Folders(**{role: Path(value) for role, value in in_force.items()})


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
