"""How plausible masks are, with nothing to compare them with.

`measure` counts voxels once, when masks are made; `quality_table` and `lesion_table` do arithmetic on the counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
from scipy import ndimage

from backsplit.arrays import LabelMap, Mask
from backsplit.labels import BACKGROUND
from backsplit.labels.holes import Box, in_holes
from backsplit.sources.quality_tables import lesion_table, quality_table
from backsplit.volume import Volume

__all__ = ["lesion_table", "measure", "quality_table"]


@dataclass(frozen=True, slots=True, eq=False)
class _Masks:
    """Masks of one case."""

    labels: LabelMap
    structures: Sequence[str]
    boxes: Mapping[int, Box]
    """Tight, by label value; one without a voxel has none."""


def measure(
    masks: Volume, structures: Sequence[str], own: LabelMap | None, label_names: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Count what the tables need, of one case.

    Args:
        masks: label map; value `i + 1` is `structures[i]`.
        structures: their names.
        own: the case's own label map on the same grid; None if it has none.
        label_names: value and name of its classes.

    Returns:
        JSON. `structures`, by name: `voxels`, `volume_ml`, `components` (26-connected), `largest_share` (of the voxels,
        in the largest component; None where there is no voxel), `touches_border` (of the image). `classes`, by name of
        each class of `own` that has voxels: `voxels` and `structures`, by name of each that overlaps the class or
        touches it (26 neighbours): `overlap_voxels`, `touching_voxels` (of the structure, beside the class) and
        `share_outside_filled` (of the class's voxels, how many lie outside the structure once its holes are filled;
        `holes.in_holes` says what a hole is).
    """
    found = _Masks(masks.voxels, structures, _boxes(masks.voxels))
    shapes = {
        name: _shape(found.labels, value, found.boxes.get(value), masks.grid.voxel_ml)
        for value, name in enumerate(structures, start=1)
    }
    return {"structures": shapes, "classes": {} if own is None else _classes(found, own, label_names)}


def _boxes(labels: LabelMap) -> Mapping[int, Box]:
    boxes = ndimage.find_objects(labels.T)  # files are read in Fortran order: go along memory
    return {value: (box[2], box[1], box[0]) for value, box in enumerate(boxes, start=1) if box is not None}


def _shape(labels: LabelMap, value: int, box: Box | None, voxel_ml: float) -> dict[str, Any]:
    if box is None:
        return {"voxels": 0, "volume_ml": 0.0, "components": 0, "largest_share": None, "touches_border": False}
    mask = labels[box] == value
    sizes = np.bincount(cc3d.connected_components(mask, connectivity=26)[mask])[1:]
    num_voxels = int(sizes.sum())
    return {
        "voxels": num_voxels,
        "volume_ml": num_voxels * voxel_ml,
        "components": sizes.size,
        "largest_share": float(sizes.max() / num_voxels),
        "touches_border": any(s.start == 0 or s.stop == n for s, n in zip(box, labels.shape, strict=True)),
    }


def _classes(masks: _Masks, own: LabelMap, label_names: Sequence[tuple[int, str]]) -> dict[str, Any]:
    boxes = _boxes(own)
    return {
        name: _neighbours(masks, own, value, boxes[value])
        for value, name in label_names
        if name != BACKGROUND and value in boxes
    }


def _neighbours(masks: _Masks, own: LabelMap, class_value: int, class_box: Box) -> dict[str, Any]:
    """One class against the structures at it."""
    box = _padded(class_box, own.shape)
    members, found = own[box] == class_value, masks.labels[box]
    num_voxels, length = int(np.count_nonzero(members)), len(masks.structures) + 1
    overlaps = np.bincount(found[members], minlength=length).tolist()
    touching = np.bincount(found[_grown(members) & ~members], minlength=length).tolist()
    at_it = {}
    for value, name in enumerate(masks.structures, start=1):
        if overlaps[value] or touching[value]:
            outside = num_voxels - overlaps[value] - _num_in_holes(masks, value, members, box)
            at_it[name] = {
                "overlap_voxels": overlaps[value],
                "touching_voxels": touching[value],
                "share_outside_filled": outside / num_voxels,
            }
    return {"voxels": num_voxels, "structures": at_it}


def _num_in_holes(masks: _Masks, value: int, members: Mask, box: Box) -> int:
    """Voxels of a class, given inside a box, that lie in holes of a structure that the box holds some voxel of."""
    structure_box = masks.boxes[value]
    x, y, z = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, structure_box, strict=True))
    inner = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip((x, y, z), box, strict=True))
    lost = members[inner] & (masks.labels[x, y, z] != value)
    return int(np.count_nonzero(in_holes(masks.labels, value, structure_box, lost, (x, y, z))))


def _padded(box: Box, shape: tuple[int, ...]) -> Box:
    x, y, z = (slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, shape, strict=True))
    return x, y, z


def _grown(mask: Mask) -> Mask:
    """The mask and its 26 neighbours."""
    grown = mask.copy()
    for axis in range(3):
        after, before = np.moveaxis(grown, axis, 0), np.moveaxis(grown.copy(), axis, 0)
        after[1:] |= before[:-1]
        after[:-1] |= before[1:]
    return grown
