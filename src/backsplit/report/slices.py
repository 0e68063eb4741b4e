"""From a volume and its masks to three planes through a lesion, seen as a radiologist sees them. Arrays only."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Num

from backsplit.arrays import Mask, Spacing, Voxels

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: level 40, width 400."""

_SMALLEST_COSINE = math.cos(math.radians(30))
_SMALLEST_FIELD_MM = 80.0
_FIELD_PER_EXTENT = 2.5


@dataclass(frozen=True, slots=True)
class Stack:
    """An image and the masks drawn over it, all of one shape.

    `direction` is that of ITK: nine cosines, row by row; column `i` is where array axis `i` points to in patient
    coordinates (left, posterior, superior). `limits` are the values drawn black and white.
    """

    image: Voxels
    masks: tuple[Mask, ...]
    spacing_mm: Spacing
    direction: tuple[float, ...]
    limits: tuple[float, float]


@dataclass(frozen=True, slots=True)
class View:
    """One plane of a stack: rows run down, columns to the right.

    `pixel_mm` is (height, width) of a pixel; `centre_mm` the (down, right) middle of the square that is shown, from the
    outer corner of the first pixel; `sides` the letters at left, right, top and bottom, empty where they are unknown.
    """

    plane: Plane
    image: Float[np.ndarray, "rows columns"]
    masks: tuple[Bool[np.ndarray, "rows columns"], ...]
    pixel_mm: tuple[float, float]
    centre_mm: tuple[float, float]
    field_mm: float
    sides: tuple[str, str, str, str]


def views(stack: Stack, focus: Mask) -> tuple[View, ...]:
    """Axial, coronal and sagittal plane through the middle of the largest part of `focus`, zoomed to it.

    The patient's right is on the left, anterior on top (axial) or on the left (sagittal), as radiologists read. Grids
    are turned by whole axes only, never resampled; beyond 30 degrees between array and patient axes the planes keep
    their names by the nearest axis but bear no letters.

    Args:
        stack: what is drawn.
        focus: what to look at; without a voxel, the middle of the image.
    """
    turned = _to_patient_axes(replace(stack, masks=(*stack.masks, focus)))
    *masks, focus = turned.masks
    part = largest_component(focus)
    centre = middle_voxel(part, turned.spacing_mm)
    field_mm = _field_mm(part, turned.spacing_mm)
    shown = replace(turned, masks=tuple(masks))
    return tuple(_view(shown, plane, centre, field_mm) for plane in PLANES)


def grey_limits(image: Voxels, *, is_ct: bool) -> tuple[float, float]:
    """Values drawn black and white: the soft-tissue window for CT, the 1st and 99th percentile for all else.

    Voxels that are not finite do not count; a constant image gets limits one apart, one of NaN alone 0 and 1.
    """
    if is_ct:
        return CT_WINDOW_HU
    known = image[np.isfinite(image)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(limit) for limit in np.percentile(known, (1, 99)))
    return low, high if high > low else low + 1


def grey(values: Num[np.ndarray, "rows columns"], limits: tuple[float, float]) -> Float[np.ndarray, "rows columns"]:
    """Grey between 0 (black) and 1; NaN is black."""
    low, high = limits
    return np.clip((np.nan_to_num(values.astype(np.float64), nan=low) - low) / (high - low), 0, 1)


def largest_component(mask: Mask) -> Mask:
    """The largest 26-connected part of a mask, the first in scan order among equals; of an empty mask, nothing."""
    parts = cc3d.connected_components(np.asfortranarray(mask), connectivity=26)
    sizes = cc3d.statistics(parts)["voxel_counts"].copy()
    sizes[0] = 0
    return mask & (parts == sizes.argmax())


def middle_voxel(mask: Mask, spacing_mm: Spacing) -> tuple[int, int, int]:
    """The voxel of a mask that is nearest to its centre of mass, in mm; the middle of the grid if the mask is empty."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    offsets_mm = (voxels - voxels.mean(axis=0)) * spacing_mm
    x, y, z = voxels[np.square(offsets_mm).sum(axis=1).argmin()].tolist()
    return x, y, z


def _field_mm(part: Mask, spacing_mm: Spacing) -> float:
    whole_mm = max(np.multiply(part.shape, spacing_mm))
    voxels = np.argwhere(part)
    extent_mm = max(np.ptp(voxels, axis=0) * spacing_mm + spacing_mm) if len(voxels) else whole_mm
    return float(min(max(_SMALLEST_FIELD_MM, _FIELD_PER_EXTENT * extent_mm), whole_mm))


def _nearest_axes(direction: tuple[float, ...]) -> tuple[list[int], list[int], bool]:
    """Array axis along left, posterior and superior, its sign, and whether letters may be set."""
    cosines = np.reshape(direction, (3, 3))
    axes = np.abs(cosines).argmax(axis=1).tolist()
    if sorted(axes) != [0, 1, 2]:
        return [0, 1, 2], [1, 1, 1], False
    chosen = cosines[[0, 1, 2], axes]
    return axes, np.sign(chosen).astype(int).tolist(), bool(np.abs(chosen).min() >= _SMALLEST_COSINE)


def _to_patient_axes(stack: Stack) -> Stack:
    axes, signs, _ = _nearest_axes(stack.direction)
    steps = tuple(slice(None, None, sign) for sign in signs)
    x, y, z = (stack.spacing_mm[axis] for axis in axes)
    masks = tuple(mask.transpose(axes)[steps] for mask in stack.masks)
    return replace(stack, image=stack.image.transpose(axes)[steps], masks=masks, spacing_mm=(x, y, z))


def _view(stack: Stack, plane: Plane, centre: tuple[int, int, int], field_mm: float) -> View:
    across = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    right, down = (axis for axis in range(3) if axis != across)
    is_upward = down == 2  # rows run down, the superior axis runs up

    def cut(array: np.ndarray) -> np.ndarray:
        rows = np.take(array, centre[across], axis=across).T
        return rows[::-1] if is_upward else rows

    row = stack.image.shape[down] - 1 - centre[down] if is_upward else centre[down]
    pixel_mm = stack.spacing_mm[down], stack.spacing_mm[right]
    image = grey(cut(stack.image), stack.limits)
    middles = (
        _inside((pixel + 0.5) * mm, size * mm, field_mm)
        for pixel, mm, size in zip((row, centre[right]), pixel_mm, image.shape, strict=True)
    )
    down_mm, right_mm = middles
    return View(
        plane=plane,
        image=image,
        masks=tuple(cut(mask) for mask in stack.masks),
        pixel_mm=pixel_mm,
        centre_mm=(down_mm, right_mm),
        field_mm=field_mm,
        sides=_sides(plane) if _nearest_axes(stack.direction)[2] else ("", "", "", ""),
    )


def _inside(middle_mm: float, size_mm: float, field_mm: float) -> float:
    """Move the middle of the field so that it shows as much of the image as it can."""
    half_mm = min(field_mm, size_mm) / 2
    return float(np.clip(middle_mm, half_mm, size_mm - half_mm))


def _sides(plane: Plane) -> tuple[str, str, str, str]:
    sides = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}[plane]
    left, right, top, bottom = sides
    return left, right, top, bottom
