"""Every network's configuration, derived from the one plan that all share; all train on the same preprocessed files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backsplit.errors import ConfigurationError
from backsplit.learning.networks import NetworkName, has_deep_supervision, network_named
from backsplit.nnunet.topology import Configuration, check_sizes, fit_unet, shape_text

CONFIGURATION, SLICES = "3d_fullres", "2d"
CONFIGURATION_OF: dict[NetworkName, str] = {
    "unet": CONFIGURATION,
    "unet-2d": SLICES,
    "resenc-m": f"{CONFIGURATION}_resenc_m",
    "segresnet": f"{CONFIGURATION}_segresnet",
    "swin-unetr": f"{CONFIGURATION}_swin_unetr",
}
"""Name of a network's configuration in the plans, and so in the name of nnU-Net's model folder."""
OF_THE_PLAN = ("patch_size", "batch_size", "architecture", "batch_dice")
"""What a configuration has of its own; all else says how images are preprocessed, and is the same for all."""
RESENC_BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6)  # per stage, from nnU-Net's ResEncUNetPlanner


@dataclass(frozen=True, slots=True)
class _MonaiNetwork:
    """What a network of MONAI is built with, and what it asks of a patch."""

    builder: str
    width: str
    """Name of the argument that scales all channels."""
    features: int
    """Its value in the paper."""
    multiple_of: int
    """Of the width, by heads or groups."""
    divisor: int
    """Of each edge of a patch: 2 to the number of halvings."""
    rest: dict[str, Any]


MONAI: dict[NetworkName, _MonaiNetwork] = {
    "segresnet": _MonaiNetwork(
        "segresnet", "init_filters", 32, 8, 8, {"blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]}
    ),
    "swin-unetr": _MonaiNetwork("swin_unetr", "feature_size", 48, 12, 32, {}),
}


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What a training changes in its network's plan; None keeps what is planned.

    Raises:
        ConfigurationError: a number below 1.
    """

    patch_size: tuple[int, ...] | None = None
    """Voxels along nnU-Net's axes, coarsest spacing first; two numbers for `unet-2d`, three for the others."""
    batch_size: int | None = None
    """Patches per step, over all devices."""
    features: tuple[int, ...] | None = None
    """U-Nets: channels per stage, highest resolution first. MONAI's: one number, the channels of the first stage."""
    deep_supervision: bool | None = None
    """Train on outputs at lower resolutions, too; None means as `has_deep_supervision` says."""

    def __post_init__(self) -> None:
        check_sizes(self.patch_size, self.batch_size, self.features)

    @classmethod
    def from_json(cls, block: dict[str, Any]) -> "NetworkSettings":
        """Read what `dataclasses.asdict` and JSON made of one."""
        patch_size, features = (None if block[key] is None else tuple(block[key]) for key in ("patch_size", "features"))
        return cls(patch_size, block["batch_size"], features, block["deep_supervision"])


def configuration_of_model(model: Path) -> str:
    """Name of the configuration of a model folder, which nnU-Net calls `trainer__plans__configuration`."""
    return model.resolve().name.rpartition("__")[2]


def configuration_of(network: str, plans: dict[str, Any], settings: NetworkSettings) -> tuple[str, Configuration]:
    """The configuration that a network trains with.

    All have the data, spacing and normalisation of the shared plan. `resenc-m`, `segresnet` and `swin-unetr` have its
    patch and batch too, so that networks are compared at equal input; `unet-2d` has those of nnU-Net's own 2D plan and
    sees the same volumes slice by slice across the first of nnU-Net's axes.

    Args:
        network: its name.
        plans: what `backsplit.nnunet.plans.plan` returned; stays as it is.
        settings: sizes to change.

    Returns:
        Its name in the plans, and all its keys, of JSON types.

    Raises:
        ConfigurationError: no such network, a patch, features or deep supervision that it cannot have, or plans of an
            earlier version.
    """
    name = network_named(network)
    has_deep_supervision(name, settings.deep_supervision)
    planned = _planned(name, plans)
    _check_axes(name, planned, settings.patch_size)
    if name in MONAI:
        return CONFIGURATION_OF[name], _monai(name, planned, settings)
    fitted = fit_unet(
        planned,
        network=name,
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        features=settings.features,
    )
    return CONFIGURATION_OF[name], _residual(fitted) if name == "resenc-m" else fitted


