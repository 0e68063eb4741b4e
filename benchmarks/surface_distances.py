"""HD95 and NSD of one small lesion in a CT-sized volume: BackSplit beside DeepMind's surface-distance, in one run.

Run: python benchmarks/surface_distances.py
"""

import time
import warnings
from collections.abc import Callable

import numpy as np
from surface_distance import metrics

from backsplit.evaluation import hausdorff_mm, normalised_surface_dice, surface_distances

SHAPE = (256, 256, 128)
SPACING_MM = (0.8, 0.8, 3.0)
TOLERANCE_MM = 2.0


def ball(centre: tuple[int, int, int], *, diameter_voxels: int) -> np.ndarray:
    """Mask of a ball in voxel units."""
    squares = [
        (np.arange(length) - middle).reshape([-1 if axis == here else 1 for here in range(3)]) ** 2
        for axis, (length, middle) in enumerate(zip(SHAPE, centre, strict=True))
    ]
    return squares[0] + squares[1] + squares[2] <= (diameter_voxels / 2) ** 2


def ours(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """HD95 in mm and NSD by BackSplit."""
    surfaces = surface_distances(prediction, reference, spacing_mm=SPACING_MM)
    return hausdorff_mm(surfaces, percentile=95.0), normalised_surface_dice(surfaces, tolerance_mm=TOLERANCE_MM)


def deepmind(prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """HD95 in mm and NSD by DeepMind's package."""
    surfaces = metrics.compute_surface_distances(reference, prediction, SPACING_MM)
    return (
        metrics.compute_robust_hausdorff(surfaces, 95.0),
        metrics.compute_surface_dice_at_tolerance(surfaces, TOLERANCE_MM),
    )


def best_ms(score: Callable[[], tuple[float, float]], *, repeats: int = 9) -> float:
    """Shortest of several runs, in ms."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        score()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def main() -> None:
    """Score a lesion against itself shifted, and against itself with a false positive far away."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"surface_distance\.metrics")
    reference = ball((128, 128, 64), diameter_voxels=15)
    shifted = ball((130, 129, 65), diameter_voxels=15)
    for name, prediction in {"shifted": shifted, "far": shifted | ball((40, 60, 20), diameter_voxels=5)}.items():
        scores, expected = ours(prediction, reference), deepmind(prediction, reference)
        np.testing.assert_allclose(scores, expected, atol=1e-6)
        mine, theirs = (
            best_ms(lambda p=prediction: ours(p, reference)),
            best_ms(lambda p=prediction: deepmind(p, reference)),
        )
        print(f"{name:8} HD95 {scores[0]:.3f} mm, NSD {scores[1]:.4f}: ", end="")
        print(f"BackSplit {mine:.1f} ms, DeepMind {theirs:.1f} ms, ratio {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
