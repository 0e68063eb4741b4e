"""What lies around lesions: voxels are touched once, scores are arithmetic on the counts.

Source:
    Two heuristics of Saluja et al., arXiv 2511.19394, supplement B: the structure that contains the lesion, and
    the structures that share a surface with it.
"""

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy import ndimage

from backsplit.arrays import LabelMap, Spacing
from backsplit.labels.holes import Box, in_holes

BACKGROUND_VALUE = 0
Within = Integer[np.ndarray, "width height depth"]
"""Labels inside a box of the image."""
Parts = Int[np.ndarray, "width height depth"]
"""Numbers of lesions inside a box."""


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """The lesions of one target in one case, largest first, and the fine classes around each; a row is a lesion.

    A lesion is a 26-connected component. What lies beyond the edge of the image counts as background.
    """

    volumes_ml: Float[np.ndarray, " lesions"]
    faces_mm2: Float[np.ndarray, "lesions fine"]
    """Area of voxel faces between the lesion and each class; none to its own class."""
    surface_voxels: Int[np.ndarray, " lesions"]
    """Voxels of the lesion with a face to another class."""
    touching_voxels: Int[np.ndarray, "lesions fine"]
    """Of these, how many have a face to each class; a voxel may touch several."""
    enclosed_voxels: Int[np.ndarray, "lesions fine"]
    """Voxels of the lesion in holes of each class; see `in_holes`."""
    voxels: Int[np.ndarray, " lesions"]

    @property
    def contact(self) -> Float[np.ndarray, "lesions fine"]:
        """Share of the surface area that faces each class; rows sum to 1."""
        return self.faces_mm2 / self.faces_mm2.sum(axis=1, keepdims=True)

    @property
    def touch(self) -> Float[np.ndarray, "lesions fine"]:
        """Share of the surface voxels that touch each class; rows may sum to more than 1."""
        return self.touching_voxels / self.surface_voxels[:, None]

    @property
    def containment(self) -> Float[np.ndarray, "lesions fine"]:
        """Share of the lesion that lies inside each class once the holes of that class are filled."""
        return self.enclosed_voxels / self.voxels[:, None]


def surroundings(labels: LabelMap, target: int, *, num_fine: int, spacing_mm: Spacing) -> Surroundings:
    """Look at the lesions of one target; time grows with the box around them, not with the image.

    Args:
        labels: fine label map, values below `num_fine`.
        target: its value in the map.
        num_fine: number of fine classes.
        spacing_mm: edge lengths of a voxel, in the order of the array axes.

    Returns:
        No row where the case has no voxel of the target.
    """
    boxes = _boxes(labels, num_fine)
    box = boxes[target]
    if box is None:
        return _none(num_fine)
    inner = tuple(slice(1, 1 + s.stop - s.start) for s in box)
    around = _with_rim(labels, box)
    lesions = np.zeros(around.shape, np.int64)
    lesions[inner] = _by_size(around[inner] == target)
    num_lesions = int(lesions.max())
    faces, touching, surface = _faces(around, lesions, target, num_fine, spacing_mm)
    voxels = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]
    enclosed = np.zeros((num_lesions, num_fine), np.int64)
    for fine, class_box in enumerate(boxes):
        if class_box is not None and fine not in (BACKGROUND_VALUE, target):
            enclosed[:, fine] = _enclosed(labels, fine, class_box, lesions[inner], box)
    volumes = voxels * (math.prod(spacing_mm) / 1000)
    return Surroundings(volumes, faces[1:], surface[1:], touching[1:], enclosed, voxels)


def _none(num_fine: int) -> Surroundings:
    table = np.zeros((0, num_fine))
    return Surroundings(
        np.zeros(0), table, np.zeros(0, np.int64), table.astype(np.int64), table.astype(np.int64), np.zeros(0, np.int64)
    )


def _boxes(labels: LabelMap, num_fine: int) -> list[Box | None]:
    found = ndimage.find_objects(labels.T, max_label=num_fine - 1)  # along memory: files are read in Fortran order
    return [None, *(None if box is None else (box[2], box[1], box[0]) for box in found)]


def _with_rim(labels: LabelMap, box: Box) -> Within:
    """The voxels of a box and one more on each side; beyond the image that is background."""
    wide = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
    missing = [
        (int(s.start == 0), int(s.stop == length)) for s, length in zip(box, labels.shape, strict=True)
    ]  # of the rim, at either end
    return np.pad(labels[wide], missing, constant_values=BACKGROUND_VALUE)


def _by_size(mask: Bool[np.ndarray, "width height depth"]) -> Parts:
    """Components numbered from 1, largest first; equal ones in the order of their first voxel."""
    parts = cc3d.connected_components(mask, connectivity=26).astype(np.int64)
    sizes = np.bincount(parts.ravel())[1:]
    rank = np.empty(sizes.size + 1, np.int64)
    rank[0] = 0
    rank[1 + np.argsort(-sizes, kind="stable")] = np.arange(1, sizes.size + 1)
    return rank[parts]


def _faces(
    around: Within, lesions: Parts, target: int, num_fine: int, spacing_mm: Spacing
) -> tuple[Float[np.ndarray, "rows fine"], Int[np.ndarray, "rows fine"], Int[np.ndarray, " rows"]]:
    """Areas, touching voxels and surface voxels; row 0 is of no lesion."""
    num_rows = int(lesions.max()) + 1
    members = np.flatnonzero(lesions)
    row, neighbours, areas = lesions.ravel()[members], [], []
    flat = around.ravel().astype(np.int64)
    strides = (around.shape[1] * around.shape[2], around.shape[2], 1)
    for axis, stride in enumerate(strides):
        for step in (-stride, stride):
            neighbours.append(flat[members + step])  # the rim keeps this inside the array
            areas.append(math.prod(spacing_mm) / spacing_mm[axis])
    faces, touching = np.zeros((num_rows, num_fine)), np.zeros((num_rows, num_fine), np.int64)
    beside = np.stack(neighbours)
    for fine in range(num_fine):
        is_beside = beside == fine
        if fine != target and is_beside.any():
            faces[:, fine] = np.bincount(row, np.array(areas) @ is_beside, num_rows)
            touching[:, fine] = np.bincount(row, is_beside.any(axis=0), num_rows).astype(np.int64)
    surface = np.bincount(row, (beside != target).any(axis=0), num_rows).astype(np.int64)
    return faces, touching, surface


def _enclosed(labels: LabelMap, fine: int, class_box: Box, lesions: Parts, box: Box) -> Int[np.ndarray, " lesions"]:
    """Voxels of each lesion in holes of a class."""
    num_lesions = int(lesions.max())
    window = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, class_box, strict=True))
    if any(s.start >= s.stop for s in window):
        return np.zeros(num_lesions, np.int64)
    inside = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(window, box, strict=True))
    x, y, z = window
    held = in_holes(labels, fine, class_box, lesions[inside] > 0, (x, y, z))
    return np.bincount(lesions[inside][held], minlength=num_lesions + 1)[1:]
