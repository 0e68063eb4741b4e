"""How many parameters each network has, for a plan that everyone can check against the paper."""

import re
from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from backsplit.learning.networks import NetworkName
from backsplit.nnunet.networks import CONFIGURATION, SLICES, NetworkSettings, configuration_of
from backsplit.nnunet.topology import Configuration

DEEP_OUTPUT = re.compile(r"decoder\.seg_layers\.(\d+)\.")  # of nnU-Net's U-Nets, lowest resolution first

AS_PLANNED = NetworkSettings()


class ParameterCount(NamedTuple):
    """Parameters of a network."""

    num_trained: int
    """All that a checkpoint holds. nnU-Net's U-Nets always have an output at each resolution."""
    num_predicting: int
    """Without the outputs at lower resolutions, which deep supervision alone uses."""

    def growth_percent(self, base: "ParameterCount") -> tuple[float, float]:
        """How much larger than `base`, in percent of it: all, and what predicts."""
        return tuple(100 * (ours - theirs) / theirs for ours, theirs in zip(self, base, strict=True))


def build(configuration: Configuration, *, num_channels: int, num_classes: int) -> nn.Module:
    """The network of a configuration as nnU-Net builds it, with one output and weights as its layers start with."""
    architecture = configuration["architecture"]
    return get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        num_channels,
        num_classes,
        allow_init=False,
        deep_supervision=False,
    )


def count_parameters(
    network: NetworkName, *, num_classes: int, settings: NetworkSettings = AS_PLANNED
) -> ParameterCount:
    """Parameters of a network for one channel and nnU-Net's plan of KiTS23.

    Deep supervision, on or off, does not change the count: nnU-Net builds all outputs and uses one. They are the
    reason why a U-Net grows by 0.021 % from 2 to 10 classes, of which 0.001 % is the output that predicts.

    Args:
        network: which one.
        num_classes: outputs per voxel, background included.
        settings: what to change in the plan.

    Source:
        The counts of the paper (arXiv 2511.19394, supplement D): 31.196, 102.350, 18.796 and 62.187 million for 2
        classes, in 3D.
    """
    _, configuration = configuration_of(network, KITS23, settings)
    # no memory is touched, except where MONAI reads a value while it builds
    with torch.device("cpu" if network == "swin-unetr" else "meta"):
        built = build(configuration, num_channels=1, num_classes=num_classes)
    sizes = {name: parameter.numel() for name, parameter in built.named_parameters()}
    outputs = {name: int(found[1]) for name in sizes if (found := DEEP_OUTPUT.match(name))}
    deep = sum(sizes[name] for name, index in outputs.items() if index < max(outputs.values()))
    total = sum(sizes.values())
    return ParameterCount(total, total - deep)


def _planned(patch_size: list[int], features: list[int]) -> Configuration:
    """A plain U-Net that halves every edge at every stage, with nnU-Net's defaults."""
    dimensions, stages = len(patch_size), len(features)
    arch_kwargs: dict[str, Any] = {
        "n_stages": stages,
        "features_per_stage": features,
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions, *[[2] * dimensions] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "spacing": [1.0, 0.78125, 0.78125],
        "patch_size": patch_size,
        "batch_size": 2 if dimensions == 3 else 12,
        "batch_dice": dimensions == 2,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arch_kwargs,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


KITS23: dict[str, Any] = {
    "configurations": {
        CONFIGURATION: _planned([128] * 3, [32, 64, 128, 256, 320, 320]),
        SLICES: _planned([512] * 2, [32, 64, 128, 256, 512, 512, 512, 512]),
    }
}
"""What nnU-Net plans for KiTS23 on 8 GB, as far as networks are concerned."""
