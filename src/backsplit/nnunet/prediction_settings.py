"""How predictions are made, and which ways contradict each other."""

from dataclasses import dataclass

from backsplit.errors import ConfigurationError
from backsplit.nnunet.precision import has_fast_bfloat16
from backsplit.nnunet.preprocessing import Resampling
from backsplit.nnunet.screening import Rule
from backsplit.nnunet.tiles import Precision
from backsplit.nnunet.training import FINAL


@dataclass(frozen=True, slots=True)
class PredictionSettings:
    """How a prediction is made; the same for all arms of a comparison."""

    mirroring: bool = True
    """Average over mirrored inputs along the axes that the training mirrored; 8 times the work in 3D."""
    targets: tuple[str, ...] = ()
    """Names of the classes to write; by default the targets of the arm."""
    step_size: float = 0.5
    """Distance between tiles as a share of the patch, above 0 to 1; less is slower and smoother."""
    all_classes: bool = False
    """Write the arm's own classes instead of the targets alone."""
    rule: Rule = "argmax"
    """Merge classes after argmax, as the paper and nnU-Net do, or add up the probabilities of all but the targets
    before it."""
    exact: bool = False
    """Resize images with nnU-Net's own code, and average the logits of all classes, as it does: equal to it in every
    voxel, slower."""
    resampling: Resampling = "fast"
    """Who resizes images; with `exact`, nnU-Net."""
    probabilities: bool = False
    """Write the posterior of each target, too."""
    skip_air: bool = False
    """Leave out tiles that do not reach the box around the largest part of a CT above -190 HU."""
    any_spacing: bool = False
    """Take images whose voxels are far from those of the training."""
    tiles_at_once: int | None = None
    """Tiles in a batch; by default 1 on a CPU and 2 elsewhere."""
    precision: Precision = "float32"
    """Of the network on a CPU; on CUDA it is nnU-Net's, half."""
    checkpoint: str = FINAL
    """File of each fold."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size <= 1:
            raise ConfigurationError(f"--step-size is a share of the patch, above 0 to 1; got {self.step_size}")
        if self.all_classes and self.rule == "pooled":
            raise ConfigurationError("--all-classes shows what argmax chooses; --rule pooled merges before that")
        if self.all_classes and self.targets:
            raise ConfigurationError("--targets names the classes to write; leave out --all-classes")
        if self.all_classes and self.probabilities:
            raise ConfigurationError("--probabilities are those of the targets; leave out --all-classes")
        if self.tiles_at_once is not None and self.tiles_at_once < 1:
            raise ConfigurationError(f"--tiles-at-once is 1 or more; got {self.tiles_at_once}")
        if self.precision == "bfloat16" and (self.exact or not has_fast_bfloat16()):
            raise ConfigurationError(
                "--precision bfloat16 is for CPUs that have it in hardware (see `backsplit doctor`), not for --exact"
            )
