"""Corollary 1: estimates, their information, and the delta method, on problems whose truth is known."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression

from backsplit.errors import ConfigurationError
from backsplit.labels import Coarsening, identity
from backsplit.theory import Regression, information, simulate

BINARY = Coarsening((0, 1, 1))
AT = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, -1.0]])


def problem(seed=0, num_samples=2000, shared=None, offsets=None, scale=2.0):
    generator = np.random.default_rng(seed)
    shared = shared or identity(3)
    features = np.c_[np.ones(num_samples), generator.normal(size=(num_samples, 2))]
    weights = generator.normal(0, scale, (shared.num_coarse - 1, 3))
    return Regression(features, weights, shared, np.zeros(shared.num_fine) if offsets is None else np.array(offsets))


@pytest.mark.parametrize("coarsening", [identity(3), BINARY, Coarsening((0, 0, 1))])
def test_score_is_the_gradient_of_the_likelihood(coarsening):
    regression = problem(num_samples=50)
    coarse = coarsening.of_labels(regression.draw(np.random.default_rng(1)))

    def value(parameters):
        return regression._log_likelihood(parameters, coarse, coarsening)

    def gradient(parameters):
        return regression._scoring(parameters, coarsening)[0][coarse, np.arange(coarse.size)].sum(axis=0)

    assert check_grad(value, gradient, regression.truth + 0.1) < 1e-3


@pytest.mark.parametrize("coarsening", [identity(3), BINARY])
def test_information_is_the_closed_form_carried_to_the_parameters(coarsening):
    regression = problem(num_samples=7)
    p = regression.probabilities(regression.truth, regression.features)
    expected = np.zeros((6, 6))
    for voxel, features in zip(p, regression.features, strict=True):
        of_logits = information(voxel, coarsening)[1:, 1:]  # the target's logit is fixed
        expected += np.kron(of_logits, np.outer(features, features))
    np.testing.assert_allclose(regression.information(coarsening), expected, atol=1e-12)


def test_estimate_is_that_of_scikit_learn():
    regression = problem()
    labels = regression.draw(np.random.default_rng(3))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, fit_intercept=False)
    model.fit(regression.features, labels)
    theirs = model.coef_[1:] - model.coef_[0]
    np.testing.assert_allclose(regression.estimate(labels, identity(3)), theirs.ravel(), atol=1e-4)


def test_draws_have_the_frequencies_of_the_truth():
    regression = problem(num_samples=40_000)
    shares = np.bincount(regression.draw(np.random.default_rng(0))) / 40_000
    expected = regression.probabilities(regression.truth, regression.features).mean(axis=0)
    np.testing.assert_allclose(shares, expected, atol=0.01)


@pytest.mark.parametrize("seed", range(10))
def test_fine_labels_never_predict_more_variance(seed):
    regression = problem(seed)
    fine, coarse = (regression.predicted_variance(kind, AT) for kind in (identity(3), BINARY))
    assert (fine <= coarse * (1 + 1e-9)).all()


def test_variance_is_what_the_delta_method_says():
    """150 repetitions: a variance has a relative standard error of 12 %; the bounds are four of them."""
    regression = problem(num_samples=4000)
    simulated = simulate(regression, BINARY, AT, num_repetitions=150, seed=0)
    for estimates, coarsening in ((simulated.fine, identity(3)), (simulated.coarse, BINARY)):
        ratio = estimates.var(axis=0, ddof=1) / regression.predicted_variance(coarsening, AT)
        assert (np.abs(ratio - 1) < 0.48).all()
    assert simulated.num_without_maximum == 0


def test_equality_where_merged_classes_share_their_weights():
    """Then nothing is unknown inside the merged block, and fine labels estimate no better."""
    regression = problem(shared=Coarsening((0, 1, 1)), offsets=(0.0, 0.5, -1.0))
    fine, coarse = (regression.predicted_variance(kind, AT) for kind in (identity(3), BINARY))
    np.testing.assert_allclose(fine, coarse, rtol=1e-9)
    labels = regression.draw(np.random.default_rng(0))
    np.testing.assert_allclose(regression.estimate(labels, identity(3)), regression.estimate(labels, BINARY), atol=1e-5)


def test_equality_with_two_classes():
    regression = problem(shared=identity(2))
    fine, coarse = (regression.predicted_variance(kind, AT) for kind in (identity(2), Coarsening((0, 1))))
    np.testing.assert_array_equal(fine, coarse)


def test_classes_that_no_label_tells_apart_are_refused():
    regression = problem()
    same = Regression(regression.features, np.tile(regression.weights[:1], (2, 1)), identity(3), np.zeros(3))
    with pytest.raises(ConfigurationError, match="do not determine the 6 parameters"):
        same.predicted_variance(BINARY, AT)


def test_a_sample_without_maximum_is_counted():
    simulated = simulate(problem(num_samples=12, scale=3.0), BINARY, AT, num_repetitions=20, seed=0)
    assert simulated.num_without_maximum > 0
    assert len(simulated.fine) == len(simulated.coarse) == 20 - simulated.num_without_maximum


def test_shapes_that_do_not_fit():
    with pytest.raises(ConfigurationError, match="weights are"):
        Regression(np.ones((4, 2)), np.ones((1, 2)), identity(3), np.zeros(3))
    with pytest.raises(ConfigurationError, match="fine class 0 is the target"):
        Regression(np.ones((4, 2)), np.ones((1, 2)), Coarsening((0, 0, 1)), np.zeros(3))
