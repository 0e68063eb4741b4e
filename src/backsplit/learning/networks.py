"""The networks by name, and MONAI's in the signature that nnU-Net calls.

MONAI takes seconds to import, so it is imported when one of its networks is built, not before.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from backsplit.errors import ConfigurationError

NetworkName = Literal["unet", "unet-2d", "resenc-m", "segresnet", "swin-unetr"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
FROM_MONAI: frozenset[NetworkName] = frozenset({"segresnet", "swin-unetr"})


def network_named(name: str) -> NetworkName:
    """The network of that name.

    Raises:
        ConfigurationError: there is none; lists those that there are.
    """
    for known in NETWORKS:
        if name == known:
            return known
    raise ConfigurationError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")


def has_deep_supervision(network: NetworkName, chosen: bool | None = None) -> bool:  # noqa: FBT001  a setting's value
    """Whether a network is trained on outputs at lower resolutions, too.

    Args:
        network: which one.
        chosen: what the user asked for; None means as in the paper: yes for nnU-Net's U-Nets, no for MONAI's networks.

    Raises:
        ConfigurationError: asked of a network that has one output.
    """
    if chosen and network in FROM_MONAI:
        raise ConfigurationError(f"{network} has one output and cannot be trained with deep supervision; switch it off")
    return network not in FROM_MONAI if chosen is None else chosen


def segresnet(
    input_channels: int,
    num_classes: int,
    *,
    init_filters: int,
    blocks_down: Sequence[int],
    blocks_up: Sequence[int],
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's SegResNet in 3D, itself, so that a state dict is MONAI's own.

    Args:
        input_channels: channels of the image.
        num_classes: outputs per voxel.
        init_filters: channels of the first layer, doubled at each halving; a multiple of 8, MONAI's number of groups.
        blocks_down: residual blocks per resolution on the way down; edges are halved once less than their number.
        blocks_up: the same on the way up.
        deep_supervision: must be false; nnU-Net always says.

    Raises:
        ConfigurationError: deep supervision is on.

    Source:
        Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, arXiv 1810.11654.
    """
    from monai.networks.nets.segresnet import SegResNet  # noqa: PLC0415  slow

    has_deep_supervision("segresnet", deep_supervision)
    return SegResNet(
        in_channels=input_channels,
        out_channels=num_classes,
        init_filters=init_filters,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )


def swin_unetr(
    input_channels: int, num_classes: int, *, feature_size: int, deep_supervision: bool = False
) -> nn.Module:
    """MONAI's SwinUNETR in 3D (the first version, not V2), itself, so that a state dict is MONAI's own.

    Args:
        input_channels: channels of the image.
        num_classes: outputs per voxel.
        feature_size: channels of the first stage; a multiple of 12.
        deep_supervision: must be false; nnU-Net always says.

    Raises:
        ConfigurationError: deep supervision is on.

    Source:
        Hatamizadeh et al., Swin UNETR, arXiv 2201.01266.
    """
    from monai.networks.nets.swin_unetr import SwinUNETR  # noqa: PLC0415  slow

    has_deep_supervision("swin-unetr", deep_supervision)
    return SwinUNETR(in_channels=input_channels, out_channels=num_classes, feature_size=feature_size)
