"""Scores of KiTS23 label maps: BackSplit beside DeepMind's surface-distance, MONAI and panoptica, and beside reading.

Run:  OMP_NUM_THREADS=1 python benchmarks/evaluation.py KITS23_LABELS

The prediction is the reference shifted by two voxels in plane; the third task scatters 200 false positives of a few
voxels over the image, so that bounding boxes do not help. HD95 and NSD are compared with DeepMind and MONAI, panoptic
quality with panoptica. Tools alternate, case by case; medians of ratios over cases.
"""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from panoptica import CCABackend, ConnectedComponentsInstanceApproximator, InputType, Metric, NaiveThresholdMatching
from panoptica import Panoptica_Evaluator as Panoptica
from panoptica.utils.citation_reminder import disable_citation_reminder
from surface_distance import metrics

from backsplit.evaluation import (
    Scoring,
    Subject,
    count_lesions,
    hausdorff_mm,
    lesion_scores,
    normalised_surface_dice,
    score_label_maps,
    surface_distances,
)
from backsplit.volume import Volume, read_labels, write_volume

SCORE_ONE = """
import sys
from pathlib import Path
from backsplit.evaluation import Scoring, Subject, score_label_maps
from backsplit.volume import read_labels


def peak_kib():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)

before = peak_kib()
first, second = (read_labels(Path(path)) for path in sys.argv[1:])
told = {"subject": Subject("arm", "0", "case", "argmax"), "spacing_mm": first.grid.spacing_mm}
score_label_maps(second.voxels, first.voxels, classes={1: "target"}, scoring=Scoring((2.0,)), **told)
print(peak_kib() - before)
"""
CASES = ("case_00050", "case_00129", "case_00147", "case_00417", "case_00475", "case_00512")
LARGE = "case_00114"
TOLERANCE_MM, NUM_FALSE = 2.0, 200
Spacing = tuple[float, float, float]
Tool = Callable[[np.ndarray, np.ndarray, Spacing], tuple[float, float] | float]
Masks = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
OURS = "BackSplit"


