"""Targets drawn over auxiliary masks, with every conflict counted."""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) != 1:
        raise GeometryError(f"masks to overlay must have one shape, got {sorted(shapes) or 'no mask'}")
    dtype = np.min_scalar_type(scheme.num_classes - 1)
    return overlay_maps(
        scheme, [masks[name] * dtype.type(scheme.index(name)) for name in sorted(masks, key=scheme.index)]
    )


def overlay_maps(scheme: LabelScheme, layers: Sequence[LabelMap]) -> Overlay:
    """Merge label maps of the same classes; at each voxel the class that the scheme names first wins.

    Conflicts are counted layer by layer, each against what the layers before it left.

    Args:
        scheme: the fine classes.
        layers: at least one label map, values are indices of the scheme, all of one shape.
    """
    size = scheme.num_classes
    labels = layers[0].astype(np.min_scalar_type(size - 1))
    conflicts: Counter[tuple[str, str]] = Counter()
    for layer in layers[1:]:
        contested = (labels != 0) & (layer != 0) & (labels != layer)
        pairs = labels[contested].astype(np.int64) * size + layer[contested]
        for pair, count in enumerate(np.bincount(pairs)):
            if count:
                winner, loser = sorted(divmod(pair, size))
                conflicts[scheme.names[winner], scheme.names[loser]] += int(count)
        takes = (layer != 0) & ((labels == 0) | (layer < labels))
        labels[takes] = layer[takes]
    return Overlay(labels, conflicts)
