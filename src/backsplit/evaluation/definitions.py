"""What each score column holds: its name in tables, its unit, and which way is better. Data, no arithmetic.

A tolerance is part of a column's name (`nsd_1mm`), so that one table can hold several; so is a definition other than
the default one of surface elements (`border_nsd_1mm`, MONAI's border voxels).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One score."""

    column: str
    """Name of the column in `scores.csv`."""
    label: str
    """Name in tables and figures, with the unit."""
    better: Better
    """`none` for what only describes a case."""


_FIXED = (
    Metric("dice", "Dice", "higher"),
    Metric("iou", "IoU", "higher"),
    Metric("precision", "Precision", "higher"),
    Metric("recall", "Recall", "higher"),
    Metric("volume_error_ml", "Volume error (mL)", "none"),
    Metric("hd95_mm", "HD95 (mm)", "lower"),
    Metric("hd_mm", "HD (mm)", "lower"),
    Metric("assd_mm", "ASSD (mm)", "lower"),
    Metric("border_hd95_mm", "HD95 (mm), border voxels", "lower"),
    Metric("lesion_sensitivity", "Lesion sensitivity", "higher"),
    Metric("lesion_precision", "Lesion precision", "higher"),
    Metric("lesion_f1", "Lesion F1", "higher"),
    Metric("lesion_dice", "Dice per lesion", "higher"),
    Metric("panoptic_quality", "Panoptic quality", "higher"),
    Metric("false_positive_ml", "False-positive volume (mL)", "lower"),
    Metric("false_negative_ml", "False-negative volume (mL)", "lower"),
)
DISTANCES = ("hd95_mm", "hd_mm", "assd_mm", "border_hd95_mm")
"""What has no value where one of the two masks is empty."""
_NSD = re.compile(r"(?P<border>border_)?nsd_(?P<tolerance>\d+(\.\d+)?)mm")


def nsd_column(tolerance_mm: float, *, border: bool = False) -> str:
    """Column of NSD at a tolerance: `nsd_1mm`, `nsd_0.5mm`, `border_nsd_2mm`."""
    return f"{'border_' if border else ''}nsd_{tolerance_mm:g}mm"


def metric_of(column: str) -> Metric | None:
    """The metric that a column holds, None for any other column."""
    if match := _NSD.fullmatch(column):
        definition = ", border voxels" if match["border"] else ""
        return Metric(column, f"NSD at {match['tolerance']} mm{definition}", "higher")
    return next((metric for metric in _FIXED if metric.column == column), None)


def metrics_in(columns: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics among the columns of a table, in its order."""
    return tuple(metric for column in columns if (metric := metric_of(column)))
