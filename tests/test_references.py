"""All scores against independent tools: DeepMind's, MONAI's, panoptica's and scikit-learn's."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from panoptica import CCABackend, ConnectedComponentsInstanceApproximator, InputType, Metric, NaiveThresholdMatching
from panoptica import Panoptica_Evaluator as Panoptica
from panoptica.utils.citation_reminder import disable_citation_reminder
from scipy import ndimage
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from backsplit.evaluation import (
    average_surface_distance_mm,
    border_distances,
    border_hausdorff_mm,
    border_surface_dice,
    count_lesions,
    count_overlap,
    dice,
    hausdorff_mm,
    iou,
    lesion_scores,
    normalised_surface_dice,
    precision,
    recall,
    surface_distances,
)
from backsplit.evaluation.boxes import bounding_box, joint_box
from backsplit.volume import read_labels

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]
TOLERANCE_MM = 2.0
SHAPE, SPACING = (9, 8, 7), (0.7, 1.3, 3.0)
PRECISION = {"border hd95": 1e-4}
"""Of MONAI, which measures in single precision; 1e-6 else."""


def ours(prediction, reference, spacing_mm) -> dict[str, float]:
    counts = count_overlap(prediction, reference)
    elements = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    border = border_distances(prediction, reference, spacing_mm=spacing_mm)
    lesions = lesion_scores(count_lesions(prediction, reference), voxel_ml=1.0)
    return {
        "dice": dice(counts),
        "iou": iou(counts),
        "precision": precision(counts),
        "recall": recall(counts),
        "hd95": hausdorff_mm(elements, percentile=95),
        "nsd": normalised_surface_dice(elements, tolerance_mm=TOLERANCE_MM),
        "assd": average_surface_distance_mm(elements),
        "border hd95": border_hausdorff_mm(border, percentile=95),
        "border nsd": border_surface_dice(border, tolerance_mm=TOLERANCE_MM),
        "panoptic quality": lesions["panoptic_quality"],
    }


def theirs(prediction, reference, spacing_mm) -> dict[str, float]:
    """The same; what a tool does not define for empty masks is left out."""
    found = {}
    flat = (reference.ravel(), prediction.ravel())
    if prediction.any() and reference.any():
        found |= {"dice": f1_score(*flat), "iou": jaccard_score(*flat)}
        found |= {"precision": precision_score(*flat), "recall": recall_score(*flat)}
        found |= deepmind(prediction, reference, spacing_mm) | monai(prediction, reference, spacing_mm)
        found["panoptic quality"] = panoptica(prediction, reference)
    return found


def deepmind(prediction, reference, spacing_mm) -> dict[str, float]:
    surfaces = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    return {
        "hd95": surface_distance.compute_robust_hausdorff(surfaces, 95),
        "nsd": surface_distance.compute_surface_dice_at_tolerance(surfaces, TOLERANCE_MM),
        "assd": float(np.mean(surface_distance.compute_average_surface_distance(surfaces))),
    }


def monai(prediction, reference, spacing_mm) -> dict[str, float]:
    first, second = (torch.from_numpy(np.stack([~mask, mask])[None]).float() for mask in (prediction, reference))
    return {
        "border hd95": float(compute_hausdorff_distance(first, second, percentile=95, spacing=spacing_mm)),
        "border nsd": float(compute_surface_dice(first, second, [TOLERANCE_MM], spacing=spacing_mm)),
    }


def panoptica(prediction, reference) -> float:
    disable_citation_reminder()
    tool = Panoptica(
        InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(CCABackend.cc3d),
        instance_matcher=NaiveThresholdMatching(
            matching_threshold=0.5 + 1e-9
        ),  # above, not at; the paper of the metric
        instance_metrics=[Metric.IOU],
        global_metrics=[],
    )
    return tool.evaluate(prediction.astype(np.uint8), reference.astype(np.uint8), verbose=False)["ungrouped"].pq


def assert_agree(prediction, reference, spacing_mm) -> None:
    found = ours(prediction, reference, spacing_mm)
    for name, expected in theirs(prediction, reference, spacing_mm).items():
        assert found[name] == pytest.approx(expected, abs=PRECISION.get(name, 1e-6)), name


@settings(max_examples=40)
@given(
    array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7).flatmap(
        lambda shape: st.tuples(*[arrays(bool, shape, elements=st.booleans(), fill=st.just(False))] * 2)
    )
)
def test_random_masks(pair):
    assert_agree(*pair, SPACING)


def changed(reference, seed) -> dict[str, np.ndarray]:
    """A shifted, an eroded and a noisy copy."""
    near = ndimage.binary_dilation(reference, iterations=2)
    noise = np.random.default_rng(seed).random(reference.shape) < 0.1
    return {
        "shifted": np.roll(reference, (1, 2, -1), axis=(0, 1, 2)),
        "eroded": ndimage.binary_erosion(reference),
        "noisy": reference ^ (near & noise),
    }


def around(*masks) -> list[np.ndarray]:
    """The masks in the box that holds them, and a margin for what is changed."""
    box = bounding_box(masks[0])
    for mask in masks[1:]:
        box = joint_box(box, bounding_box(mask))
    return [np.pad(np.ascontiguousarray(mask[box]), 3) for mask in masks]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_every_kits23_label_file(real_data, part):
    """Cysts, or tumours where a case has none."""
    files = sorted((real_data / "kits23_labels").glob("*.nii.gz"))
    assert len(files) == 60
    for file in files[part::6]:
        labels = read_labels(file)
        (reference,) = around(labels.voxels == (3 if (labels.voxels == 3).any() else 2))
        for name, prediction in changed(reference, seed=0).items():
            try:
                assert_agree(prediction, reference, labels.grid.spacing_mm)
            except AssertionError as error:
                raise AssertionError(f"{file.name}, {name}: {error}") from error


def test_pairs_of_hippocampi(real_data):
    """The hippocampus of one patient as the prediction for the next."""
    files = sorted((real_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:9]
    for first, second in pairwise(map(volume_of, files)):
        extent = tuple(slice(0, min(edges)) for edges in zip(first.shape, second.shape, strict=True))
        assert_agree(first[extent], second[extent], SPACING)


def volume_of(file: Path) -> np.ndarray:
    return np.ascontiguousarray(read_labels(file).voxels > 0)


SINGLE, EDGE = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
SINGLE[4, 4, 3], EDGE[0, :, 2:5] = True, True
ODD = {"empty": np.zeros(SHAPE, bool), "full": np.ones(SHAPE, bool), "single voxel": SINGLE, "at the edge": EDGE}


@pytest.mark.parametrize("prediction", ODD)
@pytest.mark.parametrize("reference", ODD)
def test_odd_masks(prediction, reference):
    """Where tools crash or differ on empty masks, the values are those that the docstrings name."""
    assert_agree(ODD[prediction], ODD[reference], SPACING)
    found = ours(ODD[prediction], ODD[reference], SPACING)
    empty = [name for name in (prediction, reference) if name == "empty"]
    if empty:
        expected = math.nan if len(empty) == 2 else 0.0
        for name in ("dice", "iou", "nsd", "border nsd", "panoptic quality"):
            assert found[name] == pytest.approx(expected, nan_ok=True), name
        assert all(math.isnan(found[name]) for name in ("hd95", "assd", "border hd95"))
