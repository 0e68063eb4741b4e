"""Laws of coarsenings, overlays and schemes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backsplit.errors import GeometryError, LabelError
from backsplit.labels import Coarsening, LabelScheme, coarsening_of_case, identity, into_background, overlay, to_target

# The type checker picks the items that it checks at random, also where a strategy builds a Coarsening.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

SCHEME = LabelScheme(("tumour", "cyst"), ("kidney", "liver", "heart"))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def coarsenings(draw, num_fine=None):
    """Any surjection of up to eight classes: an arbitrary grouping, renumbered without gaps."""
    size = num_fine or draw(st.integers(1, 8))
    groups = draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))
    return Coarsening(tuple(sorted(set(groups)).index(group) for group in groups))


@st.composite
def chains(draw):
    """Three coarsenings that compose: inner, middle, outer."""
    inner = draw(coarsenings())
    middle = draw(coarsenings(inner.num_coarse))
    return inner, middle, draw(coarsenings(middle.num_coarse))


def draw_labels(coarsening, seed):
    return np.random.default_rng(seed).integers(0, coarsening.num_fine, (3, 4, 5))


def draw_probabilities(num_fine, seed):
    return np.moveaxis(np.random.default_rng(seed).dirichlet(np.ones(num_fine), (2, 3)), -1, 0)


@given(chains())
def test_composition_is_associative(chain):
    f, g, h = chain
    assert h @ (g @ f) == (h @ g) @ f


@given(coarsenings())
def test_identity_is_neutral(f):
    assert identity(f.num_coarse) @ f == f == f @ identity(f.num_fine)


@given(chains(), seeds)
def test_labels_may_be_merged_step_by_step(chain, seed):
    f, g, _ = chain
    labels = draw_labels(f, seed)
    np.testing.assert_array_equal((g @ f).of_labels(labels), g.of_labels(f.of_labels(labels)))


@given(chains(), seeds)
def test_probabilities_may_be_merged_step_by_step(chain, seed):
    f, g, _ = chain
    p = draw_probabilities(f.num_fine, seed)
    np.testing.assert_allclose((g @ f).of_probabilities(p), g.of_probabilities(f.of_probabilities(p)), atol=1e-12)


@given(coarsenings(), seeds)
def test_merged_probabilities_sum_to_one(f, seed):
    merged = f.of_probabilities(draw_probabilities(f.num_fine, seed))
    assert merged.shape == (f.num_coarse, 2, 3)
    np.testing.assert_allclose(merged.sum(axis=0), 1, atol=1e-12)


@given(coarsenings())
def test_blocks_partition_the_fine_classes(f):
    assert sorted(fine for block in f.blocks for fine in block) == list(range(f.num_fine))
    assert all(block and {f.parent[fine] for fine in block} == {coarse} for coarse, block in enumerate(f.blocks))


@given(coarsenings(), seeds)
def test_one_hot_probabilities_merge_as_their_labels(f, seed):
    labels = draw_labels(f, seed)
    merged = f.of_probabilities(np.moveaxis(np.eye(f.num_fine)[labels], -1, 0))
    np.testing.assert_array_equal(merged.argmax(axis=0), f.of_labels(labels))


def test_argmax_then_merge_is_not_merge_then_argmax():
    p, f = np.array([0.3, 0.4, 0.3]), Coarsening((0, 1, 0))
    assert f.of_labels(np.array([p.argmax()])) == [1]
    assert f.of_probabilities(p).argmax() == 0


def test_probabilities_keep_their_type():
    assert Coarsening((0, 1, 0)).of_probabilities(np.ones((3, 2), np.float16)).dtype == np.float16


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.uint64])
def test_narrow_labels_do_not_wrap(dtype):
    labels = np.arange(256).astype(dtype)
    merged = Coarsening(tuple(range(299, -1, -1))).of_labels(labels)
    assert merged.dtype == np.uint16
    np.testing.assert_array_equal(merged, 299 - np.arange(256))


@pytest.mark.parametrize(("num_coarse", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_merged_labels_are_narrow(num_coarse, dtype):
    assert identity(num_coarse).of_labels(np.array([num_coarse - 1])).dtype == dtype


@pytest.mark.parametrize("labels", [[0, -1], [3, 1], [0, -(2**40)]])
def test_foreign_labels_are_named(labels):
    foreign = sorted(set(labels) - {0, 1, 2})
    with pytest.raises(LabelError, match=rf"labels \[{foreign[0]}\] are not fine classes \(0 to 2\)"):
        identity(3).of_labels(np.array(labels))


def test_no_labels_merge_to_no_labels():
    assert identity(3).of_labels(np.zeros((0, 2), np.int16)).shape == (0, 2)


def test_missing_coarse_class_is_named():
    with pytest.raises(LabelError, match=r"coarse classes \[1\] have no fine class"):
        Coarsening((0, 2))


@pytest.mark.parametrize("parent", [(), (-1, 0)])
def test_coarsening_needs_classes(parent):
    with pytest.raises(LabelError, match="one coarse class"):
        Coarsening(parent)


def test_coarsenings_that_do_not_meet_cannot_compose():
    with pytest.raises(LabelError, match="inner gives 2 classes, outer takes 3"):
        identity(3) @ identity(2)


def test_probabilities_of_another_number_of_classes():
    with pytest.raises(LabelError, match="axis 0 has 2 entries, the coarsening 3"):
        identity(3).of_probabilities(np.ones((2, 4)))


@given(st.integers(1, 4), st.integers(0, 4))
def test_to_target_keeps_targets_and_merges_the_rest(num_targets, num_auxiliaries):
    binary = to_target(num_targets=num_targets, num_fine=1 + num_targets + num_auxiliaries)
    assert binary.parent == (*range(num_targets + 1), *[0] * num_auxiliaries)


@pytest.mark.parametrize(("num_targets", "num_fine"), [(0, 3), (3, 3), (2, 1)])
def test_to_target_needs_room_for_targets(num_targets, num_fine):
    with pytest.raises(LabelError, match=f"{num_targets} targets and background do not fit into {num_fine} fine"):
        to_target(num_targets=num_targets, num_fine=num_fine)


def test_into_background_closes_gaps():
    assert into_background([2, 4], num_fine=6).parent == (0, 1, 0, 2, 0, 3)


def test_into_background_refuses_foreign_classes():
    with pytest.raises(LabelError, match=r"classes \[6\] are outside 0 to 5"):
        into_background([6], num_fine=6)


def test_case_without_a_list_annotates_everything():
    assert coarsening_of_case(SCHEME, None) == identity(6) == coarsening_of_case(SCHEME, SCHEME.auxiliaries)


@given(st.sets(st.sampled_from(SCHEME.auxiliaries)))
def test_case_merges_what_it_does_not_annotate(annotated):
    merged = coarsening_of_case(SCHEME, annotated)
    assert merged.parent[:3] == (0, 1, 2)
    assert {SCHEME.names[fine] for fine in merged.blocks[0]} == {"background", *set(SCHEME.auxiliaries) - annotated}
    assert all(len(block) == 1 for block in merged.blocks[1:])


@given(st.sets(st.sampled_from(SCHEME.auxiliaries)), st.sets(st.sampled_from(SCHEME.auxiliaries)))
def test_fewer_annotations_are_a_coarser_view(few, more):
    fine, coarse = coarsening_of_case(SCHEME, few | more), coarsening_of_case(SCHEME, few)
    outer = Coarsening(tuple(coarse.parent[block[0]] for block in fine.blocks))
    assert outer @ fine == coarse


def test_annotated_class_must_be_in_the_scheme():
    with pytest.raises(LabelError, match="class 'lung' is not in the scheme; it has background, tumour"):
        coarsening_of_case(SCHEME, ["lung"])


def overlay_voxel_by_voxel(masks):
    """Slow twin of `overlay`: the winner is the claimant that the scheme names first."""
    labels, conflicts = np.zeros((3, 4, 5), int), Counter()
    for voxel in np.ndindex(labels.shape):
        claimants = [name for name in SCHEME.names if name in masks and masks[name][voxel]]
        if claimants:
            labels[voxel] = SCHEME.names.index(claimants[0])
            conflicts.update((claimants[0], loser) for loser in claimants[1:])
    return labels, conflicts


@given(st.permutations(SCHEME.names[1:]), st.integers(1, 5), seeds)
def test_overlay_agrees_with_its_slow_twin(names, num_masks, seed):
    rng = np.random.default_rng(seed)
    masks = {name: rng.random((3, 4, 5)) < 0.4 for name in names[:num_masks]}
    result = overlay(SCHEME, masks)
    labels, conflicts = overlay_voxel_by_voxel(masks)
    np.testing.assert_array_equal(result.labels, labels)
    assert result.labels.dtype == np.uint8
    assert result.conflicts == conflicts
    assert np.count_nonzero(result.labels) == np.count_nonzero(np.any(list(masks.values()), axis=0))


def test_target_wins_over_organ():
    lesion, organ = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    lesion[0, 0, 0] = True
    result = overlay(SCHEME, {"kidney": organ, "cyst": lesion})
    assert result.labels[0, 0, 0] == 2
    assert np.count_nonzero(result.labels == 3) == 7
    assert result.conflicts == {("cyst", "kidney"): 1}


def test_overlay_needs_masks_of_one_shape():
    with pytest.raises(GeometryError, match=r"one shape, got \[\(1, 1, 1\), \(1, 1, 2\)\]"):
        overlay(SCHEME, {"cyst": np.ones((1, 1, 1), bool), "liver": np.ones((1, 1, 2), bool)})
    with pytest.raises(GeometryError, match="got no mask"):
        overlay(SCHEME, {})


@pytest.mark.parametrize(("name", "message"), [("lung", "'lung' is not in the scheme"), ("background", "no mask is")])
def test_overlay_takes_targets_and_auxiliaries_only(name, message):
    with pytest.raises(LabelError, match=message):
        overlay(SCHEME, {name: np.ones((1, 1, 1), bool)})


def test_scheme_numbers_targets_first():
    assert SCHEME.names == ("background", "tumour", "cyst", "kidney", "liver", "heart")
    assert (SCHEME.num_targets, SCHEME.num_classes, SCHEME.index("kidney")) == (2, 6, 3)
    assert SCHEME.indices(["heart", "tumour"]) == (5, 1)


@pytest.mark.parametrize(
    ("targets", "auxiliaries", "message"),
    [
        ((), ("liver",), "needs at least one target"),
        (("cyst", " "), (), "must not be empty"),
        (("cyst",), ("cyst",), "class 'cyst' is named 2 times"),
        (("background",), (), "class 'background' is named 2 times"),
    ],
)
def test_scheme_refuses(targets, auxiliaries, message):
    with pytest.raises(LabelError, match=message):
        LabelScheme(targets, auxiliaries)
