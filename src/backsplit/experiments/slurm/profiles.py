"""The Snakemake profile that users copy and edit."""

import shutil
from pathlib import Path

from backsplit.errors import ConfigurationError

PROFILE = Path(__file__).parent / "profile"
"""Folder in the form of `snakemake --profile`."""


def write_profile(folder: str) -> str:
    """Copy the profile; the file to edit.

    Raises:
        ConfigurationError: there is one already.
    """
    target = Path(folder) / "config.yaml"
    if target.exists():
        raise ConfigurationError(f"{target} exists; edit it, or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROFILE / "config.yaml", target)
    return str(target)
