"""One plan for all arms: nnU-Net's fingerprint and planner on the fine labels, with the sizes a user may override."""

from dataclasses import dataclass
from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from backsplit.errors import ConfigurationError
from backsplit.nnunet.arms import SHARED_PLANS, Plans

CONFIGURATION = "3d_fullres"
MIN_FEATURE_MAP_EDGE = 4  # voxels at the bottleneck, nnU-Net's own bound


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What to change in nnU-Net's plan; None keeps what nnU-Net chose."""

    patch_size: tuple[int, int, int] | None = None
    """Voxels along nnU-Net's axes after its transpose: slowest (coarsest spacing) first."""
    batch_size: int | None = None
    features: tuple[int, ...] | None = None
    """Channels per stage of the U-Net, highest resolution first."""

    def __post_init__(self) -> None:
        for value in (*(self.patch_size or ()), *(self.features or ()), *filter(None, [self.batch_size])):
            if value < 1:
                raise ConfigurationError(f"patch size, batch size and features must be 1 or more, got {value}")


def plan(name: str, settings: PlanSettings, *, num_processes: int) -> Plans:
    """Fingerprint and plan a raw data set that `backsplit.nnunet.dataset.export` wrote.

    Intensity statistics come from all fine classes, for every arm (DESIGN section 4). Writes nnU-Net's fingerprint and
    data set description into the preprocessed folder; the plans are returned, not written.

    Raises:
        ConfigurationError: the images are 2D, or an override does not fit.
    """
    extractor = DatasetFingerprintExtractor(name, num_processes=num_processes)
    extractor.show_progress_bar = False
    extractor.run(overwrite_existing=True)
    planner = ExperimentPlanner(name, plans_name=SHARED_PLANS)
    plans = planner.plan_experiment()
    if CONFIGURATION not in plans["configurations"]:
        raise ConfigurationError(f"{name}: the images are 2D; only volumes can be planned")
    chosen = override(plans["configurations"][CONFIGURATION], settings)
    return {**plans, "configurations": {CONFIGURATION: chosen}}


def override(configuration: dict[str, Any], settings: PlanSettings) -> dict[str, Any]:
    """The configuration with the sizes of `settings`, the network's strides and kernels fitted to them.

    Raises:
        ConfigurationError: the patch does not fit the strides, or has no room for as many stages as features.
    """
    patch_size = tuple(settings.patch_size or configuration["patch_size"])
    batch_size = settings.batch_size or configuration["batch_size"]
    if settings.patch_size is None and settings.features is None:
        return {**configuration, "batch_size": batch_size}
    _, strides, kernels, padded, _ = get_pool_and_conv_props(
        configuration["spacing"], patch_size, MIN_FEATURE_MAP_EDGE, 999999
    )
    fitting = tuple(int(edge) for edge in padded)
    if fitting != patch_size:
        raise ConfigurationError(
            f"a patch of {_shape(patch_size)} does not fit the network's strides; use {_shape(fitting)}"
        )
    kwargs = configuration["architecture"]["arch_kwargs"]
    features = settings.features or _nnunet_features(kwargs["features_per_stage"], len(strides))
    if len(features) > len(strides):
        raise ConfigurationError(
            f"{len(features)} stages of features do not fit a patch of {_shape(patch_size)}, which can be halved "
            f"{len(strides) - 1} times; give at most {len(strides)} numbers or a larger patch"
        )
    stages = len(features)
    fitted = {
        "n_stages": stages,
        "features_per_stage": list(features),
        "strides": [list(stride) for stride in strides[:stages]],
        "kernel_sizes": [list(kernel) for kernel in kernels[:stages]],
        "n_conv_per_stage": [kwargs["n_conv_per_stage"][0]] * stages,
        "n_conv_per_stage_decoder": [kwargs["n_conv_per_stage_decoder"][0]] * (stages - 1),
    }
    architecture = {**configuration["architecture"], "arch_kwargs": {**kwargs, **fitted}}
    return {**configuration, "patch_size": list(patch_size), "batch_size": batch_size, "architecture": architecture}


def _nnunet_features(planned: list[int], num_stages: int) -> tuple[int, ...]:
    return tuple(min(max(planned), planned[0] * 2**stage) for stage in range(num_stages))


def _shape(patch_size: tuple[int, ...]) -> str:
    return "x".join(map(str, patch_size))
