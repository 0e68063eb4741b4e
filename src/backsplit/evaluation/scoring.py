"""All scores of one case: each class inside the box that holds it, a few planes at a time where that is large."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Integer

from backsplit.arrays import LabelMap, Spacing
from backsplit.errors import ConfigurationError, GeometryError, LabelError
from backsplit.evaluation import border, lesions, overlap, surfaces
from backsplit.evaluation.boxes import bounding_box, joint_box
from backsplit.evaluation.definitions import nsd_column
from backsplit.evaluation.slabs import Labelled, SomeMask, box_of, part_of

ReferenceLabels = Integer[np.ndarray, "reference_x reference_y reference_z"]
"""A label map whose shape should be that of the prediction; a user may bring another, which is a `GeometryError`."""
Row = dict[str, str | float]


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores are made; the same for all arms of a comparison.

    Raises:
        ConfigurationError: no tolerance, one that is not above 0 mm or comes twice, a smallest lesion of less than a
            voxel or of negative volume, or a region that is named twice or has no class.
    """

    tolerances_mm: tuple[float, ...]
    """Accepted surface deviations for NSD; clinical choices, so they have no default."""
    min_lesion_voxels: int = 1
    """Components of fewer voxels are no lesions."""
    border: bool = False
    """Also score by border voxels, as MONAI does."""
    min_lesion_mm3: float = 0.0
    """Components of less volume are no lesions either."""
    regions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names, and the classes that are merged under each, scored beside the classes."""

    def __post_init__(self) -> None:
        if not self.tolerances_mm or not all(0 < tolerance < math.inf for tolerance in self.tolerances_mm):
            raise ConfigurationError(f"--tolerance-mm must be distances above 0 mm, got {self.tolerances_mm}")
        if len({nsd_column(tolerance) for tolerance in self.tolerances_mm}) < len(self.tolerances_mm):
            raise ConfigurationError(f"--tolerance-mm names one twice: {self.tolerances_mm}")
        if self.min_lesion_voxels < 1:
            raise ConfigurationError(f"--min-lesion-voxels must be 1 or more, got {self.min_lesion_voxels}")
        if not 0 <= self.min_lesion_mm3 < math.inf:
            raise ConfigurationError(f"--min-lesion-mm3 must be a volume of 0 mm3 or more, got {self.min_lesion_mm3}")
        names = [name for name, _ in self.regions]
        if len(set(names)) < len(names) or not all(name and merged for name, merged in self.regions):
            raise ConfigurationError(f"regions need a name each, once, and a class or more; got {self.regions}")

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "Scoring":
        """From what `dataclasses.asdict` gave, after a way through JSON."""
        regions = tuple((name, tuple(merged)) for name, merged in content["regions"])
        whole: dict[str, Any] = {**content, "tolerances_mm": tuple(content["tolerances_mm"]), "regions": regions}
        return cls(**whole)

    def smallest_lesion(self, spacing_mm: Spacing) -> int:
        """Voxels of the smallest component that is a lesion, at least 1."""
        by_volume = math.ceil(self.min_lesion_mm3 / math.prod(spacing_mm) - 1e-9)
        return max(self.min_lesion_voxels, by_volume)

    def masks_of(self, classes: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
        """Label values of everything that is scored: the classes in their order, then the regions.

        Raises:
            LabelError: a region merges what is no class, or has the name of one.
        """
        values = {name: value for value, name in classes.items()}
        for region, merged in self.regions:
            if region in values or not values.keys() >= set(merged):
                told, known = " + ".join(merged), ", ".join(values)
                raise LabelError(f"region {region} = {told}: expected a new name, and classes among {known}")
        single = {name: (value,) for name, value in values.items()}
        return single | {region: tuple(values[name] for name in merged) for region, merged in self.regions}


@dataclass(frozen=True, slots=True)
class Subject:
    """What was scored."""

    arm: str
    fold: str
    """`0`, `1`, ... or `all`."""
    case: str
    rule: str
    """How fine classes became targets: `argmax` (then merge) or `pooled` (merge, then argmax)."""
    seed: str = "0"
    """Of the training."""
    group: str = ""
    """Patient."""


@dataclass(frozen=True, slots=True)
class CaseScores:
    """Rows of the two tables of one case."""

    scores: list[Row]
    """One per class."""
    lesions: list[Row]
    """One per reference lesion and per false predicted one."""


LESION_COLUMNS = (*(field.name for field in fields(Subject)), "class", "kind", "lesion", "ml", "detected", "dice")
"""Of `lesions.csv`, also where no case has a lesion."""


def score_label_maps(
    prediction: LabelMap,
    reference: ReferenceLabels,
    *,
    subject: Subject,
    classes: Mapping[int, str],
    spacing_mm: Spacing,
    scoring: Scoring,
) -> CaseScores:
    """Score several classes; the volumes are read once, each class only inside the box that holds it.

    Args:
        prediction: label map.
        reference: label map on the same grid.
        subject: whose scores they are, for the rows.
        classes: label value (1 or more) to class name; other values in the maps are not scored. The regions of the
            scoring merge them by name.
        spacing_mm: edge lengths of a voxel, in the order of the array axes.
        scoring: tolerances and definitions.

    Returns:
        Rows in the order of `classes`, then of the regions.

    Raises:
        GeometryError: the maps differ in shape.
        LabelError: a label value below 1 is to be scored, or a region does not fit the classes.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"{subject.case}: prediction has shape {prediction.shape}, reference {reference.shape}; "
            "bring both to one grid first"
        )
    if min(classes, default=1) < 1:
        raise LabelError(f"classes to score have label values of 1 or more, got {sorted(classes)}")
    diagonal_mm = math.hypot(*(length * edge for length, edge in zip(reference.shape, spacing_mm, strict=True)))
    told, found = asdict(subject), CaseScores([], [])
    labelled = joint_box(bounding_box(prediction), bounding_box(reference))
    prediction, reference = prediction[labelled], reference[labelled]
    for name, values in scoring.masks_of(classes).items():
        predicted, referred = Labelled(prediction, values), Labelled(reference, values)
        box = joint_box(box_of(predicted), box_of(referred))
        masks = part_of(predicted, box), part_of(referred, box)
        counted = lesions.count_lesions(*masks, min_voxels=scoring.smallest_lesion(spacing_mm))
        scores = _score_masks(*masks, spacing_mm, scoring) | lesions.lesion_scores(
            counted, voxel_ml=math.prod(spacing_mm) / 1000
        )
        found.scores.append({**told, "class": name, **scores, "diagonal_mm": diagonal_mm})
        found.lesions.extend({**told, "class": name, **row} for row in _lesion_rows(counted, spacing_mm))
    return found


