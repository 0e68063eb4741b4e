"""Trained weights of others: which they are, under what licence, and what to say where they are missing."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from backsplit.errors import SourceError

LICENCES: Mapping[str, str] = {
    "totalsegmentator": "Apache-2.0",
    "vibesegmentator": "unconfirmed; ask its authors before you use or share the masks (code: Apache-2.0)",
    "nninteractive": "CC BY-NC-SA 4.0, non-commercial (code: Apache-2.0)",
}
"""Of the official weights; a file that a user gives may be under another."""


def hash_weights(folders: Iterable[Path], root: Path) -> str:
    """SHA-256 over the trained weights of nnU-Net model folders: names below `root`, and content, in order of name.

    Args:
        folders: searched to any depth for `fold_*/*.pth`, and for the `plans.json` that says how they are run.
        root: what the names are relative to, so that a copy elsewhere has the same hash.

    Raises:
        SourceError: a folder without weights.
    """
    total = hashlib.sha256()
    for folder in sorted(folders):
        files = sorted([*folder.rglob("fold_*/*.pth"), *folder.rglob("plans.json")])
        if not any(path.suffix == ".pth" for path in files):
            raise SourceError(f"{folder} holds no trained weights (fold_*/*.pth); remove it and fetch them again")
        for path in files:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{digest}  {path.relative_to(root).as_posix()}\n".encode())
    return total.hexdigest()


def missing_weights(tool: str, missing: Iterable[str], *, folder: Path, licence: str, command: str) -> SourceError:
    """The error that says which weights are not in a folder, under what licence they are, and how to get them."""
    return SourceError(
        f"{tool}: no weights {', '.join(missing)} in {folder}; get them with `{command}` (licence of the weights: "
        f"{licence}), or name the folder that holds them with --weights"
    )
