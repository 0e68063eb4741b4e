"""Auxiliary masks: one adapter per source, one protocol, one way to run them over a cohort."""

from backsplit.sources.annotation import annotate
from backsplit.sources.protocol import Masks, MaskSource
from backsplit.sources.structures import choose_structures

__all__ = ["MaskSource", "Masks", "annotate", "choose_structures"]
