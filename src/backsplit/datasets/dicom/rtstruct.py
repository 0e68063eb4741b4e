"""Contours of an RTSTRUCT as masks.

A voxel belongs to a structure where its centre lies inside an odd number of the contours of its slice, so that a
contour inside another cuts a hole.

Source:
    DICOM PS3.3, C.8.8.6 (ROI contour): coordinates are mm in the patient, one closed planar polygon per item.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from pydicom.dataset import Dataset
from skimage.draw import polygon

from backsplit.arrays import Mask
from backsplit.datasets.dicom.headers import UNREADABLE, quietly, read_file
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


def read_structures(path: Path, wanted: Callable[[str], bool]) -> Mapping[str, Structure]:
    """Structures by name, those without contours included.

    Args:
        path: RTSTRUCT.
        wanted: which names; the contours of others are not looked at.

    Raises:
        VolumeError: the file cannot be read, or a contour is no closed planar polygon.
    """
    content = read_file(path)
    try:
        with quietly():
            return _structures(content, wanted)
    except VolumeError:
        raise
    except UNREADABLE as error:
        raise VolumeError(f"the RTSTRUCT is damaged ({type(error).__name__}); download it again") from None


def _structures(content: Dataset, wanted: Callable[[str], bool]) -> Mapping[str, Structure]:
    names = {int(item.ROINumber): str(item.ROIName) for item in content.get("StructureSetROISequence", [])}
    found: dict[str, list[Contour]] = {name: [] for name in names.values() if wanted(name)}
    for region in content.get("ROIContourSequence", []):
        name = names.get(int(region.ReferencedROINumber), "")
        for item in region.get("ContourSequence", []) if name in found else ():
            found[name] += _contour(item, name)
    return {name: Structure(name, tuple(contours)) for name, contours in found.items()}


def _contour(item: Dataset, name: str) -> list[Contour]:
    kind, data = str(item.get("ContourGeometricType", "")), item.get("ContourData")
    if kind == "POINT" or data is None:
        return []
    if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") or len(data) % 3:
        raise VolumeError(f"{name} has a contour of type {kind or 'unknown'}, expected closed planar polygons")
    points = np.array(data, np.float64).reshape(-1, 3)
    return [points] if len(points) > 2 else []


def rasterise(structure: Structure, grid: Grid) -> tuple[Mask, tuple[str, ...]]:
    """The mask of a structure on a grid.

    Contours of one plane cut holes into each other; those of planes between slices go to the nearest one, and several
    planes at one slice are joined. A contour that is stored twice counts once.

    Returns:
        The mask, and in words what did not fit the slices.

    Raises:
        GeometryError: a contour that is not parallel to the slices, or beyond the first or last of them.
    """
    mask, num_between, num_beyond = np.zeros(grid.shape, bool), 0, 0
    for height, contours in _planes(structure, grid).items():
        number = round(height)
        num_between += len(contours) * (abs(height - number) > NEAR)
        if not 0 <= number < grid.shape[2]:
            num_beyond += len(contours)
            continue
        inside = np.zeros(grid.shape[:2], bool)
        for indices in contours:
            inside ^= _inside(indices[:, :2], (grid.shape[0], grid.shape[1]))
        mask[:, :, number] |= inside
    if num_beyond:
        raise GeometryError(f"{num_beyond} contours of {structure.name} lie beyond the CT, which lacks slices there")
    return mask, (f"{structure.name}: {num_between} contours between slices",) if num_between else ()


def _planes(structure: Structure, grid: Grid) -> Mapping[float, list[Contour]]:
    """Contours in voxel indices, by the height of their plane in slices; each once."""
    planes: defaultdict[float, list[Contour]] = defaultdict(list)
    seen: set[bytes] = set()
    for indices in _indices(structure.contours, grid):
        if np.ptp(indices[:, 2]) > FLAT:
            raise GeometryError(f"a contour of {structure.name} is not parallel to the slices of its CT")
        key = np.unique(indices.round(3), axis=0).tobytes()
        if key not in seen:
            seen.add(key)
            planes[round(float(indices[:, 2].mean()), 2)].append(indices)
    return planes


def _indices(contours: Sequence[Contour], grid: Grid) -> list[Float[np.ndarray, "points 3"]]:
    """Contours in voxel indices."""
    to_indices = np.reshape(grid.direction, (3, 3)) / np.array(grid.spacing_mm)
    return [(points - np.array(grid.origin_mm)) @ to_indices for points in contours]


def _inside(points: Float[np.ndarray, "points 2"], shape: tuple[int, int]) -> Bool[np.ndarray, "x y"]:
    """Voxels of a slice whose centre lies in a polygon."""
    inside = np.zeros(shape, bool)
    inside[polygon(points[:, 0], points[:, 1], shape)] = True
    return inside
