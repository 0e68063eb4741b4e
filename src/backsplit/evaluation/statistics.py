"""Arms against a baseline, unit by unit: every patient is scored by each arm, so differences are paired.

A unit is a patient where the scores say who is one (column `group`), else a case. Seeds, folds and several cases of a
patient are repeated measures, not further units: their differences are averaged first. So a third seed makes a
difference more exact and adds no patient.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from backsplit.errors import ConfigurationError, ParityError
from backsplit.evaluation.definitions import Metric, metrics_in
from backsplit.evaluation.empty import EmptyPolicy

Differences = Float[np.ndarray, " units"]

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
FEWEST_UNITS = 3
ENOUGH_UNITS = 20
"""Of skewed differences, intervals of fewer hold the mean less often than they say (`docs/statistics.md`)."""
ZERO_METHOD = "pratt"
"""Wilcoxon: pairs without a difference are ranked with the others, then their ranks are dropped."""
COMPARED = ("dice", "hd95_mm")
"""Beside NSD at every tolerance; each further metric makes Holm's correction stricter for all."""
_COLUMNS = (
    *("arm", "baseline", "class", "metric", "rule", "unit", "num_seeds", "num_pairs", "num_undefined"),
    *("mean_difference", "low", "high", "wins", "ties", "losses", "effect_rank_biserial", "effect_d"),
    *("p_wilcoxon", "p_permutation", "p_holm", "note", "empty_policy"),
)


@dataclass(frozen=True, slots=True)
class _Paired:
    """Arm minus baseline of one class and metric."""

    arm: str
    class_name: str
    metric: Metric
    differences: Differences
    """One per unit, NaN where either score is undefined."""
    units: pd.Index


