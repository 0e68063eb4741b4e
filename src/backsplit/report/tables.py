"""The tables of `backsplit.evaluation` as tables of the page, and as the differences that its headlines speak of."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from backsplit.evaluation import DISTANCES, Metric, metric_of
from backsplit.progress import format_duration
from backsplit.report.page import Cell, Table
from backsplit.report.wording import SIGNIFICANCE, Difference, count, decimals, interval, p_text

UNRECORDED = "not recorded"
RULES = {
    "argmax": "Rule argmax: the most probable fine class of a voxel, merged to target or rest afterwards.",
    "pooled": "Rule pooled: probabilities are pooled over target and rest first, then the larger one wins.",
}


def score_table(summary: pd.DataFrame, policy: str) -> Table:
    """Means over the cases, arm by arm; medians and the number of undefined values in small print."""
    shown = [m for m in (metric_of(column.removeprefix("mean_")) for column in summary.columns) if m and _is_shown(m)]
    rules = [RULES[rule] for rule in summary["rule"].astype(str).unique() if rule in RULES]
    return Table(
        columns=("Arm", "Class", "Cases", *(metric.label for metric in shown), "Missed", "False alarms"),
        rows=tuple(_score_row(row, shown) for _, row in summary.iterrows()),
        notes=(
            "Means over the cases. Missed: cases with a reference and no prediction; false alarms: the reverse.",
            policy,
            *rules,
        ),
    )


def comparison_table(comparison: pd.DataFrame, policy: str) -> Table:
    """Arm minus baseline, for each class and metric."""
    return Table(
        columns=(
            "Arm", "Class", "Metric", "Difference", "95 % interval", "Wins / ties / losses", "Wilcoxon p", "Holm p",
        ),
        rows=tuple(_comparison_row(row) for _, row in comparison.iterrows()),
        notes=(
            "Differences are means of arm minus baseline, paired case by case: for Dice and NSD above zero is better, "
            "for HD95 below zero. A win is a case, or a patient with several, on which the arm is better; seeds are "
            "averaged first. Intervals: BCa bootstrap over these. "
            "Wilcoxon p: signed-rank test, two-sided; Holm p: corrected for all rows of this table.",
            policy,
        ),
    )  # fmt: skip


def cost_table(
    arms: Sequence[str],
    curves: Mapping[str, pd.DataFrame],
    parameters: Mapping[str, int],
    prediction_seconds: Mapping[str, float],
) -> Table:
    """What each arm took, training from its log; what was not recorded is said so."""
    return Table(
        columns=("Arm", "Seconds per epoch", "Training", "Prediction of a case", "Parameters"),
        rows=tuple(
            (
                Cell(arm),
                *_training_cells(curves.get(arm)),
                Cell(_seconds_text(prediction_seconds.get(arm))),
                Cell(_parameters_text(parameters.get(arm))),
            )
            for arm in arms
        ),
        notes=(
            "Seconds per epoch: median; one fold of each arm. Prediction: mean over cases, from reading to writing.",
        ),
    )


def _training_cells(log: pd.DataFrame | None) -> tuple[Cell, Cell]:
    if log is None or "seconds" not in log:
        return Cell(UNRECORDED), Cell(UNRECORDED)
    return Cell(f"{log['seconds'].median():.3g}"), Cell(format_duration(log["seconds"].sum()))


def _seconds_text(seconds: float | None) -> str:
    return UNRECORDED if seconds is None else f"{seconds:.3g} s"


def _parameters_text(number: int | None) -> str:
    return UNRECORDED if number is None else f"{number / 1e6:.3f} M"


def dice_differences(comparison: pd.DataFrame, folds: Sequence[str]) -> tuple[Difference, ...]:
    """The Dice rows of a comparison, in its order."""
    of_dice = comparison[comparison["metric"] == "dice"]
    return tuple(
        Difference(
            class_name=str(row["class"]),
            arm=str(row["arm"]),
            baseline=str(row["baseline"]),
            estimate=float(row["mean_difference"]),
            low=float(row["low"]),
            high=float(row["high"]),
            num_pairs=int(row["num_pairs"]),
            p_value=float(row["p_holm"]),
            folds=tuple(folds),
            against=tuple(_opposites(row, comparison)),
        )
        for _, row in of_dice.iterrows()
    )


def _opposites(of_dice: pd.Series, comparison: pd.DataFrame) -> Iterator[str]:
    """What the tests of other metrics hold against the difference in Dice."""
    for _, row in comparison.iterrows():
        metric = metric_of(row["metric"])
        if (row["arm"], row["class"]) != (of_dice["arm"], of_dice["class"]) or metric is None:
            continue
        gain = -row["mean_difference"] if metric.better == "lower" else row["mean_difference"]
        if gain * of_dice["mean_difference"] < 0 and row["p_holm"] <= SIGNIFICANCE:
            digits = _digits(row["metric"])
            change = decimals(row["mean_difference"], digits, signed=True)
            yield f"{metric.label} {change} ({interval(row['low'], row['high'], digits)}), {_better(metric)} is better"


def _better(metric: Metric) -> str:
    return "less" if metric.better == "lower" else "more"


def _score_row(row: pd.Series, shown: Sequence[Metric]) -> tuple[Cell, ...]:
    return (
        Cell(str(row["arm"]), f"rule {row['rule']}"),
        Cell(str(row["class"])),
        Cell(str(row["num_cases"])),
        *(_score_cell(row, metric.column) for metric in shown),
        Cell(str(row["num_missed"])),
        Cell(str(row["num_false_alarms"])),
    )


def _score_cell(row: pd.Series, metric: str) -> Cell:
    digits = _digits(metric)
    parts = [f"median {decimals(row[f'median_{metric}'], digits)}"]
    if num_undefined := int(row[f"num_undefined_{metric}"]):
        parts.append(f"{num_undefined} undefined")
    return Cell(decimals(row[f"mean_{metric}"], digits), ", ".join(parts))


def _comparison_row(row: pd.Series) -> tuple[Cell, ...]:
    digits = _digits(row["metric"])
    pairs = count(int(row["num_pairs"]), "pair")
    undefined = f", {int(row['num_undefined'])} undefined" if row["num_undefined"] else ""
    note = row["note"] if isinstance(row["note"], str) else ""
    return (
        Cell(str(row["arm"]), f"minus {row['baseline']}"),
        Cell(str(row["class"])),
        Cell(_label(row["metric"])),
        Cell(decimals(row["mean_difference"], digits, signed=True), f"{pairs}{undefined}"),
        Cell(interval(row["low"], row["high"], digits), note),
        Cell(f"{int(row['wins'])} / {int(row['ties'])} / {int(row['losses'])}"),
        Cell(p_text(row["p_wilcoxon"])),
        Cell(p_text(row["p_holm"])),
    )


def _label(column: str) -> str:
    metric = metric_of(column)
    return column if metric is None else metric.label


def _is_shown(metric: Metric) -> bool:
    """The table of a page has room for the paper's three metrics; the others are in the files beside it."""
    return metric.column in ("dice", "hd95_mm") or metric.column.startswith("nsd_")


def _digits(metric: str) -> int:
    return 1 if metric in DISTANCES else 3
