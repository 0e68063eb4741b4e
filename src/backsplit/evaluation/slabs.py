"""Masks a few planes at a time, so that what scores need does not grow with the image."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Bool

from backsplit.arrays import LabelMap, Mask
from backsplit.evaluation.boxes import Box, bounding_box, box_within, joint_boxes

SLAB_VOXELS = 2**21
"""In one slab, about; a plane at least."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """The voxels of a label map that have one of some values: a mask that is made as it is looked at."""

    labels: LabelMap
    values: Collection[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """As the label map's."""
        return self.labels.shape

    def __getitem__(self, box: Box) -> Mask:
        """The mask inside a box."""
        part = self.labels[box]
        return reduce(np.logical_or, (part == value for value in self.values))


SomeMask = Mask | Labelled


def slabs(shape: tuple[int, ...], *, num_voxels: int = 0) -> Iterator[slice]:
    """Stretches of planes across the last axis, in order, of about so many voxels each or of `SLAB_VOXELS`."""
    width, height, depth = shape
    if not width * height:
        return
    num_planes = max(1, max(num_voxels, SLAB_VOXELS) // (width * height))
    for start in range(0, depth, num_planes):
        yield slice(start, min(start + num_planes, depth))


def box_of(mask: SomeMask) -> Box:
    """Smallest box around the voxels of a mask."""
    if not isinstance(mask, Labelled):
        return bounding_box(mask)
    across = (slice(0, mask.shape[0]), slice(0, mask.shape[1]))
    return joint_boxes(
        box_within((*across, planes), bounding_box(mask[*across, planes])) for planes in slabs(mask.shape)
    )


def part_of(mask: SomeMask, box: Box) -> Bool[np.ndarray, "_ _ _"] | Labelled:
    """The part of a mask in a box; made at once where it fits a slab."""
    if not isinstance(mask, Labelled):
        return mask[box]
    inside = Labelled(mask.labels[box], mask.values)
    return inside if inside.labels.size > SLAB_VOXELS else np.asfortranarray(mask[box])


def planes_of(mask: SomeMask, planes: slice) -> Bool[np.ndarray, "x y _"]:
    """Some planes of a mask."""
    return mask[slice(None), slice(None), planes]
