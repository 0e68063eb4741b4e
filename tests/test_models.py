"""Any trained nnU-Net model loads as nnU-Net itself loads it, but what strangers wrote is never run."""

import importlib
import json
import pkgutil
import shutil
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer import variants
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from backsplit.errors import ModelError
from backsplit.nnunet.models import folds_of, initialize, stock_trainers
from backsplit.nnunet.start import read_checkpoint
from tinymodels import write_model

LABELS = {"background": 0, "liver": 1, "spleen": 2}
CHECKPOINT = "checkpoint_final.pth"
PATCH = (16, 16, 16)


@pytest.fixture
def model(tmp_path) -> Path:
    """Two folds."""
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for fold in (1, 0):
        write_model(folder, LABELS, patch_size=PATCH, seed=fold)
        if fold:
            (folder / "fold_0").rename(folder / "fold_1")
    return folder


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_checkpoint(model: Path, **changes) -> None:
    path = model / "fold_0" / CHECKPOINT
    torch.save({**torch.load(path), **changes}, path)


def new_predictor() -> nnUNetPredictor:
    return nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)


def ours(model: Path, folds=(0,), **kwargs) -> nnUNetPredictor:
    predictor = new_predictor()
    initialize(predictor, model, folds, checkpoint=CHECKPOINT, **kwargs)
    return predictor


def stock(model: Path, folds=(0,)) -> nnUNetPredictor:
    predictor = new_predictor()
    predictor.initialize_from_trained_model_folder(str(model), folds, CHECKPOINT)
    return predictor


def logits(predictor: nnUNetPredictor) -> torch.Tensor:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20, 16, 24)).astype(np.float32))
    return predictor.predict_logits_from_preprocessed_data(image)


