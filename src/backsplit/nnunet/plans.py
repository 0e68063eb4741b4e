"""One plan for all arms: nnU-Net's fingerprint and planner on the fine labels, with the sizes a user may override."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from backsplit.errors import ConfigurationError
from backsplit.nnunet.arms import SHARED_PLANS, Plans
from backsplit.nnunet.networks import CONFIGURATION, SLICES, configuration_of_model, slices_of
from backsplit.nnunet.preprocessing import Resampling
from backsplit.nnunet.topology import Configuration, check_sizes, fit_unet

OF_THE_IMAGES = (
    "transpose_forward",
    "transpose_backward",
    "foreground_intensity_properties_per_channel",
    "original_median_spacing_after_transp",
    "original_median_shape_after_transp",
)
"""What plans say about all configurations."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What to change in nnU-Net's plan; None keeps what nnU-Net chose."""

    patch_size: tuple[int, int, int] | None = None
    """Voxels along nnU-Net's axes after its transpose: slowest (coarsest spacing) first."""
    batch_size: int | None = None
    features: tuple[int, ...] | None = None
    """Channels per stage of the U-Net, highest resolution first."""
    like: Path | None = None
    """Model folder of nnU-Net's layout whose plan is taken instead of planning: to go on from its weights."""
    resampling: Resampling = "fast"
    """Whose code brings volumes to the plan's spacing; what the plan says about it is nnU-Net's in any case."""

    def __post_init__(self) -> None:
        check_sizes(self.patch_size, self.batch_size, self.features)

    def to_json(self) -> dict[str, Any]:
        """Its fields, of JSON types."""
        return {**asdict(self), "like": None if self.like is None else str(self.like.resolve())}

    @classmethod
    def from_json(cls, block: dict[str, Any]) -> "PlanSettings":
        """Read what `to_json` and JSON made of one."""
        patch_size, features = (None if block[key] is None else tuple(block[key]) for key in ("patch_size", "features"))
        like = None if block["like"] is None else Path(block["like"])
        return cls(patch_size, block["batch_size"], features, like, block["resampling"])


def plan(name: str, settings: PlanSettings, *, num_processes: int) -> Plans:
    """Fingerprint and plan a raw data set that `backsplit.nnunet.dataset.export` wrote.

    Intensity statistics come from all fine classes, for every arm (DESIGN section 4). Writes nnU-Net's fingerprint and
    data set description into the preprocessed folder; the plans are returned, not written. They hold the 3D
    configuration, to which `settings` apply, and nnU-Net's 2D one on the same preprocessed files.

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
    if settings.like is not None:
        plans = _adopt(plans, settings.like)
    chosen = override(plans["configurations"][CONFIGURATION], settings)
    sliced = slices_of(chosen, plans["configurations"][SLICES])
    return {**plans, "configurations": {CONFIGURATION: chosen, SLICES: sliced}}


def _adopt(plans: Plans, model: Path) -> Plans:
    """The plans with spacing, intensities, patch and network of a trained model.

    Raises:
        ConfigurationError: the folder holds no plans of a single 3D configuration, or of other channels.
    """
    try:
        theirs = json.loads((model / "plans.json").read_text(encoding="utf-8"))
        chosen = theirs["configurations"][configuration_of_model(model)]
        volumes = chosen | {"data_identifier": plans["configurations"][CONFIGURATION]["data_identifier"]}
        taken = {key: theirs[key] for key in OF_THE_IMAGES}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"--like {model}: no model folder of nnU-Net, such as nnUNetTrainer__nnUNetPlans__3d_fullres ({error!r})"
        ) from error
    if len(volumes["patch_size"]) != 3 or len(volumes["normalization_schemes"]) != _num_channels(plans):
        raise ConfigurationError(
            f"--like {model}: a model of {len(volumes['patch_size'])}D patches and "
            f"{len(volumes['normalization_schemes'])} channels; expected 3D and {_num_channels(plans)}"
        )
    return {**plans, **taken, "configurations": {**plans["configurations"], CONFIGURATION: volumes}}


def _num_channels(plans: Plans) -> int:
    return len(plans["configurations"][CONFIGURATION]["normalization_schemes"])


def override(configuration: Configuration, settings: PlanSettings) -> Configuration:
    """The configuration with the sizes of `settings`, the network's strides and kernels fitted to them.

    Raises:
        ConfigurationError: the patch does not fit the strides, or has no room for as many stages as features.
    """
    return fit_unet(
        configuration,
        network="unet",
        patch_size=settings.patch_size,
        batch_size=settings.batch_size,
        features=settings.features,
    )
