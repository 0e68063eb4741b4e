"""Scores, tables and the statistics of comparing arms. No torch here."""

from backsplit.evaluation.empty import PENALTY, POLICIES, UNDEFINED, EmptyPolicy
from backsplit.evaluation.metrics import (
    Overlap,
    SurfaceDistances,
    count_overlap,
    dice,
    hausdorff_mm,
    normalised_surface_dice,
    surface_distances,
)
from backsplit.evaluation.statistics import compare, holm
from backsplit.evaluation.tables import (
    METRICS,
    Score,
    Subject,
    read_scores,
    read_table,
    score_label_maps,
    summarise,
    write_scores,
    write_table,
)
from backsplit.evaluation.text import format_table

__all__ = [
    "METRICS",
    "PENALTY",
    "POLICIES",
    "UNDEFINED",
    "EmptyPolicy",
    "Overlap",
    "Score",
    "Subject",
    "SurfaceDistances",
    "compare",
    "count_overlap",
    "dice",
    "format_table",
    "hausdorff_mm",
    "holm",
    "normalised_surface_dice",
    "read_scores",
    "read_table",
    "score_label_maps",
    "summarise",
    "surface_distances",
    "write_scores",
    "write_table",
]
