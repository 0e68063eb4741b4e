"""Which auxiliary classes to keep: measured on labels, on a binary baseline's false alarms, on a fine model."""

from backsplit.selection.false_alarms import false_alarms
from backsplit.selection.greedy import Turn, forward_greedy
from backsplit.selection.ranking import LEAST_SCORE, Evidence, gather, rank
from backsplit.selection.surroundings import Surroundings, surroundings

__all__ = [
    "LEAST_SCORE",
    "Evidence",
    "Surroundings",
    "Turn",
    "false_alarms",
    "forward_greedy",
    "gather",
    "rank",
    "surroundings",
]
