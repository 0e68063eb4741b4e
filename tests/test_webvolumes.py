import base64
import gzip
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.evaluation.boxes import NOTHING
from backsplit.report import webvolumes
from backsplit.report.caseviews import safe_id
from backsplit.report.findings import findings
from backsplit.volume import Grid

GRID = Grid((6, 5, 4), (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
QUICKLY = settings(max_examples=40)
shapes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.floats(0.3, 5)] * 3)


def size(box):
    return math.prod(part.stop - part.start for part in box)


@st.composite
def volumes_with_a_box(draw):
    shape = draw(shapes)
    corners = [sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape]
    return shape, tuple(slice(*each) for each in corners)


@QUICKLY
@given(volumes_with_a_box(), spacings, st.integers(1, 20_000))
def test_first_view_holds_the_wish_that_fits_and_no_more_than_it_may(volume, spacing_mm, limit):
    shape, wish = volume
    box = webvolumes.view_box(shape, spacing_mm, [NOTHING, wish], limit=limit)
    assert size(box) <= limit
    assert all(0 <= part.start < part.stop <= n for part, n in zip(box, shape, strict=True))
    if size(wish) <= limit:
        assert all(b.start <= w.start and w.stop <= b.stop for b, w in zip(box, wish, strict=True))
    if math.prod(shape) <= limit:
        assert size(box) == math.prod(shape)


def test_first_view_is_as_wide_as_it_may_be_and_even_in_mm():
    box = webvolumes.view_box(
        (200, 200, 50), (1.0, 1.0, 4.0), [(slice(100, 101),) * 2 + (slice(25, 26),)], limit=20_000
    )
    edges_mm = [(part.stop - part.start) * mm for part, mm in zip(box, (1.0, 1.0, 4.0), strict=True)]
    assert 15_000 < size(box) <= 20_000
    assert max(edges_mm) - min(edges_mm) <= 8


def test_wish_that_is_too_large_gives_way_to_the_next():
    whole, small = (slice(0, 100),) * 3, (slice(70, 80),) * 3
    box = webvolumes.view_box((100, 100, 100), (1.0, 1.0, 1.0), [whole, small], limit=8000)
    assert all(part.start <= 70 and part.stop >= 80 for part in box)


