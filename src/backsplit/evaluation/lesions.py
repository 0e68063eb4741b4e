"""Lesion by lesion: which were found, which are false alarms, how well each is outlined.

A lesion is a 26-connected component of a mask with at least a stated number of voxels; smaller ones are left out of
both masks. A reference lesion is detected if a predicted one shares a voxel with it; a predicted lesion that shares
none with the reference is false. Components and their overlaps are counted once, the rest is arithmetic.

Source:
    Panoptic quality: Kirillov et al., CVPR 2019 (pairs with an IoU above 0.5, which are unique). False-positive and
    false-negative volume: autoPET, autopet.grand-challenge.org (there with 18 neighbours).
"""

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Float, Int, Integer

from backsplit.arrays import Mask
from backsplit.evaluation.boxes import joint_box
from backsplit.evaluation.overlap import ReferenceMask, require_one_shape
from backsplit.evaluation.pieces import Pieces, shared_voxels
from backsplit.evaluation.slabs import SomeMask, box_of, part_of, planes_of, slabs

MATCHING_IOU = 0.5
Components = tuple[Integer[np.ndarray, "_ _ _"], Int[np.ndarray, " _"]]
"""Number of the component of each voxel, from 1, and the voxels of each component."""


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """Voxels of each lesion, and of each overlapping pair of a reference and a predicted one."""

    reference: Int[np.ndarray, " references"]
    prediction: Int[np.ndarray, " predictions"]
    pairs: Int[np.ndarray, "pairs 2"]
    """Numbers, from 0, of a reference lesion and a predicted one that share voxels."""
    shared: Int[np.ndarray, " pairs"]

    @property
    def is_detected(self) -> np.ndarray:
        """For each reference lesion."""
        return np.isin(np.arange(self.reference.size), self.pairs[:, 0])

    @property
    def is_true(self) -> np.ndarray:
        """For each predicted lesion, whether it shares a voxel with a reference lesion."""
        return np.isin(np.arange(self.prediction.size), self.pairs[:, 1])

    @property
    def pair_ious(self) -> Float[np.ndarray, " pairs"]:
        """Intersection over union of each pair."""
        first, second = self.pairs.T
        return self.shared / (self.reference[first] + self.prediction[second] - self.shared)

    @property
    def dice(self) -> Float[np.ndarray, " references"]:
        """Dice of each reference lesion against all predicted ones that share voxels with it; 0 where none does."""
        first, second = self.pairs.T
        shared = np.bincount(first, self.shared, self.reference.size)
        predicted = np.bincount(first, self.prediction[second], self.reference.size)
        return 2 * shared / (self.reference + predicted)


def count_lesions(prediction: SomeMask, reference: ReferenceMask, *, min_voxels: int = 1) -> Lesions:
    """Find the lesions of two masks and count what they share.

    Args:
        prediction: mask.
        reference: mask on the same grid.
        min_voxels: smaller components are no lesions.

    Raises:
        GeometryError: the masks differ in shape.
    """
    require_one_shape(prediction, reference)
    box = joint_box(box_of(prediction), box_of(reference))
    prediction, reference = part_of(prediction, box), part_of(reference, box)
    first, second = Pieces(), Pieces()
    codes, shared = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for planes in slabs(prediction.shape):
        predicted, referred = first.add(planes_of(prediction, planes)), second.add(planes_of(reference, planes))
        found = shared_voxels(predicted, referred)
        codes.append(found[0])
        shared.append(found[1])
    (predicted_numbers, predicted_sizes), (reference_numbers, reference_sizes) = (
        pieces.joined(min_voxels) for pieces in (first, second)
    )
    of_pieces = np.concatenate(codes)
    pairs = np.stack([reference_numbers[of_pieces[:, 0] - 1], predicted_numbers[of_pieces[:, 1] - 1]], axis=1)
    is_kept = (pairs > 0).all(axis=1)
    unique, inverse = np.unique(pairs[is_kept], axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel(), np.concatenate(shared)[is_kept], len(unique)).astype(np.int64)
    return Lesions(reference_sizes, predicted_sizes, unique - 1, counts)


def match_components(prediction: Components, reference: Components) -> Lesions:
    """Count what the components of two masks share.

    Args:
        prediction: of `components`.
        reference: of `components`, on the same grid.
    """
    (predicted, predicted_sizes), (referred, reference_sizes) = prediction, reference
    both = (predicted > 0) & (referred > 0)
    width = predicted_sizes.size + 1
    codes, shared = np.unique(referred[both].astype(np.int64) * width + predicted[both], return_counts=True)
    pairs = np.stack([codes // width - 1, codes % width - 1], axis=1)
    return Lesions(reference_sizes, predicted_sizes, pairs, shared)


def components(mask: Mask, min_voxels: int) -> Components:
    """Components numbered from 1 without gaps in the order of their first voxels, x fastest; and their sizes."""
    if not mask.any():
        return np.zeros(mask.shape, np.uint8), np.zeros(0, np.int64)
    whole = np.asfortranarray(mask)  # cc3d 3.29 misreads views with gaps
    parts = cc3d.connected_components(whole, connectivity=26)
    sizes = np.bincount(parts[whole])
    is_kept = sizes >= max(min_voxels, 1)
    if not is_kept[1:].all():
        parts = (np.cumsum(is_kept) * is_kept).astype(parts.dtype)[parts]
    return parts, sizes[is_kept]


def lesion_scores(lesions: Lesions, *, voxel_ml: float) -> dict[str, float]:
    """Scores of one case.

    Returns:
        Counts; `lesion_sensitivity` (NaN without a reference lesion), `lesion_precision` (NaN without a predicted one),
        `lesion_f1` and `panoptic_quality` (NaN without either, 0 with one of them alone), the mean `lesion_dice` over
        reference lesions (NaN without one), `false_positive_ml` of predicted lesions that share no voxel with the
        reference and `false_negative_ml` of reference lesions that share none with the prediction.
    """
    num_reference, num_predicted = lesions.reference.size, lesions.prediction.size
    num_detected, num_true = int(lesions.is_detected.sum()), int(lesions.is_true.sum())
    sensitivity = num_detected / num_reference if num_reference else math.nan
    precision = num_true / num_predicted if num_predicted else math.nan
    matched = lesions.pair_ious[lesions.pair_ious > MATCHING_IOU]
    total = num_reference + num_predicted
    return {
        "num_reference_lesions": num_reference,
        "num_predicted_lesions": num_predicted,
        "num_detected_lesions": num_detected,
        "num_false_lesions": num_predicted - num_true,
        "lesion_sensitivity": sensitivity,
        "lesion_precision": precision,
        "lesion_f1": _harmonic(sensitivity, precision) if total else math.nan,
        "lesion_dice": float(lesions.dice.mean()) if num_reference else math.nan,
        "panoptic_quality": float(matched.sum()) / (total / 2) if total else math.nan,
        "false_positive_ml": float(lesions.prediction[~lesions.is_true].sum()) * voxel_ml,
        "false_negative_ml": float(lesions.reference[~lesions.is_detected].sum()) * voxel_ml,
    }


def _harmonic(sensitivity: float, precision: float) -> float:
    """Harmonic mean, 0 where one side has no lesion or none was found."""
    if math.isnan(sensitivity) or math.isnan(precision) or not sensitivity + precision:
        return 0.0
    return 2 * sensitivity * precision / (sensitivity + precision)
