r"""Variance of the target's posterior at the border of lesions: the number that matters for segmentation.

With $I$ the information that the labels of a coarsening carry about the last layer, and $g = \nabla_W p_t$ at a voxel,
the posterior of a network that is fitted to $n$ labelled voxels has about the variance

$$\mathrm{Var}(\hat p_t) \approx g^\top (n I)^{-1} g,$$

the delta method. It is computed for $n = 1$ with a ridge, $g^\top (I + \rho\, \mathrm{Id})^{-1} g$, because $I$ is
singular: a softmax does not see a shift of all logits. The ridge is the same for all coarsenings of a comparison. So
finer labels never give a larger variance: $I_\mathrm{fine} - I_\mathrm{coarse}$ is positive semi-definite (Theorem 1),
and inverses turn that order round.

Source:
    Saluja et al., arXiv 2511.19394, Corollary 1; van der Vaart, Asymptotic Statistics, 1998, chapter 3. A ridge is a
    Gaussian prior on the weights.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import linalg

from backsplit.errors import ConfigurationError, LabelError

Matrix = Float[np.ndarray, "weights weights"]
RIDGE = 1e-3
"""Of the mean eigenvalue of the fine information."""
LEAST_SHARE = 1e-9
"""Of the information of all classes: a class below was never seen."""


def ridge_of(fine: Matrix, *, share: float = RIDGE) -> float:
    r"""$\rho$, a share of the mean eigenvalue of the fine information.

    Raises:
        ConfigurationError: a share that is not above 0.
    """
    if not 0 < share < np.inf:
        raise ConfigurationError(f"the ridge is a share of the mean eigenvalue, above 0; got {share}")
    return share * float(np.trace(fine)) / len(fine)


def target_variance(information: Matrix, gradients: Matrix, *, ridge: float) -> float:
    r"""Mean of $g^\top (I + \rho\, \mathrm{Id})^{-1} g$ over voxels.

    Args:
        information: $I$, mean over labelled voxels.
        gradients: mean of $g g^\top$ over the voxels in question.
        ridge: $\rho$, above 0; see `ridge_of`.

    Returns:
        Variance of the posterior from one labelled voxel; divide by their number, were they independent.

    Raises:
        LabelError: the information is singular even with the ridge.
    """
    try:
        factor = linalg.cho_factor(information + ridge * np.eye(len(information)))
    except linalg.LinAlgError as error:
        raise LabelError(
            f"the information is singular with a ridge of {ridge:g}, below its rounding; give a larger --ridge"
        ) from error
    return float(np.trace(linalg.cho_solve(factor, gradients)))


def check_classes(fine: Matrix, names: Sequence[str]) -> None:
    """Refuse a model that never takes a class for possible: nothing can be said about labels of it.

    Args:
        fine: information of fine labels about the last layer.
        names: of the classes.

    Raises:
        LabelError: names the class.
    """
    by_class = fine.diagonal().reshape(len(names), -1).sum(axis=1)
    unseen = [name for name, own in zip(names, by_class, strict=True) if not own > LEAST_SHARE * by_class.sum()]
    if unseen:
        raise LabelError(
            f"the information is singular: the model gives {', '.join(unseen)} no probability in any voxel of the "
            "cohort; take cases that show it, or a model that was trained longer"
        )
