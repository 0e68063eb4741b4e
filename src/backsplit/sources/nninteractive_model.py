"""Where nnInteractive's weights lie, what they are, and whether they are safe to open."""

import hashlib
import json
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from backsplit.errors import ModelError, SourceError
from backsplit.nnunet.start import read_checkpoint

ROOT_VARIABLE = "NNINTERACTIVE_MODEL_DIR"
DEFAULT_ROOT = ".nninteractive"
CHECKPOINT_NAME = "checkpoint_final.pth"
INFO_NAMES = ("inference_info.json", "inference_session_class.json")
OFFICIAL_DATASET, OFFICIAL_LICENCE = "Dataset225_nnInteractiveV2", "CC BY-NC-SA 4.0"
WHERE = (
    "download it with `nninteractive-download-model` where there is a network, or name a model folder with --model; "
    f"the official weights are {OFFICIAL_LICENCE}: not for commercial use"
)
SMALLEST_PATCH = 49
"""Along each axis, with auto-zoom: what it refines leaves out 24 voxels at each side of a patch (2.6.0)."""


@dataclass(frozen=True, slots=True)
class InteractiveModel:
    """Weights that were found and checked."""

    folder: Path
    version: str
    """Of the nnInteractive package."""
    sha256: str
    """Of the checkpoint."""
    licence: str
    """First line of the LICENSE file beside the weights; `not stated` where there is none."""
    num_channels: int
    """Images of a case that the network takes."""


def open_model(folder: Path | None, *, autozoom: bool, trust: bool) -> InteractiveModel:
    """Find a model and check that it can be used; the network is not built.

    Args:
        folder: model folder of nnU-Net's layout; None takes the only one under `$NNINTERACTIVE_MODEL_DIR/models`.
        autozoom: whether it shall be used on objects larger than its patch.
        trust: open a checkpoint that holds more than tensors and plain values: it could run code of whoever made it.

    Raises:
        SourceError: the package or the model is missing or incomplete, the checkpoint is unsafe, or auto-zoom cannot
            work with it.
    """
    version = _installed_version()
    folder = _downloaded() if folder is None else folder
    plans, dataset = _read(folder / "plans.json"), _read(folder / "dataset.json")
    if not any((folder / name).exists() for name in INFO_NAMES):
        raise SourceError(
            f"{folder} is no model of nnInteractive: neither {' nor '.join(INFO_NAMES)} is there; {WHERE}"
        )
    path = _checkpoint_path(folder)
    configuration = _configuration_name(path, trust=trust)
    num_channels = len(dataset.get("channel_names") or dataset["modality"])
    if autozoom:
        _check_autozoom(folder, _patch_size(plans, configuration), num_channels)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return InteractiveModel(folder.resolve(), version, digest, _licence(folder, plans), num_channels)


def _installed_version() -> str:
    try:
        return metadata.version("nninteractive")
    except metadata.PackageNotFoundError:
        raise SourceError('nnInteractive is not installed; run: pip install "backsplit[interactive]"') from None


def default_root() -> Path:
    """Where nnInteractive keeps the models that it has downloaded."""
    return Path(os.environ.get(ROOT_VARIABLE) or Path.home() / DEFAULT_ROOT).expanduser()


def _downloaded() -> Path:
    root = default_root()
    models = sorted(path.parent for path in (root / "models").glob("*/plans.json"))
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise SourceError(
            f"{root / 'models'} holds {len(models)} models ({names}); name the folder of one with --model"
        )
    if not models:
        raise SourceError(f"no nnInteractive model in {root / 'models'} (${ROOT_VARIABLE} moves {root}); {WHERE}")
    return models[0]


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SourceError(f"no nnInteractive model in {path.parent}: {path.name} is missing; {WHERE}")
    return json.loads(path.read_text(encoding="utf-8"))


def _checkpoint_path(folder: Path) -> Path:
    folds = sorted(folder.glob("fold_*"))
    if len(folds) != 1 or not (folds[0] / CHECKPOINT_NAME).exists():
        found = ", ".join(fold.name for fold in folds) or "none"
        raise SourceError(f"{folder}: expected one fold_* folder with a {CHECKPOINT_NAME}, found {found}; {WHERE}")
    return folds[0] / CHECKPOINT_NAME


def _configuration_name(path: Path, *, trust: bool) -> str:
    """Name of the trained configuration, by a checkpoint that is read in the safe way unless it is trusted."""
    try:
        return read_checkpoint(path, allow_unsafe=trust)["init_args"]["configuration"]
    except ModelError as error:
        raise SourceError(str(error)) from error


def _patch_size(plans: dict[str, Any], name: str) -> list[int]:
    configuration = plans["configurations"][name]
    while "patch_size" not in configuration:
        configuration = plans["configurations"][configuration["inherits_from"]]
    return configuration["patch_size"]


def _check_autozoom(folder: Path, patch_size: list[int], num_channels: int) -> None:
    if min(patch_size) < SMALLEST_PATCH:
        raise SourceError(
            f"{folder}: auto-zoom needs a patch of at least {SMALLEST_PATCH} voxels along each axis, this model has "
            f"{'x'.join(map(str, patch_size))}; switch auto-zoom off"
        )
    if num_channels > 1:
        raise SourceError(
            f"{folder}: the model takes {num_channels} images, but the auto-zoom of nnInteractive shows it the first "
            "alone; switch auto-zoom off"
        )


def _licence(folder: Path, plans: dict[str, Any]) -> str:
    """As nnInteractive tells it: its official weights are older than their LICENSE file."""
    path = folder / "LICENSE"
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    stated = next((line.strip() for line in lines if line.strip()), None)
    official = OFFICIAL_LICENCE if plans.get("dataset_name") == OFFICIAL_DATASET else "not stated"
    return stated or official
