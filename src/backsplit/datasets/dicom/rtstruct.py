"""Contours of an RTSTRUCT as masks.

A voxel belongs to a structure where its centre lies inside an odd number of the contours of its slice, so that a
contour inside another cuts a hole.

Source:
    DICOM PS3.3, C.8.8.6 (ROI contour): coordinates are mm in the patient, one closed planar polygon per item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from skimage.draw import polygon

from backsplit.arrays import Mask
from backsplit.datasets.dicom.headers import read_file
from backsplit.errors import GeometryError, VolumeError
from backsplit.volume import Grid

Contour = Float[np.ndarray, "points 3"]
FLAT = 0.1
"""How far points of a contour may lie from its plane, in slices."""
NEAR = 0.25
"""How far a contour may lie from the slice it is drawn on, in slices, before it is noted."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One region of interest."""

    name: str
    contours: tuple[Contour, ...]
    """Closed planar polygons, in mm."""


def read_structures(path: Path) -> Mapping[str, Structure]:
    """Structures by name, those without contours included.

    Raises:
        VolumeError: the file cannot be read, or a contour is no closed planar polygon.
    """
    content = read_file(path)
    names = {int(item.ROINumber): str(item.ROIName) for item in content.get("StructureSetROISequence", [])}
    found: dict[str, list[Contour]] = {name: [] for name in names.values()}
    for region in content.get("ROIContourSequence", []):
        name = names.get(int(region.ReferencedROINumber))
        for item in region.get("ContourSequence", []) if name is not None else ():
            found[str(name)] += _contour(item, str(name))
    return {name: Structure(name, tuple(contours)) for name, contours in found.items()}


def _contour(item: object, name: str) -> list[Contour]:
    kind, data = str(getattr(item, "ContourGeometricType", "")), getattr(item, "ContourData", None)
    if kind == "POINT" or data is None:
        return []
    if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") or len(data) % 3:
        raise VolumeError(f"{name} has a contour of type {kind or 'unknown'}, expected closed planar polygons")
    points = np.array(data, np.float64).reshape(-1, 3)
    return [points] if len(points) > 2 else []


def rasterise(structure: Structure, grid: Grid) -> tuple[Mask, tuple[str, ...]]:
    """The mask of a structure on a grid.

    Contours between slices go to the nearest one. What lies beyond the grid is cut off.

    Returns:
        The mask, and in words what did not fit the slices.

    Raises:
        GeometryError: a contour that is not parallel to the slices.
    """
    mask, num_between, num_beyond = np.zeros(grid.shape, bool), 0, 0
    for indices in _indices(structure.contours, grid):
        heights = indices[:, 2]
        if np.ptp(heights) > FLAT:
            raise GeometryError(f"a contour of {structure.name} is not parallel to the slices of its CT")
        height = float(heights.mean())
        number = round(height)
        num_between += abs(height - number) > NEAR
        if not 0 <= number < grid.shape[2]:
            num_beyond += 1
            continue
        mask[:, :, number] ^= _inside(indices[:, :2], (grid.shape[0], grid.shape[1]))
    notes = []
    if num_between:
        notes.append(f"{structure.name}: {num_between} contours between slices")
    if num_beyond:
        notes.append(f"{structure.name}: {num_beyond} contours beyond the CT")
    return mask, tuple(notes)


def _indices(contours: Sequence[Contour], grid: Grid) -> list[Float[np.ndarray, "points 3"]]:
    """Contours in voxel indices."""
    to_indices = np.reshape(grid.direction, (3, 3)) / np.array(grid.spacing_mm)
    return [(points - np.array(grid.origin_mm)) @ to_indices for points in contours]


def _inside(points: Float[np.ndarray, "points 2"], shape: tuple[int, int]) -> Bool[np.ndarray, "x y"]:
    """Voxels of a slice whose centre lies in a polygon."""
    inside = np.zeros(shape, bool)
    inside[polygon(points[:, 0], points[:, 1], shape)] = True
    return inside
