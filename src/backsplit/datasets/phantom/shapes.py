"""Shapes to draw an abdomen with: a frame of reference, ellipsoids, tubes and smooth random fields.

All lengths are mm of the *reference abdomen*, a cube of 320 mm that is stretched over the field of view, whatever its
shape and spacing. A grid of 64 x 64 x 64 voxels of 5 mm is the reference itself.
"""

from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from backsplit.arrays import Mask

REFERENCE_MM = 320.0
Point = Float[np.ndarray, "3"]
Points = Float32[np.ndarray, "3 x y z"]
Field = Float[np.ndarray, "x y z"]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the voxels of a grid lie in the reference abdomen: x to the left, y to the back, z up, origin inside."""

    shape: tuple[int, int, int]

    @property
    def voxel_mm(self) -> Point:
        """Edge lengths of a voxel in reference mm."""
        return REFERENCE_MM / np.asarray(self.shape, dtype=np.float64)

    @property
    def points(self) -> Points:
        """Voxel centres in reference mm."""
        axes = [self.positions(axis, slice(0, length)) for axis, length in enumerate(self.shape)]
        return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)

    def positions(self, axis: int, window: slice) -> Float[np.ndarray, " n"]:
        """Voxel centres along one axis, for the given index range."""
        return (np.arange(window.start, window.stop) + 0.5) * self.voxel_mm[axis] - REFERENCE_MM / 2

    def point(self, index: tuple[int, int, int]) -> Point:
        """Centre of one voxel."""
        return (np.asarray(index) + 0.5) * self.voxel_mm - REFERENCE_MM / 2

    def index(self, point: Point) -> tuple[int, int, int]:
        """Voxel that holds a point; a point outside the frame counts as in the nearest voxel."""
        index = np.floor((point + REFERENCE_MM / 2) / self.voxel_mm).astype(int)
        x, y, z = np.clip(index, 0, np.asarray(self.shape) - 1)
        return int(x), int(y), int(z)

    def distances_mm(self, point: Point) -> Field:
        """Distance of every voxel centre from a point."""
        x, y, z = (
            np.square(self.positions(axis, slice(0, length)) - point[axis]) for axis, length in enumerate(self.shape)
        )
        return np.sqrt(x[:, None, None] + y[:, None] + z)

    def window(self, low: Point, high: Point) -> Window:
        """Index ranges of the voxels whose box between two corners overlaps; at least one voxel."""
        first, last = self.index(low), self.index(high)
        return slice(first[0], last[0] + 1), slice(first[1], last[1] + 1), slice(first[2], last[2] + 1)


def at(x: float, y: float, z: float) -> Point:
    """A point, or three lengths, in reference mm."""
    return np.array([x, y, z], dtype=np.float64)


def ellipsoid(
    points: Points, centre: Point, semi_axes_mm: Point, turn: Float[np.ndarray, "3 3"] | None = None
) -> Field:
    """Distance from the centre in units of the surface: below 1 inside, 1 on it.

    Args:
        points: voxel centres, possibly displaced.
        centre: of the ellipsoid.
        semi_axes_mm: along x, y and z before the turn.
        turn: rotation matrix; None leaves the axes as they are.
    """
    to_unit = (np.eye(3) if turn is None else turn.T) / semi_axes_mm[:, None]
    local = points - centre.astype(np.float32)[:, None, None, None]
    return np.sqrt(np.square(np.tensordot(to_unit.astype(np.float32), local, axes=1)).sum(axis=0))


def tube(frame: Frame, start: Point, end: Point, radius_mm: float) -> tuple[Window, Mask]:
    """Voxels whose centre is at most `radius_mm` from a line: a window, and a mask inside it. A ball if the ends meet.

    The mask of a tube thinner than a voxel may be empty.
    """
    window = frame.window(np.minimum(start, end) - radius_mm, np.maximum(start, end) + radius_mm)
    axes = [frame.positions(axis, part) for axis, part in enumerate(window)]
    local = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - start
    line = end - start
    along = np.clip(local @ line / max(float(line @ line), 1e-9), 0, 1)
    squared = np.square(local - along[..., None] * line).sum(axis=-1)
    return window, squared <= radius_mm**2


def rotation(axis: int, degrees: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about x, y or z (0, 1, 2), right-handed."""
    first, second = [other for other in range(3) if other != axis]
    sign = -1 if axis == 1 else 1
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(np.radians(degrees))
    matrix[second, first] = sign * np.sin(np.radians(degrees))
    matrix[first, second] = -matrix[second, first]
    return matrix


def smooth_field(frame: Frame, rng: np.random.Generator, *, num_waves: int) -> Float32[np.ndarray, "x y z"]:
    """Random field of unit standard deviation: a sum of the lowest `num_waves` cosines of each axis, 2 or more."""
    bases = [np.cos(np.pi * np.outer(np.arange(num_waves), (np.arange(n) + 0.5) / n)) for n in frame.shape]
    field = np.einsum("abc,ax,by,cz->xyz", rng.normal(size=(num_waves,) * 3), *bases, optimize=True)
    return (field / field.std()).astype(np.float32)


def depth_mm(mask: Mask, frame: Frame) -> Float32[np.ndarray, "x y z"]:
    """Distance of each voxel inside the mask to the nearest voxel outside, in reference mm; 0 outside.

    A mask that fills the frame has no outside: every distance is infinite.
    """
    depth = np.zeros(mask.shape, dtype=np.float32)
    box = ndimage.find_objects(mask.view(np.uint8))
    if box:  # nothing beyond one voxel around the mask can be the nearest outside voxel
        part = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box[0])
        inside = np.ascontiguousarray(mask[part]).view(np.uint8)
        depth[part] = edt.edt(inside, anisotropy=tuple(frame.voxel_mm.tolist()), parallel=1)
    return depth
