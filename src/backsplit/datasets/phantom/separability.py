"""How well intensity alone finds a target."""

import math

import numpy as np
from jaxtyping import Bool, Num


def best_threshold_dice(image: Num[np.ndarray, "..."], target: Bool[np.ndarray, "..."]) -> float:
    """Largest Dice of `low <= HU < high` against the target over all pairs of thresholds, values rounded to whole HU.

    It says how far intensity alone gets. Pool cases by stacking them. Thresholds beyond the target's own range only add
    false positives, so those inside it are enough.

    Returns:
        0 to 1; NaN where the target is empty.
    """
    if not target.any():
        return math.nan
    hu = np.rint(image).astype(np.int64)
    lowest, highest = int(hu[target].min()), int(hu[target].max())
    in_range = (hu >= lowest) & (hu <= highest)
    num_values = highest - lowest + 1
    hits = np.cumsum(np.bincount(hu[target] - lowest, minlength=num_values))
    marked = np.cumsum(np.bincount(hu[in_range] - lowest, minlength=num_values))
    hits, marked = np.insert(hits, 0, 0), np.insert(marked, 0, 0)
    dice = 2 * (hits - hits[:, None]) / (marked - marked[:, None] + hits[-1]).clip(min=1)
    return float(np.triu(dice).max())
