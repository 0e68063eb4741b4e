"""Model folders in nnU-Net's official layout that take kilobytes and seconds: the real loading code runs on them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

FEATURES = (4, 8)


def write_model(
    folder: Path,
    labels: Mapping[str, int],
    *,
    patch_size: Sequence[int] = (32, 32, 32),
    spacing: Sequence[float] = (3.0, 3.0, 3.0),
    channel_names: Sequence[str] = ("CT",),
    num_inputs: int | None = None,
    features: Sequence[int] = FEATURES,
    trainer_name: str = "nnUNetTrainer",
    weights: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
) -> PlainConvUNet:
    """Write `dataset.json`, `plans.json` and `fold_0/checkpoint_final.pth`; random weights unless given.

    Args:
        folder: nnU-Net's `<trainer>__<plans>__<configuration>`.
        labels: class name to value, background 0 included.
        patch_size: and `spacing`, in nnU-Net's order (z, y, x).
        num_inputs: channels into the network, if more than images (nnInteractive's prompts).

    Returns:
        The network.
    """
    torch.manual_seed(seed)
    architecture = _architecture(features)
    network = build(architecture, num_inputs or len(channel_names), len(labels))
    if weights is not None:
        network.load_state_dict(weights)
    channels = {str(index): name for index, name in enumerate(channel_names)}
    _write(folder / "dataset.json", {"channel_names": channels, "labels": dict(labels), "file_ending": ".nii.gz"})
    plans = _plans(architecture, patch_size, spacing, len(channel_names), is_ct=channel_names[0] == "CT")
    _write(folder / "plans.json", plans)
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer_name,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "plans": plans},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return network


def build(architecture: Mapping[str, Any], num_inputs: int, num_classes: int) -> PlainConvUNet:
    """The network of a plan."""
    kwargs = dict(architecture["arch_kwargs"])
    kwargs |= {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    return PlainConvUNet(input_channels=num_inputs, num_classes=num_classes, deep_supervision=False, **kwargs)


def plans_of(*, spacing: Sequence[float], transpose: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Plans without a model."""
    plans = _plans(_architecture(FEATURES), (8,) * len(spacing), spacing, 1, is_ct=True)
    backward = sorted(range(3), key=transpose.__getitem__)
    return {**plans, "transpose_forward": list(transpose), "transpose_backward": backward}


def build_tiny(*, num_inputs: int, num_classes: int) -> PlainConvUNet:
    """The network that `write_model` writes."""
    return build(_architecture(FEATURES), num_inputs, num_classes)


def _architecture(features: Sequence[int]) -> dict[str, Any]:
    stages = len(features)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _plans(
    architecture: dict[str, Any], patch_size: Sequence[int], spacing: Sequence[float], num_images: int, *, is_ct: bool
) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    function = "resample_data_or_seg_to_shape"
    intensities = {
        "mean": 0.0, "median": 0.0, "std": 300.0, "min": -1000.0, "max": 1000.0,
        "percentile_00_5": -1000.0, "percentile_99_5": 1000.0,
    }  # fmt: skip
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": list(patch_size),
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization" if is_ct else "ZScoreNormalization"] * num_images,
        "use_mask_for_norm": [False] * num_images,
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_probabilities": function,
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": architecture,
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset000_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": list(patch_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(index): intensities for index in range(num_images)},
    }


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2))
