"""Scores on disk, and summed up.

`scores.csv` has a row per arm, fold, seed, case, class and rule; `lesions.csv` one per lesion.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from backsplit.errors import CohortError
from backsplit.evaluation.definitions import metrics_in
from backsplit.evaluation.empty import EmptyPolicy
from backsplit.evaluation.scoring import Row
from backsplit.files import replacing

KEYS = ("arm", "fold", "case", "rule", "seed", "group", "class")
"""Columns that say whose scores a row holds."""
_NAMES = (*KEYS, "kind", "detected", "baseline", "metric", "note", "empty_policy", "unit", "effect", "band")
_NEEDED = ("arm", "fold", "case", "class", "rule", "seed", "dice", "reference_ml", "prediction_ml")
_GROUPS = ("arm", "class", "rule")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write any table as CSV, whole or not at all: nine significant digits, an empty cell for NaN."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def write_rows(rows: Sequence[Row], path: Path, *, columns: Sequence[str] | None = None) -> None:
    """Write rows of one kind, under their own columns or the given ones; the same rows give the same bytes."""
    write_table(pd.DataFrame(list(rows), columns=None if columns is None else list(columns)), path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote; names stay text, even if they look like numbers."""
    return pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str))


def read_scores(path: Path) -> pd.DataFrame:
    """Read `scores.csv`; names and folds as text, an empty cell in a number column as NaN.

    Raises:
        CohortError: the file is missing, no CSV, lacks a column or any score, or has text where a number belongs.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())
        raise CohortError(f"{path}: cannot read scores ({reason}); write them with `backsplit evaluate`") from error
    missing = [column for column in _NEEDED if column not in frame]
    if missing:
        raise CohortError(f"{path}: columns {', '.join(missing)} are missing; got {', '.join(frame.columns)}")
    for column in frame.columns.difference(KEYS):
        frame[column] = _numbers(frame[column], path)
    return frame


def summarise(scores: pd.DataFrame, policy: EmptyPolicy) -> pd.DataFrame:
    """Sum up the cases of each arm and class, under an empty policy.

    Returns:
        One row per arm, class and rule, in order of appearance: `num_cases`; for each metric of the table `mean_`,
        `median_` and `num_undefined_`, means and medians over the defined values; `num_missed` (reference present,
        prediction empty); `num_false_alarms` (reference empty, prediction not); `empty_policy`.
    """
    groups = policy.apply(scores).groupby(list(_GROUPS), sort=False)
    rows = [group.iloc[0][list(_GROUPS)].to_dict() | _summary(group) for _, group in groups]
    columns = [*_GROUPS, *_summary(scores.iloc[:0])]
    return pd.DataFrame(rows, columns=columns).assign(empty_policy=policy.name)


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = column[numbers.isna() & (column.str.strip() != "")]
    if len(wrong):
        raise CohortError(
            f"{path}: column {column.name}, row {wrong.index[0] + 1}: expected a number or an empty cell, "
            f"got {wrong.iloc[0]!r}"
        )
    return numbers


def _summary(group: pd.DataFrame) -> dict[str, float | int]:
    summary: dict[str, float | int] = {"num_cases": len(group)}
    for metric in metrics_in(group.columns):
        summary |= {
            f"mean_{metric.column}": group[metric.column].mean(),
            f"median_{metric.column}": group[metric.column].median(),
            f"num_undefined_{metric.column}": int(group[metric.column].isna().sum()),
        }
    no_reference, no_prediction = group["reference_ml"] == 0, group["prediction_ml"] == 0
    summary["num_missed"] = int((no_prediction & ~no_reference).sum())
    summary["num_false_alarms"] = int((no_reference & ~no_prediction).sum())
    return summary
