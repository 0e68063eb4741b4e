"""Overlap, border voxels and lesions: slow twins, laws, by hand. Other tools: `test_references.py`."""

import math

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from backsplit.errors import ConfigurationError, GeometryError, LabelError
from backsplit.evaluation import (
    Scoring,
    Subject,
    average_surface_distance_mm,
    border_distances,
    border_hausdorff_mm,
    border_surface_dice,
    components,
    count_lesions,
    count_overlap,
    dice,
    lesion_scores,
    metric_of,
    metrics_in,
    nsd_column,
    score_label_maps,
    slabs,
    surface_distances,
)
from backsplit.evaluation.boxes import bounding_box
from backsplit.evaluation.pieces import Pieces, shared_voxels
from backsplit.volume import read_labels

pytestmark = pytest.mark.filterwarnings(
    r"ignore:Please import `\w+` from the `scipy.ndimage` namespace:DeprecationWarning:surface_distance.metrics"
)
SPACING = (0.7, 1.3, 3.0)
masks = array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape, elements=st.booleans(), fill=st.just(False))] * 2)
)


def test_border_of_empty_masks():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    one = border_distances(empty, full, spacing_mm=SPACING)
    assert math.isnan(border_hausdorff_mm(one, percentile=95))
    assert border_surface_dice(one, tolerance_mm=1.0) == 0
    both = border_distances(empty, empty, spacing_mm=SPACING)
    assert math.isnan(border_surface_dice(both, tolerance_mm=1.0))


@given(masks)
def test_average_distance_is_between_zero_and_the_largest(pair):
    prediction, reference = pair
    surfaces = surface_distances(prediction, reference, spacing_mm=SPACING)
    average = average_surface_distance_mm(surfaces)
    if not (prediction.any() and reference.any()):
        assert math.isnan(average)
        return
    both = np.concatenate([surfaces.prediction_to_reference_mm, surfaces.reference_to_prediction_mm])
    assert 0 <= average <= both.max()
    assert (average == 0) == (both.max() == 0)


def counted_slowly(prediction, reference, min_voxels):
    """Slow twin: lesion by lesion, pair by pair."""
    parts = []
    for mask in (prediction, reference):
        numbered = cc3d.connected_components(mask, connectivity=26)
        found = [numbered == number for number in range(1, numbered.max() + 1)]
        parts.append([lesion for lesion in found if lesion.sum() >= min_voxels])
    predicted, referred = parts
    detected = sum(any((one & other).any() for other in predicted) for one in referred)
    true = sum(any((one & other).any() for other in referred) for one in predicted)
    ious = [(one & other).sum() / (one | other).sum() for one in referred for other in predicted]
    matched = [value for value in ious if value > 0.5]
    false = [one for one in predicted if not any((one & other).any() for other in referred)]
    missed = [one for one in referred if not any((one & other).any() for other in predicted)]
    scores = []
    for one in referred:
        near = [other for other in predicted if (one & other).any()]
        shared = sum((one & other).sum() for other in near)
        scores.append(2 * shared / (one.sum() + sum(other.sum() for other in near)))
    half = (len(referred) + len(predicted)) / 2
    return {
        "num_reference_lesions": len(referred),
        "num_predicted_lesions": len(predicted),
        "num_detected_lesions": detected,
        "num_false_lesions": len(predicted) - true,
        "lesion_dice": np.mean(scores) if referred else math.nan,
        "panoptic_quality": sum(matched) / half if half else math.nan,
        "false_positive_ml": sum(one.sum() for one in false) * 0.5,
        "false_negative_ml": sum(one.sum() for one in missed) * 0.5,
    }


@settings(max_examples=60)
@given(masks, st.integers(1, 3))
def test_lesions_are_counted_as_one_by_one(pair, min_voxels):
    found = lesion_scores(count_lesions(*pair, min_voxels=min_voxels), voxel_ml=0.5)
    for name, expected in counted_slowly(*pair, min_voxels).items():
        assert found[name] == pytest.approx(expected, nan_ok=True), name


@settings(max_examples=60)
@given(masks, st.integers(1, 3), st.integers(1, 3))
def test_pieces_of_slabs_are_the_components_of_the_whole(pair, thickness, min_voxels):
    mask, other = pair
    pieces, others = Pieces(), Pieces()
    numbers = np.zeros(mask.shape, int)
    for start in range(0, mask.shape[2], thickness):
        planes = slice(start, start + thickness)
        slab, beside = pieces.add(mask[..., planes]), others.add(other[..., planes])
        local = slab.numbers.astype(int)
        numbers[..., planes] = np.where(local > 0, local + slab.offset, 0)
        (pairs, shared), both = shared_voxels(slab, beside), mask[..., planes] & other[..., planes]
        assert shared.sum() == both.sum()
        assert len(np.unique(pairs, axis=0)) == len(pairs)
    of_pieces, sizes = pieces.joined(min_voxels)
    found = np.concatenate([[0], of_pieces])[numbers]
    expected, expected_sizes = components(mask, min_voxels)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(sizes, expected_sizes)


