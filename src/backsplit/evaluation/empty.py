"""What a table does with scores that empty masks leave undefined: a choice, written next to every table."""

import math
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from backsplit.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class EmptyPolicy:
    """Values for the cases in which the reference, the prediction or both have no voxel of a class.

    Where one of the two is empty, Dice and NSD are 0 by definition and only HD95 needs a choice. Where both are, all
    three are undefined.

    Raises:
        ConfigurationError: a penalty that is not a distance of 0 mm or more.
    """

    name: str
    """Short name for the column `empty_policy` of tables."""
    hd95_one_empty: float | Literal["diagonal", "undefined"] = "undefined"
    """HD95 in mm where one mask is empty; `diagonal` is the diagonal of that case's image."""
    both_empty: Literal["perfect", "undefined"] = "undefined"
    """`perfect` scores an absent lesion that is not predicted: Dice 1, NSD 1, HD95 0 mm."""

    def __post_init__(self) -> None:
        if not isinstance(self.hd95_one_empty, str) and not 0 <= self.hd95_one_empty < math.inf:
            raise ConfigurationError(
                f"HD95 penalty must be a finite number of mm, 0 or more, got {self.hd95_one_empty}"
            )

    def describe(self) -> str:
        """One sentence to print next to a table."""
        penalty = {"diagonal": "the image diagonal", "undefined": "undefined"}.get(
            str(self.hd95_one_empty), f"{self.hd95_one_empty} mm"
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
        if self.hd95_one_empty != "undefined":
            filled["hd95_mm"] = filled["hd95_mm"].mask(no_reference ^ no_prediction, self._penalty_mm(scores))
        if self.both_empty == "perfect":
            filled.loc[no_reference & no_prediction, ["dice", "nsd", "hd95_mm"]] = (1.0, 1.0, 0.0)
        return filled

    def _penalty_mm(self, scores: pd.DataFrame) -> pd.Series | float:
        if not isinstance(self.hd95_one_empty, str):
            return float(self.hd95_one_empty)
        if "diagonal_mm" not in scores:
            raise ConfigurationError(
                "the image diagonal as HD95 penalty needs the column diagonal_mm; score again, or state a penalty in mm"
            )
        return scores["diagonal_mm"]


UNDEFINED = EmptyPolicy("undefined")
"""Undefined stays undefined, and is counted beside each mean."""
PENALTY = EmptyPolicy("penalty", hd95_one_empty="diagonal")
"""A missed lesion or a false alarm costs the image diagonal in HD95."""
POLICIES = {policy.name: policy for policy in (UNDEFINED, PENALTY)}
"""The presets by name."""
