"""Trained models in nnU-Net's layout, loaded without running what a stranger may have put into them.

A checkpoint is a pickle, which can run anything. Plans name classes and functions that nnU-Net looks up and calls. So
checkpoints are read as tensors and plain values alone, and the names in plans must be among those that nnU-Net and this
project write.
"""

import ast
import importlib.util
from collections.abc import Sequence
from functools import cache
from inspect import isclass, isfunction
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from backsplit.errors import ModelError
from backsplit.nnunet.networks import configuration_of_model
from backsplit.nnunet.start import classes_of, dataset_of, plans_of, read_checkpoint, without_wrappers
from backsplit.nnunet.topology import Configuration

ARCHITECTURES, OURS, OPERATIONS = (
    "dynamic_network_architectures.architectures",
    "backsplit.learning.networks",
    "torch.nn",
)
RESAMPLING = (
    "resample_data_or_seg_to_shape",
    "resample_torch_fornnunet",
    "resample_torch_simple",
    "no_resampling_hack",
)
LOOKED_UP = {
    "image_reader_writer": ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"),
    "label_manager": ("LabelManager",),
    "preprocessor_name": ("DefaultPreprocessor",),
    "normalization_schemes": ("CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"),
    **dict.fromkeys((f"resampling_fn_{what}" for what in ("data", "seg", "probabilities")), RESAMPLING),
}
"""What nnU-Net looks up by name in plans, and which of its own names a model of volumes can have there."""
NOT_STATED = "not stated"
"""The licence of a model without one."""
NEEDED = ("network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes")
"""Of a checkpoint."""


def channel_names(dataset: dict[str, Any]) -> tuple[str, ...]:
    """What each input of a model is, from nnU-Net's `dataset.json`; early ones call it `modality`."""
    return tuple((dataset.get("channel_names") or dataset["modality"]).values())


def licence_of(model: Path) -> str:
    """The licence beside a model, whole."""
    texts = [path.read_text(encoding="utf-8", errors="replace").strip() for path in sorted(model.glob("LICENSE*"))]
    return next((text for text in texts if text), NOT_STATED)


def folds_of(model: Path, checkpoint: str) -> tuple[str, ...]:
    """Folds that are trained: their numbers; `all` where there is none but the one trained on all cases.

    Raises:
        ModelError: there is none.
    """
    found = [path.parent.name.removeprefix("fold_") for path in model.glob(f"fold_*/{checkpoint}")]
    numbers = sorted((fold for fold in found if fold.isdecimal()), key=int)
    if not numbers and "all" not in found:
        raise ModelError(f"{model} has no fold_*/{checkpoint}; give nnU-Net's model folder, or name another checkpoint")
    return tuple(numbers) or ("all",)


def initialize(
    predictor: nnUNetPredictor, model: Path, folds: Sequence[int | str], *, checkpoint: str, allow_unsafe: bool = False
) -> None:
    """What nnU-Net's `initialize_from_trained_model_folder` does, without its unsafe load and its trainer search.

    The network is the one of the plans. Of nnU-Net's trainers, those that build another are refused.

    Args:
        predictor: to load the model into.
        model: folder with plans.json, dataset.json and a folder per fold.
        folds: whose outputs to average.
        checkpoint: file of each fold.
        allow_unsafe: run code that checkpoints hold, and take it that trainers nnU-Net does not have build the network
            of the plans.

    Raises:
        ModelError: something is missing, asks for other code, or does not fit the rest.
    """
    if not folds:
        raise ModelError(f"{model}: no fold is named; name one at least")
    contents = [_needed(model / f"fold_{fold}" / checkpoint, allow_unsafe=allow_unsafe) for fold in folds]
    _check_trainer(contents[0], model, allow_unsafe=allow_unsafe)
    manager, dataset = PlansManager(plans_of(model)), dataset_of(model)
    configuration = _configuration(manager, contents[0], model)
    num_classes, num_inputs = len(classes_of(model)), len(channel_names(dataset))
    network = _network(configuration, model, num_inputs=num_inputs, num_classes=num_classes)
    weights = [without_wrappers(content["network_weights"]) for content in contents]
    for fold, state in zip(reversed(folds), reversed(weights), strict=True):
        _load(network, state, f"fold {fold} of {model}")
    trainer, axes = str(contents[0].get("trainer_name")), contents[0].get("inference_allowed_mirroring_axes") or None
    predictor.manual_initialization(network, manager, configuration, weights, dataset, trainer, axes)


