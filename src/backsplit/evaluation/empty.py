"""What a table does with scores that empty masks leave undefined: a choice, written next to every table."""

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from backsplit.errors import ConfigurationError
from backsplit.evaluation.definitions import DISTANCES, metrics_in

BRATS_PENALTY_MM = 374.0


@dataclass(frozen=True, slots=True)
class EmptyPolicy:
    """Values for the cases in which the reference, the prediction or both have no voxel of a class.

    Where one of the two is empty, overlaps and NSD are 0 by definition and only distances need a choice. Where both
    are, everything but volumes is undefined.

    Raises:
        ConfigurationError: a penalty that is not a distance of 0 mm or more.
    """

    name: str
    """Short name for the column `empty_policy` of tables."""
    distance_one_empty: float | Literal["diagonal", "undefined"] = "undefined"
    """HD95, HD and ASSD in mm where one mask is empty; `diagonal` is the diagonal of that case's image."""
    both_empty: Literal["perfect", "undefined"] = "undefined"
    """`perfect` scores an absent lesion that is not predicted: 1 where higher is better, 0 where lower is."""

    def __post_init__(self) -> None:
        penalty = self.distance_one_empty
        if not isinstance(penalty, str) and not 0 <= penalty < math.inf:
            raise ConfigurationError(f"the penalty must be a finite number of mm, 0 or more, got {penalty}")

    def describe(self) -> str:
        """One sentence to print next to a table."""
        penalty = {"diagonal": "the image diagonal", "undefined": "undefined"}.get(
            str(self.distance_one_empty), f"{self.distance_one_empty} mm"
        )
        both = {"perfect": "Dice 1, NSD 1, HD95 0 mm", "undefined": "undefined"}[self.both_empty]
        return (
            f"Empty masks ({self.name}): one empty: Dice 0, NSD 0, HD95 {penalty}; both empty: {both}. "
            "Undefined values are counted and left out of means."
        )

    def apply(self, scores: pd.DataFrame) -> pd.DataFrame:
        """A copy of a score table with this policy's values in place of undefined ones.

        Raises:
            ConfigurationError: the penalty is the image diagonal and the table has no column `diagonal_mm`.
        """
        filled = scores.copy()
        no_reference, no_prediction = scores["reference_ml"] == 0, scores["prediction_ml"] == 0
        if self.distance_one_empty != "undefined":
            for column in (name for name in DISTANCES if name in filled):
                filled[column] = filled[column].mask(no_reference ^ no_prediction, self._penalty_mm(scores))
        if self.both_empty == "perfect":
            for metric in metrics_in(scores.columns):
                if metric.better != "none":
                    filled.loc[no_reference & no_prediction, metric.column] = float(metric.better == "higher")
        return filled

    def _penalty_mm(self, scores: pd.DataFrame) -> pd.Series | float:
        if not isinstance(self.distance_one_empty, str):
            return float(self.distance_one_empty)
        if "diagonal_mm" not in scores:
            raise ConfigurationError(
                "the image diagonal as penalty needs the column diagonal_mm; score again, or state a penalty in mm"
            )
        return scores["diagonal_mm"]


UNDEFINED = EmptyPolicy("undefined")
"""Undefined stays undefined, and is counted beside each mean."""
PENALTY = EmptyPolicy("penalty", distance_one_empty="diagonal")
"""A missed lesion or a false alarm costs the image diagonal."""
NNUNET = EmptyPolicy("nnunet")
"""nnU-Net's own rule: NaN where both are empty, and means over the rest; it has no distances."""
BRATS = EmptyPolicy("challenge-brats", distance_one_empty=BRATS_PENALTY_MM, both_empty="perfect")
"""Of the BraTS challenges: 374 mm where one mask is empty, full marks where both are."""
POLICIES = {policy.name: policy for policy in (UNDEFINED, PENALTY, NNUNET, BRATS)}
"""The presets by name."""


def policy_named(name: str) -> EmptyPolicy:
    """A preset, or the penalty of a stated distance that `stated_penalty` made."""
    if name in POLICIES:
        return POLICIES[name]
    return stated_penalty(float(name.removeprefix("penalty-").removesuffix("mm")))


def stated_penalty(distance_mm: float) -> EmptyPolicy:
    """A missed lesion or a false alarm costs so many mm.

    Raises:
        ConfigurationError: not a distance of 0 mm or more.
    """
    return EmptyPolicy(f"penalty-{distance_mm!r}mm", distance_one_empty=distance_mm)
