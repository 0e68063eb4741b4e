"""Where the lesions of a case are, which arms found them, and where the false alarms are. Arrays only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cc3d
import numpy as np

from backsplit.arrays import LabelMap, Mask
from backsplit.evaluation import components, match_components
from backsplit.evaluation.boxes import NOTHING, Box, bounding_box, joint_box
from backsplit.report.slices import middle_voxel
from backsplit.volume import Grid


@dataclass(frozen=True, slots=True)
class Finding:
    """A reference lesion, or a false alarm of one arm; numbered as in `lesions.csv`."""

    class_name: str
    number: int
    voxel: tuple[int, int, int]
    """The one of its voxels that is nearest to its centre of mass."""
    ml: float
    dice: Mapping[str, float | None]
    """Of a reference lesion, by arm; None where the arm missed it. Empty for a false alarm."""
    false_of: str | None = None
    """The arm whose false alarm it is."""


def findings(
    reference: LabelMap, predictions: Mapping[str, LabelMap], classes: Mapping[int, str], grid: Grid, *, min_voxels: int
) -> tuple[Finding, ...]:
    """Class by class: the reference lesions, then the false alarms of each arm, largest first.

    Args:
        reference: label map; voxels that nobody annotated are background.
        predictions: label map by arm, cleared alike.
        classes: label value to name.
        grid: of all maps.
        min_voxels: smaller components are no lesions.
    """
    box = target_box(reference, max(classes))
    for labels in predictions.values():
        box = joint_box(box, bounding_box(labels))
    cut = {arm: labels[box] for arm, labels in predictions.items()}
    found: list[Finding] = []
    for value, name in classes.items() if cut and reference[box].size else ():
        masks = {arm: np.ascontiguousarray(labels == value) for arm, labels in cut.items()}
        found += _of_class(name, np.ascontiguousarray(reference[box] == value), masks, box, grid, min_voxels)
    return tuple(found)


def target_box(labels: LabelMap, num_targets: int) -> Box:
    """Box around the voxels of targets, values 1 to `num_targets`; looks closely at labelled voxels alone."""
    labelled = bounding_box(labels)
    inside = labels[labelled]
    found = bounding_box((inside > 0) & (inside <= num_targets))
    if found == NOTHING:
        return NOTHING
    x, y, z = (slice(w.start + b.start, w.start + b.stop) for w, b in zip(labelled, found, strict=True))
    return x, y, z


def _of_class(
    name: str, reference: Mask, predictions: Mapping[str, Mask], box: Box, grid: Grid, min_voxels: int
) -> Iterator[Finding]:
    of_reference = components(reference, min_voxels)
    of_arms = {arm: components(mask, min_voxels) for arm, mask in predictions.items()}
    counted = {arm: match_components(found, of_reference) for arm, found in of_arms.items()}
    for number, voxel in enumerate(_places(*of_reference, box, grid)):
        dice = {
            arm: float(lesions.dice[number]) if lesions.is_detected[number] else None
            for arm, lesions in counted.items()
        }
        yield Finding(name, number + 1, voxel, float(of_reference[1][number]) * grid.voxel_ml, dice)
    for arm, (parts, sizes) in of_arms.items():
        places = list(_places(parts, sizes, box, grid))
        false = np.flatnonzero(~counted[arm].is_true)
        for number in np.argsort(-sizes[false], kind="stable").tolist():
            ml = float(sizes[false[number]]) * grid.voxel_ml
            yield Finding(name, number + 1, places[false[number]], ml, {}, false_of=arm)


def _places(parts: np.ndarray, sizes: np.ndarray, box: Box, grid: Grid) -> Iterator[tuple[int, int, int]]:
    """The middle voxel of each component, as an index of the whole volume."""
    if not sizes.size:
        return
    boxes = cc3d.statistics(parts.astype(np.uint32))["bounding_boxes"]
    for number in range(1, sizes.size + 1):
        own = boxes[number]
        inside = middle_voxel(parts[own] == number, grid.spacing_mm)
        x, y, z = (index + part.start + whole.start for index, part, whole in zip(inside, own, box, strict=True))
        yield int(x), int(y), int(z)
