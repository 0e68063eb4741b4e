r"""Corollary 1 by simulation: softmax regression from fine and from coarse labels, and the variance of the target.

A fine class $k$ has the logit $o_k + a_{g(k)} \cdot x$. Which classes share weights is a coarsening $g$ of its own, and
the target's weights are 0, because a softmax does not see a shift of all logits. Features are fixed and labels are
drawn, so that the information of a sample is known exactly and the delta method has no error of its own:

$$\mathrm{Var}(\hat p_t(x)) \approx \nabla p_t^\top I^{-1} \nabla p_t, \quad
I = \sum_i \sum_c q_c(x_i)\, s_c(x_i)\, s_c(x_i)^\top.$$

Source:
    Saluja et al., arXiv 2511.19394, Corollary 1 and supplement A.6.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Integer

from backsplit.errors import ConfigurationError
from backsplit.labels import Coarsening

Features = Float[np.ndarray, "samples features"]
FineProbabilities = Float[np.ndarray, "samples fine"]
MAX_STEPS = 100
GRADIENT_TOLERANCE = 1e-7
"""Of the mean log-likelihood's gradient."""
LARGEST_WEIGHT = 30.0
"""Beyond, a maximum does not exist: the classes of the sample can be told apart perfectly."""


@dataclass(frozen=True)
class Regression:
    """A softmax regression whose truth is known.

    Raises:
        ConfigurationError: shapes that do not fit each other, or a target that shares its weights.
    """

    features: Features
    weights: Float[np.ndarray, "groups features"]
    """True weights of each group of fine classes but the target's, in the order of `shared`; all groups are free."""
    shared: Coarsening
    """Which fine classes have the same weights; group 0 is the target alone, with weights 0."""
    offsets: Float[np.ndarray, " fine"]
    """Known part of each logit."""

    def __post_init__(self) -> None:
        if self.shared.blocks[0] != (0,):
            raise ConfigurationError(f"fine class 0 is the target and shares its weights with none: {self.shared}")
        expected = (self.shared.num_coarse - 1, self.features.shape[1])
        if self.weights.shape != expected or self.offsets.shape != (self.shared.num_fine,):
            raise ConfigurationError(
                f"weights are {self.weights.shape}, expected {expected}; offsets {self.offsets.shape}, expected "
                f"{(self.shared.num_fine,)}"
            )

    @cached_property
    def truth(self) -> Float[np.ndarray, " parameters"]:
        """The weights, as one vector."""
        return self.weights.reshape(-1)

    def probabilities(self, parameters: Float[np.ndarray, " parameters"], features: Features) -> FineProbabilities:
        """Of each fine class, at any features."""
        weights = np.vstack([np.zeros(features.shape[1]), parameters.reshape(self.weights.shape)])
        logits = self.offsets + (features @ weights.T)[:, list(self.shared.parent)]
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def draw(self, generator: np.random.Generator) -> Integer[np.ndarray, " samples"]:
        """A fine label per sample, from the truth."""
        p = self.probabilities(self.truth, self.features)
        return (generator.random((len(p), 1)) > p.cumsum(axis=1)[:, :-1]).sum(axis=1)

    def information(self, coarsening: Coarsening) -> Float[np.ndarray, "parameters parameters"]:
        """Fisher information of the whole sample about the parameters, at the truth."""
        return self._scoring(self.truth, coarsening)[1]

    def predicted_variance(self, coarsening: Coarsening, at: Features) -> Float[np.ndarray, " at"]:
        """Variance of the estimated target probability at some features, by the delta method.

        Raises:
            ConfigurationError: labels of this coarsening do not determine the parameters.
        """
        information = self.information(coarsening)
        if np.linalg.cond(information) > 1e12:
            raise ConfigurationError(
                f"labels of {coarsening.num_coarse} classes do not determine the {self.truth.size} parameters: the "
                "information matrix is singular; give classes other weights, or let them share some"
            )
        gradient = self._target_gradient(at)
        return np.einsum("np,pq,nq->n", gradient, np.linalg.inv(information), gradient)

    def estimate(
        self, fine_labels: Integer[np.ndarray, " samples"], coarsening: Coarsening
    ) -> Float[np.ndarray, " parameters"] | None:
        """Maximum-likelihood parameters from coarse labels, by Fisher scoring from the truth; None if there are none.

        The likelihood of coarse labels may have several maxima (merged classes can change places); the one next to
        the truth is what Corollary 1 is about.
        """
        coarse = coarsening.of_labels(fine_labels)
        parameters = self.truth
        value = self._log_likelihood(parameters, coarse, coarsening)
        for _ in range(MAX_STEPS):
            scores, information = self._scoring(parameters, coarsening)
            gradient = scores[coarse, np.arange(coarse.size)].sum(axis=0)
            if np.abs(gradient).max() / coarse.size < GRADIENT_TOLERANCE:
                return parameters
            direction = np.linalg.lstsq(information, gradient, rcond=None)[0]
            for step in 0.5 ** np.arange(12):
                moved = parameters + step * direction
                moved_value = self._log_likelihood(moved, coarse, coarsening)
                if moved_value >= value:
                    break
            else:
                return parameters
            parameters, value = moved, moved_value
            if np.abs(parameters).max() > LARGEST_WEIGHT:
                return None
        return None

    def target_probability(
        self, parameters: Float[np.ndarray, " parameters"], at: Features
    ) -> Float[np.ndarray, " at"]:
        """Probability of the target at some features."""
        return self.probabilities(parameters, at)[:, 0]

    def _log_likelihood(
        self,
        parameters: Float[np.ndarray, " parameters"],
        coarse: Integer[np.ndarray, " samples"],
        coarsening: Coarsening,
    ) -> float:
        merged = coarsening.of_probabilities(self.probabilities(parameters, self.features).T)
        return float(np.log(np.maximum(merged[coarse, np.arange(coarse.size)], 1e-300)).sum())

    def _scoring(
        self, parameters: Float[np.ndarray, " parameters"], coarsening: Coarsening
    ) -> tuple[Float[np.ndarray, "coarse samples parameters"], Float[np.ndarray, "parameters parameters"]]:
        """Score of every coarse label at every sample, and the information, the mean of its square."""
        p = self.probabilities(parameters, self.features)
        scores, information = [], np.zeros((parameters.size,) * 2)
        for block in coarsening.blocks:
            inside = np.zeros_like(p)
            inside[:, list(block)] = p[:, list(block)]
            mass = inside.sum(axis=1, keepdims=True)
            score = self._to_parameters(inside / np.maximum(mass, 1e-300) - p, self.features)
            scores.append(score)
            information += (score * mass).T @ score
        return np.stack(scores), information

    def _target_gradient(self, at: Features) -> Float[np.ndarray, "at parameters"]:
        p = self.probabilities(self.truth, at)
        of_logits = p[:, :1] * (np.eye(p.shape[1])[0] - p)
        return self._to_parameters(of_logits, at)

    def _to_parameters(
        self, of_logits: Float[np.ndarray, "samples fine"], features: Features
    ) -> Float[np.ndarray, "samples parameters"]:
        """A gradient about the fine logits as one about the parameters."""
        by_group = np.stack([of_logits[:, list(block)].sum(axis=1) for block in self.shared.blocks[1:]], axis=1)
        return (by_group[:, :, None] * features[:, None, :]).reshape(len(features), -1)


