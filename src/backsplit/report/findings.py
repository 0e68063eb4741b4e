"""Where the lesions of a case are, which arms found them, and where the false alarms are. Arrays only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cc3d
import numpy as np

from backsplit.arrays import LabelMap, Mask
from backsplit.evaluation import components, match_components
from backsplit.evaluation.boxes import NOTHING, Box, bounding_box, box_within, joint_boxes
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
    outer = joint_boxes([target_box(reference, max(classes)), *map(bounding_box, predictions.values())])
    found: list[Finding] = []
    for value, name in classes.items() if predictions else ():
        masks = [labels[outer] == value for labels in (reference, *predictions.values())]
        inner = joint_boxes(map(bounding_box, masks))
        cut, *of_arms = (np.ascontiguousarray(mask[inner]) for mask in masks)
        if cut.size:
            by_arm = dict(zip(predictions, of_arms, strict=True))
            found += _of_class(name, cut, by_arm, box_within(outer, inner), grid, min_voxels)
    return tuple(found)


def target_box(labels: LabelMap, num_targets: int) -> Box:
    """Box around the voxels of targets, values 1 to `num_targets`; looks closely at labelled voxels alone."""
    labelled = bounding_box(labels)
    inside = labels[labelled]
    found = bounding_box((inside > 0) & (inside <= num_targets))
    return found if found == NOTHING else box_within(labelled, found)


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
