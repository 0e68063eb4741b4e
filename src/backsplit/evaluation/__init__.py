"""Scores, tables and the statistics of comparing arms. No torch here."""

from backsplit.evaluation.border import border_distances, border_hausdorff_mm, border_surface_dice
from backsplit.evaluation.definitions import DISTANCES, Metric, metric_of, metrics_in, nsd_column
from backsplit.evaluation.empty import (
    BRATS,
    NNUNET,
    PENALTY,
    POLICIES,
    UNDEFINED,
    EmptyPolicy,
    policy_named,
    stated_penalty,
)
from backsplit.evaluation.layout import FORMATS, arrange, paper_numbers, render
from backsplit.evaluation.lesions import Lesions, components, count_lesions, lesion_scores, match_components
from backsplit.evaluation.overlap import Overlap, count_overlap, dice, iou, precision, recall
from backsplit.evaluation.scoring import LESION_COLUMNS, CaseScores, Row, Scoring, Subject, score_label_maps
from backsplit.evaluation.statistics import compare, compare_by, holm, paired_differences
from backsplit.evaluation.surfaces import (
    SurfaceDistances,
    average_surface_distance_mm,
    hausdorff_mm,
    normalised_surface_dice,
    surface_distances,
)
from backsplit.evaluation.tables import (
    read_scores,
    read_table,
    summarise,
    write_rows,
    write_table,
)
from backsplit.evaluation.text import format_table

__all__ = [
    "BRATS",
    "DISTANCES",
    "FORMATS",
    "LESION_COLUMNS",
    "NNUNET",
    "PENALTY",
    "POLICIES",
    "UNDEFINED",
    "CaseScores",
    "EmptyPolicy",
    "Lesions",
    "Metric",
    "Overlap",
    "Row",
    "Scoring",
    "Subject",
    "SurfaceDistances",
    "arrange",
    "average_surface_distance_mm",
    "border_distances",
    "border_hausdorff_mm",
    "border_surface_dice",
    "compare",
    "compare_by",
    "components",
    "count_lesions",
    "count_overlap",
    "dice",
    "format_table",
    "hausdorff_mm",
    "holm",
    "iou",
    "lesion_scores",
    "match_components",
    "metric_of",
    "metrics_in",
    "normalised_surface_dice",
    "nsd_column",
    "paired_differences",
    "paper_numbers",
    "policy_named",
    "precision",
    "read_scores",
    "read_table",
    "recall",
    "render",
    "score_label_maps",
    "stated_penalty",
    "summarise",
    "surface_distances",
    "write_rows",
    "write_table",
]
