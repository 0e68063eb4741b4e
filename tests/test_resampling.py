"""Label maps on other grids, held against SciPy's interpolation."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from backsplit.resampling import resample_labels
from backsplit.volume import Grid, Volume
from maskfolders import UPRIGHT

BOTH = ("nearest", "linear")
seeds = st.integers(0, 2**32 - 1)
interpolations = st.sampled_from(BOTH)


def volume_of(seed: int, *, num_values: int = 4, is_oblique: bool = True) -> Volume:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 7, 3).tolist())
    direction = Rotation.random(random_state=seed % 2**31).as_matrix() if is_oblique else np.eye(3)
    grid = Grid(shape, tuple(rng.uniform(0.5, 3, 3)), tuple(rng.uniform(-50, 50, 3)), tuple(direction.ravel()))
    return Volume(rng.integers(0, num_values, shape).astype(np.uint8) * 7, grid)


def turned(grid: Grid, order: tuple[int, ...], is_flipped: tuple[bool, ...]) -> Grid:
    """The same voxel centres, axes in another order and some of them backwards."""
    axes = np.reshape(grid.direction, (3, 3))
    steps_mm = axes * grid.spacing_mm
    origin = grid.origin_mm + steps_mm @ np.where(is_flipped, np.array(grid.shape) - 1, 0)
    axes = (axes * np.where(is_flipped, -1, 1))[:, order]
    shape, spacing = (tuple(numbers[axis] for axis in order) for numbers in (grid.shape, grid.spacing_mm))
    return Grid(shape, spacing, tuple(origin.tolist()), tuple(axes.ravel().tolist()))


@given(seeds, interpolations)
def test_the_same_grid_changes_nothing(seed, interpolation):
    labels = volume_of(seed)
    result = resample_labels(labels, labels.grid, interpolation=interpolation)
    np.testing.assert_array_equal(result.voxels, labels.voxels)
    assert result.voxels.dtype == labels.voxels.dtype


@given(seeds, interpolations, st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_turned_axes_over_the_same_centres_are_exact_both_ways(seed, interpolation, order, is_flipped):
    labels = volume_of(seed)
    grid = turned(labels.grid, tuple(order), is_flipped)
    there = resample_labels(labels, grid, interpolation=interpolation)
    steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in is_flipped)
    np.testing.assert_array_equal(there.voxels, labels.voxels[steps].transpose(order))
    np.testing.assert_array_equal(
        resample_labels(there, labels.grid, interpolation=interpolation).voxels, labels.voxels
    )


@given(seeds)
def test_nearest_keeps_the_set_of_values_on_a_finer_grid(seed):
    labels = volume_of(seed)
    grid = labels.grid
    finer = replace(
        grid,
        shape=tuple(3 * length for length in grid.shape),
        spacing_mm=tuple(edge / 3 for edge in grid.spacing_mm),
        origin_mm=tuple(grid.origin_mm - np.reshape(grid.direction, (3, 3)) @ grid.spacing_mm / 3),
    )
    result = resample_labels(labels, finer, interpolation="nearest").voxels
    np.testing.assert_array_equal(result, labels.voxels.repeat(3, 0).repeat(3, 1).repeat(3, 2))


@given(seeds)
def test_linear_is_the_largest_weight_of_all_classes_at_once(seed):
    labels, other = volume_of(seed), volume_of(seed + 1)
    grid = replace(
        other.grid, origin_mm=tuple(np.add(labels.grid.origin_mm, np.random.default_rng(seed).normal(size=3)))
    )
    expected, margin, is_edge = slow_linear(labels, grid)
    result = resample_labels(labels, grid, interpolation="linear").voxels
    is_clear = (margin > 1e-4) & ~is_edge
    np.testing.assert_array_equal(result[is_clear], expected[is_clear])


def slow_linear(labels: Volume, grid: Grid):
    """Winner, margin of its weight over the second, and which points are too close to the end of the field of view."""
    indices_mm = np.indices(grid.shape).reshape(3, -1) * np.reshape(grid.spacing_mm, (3, 1))
    places = np.reshape(grid.direction, (3, 3)) @ indices_mm + np.reshape(grid.origin_mm, (3, 1))
    steps = np.reshape(labels.grid.direction, (3, 3)) * labels.grid.spacing_mm
    points = np.linalg.inv(steps) @ (places - np.reshape(labels.grid.origin_mm, (3, 1)))
    lengths = np.reshape(labels.grid.shape, (3, 1))
    beyond = np.maximum(-0.5 - points, points - (lengths - 0.5)).max(axis=0)
    values = np.union1d(0, labels.voxels)
    masks = [(labels.voxels == value).astype(float) for value in values]
    weights = np.array([map_coordinates(mask, points, order=1, mode="nearest") for mask in masks])
    weights[:, beyond > 0] = (values == 0)[:, None]
    ranked = np.sort(np.vstack([weights, np.zeros(weights.shape[1])]), axis=0)
    winner, margin = values[weights.argmax(axis=0)], ranked[-1] - ranked[-2]
    return winner.reshape(grid.shape), margin.reshape(grid.shape), (abs(beyond) < 1e-6).reshape(grid.shape)


@pytest.mark.parametrize(("first", "second"), list(permutations((0, 3, 5), 2)))
def test_a_tie_goes_to_the_lower_value(first, second):
    grid = Grid((2, 1, 1), (0.7, 1.0, 1.0), (0.1, 0.2, 0.3), UPRIGHT)
    middle = replace(grid, shape=(1, 1, 1), origin_mm=(0.45, 0.2, 0.3))
    labels = Volume(np.array([first, second], np.uint8).reshape(2, 1, 1), grid)
    assert resample_labels(labels, middle, interpolation="linear").voxels.item() == min(first, second)


def test_three_thin_classes_do_not_add_up_to_one():
    """Beside a voxel of background, corners of three organs: background has the most weight of each single class."""
    labels = np.zeros((2, 2, 1), np.uint8)
    labels[1, 0], labels[0, 1], labels[1, 1] = 1, 2, 3
    grid = Grid((2, 2, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), UPRIGHT)
    point = replace(grid, shape=(1, 1, 1), origin_mm=(0.45, 0.45, 0.0))
    assert resample_labels(Volume(labels, grid), point, interpolation="linear").voxels.item() == 0


@pytest.mark.parametrize(("interpolation", "axis", "side"), list(product(BOTH, range(3), (-1, 1))))
def test_outside_the_field_of_view_is_nothing(interpolation, axis, side):
    grid = Grid((3, 4, 5), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), UPRIGHT)
    labels = Volume(np.full(grid.shape, 9, np.uint8), grid)
    away = np.zeros(3)
    away[axis] = side * 2 * grid.shape[axis] * grid.spacing_mm[axis]
    assert not resample_labels(labels, replace(grid, origin_mm=tuple(away)), interpolation=interpolation).voxels.any()
    half = replace(grid, origin_mm=tuple(away / 4))  # half the volume away: that half stays, the rest is nothing
    kept = resample_labels(labels, half, interpolation=interpolation).voxels == 9
    assert 0 < kept.sum() < kept.size
