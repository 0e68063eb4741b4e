"""Simulated clicks: where a user would click, drawn from a reference mask. Arrays are `[x, y, z]`, as everywhere.

Clicks are drawn for each connected part of a structure: an interactive tool segments one object at a time.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cc3d
import edt
import numpy as np
from jaxtyping import Integer

from backsplit.arrays import LabelMap, Mask, Spacing
from backsplit.errors import SourceError

Strategy = Literal["random", "centre-first"]
MIN_PART_VOXELS = 10
"""Smaller parts are mostly leftovers of how label maps were merged: 25 of the components of 60 KiTS23 label maps."""
MISS, FALSE_ALARM = 1, 2
TIE_TOLERANCE = 1e-5
"""Relative; distances are float32, so voxels that are equally deep may differ by rounding."""


@dataclass(frozen=True, slots=True)
class Click:
    """One click of a user."""

    voxel: tuple[int, int, int]
    """Array indices `[x, y, z]`."""
    is_positive: bool
    """Whether it says "this belongs to it"; else "this does not"."""


@dataclass(frozen=True, slots=True)
class Clicking:
    """How a user is simulated.

    Raises:
        SourceError: no click at all, or a mask to keep after a number of clicks that never comes.
    """

    num_clicks: int = 10
    """At most, for each connected part of each structure."""
    keep: tuple[int, ...] = ()
    """Numbers of clicks after which the mask is kept too."""
    strategy: Strategy = "random"
    """`random`: positive clicks, drawn uniformly from the part. `centre-first`: each click mends the worst error."""
    seed: int = 0
    min_part_voxels: int = MIN_PART_VOXELS
    """Smaller parts get no click."""

    def __post_init__(self) -> None:
        if self.num_clicks < 1:
            raise SourceError(f"expected at least 1 click for each part, got {self.num_clicks}")
        if never := [number for number in self.keep if not 1 <= number <= self.num_clicks]:
            raise SourceError(f"masks to keep after {never} clicks, expected numbers from 1 to {self.num_clicks}")


class Parts(NamedTuple):
    """The connected parts of a mask that are worth a click."""

    labels: LabelMap
    """0 outside; 1 to `num_parts` are the parts, largest first."""
    num_parts: int
    num_skipped: int
    """Parts that are too small."""


def connected_parts(mask: Mask, *, min_voxels: int = MIN_PART_VOXELS) -> Parts:
    """The 26-connected parts of a mask, largest first; equally large ones by their first voxel.

    Args:
        mask: of one structure; an empty one has no part.
        min_voxels: smaller parts are left out, and counted.
    """
    components = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    numbers, num_voxels = _by_size(components)
    kept = numbers[num_voxels >= min_voxels]
    rank = np.zeros(int(components.max()) + 1, np.min_scalar_type(len(kept)))
    rank[kept] = np.arange(1, len(kept) + 1)
    return Parts(rank[components], len(kept), len(numbers) - len(kept))


def click_generator(seed: int, *, case: str, structure: str, part: int) -> np.random.Generator:
    """The random numbers of one part; the same whatever else is drawn, in whatever order and process.

    Args:
        seed: of the whole run.
        case: name.
        structure: name.
        part: number, from 1.
    """
    digest = hashlib.sha256(json.dumps([seed, case, structure, part]).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest)))


def random_clicks(part: Mask, num_clicks: int, generator: np.random.Generator) -> tuple[Click, ...]:
    """Positive clicks on different voxels, drawn uniformly from a part.

    Returns:
        As many as asked for; one on each voxel, in random order, where the part has fewer.
    """
    inside = np.flatnonzero(part)
    chosen = generator.choice(inside, size=min(num_clicks, inside.size), replace=False)
    return tuple(Click(_voxel(index, part.shape), is_positive=True) for index in chosen.tolist())


def centre_click(prediction: Mask, part: Mask, *, spacing_mm: Spacing) -> Click | None:
    """The click of a user who mends the worst error first.

    Misses and false alarms fall apart into 26-connected components, each kind for itself. The click goes to the
    deepest voxel of the largest: the one farthest in mm from all that is not this component, where the outside of the
    volume counts too. Of equally large components, and of equally deep voxels, the first in array order is taken. The
    same voxel is clicked again if the error is still there.

    Args:
        prediction: what the tool shows.
        part: what the user wants.
        spacing_mm: of the grid of both.

    Returns:
        A positive click on a miss, a negative one on a false alarm; None where there is no error.

    Source:
        The usual simulation, as in Sofiiuk et al., Reviving iterative training with mask guidance for interactive
        segmentation, ICIP 2022.
    """
    is_wrong = prediction ^ part
    if not is_wrong.any():
        return None
    box, origin = _bounding_box(is_wrong)
    errors = np.ascontiguousarray(np.where(part[box], MISS, FALSE_ALARM) * is_wrong[box], np.uint8)
    components = cc3d.connected_components(errors, connectivity=26)
    numbers, _ = _by_size(components)
    depth_mm = edt.edt(components == numbers[0], anisotropy=spacing_mm, black_border=True)
    deepest = int(np.flatnonzero(depth_mm >= depth_mm.max() * (1 - TIE_TOLERANCE))[0])
    local = _voxel(deepest, errors.shape)
    x, y, z = (start + index for start, index in zip(origin, local, strict=True))
    return Click((x, y, z), is_positive=bool(errors[local] == MISS))


def _by_size(components: LabelMap) -> tuple[Integer[np.ndarray, " parts"], Integer[np.ndarray, " parts"]]:
    """Component numbers and voxel counts, largest first; ties by the first voxel in array order."""
    flat = components.reshape(-1)
    numbers, first, num_voxels = np.unique(flat[flat > 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -num_voxels))
    return numbers[order], num_voxels[order]


def _bounding_box(mask: Mask) -> tuple[tuple[slice, ...], tuple[int, ...]]:
    ranges = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(each[0]), int(each[-1]) + 1) for each in ranges)
    return box, tuple(side.start for side in box)


def _voxel(index: int, shape: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (int(each) for each in np.unravel_index(index, tuple(shape)))
    return x, y, z
