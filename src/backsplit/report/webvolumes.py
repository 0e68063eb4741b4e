"""What a browser is given of a case: a box of at most a megavoxel, grey values of eight bits, all masks as they are.

Arrays only. The masks of a case (fine reference labels, one target map per arm) travel as one label map that numbers
the combinations which occur, so that nothing is lost where masks overlap and one upload shows them all.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from isal import igzip
from jaxtyping import Float, Integer, UInt8

from backsplit.arrays import LabelMap, Spacing, Voxels
from backsplit.evaluation.boxes import NOTHING, Box, bounding_box, joint_boxes
from backsplit.volume import Grid

MOST_VOXELS = 1_000_000
"""Of the first view of a case; software WebGL uploads about as many in a second."""
MOST_OVERVIEW_VOXELS = 4_000_000
"""Of the image of a whole volume, which is averaged over blocks down to so many."""
CT_KNOTS = ((-1024.0, 0), (-160.0, 60), (240.0, 190), (1500.0, 245), (3071.0, 255))
"""HU and grey value: 3 HU per step in soft tissue, 14 in lung, 23 in bone."""
NUM_VALUES = 4096
"""Of an image that are told apart on the way to eight bits; whole HU in CT."""
MOST_SUV = 100.0
"""PET with more than this at its 99.9th percentile is in other units."""
_DARKEST, _BRIGHTEST = 0.1, 99.9  # percent

Knots = tuple[tuple[float, int], ...]
"""Value of the image and its grey value, both rising; straight lines between, the ends beyond."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A window: the values drawn black and white."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Look:
    """How an image is brought to eight bits, and the windows to choose from, the first of which is shown first."""

    unit: str
    knots: Knots
    presets: tuple[Preset, ...]


CT = Look(
    "HU",
    CT_KNOTS,
    (Preset("Soft tissue", -160.0, 240.0), Preset("Lung", -1350.0, 150.0), Preset("Bone", -500.0, 1300.0)),
)
"""Level and width 40/400, -600/1500, 400/1800 HU."""
PET = Look(
    "SUV",
    ((0.0, 0), (10.0, 200), (50.0, 255)),
    (Preset("SUV to 10", 0, 10), Preset("SUV to 5", 0, 5), Preset("SUV to 50", 0, 50)),
)
"""SUV: 0.05 per step where most lesions are."""


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """Several label maps in one: `rows[index[x, y, z]]` are their values there; row 0 is background in all.

    Rows may be listed that no voxel has.
    """

    index: Integer[np.ndarray, "x y z"]
    rows: tuple[tuple[int, ...], ...]


def look_of(image: Voxels, channel: str) -> Look:
    """Fixed for CT, and for PET in SUV; for all else from the values.

    That is a straight line over all but the darkest and brightest thousandth, and a window from the 1st to the 99th
    percentile. Percentiles are of every n-th voxel where the image is large. Voxels that are not finite do not count.
    """
    if channel == "CT":
        return CT
    low, high = _percentiles(image, (_DARKEST, _BRIGHTEST))
    if channel == "PET" and high <= MOST_SUV:
        return PET
    return Look("", ((low, 0), (high, 255)), (Preset("Auto", *_percentiles(image, (1, 99))), Preset("Full", low, high)))


def quantise(image: Voxels, knots: Knots) -> UInt8[np.ndarray, "x y z"]:
    """Grey values of eight bits, by the nearest of `NUM_VALUES` between the first knot and the last; NaN becomes 0."""
    values, greys = zip(*knots, strict=True)
    low, high = values[0], values[-1]
    table = np.rint(np.interp(np.linspace(low, high, NUM_VALUES), values, greys)).astype(np.uint8)
    place = np.nan_to_num(image.astype(np.float32), copy=False, nan=low, posinf=high, neginf=low)
    place -= low
    place *= (NUM_VALUES - 1) / (high - low)
    return table[np.rint(np.clip(place, 0, NUM_VALUES - 1)).astype(np.intp)]


def view_box(shape: tuple[int, int, int], spacing_mm: Spacing, wishes: Sequence[Box], *, limit: int) -> Box:
    """The box to show first: around the first wish that fits into `limit` voxels, widened evenly in mm.

    Args:
        shape: of the volume.
        spacing_mm: of the volume.
        wishes: boxes around what is to be seen, best first; empty ones are passed over. If none fits, the middle of the
            volume is what is widened.
        limit: most voxels.
    """
    if math.prod(shape) <= limit:
        return _clipped(((0, 0, 0), shape), shape)
    fitting = [box for box in wishes if box != NOTHING and _num_voxels(box) <= limit]
    start = _corners(fitting[0]) if fitting else _middle(shape)
    low, high = 0.0, max(np.multiply(shape, spacing_mm))
    while high - low > min(spacing_mm) / 4:
        margin = (low + high) / 2
        is_small = _num_voxels(_widened(start, margin, spacing_mm, shape)) <= limit
        low, high = (margin, high) if is_small else (low, margin)
    return _widened(start, low, spacing_mm, shape)


def crop_grid(grid: Grid, box: Box) -> Grid:
    """The grid of the voxels inside a box."""
    starts = [part.start for part in box]
    a, b, c = (part.stop - part.start for part in box)
    steps = np.reshape(grid.direction, (3, 3)) @ (np.array(starts) * grid.spacing_mm)
    x, y, z = (np.array(grid.origin_mm) + steps).tolist()
    return Grid((a, b, c), grid.spacing_mm, (x, y, z), grid.direction)


