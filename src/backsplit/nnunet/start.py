"""Start a training from trained weights: the backbone as it is, auxiliaries with a share of the background's output."""

import hashlib
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy._core.multiarray as numpy_scalars
import torch
from torch import Tensor, nn

from backsplit.errors import ModelError
from backsplit.files import write_json
from backsplit.nnunet.arms import ArmSettings, Plans, flat
from backsplit.nnunet.dataset import IGNORE
from backsplit.nnunet.networks import CONFIGURATION, configuration_of_model
from backsplit.nnunet.topology import Configuration

RECORD_NAME = "start.json"
PREPROCESSING = (
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
)
SHARED = ("transpose_forward", "foreground_intensity_properties_per_channel")
NUMPY_SCALARS: list[Any] = [
    numpy_scalars.scalar,
    (numpy_scalars.scalar, "numpy.core.multiarray.scalar"),  # as numpy 1 wrote it
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
]

Weights = Mapping[str, Tensor]


def read_checkpoint(path: Path, *, allow_unsafe: bool = False) -> dict[str, Any]:
    """The content of a checkpoint of nnU-Net's layout, without running code that a stranger put into it.

    Args:
        path: file.
        allow_unsafe: run that code; for files of a maker whom the user trusts.

    Raises:
        ModelError: there is none, or it holds something other than tensors and plain values.
    """
    if not path.exists():
        raise ModelError(f"no checkpoint {path}; train the model, or name another fold or checkpoint")
    try:
        with torch.serialization.safe_globals(NUMPY_SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=not allow_unsafe)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is not a checkpoint of nnU-Net that is safe to load: it holds more than tensors and plain values, "
            "which may run code; if you trust who made it, predict, finetune and annotate take it with --trust"
        ) from error
    except Exception as error:
        raise ModelError(f"{path} cannot be loaded ({type(error).__name__}); copy it again") from error
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise ModelError(f"{path} has no network_weights; give a checkpoint of nnU-Net v2")
    return content


def load_start(settings: ArmSettings, network: nn.Module, fold_folder: Path) -> None:
    """Put the weights that the settings name into a network of the arm's classes, and write down which they were.

    Raises:
        ModelError: the checkpoint is missing, of other classes or of another architecture.
    """
    if settings.start is None:
        return
    model = Path(settings.start.model)
    path = model / fold_folder.name / settings.start.checkpoint
    trained = without_wrappers(read_checkpoint(path, allow_unsafe=settings.start.is_trusted)["network_weights"])
    network.load_state_dict(grow(trained, network.state_dict(), origin=path, rows=rows_of(settings, classes_of(model))))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json({"checkpoint": str(path), "sha256": digest}, fold_folder / RECORD_NAME)


def classes_of(model: Path) -> tuple[str, ...]:
    """Class names of a model of nnU-Net's layout, by output; `ignore` is none.

    Raises:
        ModelError: no such model, or one that was trained on regions.
    """
    labels = {name: value for name, value in dataset_of(model)["labels"].items() if name != IGNORE}
    if not all(isinstance(value, int) for value in labels.values()):
        raise ModelError(f"{model} was trained on regions, which may overlap; expected one class per voxel")
    if sorted(labels.values()) != list(range(len(labels))):
        raise ModelError(f"{model}: label values {sorted(labels.values())} are not 0 to {len(labels) - 1}; mend them")
    return tuple(sorted(labels, key=labels.__getitem__))


def rows_of(settings: ArmSettings, classes: Sequence[str]) -> tuple[int, ...]:
    """For each output of the arm, the output of the trained model that it starts from; auxiliaries: background.

    Raises:
        ModelError: the model was not trained on the targets alone.
    """
    targets = settings.scheme.targets
    if set(classes[1:]) != set(targets):
        raise ModelError(
            f"the model to start from tells apart {', '.join(classes[1:])}, the targets here are {', '.join(targets)}; "
            "start from a model that was trained on these targets alone"
        )
    return (0, *(classes.index(name) for name in targets), *[0] * (settings.num_classes - 1 - len(targets)))