def slices_of(volumes: Configuration, planned: Configuration) -> Configuration:
    """The 2D configuration on the files of the 3D one.

    nnU-Net would preprocess for 2D again, without resampling across slices; here slices are those of the 3D files.

    Args:
        volumes: the 3D configuration.
        planned: nnU-Net's own 2D plan.
    """
    return {**volumes, **{key: planned[key] for key in OF_THE_PLAN}}


def _planned(network: NetworkName, plans: dict[str, Any]) -> Configuration:
    name = SLICES if network == "unet-2d" else CONFIGURATION
    if name not in plans["configurations"]:
        raise ConfigurationError(
            f"{network}: the data set was prepared by a version of BackSplit without 2D plans; run `backsplit prepare` "
            "in another --workspace"
        )
    return plans["configurations"][name]


def _check_axes(network: NetworkName, planned: Configuration, patch_size: Sequence[int] | None) -> None:
    expected = len(planned["patch_size"])
    if patch_size is not None and len(patch_size) != expected:
        raise ConfigurationError(
            f"{network}: a patch of {shape_text(patch_size)} has {len(patch_size)} edges, the network takes {expected}"
        )


def _residual(fitted: Configuration) -> Configuration:
    """A plain U-Net's configuration with residual blocks in the encoder and one convolution per decoder stage.

    Source:
        nnU-Net's nnUNetPlannerResEncM, which would also choose its own patch and batch.
    """
    kwargs = {key: value for key, value in fitted["architecture"]["arch_kwargs"].items() if key != "n_conv_per_stage"}
    stages = kwargs["n_stages"]
    blocks = {
        "n_blocks_per_stage": list(RESENC_BLOCKS[:stages]),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    architecture = {
        **fitted["architecture"],
        "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "arch_kwargs": {**kwargs, **blocks},
    }
    return {**fitted, "architecture": architecture}


def _monai(network: NetworkName, planned: Configuration, settings: NetworkSettings) -> Configuration:
    parts = MONAI[network]
    patch = tuple(settings.patch_size or planned["patch_size"])
    fitting = _nearest(patch, parts.divisor)
    if fitting != patch:
        raise ConfigurationError(
            f"{network}: a patch of {shape_text(patch)} does not fit the network's strides (edges are multiples of "
            f"{parts.divisor}, one of them 2 times it or more); use {shape_text(fitting)}"
        )
    architecture = {
        "network_class_name": f"backsplit.learning.networks.{parts.builder}",
        "arch_kwargs": {parts.width: _width(network, settings.features), **parts.rest},
        "_kw_requires_import": [],
    }
    sizes = {"patch_size": list(patch), "batch_size": settings.batch_size or planned["batch_size"]}
    return {**planned, **sizes, "architecture": architecture}


def _nearest(patch: tuple[int, ...], divisor: int) -> tuple[int, ...]:
    """The patch that a network takes and that differs least, edge by edge; of two, the larger.

    A single voxel at the lowest resolution cannot be normalised, so one edge is twice the divisor at least.
    """
    edges = [max(1, math.floor(edge / divisor + 0.5)) * divisor for edge in patch]
    if math.prod(edges) == divisor ** len(edges):
        edges[patch.index(max(patch))] *= 2
    return tuple(edges)


def _width(network: NetworkName, features: tuple[int, ...] | None) -> int:
    parts = MONAI[network]
    if features is None:
        return parts.features
    if len(features) != 1 or features[0] % parts.multiple_of:
        raise ConfigurationError(
            f"{network}: takes one number of features, a multiple of {parts.multiple_of}; got "
            f"{' '.join(map(str, features))}"
        )
    return features[0]
