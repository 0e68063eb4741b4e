"""Targets drawn over auxiliary masks, with every conflict counted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from backsplit.arrays import LabelMap, Mask
from backsplit.errors import GeometryError, LabelError
from backsplit.labels.scheme import BACKGROUND, LabelScheme


@dataclass(frozen=True, slots=True)
class Overlay:
    """A fine label map and the voxels that more than one class claimed."""

    labels: LabelMap
    """Fine labels, shape of the masks, narrowest unsigned type."""
    conflicts: Counter[tuple[str, str]]
    """Voxels per (winner, loser)."""


def overlay(scheme: LabelScheme, masks: Mapping[str, Mask]) -> Overlay:
    """Merge one mask per class into a fine label map; the class that the scheme names first wins a voxel.

    So a target wins over every auxiliary, whatever an organ model says inside a lesion.

    Args:
        scheme: the fine classes.
        masks: class name to mask, all of one shape; a class of the scheme without a mask has no voxel.

    Raises:
        LabelError: a mask of a class that the scheme does not have, or of background, which is what no mask claims.
        GeometryError: masks of different shapes, or none at all.
    """
    if BACKGROUND in masks:
        raise LabelError(f"background is where no mask is; leave it out of {', '.join(masks)}")
    order = sorted(masks, key=scheme.index)
    shapes = {masks[name].shape for name in order}
    if len(shapes) != 1:
        raise GeometryError(f"masks to overlay must have one shape, got {sorted(shapes) or 'no mask'}")
    labels = np.zeros(shapes.pop(), dtype=np.min_scalar_type(scheme.num_classes - 1))
    conflicts: Counter[tuple[str, str]] = Counter()
    for name in order:
        claimed = labels[masks[name]]
        for winner, count in enumerate(np.bincount(claimed, minlength=scheme.num_classes)):
            if winner and count:
                conflicts[scheme.names[winner], name] += int(count)
        labels[masks[name] & (labels == 0)] = scheme.index(name)
    return Overlay(labels, conflicts)
