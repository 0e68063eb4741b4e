"""Which cases a reader should look at: the best, the median and the worst for an arm against the baseline."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

CASE_RULE = (
    "Cases are ordered by the Dice of the arm minus the Dice of the baseline, largest first, equal differences by case "
    "name. Shown are the first, the middle (of an even number, the upper of the two) and the last. Cases whose Dice is "
    "undefined in either arm are left out of the order."
)


@dataclass(frozen=True, slots=True)
class Contest:
    """One class, and the arm that is held against the baseline."""

    class_name: str
    baseline: str
    arm: str


@dataclass(frozen=True, slots=True)
class PairedDice:
    """Dice of the cases that have one in both arms, best difference first, and the number that have not."""

    cases: tuple[str, ...]
    baseline: np.ndarray
    arm: np.ndarray
    num_undefined: int


def paired_dice(scores: pd.DataFrame, contest: Contest) -> PairedDice:
    """Pair the Dice of two arms case by case, in the order of `CASE_RULE`.

    A case that was scored in one arm only counts as undefined.
    """
    of_class = scores[scores["class"] == contest.class_name].set_index("case")
    both = pd.DataFrame(
        {arm: of_class.loc[of_class["arm"] == arm, "dice"] for arm in (contest.baseline, contest.arm)}
    ).astype(float)
    both.index = both.index.astype(str)
    defined = both.dropna().sort_index()
    difference = defined[contest.arm] - defined[contest.baseline]
    ordered = defined.loc[difference.sort_values(ascending=False, kind="stable").index]
    return PairedDice(
        cases=tuple(ordered.index),
        baseline=ordered[contest.baseline].to_numpy(),
        arm=ordered[contest.arm].to_numpy(),
        num_undefined=len(both) - len(defined),
    )


def telling_cases(num_cases: int) -> dict[str, int]:
    """Rank names and positions in the order; fewer than three cases give fewer names, none gives none."""
    positions = {"Best": 0, "Median": (num_cases - 1) // 2, "Worst": num_cases - 1}
    if num_cases < 3:
        positions.pop("Median")
    if num_cases < 2:
        positions.pop("Worst")
    return positions if num_cases else {}
