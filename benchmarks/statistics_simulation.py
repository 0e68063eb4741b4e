"""Do the intervals cover, and do the tests hold their level? By simulation, with the numbers of repetitions stated.

Run:  OMP_NUM_THREADS=1 python benchmarks/statistics_simulation.py docs/statistics.md
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from backsplit.evaluation.statistics import bootstrap_interval, permutation_p, wilcoxon_p
from backsplit.files import write_text

REPETITIONS = 2000
SIZES = (15, 20, 30, 60, 120)
LEVEL = 0.05


def skewed(generator: np.random.Generator, size: int) -> np.ndarray:
    """Differences with mean 0: three in ten are ties at 0, the others are a shifted, skewed beta distribution."""
    values = generator.beta(0.6, 2.4, size) - 0.2
    return np.where(generator.random(size) < 0.3, 0.0, values)


def symmetric(generator: np.random.Generator, size: int) -> np.ndarray:
    """Differences of two arms that are equally good: many cases are missed by both, so that they tie at 0."""
    arms = np.where(generator.random((2, size)) < 0.4, 0.0, generator.beta(4, 2, (2, size)))
    return arms[0] - arms[1]


def coverage(size: int) -> dict[str, object]:
    """Share of 95 % intervals that hold the mean 0, and how often they lie wholly to one side of it."""
    generator = np.random.default_rng(size)
    limits = [bootstrap_interval(skewed(generator, size), seed=number)[:2] for number in range(REPETITIONS)]
    low, high = np.array(limits).T
    inside = np.mean((low <= 0) & (high >= 0))
    return {
        "cases": size,
        "covered": f"{inside:.3f}",
        "above 0": f"{np.mean(low > 0):.3f}",
        "below 0": f"{np.mean(high < 0):.3f}",
    }


def level(size: int) -> dict[str, object]:
    """Share of p-values below 0.05 between equal arms; one case in ten is undefined and left out."""
    generator = np.random.default_rng(1000 + size)
    found = []
    for number in range(REPETITIONS):
        differences = symmetric(generator, size)
        defined = differences[generator.random(size) > 0.1]
        found.append((wilcoxon_p(defined), permutation_p(defined, seed=number)))
    wilcoxon, permutation = (np.mean(np.array(found) < LEVEL, axis=0)).tolist()
    return {"cases": size, "Wilcoxon": f"{wilcoxon:.3f}", "permutation of signs": f"{permutation:.3f}"}


def markdown(rows: list[dict[str, object]]) -> str:
    """A table of Markdown."""
    table = pd.DataFrame(rows)
    lines = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


TEXT = """# Can the intervals and tests be trusted?

Written by `benchmarks/statistics_simulation.py`, {repetitions} repetitions a row: a share of 0.95 has a standard error
of 0.005 by that.

BCa bootstrap interval of the mean difference. Differences are skewed and three in ten are ties at 0, as Dice
differences of small lesions are; their mean is 0:

{coverage}

Two arms that are equally good; 40 % of the scores are 0, so many pairs tie, and one case in ten is undefined. Share of
p-values below 0.05:

{level}

{verdict}

Seeds and several cases of a patient are averaged before any of this, so that they narrow an interval only as far as
they make a difference more exact. The corrected p-values of a comparison are Holm's over all its rows.
"""


def verdict(rows: list[dict[str, object]]) -> str:
    """Which numbers of cases are enough."""
    short = [str(row["cases"]) for row in rows if float(str(row["covered"])) < 0.93]
    told = (
        f"With {' and '.join(short)} cases the intervals cover less than they say" if short else "The intervals cover"
    )
    return f"{told}, and `compare` says so in its notes." if short else f"{told} as they say at every size tried."


def main(path: Path) -> None:
    """Simulate, then write."""
    covered, levels = [coverage(size) for size in SIZES], [level(size) for size in SIZES]
    numbers = {"repetitions": REPETITIONS, "verdict": verdict(covered)}
    write_text(TEXT.format(coverage=markdown(covered), level=markdown(levels), **numbers), path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