@settings(max_examples=60)
@given(pair=masks, num_voxels=st.integers(1, 30), order=st.sampled_from("CF"))
def test_slabs_change_no_score(pair, num_voxels, order):
    maps = [np.asarray(mask, np.uint8, order=order) for mask in pair]
    scoring = Scoring((1.0, 2.5), min_lesion_voxels=2, border=True)
    told = {"subject": Subject("arm", "0", "a", "argmax"), "classes": {1: "cyst"}, "spacing_mm": SPACING}
    whole = score_label_maps(*maps, **told, scoring=scoring)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(slabs, "SLAB_VOXELS", num_voxels)
        assert len(list(slabs.slabs(maps[0].shape))) == maps[0].shape[2] or num_voxels > 1
        cut = score_label_maps(*maps, **told, scoring=scoring)
    np.testing.assert_equal(cut.scores, whole.scores)
    np.testing.assert_equal(cut.lesions, whole.lesions)


def test_lesions_by_hand():
    reference, prediction = np.zeros((12, 4, 4), bool), np.zeros((12, 4, 4), bool)
    reference[0:2, 0:2, 0:2] = reference[4:6, 0:2, 0:2] = True
    reference[8, 0, 0] = True
    prediction[0:2, 0:2, 0:2] = prediction[10:12] = True
    prediction[4, 0, 0] = True
    found = lesion_scores(count_lesions(prediction, reference), voxel_ml=0.001)
    assert (found["num_reference_lesions"], found["num_detected_lesions"], found["num_false_lesions"]) == (3, 2, 1)
    assert found["lesion_sensitivity"] == found["lesion_precision"] == found["lesion_f1"] == pytest.approx(2 / 3)
    assert found["lesion_dice"] == pytest.approx((1 + 2 / 9 + 0) / 3)
    assert found["panoptic_quality"] == pytest.approx(1 / 3)  # one pair of IoU 1; 1 + 2/2 + 2/2 below
    assert (found["false_positive_ml"], found["false_negative_ml"]) == (pytest.approx(0.032), pytest.approx(0.001))
    larger = lesion_scores(count_lesions(prediction, reference, min_voxels=2), voxel_ml=0.001)
    assert (larger["num_reference_lesions"], larger["num_predicted_lesions"]) == (2, 2)


def test_lesions_of_nothing():
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    neither = lesion_scores(count_lesions(empty, empty), voxel_ml=1)
    assert all(math.isnan(neither[name]) for name in ("lesion_f1", "panoptic_quality", "lesion_sensitivity"))
    missed = lesion_scores(count_lesions(empty, full), voxel_ml=1)
    assert (missed["lesion_f1"], missed["panoptic_quality"], missed["false_negative_ml"]) == (0, 0, 27)
    with pytest.raises(GeometryError, match="bring both to one grid"):
        count_lesions(empty, full[:2])


def test_a_case_has_a_row_per_class_and_per_lesion():
    reference, prediction = np.zeros((2, 8, 8, 8), np.uint8)
    reference[1:3, 1:3, 1:3], reference[5, 5, 5], prediction[1:3, 1:3, 1:3], prediction[7, 7, 7] = 1, 1, 1, 1
    found = score_label_maps(
        prediction,
        reference,
        subject=Subject("arm", "0", "a", "argmax"),
        classes={1: "cyst", 2: "tumor"},
        spacing_mm=(1.0, 1.0, 1.0),
        scoring=Scoring((1.0, 2.5), border=True),
    )
    cyst, tumor = found.scores
    assert [row["kind"] for row in found.lesions] == ["reference", "reference", "false"]
    assert [row["detected"] for row in found.lesions] == ["yes", "no", "no"]
    assert 0 < cyst["nsd_1mm"] < cyst["nsd_2.5mm"] < 1
    assert cyst["border_nsd_1mm"] == pytest.approx(16 / 18)
    assert math.isnan(tumor["dice"])
    assert tumor["num_reference_lesions"] == 0


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=8)), st.sampled_from("CFS"))
def test_components_are_numbered_by_their_first_voxel_however_the_array_lies(mask, order):
    laid = np.repeat(mask, 2, axis=1)[:, ::2] if order == "S" else np.asarray(mask, order=order)
    numbers, sizes = components(laid, 1)
    seen = numbers.ravel(order="F")[mask.ravel(order="F")].tolist()
    assert ((numbers > 0) == mask).all()
    assert list(dict.fromkeys(seen)) == list(range(1, len(sizes) + 1))
    assert [seen.count(number) for number in range(1, len(sizes) + 1)] == sizes.tolist()


