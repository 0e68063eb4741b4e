"""A CT series as one volume, its slices placed by their positions in the patient.

Source:
    DICOM PS3.3, C.7.6.2 (image plane): Image Position, Image Orientation, Pixel Spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydicom.dataset import Dataset

from backsplit.datasets.dicom.headers import UNREADABLE, quietly, read_file
from backsplit.errors import BackSplitError, GeometryError, VolumeError
from backsplit.volume import Grid, Volume

SAME_PLACE_MM = 0.01
GAP_TOLERANCE = 0.02
"""Relative deviation of a gap between slices that is rounding, not a missing slice."""
LARGEST_TILT_DEGREES = 0.5
Vector = Float[np.ndarray, "3"]


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    pixels: Float[np.ndarray, "x y"]
    position_mm: Vector


def read_ct(files: Sequence[Path]) -> tuple[Volume, tuple[str, ...]]:
    """Read a series.

    Args:
        files: of one series, in any order.

    Returns:
        HU in int16, array axes along columns, rows and slices of the images; and what was mended, in words.

    Raises:
        VolumeError: a file that cannot be read, images of several shapes or scales, or values beyond 16 bits.
        GeometryError: fewer than two slices, missing slices, other gaps, two different slices at one place, or a
            gantry that was tilted.
    """
    images = [read_file(path) for path in files]
    try:
        with quietly():
            axes, spacing_mm = _plane(images)
            slices = [_slice(image) for image in images]
    except BackSplitError:
        raise
    except UNREADABLE as error:
        raise VolumeError(
            f"an image of the CT series lacks pixels or geometry ({type(error).__name__}); download the series again"
        ) from None
    normal = np.cross(axes[0], axes[1])
    slices.sort(key=lambda each: float(each.position_mm @ normal))
    kept = _without_duplicates(slices, normal)
    gap_mm = _gap_mm(kept, normal)
    voxels = np.rint(np.stack([each.pixels for each in kept], axis=-1))
    if voxels.min() < -(2**15) or voxels.max() >= 2**15:
        raise VolumeError(f"values from {voxels.min():g} to {voxels.max():g} are no Hounsfield units; is this a CT?")
    x, y, z = kept[0].position_mm.tolist()
    direction = np.stack([*axes, normal], axis=1)
    shape = (voxels.shape[0], voxels.shape[1], voxels.shape[2])
    grid = Grid(shape, (*spacing_mm, gap_mm), (x, y, z), tuple(direction.ravel().tolist()))
    num_doubled = len(slices) - len(kept)
    return Volume(voxels.astype(np.int16), grid), (f"{num_doubled} slices twice",) if num_doubled else ()


def _plane(images: Sequence[Dataset]) -> tuple[tuple[Vector, Vector], tuple[float, float]]:
    """Directions along a row and down a column, and the spacing along each; equal for all images."""
    planes = {
        (
            (int(image.Rows), int(image.Columns)),
            tuple(round(float(value), 5) for value in image.ImageOrientationPatient),
            tuple(round(float(value), 5) for value in image.PixelSpacing),
        )
        for image in images
    }
    if len(planes) > 1:
        raise VolumeError(
            f"the CT series has images of {len(planes)} shapes, directions or spacings; it holds several scans"
        )
    along, down = np.reshape([float(value) for value in images[0].ImageOrientationPatient], (2, 3))
    if not np.allclose([along @ along, down @ down, along @ down], [1, 1, 0], atol=1e-3):
        raise GeometryError("rows and columns of the CT images are no directions at right angles; download it again")
    between_rows, between_columns = (float(value) for value in images[0].PixelSpacing)
    return (along / np.linalg.norm(along), down / np.linalg.norm(down)), (between_columns, between_rows)


def _slice(image: Dataset) -> _Slice:
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    position = np.array([float(value) for value in image.ImagePositionPatient])
    return _Slice(image.pixel_array.T.astype(np.float32) * np.float32(slope) + np.float32(intercept), position)


def _without_duplicates(slices: Sequence[_Slice], normal: Vector) -> list[_Slice]:
    kept: list[_Slice] = []
    for each in slices:
        if kept and abs((each.position_mm - kept[-1].position_mm) @ normal) < SAME_PLACE_MM:
            if not np.array_equal(each.pixels, kept[-1].pixels):
                raise GeometryError("two different CT slices lie at one place: the series holds two scans")
            continue
        kept.append(each)
    return kept


def _gap_mm(slices: Sequence[_Slice], normal: Vector) -> float:
    """The gap between slices, if it is the same everywhere and the slices lie straight above each other."""
    if len(slices) < 2:
        raise GeometryError(f"the CT series has {len(slices)} slice at different places, expected a volume")
    steps = np.diff([each.position_mm for each in slices], axis=0)
    gaps_mm = steps @ normal
    usual = float(np.median(gaps_mm))
    missing = np.rint(gaps_mm / usual).astype(int) - 1
    if np.abs(gaps_mm - usual * (missing + 1)).max() > GAP_TOLERANCE * usual:
        raise GeometryError(f"gaps between CT slices run from {gaps_mm.min():g} to {gaps_mm.max():g} mm; resample it")
    if missing.any():
        raise GeometryError(
            f"{missing.sum()} of {len(slices) + missing.sum()} CT slices are missing; download it again"
        )
    aside_mm = np.linalg.norm(steps - gaps_mm[:, None] * normal, axis=1)
    tilt = math.degrees(math.atan2(float(aside_mm.max()), usual))
    if tilt > LARGEST_TILT_DEGREES:
        raise GeometryError(f"the gantry was tilted by {tilt:.1f} degrees, so the voxels are no boxes; resample it")
    return float(gaps_mm.mean())
