"""Laws of the information that labels carry: projection, order, chain, closed forms against enumeration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backsplit.errors import LabelError
from backsplit.labels import Coarsening, identity, to_target
from backsplit.theory import (
    coarse_score,
    fine_score,
    information,
    information_chain,
    lost_by_class,
    lost_by_pair,
    lost_trace,
    missing_information,
    spectrum,
)
from test_labels import chains, coarsenings, seeds

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def drawn(num_fine, seed, shape=(3, 2)):
    concentration = np.random.default_rng(seed).choice([0.3, 1.0, 5.0])
    return np.moveaxis(np.random.default_rng(seed).dirichlet(np.full(num_fine, concentration), shape), -1, 0)


def enumerated(p, coarsening):
    """Slow twin: the covariance of the score, label by label, of one voxel."""
    total = np.zeros((p.size, p.size))
    for coarse, block in enumerate(coarsening.blocks):
        score = coarse_score(p, coarse, coarsening)
        total += p[list(block)].sum() * np.outer(score, score)
    return total


def differentiated(p, coarsening):
    """Another: minus the expected second derivative of the log-likelihood, by differences of the score."""
    logits, step = np.log(p), 1e-6
    total = np.zeros((p.size, p.size))
    for coarse, block in enumerate(coarsening.blocks):
        for k in range(p.size):
            scores = []
            for sign in (1, -1):
                moved = logits + sign * step * np.eye(p.size)[k]
                scores.append(coarse_score(np.exp(moved) / np.exp(moved).sum(), coarse, coarsening))
            total[:, k] -= p[list(block)].sum() * (scores[0] - scores[1]) / (2 * step)
    return total


@given(coarsenings(), seeds)
def test_a_coarse_score_is_the_mean_of_fine_ones(coarsening, seed):
    p = drawn(coarsening.num_fine, seed, ())
    for coarse, block in enumerate(coarsening.blocks):
        inside = p[list(block)].sum()
        mean = sum(p[fine] / inside * fine_score(p, fine) for fine in block)
        np.testing.assert_allclose(coarse_score(p, coarse, coarsening), mean, atol=1e-12)


@given(coarsenings(), seeds)
def test_closed_form_is_the_enumerated_covariance_of_the_score(coarsening, seed):
    p = drawn(coarsening.num_fine, seed)
    voxels = p.reshape(p.shape[0], -1).T
    expected = np.mean([enumerated(voxel, coarsening) for voxel in voxels], axis=0)
    np.testing.assert_allclose(information(p, coarsening), expected, atol=1e-10)


@settings(max_examples=20)
@given(coarsenings(4), seeds)
def test_closed_form_is_the_expected_curvature(coarsening, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(4, 5.0))
    np.testing.assert_allclose(information(p, coarsening), differentiated(p, coarsening), atol=1e-6)


@given(chains(), seeds)
def test_coarser_labels_never_inform_more(chain, seed):
    inner, middle, outer = chain
    p = drawn(inner.num_fine, seed)
    for finer, coarser in ((identity(inner.num_fine), inner), (inner, middle @ inner), (inner, outer @ middle @ inner)):
        lost = missing_information(p, coarser, finer=finer)
        assert np.linalg.eigvalsh(lost).min() > -1e-12
        np.testing.assert_allclose(information(p, finer) - information(p, coarser), lost, atol=1e-12)


@given(chains(), seeds)
def test_steps_of_a_chain_add_up(chain, seed):
    inner, middle, outer = chain
    p = drawn(inner.num_fine, seed)
    steps = [identity(inner.num_fine), inner, middle @ inner, outer @ middle @ inner]
    total = sum(information_chain(p, steps))
    np.testing.assert_allclose(total, missing_information(p, steps[-1]), atol=1e-12)


@given(coarsenings(), seeds)
def test_missing_information_is_that_inside_the_blocks(coarsening, seed):
    """Proposition 1: a block is its mass times the fine information of the classes given the block."""
    p = drawn(coarsening.num_fine, seed, ())
    missing = missing_information(p, coarsening)
    expected = np.zeros_like(missing)
    for block in coarsening.blocks:
        inside = p[list(block)]
        given_block = inside / inside.sum()
        expected[np.ix_(block, block)] = inside.sum() * (np.diag(given_block) - np.outer(given_block, given_block))
    np.testing.assert_allclose(missing, expected, atol=1e-10)


@given(coarsenings(), seeds)
def test_map_classes_and_pairs_split_the_trace(coarsening, seed):
    p = drawn(coarsening.num_fine, seed)
    missing = missing_information(p, coarsening)
    lost = lost_trace(p, coarsening)
    assert lost.shape == p.shape[1:]
    assert (lost >= 0).all()
    np.testing.assert_allclose(lost.mean(), np.trace(missing), atol=1e-10)
    np.testing.assert_allclose(lost_by_class(missing).sum(), np.trace(missing), atol=1e-10)
    np.testing.assert_allclose(np.triu(lost_by_pair(missing)).sum(), np.trace(missing), atol=1e-10)
    np.testing.assert_allclose(spectrum(missing).sum(), np.trace(missing), atol=1e-10)


@given(coarsenings(), seeds)
def test_a_shift_of_all_logits_is_not_informed_about(coarsening, seed):
    np.testing.assert_allclose(information(drawn(coarsening.num_fine, seed), coarsening).sum(axis=0), 0, atol=1e-12)


@given(seeds, st.integers(1, 7))
def test_equality_where_nothing_is_merged(seed, num_fine):
    p = drawn(num_fine, seed)
    np.testing.assert_allclose(missing_information(p, identity(num_fine)), 0, atol=1e-15)
    two = drawn(2, seed)
    np.testing.assert_allclose(missing_information(two, to_target(num_targets=1, num_fine=2)), 0, atol=1e-15)


def test_equality_where_the_merged_class_has_no_probability():
    p = np.array([0.6, 0.4, 0.0])
    np.testing.assert_array_equal(missing_information(p, Coarsening((0, 1, 0))), np.zeros((3, 3)))
    assert lost_trace(p, Coarsening((0, 1, 0))) == 0


def test_by_hand():
    """Cyst 0.5; background 0.2 and kidney 0.3 merged: the missing trace is 2 * 0.2 * 0.3 / 0.5."""
    p = np.array([0.2, 0.5, 0.3])
    assert lost_trace(p, Coarsening((0, 1, 0))) == pytest.approx(0.24)
    assert lost_by_pair(missing_information(p, Coarsening((0, 1, 0))))[0, 2] == pytest.approx(0.24)


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float16, 2e-3), (np.float32, 1e-6)])
def test_narrow_types_agree(kind, tolerance):
    p, coarsening = drawn(5, 0, (40, 50, 60)), Coarsening((0, 1, 0, 2, 0))
    np.testing.assert_allclose(information(p.astype(kind), coarsening), information(p, coarsening), atol=tolerance)
    np.testing.assert_allclose(lost_trace(p.astype(kind), coarsening), lost_trace(p, coarsening), atol=tolerance)


@pytest.mark.parametrize(
    ("p", "parent", "told"),
    [
        (np.full((3, 2), 0.5), (0, 1, 0), "sum to 1.5, expected 1"),
        (np.full((3, 2), np.nan), (0, 1, 0), "sum to nan"),
        (np.full((2, 2), 0.5), (0, 1, 0), "of 2 classes, the coarsening is one of 3"),
        (np.full((2, 0), 0.5), (0, 1), "hold no voxel"),
    ],
)
@pytest.mark.parametrize("function", [information, lost_trace, missing_information])
def test_bad_probabilities(function, p, parent, told):
    with pytest.raises(LabelError, match=told):
        function(p, Coarsening(parent))


def test_coarsenings_that_do_not_follow_from_each_other():
    with pytest.raises(LabelError, match="tells apart what that one merges"):
        missing_information(drawn(3, 0), Coarsening((0, 1, 1)), finer=Coarsening((0, 0, 1)))
    with pytest.raises(LabelError, match="tells apart"):
        information_chain(drawn(3, 0), [Coarsening((0, 0, 1)), Coarsening((0, 1, 1))])