def _score_masks(prediction: SomeMask, reference: SomeMask, spacing_mm: Spacing, scoring: Scoring) -> dict[str, float]:
    counts = overlap.count_overlap(prediction, reference)
    distances = surfaces.surface_distances(prediction, reference, spacing_mm=spacing_mm)
    voxel_ml = math.prod(spacing_mm) / 1000
    scores = {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "precision": overlap.precision(counts),
        "recall": overlap.recall(counts),
        "volume_error_ml": (counts.num_prediction - counts.num_reference) * voxel_ml,
        "hd95_mm": surfaces.hausdorff_mm(distances, percentile=95.0),
        "hd_mm": surfaces.hausdorff_mm(distances, percentile=100.0),
        "assd_mm": surfaces.average_surface_distance_mm(distances),
    }
    for tolerance_mm in scoring.tolerances_mm:
        score = surfaces.normalised_surface_dice(distances, tolerance_mm=tolerance_mm)
        scores[nsd_column(tolerance_mm)] = score
    if scoring.border:
        scores |= _border_scores(prediction, reference, spacing_mm, scoring)
    reference_ml, prediction_ml = counts.num_reference * voxel_ml, counts.num_prediction * voxel_ml
    return {**scores, "reference_ml": reference_ml, "prediction_ml": prediction_ml}


def _border_scores(
    prediction: SomeMask, reference: SomeMask, spacing_mm: Spacing, scoring: Scoring
) -> dict[str, float]:
    distances = border.border_distances(prediction, reference, spacing_mm=spacing_mm)
    scores = {"border_hd95_mm": border.border_hausdorff_mm(distances, percentile=95.0)}
    for tolerance_mm in scoring.tolerances_mm:
        score = border.border_surface_dice(distances, tolerance_mm=tolerance_mm)
        scores[nsd_column(tolerance_mm, border=True)] = score
    return scores


def _lesion_rows(counted: lesions.Lesions, spacing_mm: Spacing) -> Iterator[Row]:
    """Reference lesions, then predicted ones that share no voxel with any."""
    voxel_ml = math.prod(spacing_mm) / 1000
    rows = zip(counted.reference, counted.is_detected, counted.dice, strict=True)
    for number, (voxels, is_detected, dice) in enumerate(rows, start=1):
        found = "yes" if is_detected else "no"
        yield {"kind": "reference", "lesion": number, "ml": voxels * voxel_ml, "detected": found, "dice": float(dice)}
    for number, voxels in enumerate(counted.prediction[~counted.is_true], start=1):
        yield {"kind": "false", "lesion": number, "ml": voxels * voxel_ml, "detected": "no", "dice": 0.0}