def grow(trained: Weights, fresh: Weights, *, origin: Path, rows: Sequence[int]) -> dict[str, Tensor]:
    r"""Weights of a network with more outputs, whose pooled target posterior is that of the trained one.

    Every output of the block that was background gets its row, and $\log n$ less bias, $n$ the size of the block:
    $\log \sum_{k=1}^{n} \exp(b - \log n) = b$. All other weights are copied.

    Args:
        trained: state of the trained network.
        fresh: state of the network to fill; tells which parameters are outputs: those whose first axis has
            `len(rows)` entries instead of `max(rows) + 1`.
        origin: file of `trained`, for the error.
        rows: trained output per new output, 0 for background and auxiliaries.

    Raises:
        ModelError: a parameter that one of the two lacks, or of another shape.
    """
    num_old, index = max(rows) + 1, torch.tensor(rows)
    grown = {}
    for name, new in fresh.items():
        old = trained.get(name)
        is_output = old is not None and old.shape == (num_old, *new.shape[1:]) and new.shape[:1] == (len(rows),)
        if old is None or not (is_output or old.shape == new.shape):
            came = "none" if old is None else "x".join(map(str, old.shape))
            raise ModelError(
                f"{origin} is of another architecture: {name} has shape {came}, expected "
                f"{'x'.join(map(str, new.shape))}; prepare with --like and the model's folder"
            )
        grown[name] = old[index] if is_output else old.clone()
        if is_output and new.ndim == 1:
            grown[name] -= math.log(rows.count(0)) * (index == 0)
    extra = sorted(set(trained) - set(fresh))
    if extra:
        raise ModelError(f"{origin} is of another architecture: it also has {extra[0]}; prepare with --like its folder")
    return grown


def without_wrappers(weights: Weights) -> dict[str, Tensor]:
    """Names without what compilation (`_orig_mod.`) and data parallelism (`module.`) put before them."""
    return {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}


def check_start(settings: ArmSettings, shared: Plans, *, fold: int) -> None:
    """Refuse a start that does not fit, before anything is built.

    Raises:
        ModelError: no such model or checkpoint, other targets, or images that were prepared in another way.
    """
    if settings.start is None:
        return
    model = Path(settings.start.model)
    rows_of(settings, classes_of(model))
    theirs = plans_of(model)["configurations"].get(configuration_of_model(model))
    if theirs is None:
        raise ModelError(f"{model} is not named as nnU-Net names model folders, trainer__plans__configuration")
    _check_preprocessing(_preprocessing(plans_of(model), theirs), shared)
    read_checkpoint(model / f"fold_{fold}" / settings.start.checkpoint, allow_unsafe=settings.start.is_trusted)


def _check_preprocessing(start: dict[str, Any], shared: Plans) -> None:
    theirs, here = (dict(flat(how)) for how in (start, _preprocessing(shared, shared["configurations"][CONFIGURATION])))
    changed = [key for key in here if theirs.get(key) != here[key]]
    if changed:
        raise ModelError(
            f"the model to start from was trained on images prepared in another way ({', '.join(changed[:4])}); "
            "prepare with --like and the model's folder, in a workspace of its own"
        )


def _preprocessing(plans: Plans, configuration: Configuration) -> dict[str, Any]:
    return {**{key: plans[key] for key in SHARED}, **{key: configuration.get(key) for key in PREPROCESSING}}


def plans_of(model: Path) -> Plans:
    """Plans of a model folder, ours or of stock nnU-Net.

    Raises:
        ModelError: there are none.
    """
    return _read_json(model / "plans.json", "configurations")


def dataset_of(model: Path) -> dict[str, Any]:
    """What nnU-Net wrote about the data that a model was trained on.

    Raises:
        ModelError: there is none.
    """
    return _read_json(model / "dataset.json", "labels")


def _read_json(path: Path, key: str) -> dict[str, Any]:
    """A file of a model folder, which holds an object under a key at least."""
    if not path.exists():
        raise ModelError(f"{path.parent} holds no trained model (no {path.name}); train one, or name nnU-Net's folder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error}); copy the model again") from error
    if not isinstance(content, dict) or not isinstance(content.get(key), dict):
        raise ModelError(f"{path} has no {key}; expected the file that nnU-Net v2 wrote")
    return content