def ras_matrix(grid: Grid) -> Float[np.ndarray, "4 4"]:
    """From voxel indices to mm to the right, front and head, as NIfTI has it."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm
    matrix[:3, 3] = grid.origin_mm
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def combine(maps: Sequence[LabelMap]) -> Combined:
    """Number the combinations of values, in their order: all of them where a byte holds them, else those that occur.

    Args:
        maps: label maps of one shape, values 0 or more.
    """
    sizes = [int(labels.max()) + 1 for labels in maps]
    kind = np.min_scalar_type(max(math.prod(sizes) - 1, 1))
    code = np.zeros(maps[0].shape, kind, order="F")
    box = joint_boxes(map(bounding_box, maps))
    inside = code[box]
    for labels, size in zip(maps, sizes, strict=True):
        inside *= kind.type(size)
        inside += labels[box].astype(kind, copy=False)
    found, index = _numbered(code, math.prod(sizes))
    rows = np.stack(np.unravel_index(found, sizes), axis=1).tolist()
    return Combined(index, tuple(tuple(row) for row in rows))


def overview_steps(shape: tuple[int, int, int], spacing_mm: Spacing, *, limit: int) -> tuple[int, int, int]:
    """How many voxels of each axis to average, so that at most `limit` are left: always the axis of the finest step."""
    steps = [1, 1, 1]
    while math.prod(-(-size // step) for size, step in zip(shape, steps, strict=True)) > limit:
        coarse = np.multiply(steps, spacing_mm)
        steps[int(np.argmin(np.where(np.array(steps) < shape, coarse, np.inf)))] += 1
    return steps[0], steps[1], steps[2]


def averaged(image: Voxels, steps: tuple[int, int, int]) -> Float[np.ndarray, "coarse_x coarse_y coarse_z"]:
    """Means over blocks; blocks at the far ends may be smaller. NaN counts as 0."""
    order = np.argsort([-stride for stride in image.strides]).tolist()
    slow, step = image.transpose(order), steps[order[0]]
    slabs = (slow[start : start + step] for start in range(0, len(slow), step))  # small enough to stay in the cache
    means = np.concatenate([_slab_means(slab, tuple(steps[axis] for axis in order)) for slab in slabs])
    return means.transpose(np.argsort(order).tolist())


def _slab_means(slab: Voxels, steps: tuple[int, ...]) -> Float[np.ndarray, "1 _ _"]:
    means = slab if np.issubdtype(slab.dtype, np.integer) else np.nan_to_num(slab)
    for axis, step in enumerate(steps):
        means = _averaged_along(means, axis, step)
    return means.astype(np.float32, copy=False)


def _averaged_along(image: np.ndarray, axis: int, step: int) -> np.ndarray:
    if step == 1:
        return image
    size = image.shape[axis]
    shape = [-(-size // step) if each == axis else image.shape[each] for each in range(3)]
    means = np.zeros(shape, np.float32)
    sums, parts = np.moveaxis(means, axis, -1), np.moveaxis(image, axis, -1)
    for start in range(step):
        part = parts[..., start::step]
        sums[..., : part.shape[-1]] += part
    sums /= np.diff(np.append(np.arange(0, size, step), size)).astype(np.float32)
    return means


def packed(array: np.ndarray) -> str:
    """Voxels as text: gzip, then base64; the first axis runs fastest, as in a NIfTI file, lowest byte first."""
    ordered = np.asarray(array, array.dtype.newbyteorder("<"), order="F").reshape(-1, order="F").view(np.uint8)
    return base64.b64encode(igzip.compress(ordered, mtime=0)).decode("ascii")


def _percentiles(image: Voxels, wanted: tuple[float, float]) -> tuple[float, float]:
    step = max(1, round((image.size / MOST_VOXELS) ** (1 / 3)))
    sample = image[::step, ::step, ::step]
    known = sample[np.isfinite(sample)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(known, wanted))
    return low, high if high > low else low + 1


def _numbered(code: np.ndarray, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes, 0 always among them, and each voxel's position in that list, as narrow as can be."""
    if num_codes <= 2**8:
        return np.arange(num_codes), code
    flat = code.reshape(-1, order="F")
    if num_codes <= 2**16:
        is_there = np.zeros(num_codes, bool)
        is_there[0] = True
        for start in range(0, flat.size, MOST_VOXELS):
            is_there |= np.bincount(flat[start : start + MOST_VOXELS], minlength=num_codes) > 0
        found, position = np.flatnonzero(is_there), np.cumsum(is_there) - 1
        index = position.astype(np.min_scalar_type(len(found)))[flat]
    else:
        found = np.union1d(np.unique(flat), 0)
        index = np.searchsorted(found, flat).astype(np.min_scalar_type(len(found)))
    return found, index.reshape(code.shape, order="F")


Corners = tuple[Sequence[int], Sequence[int]]


def _corners(box: Box) -> Corners:
    return [part.start for part in box], [part.stop for part in box]


def _middle(shape: tuple[int, int, int]) -> Corners:
    middle = [size // 2 for size in shape]
    return middle, [index + 1 for index in middle]


def _num_voxels(box: Box) -> int:
    return math.prod(part.stop - part.start for part in box)


def _widened(corners: Corners, margin_mm: float, spacing_mm: Spacing, shape: tuple[int, int, int]) -> Box:
    by = [int(margin_mm / edge) for edge in spacing_mm]
    starts, stops = corners
    return _clipped(
        (
            [start - step for start, step in zip(starts, by, strict=True)],
            [e + s for e, s in zip(stops, by, strict=True)],
        ),
        shape,
    )


def _clipped(corners: Corners, shape: tuple[int, int, int]) -> Box:
    x, y, z = (slice(max(0, start), min(size, stop)) for start, stop, size in zip(*corners, shape, strict=True))
    return x, y, z
