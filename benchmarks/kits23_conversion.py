"""Converting KiTS23 against only reading its label maps, and the memory that it takes.

Run:  OMP_NUM_THREADS=1 python benchmarks/kits23_conversion.py KITS23_LABELS

The label maps are laid out as the repository has them, each with a small file as its image; reading and converting
alternate, file by file in one process, and medians over the rounds are printed.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from backsplit.datasets.conversion import convert
from backsplit.datasets.kits23 import open_kits23
from backsplit.volume import Volume, read_grid, read_labels, write_volume

ROUNDS = 3


def lay_out(labels: Path, root: Path) -> list[Path]:
    """The repository's folders, with links to the label maps and images of zeros on their grids."""
    paths = []
    for path in sorted(labels.glob("case_*.nii.gz")):
        folder = root / "dataset" / path.name.removesuffix(".nii.gz")
        folder.mkdir(parents=True)
        paths.append(folder / "segmentation.nii.gz")
        paths[-1].symlink_to(path.resolve())
        grid = read_grid(path)
        write_volume(Volume(np.zeros(grid.shape, np.uint8), grid), folder / "imaging.nii.gz")
    return paths


def main(labels: Path) -> None:
    """Print seconds, their ratio, and the peak memory of the process."""
    reading, converting = [], []
    with tempfile.TemporaryDirectory() as scratch:
        paths = lay_out(labels, Path(scratch))
        for number in range(ROUNDS):
            start = time.perf_counter()
            for path in paths:
                read_labels(path)
            reading.append(time.perf_counter() - start)
            start = time.perf_counter()
            convert(open_kits23(Path(scratch)), Path(scratch) / f"cohort{number}")
            converting.append(time.perf_counter() - start)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{len(paths)} cases, {ROUNDS} rounds")
    print(f"reading the label maps: {median(reading):.2f} s")
    print(f"converting: {median(converting):.2f} s, {median(converting) / median(reading):.2f}x")
    print(f"peak memory of the process: {peak_gb:.2f} GB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
