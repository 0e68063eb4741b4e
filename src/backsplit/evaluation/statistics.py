"""Arms against a baseline, case by case: every case is scored once by each arm, so differences are paired."""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from backsplit.errors import ConfigurationError, ParityError
from backsplit.evaluation.empty import EmptyPolicy
from backsplit.evaluation.tables import METRICS

Differences = Float[np.ndarray, " pairs"]

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
ZERO_METHOD = "pratt"
"""Wilcoxon: pairs without a difference are ranked with the others, then their ranks are dropped."""
_SMALLER_IS_BETTER = ("hd95_mm",)
_COLUMNS = (
    *("arm", "baseline", "class", "metric", "rule", "tolerance_mm", "num_pairs", "num_undefined"),
    *("mean_difference", "low", "high", "wins", "ties", "losses", "p_wilcoxon", "p_holm", "note", "empty_policy"),
)


def compare(scores: pd.DataFrame, *, baseline: str, policy: EmptyPolicy, seed: int = 0) -> pd.DataFrame:
    """Compare every other arm with the baseline, for each class and metric.

    Args:
        scores: as `read_scores` gives them; every arm has the same cases of each class.
        baseline: name of the arm that the others are compared with.
        policy: applied first; pairs with a value that is still undefined are left out and counted.
        seed: of the bootstrap; every row starts from it anew, so a row does not depend on its neighbours.

    Returns:
        One row per arm, class and metric: `rule` of the arm, `tolerance_mm`, `num_pairs`, `num_undefined`,
        `mean_difference` (arm minus baseline, in the unit of the metric) with the limits `low` and `high` of its 95 %
        interval (BCa bootstrap over cases), `wins`, `ties`, `losses` of the arm (a smaller HD95 wins), `p_wilcoxon`
        (signed-rank, two-sided; 1 where all differences are 0), `p_holm` (corrected over the whole table), `note`
        (why an interval or p-value is undefined), `empty_policy`.

    Raises:
        ConfigurationError: the baseline is not among the arms.
        ParityError: a case scored twice, or arms that differ in their cases or NSD tolerance.

    Source:
        Efron, Better bootstrap confidence intervals, JASA 82, 1987. Pratt, Remarks on zeros and ties in the Wilcoxon
        signed rank procedures, JASA 54, 1959.
    """
    _require_parity(scores, baseline)
    rows = [
        {
            "arm": arm,
            "baseline": baseline,
            "class": class_name,
            "metric": metric,
            **_settings(scores[(scores["arm"] == arm) & (scores["class"] == class_name)]),
            **_compare_pairs(differences, smaller_is_better=metric in _SMALLER_IS_BETTER, seed=seed),
        }
        for arm, class_name, metric, differences in _differences(policy.apply(scores), baseline)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).assign(empty_policy=policy.name)
    return table.assign(p_holm=holm(table["p_wilcoxon"].to_numpy(float)))


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    r"""Holm's step-down correction, $\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) p_{(j)})$.

    Args:
        p_values: in [0, 1]; NaN is no test: it stays NaN and does not count in $m$.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Stat. 6, 1979.
    """
    corrected = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, factors * p_values[order]))
    return corrected


def bootstrap_interval(differences: Differences, *, seed: int) -> tuple[float, float, str]:
    """95 % BCa interval of the mean, and a note: empty, or the reason why the limits are NaN."""
    if differences.size < 3:
        return np.nan, np.nan, "no interval: fewer than 3 pairs"
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return np.nan, np.nan, "no interval: all differences are equal"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # gives NaN, which the note explains
        interval = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=NUM_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return low, high, "no interval: the bootstrap distribution is degenerate" if np.isnan(low + high) else ""


def wilcoxon_p(differences: Differences) -> float:
    """Two-sided p of the signed-rank test; NaN without pairs, 1 where all differences are 0.

    Zero differences are handled by `ZERO_METHOD`. SciPy picks the exact distribution for up to 50 pairs without ties
    or zeros, and otherwise sign permutations (up to 13 pairs) or the normal approximation.
    """
    if not differences.size:
        return np.nan
    if not differences.any():
        return 1.0  # every assignment of signs gives the same statistic
    return float(stats.wilcoxon(differences, zero_method=ZERO_METHOD).pvalue)


def _require_parity(scores: pd.DataFrame, baseline: str) -> None:
    arms = sorted(scores["arm"].unique())
    if baseline not in arms:
        raise ConfigurationError(f"baseline {baseline!r} is not among the arms {', '.join(arms)}")
    twice = scores[scores.duplicated(["arm", "case", "class"])]
    if len(twice):
        arm, case, name = twice.iloc[0][["arm", "case", "class"]]
        raise ParityError(
            f"{case}: class {name!r} is scored more than once in arm {arm!r} ({len(twice)} such rows in all); "
            "keep one fold and one rule per case"
        )
    for name, group in scores.groupby("class"):
        _require_same_cases(group, baseline, str(name), arms)
        tolerances = sorted(group["tolerance_mm"].unique().tolist())
        if len(tolerances) > 1:
            raise ParityError(f"class {name!r} is scored at NSD tolerances {tolerances} mm; use one for all arms")


def _require_same_cases(scores: pd.DataFrame, baseline: str, class_name: str, arms: list[str]) -> None:
    expected = set(scores.loc[scores["arm"] == baseline, "case"])
    for arm in arms:
        cases = set(scores.loc[scores["arm"] == arm, "case"])
        clauses = [
            f"{there!r} lacks {', '.join(sorted(lacking))}"
            for there, lacking in ((arm, expected - cases), (baseline, cases - expected))
            if lacking
        ]
        if clauses:
            raise ParityError(f"class {class_name!r}: {'; '.join(clauses)}; score the same cases in every arm")


def _differences(scores: pd.DataFrame, baseline: str) -> Iterator[tuple[str, str, str, Differences]]:
    """Arm, class, metric and arm minus baseline for each case, all in the order of their names."""
    for class_name, group in scores.groupby("class"):
        values = group.pivot(index="case", columns="arm", values=list(METRICS))  # noqa: PD010  would average duplicates
        for arm in sorted(set(group["arm"]) - {baseline}):
            for metric in METRICS:
                differences = values[metric][arm] - values[metric][baseline]
                yield arm, str(class_name), metric, differences.to_numpy(float)


def _settings(scores: pd.DataFrame) -> dict[str, str | float]:
    return {"rule": " and ".join(sorted(scores["rule"].unique())), "tolerance_mm": scores["tolerance_mm"].iloc[0]}


def _compare_pairs(differences: Differences, *, smaller_is_better: bool, seed: int) -> dict[str, float | int | str]:
    defined = differences[~np.isnan(differences)]
    gains = -defined if smaller_is_better else defined
    low, high, note = bootstrap_interval(defined, seed=seed)
    return {
        "num_pairs": defined.size,
        "num_undefined": differences.size - defined.size,
        "mean_difference": float(defined.mean()) if defined.size else np.nan,
        "low": low,
        "high": high,
        "wins": int((gains > 0).sum()),
        "ties": int((gains == 0).sum()),
        "losses": int((gains < 0).sum()),
        "p_wilcoxon": wilcoxon_p(defined),
        "note": note,
    }