def ours(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> tuple[float, float]:
    """HD95 and NSD by BackSplit."""
    surfaces = surface_distances(prediction, reference, spacing_mm=spacing_mm)
    return hausdorff_mm(surfaces, percentile=95.0), normalised_surface_dice(surfaces, tolerance_mm=TOLERANCE_MM)


def deepmind(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> tuple[float, float]:
    """The same by DeepMind's package."""
    surfaces = metrics.compute_surface_distances(reference, prediction, spacing_mm)
    return (
        metrics.compute_robust_hausdorff(surfaces, 95.0),
        metrics.compute_surface_dice_at_tolerance(surfaces, TOLERANCE_MM),
    )


def monai(prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing) -> tuple[float, float]:
    """The same metrics by MONAI's own definition."""
    first, second = (torch.from_numpy(np.stack([~mask, mask])[None]).float() for mask in (prediction, reference))
    distance = compute_hausdorff_distance(first, second, percentile=95, spacing=spacing_mm)
    share = compute_surface_dice(first, second, class_thresholds=[TOLERANCE_MM], spacing=spacing_mm)
    return float(distance), float(share)


def panoptic(prediction: np.ndarray, reference: np.ndarray, _: Spacing) -> float:
    """Panoptic quality by BackSplit."""
    return float(lesion_scores(count_lesions(prediction, reference), voxel_ml=1.0)["panoptic_quality"])


def panoptica(prediction: np.ndarray, reference: np.ndarray, _: Spacing) -> float:
    """The same by panoptica, which matches at an IoU of 0.5 and above."""
    tool = Panoptica(
        InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(CCABackend.cc3d),
        instance_matcher=NaiveThresholdMatching(matching_threshold=0.5 + 1e-9),
        instance_metrics=[Metric.IOU],
        global_metrics=[],
    )
    return tool.evaluate(prediction.astype(np.uint8), reference.astype(np.uint8), verbose=False)["ungrouped"].pq


def scattered(reference: np.ndarray) -> np.ndarray:
    """A shifted copy with false positives of 2 x 2 x 2 voxels all over the image."""
    prediction, generator = np.roll(reference, 2, axis=1), np.random.default_rng(0)
    for corner in generator.integers(0, np.array(reference.shape) - 2, (NUM_FALSE, 3)):
        prediction[tuple(slice(start, start + 2) for start in corner)] = True
    return prediction


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(name: str, masks: Masks, labels: Path, tools: dict[str, Tool]) -> None:
    """Print a task's seconds and ratios; the first tool is ours, the first two give the same."""
    found: dict[str, list[float]] = {tool: [] for tool in tools}
    first, second = list(tools.values())[:2]
    for case in CASES:
        volume = read_labels(labels / f"{case}.nii.gz")
        given = (*masks(volume.voxels), volume.grid.spacing_mm)
        np.testing.assert_allclose(first(*given), second(*given), atol=1e-6)
        for tool, score in tools.items():
            found[tool].append(seconds(partial(score, *given)))
    mine = found[OURS]
    told = [f"{OURS} {1000 * median(mine):.0f} ms"]
    for tool in list(tools)[1:]:
        ratio = median(theirs / own for theirs, own in zip(found[tool], mine, strict=True))
        told.append(f"{tool} {1000 * median(found[tool]):.0f} ms ({ratio:.1f}x)")
    print(f"{name}: {', '.join(told)}", flush=True)


def whole_case(labels: Path) -> None:
    """Print what all scores of the cysts of a case cost, both files read, against only reading the two files."""
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            reference = labels / f"{case}.nii.gz"
            volume = read_labels(reference)
            keep = np.where(volume.voxels == 3, 3, 0).astype(np.uint8)
            prediction = Path(scratch) / f"{case}.nii.gz"
            write_volume(Volume(np.roll(keep, 2, axis=1), volume.grid), prediction)

            def read(reference: Path = reference, prediction: Path = prediction) -> list[Volume]:
                return [read_labels(reference), read_labels(prediction)]

            def score(read: Callable[[], list[Volume]] = read, case: str = case) -> None:
                first, second = read()
                score_label_maps(
                    second.voxels,
                    first.voxels,
                    subject=Subject("arm", "0", case, "argmax"),
                    classes={3: "cyst"},
                    spacing_mm=first.grid.spacing_mm,
                    scoring=Scoring((TOLERANCE_MM,)),
                )

            pairs = [(seconds(read), seconds(score)) for _ in range(3)]
            ratios.append(median(whole / alone for alone, whole in pairs))
    print(f"a whole case, cysts, both files read: {median(ratios):.2f}x reading them")


def print_memory(labels: Path) -> None:
    """Print what a process that scores one case needs at its peak beyond what it has once all is imported."""
    sizes = {case: read_labels(labels / f"{case}.nii.gz").voxels.size for case in CASES}
    for case, task in product((max(CASES, key=sizes.__getitem__), LARGE), ("cyst", "organ and 200 false positives")):
        volume = read_labels(labels / f"{case}.nii.gz")
        is_cyst = task == "cyst"
        reference = volume.voxels == 3 if is_cyst else volume.voxels > 0
        prediction = np.roll(reference, 2, axis=1) if is_cyst else scattered(reference)
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch) / f"{name}.nii.gz" for name in ("reference", "prediction")]
            for mask, file in zip((reference, prediction), files, strict=True):
                write_volume(Volume(mask.astype(np.uint8), volume.grid), file)
            told = subprocess.run(
                [sys.executable, "-c", SCORE_ONE, *map(str, files)], check=True, capture_output=True, text=True
            )
        size = volume.voxels.size
        print(f"peak memory, {task}: {1024 * float(told.stdout) / size:.1f} label volumes of {size / 1e6:.0f} MB")


def main(labels: Path) -> None:
    """Run all tasks."""
    warnings.filterwarnings("ignore")
    whole_case(labels)
    print_memory(labels)
    disable_citation_reminder()
    tasks: dict[str, Masks] = {
        "cyst": lambda voxels: (np.roll(voxels == 3, 2, axis=1), voxels == 3),
        "organ": lambda voxels: (np.roll(voxels > 0, 2, axis=1), voxels > 0),
        "organ and 200 false positives": lambda voxels: (scattered(voxels > 0), voxels > 0),
    }
    for name, masks in tasks.items():
        compare(name, masks, labels, {OURS: ours, "DeepMind": deepmind, "MONAI": monai})
        compare(f"{name}, panoptic quality", masks, labels, {OURS: panoptic, "panoptica": panoptica})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