@QUICKLY
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_combined_maps_come_apart_again(highest, seed):
    random = np.random.default_rng(seed)
    maps = [random.integers(0, top + 1, (5, 4, 3)).astype(np.uint8) for top in highest]
    combined = webvolumes.combine(maps)
    rows = np.array(combined.rows)
    for number, labels in enumerate(maps):
        np.testing.assert_array_equal(rows[combined.index][..., number], labels)
    assert not rows[0].any()
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_many_combinations_need_wider_numbers():
    labels = np.arange(8 * 8 * 8).reshape(8, 8, 8)
    maps = [(labels % 300).astype(np.uint16), (labels // 300 * 200).astype(np.uint8), (labels % 2).astype(np.uint8)]
    combined = webvolumes.combine(maps)
    assert combined.index.dtype == np.uint16
    for number, each in enumerate(maps):
        np.testing.assert_array_equal(np.array(combined.rows)[combined.index][..., number], each)


def test_grey_values_of_ct_keep_soft_tissue_to_three_units():
    image = np.linspace(-2000, 4000, 6001).reshape(6001, 1, 1)
    greys = webvolumes.quantise(image, webvolumes.CT_KNOTS)
    values, levels = zip(*webvolumes.CT_KNOTS, strict=True)
    back = np.interp(greys.astype(float), levels, values)
    soft = (image >= -160) & (image <= 240)
    assert np.abs(back - image)[soft].max() < 1.7
    assert greys.min() == 0
    assert greys.max() == 255


def test_values_that_are_no_numbers_have_a_grey():
    image = np.array([[[np.nan, np.inf, -np.inf, 0.5]]], np.float32)
    assert webvolumes.quantise(image, ((0.0, 0), (1.0, 255))).tolist() == [[[0, 255, 0, 128]]]
    assert webvolumes.look_of(np.full((2, 2, 2), np.nan), "MR").knots == ((0.0, 0), (1.0, 255))


def test_pet_has_windows_of_suv_unless_it_is_in_other_units():
    suv = np.random.default_rng(0).gamma(1, 2, (20, 20, 20))
    assert webvolumes.look_of(suv, "PET") == webvolumes.PET
    assert webvolumes.PET.presets[0].high == 10
    assert [each.name for each in webvolumes.look_of(1000 * suv, "PET").presets] == ["Auto", "Full"]
    assert webvolumes.look_of(suv, "CT").unit == "HU"


def test_packed_voxels_are_in_the_order_of_a_file():
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    content = gzip.decompress(base64.b64decode(webvolumes.packed(array)))
    np.testing.assert_array_equal(np.frombuffer(content, "<u2").reshape(array.shape, order="F"), array)


@QUICKLY
@given(volumes_with_a_box())
def test_cut_grid_and_matrix_put_voxels_where_they_were(volume):
    shape, box = volume
    grid = Grid(shape, GRID.spacing_mm, GRID.origin_mm, GRID.direction)
    starts = [part.start for part in box]
    inside = webvolumes.ras_matrix(webvolumes.crop_grid(grid, box)) @ (0, 0, 0, 1)
    np.testing.assert_allclose(inside, webvolumes.ras_matrix(grid) @ (*starts, 1))


def test_matrix_points_right_front_and_head():
    # file axis 0 points to the front (LPS -y), axis 1 to the left
    np.testing.assert_allclose(webvolumes.ras_matrix(GRID) @ (1, 0, 0, 1), (-10, -19, 30, 1))
    np.testing.assert_allclose(webvolumes.ras_matrix(GRID) @ (0, 1, 1, 1), (-12, -20, 33, 1))


@QUICKLY
@given(shapes, spacings, st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_overview_is_small_enough_and_keeps_the_mean(shape, spacing_mm, limit, seed):
    image = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    steps = webvolumes.overview_steps(shape, spacing_mm, limit=limit)
    coarse = webvolumes.averaged(image, steps)
    assert coarse.size <= limit
    x, y, z = (slice(0, step) for step in steps)
    assert coarse[0, 0, 0] == pytest.approx(image[x, y, z].mean(), abs=0.01)


def test_findings_are_numbered_and_placed():
    reference, binary, split = (np.zeros((6, 5, 4), np.uint8) for _ in range(3))
    reference[0, 0, 0] = reference[4:6, 3, 1] = 1
    binary[2, 0, 3] = binary[0, 3:5, 3] = 1
    split[4, 3, 1] = 1
    found = findings(reference, {"binary": binary, "split": split}, {1: "cyst"}, GRID, min_voxels=1)
    assert [(each.false_of, each.number, each.voxel) for each in found] == [
        (None, 1, (0, 0, 0)),
        (None, 2, (4, 3, 1)),
        ("binary", 2, (0, 3, 3)),  # the larger false alarm comes first
        ("binary", 1, (2, 0, 3)),
    ]
    assert found[0].dice == {"binary": None, "split": None}
    assert found[1].dice == {"binary": None, "split": pytest.approx(2 / 3)}
    assert found[1].ml == pytest.approx(2 * 6 / 1000)
    assert findings(reference * 0, {"binary": binary * 0}, {1: "cyst"}, GRID, min_voxels=1) == ()


@QUICKLY
@given(st.lists(st.text(min_size=1, max_size=90), min_size=2, max_size=6, unique=True))
def test_ids_are_file_names_and_stay_different(names):
    ids = [safe_id(name) for name in names]
    assert len(set(ids)) == len(names)
    for each in ids:
        assert 0 < len(each) < 80
        assert set(each) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


def test_plain_names_stay_as_they_are():
    assert safe_id("case_00042") == "case_00042"
    assert safe_id("<img src=x onerror=alert(1)>").startswith("img-src-x-onerror-alert-1-")
