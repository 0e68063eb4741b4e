"""Simulated clicks: where they lie, that they repeat, and a slow twin of the deepest voxel of the largest error."""

import itertools

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.errors import SourceError
from backsplit.sources.clicks import Click, Clicking, centre_click, click_generator, connected_parts, random_clicks
from backsplit.volume import read_labels

SHAPE = (7, 6, 5)
seeds = st.integers(0, 2**32 - 1)
spacings = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 3.0, 5.0])] * 3)


def mask(seed, *, share=0.4, shape=SHAPE):
    return np.random.default_rng(seed).random(shape) < share


def ball(shape, centre, radius_mm, spacing_mm=(1.0, 1.0, 1.0)):
    offsets = (np.indices(shape).T - np.array(centre)) * np.array(spacing_mm)
    return ((offsets**2).sum(-1) <= radius_mm**2).T


def voxels_of(clicks):
    return [click.voxel for click in clicks]


@given(seed=seeds, share=st.floats(0.01, 1), num_clicks=st.integers(1, 300))
def test_random_clicks_are_positive_and_on_different_voxels_of_the_part(seed, share, num_clicks):
    part = mask(seed, share=share)
    clicks = random_clicks(part, num_clicks, np.random.default_rng(seed))
    assert len(clicks) == len(set(voxels_of(clicks))) == min(num_clicks, part.sum())
    assert all(click.is_positive and part[click.voxel] for click in clicks)


def test_random_clicks_are_uniform_over_the_part():
    part = np.zeros((2, 3, 4), bool)
    part[0, 1] = True
    draws = [random_clicks(part, 2, np.random.default_rng(seed)) for seed in range(2000)]
    voxels, counts = np.unique([voxel for clicks in draws for voxel in voxels_of(clicks)], axis=0, return_counts=True)
    assert voxels.tolist() == [[0, 1, z] for z in range(4)]
    assert np.abs(counts - 1000).max() < 110  # five standard deviations of a binomial with 2000 draws of a half


@given(seed=st.integers(0, 2**64), part=st.integers(1, 99), order=st.permutations(["a", "b", "c", "a b"]))
def test_clicks_of_a_part_do_not_depend_on_what_else_is_drawn(seed, part, order):
    volume = np.ones((20, 20, 20), bool)

    def draw(case):
        return random_clicks(volume, 5, click_generator(seed, case=case, structure="liver", part=part))

    drawn = {case: draw(case) for case in order}
    assert drawn == {case: draw(case) for case in sorted(order)}
    assert len(set(drawn.values())) == len(order)


def test_clicks_are_the_same_on_every_machine():
    generator = click_generator(7, case="case_00050", structure="kidney", part=2)
    clicks = random_clicks(np.ones((50, 60, 70), bool), 3, generator)
    assert voxels_of(clicks) == [(24, 43, 47), (27, 2, 50), (19, 11, 57)]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"case": "b"}, {"structure": "spleen"}, {"part": 2}])
def test_each_part_of_each_structure_of_each_case_has_its_own_numbers(changed):
    usual = {"seed": 0, "case": "a", "structure": "liver", "part": 1}

    def draw(seed, **names):
        return click_generator(seed, **names).integers(2**63)

    assert draw(**usual) != draw(**usual | changed)


@given(seed=seeds, min_voxels=st.integers(1, 6))
def test_parts_are_the_large_components_in_order_of_size(seed, min_voxels):
    volume = mask(seed, share=0.12)
    parts = connected_parts(volume, min_voxels=min_voxels)
    components = cc3d.connected_components(volume, connectivity=26)
    sizes = sorted(np.bincount(components[components > 0])[1:], reverse=True) if volume.any() else []
    assert np.bincount(parts.labels.ravel())[1:].tolist() == [size for size in sizes if size >= min_voxels]
    assert parts.num_parts + parts.num_skipped == len(sizes)
    for number in range(1, parts.num_parts + 1):
        assert len(np.unique(components[parts.labels == number])) == 1
    assert not parts.labels[~volume].any()


def test_parts_of_one_size_come_in_array_order_whatever_the_memory_layout():
    volume = np.zeros((5, 5, 5), bool)
    volume[4, 0, 0] = volume[0, 4, 4] = volume[0, 4, 0] = True
    for layout in ("C", "F"):
        parts = connected_parts(np.asarray(volume, order=layout), min_voxels=1)
        assert [parts.labels[voxel] for voxel in [(0, 4, 0), (0, 4, 4), (4, 0, 0)]] == [1, 2, 3]


def test_a_mask_without_a_large_part_has_none():
    assert connected_parts(np.zeros(SHAPE, bool)).num_parts == 0
    speck = np.zeros(SHAPE, bool)
    speck[1, 2, :3] = True
    assert connected_parts(speck)[1:] == (0, 1)


