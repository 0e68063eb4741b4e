"""Which auxiliary classes to keep: measured on labels, and on the false positives of a binary baseline."""

from backsplit.selection.ranking import LEAST_SCORE, Evidence, gather, rank
from backsplit.selection.surroundings import Surroundings, surroundings

__all__ = ["LEAST_SCORE", "Evidence", "Surroundings", "gather", "rank", "surroundings"]
