"""Overlap and surfaces: DeepMind's package as independent reference, then laws, then cases done by hand."""

import math
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist
from surface_distance.lookup_tables import create_table_neighbour_code_to_surface_area

from backsplit.errors import ConfigurationError, GeometryError
from backsplit.evaluation import (
    Overlap,
    count_overlap,
    dice,
    hausdorff_mm,
    nearest,
    normalised_surface_dice,
    surface_distances,
)
from backsplit.evaluation.nearest import nearest_mm
from backsplit.evaluation.surface_elements import element_areas_mm2

pytestmark = pytest.mark.filterwarnings(
    r"ignore:Please import `\w+` from the `scipy.ndimage` namespace:DeprecationWarning:surface_distance.metrics"
)

KITS_CASES = ("case_00094", "case_00129", "case_00285", "case_00470", "case_00491")
SPACINGS_MM = ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (3.0, 0.82, 0.82), (0.31, 1.7, 2.9))
seeds = st.integers(0, 2**32 - 1)


def random_mask(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise, a smooth blob or a box; never empty, often touching the edge of the image."""
    kind = rng.integers(3)
    noise = rng.random(shape)
    if kind == 0:
        mask = noise < rng.uniform(0.05, 0.95)
    elif kind == 1:
        smooth = ndimage.gaussian_filter(noise, 1.5, mode="nearest")
        mask = smooth > np.quantile(smooth, rng.uniform(0.3, 0.95))
    else:
        low = rng.integers(0, shape)
        mask = np.zeros(shape, bool)
        mask[tuple(slice(start, start + int(rng.integers(1, 8))) for start in low)] = True
    mask[tuple(rng.integers(0, shape))] = True
    return mask


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    rng = np.random.default_rng(seed)
    shape = tuple(int(length) for length in rng.integers(1, 15, size=3))
    return random_mask(rng, shape), random_mask(rng, shape), SPACINGS_MM[rng.integers(len(SPACINGS_MM))]


def assert_agrees(prediction, reference, spacing_mm):
    ours = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    np.testing.assert_allclose(ours.prediction_to_reference_mm, theirs["distances_pred_to_gt"], atol=1e-6)
    np.testing.assert_allclose(ours.reference_to_prediction_mm, theirs["distances_gt_to_pred"], atol=1e-6)
    np.testing.assert_allclose(ours.prediction_areas_mm2.sum(), theirs["surfel_areas_pred"].sum(), atol=1e-6)
    np.testing.assert_allclose(ours.reference_areas_mm2.sum(), theirs["surfel_areas_gt"].sum(), atol=1e-6)
    for percentile in (0.0, 50.0, 95.0, 100.0):
        expected = surface_distance.compute_robust_hausdorff(theirs, percentile)
        assert hausdorff_mm(ours, percentile=percentile) == pytest.approx(expected, abs=1e-6)
    for tolerance_mm in (0.0, 1.0, 3.0):
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance_mm)
        assert normalised_surface_dice(ours, tolerance_mm=tolerance_mm) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spacing_mm", SPACINGS_MM)
def test_area_of_every_code_is_deepminds(spacing_mm):
    theirs = create_table_neighbour_code_to_surface_area(spacing_mm)
    reversed_bits = [int(f"{code:08b}"[::-1], 2) for code in range(256)]
    np.testing.assert_allclose(element_areas_mm2(spacing_mm), theirs[reversed_bits], rtol=0, atol=1e-9)


@pytest.mark.parametrize("first_seed", range(0, 200, 50))
def test_agrees_with_deepmind_on_random_masks(first_seed):
    for seed in range(first_seed, first_seed + 50):
        assert_agrees(*random_pair(seed))


@pytest.mark.parametrize("name", KITS_CASES)
def test_agrees_with_deepmind_on_kidney_cysts(name: str, real_data: Path):
    image = nib.load(real_data / "kits23_labels" / f"{name}.nii.gz")
    labels = np.asarray(image.dataobj)
    components, _ = ndimage.label(labels == 3)
    largest = np.bincount(components.ravel())[1:].argmax()
    cyst = np.pad(labels[ndimage.find_objects(components)[largest]] == 3, 4)
    changed = np.roll(ndimage.binary_dilation(cyst), (1, 2, -1), axis=(0, 1, 2))
    spacing_mm = tuple(float(edge) for edge in image.header.get_zooms())
    assert_agrees(changed, cyst, spacing_mm)
    assert_agrees(ndimage.binary_erosion(cyst) | changed, cyst, spacing_mm)


@given(seeds, st.sampled_from(SPACINGS_MM), st.integers(1, 60))
@settings(max_examples=50)
def test_near_points_trees_and_transforms_measure_what_all_pairs_do(seed, spacing_mm, extent):
    rng = np.random.default_rng(seed)
    start, end = (np.unique(rng.integers(-extent, extent, (rng.integers(1, 80), 3)), axis=0) for _ in range(2))
    expected = cdist(start * np.asarray(spacing_mm), end * np.asarray(spacing_mm)).min(axis=1)
    for points_per_query in (0, nearest._DENSE_POINTS_PER_QUERY, math.inf):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nearest, "_DENSE_POINTS_PER_QUERY", points_per_query)
            np.testing.assert_allclose(nearest_mm(start, end, spacing_mm=spacing_mm), expected, atol=1e-9)


@given(seeds)
@settings(max_examples=25)
def test_scores_are_symmetric_and_blind_to_where_the_masks_lie(seed):
    prediction, reference, spacing_mm = random_pair(seed)
    surfaces = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    swapped = surface_distances(reference, prediction, spacing_mm=spacing_mm)
    margins = ((3, 0), (0, 5), (2, 2))
    moved = surface_distances(np.pad(prediction, margins), np.pad(reference, margins), spacing_mm=spacing_mm)
    for other in (swapped, moved):
        assert hausdorff_mm(other, percentile=95.0) == hausdorff_mm(surfaces, percentile=95.0)
        expected = normalised_surface_dice(surfaces, tolerance_mm=1.0)
        assert normalised_surface_dice(other, tolerance_mm=1.0) == pytest.approx(expected)


@given(seeds)
@settings(max_examples=25)
def test_more_tolerance_and_a_larger_percentile_never_give_less(seed):
    prediction, reference, spacing_mm = random_pair(seed)
    surfaces = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    hausdorff = [hausdorff_mm(surfaces, percentile=percentile) for percentile in (0.0, 50.0, 95.0, 100.0)]
    nsd = [normalised_surface_dice(surfaces, tolerance_mm=tolerance) for tolerance in (0.0, 1.0, 5.0, 1000.0)]
    assert hausdorff == sorted(hausdorff)
    assert nsd == sorted(nsd)
    assert nsd[-1] == pytest.approx(1.0)


def test_a_mask_against_itself_is_perfect():
    mask = random_mask(np.random.default_rng(0), (6, 7, 8))
    surfaces = surface_distances(mask, mask, spacing_mm=(1.0, 2.0, 3.0))
    assert hausdorff_mm(surfaces, percentile=100.0) == 0
    assert normalised_surface_dice(surfaces, tolerance_mm=0.0) == 1
    assert dice(count_overlap(mask, mask)) == 1


def test_two_single_voxels_three_slices_apart():
    prediction, reference = np.zeros((2, 5, 5, 5), bool)
    prediction[2, 2, 0] = reference[2, 2, 3] = True
    surfaces = surface_distances(prediction, reference, spacing_mm=(1.0, 1.0, 2.0))
    assert surfaces.prediction_to_reference_mm.tolist() == [4.0] * 4 + [6.0] * 4
    # the cut-off corner of a unit cube is an equilateral triangle of side sqrt(1/2); here the third edge is 2 mm
    triangle_mm2 = math.hypot(2, 2, 1) / 8
    assert surfaces.reference_areas_mm2 == pytest.approx([triangle_mm2] * 8)
    assert hausdorff_mm(surfaces, percentile=50.0) == 4
    assert hausdorff_mm(surfaces, percentile=51.0) == 6
    assert normalised_surface_dice(surfaces, tolerance_mm=4.0) == pytest.approx(0.5)


def test_flat_surface_has_its_true_area():
    slab = np.zeros((4, 12, 12), bool)
    slab[1:3] = True
    areas = surface_distances(slab, slab, spacing_mm=(9.0, 0.5, 2.0)).prediction_areas_mm2
    assert np.count_nonzero(np.isclose(areas, 1.0)) >= 2 * 11 * 11


def test_overlap_by_hand():
    prediction, reference = np.zeros((2, 2, 2, 2), bool)
    prediction[0] = True
    reference[:, 0, :] = True
    assert count_overlap(prediction, reference) == Overlap(num_both=2, num_prediction=4, num_reference=4)
    assert dice(Overlap(2, 4, 4)) == 0.5


def test_two_empty_masks_are_undefined():
    empty = np.zeros((3, 4, 5), bool)
    surfaces = surface_distances(empty, empty, spacing_mm=(1.0, 1.0, 1.0))
    assert surfaces.prediction_to_reference_mm.size == surfaces.reference_areas_mm2.size == 0
    assert math.isnan(dice(count_overlap(empty, empty)))
    assert math.isnan(hausdorff_mm(surfaces, percentile=95.0))
    assert math.isnan(normalised_surface_dice(surfaces, tolerance_mm=1.0))


@pytest.mark.parametrize("missed", [True, False])
def test_one_empty_mask_scores_zero_and_has_no_distance(missed):
    empty, lesion = np.zeros((2, 3, 4, 5), bool)
    lesion[1, 1, 1] = True
    pair = (empty, lesion) if missed else (lesion, empty)
    surfaces = surface_distances(*pair, spacing_mm=(1.0, 1.0, 1.0))
    sizes = (surfaces.prediction_to_reference_mm.size, surfaces.reference_to_prediction_mm.size)
    assert sizes == ((0, 8) if missed else (8, 0))
    assert dice(count_overlap(*pair)) == 0
    assert math.isnan(hausdorff_mm(surfaces, percentile=95.0))
    assert normalised_surface_dice(surfaces, tolerance_mm=1000.0) == 0


def test_masks_of_different_shape_are_refused():
    first, second = np.ones((3, 4, 5), bool), np.ones((3, 4, 6), bool)
    message = r"prediction has shape \(3, 4, 5\), reference \(3, 4, 6\)"
    with pytest.raises(GeometryError, match=message):
        count_overlap(first, second)
    with pytest.raises(GeometryError, match=message):
        surface_distances(first, second, spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("edge", [0.0, -1.0, math.nan, math.inf])
def test_spacing_must_be_positive(edge):
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(GeometryError, match="three positive lengths in mm"):
        surface_distances(mask, mask, spacing_mm=(1.0, edge, 1.0))


def test_percentile_and_tolerance_must_make_sense():
    mask = np.ones((2, 2, 2), bool)
    surfaces = surface_distances(mask, mask, spacing_mm=(1.0, 1.0, 1.0))
    for percentile, tolerance_mm in product((-1.0, 101.0, math.nan), (-1.0, math.nan, math.inf)):
        with pytest.raises(ConfigurationError, match="percentile must be in 0 to 100"):
            hausdorff_mm(surfaces, percentile=percentile)
        with pytest.raises(ConfigurationError, match="tolerance must be a finite number of mm"):
            normalised_surface_dice(surfaces, tolerance_mm=tolerance_mm)