def _needed(path: Path, *, allow_unsafe: bool) -> dict[str, Any]:
    """A checkpoint without the optimiser's state, which is twice as large as the weights."""
    content = read_checkpoint(path, allow_unsafe=allow_unsafe)
    return {key: content[key] for key in NEEDED if key in content}


def _check_trainer(content: dict[str, Any], model: Path, *, allow_unsafe: bool) -> None:
    trainer = str(content.get("trainer_name"))
    follows = stock_trainers().get(trainer)
    if follows is False:
        raise ModelError(f"{model}: {trainer} builds a network of its own; only networks of plans.json can be loaded")
    if follows is None and not allow_unsafe:
        raise ModelError(
            f"{model}: {trainer!r} is no trainer of nnU-Net and may build a network of its own; if it builds that of "
            "plans.json, and you trust who made the model, load it with --trust"
        )


@cache
def stock_trainers() -> dict[str, bool]:
    """For each of nnU-Net's trainers, whether it builds the network of the plans; read from source, nothing is run."""
    folder = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}

    def follows_plans(name: str) -> bool:
        own = {node.name for node in classes[name].body if isinstance(node, ast.FunctionDef)}
        bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes]
        return name == "nnUNetTrainer" or ("build_network_architecture" not in own and all(map(follows_plans, bases)))

    return {name: follows_plans(name) for name in classes}


def _configuration(manager: PlansManager, content: dict[str, Any], model: Path) -> ConfigurationManager:
    """The configuration that a checkpoint was trained with, all names in it known.

    Raises:
        ModelError: there is none, a name is not known, or it is the second stage of a cascade.
    """
    name = content.get("init_args", {}).get("configuration", configuration_of_model(model))
    try:
        configuration = manager.get_configuration(name)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{model / 'plans.json'} has no usable configuration {name!r}: {error}") from error
    if configuration.previous_stage_name is not None:
        raise ModelError(f"{model}: {name} refines what another model predicted; give a model that stands alone")
    for key, known in LOOKED_UP.items():
        named = configuration.configuration.get(key, manager.plans.get(key, []))
        for each in named if isinstance(named, list) else [named]:
            if each not in known:
                raise ModelError(f"{model / 'plans.json'}: {key} is {each!r}, expected {', '.join(known)}")
    return configuration


def _network(configuration: ConfigurationManager, model: Path, *, num_inputs: int, num_classes: int) -> nn.Module:
    architecture: Configuration = configuration.configuration["architecture"]
    kwargs, required = dict(architecture["arch_kwargs"]), architecture["_kw_requires_import"]
    try:
        name = _checked_network(architecture["network_class_name"])
        operations = {key: _checked_operation(kwargs[key]) for key in required if kwargs[key] is not None}
        return get_network_from_plans(
            name, kwargs | operations, required, num_inputs, num_classes, allow_init=False, deep_supervision=False
        )
    except Exception as error:
        raise ModelError(f"{model / 'plans.json'}: its network cannot be built: {error}") from error


def _checked_network(name: str) -> str:
    """The full name of a network class of nnU-Net, or of a builder of ours; where old plans say, its place of today.

    Raises:
        ModelError: it is something else, which nnU-Net would call.
    """
    folder, _, attribute = name.rpartition(".")
    if folder == OURS and isfunction(getattr(importlib.import_module(OURS), attribute, None)):
        return name
    if folder.rpartition(".")[0] == ARCHITECTURES:
        is_gone = importlib.util.find_spec(folder) is None
        found = getattr(importlib.import_module(f"{ARCHITECTURES}.unet" if is_gone else folder), attribute, None)
        if isclass(found) and issubclass(found, nn.Module) and found.__module__.startswith(ARCHITECTURES):
            return f"{found.__module__}.{attribute}"
    raise ModelError(f"{name!r} is no network of {ARCHITECTURES} or {OURS}; nothing else is run from plans")


def _checked_operation(name: str) -> str:
    """The name of a class of `torch.nn`.

    Raises:
        ModelError: it is something else.
    """
    found = getattr(nn, name.rpartition(".")[2], None)
    is_there = name.startswith(f"{OPERATIONS}.") and isclass(found) and issubclass(found, nn.Module)
    if not is_there or name not in (f"{OPERATIONS}.{found.__name__}", f"{found.__module__}.{found.__name__}"):
        raise ModelError(f"{name!r} is no layer of {OPERATIONS}; nothing else is run from plans")
    return name


def _load(network: nn.Module, weights: dict[str, Any], origin: str) -> None:
    try:
        network.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        line = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{origin}: its weights do not fit the network of plans.json, so its trainer built another: {line}"
        ) from error
