"""Left and right by name, and the coarsening that joins them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backsplit.labels import LabelScheme, merge_sides, without_side

ORGANS = st.lists(st.sampled_from(["kidney", "lung_upper_lobe", "adrenal gland", "rib_1"]), unique=True)


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("kidney_left", "kidney"),
        ("left_kidney", "kidney"),
        ("Right-Hippocampus", "Hippocampus"),
        ("rib_left_1", "rib_1"),
        ("left lung", "lung"),
        ("lung_upper_lobe_left", "lung_upper_lobe"),
        ("heart_atrium_left", "heart_atrium"),
        ("leftover", "leftover"),
        ("upright", "upright"),
        ("left", "left"),
        ("liver", "liver"),
    ],
)
def test_side_is_a_word_of_the_name(name, bare):
    assert without_side(name) == bare


@given(paired=ORGANS, single=st.booleans())
def test_pairs_become_one_class_and_nothing_else_changes(paired, single):
    auxiliaries = [f"{organ}_{side}" for organ in paired for side in ("left", "right")]
    auxiliaries += ["spleen", "arm_left"] * single
    scheme = LabelScheme(("cyst",), tuple(auxiliaries))
    coarsening = merge_sides(scheme)
    assert coarsening.num_coarse == 2 + len(paired) + 2 * single
    for block in coarsening.blocks:
        assert len({without_side(scheme.names[fine]) for fine in block}) == 1
    assert coarsening.parent[:2] == (0, 1)


def test_targets_keep_their_sides():
    scheme = LabelScheme(("tumour_left", "tumour_right"), ("kidney_left", "kidney_right"))
    assert merge_sides(scheme).parent == (0, 1, 2, 3, 3)