def compare(
    scores: pd.DataFrame,
    *,
    baseline: str,
    policy: EmptyPolicy,
    metrics: Collection[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare every other arm with the baseline, for each class and metric.

    Args:
        scores: as `read_scores` gives them; every arm has the same cases of each class, with the same seeds.
        baseline: name of the arm that the others are compared with.
        policy: applied first; units whose difference is still undefined are left out and counted.
        metrics: columns to compare; by default Dice, HD95 and NSD at every tolerance.
        seed: of bootstrap and permutations; every row starts from it anew, so a row does not depend on its neighbours.

    Returns:
        One row per arm, class and metric: `rule` of the arm, `unit` (patient or case), `num_seeds`, `num_pairs` of
        units, `num_undefined`, `mean_difference` (arm minus baseline, in the unit of the metric) with the limits `low`
        and `high` of its 95 % interval (BCa bootstrap over units, widened for few), `wins`, `ties`, `losses` of the
        arm, the effect sizes `effect_rank_biserial` (matched pairs, in -1 to 1) and `effect_d` (mean over standard
        deviation), positive where the arm is better, `p_wilcoxon` (signed-rank) and `p_permutation` (signs of the
        differences, mean as statistic), both two-sided, `p_holm` (the former corrected over the whole table), `note`
        (why something is undefined or to be read with care), `empty_policy`.

    Raises:
        ConfigurationError: the baseline is not among the arms, there is no other, or a metric was not scored.
        ParityError: something scored twice, or arms that differ in their cases, seeds or tolerances.

    Source:
        Efron, Better bootstrap confidence intervals, JASA 82, 1987. Pratt, Remarks on zeros and ties in the Wilcoxon
        signed rank procedures, JASA 54, 1959. Kerby, The simple difference formula, Compr. Psychol. 3, 2014.
    """
    _require_parity(scores, baseline)
    chosen = _chosen(scores, metrics)
    filled = policy.apply(scores)
    rows = [
        {
            "arm": each.arm,
            "baseline": baseline,
            "class": each.class_name,
            "metric": each.metric.column,
            **_settings(scores[(scores["arm"] == each.arm) & (scores["class"] == each.class_name)]),
            **_compare_pairs(each, seed=seed),
        }
        for each in _pairs(filled, baseline, chosen)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).assign(empty_policy=policy.name)
    return table.assign(p_holm=holm(table["p_wilcoxon"].to_numpy(float)))


def compare_by(scores: pd.DataFrame, *, baseline: str, policy: EmptyPolicy, by: str) -> pd.DataFrame:
    """The same mean differences within bands: by `fold`, or by `size` of the lesions. No tests: bands are for looking.

    Args:
        scores: as for `compare`.
        baseline: name of the arm that the others are compared with.
        policy: applied first.
        by: `fold`; or `size`, thirds of the cases with a lesion by its volume, and those without.

    Returns:
        One row per arm, class, metric and band: `num_pairs`, `mean_difference`, `wins`, `ties`, `losses`.

    Raises:
        ConfigurationError: as for `compare`, or another band.
        ParityError: as for `compare`.
    """
    _require_parity(scores, baseline)
    if by not in ("fold", "size"):
        raise ConfigurationError(f"bands are by fold or by size, not by {by!r}")
    rows = []
    for class_name, group in policy.apply(scores).groupby("class"):
        bands = group["fold"] if by == "fold" else _size_bands(group, baseline)
        for band, within in group.groupby(bands, sort=True, observed=True):
            for each in _pairs(within, baseline, _chosen(scores, None)):
                counted = _count(each.differences, each.metric)
                rows.append(
                    {"arm": each.arm, "class": class_name, "metric": each.metric.column, "band": str(band), **counted}
                )
    columns = ["arm", "class", "metric", "band", "num_pairs", "mean_difference", "wins", "ties", "losses"]
    return pd.DataFrame(rows, columns=columns).sort_values(["class", "arm", "metric", "band"], ignore_index=True)


def paired_differences(scores: pd.DataFrame, *, baseline: str, arm: str, class_name: str, metric: str) -> pd.Series:
    """Arm minus baseline by unit, for plots; NaN where undefined. Apply the empty policy before."""
    of_class = scores[(scores["class"] == class_name) & scores["arm"].isin([arm, baseline])]
    (each,) = _pairs(of_class, baseline, _chosen(scores, [metric]))
    return pd.Series(each.differences, index=each.units, name="difference")


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
    r"""95 % BCa interval of the mean, and a note: empty, why the limits are NaN, or that the units are few.

    A bootstrap of $n$ units is too narrow by the factor $\sqrt{(n - 1) / n}$ and by that of a normal to a t
    distribution. So the interval is taken at the level whose normal quantile is $\sqrt{n / (n - 1)} \, t_{n - 1}$.

    Source:
        Hesterberg, What teachers should know about the bootstrap, Am. Stat. 69, 2015 (expanded percentiles).
    """
    if differences.size < FEWEST_UNITS:
        return np.nan, np.nan, f"no interval: fewer than {FEWEST_UNITS} pairs"
    if np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return np.nan, np.nan, "no interval: all differences are equal"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # gives NaN, which the note explains
        interval = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=NUM_RESAMPLES,
            confidence_level=_expanded_level(differences.size),
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if np.isnan(low + high):
        return low, high, "no interval: the bootstrap distribution is degenerate"
    few = f"{differences.size} pairs: an interval of fewer than {ENOUGH_UNITS} may be too narrow"
    return low, high, few if differences.size < ENOUGH_UNITS else ""


def _expanded_level(num_units: int) -> float:
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, num_units - 1) * np.sqrt(num_units / (num_units - 1))
    return float(2 * stats.norm.cdf(quantile) - 1)


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


def permutation_p(differences: Differences, *, seed: int) -> float:
    """Two-sided p of the mean under random signs, exact where all of them can be tried; NaN without pairs."""
    if not differences.size:
        return np.nan
    if differences.size == 1 or not differences.any():
        return 1.0  # every assignment of signs is as far from 0
    result = stats.permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def rank_biserial(differences: Differences) -> float:
    """Ranks of positive differences minus those of negative ones, over all ranks; zeros are ranked, then dropped.

    Returns:
        -1 to 1; NaN where no difference is other than 0.
    """
    ranks = stats.rankdata(np.abs(differences))[differences != 0] if differences.size else np.zeros(0)
    if not ranks.size:
        return np.nan
    return float((ranks * np.sign(differences[differences != 0])).sum() / ranks.sum())


def _chosen(scores: pd.DataFrame, metrics: Collection[str] | None) -> list[Metric]:
    scored = {metric.column: metric for metric in metrics_in(scores.columns)}
    if metrics is None:
        return [m for name, m in scored.items() if name in COMPARED or name.startswith("nsd_")]
    if unknown := [name for name in metrics if name not in scored]:
        raise ConfigurationError(f"{', '.join(unknown)} was not scored; there are {', '.join(scored)}")
    return [scored[name] for name in metrics]


def _require_parity(scores: pd.DataFrame, baseline: str) -> None:
    arms = sorted(scores["arm"].unique())
    if baseline not in arms:
        raise ConfigurationError(f"baseline {baseline!r} is not among the arms {', '.join(arms)}")
    if len(arms) == 1:
        raise ConfigurationError(f"{baseline!r} is the only arm that is scored; predict and evaluate another one")
    twice = scores[scores.duplicated(["arm", "case", "class", "seed"])]
    if len(twice):
        arm, case, name = twice.iloc[0][["arm", "case", "class"]]
        raise ParityError(
            f"{case}: class {name!r} is scored more than once in arm {arm!r} ({len(twice)} such rows in all); "
            "keep one fold and one rule per case and seed"
        )
    for name, group in scores.groupby("class"):
        _require_same_cases(group, baseline, str(name), arms)
        for metric in metrics_in(group.columns):
            scored = {str(arm) for arm, of_arm in group.groupby("arm") if of_arm[metric.column].notna().any()}
            if metric.column.startswith(("nsd_", "border_nsd_")) and 0 < len(scored) < len(arms):
                lacking = ", ".join(sorted(set(arms) - scored))
                raise ParityError(
                    f"class {name!r}: {metric.label} is scored in some arms, not in {lacking}; score again"
                )


def _require_same_cases(scores: pd.DataFrame, baseline: str, class_name: str, arms: Sequence[str]) -> None:
    def scored(arm: str) -> set[tuple[str, str]]:
        return set(scores.loc[scores["arm"] == arm, ["case", "seed"]].itertuples(index=False, name=None))

    expected = scored(baseline)
    for arm in arms:
        found = scored(arm)
        clauses = [
            f"{there!r} lacks {', '.join(sorted({_told(each, found | expected) for each in lacking}))}"
            for there, lacking in ((arm, expected - found), (baseline, found - expected))
            if lacking
        ]
        if clauses:
            raise ParityError(f"class {class_name!r}: {'; '.join(clauses)}; score the same cases in every arm")


def _told(scored: tuple[str, str], everything: set[tuple[str, str]]) -> str:
    """A case, with its seed where there are several."""
    case, seed = scored
    return case if len({other for _, other in everything}) == 1 else f"{case} (seed {seed})"


def _pairs(scores: pd.DataFrame, baseline: str, metrics: Sequence[Metric]) -> Iterator[_Paired]:
    """Arm minus baseline for each unit, all in the order of their names."""
    unit = _unit(scores)
    for class_name, group in scores.groupby("class"):
        columns = [metric.column for metric in metrics]
        values = group.set_index(["arm", "case", "seed"])[columns].unstack("arm")  # noqa: PD010  nothing to average
        units = group.drop_duplicates("case").set_index("case")[unit if unit != "case" else "arm"]
        for arm in sorted(set(group["arm"]) - {baseline}):
            for metric in metrics:
                difference = values[metric.column][arm] - values[metric.column][baseline]
                by_case = difference.groupby(level="case").mean()
                of_units = by_case if unit == "case" else by_case.groupby(units.reindex(by_case.index)).mean()
                yield _Paired(arm, str(class_name), metric, of_units.to_numpy(float), of_units.index)


def _unit(scores: pd.DataFrame) -> str:
    """`group` where the scores name patients, else `case`."""
    return "group" if "group" in scores and (scores["group"].fillna("") != "").all() else "case"


def _settings(scores: pd.DataFrame) -> dict[str, str | int]:
    return {
        "rule": " and ".join(sorted(scores["rule"].unique())),
        "unit": "patient" if _unit(scores) == "group" else "case",
        "num_seeds": int(scores["seed"].nunique()),
    }


def _compare_pairs(paired: _Paired, *, seed: int) -> dict[str, float | int | str]:
    defined = paired.differences[~np.isnan(paired.differences)]
    gains = -defined if paired.metric.better == "lower" else defined
    low, high, note = bootstrap_interval(defined, seed=seed)
    spread = float(defined.std(ddof=1)) if defined.size > 1 else 0.0
    return {
        **_count(paired.differences, paired.metric),
        "num_undefined": paired.differences.size - defined.size,
        "low": low,
        "high": high,
        "effect_rank_biserial": rank_biserial(gains),
        "effect_d": float(gains.mean()) / spread if spread else np.nan,
        "p_wilcoxon": wilcoxon_p(defined),
        "p_permutation": permutation_p(defined, seed=seed),
        "note": note,
    }


def _count(differences: Differences, metric: Metric) -> dict[str, float | int]:
    defined = differences[~np.isnan(differences)]
    gains = -defined if metric.better == "lower" else defined
    return {
        "num_pairs": defined.size,
        "mean_difference": float(defined.mean()) if defined.size else np.nan,
        "wins": int((gains > 0).sum()),
        "ties": int((gains == 0).sum()),
        "losses": int((gains < 0).sum()),
    }


def _size_bands(group: pd.DataFrame, baseline: str) -> pd.Series:
    """Band of each row, by the volume of its case's reference."""
    volumes = group[group["arm"] == baseline].drop_duplicates("case").set_index("case")["reference_ml"]
    present = volumes[volumes > 0]
    low, high = (present.quantile(share) for share in (1 / 3, 2 / 3)) if len(present) else (0.0, 0.0)
    names = {"0 none": volumes == 0, f"1 up to {low:.3g} mL": (volumes > 0) & (volumes <= low)}
    names[f"2 up to {high:.3g} mL"] = (volumes > low) & (volumes <= high)
    names["3 larger"] = volumes > high
    bands = pd.Series("", index=volumes.index)
    for name, is_inside in names.items():
        bands[is_inside] = name
    return group["case"].map(bands)
