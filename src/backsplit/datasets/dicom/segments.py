"""Segments of a DICOM segmentation as masks on the grid of the CT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from backsplit.arrays import Mask
from backsplit.datasets.dicom.headers import UNREADABLE, quietly
from backsplit.errors import GeometryError, SourceError, VolumeError
from backsplit.volume import Grid

WHOLE = 0.05
"""How far from a whole number an index may be, in voxels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment, before its frames are placed."""

    number: int
    description: str
    """Name of the region in the RTSTRUCT that it was converted from, as dcmqi keeps it."""
    label: str
    """Coded meaning."""


def read_segments(path: Path, grid: Grid) -> Mapping[Segment, Mask]:
    """Masks by segment, placed by the positions of their frames.

    Raises:
        VolumeError: the file cannot be read.
        GeometryError: its voxels are not those of the CT.
        SourceError: highdicom is not installed.
    """
    try:
        import highdicom as hd  # noqa: PLC0415  an extra
    except ImportError as error:
        raise SourceError('SEG files need highdicom; pip install "backsplit[dicom]", or --contours rtstruct') from error
    try:
        with quietly():
            content = hd.seg.segread(path)
            segments = [_segment(content, number) for number in content.segment_numbers]
            volumes = {
                segment: content.get_volume(segment_numbers=[segment.number], rescale_fractional=False)
                for segment in segments
            }
    except UNREADABLE as error:
        raise VolumeError(f"the SEG cannot be read ({type(error).__name__}); download it again") from None
    return {segment: _placed(volume.array[..., 0] > 0, volume.affine, grid) for segment, volume in volumes.items()}


def _segment(content: Any, number: int) -> Segment:  # noqa: ANN401  highdicom's segmentation
    item = content.get_segment_description(number)
    sides = item.get("SegmentedPropertyTypeCodeSequence", [{}])[0].get("SegmentedPropertyTypeModifierCodeSequence", [])
    side = str(sides[0].CodeMeaning) if sides else ""
    return Segment(number, str(item.get("SegmentDescription", "")), " ".join(filter(None, (item.SegmentLabel, side))))


def _placed(mask: Bool[np.ndarray, "frames rows columns"], affine: Float[np.ndarray, "4 4"], grid: Grid) -> Mask:
    """The mask on the grid; its own axes may be others, but its voxels have to be voxels of the grid."""
    to_indices = np.reshape(grid.direction, (3, 3)).T / np.array(grid.spacing_mm)[:, None]
    first = to_indices @ (affine[:3, 3] - np.array(grid.origin_mm))
    steps = to_indices @ affine[:3, :3]
    whole = np.rint(steps).astype(int)
    is_permuted = (np.abs(whole).sum(axis=0) == 1).all() and (np.abs(whole).sum(axis=1) == 1).all()
    if np.abs(steps - whole).max() > WHOLE or np.abs(first - np.rint(first)).max() > WHOLE or not is_permuted:
        raise GeometryError("voxels of the SEG are not those of its CT; use the RTSTRUCT")
    places = np.rint(first).astype(int) + np.argwhere(mask) @ whole.T
    if places.size and ((places < 0) | (places >= grid.shape)).any():
        raise GeometryError("the SEG reaches beyond its CT: shapes differ; use the RTSTRUCT")
    placed = np.zeros(grid.shape, bool)
    placed[tuple(places.T)] = True
    return placed
