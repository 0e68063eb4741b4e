r"""Level sets of the likelihoods of fine and of binary labels, around a trained network.

At voxels with probabilities $p$ the logits of two classes are moved, by $a$ the target's and by $b$ an auxiliary's. The
expected log-likelihood of fine labels then falls by $\log S - p_t a - p_o b$, with
$S = 1 + p_t (e^a - 1) + p_o (e^b - 1)$; that of binary labels by $\log S - p_t a - q \log(1 + p_o (e^b - 1) / q)$, with
$q$ the probability of all that is no target. Both are 0 where nothing is moved, the curvature there is the information.

Source:
    The picture is that of Saluja et al., arXiv 2511.19394, Fig. 2, for a network instead of an example.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from backsplit.report.palette import ARM_STYLES, LIGHT
from backsplit.report.plots import write_figure

REACH, NUM_STEPS, NUM_LEVELS = 3.0, 61, 5
Plane = Float[np.ndarray, "b a"]
Probabilities = Float[np.ndarray, "classes voxels"]


def write_level_sets(
    p: Probabilities,
    weights: Float[np.ndarray, " voxels"],
    *,
    target: tuple[int, str],
    other: tuple[int, str],
    path: Path,
) -> list[Path]:
    """Draw the level sets, at the same levels for both kinds of labels.

    Args:
        p: probabilities at some voxels, of one target, background 0 and auxiliaries.
        weights: how many voxels each stands for.
        target: index and name.
        other: index and name of the auxiliary whose logit is moved.
        path: file without its ending.

    Returns:
        The PNG and the SVG.
    """
    shifts = np.linspace(-REACH, REACH, NUM_STEPS)
    fine, binary = falls(p, weights, target[0], other[0], shifts)
    kinds: dict[str, tuple[Plane, str, Literal["solid", "dashed"]]] = {
        "fine labels": (fine, ARM_STYLES[1].on_light, "solid"),
        "binary labels": (binary, ARM_STYLES[0].on_light, "dashed"),
    }
    levels = fine.max() * np.linspace(0, 1, NUM_LEVELS + 1)[1:] ** 2

    def draw(axes: Axes) -> None:
        for values, colour, line in kinds.values():
            axes.contour(shifts, shifts, values, levels=levels, colors=colour, linestyles=line, linewidths=1.2)
        axes.plot(0, 0, "+", color=LIGHT.text)
        axes.set(xlabel=f"shift of the logit of {target[1]}", ylabel=f"shift of the logit of {other[1]}")
        axes.set_title(f"expected log-likelihood at the border of {target[1]}", fontsize=9)
        handles = [Line2D([], [], color=colour, linestyle=line) for _, colour, line in kinds.values()]
        axes.legend(handles, list(kinds), frameon=False, loc="lower left")

    return write_figure(draw, path)


def falls(
    p: Probabilities, weights: Float[np.ndarray, " voxels"], target: int, other: int, shifts: Float[np.ndarray, " a"]
) -> tuple[Plane, Plane]:
    """How far the expected log-likelihoods of fine and of binary labels fall, in nats, mean over voxels.

    Args:
        p: probabilities.
        weights: how many voxels each stands for.
        target: class whose logit moves along axis 1.
        other: class whose logit moves along axis 0.
        shifts: of the logits.
    """
    target_p, other_p, share = p[target], p[other], weights / weights.sum()
    rest = np.maximum(1 - target_p, np.finfo(p.dtype).tiny)
    fine, binary = np.zeros((2, len(shifts), len(shifts)))
    for row, b in enumerate(shifts):
        grown = other_p * np.expm1(b)
        in_rest = rest * np.log1p(grown / rest)
        for column, a in enumerate(shifts):
            common = np.log1p(target_p * np.expm1(a) + grown) - target_p * a
            fine[row, column] = share @ (common - other_p * b)
            binary[row, column] = share @ (common - in_rest)
    return fine, binary
