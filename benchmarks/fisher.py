"""The closed forms of Fisher information against the memory traffic that they cannot avoid.

Run:  OMP_NUM_THREADS=1 python benchmarks/fisher.py

One read and one write of the probabilities (`np.copyto`) is the unit; the runs are interleaved, medians are printed.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from backsplit.labels import identity, to_target
from backsplit.theory import information, lost_trace, missing_information

SHAPE, NUM_FINE, ROUNDS = (128, 128, 128), 10, 7


def main() -> None:
    """Print seconds and ratios."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (NUM_FINE, *SHAPE)).astype(np.float32)
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    copy, binary = np.empty_like(p), to_target(num_targets=1, num_fine=NUM_FINE)
    works: dict[str, Callable[[], object]] = {
        "one read, one write": lambda: np.copyto(copy, p),
        "map of lost information": lambda: lost_trace(p, binary),
        "missing information": lambda: missing_information(p, binary),
        "fine information": lambda: information(p, identity(NUM_FINE)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    unit = median(seconds["one read, one write"])
    for name, each in seconds.items():
        print(f"{name}: {1000 * median(each):.1f} ms, {median(each) / unit:.2f}x")


if __name__ == "__main__":
    main()
