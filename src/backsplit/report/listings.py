"""Tables that a reader sorts and filters, a row per case or per lesion; each row opens its case."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from backsplit.report.caseviews import safe_id
from backsplit.report.page import Cell, Column, Filter, Listing, ListingRow
from backsplit.report.wording import UNDEFINED, count, decimals

OUTCOMES = ("better", "worse", "equal", UNDEFINED)
_ML_DIGITS = 2


def case_listing(scores: pd.DataFrame, baseline: str, arms: Sequence[str]) -> Listing:
    """A row per case, class and arm: its Dice and HD95 beside those of the baseline.

    Args:
        scores: as `read_scores` gives them, one row per arm, case and class.
        baseline: arm that the others are held against.
        arms: the others.
    """
    indexed = scores.set_index(["case", "class", "arm"]).sort_index()
    edges = _edges(indexed.xs(baseline, level="arm")["reference_ml"])
    rows = tuple(
        _case_row(indexed, (str(case), str(name), baseline, arm), edges)
        for case, name in dict.fromkeys(zip(scores["case"], scores["class"], strict=True))
        for arm in arms
        if {(case, name, baseline), (case, name, arm)} <= set(indexed.index)
    )
    columns = (
        Column("Case"),
        Column("Class", minor=True),
        Column("Arm", minor=True),
        Column("Fold", minor=True),
        Column("Size (mL)", is_number=True, minor=True),
        Column(f"Dice, {baseline}" if len(arms) == 1 else "Dice, baseline", is_number=True),
        Column(f"Dice, {arms[0]}" if len(arms) == 1 else "Dice, arm", is_number=True),
        Column("Difference", is_number=True),
        Column(f"HD95 (mm), {baseline}" if len(arms) == 1 else "HD95 (mm), baseline", is_number=True, minor=True),
        Column(f"HD95 (mm), {arms[0]}" if len(arms) == 1 else "HD95 (mm), arm", is_number=True, minor=True),
    )
    note = "Size: volume of the reference; small, medium and large are thirds of the cases that have a lesion."
    return _listing("cases", "case", columns, rows, note)


def _case_row(scores: pd.DataFrame, key: tuple[str, str, str, str], edges: tuple[float, float]) -> ListingRow:
    case, name, baseline, arm = key
    before, after = scores.loc[(case, name, baseline)], scores.loc[(case, name, arm)]
    difference = float(after["dice"] - before["dice"])
    outcome = _outcome(difference)
    return ListingRow(
        address=f"case/{safe_id(case)}",
        cells=(
            Cell(case),
            Cell(name),
            Cell(arm),
            Cell(str(after["fold"])),
            _number(before["reference_ml"], _ML_DIGITS),
            _number(before["dice"]),
            _number(after["dice"]),
            Cell(decimals(difference, signed=True), outcome, difference),
            _number(before["hd95_mm"], 1),
            _number(after["hd95_mm"], 1),
        ),
        tags={
            "Outcome": (outcome,),
            "Size": (_band(float(before["reference_ml"]), edges),),
            "Fold": (str(after["fold"]),),
            "Class": (name,),
            "Arm": (arm,),
        },
    )


def lesion_listing(lesions: pd.DataFrame, arms: Sequence[str], targets: Sequence[str]) -> Listing:
    """A row per reference lesion, with its Dice in every arm, and one per false alarm of an arm.

    Args:
        lesions: as `lesions.csv` has them.
        arms: the baseline first; arms that have no masks to show come last.
        targets: the classes, in the order of their label values.
    """
    of_reference = lesions[lesions["kind"] == "reference"]
    edges = _edges(of_reference["ml"].astype(float))
    rows: list[ListingRow] = []
    for (case, name, number), group in of_reference.groupby(["case", "class", "lesion"], sort=False):
        by_arm = group.set_index("arm")
        found = {arm: by_arm.loc[arm] for arm in arms if arm in by_arm.index}
        missed = [arm for arm, row in found.items() if row["detected"] != "yes"]
        ml = float(group["ml"].iloc[0])
        kind = "missed by all" if len(missed) == len(found) else "found by all" if not missed else "found by some"
        rows.append(
            ListingRow(
                address=f"case/{safe_id(str(case))}/{targets.index(str(name)) + 1}-r-{number}",
                cells=(
                    Cell(str(case)),
                    Cell(str(name)),
                    Cell("lesion"),
                    _number(ml, _ML_DIGITS),
                    *(_lesion_dice(found.get(arm)) for arm in arms),
                ),
                tags={
                    "Finding": ("lesions", kind, *(f"missed by {arm}" for arm in missed)),
                    "Size": (_band(ml, edges),),
                    "Fold": (str(group["fold"].iloc[0]),),
                    "Class": (str(name),),
                },
            )
        )
    rows += _false_alarms(lesions, arms, targets, edges)
    columns = (
        Column("Case"),
        Column("Class", minor=True),
        Column("Finding"),
        Column("Size (mL)", is_number=True),
        *(Column(f"Dice, {arm}", is_number=True) for arm in arms),
    )
    note = (
        "A lesion is a connected part of the reference (26 neighbours), missed if none of its voxels was predicted. "
        "A false alarm shares no voxel with any lesion. Small, medium and large are thirds of the lesions."
    )
    return _listing("lesions", "finding", columns, tuple(rows), note)


def _false_alarms(
    lesions: pd.DataFrame, arms: Sequence[str], targets: Sequence[str], edges: tuple[float, float]
) -> list[ListingRow]:
    false = lesions[(lesions["kind"] == "false") & lesions["arm"].isin(list(arms))]
    return [
        ListingRow(
            address=f"case/{safe_id(str(row['case']))}/{targets.index(str(row['class'])) + 1}-"
            f"{arms.index(str(row['arm']))}-{row['lesion']}",
            cells=(
                Cell(str(row["case"])),
                Cell(str(row["class"])),
                Cell(f"false alarm of {row['arm']}"),
                _number(float(row["ml"]), _ML_DIGITS),
                *(Cell("") for _ in arms),
            ),
            tags={
                "Finding": ("false alarms", f"false alarm of {row['arm']}"),
                "Size": (_band(float(row["ml"]), edges),),
                "Fold": (str(row["fold"]),),
                "Class": (str(row["class"]),),
            },
        )
        for _, row in false.iterrows()
    ]


def _edges(volumes: pd.Series) -> tuple[float, float]:
    present = volumes[volumes > 0]
    return (float(present.quantile(1 / 3)), float(present.quantile(2 / 3))) if len(present) else (0.0, 0.0)


def _band(ml: float, edges: tuple[float, float]) -> str:
    if ml <= 0:
        return "none"
    return "small" if ml <= edges[0] else "medium" if ml <= edges[1] else "large"


def _outcome(difference: float) -> str:
    if np.isnan(difference):
        return UNDEFINED
    return "better" if difference > 0 else "worse" if difference < 0 else "equal"


def _number(value: float, digits: int = 3) -> Cell:
    return Cell(decimals(float(value), digits), "", float(value))


def _lesion_dice(row: pd.Series | None) -> Cell:
    if row is None:
        return Cell("")
    return _number(float(row["dice"])) if row["detected"] == "yes" else Cell("missed", "", 0.0)


def _listing(name: str, noun: str, columns: tuple[Column, ...], rows: tuple[ListingRow, ...], note: str) -> Listing:
    """Columns whose cells are all equal texts, and filters with one option, say nothing and are left out."""
    kept = [
        index
        for index, column in enumerate(columns)
        if column.is_number or not column.minor or len({row.cells[index].text for row in rows}) > 1
    ]
    options: dict[str, dict[str, None]] = {}
    for row in rows:
        for tag, values in row.tags.items():
            options.setdefault(tag, {}).update(dict.fromkeys(values))
    filters = tuple(Filter(tag, tuple(_ordered(values))) for tag, values in options.items() if len(values) > 1)
    return Listing(
        name=name,
        caption=f"All {count(len(rows), noun)}",
        columns=tuple(columns[index] for index in kept),
        rows=tuple(ListingRow(row.address, tuple(row.cells[index] for index in kept), row.tags) for row in rows),
        filters=filters,
        notes=(note,),
    )


def _ordered(values: Mapping[str, None]) -> list[str]:
    known = (*OUTCOMES, "none", "small", "medium", "large")
    return sorted(values, key=lambda value: (known.index(value) if value in known else len(known), value))
