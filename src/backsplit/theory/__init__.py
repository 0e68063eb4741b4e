"""What labels tell about a model: Fisher information, what a coarsening loses of it, and what that costs."""

from backsplit.theory.efficiency import Regression, Simulated, simulate
from backsplit.theory.fisher import (
    coarse_score,
    fine_score,
    information,
    information_chain,
    lost_by_class,
    lost_by_pair,
    lost_trace,
    missing_information,
    spectrum,
)

__all__ = [
    "Regression",
    "Simulated",
    "coarse_score",
    "fine_score",
    "information",
    "information_chain",
    "lost_by_class",
    "lost_by_pair",
    "lost_trace",
    "missing_information",
    "simulate",
    "spectrum",
]
