"""Which auxiliary classes to keep: measured on labels, on a binary baseline's false positives, on a fine model."""

from backsplit.selection.greedy import Turn, forward_greedy
from backsplit.selection.ranking import LEAST_SCORE, Evidence, gather, rank
from backsplit.selection.surroundings import Surroundings, surroundings

__all__ = ["LEAST_SCORE", "Evidence", "Surroundings", "Turn", "forward_greedy", "gather", "rank", "surroundings"]
