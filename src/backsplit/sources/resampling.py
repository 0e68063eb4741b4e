"""Masks on another grid."""

from typing import Literal

from backsplit.volume import Grid, Volume


def resample_labels(labels: Volume, grid: Grid, *, interpolation: Literal["nearest", "linear"]) -> Volume:
    """The label map on another grid."""
    raise NotImplementedError
