"""Corollary 1 measured: variance of the target's probability, estimated from fine and from coarse labels.

Run:  OMP_NUM_THREADS=1 python benchmarks/efficiency_study.py docs/theory.md docs/efficiency.png
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from backsplit.files import write_text
from backsplit.labels import Coarsening, identity
from backsplit.theory import Regression, Simulated, simulate

mpl.use("Agg")
import matplotlib.pyplot as plt

NUM_PROBLEMS, NUM_SAMPLES, NUM_REPETITIONS = 12, 10_000, 600
NUM_RESAMPLES = 4000
CURVE = {100: 2000, 300: 2000, 1000: 2000, 10_000: 600, 100_000: 200}
"""Samples to repetitions."""
LARGEST_ERROR = 0.25
"""Standard error of a weight, predicted from coarse labels, above which a sample is not large for a problem."""
AT = np.array([[1.0, 0.5, -0.5]])


def problems() -> tuple[list[int], int]:
    """The first seeds whose sample is large, and how many were passed over; decided before anything is simulated."""
    accepted: list[int] = []
    seed = 0
    while len(accepted) < NUM_PROBLEMS:
        regression, coarsening = problem(seed, NUM_SAMPLES)
        variances = np.linalg.inv(regression.information(coarsening)).diagonal()
        if (variances > 0).all() and variances.max() <= LARGEST_ERROR**2:
            accepted.append(seed)
        seed += 1
    return accepted, seed - NUM_PROBLEMS


def problem(seed: int, num_samples: int) -> tuple[Regression, Coarsening]:
    """Three to five classes, three features one of which is constant, weights of a standard deviation of 1.5."""
    generator = np.random.default_rng(seed)
    num_fine = 3 + seed % 3
    weights = generator.normal(0, 1.5, (num_fine - 1, 3))
    features = np.c_[np.ones(num_samples), generator.normal(size=(num_samples, 2))]
    return Regression(features, weights, identity(num_fine), np.zeros(num_fine)), _binary(num_fine)


def imbalanced(num_samples: int) -> tuple[Regression, Coarsening]:
    """Three classes, the target in about 1 % of the samples."""
    features = np.c_[np.ones(num_samples), np.random.default_rng(0).normal(size=(num_samples, 2))]
    weights = np.array([[4.6, 1.0, 0.5], [4.0, -1.0, 1.0]])
    return Regression(features, weights, identity(3), np.zeros(3)), _binary(3)


def _binary(num_fine: int) -> Coarsening:
    return Coarsening((0,) + (1,) * (num_fine - 1))


def ratio_row(seed: int) -> dict[str, object]:
    """Predicted and simulated variance of fine labels over that of coarse ones, with an interval of the latter."""
    regression, coarsening = problem(seed, NUM_SAMPLES)
    simulated = simulate(regression, coarsening, AT, num_repetitions=NUM_REPETITIONS, seed=seed)
    fine, coarse = simulated.fine[:, 0], simulated.coarse[:, 0]
    picks = np.random.default_rng(seed).integers(0, len(fine), (NUM_RESAMPLES, len(fine)))
    ratios = fine[picks].var(axis=1, ddof=1) / coarse[picks].var(axis=1, ddof=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    predicted = _predicted(regression, identity(coarsening.num_fine)) / _predicted(regression, coarsening)
    return {
        "problem": seed,
        "classes": coarsening.num_fine,
        "predicted": f"{predicted:.3f}",
        "simulated": f"{fine.var(ddof=1) / coarse.var(ddof=1):.3f}",
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "inside": "yes" if low <= predicted <= high else "no",
        "without maximum": simulated.num_without_maximum,
    }


def _predicted(regression: Regression, coarsening: Coarsening) -> float:
    return float(regression.predicted_variance(coarsening, AT)[0])


def curve_row(regression: Regression, coarsening: Coarsening, num_repetitions: int) -> dict[str, float]:
    """Samples times mean squared error of the target's probability, simulated and predicted."""
    n = len(regression.features)
    simulated = simulate(regression, coarsening, AT, num_repetitions=num_repetitions, seed=n)
    truth = regression.target_probability(regression.truth, AT)[0]
    return {
        "samples": n,
        "fine": n * _mean_square(simulated, truth, "fine"),
        "coarse": n * _mean_square(simulated, truth, "coarse"),
        "fine, predicted": n * _predicted(regression, identity(coarsening.num_fine)),
        "coarse, predicted": n * _predicted(regression, coarsening),
        "without maximum": simulated.num_without_maximum,
        "repetitions": num_repetitions,
    }