@dataclass(frozen=True)
class Simulated:
    """Estimates of the target probability, from fine and coarse labels of the same samples."""

    fine: Float[np.ndarray, "repetitions at"]
    coarse: Float[np.ndarray, "repetitions at"]
    num_without_maximum: int
    """Samples that were left out, because the likelihood of their fine or coarse labels has no maximum."""


def simulate(
    regression: Regression, coarsening: Coarsening, at: Features, *, num_repetitions: int, seed: int
) -> Simulated:
    """Draw labels again and again, and estimate the target probability from fine and from coarse ones.

    Args:
        regression: the truth.
        coarsening: what the coarse annotator tells apart.
        at: features at which the target probability is estimated.
        num_repetitions: samples to draw.
        seed: of the labels.
    """
    generator = np.random.default_rng(seed)
    everything = Coarsening(tuple(range(coarsening.num_fine)))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(num_repetitions):
        labels = regression.draw(generator)
        fine, coarse = (regression.estimate(labels, kind) for kind in (everything, coarsening))
        if fine is not None and coarse is not None:
            found.append((regression.target_probability(fine, at), regression.target_probability(coarse, at)))
    shape = (len(found), len(at))
    fine_estimates, coarse_estimates = (np.array([pair[side] for pair in found]).reshape(shape) for side in (0, 1))
    return Simulated(fine_estimates, coarse_estimates, num_repetitions - len(found))
