"""Fit nnU-Net's U-Nets to a patch: strides, kernels and channels by nnU-Net's own rule."""

from collections.abc import Sequence
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from backsplit.errors import ConfigurationError

MIN_FEATURE_MAP_EDGE = 4  # voxels at the bottleneck, nnU-Net's own bound

Configuration = dict[str, Any]
"""A configuration of nnU-Net's plans, with all its keys."""


def fit_unet(
    configuration: Configuration,
    *,
    network: str,
    patch_size: Sequence[int] | None,
    batch_size: int | None,
    features: Sequence[int] | None,
) -> Configuration:
    """The configuration of a plain U-Net with other sizes, strides and kernels fitted to them; in 3D, or 2D in slices.

    Args:
        configuration: what nnU-Net planned; stays as it is.
        network: name for messages.
        patch_size: voxels along nnU-Net's axes; None keeps the planned.
        batch_size: patches per step; None keeps the planned.
        features: channels per stage, highest resolution first; None keeps nnU-Net's doubling up to the planned most.

    Raises:
        ConfigurationError: the patch does not fit the strides, or has no room for as many stages as features.
    """
    patch = tuple(patch_size or configuration["patch_size"])
    sizes = {"patch_size": list(patch), "batch_size": batch_size or configuration["batch_size"]}
    if patch_size is None and features is None:
        return {**configuration, **sizes}
    strides, kernels = _strides_and_kernels(configuration["spacing"][-len(patch) :], patch, network)
    kwargs = configuration["architecture"]["arch_kwargs"]
    chosen = tuple(features or _doubled(kwargs["features_per_stage"], len(strides)))
    _check_stages(chosen, patch, network, num_fitting=len(strides))
    stages = len(chosen)
    fitted = {
        "n_stages": stages,
        "features_per_stage": list(chosen),
        "strides": strides[:stages],
        "kernel_sizes": kernels[:stages],
        "n_conv_per_stage": [kwargs["n_conv_per_stage"][0]] * stages,
        "n_conv_per_stage_decoder": [kwargs["n_conv_per_stage_decoder"][0]] * (stages - 1),
    }
    architecture = {**configuration["architecture"], "arch_kwargs": {**kwargs, **fitted}}
    return {**configuration, **sizes, "architecture": architecture}


def check_sizes(patch_size: Sequence[int] | None, batch_size: int | None, features: Sequence[int] | None) -> None:
    """Refuse sizes below 1; None is what was planned.

    Raises:
        ConfigurationError: names the number.
    """
    for value in (*(patch_size or ()), *(features or ()), *([] if batch_size is None else [batch_size])):
        if value < 1:
            raise ConfigurationError(f"patch size, batch size and features must be 1 or more, got {value}")


def shape_text(patch_size: Sequence[int]) -> str:
    """A patch as messages spell it: 128x128x128."""
    return "x".join(map(str, patch_size))


def _strides_and_kernels(
    spacing: Sequence[float], patch: tuple[int, ...], network: str
) -> tuple[list[list[int]], list[list[int]]]:
    strides, kernels, fitting = _topology(spacing, patch)
    for min_edge in (2 * MIN_FEATURE_MAP_EDGE, 3 * MIN_FEATURE_MAP_EDGE):
        if len(strides) == 1:  # nothing to halve; a lone axis needs 12 voxels, two or more need 8
            strides, _, fitting = _topology(spacing, tuple(max(edge, min_edge) for edge in patch))
    if fitting != patch:
        raise ConfigurationError(
            f"{network}: a patch of {shape_text(patch)} does not fit the network's strides; use {shape_text(fitting)}"
        )
    return strides, kernels


def _topology(
    spacing: Sequence[float], patch: tuple[int, ...]
) -> tuple[list[list[int]], list[list[int]], tuple[int, ...]]:
    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, patch, MIN_FEATURE_MAP_EDGE, 999999)
    fitting = tuple(int(edge) for edge in padded)
    return [list(stride) for stride in strides], [list(kernel) for kernel in kernels], fitting


def _check_stages(features: tuple[int, ...], patch: tuple[int, ...], network: str, *, num_fitting: int) -> None:
    if len(features) > num_fitting:
        raise ConfigurationError(
            f"{network}: {len(features)} stages of features do not fit a patch of {shape_text(patch)}, which can be "
            f"halved {num_fitting - 1} times; give at most {num_fitting} numbers or a larger patch"
        )
    if len(features) == 1:
        raise ConfigurationError(f"{network}: got one stage of features; a U-Net needs 2 to {num_fitting}")


def _doubled(planned: list[int], num_stages: int) -> tuple[int, ...]:
    return tuple(min(max(planned), planned[0] * 2**stage) for stage in range(num_stages))