def _mean_square(simulated: Simulated, truth: float, kind: str) -> float:
    estimates = simulated.fine if kind == "fine" else simulated.coarse
    return float(np.mean((estimates - truth) ** 2)) if len(estimates) else float("nan")


def draw(curves: dict[str, pd.DataFrame], path: Path) -> None:
    """Error against samples, both estimators, simulated (dots) and predicted (lines)."""
    figure, axes = plt.subplots(1, len(curves), figsize=(9, 3.6), layout="constrained")
    for axis, (title, curve) in zip(axes, curves.items(), strict=True):
        for kind, colour in (("fine", "#0072B2"), ("coarse", "#D55E00")):
            axis.loglog(curve["samples"], curve[kind], "o", color=colour, label=f"{kind} labels, simulated")
            axis.loglog(curve["samples"], curve[f"{kind}, predicted"], "-", color=colour, label="delta method")
        axis.set(xlabel="samples $n$", ylabel="$n$ x mean squared error of $p_{target}$", title=title)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def markdown(rows: pd.DataFrame) -> str:
    """A table of Markdown."""
    lines = [rows.columns, ["---"] * len(rows.columns), *rows.astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


TEXT = """# The theory, computed

## Corollary 1: does more information mean less variance?

Written by `benchmarks/efficiency_study.py`. Softmax regression with a known truth: labels are drawn, and the target's
probability at one point is estimated by maximum likelihood from all K classes (fine) and from target against rest
(coarse), both started at the truth. The ratio of the two variances against the delta method's, {num_samples} samples,
{num_repetitions} repetitions a problem, bootstrap intervals over repetitions. The delta method is about large samples:
random problems for which a weight's standard error from coarse labels would be above {largest_error} were passed over
before anything was simulated ({num_passed} of them).

{ratios}

{num_inside} of {num_problems} predictions lie inside their 95 % interval; with {num_problems} such intervals, one in
twenty is expected outside.

## How many samples that takes, and where it fails

Samples times mean squared error (so that a constant means the asymptotic rate). A sample whose likelihood has no
maximum, in either kind of labels, is left out and counted.

Problem {first}:

{curve}

The target in {rare:.1%} of the samples:

{rare_curve}

![Error against samples](efficiency.png)

With few samples, and the more so where the target is rare (supplement A.6), errors are far from what the corollary
predicts, and where coarse labels have a maximum at all is a matter of luck. A mean over the samples that have one
flatters: compare rows with few of the others.

What labels tell a trained network, and which variance that leaves the target: [information.md](information.md). What
computing it costs: [cost.md](cost.md).
"""


def main(text: Path, picture: Path) -> None:
    """Simulate, then write."""
    seeds, num_passed = problems()
    ratios = pd.DataFrame([ratio_row(seed) for seed in seeds])
    makers = {f"problem {seeds[0]}": lambda n: problem(seeds[0], n), "rare target": imbalanced}
    curves = {
        title: pd.DataFrame([curve_row(*make(n), repetitions) for n, repetitions in CURVE.items()])
        for title, make in makers.items()
    }
    draw(curves, picture)
    regression, _ = imbalanced(100_000)
    shown = [markdown(curve.map(lambda value: f"{value:.4g}")) for curve in curves.values()]
    numbers = {
        "num_samples": NUM_SAMPLES,
        "num_repetitions": NUM_REPETITIONS,
        "num_problems": NUM_PROBLEMS,
        "num_passed": num_passed,
        "largest_error": LARGEST_ERROR,
        "first": seeds[0],
        "num_inside": int((ratios["inside"] == "yes").sum()),
        "rare": float(regression.probabilities(regression.truth, regression.features)[:, 0].mean()),
    }
    write_text(TEXT.format(ratios=markdown(ratios), curve=shown[0], rare_curve=shown[1], **numbers), text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