@pytest.mark.parametrize("folds", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("axes", [None, (0, 2)])
def test_logits_are_those_of_nnunets_own_loading(model, folds, axes):
    edit_checkpoint(model, inference_allowed_mirroring_axes=axes)
    torch.testing.assert_close(logits(ours(model, folds)), logits(stock(model, folds)), rtol=0, atol=0)


def test_no_axis_to_mirror_is_no_mirroring(model):
    edit_checkpoint(model, inference_allowed_mirroring_axes=())
    np.testing.assert_array_equal(logits(ours(model)), logits(stock_without_mirroring(model)))


def stock_without_mirroring(model: Path) -> nnUNetPredictor:
    predictor = stock(model)
    predictor.use_mirroring = False
    return predictor


def test_residual_encoders_load(model):
    network = as_residual(model)
    torch.testing.assert_close(logits(ours(model)), logits(stock(model)), rtol=0, atol=0)
    assert type(ours(model).network) is type(network)


def as_residual(model: Path) -> ResidualEncoderUNet:
    """Make a model one of nnU-Net's residual presets."""

    def change(plans):
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
        architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")

    edit(model / "plans.json", change)
    plans = json.loads((model / "plans.json").read_text())
    kwargs = dict(plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"])
    kwargs |= {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    network = ResidualEncoderUNet(input_channels=1, num_classes=3, deep_supervision=False, **kwargs)
    edit_checkpoint(model, network_weights=network.state_dict())
    return network


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_plans_from_before_architectures_were_named_load(model, name):
    if name == "ResidualEncoderUNet":
        as_residual(model)
    expected = logits(ours(model))

    def age(plans):
        configuration = plans["configurations"]["3d_fullres"]
        old = configuration.pop("architecture")["arch_kwargs"]
        configuration |= {
            "UNet_class_name": name,
            "UNet_base_num_features": 4,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "num_pool_per_axis": [1, 1, 1],
            "pool_op_kernel_sizes": old["strides"],
            "conv_kernel_sizes": old["kernel_sizes"],
        }

    edit(model / "plans.json", age)
    with pytest.warns(UserWarning, match="Detected old nnU-Net plans format"):
        aged = ours(model)
    torch.testing.assert_close(logits(aged), expected, rtol=0, atol=0)


class Bomb:
    """Pickles to a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_code_in_a_checkpoint_runs_for_those_who_trust_it_alone(model, tmp_path):
    edit_checkpoint(model, optimizer_state=Bomb(tmp_path / "ran"))
    with pytest.raises(ModelError, match=r"that is safe to load: .* take it with --trust"):
        ours(model)
    assert not (tmp_path / "ran").exists()
    torch.testing.assert_close(logits(ours(model, allow_unsafe=True)), logits(stock(model)), rtol=0, atol=0)
    assert (tmp_path / "ran").exists()


def test_checkpoints_that_numpy_1_helped_to_write_load(model):
    path = model / "fold_0" / CHECKPOINT
    edit_checkpoint(model, _best_ema=np.float64(0.5), logging={"mean_fg_dice": [np.float32(0.25)]})
    old = path.with_name("old.pth")
    num_replaced = 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            num_replaced += content.count(b"cnumpy._core.multiarray\nscalar\n")
            target.writestr(info, content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert num_replaced
    assert read_checkpoint(old)["_best_ema"] == 0.5


@pytest.mark.parametrize(
    "name",
    [
        "subprocess.Popen",
        "os.system",
        "builtins.exec",
        "stranger.Network",
        "torch.nn.Conv3d",
        "backsplit.cli.main",
        "backsplit.learning.networks.importlib",
        "dynamic_network_architectures.architectures.unet.Union",
        "dynamic_network_architectures.architectures.unet.nn",
        "dynamic_network_architectures.architectures.unet.nn.Module",
        "dynamic_network_architectures.building_blocks.helper.convert_dim_to_conv_op",
        "dynamic_network_architectures.architectures.nowhere.Nothing",
        "PlainConvUNet",
        "",
    ],
)
def test_plans_name_networks_and_nothing_else(model, tmp_path, monkeypatch, name):
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Network: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    edit(model / "plans.json", lambda plans: architecture_of(plans).update(network_class_name=name))
    with pytest.raises(ModelError, match="is no network of dynamic_network_architectures"):
        ours(model)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    ["subprocess.Popen", "builtins.eval", "torch.nn.functional.conv3d", "torch.load", "os.Conv3d", "torch.nn.init"],
)
def test_plans_name_layers_and_nothing_else(model, name):
    edit(model / "plans.json", lambda plans: architecture_of(plans)["arch_kwargs"].update(nonlin=name))
    with pytest.raises(ModelError, match=r"is no layer of torch\.nn"):
        ours(model)


def architecture_of(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]["architecture"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_reader_writer", "np"),
        ("label_manager", "join"),
        ("preprocessor_name", "example_test_case_preprocessing"),
        ("normalization_schemes", ["os"]),
        ("resampling_fn_data", "recursive_find_python_class"),
        ("resampling_fn_probabilities", "isfile"),
    ],
)
def test_other_names_in_plans_are_nnunets_own(model, key, value):
    def change(plans):
        of_configuration = plans["configurations"]["3d_fullres"]
        (of_configuration if key in of_configuration else plans)[key] = value

    edit(model / "plans.json", change)
    with pytest.raises(ModelError, match=f"plans.json: {key} is "):
        ours(model)


def test_trainers_that_build_their_own_network_are_known_from_source():
    trainers = stock_trainers()
    for module in pkgutil.walk_packages(variants.__path__, f"{variants.__name__}."):
        for name, found in vars(importlib.import_module(module.name)).items():
            if isinstance(found, type) and issubclass(found, nnUNetTrainer):
                is_stock = found.build_network_architecture is nnUNetTrainer.build_network_architecture
                assert trainers[name] == is_stock, name
    assert not trainers["nnUNet_Primus_M_Trainer_BS8"]
    assert sum(trainers.values()) > 40


def cascade(model: Path) -> None:
    edit(model / "plans.json", lambda plans: plans["configurations"]["3d_fullres"].update(previous_stage="3d_lowres"))


def shrink(model: Path) -> None:
    weights = torch.load(model / "fold_0" / CHECKPOINT)["network_weights"]
    edit_checkpoint(model, network_weights={name: value for name, value in weights.items() if "seg_layers" not in name})


def labels(model: Path, **added) -> None:
    edit(model / "dataset.json", lambda dataset: dataset["labels"].update(added))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: labels(model, spleen=[1, 2]), "was trained on regions, which may overlap"),
        (lambda model: labels(model, spleen=3), r"label values \[0, 1, 3\] are not 0 to 2"),
        (
            lambda model: edit_checkpoint(model, trainer_name="nnUNetTrainerBN"),
            "nnUNetTrainerBN builds a network of its",
        ),
        (lambda model: edit_checkpoint(model, trainer_name="MyTrainer"), "'MyTrainer' is no trainer of nnU-Net"),
        (lambda model: edit_checkpoint(model, init_args={"configuration": "2d"}), "no usable configuration '2d'"),
        (cascade, "3d_fullres refines what another model predicted"),
        (shrink, "fold 0 of .* its weights do not fit the network of plans.json"),
        (lambda model: (model / "plans.json").unlink(), "holds no trained model"),
        (lambda model: (model / "plans.json").write_text("{"), r"plans\.json is no JSON"),
        (lambda model: (model / "dataset.json").write_text("[1]"), r"dataset\.json has no labels"),
        (lambda model: edit_checkpoint(model, network_weights=1), "has no network_weights"),
        (lambda model: shutil.rmtree(model / "fold_0"), "no checkpoint .*fold_0"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(model, spoil, message):
    spoil(model)
    with pytest.raises(ModelError, match=message) as caught:
        ours(model)
    assert "\n" not in str(caught.value)


def test_no_fold_is_no_model(model):
    with pytest.raises(ModelError, match="no fold is named"):
        ours(model, ())


def test_another_trainer_loads_for_those_who_trust_it(model):
    expected = logits(ours(model))
    edit_checkpoint(model, trainer_name="MyTrainer")
    torch.testing.assert_close(logits(ours(model, allow_unsafe=True)), expected, rtol=0, atol=0)


def test_the_ignore_label_is_no_output(model):
    expected = deepcopy(logits(ours(model)))
    labels(model, ignore=3)
    torch.testing.assert_close(logits(ours(model)), expected, rtol=0, atol=0)


def test_folds_are_those_that_are_trained(model):
    assert folds_of(model, CHECKPOINT) == ("0", "1")
    (model / "fold_1").rename(model / "fold_10")
    (model / "fold_0").rename(model / "fold_2")
    (model / "fold_3").mkdir()
    assert folds_of(model, CHECKPOINT) == ("2", "10")
    shutil.rmtree(model / "fold_10")
    (model / "fold_2").rename(model / "fold_all")
    assert folds_of(model, CHECKPOINT) == ("all",)
    torch.testing.assert_close(logits(ours(model, ("all",))), logits(stock(model, ("all",))), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"has no fold_\*/checkpoint_best\.pth"):
        folds_of(model, "checkpoint_best.pth")