def slow_centre_click(prediction, part, spacing_mm):
    """Every error component by flood fill, every distance by all pairs."""
    components = []
    for wrong in (part & ~prediction, prediction & ~part):
        left = set(map(tuple, np.argwhere(wrong).tolist()))
        while left:
            grown, front = set(), {min(left)}
            while front:
                grown |= front
                front = {
                    voxel for x, y, z in front for dx, dy, dz in itertools.product((-1, 0, 1), repeat=3)
                    if (voxel := (x + dx, y + dy, z + dz)) in left - grown
                }  # fmt: skip
            components.append(grown)
            left -= grown
    if not components:
        return None
    worst = min(components, key=lambda component: (-len(component), min(component)))
    padded = np.argwhere(np.ones(np.array(part.shape) + 2)) - 1
    outside = np.array([voxel for voxel in padded.tolist() if tuple(voxel) not in worst])

    def depth_mm(voxel):
        return round(float(np.sqrt((((outside - voxel) * spacing_mm) ** 2).sum(1)).min()), 4)

    deepest = min(worst, key=lambda voxel: (-depth_mm(voxel), voxel))
    return Click(deepest, bool(part[deepest]))


@settings(max_examples=60)
@given(seed=seeds, shares=st.tuples(*[st.floats(0, 1)] * 2), spacing_mm=spacings)
def test_centre_click_equals_its_slow_twin(seed, shares, spacing_mm):
    prediction, part = mask(seed, share=shares[0]), mask(seed + 1, share=shares[1])
    expected = slow_centre_click(prediction, part, spacing_mm)
    assert centre_click(prediction, part, spacing_mm=spacing_mm) == expected
    swapped = [np.asfortranarray(volume) for volume in (prediction, part)]
    assert centre_click(*swapped, spacing_mm=spacing_mm) == expected


@given(seed=seeds, spacing_mm=spacings)
def test_centre_click_lies_on_an_error_and_has_its_sign(seed, spacing_mm):
    prediction, part = mask(seed), mask(seed + 1)
    click = centre_click(prediction, part, spacing_mm=spacing_mm)
    assert click is not None
    assert click.is_positive == part[click.voxel] != prediction[click.voxel]
    assert centre_click(part, part, spacing_mm=spacing_mm) is None


def test_first_centre_click_hits_the_centre_of_a_ball():
    part = ball((30, 32, 34), (11, 20, 16), 8)
    assert centre_click(np.zeros_like(part), part, spacing_mm=(1.0, 1.0, 1.0)) == Click((11, 20, 16), True)


def test_depth_is_in_mm_not_in_voxels():
    """A plate of 21 x 9 x 3 voxels of 0.5 x 1 x 5 mm is thinnest along y, not along z."""
    part = np.zeros((25, 15, 7), bool)
    part[2:23, 3:12, 2:5] = True
    assert centre_click(np.zeros_like(part), part, spacing_mm=(0.5, 1.0, 5.0)).voxel == (11, 7, 2)
    assert centre_click(np.zeros_like(part), part, spacing_mm=(1.0, 1.0, 1.0)).voxel[2] == 3


def test_a_false_alarm_that_is_larger_than_the_miss_gets_a_negative_click():
    part = ball((40, 20, 20), (9, 10, 10), 5)
    alarm = ball((40, 20, 20), (29, 10, 10), 6)
    assert centre_click(alarm, part, spacing_mm=(1.0, 1.0, 1.0)) == Click((29, 10, 10), False)
    assert centre_click(alarm & ~alarm, part, spacing_mm=(1.0, 1.0, 1.0)) == Click((9, 10, 10), True)


def test_a_miss_and_a_false_alarm_that_touch_are_two_errors():
    part, prediction = np.zeros((12, 3, 3), bool), np.zeros((12, 3, 3), bool)
    part[:7], prediction[7:] = True, True
    assert centre_click(prediction, part, spacing_mm=(1.0, 1.0, 1.0)).is_positive
    assert centre_click(part, prediction, spacing_mm=(1.0, 1.0, 1.0)).is_positive is False


def test_specks_of_a_real_label_map_get_no_click(real_data):
    """The README of the data counts 25 components below 10 voxels in 6 cases, most of them in case_00446."""
    labels = read_labels(real_data / "kits23_labels" / "case_00446.nii.gz").voxels
    parts = connected_parts(labels == 3)
    sizes = np.bincount(parts.labels.ravel())[1:]
    assert parts.num_skipped >= 10
    assert (np.diff(sizes) <= 0).all()
    assert sizes.min() >= 10


@pytest.mark.parametrize(
    ("how", "message"),
    [({"num_clicks": 0}, "at least 1 click"), ({"num_clicks": 5, "keep": (3, 7)}, r"after \[7\] clicks.*1 to 5")],
)
def test_clicks_that_cannot_be_are_refused(how, message):
    with pytest.raises(SourceError, match=message):
        Clicking(**how)
