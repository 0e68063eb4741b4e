"""Classes, their names, and the coarsening that merges them. No torch here."""

from backsplit.labels.coarsening import Coarsening, identity, into_background, to_target
from backsplit.labels.counts import count_labels
from backsplit.labels.lesions import is_lesion
from backsplit.labels.overlay import Overlay, overlay, overlay_maps
from backsplit.labels.partial import clear_ignored, coarsening_of_case
from backsplit.labels.scheme import BACKGROUND, LabelScheme
from backsplit.labels.sides import merge_sides, without_side

__all__ = [
    "BACKGROUND",
    "Coarsening",
    "LabelScheme",
    "Overlay",
    "clear_ignored",
    "coarsening_of_case",
    "count_labels",
    "identity",
    "into_background",
    "is_lesion",
    "merge_sides",
    "overlay",
    "overlay_maps",
    "to_target",
    "without_side",
]
