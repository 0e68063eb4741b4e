"""How the weight of the auxiliary part, and the number of auxiliaries, change while a network trains.

An auxiliary that has not been brought in yet is one that no sample annotates: it is pooled with background by the same
exact likelihood. The paper's remedy for short trainings is to bring auxiliaries in one after another (Saluja et al.,
arXiv 2511.19394, supplement J); which, when and at which weight it leaves open, so the numbers of the presets are ours.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from backsplit.errors import ConfigurationError
from backsplit.learning.losses import LossWeights, Preset

Shape = Literal["constant", "linear", "cosine"]
SAME_STEP = 1e-9  # 0.3 / 0.1 is less than 3


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the auxiliary part is at each moment of a training; by default the same throughout. JSON types only.

    Moments are progress: 0 at the first iteration, 1 after the last one.

    Raises:
        ConfigurationError: an unknown shape, or a number outside its range.
    """

    shape: Shape = "constant"
    """How lambda and mu go from their base to the floor: not at all, in a straight line, or along half a cosine."""
    floor: float = 0.0
    """Share of lambda and mu that is left in the end, 0 to 1."""
    floor_from: float = 1.0
    """Progress at which the floor is reached, above 0 and up to 1."""
    all_from: float = 0.0
    """Progress by which all auxiliaries have been brought in, in steps of equal length; 0 is all from the start."""

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ConfigurationError(f"unknown schedule {self.shape!r}; choose one of {', '.join(get_args(Shape))}")
        if not (0 <= self.floor <= 1 and 0 < self.floor_from <= 1 and 0 <= self.all_from <= 1):
            raise ConfigurationError(
                "a schedule's numbers are shares of its weights and of the training, 0 to 1, and floor_from is above "
                f"0; got floor {self.floor}, floor_from {self.floor_from}, all_from {self.all_from}"
            )

    @classmethod
    def preset(cls, name: Preset) -> "Schedule":
        """The schedule of a named loss; its base weights are `LossWeights.preset` of the same name.

        Args:
            name: `paper` and `target-first` are constant, `annealed` goes to 0 in a straight line over the whole
                training, `curriculum` brings auxiliaries in over the first half.
        """
        schedules: dict[Preset, Schedule] = {"annealed": cls(shape="linear"), "curriculum": cls(all_from=0.5)}
        return schedules.get(name, cls())

    def weights(self, base: LossWeights, progress: float) -> LossWeights:
        """The weights at a moment; those of the target never change.

        Args:
            base: weights at the start.
            progress: 0 to 1.
        """
        factor = self.floor + (1 - self.floor) * self._remaining(min(1.0, progress / self.floor_from))
        return replace(
            base,
            auxiliary_cross_entropy=factor * base.auxiliary_cross_entropy,
            auxiliary_dice=factor * base.auxiliary_dice,
        )

    def _remaining(self, progress: float) -> float:
        """Share of the way to the floor that is still to go: 1 at progress 0, and 0 at 1 unless constant."""
        match self.shape:
            case "linear":
                return 1 - progress
            case "cosine":
                return (1 + math.cos(math.pi * progress)) / 2
        return 1.0

    def num_active(self, num_auxiliaries: int, progress: float) -> int:
        """How many auxiliaries, in the order of the label scheme, are in by then: 1 at first, all from `all_from` on.

        Args:
            num_auxiliaries: 0 or more; of 0, 0 are active.
            progress: 0 to 1.
        """
        if progress >= self.all_from:
            return num_auxiliaries
        return min(num_auxiliaries, 1 + math.floor(num_auxiliaries * progress / self.all_from + SAME_STEP))
