"""What was seen of a case, as a file: arrays alone, nothing that can run."""

import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from backsplit.experiments.looking import Looked, Sums
from backsplit.files import replacing
from backsplit.theory.last_layer import Voxels

REGIONS = ("image", "border")


def write_record(looked: Looked, path: Path, stamp: str) -> None:
    """Write what was seen of a case, whole or not at all.

    Args:
        looked: what was seen.
        path: `.npz` file.
        stamp: what it was made of, and how.
    """
    content: dict[str, np.ndarray] = {"stamp": np.array(stamp), "num_border": np.array(looked.num_border)}
    for region in REGIONS:
        sums: Sums = getattr(looked, region)
        content[f"{region}/num_voxels"] = np.array(sums.num_voxels)
        content |= {f"{region}/{'-'.join(map(str, block))}": matrix for block, matrix in sums.within.items()}
    for part in ("sample", "border_sample"):
        voxels: Voxels = getattr(looked, part)
        content |= {f"{part}/{field.name}": getattr(voxels, field.name).numpy() for field in fields(Voxels)}
    content |= {f"gradients/{number}": matrix for number, matrix in enumerate(looked.gradients)}
    with replacing(path) as temporary:
        np.savez(temporary, allow_pickle=False, **content)


def read_record(path: Path, stamp: str) -> Looked | None:
    """A record, if it was made of the same files in the same way."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            if str(content["stamp"]) != stamp:
                return None
            return Looked(
                image=_sums(content, "image"),
                border=_sums(content, "border"),
                gradients=[content[f"gradients/{number}"] for number in range(len(content["num_border"]))],
                num_border=content["num_border"].tolist(),
                sample=_voxels(content, "sample"),
                border_sample=_voxels(content, "border_sample"),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # not a whole record: the case is looked at again


def _sums(content: Mapping[str, np.ndarray], region: str) -> Sums:
    within = {
        tuple(map(int, key.partition("/")[2].split("-"))): content[key]
        for key in content
        if key.startswith(f"{region}/") and not key.endswith("num_voxels")
    }
    return Sums(within, int(content[f"{region}/num_voxels"]))


def _voxels(content: Mapping[str, np.ndarray], part: str) -> Voxels:
    features, probabilities, weights = (torch.from_numpy(content[f"{part}/{field.name}"]) for field in fields(Voxels))
    return Voxels(features, probabilities, weights)
