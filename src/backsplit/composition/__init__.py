"""From the label values and masks of a cohort to the fine classes of a scheme."""

from backsplit.composition.fine_labels import compose

__all__ = ["compose"]