@pytest.mark.parametrize(("mm3", "voxels"), [(0.0, 2), (12.0, 2), (18.0, 3), (18.1, 4)])
def test_the_smallest_lesion_in_mm3_is_a_number_of_voxels(mm3, voxels):
    assert Scoring((1.0,), 2, min_lesion_mm3=mm3).smallest_lesion((1.0, 2.0, 3.0)) == voxels


def test_a_region_is_scored_as_the_union_of_its_classes():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, (2, 9, 9, 9), dtype=np.uint8)
    told = {"subject": Subject("arm", "0", "a", "argmax"), "spacing_mm": (1.0, 1.0, 2.0)}
    regions = Scoring((1.0,), regions=(("mass", ("cyst", "stone")),))
    names = {1: "cyst", 2: "tumor", 3: "stone"}
    found = score_label_maps(prediction, reference, classes=names, scoring=regions, **told)
    merged = [(labels % 2).astype(np.uint8) for labels in (prediction, reference)]
    alone = score_label_maps(*merged, classes={1: "mass"}, scoring=Scoring((1.0,)), **told)
    assert [row["class"] for row in found.scores] == ["cyst", "tumor", "stone", "mass"]
    assert found.scores[-1] == alone.scores[0]
    assert [row for row in found.lesions if row["class"] == "mass"] == alone.lesions


@pytest.mark.parametrize("region", [("cyst", ("tumor",)), ("mass", ("cyst", "liver"))])
def test_regions_that_do_not_fit_the_classes(region):
    with pytest.raises(LabelError, match=r"expected a new name, and classes among cyst, tumor"):
        Scoring((1.0,), regions=(region,)).masks_of({1: "cyst", 2: "tumor"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (((),), "distances above 0 mm, got"),
        (((0.0,),), "distances above 0 mm"),
        (((1.0, 1.0),), "names one twice"),
        (((1.0,), 0), "--min-lesion-voxels must be 1 or more"),
        (((1.0,), 1, False, -1.0), "--min-lesion-mm3 must be a volume of 0 mm3 or more, got -1.0"),
        (((1.0,), 1, False, 0.0, (("mass", ()),)), "regions need a name each, once, and a class or more"),
    ],
)
def test_scorings_that_make_no_sense(arguments, told):
    with pytest.raises(ConfigurationError, match=told):
        Scoring(*arguments)


def test_columns_name_their_metric():
    assert nsd_column(0.5) == "nsd_0.5mm"
    assert metric_of("border_nsd_2mm").label == "NSD at 2 mm, border voxels"
    assert metric_of("case") is None
    assert [metric.column for metric in metrics_in(["arm", "nsd_1mm", "dice"])] == ["nsd_1mm", "dice"]
    assert metric_of("hd95_mm").better == "lower"


@pytest.mark.parametrize("name", ["case_00129", "case_00470"])
def test_a_shifted_kidney_cyst(real_data, name):
    """One voxel aside along the finest axis: counted lesions stay, overlaps and distances are those of the shift."""
    labels = read_labels(real_data / "kits23_labels" / f"{name}.nii.gz")
    reference = labels.voxels == 3
    prediction = np.roll(reference, 1, axis=2)
    counts = count_overlap(prediction, reference)
    found = lesion_scores(count_lesions(prediction, reference), voxel_ml=labels.grid.voxel_ml)
    assert found["num_reference_lesions"] == found["num_predicted_lesions"] > 0
    surfaces = surface_distances(prediction, reference, spacing_mm=labels.grid.spacing_mm)
    assert average_surface_distance_mm(surfaces) <= labels.grid.spacing_mm[2] + 1e-9
    assert 0.3 < dice(counts) < 1


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)), st.sampled_from("CFS"))
def test_boxes_are_tight_however_the_array_lies(mask, order):
    laid = np.repeat(mask, 2, axis=1)[:, ::2] if order == "S" else np.asarray(mask, order=order)
    box = bounding_box(laid)
    places = np.argwhere(mask)
    if not places.size:
        assert mask[box].size == 0
        return
    assert [(s.start, s.stop) for s in box] == list(zip(places.min(0), places.max(0) + 1, strict=True))
