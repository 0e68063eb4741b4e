"""Scores per case, on disk and summed up: one row per (arm, case, class)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Integer
from scipy.ndimage import find_objects

from backsplit.arrays import LabelMap, Spacing
from backsplit.errors import CohortError, GeometryError, LabelError
from backsplit.evaluation import metrics
from backsplit.evaluation.empty import EmptyPolicy
from backsplit.files import replacing

ReferenceLabels = Integer[np.ndarray, "reference_x reference_y reference_z"]
"""A label map whose shape should be that of the prediction; a user may bring another, which is a `GeometryError`."""

METRICS = ("dice", "hd95_mm", "nsd")
"""Columns that hold a score; undefined scores are NaN, an empty cell on disk."""
_TEXT = ("arm", "fold", "case", "class", "rule")
_NAMES = (*_TEXT, "baseline", "metric", "note", "empty_policy")
_NUMBERS = (*METRICS, "tolerance_mm", "reference_ml", "prediction_ml")
_KEYS = ("arm", "class", "rule", "tolerance_mm")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was scored."""

    arm: str
    fold: str
    """`0`, `1`, ... or `all`."""
    case: str
    rule: str
    """How fine classes became targets: `argmax` (then merge) or `pooled` (merge, then argmax)."""


@dataclass(frozen=True, slots=True)
class Score:
    """One row of `scores.csv`; the field `class_name` is the column `class`."""

    arm: str
    fold: str
    case: str
    class_name: str
    rule: str
    dice: float
    hd95_mm: float
    nsd: float
    tolerance_mm: float
    reference_ml: float
    prediction_ml: float
    diagonal_mm: float
    """Diagonal of the image, the largest distance that two masks can have."""


def score_label_maps(
    prediction: LabelMap,
    reference: ReferenceLabels,
    *,
    subject: Subject,
    classes: Mapping[int, str],
    spacing_mm: Spacing,
    tolerance_mm: float,
) -> list[Score]:
    """Score several classes; the volumes are read once, each class only inside the box that holds it.

    Args:
        prediction: label map.
        reference: label map on the same grid.
        subject: arm, fold, case and rule, for the rows.
        classes: label value (1 or more) to class name; other values in the maps are not scored.
        spacing_mm: edge lengths of a voxel, in the order of the array axes.
        tolerance_mm: accepted surface deviation for NSD, in mm.

    Returns:
        One score per class, in the order of `classes`.

    Raises:
        GeometryError: the maps differ in shape.
        LabelError: a label value below 1 is to be scored.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"{subject.case}: prediction has shape {prediction.shape}, reference {reference.shape}; "
            "bring both to one grid first"
        )
    if min(classes, default=1) < 1:
        raise LabelError(f"classes to score have label values of 1 or more, got {sorted(classes)}")
    boxes = [find_objects(labels, max_label=max(classes, default=1)) for labels in (prediction, reference)]
    diagonal_mm = math.hypot(*(length * edge for length, edge in zip(reference.shape, spacing_mm, strict=True)))
    scores = []
    for value, name in classes.items():
        box = _joint_box(boxes[0][value - 1], boxes[1][value - 1])
        values = _score_masks(prediction[box] == value, reference[box] == value, spacing_mm, tolerance_mm)
        scores.append(Score(**asdict(subject), class_name=name, diagonal_mm=diagonal_mm, **values))
    return scores


def write_scores(scores: Iterable[Score], path: Path) -> None:
    """Write `scores.csv`, whole or not at all; the same scores give the same bytes."""
    columns = [field.name for field in fields(Score)]
    frame = pd.DataFrame([asdict(score) for score in scores], columns=columns)
    write_table(frame.rename(columns={"class_name": "class"}), path)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write any table as CSV, whole or not at all: nine significant digits, an empty cell for NaN."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote; names stay text, even if they look like numbers."""
    return pd.read_csv(path, dtype=dict.fromkeys(_NAMES, str))


def read_scores(path: Path) -> pd.DataFrame:
    """Read `scores.csv`; names and folds as text, an empty cell in a number column as NaN.

    Raises:
        CohortError: the file is missing, no CSV, lacks a column, or has text where a number belongs.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = " ".join(str(error).split())
        raise CohortError(f"{path}: cannot read scores ({reason}); write them with `backsplit evaluate`") from error
    missing = [column for column in (*_TEXT, *_NUMBERS) if column not in frame]
    if missing:
        raise CohortError(f"{path}: columns {', '.join(missing)} are missing; got {', '.join(frame.columns)}")
    for column in frame.columns.difference(_TEXT):
        frame[column] = _numbers(frame[column], path)
    return frame


def summarise(scores: pd.DataFrame, policy: EmptyPolicy) -> pd.DataFrame:
    """Sum up the cases of each arm and class, under an empty policy.

    Returns:
        One row per arm, class, rule and tolerance, in order of appearance: `num_cases`; for each metric `mean_`,
        `median_` and `num_undefined_`, means and medians over the defined values; `num_missed` (reference present,
        prediction empty); `num_false_alarms` (reference empty, prediction not); `empty_policy`.
    """
    groups = policy.apply(scores).groupby(list(_KEYS), sort=False)
    rows = [group.iloc[0][list(_KEYS)].to_dict() | _summary(group) for _, group in groups]
    columns = [*_KEYS, *_summary(scores.iloc[:0])]
    return pd.DataFrame(rows, columns=columns).assign(empty_policy=policy.name)


def _joint_box(first: tuple[slice, ...] | None, second: tuple[slice, ...] | None) -> tuple[slice, ...]:
    """Box around two boxes, either of which may be missing; an empty box where both are."""
    present = [box for box in (first, second) if box is not None]
    if not present:
        return (slice(0, 0),) * 3
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present, strict=True))


def _score_masks(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, tolerance_mm: float
) -> dict[str, float]:
    overlap = metrics.count_overlap(prediction, reference)
    surfaces = metrics.surface_distances(prediction, reference, spacing_mm=spacing_mm)
    voxel_ml = math.prod(spacing_mm) / 1000
    return {
        "dice": metrics.dice(overlap),
        "hd95_mm": metrics.hausdorff_mm(surfaces, percentile=95.0),
        "nsd": metrics.normalised_surface_dice(surfaces, tolerance_mm=tolerance_mm),
        "tolerance_mm": tolerance_mm,
        "reference_ml": overlap.num_reference * voxel_ml,
        "prediction_ml": overlap.num_prediction * voxel_ml,
    }


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
    for metric in METRICS:
        summary |= {
            f"mean_{metric}": group[metric].mean(),
            f"median_{metric}": group[metric].median(),
            f"num_undefined_{metric}": int(group[metric].isna().sum()),
        }
    no_reference, no_prediction = group["reference_ml"] == 0, group["prediction_ml"] == 0
    summary["num_missed"] = int((no_prediction & ~no_reference).sum())
    summary["num_false_alarms"] = int((no_reference & ~no_prediction).sum())
    return summary
